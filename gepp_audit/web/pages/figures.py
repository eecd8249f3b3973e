"""Figures, moments and shares as the pages show them. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from markupsafe import Markup

from gepp_audit.queue.wording import span

#: stands where nothing is known
UNKNOWN: Final = "–"
_SMALLEST: Final = Decimal("0.0001")


def number(value: int | None) -> str:
    """`12,345`."""
    return UNKNOWN if value is None else f"{value:,}"


def short(value: int | None) -> str:
    """`999`, `12.3k`, `4.5M`: enough to compare by."""
    if value is None:
        return UNKNOWN
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.1f}{unit}" if value < 100 * size else f"{value // size}{unit}"
    return str(value)


def money(value: Decimal | None) -> str:
    """`$12.34`, under a dollar `$0.0123`, under the last digit `< $0.0001`."""
    if value is None:
        return UNKNOWN
    if 0 < value < _SMALLEST:
        return f"< ${_SMALLEST}"
    digits = Decimal("0.01") if value >= 1 or value == 0 else _SMALLEST
    return f"${value.quantize(digits, rounding=ROUND_HALF_UP):,f}"


def length(value: timedelta | None) -> str:
    """`42 s`, `5 min`, `3 h 20 min`."""
    return UNKNOWN if value is None else span(value)


def moment(value: datetime | None, *, seconds: bool = False) -> str:
    """A `<time>` in UTC: `2026-01-31 12:00`."""
    if value is None:
        return UNKNOWN
    utc = value.astimezone(UTC)
    shown = utc.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}">{}</time>').format(utc.strftime("%Y-%m-%dT%H:%M:%SZ"), shown)


def day(value: date) -> str:
    """A `<time>` of a whole day."""
    return Markup('<time datetime="{0}">{0}</time>').format(value.isoformat())


def percent(part: int, whole: int) -> int:
    """Whole per cent, and 100 only where nothing is left."""
    if whole <= 0:
        return 100
    return min(100 * part // whole, 100)
