"""What audits used and cost in a period, and how often people decided otherwise: by day, organization or model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, timedelta
from decimal import Decimal
from functools import reduce
from operator import add
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit.database import usage as ledger
from gepp_audit.database.agreement import Agreement, agreement
from gepp_audit.database.engine import Database, now
from gepp_audit.database.platform import detect
from gepp_audit.database.usage import By, Key, Period, Used
from gepp_audit.errors import OperatorError
from gepp_audit.queue.known import require_organizations

#: days that are told of where no day is given, today included
DEFAULT_DAYS: Final = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageRow:
    """One line: what was used under `key`; None: all of them together."""

    key: Key | None
    used: Used
    agreement: Agreement

    @property
    def cache_hit_rate(self) -> float | None:
        """The part of the input that the provider's cache served; None: no input is known."""
        return self.used.cached_tokens / self.used.input_tokens if self.used.input_tokens else None

    @property
    def cost(self) -> Decimal | None:
        """USD of the calls whose price is known; None: none of them is."""
        return None if self.used.unpriced_calls and not self.used.cost else self.used.cost

    def as_json(self) -> dict[str, Any]:
        """Its figures."""
        used, people = self.used, self.agreement
        return {
            "calls": used.calls,
            "failed_calls": used.failed_calls,
            "open_calls": used.open_calls,
            "input_tokens": used.input_tokens,
            "cached_tokens": used.cached_tokens,
            "cache_write_tokens": used.cache_write_tokens,
            "output_tokens": used.output_tokens,
            "reasoning_tokens": used.reasoning_tokens,
            "total_tokens": used.input_tokens + used.output_tokens,
            "cache_hit_rate": _rounded(self.cache_hit_rate),
            "cost_usd": self.cost,
            "unpriced_calls": used.unpriced_calls,
            "audited_transactions": people.audited,
            "people_agreed": people.agreed,
            "people_rejected_approved": people.approvals_overruled,
            "people_approved_rejected": people.rejections_overruled,
            "people_decided_undecided": people.undecided_settled,
            "agreement_rate": _rounded(people.rate),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageReport:
    """The answer."""

    by: By
    period: Period
    #: days in order; organizations and models by their cost, the costliest first
    rows: tuple[UsageRow, ...]
    total: UsageRow

    def as_json(self) -> dict[str, Any]:
        """The contract of `usage --json`."""
        return {
            "by": self.by.value,
            "since": self.period.since.isoformat(),
            "until": self.period.until.isoformat(),
            "rows": [{self.key_name: key_text(row.key)} | row.as_json() for row in self.rows],
            "total": self.total.as_json(),
        }

    @property
    def key_name(self) -> str:
        """How the key is called in JSON and CSV."""
        return "organization_id" if self.by is By.ORGANIZATION else self.by.value


def usage(
    database: Database,
    by: By = By.DAY,
    *,
    since: date | None = None,
    until: date | None = None,
    organizations: tuple[int, ...] = (),
) -> UsageReport:
    """What was used from `since` to `until` (UTC days, both included; default: the last DEFAULT_DAYS up to today).

    OperatorError: a period that ends before it begins, or an organization that there is not.
    """
    return database.read(lambda connection: _report(connection, by, since, until, organizations))


def _report(
    connection: Connection, by: By, since: date | None, until: date | None, organizations: tuple[int, ...]
) -> UsageReport:
    require_organizations(connection, organizations)
    last = until or now(connection).astimezone(UTC).date()
    first = since or last - timedelta(days=DEFAULT_DAYS - 1)
    if first > last:
        raise OperatorError(
            f"the period ends ({last}) before it begins ({first}).",
            fix="Give --since a day that is not after --until.",
            code="empty_period",
            exit_code=2,
        )
    period = Period(since=first, until=last, organizations=organizations)
    found = ledger.used(connection, by, period)
    people = agreement(connection, detect(connection), by, period)
    rows = [
        UsageRow(key=key, used=found.get(key, Used()), agreement=people.get(key, Agreement()))
        for key in {**found, **people}
    ]
    rows.sort(key=lambda row: row.key if by is By.DAY else (-row.used.cost, -row.used.input_tokens, row.key))  # type: ignore[arg-type, return-value] # keys of one report are of one kind
    total = UsageRow(
        key=None,
        used=reduce(add, (row.used for row in rows), Used()),
        agreement=reduce(add, (row.agreement for row in rows), Agreement()),
    )
    return UsageReport(by=by, period=period, rows=tuple(rows), total=total)


def key_text(key: Key | None) -> int | str | None:
    """A key as JSON and CSV show it."""
    return key.isoformat() if isinstance(key, date) else key


def _rounded(part: float | None) -> float | None:
    return None if part is None else round(part, 4)
