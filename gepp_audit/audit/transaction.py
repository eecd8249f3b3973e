"""What of a transaction is sent to the provider, and the digest by which an edit is noticed. Pure.

`to_payload` is the closed list: what it does not name never leaves. Numbers are exact decimal strings, a missing value
is None, never 0. `input_digest` covers everything an audit could see, whatever the setting sends.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from gepp_audit.audit.texts import encodable
from gepp_audit.model import Record, Transaction

#: fields that are sent only where a setting names them, in the order they are sent
EXTRA_FIELDS: Final = ("vehicle_info", "driver_info", "origin_coordinates", "destination_coordinates")

#: fields whose value is a number written as text: they compare by value, never as a part of a text
NUMBER_FIELDS: Final = frozenset(
    {"transaction_id", "weight_kg", "total_amount", "origin_quantity", "origin_weight_kg", "origin_price_per_unit"}
)

#: levels of free-form JSON that are sent; deeper ones are replaced by a remark
_DEEPEST: Final = 32
_TOO_DEEP: Final = "(nested too deeply to be shown)"


def to_payload(transaction: Transaction, extra_fields: frozenset[str]) -> dict[str, Any]:
    """The JSON object that is sent for `transaction`, its keys in a fixed order.

    Its `status` is not among them: where a verdict has set it, it would tell the next one what to find.

    `extra_fields`: names out of `EXTRA_FIELDS`; others are ignored, so that no setting can widen the list.
    Raises ValueError for a naive datetime.
    """
    payload: dict[str, Any] = {
        "transaction_id": str(transaction.id),
        "transaction_method": _text(transaction.transaction_method),
        "weight_kg": plain_decimal(transaction.weight_kg),
        "total_amount": plain_decimal(transaction.total_amount),
        "transaction_date": _utc(transaction.transaction_date),
        "arrival_date": _utc(transaction.arrival_date),
        "hazardous_level": transaction.hazardous_level,
        "treatment_method": _text(transaction.treatment_method),
        "disposal_method": _text(transaction.disposal_method),
        "notes": _text(transaction.notes),
        "images_not_shown": transaction.image_count,
    }
    for name in EXTRA_FIELDS:
        if name in extra_fields:
            payload[name] = _plain_json(getattr(transaction, name))
    payload["records"] = [_record(record) for record in transaction.records]
    return payload


def input_digest(transaction: Transaction) -> str:
    """SHA-256 (hex) over all of `transaction`: equal for equal values (6.250 and 6.25), different after any edit.

    The order of the records does not matter, nor which fields a setting sends.
    """
    whole = to_payload(transaction, frozenset(EXTRA_FIELDS))
    whole["organization_id"], whole["status"] = transaction.organization_id, _text(transaction.status)
    whole["records"].sort(key=_record_id)
    canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def plain_decimal(value: Decimal | None) -> str | None:
    """`value` exactly, without exponent and trailing zeros: 6.250 → "6.25", 1.5E+3 → "1500"; None stays None."""
    if value is None:
        return None
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _record(record: Record) -> dict[str, Any]:
    return {
        "record_id": record.id,
        "status": _text(record.status),
        "transaction_type": _text(record.transaction_type),
        "material": _text(record.main_material),
        "material_code": _text(record.main_material_code),
        "unit": _text(record.unit),
        "origin_quantity": plain_decimal(record.origin_quantity),
        "origin_weight_kg": plain_decimal(record.origin_weight_kg),
        "origin_price_per_unit": plain_decimal(record.origin_price_per_unit),
        "total_amount": plain_decimal(record.total_amount),
        "hazardous_level": record.hazardous_level,
        "treatment_method": _text(record.treatment_method),
        "disposal_method": _text(record.disposal_method),
        "notes": _text(record.notes),
        "images_not_shown": record.image_count,
    }


def _record_id(record: dict[str, Any]) -> int:
    id_: int = record["record_id"]
    return id_


def _text(value: str | None) -> str | None:
    return None if value is None else encodable(value)


def _utc(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("a naive datetime reached the audit; it has no meaning without its time zone")
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def _plain_json(value: Any, depth: int = 0) -> Any:
    """Free-form JSON of the platform as strict JSON: finite, encodable, and not endlessly deep."""
    if value is None or isinstance(value, bool | int):
        return value
    plain = _PLAIN.get(type(value))
    if plain is not None:
        return plain(value)
    if depth >= _DEEPEST:
        return _TOO_DEEP
    if isinstance(value, dict):
        return {encodable(str(key)): _plain_json(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_json(inner, depth + 1) for inner in value]
    return encodable(str(value))


def _plain_float(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {str: encodable, float: _plain_float, Decimal: plain_decimal}
