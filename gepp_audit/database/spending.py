"""What a UTC day has cost, tokens and money, reservations of calls under way included: for the limits of the day.

A day is summed up piece by piece, since adding it up for each claim would take too long. Protocol of
`gepp_audit_spend`, every step of it behind the mutex:
1. a claim reads the day's row and adds what the ledger holds after `through_call`: few rows, found by their key
2. where these have become many, all calls before the oldest one that is still under way go into the row. They do not
   change any more, but for late answers to expired calls, which stay counted with their reservation
3. where the day has no row yet, `through_call` is the last call before the day
Nothing is written where no limit of the day is in force, and nothing by a settle: it corrects its ledger rows alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Connection, func, insert, literal_column, select, update

from gepp_audit.database.json_functions import exact_sum
from gepp_audit.database.limits import scope_of
from gepp_audit.database.tables import calls, spend
from gepp_audit.database.types import UtcDateTime

#: so many calls of the day are added up anew for each claim before they go into the day's row
_FOLD_AT: Final = 512
#: a call whose end was never noted, older than any lease, stays counted with its reservation
_FORGOTTEN: Final = timedelta(hours=6)
_NOTHING: Final = Decimal(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a UTC day has cost one scope, reservations of calls under way included."""

    tokens: int = 0
    cost: Decimal = _NOTHING
    #: the parts of the limits, in per cent, of whose use people were told
    warned_of_tokens: int = 0
    warned_of_cost: int = 0


NOTHING_SPENT: Final = Spent()


def counted_tokens() -> ColumnElement[int]:
    """The sum of what calls count for; rows of an older version hold no reservation."""
    took = func.coalesce(calls.c.input_tokens, 0) + func.coalesce(calls.c.output_tokens, 0)
    return func.coalesce(func.sum(func.coalesce(calls.c.reserved_tokens, took), type_=BigInteger()), 0)


@dataclass(kw_only=True, slots=True)
class _Sum:
    """A row of `gepp_audit_spend`, and what the ledger adds to it."""

    scope: str
    organization_id: int | None
    stored: bool
    through: int
    folded: Spent
    later: Spent = Spent()
    #: of all organizations: so many rows are read
    later_calls: int = 0


def today(
    connection: Connection, moment: datetime, wanted: Collection[int | None], *, write: bool = True
) -> dict[int | None, Spent]:
    """What the UTC day of `moment` has cost these organizations and (None) everybody.

    `write`: keep what was added up for the next one, which needs the mutex; False: read only.
    """
    day = moment.astimezone(UTC).date()
    sums = _stored(connection, day, wanted)
    _add_later(connection, day, sums)
    if write:
        _fold(connection, day, sums, moment)
    return {
        one.organization_id: replace(
            one.folded, tokens=one.folded.tokens + one.later.tokens, cost=one.folded.cost + one.later.cost
        )
        for one in sums
    }


def note_warned(
    connection: Connection, organization_id: int | None, moment: datetime, percent: int, *, of_cost: bool
) -> None:
    """People are told now that so much of the day's limit of tokens (`of_cost`: of money) is used; the row is there
    since `today` wrote it.
    """
    column = spend.c.cost_warned_at_percent if of_cost else spend.c.warned_at_percent
    connection.execute(
        update(spend)
        .where(spend.c.scope == scope_of(organization_id), spend.c.day == moment.astimezone(UTC).date())
        .values({column: percent})
    )


def day_ends(moment: datetime) -> datetime:
    """When the UTC day of `moment` is over."""
    return _begin(moment.astimezone(UTC).date() + timedelta(days=1))


def _begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _stored(connection: Connection, day: date, wanted: Collection[int | None]) -> list[_Sum]:
    scopes = {scope_of(id_): id_ for id_ in wanted}
    found = connection.execute(select(spend).where(spend.c.day == day, spend.c.scope.in_(scopes)))
    sums = [
        _Sum(
            scope=row.scope,
            organization_id=scopes[row.scope],
            stored=True,
            through=row.through_call,
            folded=Spent(
                tokens=row.tokens,
                cost=row.cost,
                warned_of_tokens=row.warned_at_percent,
                warned_of_cost=row.cost_warned_at_percent,
            ),
        )
        for row in found
    ]
    missing = scopes.keys() - {one.scope for one in sums}
    if missing:
        before = select(calls.c.id).where(calls.c.dispatched_at < _begin(day))
        last = connection.execute(before.order_by(calls.c.dispatched_at.desc(), calls.c.id.desc()).limit(1)).scalar()
        sums += [
            _Sum(scope=scope, organization_id=scopes[scope], stored=False, through=last or 0, folded=Spent())
            for scope in sorted(missing)
        ]
    return sums


