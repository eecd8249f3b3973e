"""What calls used and cost, summed by day, organization or model: from the ledger, and from the sums of rolled-up days.

A call is counted on the UTC day on which it left, in one of the two places, never in both. One that never left this
machine is no use of anything. The sums mean the same in both, so that rolling a day up changes no figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Connection, Date, Text, and_, cast, func, literal, or_, select

from gepp_audit.database.json_functions import exact_sum
from gepp_audit.database.tables import calls, usage_daily
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import CallOutcome


class By(StrEnum):
    """What the sums are told by."""

    DAY = "day"
    ORGANIZATION = "organization"
    MODEL = "model"


#: a day, an organization's id, or a model's name
Key = date | int | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """UTC days, both of them included, and the organizations that are meant; none: all."""

    since: date
    until: date
    organizations: tuple[int, ...] = ()

    @property
    def begin(self) -> datetime:
        """Its first moment."""
        return datetime.combine(self.since, time(), UTC)

    @property
    def end(self) -> datetime:
        """The first moment after it."""
        return datetime.combine(min(self.until, date.max - timedelta(days=1)) + timedelta(days=1), time(), UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """What some calls used. Tokens that a provider did not tell count as none."""

    calls: int = 0
    #: those that brought no verdict; calls under way are not among them
    failed_calls: int = 0
    #: under way, or their fate is unknown
    open_calls: int = 0
    #: all of the input; cached and cache-write tokens lie inside
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    #: all of the output; reasoning tokens lie inside
    output_tokens: int = 0
    reasoning_tokens: int = 0
    #: calls that used tokens whose price is unknown: they are not in `cost`
    unpriced_calls: int = 0
    #: USD, exact
    cost: Decimal = Decimal(0)

    def __add__(self, other: Used) -> Used:
        """The sum of both."""
        return Used(**{name: getattr(self, name) + getattr(other, name) for name in Used.__dataclass_fields__})


def used(connection: Connection, by: By, period: Period) -> dict[Key, Used]:
    """What was used in the period, by key."""
    found: dict[Key, Used] = {}
    for source in (_in_ledger, _rolled_up):
        for row in connection.execute(source(connection, by, period)):
            key = _key(by, row.key)
            found[key] = found.get(key, Used()) + _of(row)
    return found


def left_within(period: Period) -> list[ColumnElement[bool]]:
    """The conditions that a call of the ledger left in the period."""
    conditions = [
        calls.c.dispatched_at >= literal(period.begin, UtcDateTime()),
        calls.c.dispatched_at < literal(period.end, UtcDateTime()),
    ]
    if period.organizations:
        conditions.append(calls.c.organization_id.in_(period.organizations))
    return conditions


def key_of_call(connection: Connection, by: By, call: Any = calls) -> ColumnElement[Any]:
    """What a call of the ledger is summed by, as SQL; `read_key` reads it."""
    if by is By.ORGANIZATION:
        return cast(call.c.organization_id, BigInteger)
    if by is By.MODEL:
        return func.coalesce(call.c.model_answered, call.c.model, type_=Text())
    if connection.dialect.name == "postgresql":
        return cast(func.timezone("UTC", call.c.dispatched_at), Date)
    return func.substr(call.c.dispatched_at, 1, 10, type_=Text())


def _key(by: By, value: Any) -> Key:
    if by is By.DAY:
        return value if isinstance(value, date) else date.fromisoformat(value)
    return int(value) if by is By.ORGANIZATION else str(value)


read_key: Final = _key

_TOLD: Final = (CallOutcome.VERDICT.value, CallOutcome.SUPERSEDED.value)
_TOKENS: Final = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def _in_ledger(connection: Connection, by: By, period: Period) -> Any:
    paid = or_(calls.c.input_tokens.is_not(None), calls.c.output_tokens.is_not(None))
    key = key_of_call(connection, by)
    grouped = (
        select(
            key.label("key"),
            func.count().label("calls"),
            func.count().filter(calls.c.outcome.not_in(_TOLD)).label("failed_calls"),
            func.count().filter(calls.c.outcome.is_(None)).label("open_calls"),
            *(_total(calls.c[name], name) for name in _TOKENS),
            func.count().filter(and_(paid, calls.c.cost.is_(None))).label("unpriced_calls"),
            exact_sum(connection, calls.c.cost).label("cost"),
        )
        .where(*left_within(period), calls.c.outcome.is_distinct_from(CallOutcome.RELEASED.value))
        .group_by(key)
    )
    return grouped


def _rolled_up(connection: Connection, by: By, period: Period) -> Any:
    key: ColumnElement[Any] = usage_daily.c[{By.ORGANIZATION: "organization_id"}.get(by, by.value)]
    statement = select(
        key.label("key"),
        *(_total(usage_daily.c[name], name) for name in ("calls", "failed_calls", *_TOKENS, "unpriced_calls")),
        literal(0).label("open_calls"),
        exact_sum(connection, usage_daily.c.cost).label("cost"),
    ).where(usage_daily.c.day >= period.since, usage_daily.c.day <= period.until)
    if period.organizations:
        statement = statement.where(usage_daily.c.organization_id.in_(period.organizations))
    return statement.group_by(key)


def _total(column: Any, name: str) -> ColumnElement[int]:
    return cast(func.coalesce(func.sum(column), 0), BigInteger).label(name)


def _of(row: Any) -> Used:
    names = [name for name in Used.__dataclass_fields__ if name != "cost"]
    return Used(**{name: getattr(row, name) for name in names}, cost=row.cost or Decimal(0))
