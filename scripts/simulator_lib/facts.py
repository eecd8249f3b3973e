"""What the rules of the simulator are written with: reading what was sent, quoting it, and the three outcomes. Pure.

Missing is missing: a value that is null, was not sent or cannot be read is None, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

Entry = Mapping[str, Any]
#: a piece of evidence as the answer's schema has it: record_id, field, value
Quote = dict[str, Any]

_DECIMAL: Final = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one rule. A passed one has no reason and quotes nothing."""

    outcome: str
    reason: str = ""
    evidence: tuple[Quote, ...] = ()


PASS: Final = Judgement("pass")


def fail(reason: str, *evidence: Quote) -> Judgement:
    """The rule is proven broken by what is quoted."""
    return Judgement("fail", reason, evidence)


def cannot_tell(reason: str, *evidence: Quote) -> Judgement:
    """Neither broken nor kept is proven."""
    return Judgement("cannot_tell", reason, evidence)


def quote(entry: Entry, *fields: str) -> tuple[Quote, ...]:
    """These fields of a record, or of the transaction, as they were sent; what was not sent cannot be quoted."""
    return tuple(
        {"record_id": entry.get("record_id"), "field": field, "value": _as_text(entry[field])}
        for field in fields
        if field in entry
    )


def records(transaction: Entry) -> list[Entry]:
    """The records of the transaction; what is none is left out."""
    found = transaction.get("records")
    return [record for record in found if isinstance(record, dict)] if isinstance(found, list) else []


def number(entry: Entry, field: str) -> Decimal | None:
    """A decimal or whole number, exact."""
    value = entry.get(field)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    return None


def text(entry: Entry, field: str) -> str | None:
    """A text; an empty one is missing."""
    value = entry.get(field)
    return value if isinstance(value, str) and value.strip() else None


def moment(entry: Entry, field: str) -> datetime | None:
    """A date and time with its zone."""
    value = entry.get(field)
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


def numbers(entries: list[Entry], field: str) -> Iterator[tuple[Entry, Decimal | None]]:
    """Each entry with its number in `field`."""
    return ((entry, number(entry, field)) for entry in entries)


def total(entries: list[Entry], field: str) -> Decimal | None:
    """The sum of `field`; None if it is missing in one entry."""
    result = Decimal(0)
    for entry in entries:
        value = number(entry, field)
        if value is None:
            return None
        result += value
    return result


def images(entry: Entry) -> int:
    """How many photos are attached; none of them is ever shown."""
    count = entry.get("images_not_shown")
    return count if isinstance(count, int) else 0


def _as_text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return str(len(value))
    return value if isinstance(value, str) else str(value)