def _add_later(connection: Connection, day: date, sums: Iterable[_Sum]) -> None:
    """Add what the ledger holds after each sum's last call: one query for all that go equally far, as most do."""
    by_end: dict[int, list[_Sum]] = {}
    for one in sums:
        by_end.setdefault(one.through, []).append(one)
    for through, equal in by_end.items():
        found = _between(connection, day, through, None)
        for one in equal:
            one.later = _of_scope(found, one.organization_id)
            one.later_calls = sum(count for count, _ in found.values())


def _of_scope(found: Mapping[int, tuple[int, Spent]], organization_id: int | None) -> Spent:
    """What calls of one organization or of all cost."""
    if organization_id is not None:
        return found[organization_id][1] if organization_id in found else Spent()
    return Spent(
        tokens=sum(spent.tokens for _, spent in found.values()),
        cost=sum((spent.cost for _, spent in found.values()), _NOTHING),
    )


def _between(connection: Connection, day: date, after: int, up_to: int | None) -> dict[int, tuple[int, Spent]]:
    """Calls of the day with ids after `after` up to `up_to`, by organization: how many, and what they count for."""
    begin = _begin(day)
    # an expression: by the column itself, SQLite would look through the whole day instead of what is new
    at = func.coalesce(calls.c.dispatched_at, begin, type_=UtcDateTime())
    statement = select(
        calls.c.organization_id,
        func.count().label("calls"),
        counted_tokens().label("tokens"),
        exact_sum(connection, func.coalesce(calls.c.reserved_cost, calls.c.cost, type_=calls.c.cost.type)).label(
            "cost"
        ),
    ).where(
        calls.c.id > after,
        at >= begin,
        at < begin + timedelta(days=1),
    )
    if up_to is not None:
        statement = statement.where(calls.c.id <= up_to)
    found = connection.execute(statement.group_by(calls.c.organization_id))
    return {row.organization_id: (row.calls, Spent(tokens=row.tokens, cost=row.cost or _NOTHING)) for row in found}


def _fold(connection: Connection, day: date, sums: Iterable[_Sum], moment: datetime) -> None:
    """Write the rows that are missing, and move what will not change any more into those that lag far behind."""
    ends: int | None = None
    found: dict[int, dict[int, tuple[int, Spent]]] = {}  # one query for all that go equally far
    for one in sums:
        if one.stored and one.later_calls < _FOLD_AT:
            continue
        if one.later_calls >= _FOLD_AT:
            ends = _last_ended(connection, moment) if ends is None else ends
            if one.through not in found:
                found[one.through] = _between(connection, day, one.through, ends)
            _move(one, ends, found[one.through])
        _write(connection, day, one)


def _move(one: _Sum, ends: int, found: Mapping[int, tuple[int, Spent]]) -> None:
    moved = _of_scope(found, one.organization_id)
    one.through = max(ends, one.through)
    one.folded = replace(one.folded, tokens=one.folded.tokens + moved.tokens, cost=one.folded.cost + moved.cost)
    one.later = Spent(tokens=one.later.tokens - moved.tokens, cost=one.later.cost - moved.cost)


def _last_ended(connection: Connection, moment: datetime) -> int:
    """The last call before the oldest one that is under way."""
    # expressions: by the columns themselves, SQLite would walk the ledger from its beginning or through hours of it
    call_id = calls.c.id + literal_column("0")
    at = func.coalesce(calls.c.dispatched_at, moment, type_=UtcDateTime())
    under_way = connection.execute(
        select(func.min(call_id)).where(calls.c.outcome.is_(None), at > moment - _FORGOTTEN)
    ).scalar()
    if under_way is not None:
        return int(under_way) - 1
    return int(connection.execute(select(func.max(calls.c.id))).scalar() or 0)


def _write(connection: Connection, day: date, one: _Sum) -> None:
    values = {"through_call": one.through, "tokens": one.folded.tokens, "cost": one.folded.cost}
    if one.stored:
        connection.execute(update(spend).where(spend.c.scope == one.scope, spend.c.day == day).values(values))
    else:
        connection.execute(insert(spend).values(values | {"scope": one.scope, "day": day}))
