"""A row of a file becomes a row of a table, or a list of what is wrong with each of its fields.

What a field may hold follows from its column: type, length, digits, NOT NULL. Pure: what only the whole import or the
database can tell (ids twice, organizations that do not exist) is `importing`'s. An absent field gets the column's
default. Decimals stay exact: more digits than the column keeps are refused, not rounded.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Integer, Numeric, String, Table, Text

from gepp_audit.database import platform_tables as tables
from gepp_audit.database.types import (
    AI_AUDIT_LABELS,
    RULE_TYPES,
    AuditStatus,
    ExactDecimal,
    JsonValue,
    NaiveUtcDateTime,
    RuleType,
    UtcDateTime,
)
from gepp_audit.queue.import_reading import (
    MATERIALS,
    ORGANIZATIONS,
    RECORDS,
    RULES,
    TRANSACTIONS,
    Problem,
    RawRow,
)

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.ASCII | re.IGNORECASE)
_TRUE: Final = frozenset({"true", "t", "yes", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "0"})
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of rows: its table, and what the columns do not say."""

    table: Table
    #: what a row is called in a message
    noun: str
    required: frozenset[str]
    #: of columns that are NOT NULL, or whose default the platform relies on
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: columns of the platform that an export has and an audit does not need
    ignored: frozenset[str] = frozenset()
    #: further checks by column, after the type's: they raise ValueError
    checks: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)


def _check_level(value: int) -> None:
    if not 0 <= value <= 5:
        raise ValueError("must be from 0 to 5")


def _check_not_negative(value: Decimal) -> None:
    if value < 0:
        raise ValueError("must not be negative")


def _check_not_queued(value: str) -> None:
    if value == "queued":
        raise ValueError('must not be queued: import it as null, then use "gepp-audit enqueue"')


def _check_list(value: Any) -> None:
    if not isinstance(value, list):
        raise ValueError("must be a list")


def _check_actions(value: Any) -> None:
    """A rule whose actions nobody understands would never reject: it is refused here."""
    _check_list(value)
    for action in value:
        if not isinstance(action, dict) or not all(isinstance(action.get(key), str) for key in ("type", "action")):
            raise ValueError('must be a list of {"type": "…", "action": "…"}')


