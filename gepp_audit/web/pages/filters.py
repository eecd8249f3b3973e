"""What a list is narrowed by, read from its address. What cannot be read is left out; a date says so. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from urllib.parse import urlencode

from gepp_audit.database.history import BatchFilter
from gepp_audit.queue.showing import LineFilter

#: statuses that can be asked for, those of the platform
STATUSES: Final = ("in_progress", "pending", "completed", "failed", "cancelled", "undone")
#: what may have become of a transaction
VERDICTS: Final = ("approved", "rejected", "no_action", "failed", "skipped", "waiting", "calling")
_LARGEST: Final = 2**31 - 1
_LONGEST: Final = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class ListFilters:
    """Which batches are wanted."""

    status: str = ""
    #: UTC days, both included
    since: date | None = None
    until: date | None = None
    #: older than this batch
    before: int | None = None
    #: dates that are none
    wrong: tuple[str, ...] = ()

    @classmethod
    def read(cls, query: Mapping[str, str]) -> ListFilters:
        """From `?status=&from=&to=&before=`."""
        wrong: list[str] = []
        status = query.get("status", "")
        return cls(
            status=status if status in STATUSES else "",
            since=_day(query.get("from", ""), wrong),
            until=_day(query.get("to", ""), wrong),
            before=_id(query.get("before", "")),
            wrong=tuple(wrong),
        )

    @property
    def any(self) -> bool:
        """It leaves something out."""
        return bool(self.status or self.since or self.until)

    def wanted(self, organization_id: int) -> BatchFilter:
        """The same for the queue."""
        return BatchFilter(
            organizations=(organization_id,),
            statuses=(self.status,) if self.status else (),
            since=_midnight(self.since) if self.since else None,
            until=_midnight(self.until + timedelta(days=1)) if self.until else None,
            before=self.before,
            withdrawn=False,
        )

    def path(self, before: int | None = None) -> str:
        """The address of the same list, from its newest batch or behind the batch `before`."""
        values = {"status": self.status, "from": self.since, "to": self.until, "before": before}
        return _address("/history", values)


@dataclass(frozen=True, kw_only=True, slots=True)
class LineFilters:
    """Which transactions of a batch are wanted."""

    verdict: str = ""
    rule: str = ""
    #: behind this transaction
    after: int | None = None

    @classmethod
    def read(cls, query: Mapping[str, str]) -> LineFilters:
        """From `?verdict=&rule=&after=`."""
        verdict = query.get("verdict", "")
        return cls(
            verdict=verdict if verdict in VERDICTS else "",
            rule=query.get("rule", "")[:_LONGEST],
            after=_id(query.get("after", "")),
        )

    @property
    def any(self) -> bool:
        """It leaves something out."""
        return bool(self.verdict or self.rule)

    @property
    def wanted(self) -> LineFilter:
        """The same for the queue."""
        return LineFilter(
            verdicts=frozenset({self.verdict} if self.verdict else ()),
            rules=frozenset({self.rule} if self.rule else ()),
        )

    def path(self, batch: int, after: int | None = None) -> str:
        """The address of the same transactions, from the first or behind the transaction `after`."""
        return _address(f"/history/{batch}", {"verdict": self.verdict, "rule": self.rule, "after": after})


def _address(path: str, values: Mapping[str, object]) -> str:
    given = {name: str(value) for name, value in values.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


def _id(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    return min(int(text), _LARGEST) or None


def _day(text: str, wrong: list[str]) -> date | None:
    text = text.strip()
    if not text:
        return None
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or not 2000 <= found.year <= 2200:  # what a database cannot hold was never meant
        wrong.append(text[:_LONGEST])
        return None
    return found


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
