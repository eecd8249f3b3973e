"""What the limits of the minute and of the day have used up: counted from the ledger, under the mutex of the claim.

A call leaves at most `SEND_WITHIN` seconds after its claim. The window of a minute therefore counts the claims of the
last 62 s: then no rolling 60 s of *departures* holds more than a limit allows, at 60/62 = 96.8 % of use. A call counts
with what was reserved for it until its end is known, then with what it took (`counted`); one that was released counts
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Integer,
    Select,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    update,
)

from gepp_audit.database.items import Reservation
from gepp_audit.database.limits import Caps
from gepp_audit.database.rows import among_later, ids_of, kept
from gepp_audit.database.spending import NOTHING_SPENT, Spent, counted_tokens, today
from gepp_audit.database.tables import calls
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import CallOutcome, ErrorCode, Usage

#: a claimed call that could not be sent within so many seconds is released
SEND_WITHIN: Final = 2.0
#: how far back the claims count whose departures may lie within one minute
WINDOW: Final = timedelta(seconds=60.0 + SEND_WITHIN)
_NOTHING: Final = Decimal(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """Calls that were claimed at one moment."""

    at: datetime
    calls: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What one scope has used."""

    #: the claims of the window, oldest first
    minute: tuple[Departure, ...] = ()
    in_flight: int = 0
    today: Spent = NOTHING_SPENT


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """What the latest calls of one organization tell."""

    last_call: int
    #: the largest input among them; None: none is known
    input_tokens: int | None


def counted(
    outcome: CallOutcome, *, sent: bool, error_code: ErrorCode | None, usage: Usage, cost: Decimal | None
) -> tuple[int | None, Decimal | None]:
    """Tokens and USD with which a call that has ended counts in the limits; None: with what was reserved.

    The reservation stays where nobody can say what the provider will bill: given up, timed out or cut off after it was
    sent, answered without a count, or of an unknown price. A refusal costs nothing.
    """
    if outcome is CallOutcome.RELEASED:
        return 0, _NOTHING
    if usage.input_tokens is not None and usage.output_tokens is not None:
        return usage.input_tokens + usage.output_tokens, cost
    if outcome in (CallOutcome.VERDICT, CallOutcome.ANSWER, CallOutcome.ABANDONED):
        return None, None
    if sent and error_code in (ErrorCode.TIMEOUT, ErrorCode.CONNECTION, ErrorCode.PROVIDER_UNAVAILABLE):
        return None, None
    return 0, _NOTHING


# -- the last minute ---------------------------------------------------------------------------------------------------


def minute(
    connection: Connection, moment: datetime, wanted: Collection[int | None]
) -> dict[int | None, tuple[Departure, ...]]:
    """The claims of the window before `moment`, of these organizations and (None) of everybody."""
    filled = {"window_from": moment - WINDOW}
    if None in wanted:
        found = connection.execute(_minute(connection), filled).all()
    else:
        ids = ids_of(connection, "window_of", [id_ for id_ in wanted if id_ is not None])
        found = connection.execute(_minute_of(connection), filled | ids).all()
    gathered: dict[int | None, list[Departure]] = {scope: [] for scope in wanted}
    for row in found:
        one = Departure(at=row.dispatched_at, calls=row.calls, tokens=row.tokens)
        for scope in (None, row.organization_id):
            if scope in gathered:
                gathered[scope].append(one)
    return {scope: tuple(departures) for scope, departures in gathered.items()}


def _departures() -> Select[Any]:
    # a bound moment, so that the index on dispatched_at is used; the outcome spelled, since NULL is under way
    return (
        select(
            calls.c.dispatched_at,
            calls.c.organization_id,
            func.count().label("calls"),
            counted_tokens().label("tokens"),
        )
        .where(
            calls.c.dispatched_at > bindparam("window_from", type_=UtcDateTime()),
            or_(calls.c.outcome.is_(None), calls.c.outcome != literal_column(f"'{CallOutcome.RELEASED.value}'")),
        )
        .group_by(calls.c.dispatched_at, calls.c.organization_id)
        .order_by(calls.c.dispatched_at)
    )


@kept
def _minute(_connection: Connection) -> Select[Any]:
    return _departures()


@kept
def _minute_of(connection: Connection) -> Select[Any]:
    return _departures().where(among_later(connection, calls.c.organization_id, "window_of"))


#: the newest end of the ledger that `recent` looks at
_NEWEST: Final = 1000


def recent(connection: Connection) -> dict[int, Recent]:
    """What the newest calls of the ledger tell of each organization among them: in whose turn they were, and how large
    its calls are.
    """
    found = connection.execute(_recent(connection))
    return {row.organization_id: Recent(last_call=row.last_call, input_tokens=row.input_tokens) for row in found}


@kept
def _recent(_connection: Connection) -> Select[Any]:
    newest = (
        select(calls.c.id, calls.c.organization_id, calls.c.input_tokens)
        .order_by(calls.c.id.desc())
        .limit(_NEWEST)
        .subquery("newest")
    )
    return select(
        newest.c.organization_id,
        func.max(newest.c.id).label("last_call"),
        func.max(newest.c.input_tokens, type_=Integer()).label("input_tokens"),
    ).group_by(newest.c.organization_id)


# -- all of it ---------------------------------------------------------------------------------------------------------


def use(
    connection: Connection,
    moment: datetime,
    caps: Mapping[int | None, Caps],
    in_flight: Mapping[int, int],
    *,
    write: bool = True,
) -> dict[int | None, Use]:
    """What each of these scopes has used, as far as its limits count it. `in_flight`: calls under way by organization.

    Costs nothing where there is no limit. `write`: see `spending.today`.
    """
    minutes = [scope for scope, one in caps.items() if one.of_the_minute]
    days = [scope for scope, one in caps.items() if one.of_the_day]
    departures = minute(connection, moment, minutes) if minutes else {}
    spent = today(connection, moment, days, write=write) if days else {}
    return {
        scope: Use(
            minute=departures.get(scope, ()),
            in_flight=sum(in_flight.values()) if scope is None else in_flight.get(scope, 0),
            today=spent.get(scope, NOTHING_SPENT),
        )
        for scope in caps
    }


# -- a call that is larger than was thought ----------------------------------------------------------------------------


def missing(connection: Connection, call_id: int, need: Reservation) -> Reservation:
    """What a call that takes `need` lacks beyond what it has reserved. A price that is unknown stays so."""
    row = connection.execute(select(calls.c.reserved_tokens, calls.c.reserved_cost).where(calls.c.id == call_id)).one()
    cost = None if need.cost is None else max(need.cost - (row.reserved_cost or _NOTHING), _NOTHING)
    return Reservation(tokens=max(need.tokens - (row.reserved_tokens or 0), 0), cost=cost)


def reserve(connection: Connection, call_id: int, need: Reservation) -> None:
    """Let a call that is under way count with `need` from now on."""
    connection.execute(
        update(calls)
        .where(calls.c.id == call_id, calls.c.outcome.is_(None))
        .values(reserved_tokens=need.tokens, reserved_cost=need.cost)
    )