KINDS: Final[Mapping[str, Kind]] = {
    ORGANIZATIONS: Kind(
        table=tables.organizations,
        noun="organization",
        required=frozenset({"id"}),
        defaults={"is_active": True, "allow_ai_audit": False},
        ignored=frozenset({"owner_id", "public_form_key", "created_date", "updated_date"}),
    ),
    MATERIALS: Kind(
        table=tables.main_materials,
        noun="material",
        required=frozenset({"id"}),
        ignored=frozenset({"is_active", "created_date", "updated_date", "deleted_date"}),
    ),
    RULES: Kind(
        table=tables.audit_rules,
        noun="rule",
        required=frozenset({"id", "rule_id", "rule_type", "rule_name"}),
        defaults={"is_active": True, "is_global": False, "actions": []},
        ignored=frozenset({"created_date", "updated_date"}),
        checks={"actions": _check_actions},
    ),
    TRANSACTIONS: Kind(
        table=tables.transactions,
        noun="transaction",
        required=frozenset({"id", "organization_id"}),
        defaults={
            "status": "pending",
            "ai_audit_status": "null",
            "is_user_audit": False,
            "transaction_method": "origin",
            "is_active": True,
            "reject_triggers": [],
            "warning_triggers": [],
        },
        ignored=frozenset({"origin_id", "created_by_id", "approved_by_id", "transaction_records"}),
        checks={
            "hazardous_level": _check_level,
            "weight_kg": _check_not_negative,
            "total_amount": _check_not_negative,
            "ai_audit_status": _check_not_queued,
            "images": _check_list,
            "reject_triggers": _check_list,
            "warning_triggers": _check_list,
        },
    ),
    RECORDS: Kind(
        table=tables.transaction_records,
        noun="record",
        required=frozenset({"id", "created_transaction_id", "main_material_id"}),
        defaults={
            "is_active": True,
            "images": [],
            "origin_quantity": Decimal(0),
            "origin_weight_kg": Decimal(0),
            "origin_price_per_unit": Decimal(0),
            "total_amount": Decimal(0),
        },
        ignored=frozenset({"material_id", "category_id", "created_by_id", "created_date", "updated_date"}),
        checks={"images": _check_list},
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedRow:
    """A row as its table takes it: every column has a value."""

    kind: str
    raw: RawRow
    values: Mapping[str, Any]
    #: a transaction's records that stand inside it; None: the file does not list them
    records: tuple[CheckedRow, ...] | None = None

    @property
    def id(self) -> int:
        """Its primary key."""
        id_: int = self.values["id"]
        return id_


def check(raw: RawRow, *, ignore_unknown: bool = False) -> tuple[CheckedRow | None, list[Problem]]:
    """The row for the table, and what is wrong with it; the row is None unless nothing is."""
    kind = KINDS[raw.kind]
    problems = _unknown_fields(raw, kind) if not ignore_unknown else []
    values = _values(raw, kind, problems)
    if raw.kind == RULES and not problems and not values["is_global"] and values["organization_id"] is None:
        problems.append(
            _problem(raw, "is_global", "a rule is global or belongs to an organization, or it never applies")
        )
    records = _check_records(raw, values.get("id"), ignore_unknown, problems)
    if problems:
        return None, problems
    return CheckedRow(kind=raw.kind, raw=raw, values=values, records=records), []


def _check_records(
    raw: RawRow, transaction_id: Any, ignore_unknown: bool, problems: list[Problem]
) -> tuple[CheckedRow, ...] | None:
    if raw.records is None:
        return None
    found: list[CheckedRow] = []
    for record in raw.records:
        named = record.values.get("created_transaction_id", transaction_id)
        owned = RawRow(
            kind=record.kind,
            file=record.file,
            line=record.line,
            values={**record.values, "created_transaction_id": transaction_id},
            lines=record.lines,
        )
        row, wrong = (None, []) if transaction_id is None else check(owned, ignore_unknown=ignore_unknown)
        if named != transaction_id:
            wrong.append(_problem(owned, "created_transaction_id", "is not the transaction that it stands in"))
        problems += wrong
        found += [row] if row is not None else []
    return tuple(found)


def _unknown_fields(raw: RawRow, kind: Kind) -> list[Problem]:
    known = set(kind.table.columns.keys())
    problems = []
    for name in raw.values:
        if name in known or name in kind.ignored:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; {close[0]} perhaps?" if close else ""
        wrong_shape = "must be a list of objects" if (raw.kind, name) == (TRANSACTIONS, "records") else None
        problems.append(_problem(raw, name, wrong_shape or f"is no field of this kind of row{hint}"))
    return problems


def _values(raw: RawRow, kind: Kind, problems: list[Problem]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column in kind.table.columns:
        name = column.name
        default = kind.defaults.get(name)
        given = raw.values.get(name)
        if given is None:
            values[name] = default
            explicit = name in raw.values and column.nullable is False and name != "ai_audit_status"
            if name in kind.required or explicit:
                problems.append(_problem(raw, name, "must be given" if name not in raw.values else "must not be null"))
            continue
        try:
            values[name] = _value(column, given, raw.from_csv)
            if name in kind.checks:
                kind.checks[name](values[name])
        except ValueError as error:
            values[name] = default
            problems.append(_problem(raw, name, str(error)))
    return values


def _problem(raw: RawRow, name: str, message: str) -> Problem:
    id_ = raw.values.get("id")
    noun = KINDS[raw.kind].noun
    subject = f"{noun} {id_}" if isinstance(id_, int | str) and len(str(id_)) <= 20 else noun
    return Problem(file=raw.file, line=raw.line_of(name), subject=f"{subject}: {name}", message=message)


# -- values --------------------------------------------------------------------------------------------------------


def _value(column: Column[Any], given: Any, from_csv: bool) -> Any:
    type_ = column.type
    if type_ is JsonValue:
        return _json_value(given, from_csv)
    if type_ is AuditStatus:
        return _one_of(given, AI_AUDIT_LABELS)
    if type_ is RuleType:
        return _one_of(given, RULE_TYPES)
    if isinstance(type_, Boolean):
        return _boolean(given, from_csv)
    if isinstance(type_, ExactDecimal):
        impl = type_.impl_instance
        assert isinstance(impl, Numeric)
        return _decimal(given, impl.precision or 0, impl.scale or 0)
    if isinstance(type_, Integer):
        is_id = column.name == "id" or column.name.endswith("_id")
        wide = isinstance(type_, BigInteger) or column.primary_key
        return _whole(given, from_csv, 1 if is_id else -(2**31), 2**63 - 1 if wide else 2**31 - 1)
    if isinstance(type_, UtcDateTime | NaiveUtcDateTime):
        return _moment(given, naive_is_utc=isinstance(type_, NaiveUtcDateTime))
    if isinstance(type_, String | Text):
        return _text(given, type_.length)
    raise TypeError(f"no parser for the column {column}")


def _whole(given: Any, from_csv: bool, least: int, most: int) -> int:
    if from_csv and isinstance(given, str) and _WHOLE.fullmatch(given.strip()):
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int):
        raise ValueError("must be a whole number")
    if not least <= given <= most:
        raise ValueError(f"must be from {least} to {most}")
    return given


def _decimal(given: Any, precision: int, scale: int) -> Decimal:
    if isinstance(given, str) and _DECIMAL.fullmatch(given.strip()):
        given = Decimal(given.strip())
    if isinstance(given, bool) or not isinstance(given, int | Decimal):
        raise ValueError("must be a number, or text such as 6.25")
    try:
        number = Decimal(given)
        kept = number.quantize(Decimal(1).scaleb(-scale)) if number.adjusted() < precision else None
    except InvalidOperation:
        kept = None
    if kept is None or abs(kept) >= Decimal(10) ** (precision - scale):
        raise ValueError(f"must have at most {precision - scale} digits before the point")
    if kept != number:
        raise ValueError(f"must have at most {scale} digits after the point")
    return kept


def _boolean(given: Any, from_csv: bool) -> bool:
    if from_csv and isinstance(given, str):
        word = given.strip().lower()
        given = True if word in _TRUE else False if word in _FALSE else given
    if not isinstance(given, bool):
        raise ValueError("must be true or false")
    return given


def _moment(given: Any, *, naive_is_utc: bool) -> datetime:
    if not isinstance(given, str):
        raise ValueError("must be text such as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(given.strip())
        if moment.tzinfo is None and naive_is_utc:
            moment = moment.replace(tzinfo=UTC)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("must be a date and time such as 2026-01-31T12:00:00Z") from error
    raise ValueError("must name its time zone, such as 2026-01-31T12:00:00Z")


def _text(given: Any, longest: int | None) -> str:
    if not isinstance(given, str):
        raise ValueError("must be text")
    if _UNSTORABLE.search(given):
        raise ValueError("holds a character that a database cannot keep")
    if longest is not None and len(given) > longest:
        raise ValueError(f"must have at most {longest} characters, has {len(given)}")
    return given


def _one_of(given: Any, labels: tuple[str, ...]) -> str:
    if given not in labels:
        raise ValueError(f"must be one of {', '.join(labels)}")
    return str(given)


def _json_value(given: Any, from_csv: bool) -> Any:
    if from_csv:
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise ValueError("must be JSON") from error
    return _storable(given)


def _storable(value: Any) -> Any:
    """`value` as both databases keep it: no decimals that only Python knows, no characters that jsonb refuses."""
    if isinstance(value, Decimal | float):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("holds a number that is too large")
        return number
    if isinstance(value, str):
        return _text(value, None)
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, dict):
        return {_text(key, None): _storable(inner) for key, inner in value.items()}
    return value
