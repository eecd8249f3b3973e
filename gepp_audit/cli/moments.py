"""Points in time as a person types them: a date, a moment, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

_AGO: Final = re.compile(r"([0-9]{1,6})\s*([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAYS: Final = {"today": 0, "yesterday": 1}

if TYPE_CHECKING:
    _MomentType = click.ParamType[datetime]
    _DayType = click.ParamType[date]
else:  # older versions of click have no generic one
    _MomentType = _DayType = click.ParamType


def _moment(text: str) -> datetime | None:
    """The moment that is meant, in UTC; None: not understood."""
    now = datetime.now(UTC)
    if text in _DAYS:
        return datetime(now.year, now.month, now.day, tzinfo=UTC) - timedelta(days=_DAYS[text])
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago.group(2)]: int(ago.group(1))})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


class Moment(_MomentType):
    """`2026-01-31`, `2026-01-31T12:00`, `today`, `yesterday`, or how long ago (`90m`, `12h`, `7d`, `2w`): UTC."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The aware datetime."""
        found = value if isinstance(value, datetime) else _moment(str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no date such as 2026-01-31, and no time ago such as 12h or 7d.", param, ctx)
        return found


class Day(_DayType):
    """The UTC day of a Moment."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """The date."""
        if isinstance(value, date):
            return value
        return MOMENT.convert(value, param, ctx).date()


MOMENT: Final = Moment()
DAY: Final = Day()
