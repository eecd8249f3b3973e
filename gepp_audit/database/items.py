"""Steps 4 and 6 of the data's way: an item is claimed for one call, and settled by that call alone.

The protocol (fencing: Kleppmann, "How to do distributed locking", 2016):
1. A claim, under the mutex row, writes one ledger row per item and puts its id on the item as the fencing token
   `call_id`.
2. Every later write names that token; a write with an old one matches no row.
3. A lease that has ended makes the item ready again inside the next claim, but leaves the token: an answer that is only
   late is still taken. The next claim of the item overwrites the token, and from then on the late answer is superseded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    bindparam,
    case,
    func,
    literal,
    not_,
    select,
    union_all,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from gepp_audit.database.dispatching import (
    MOMENT,
    CallTerms,
    Reservation,
    dispatch,
    insert_calls,
    picked,
    reserved,
)
from gepp_audit.database.engine import opened_at
from gepp_audit.database.rows import Rows, among, kept
from gepp_audit.database.tables import IS_CALLING, IS_READY, IS_SUSPECT, SUSPECT_AFTER, batches, calls, items, own_item
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import REFUSALS, CallOutcome, Claim, ErrorCode, ItemState

__all__ = [
    "LEASE_SECONDS", "SUSPECT_AFTER", "CallTerms", "OpenBatch", "Reservation", "Suspect", "claim", "claim_probe",
    "claim_suspect", "count_open", "expire", "in_flight", "next_due", "next_suspect", "open_batches", "release_unknown",
]  # fmt: skip

#: the whole lease of a call by the default settings
LEASE_SECONDS: Final = 90.0
#: at this many crashes it is parked
PARKED_AT: Final = 3
PARKED_MESSAGE: Final = "Three runs died while they worked on this transaction; it is not asked again by itself."


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenBatch:
    """One batch with something to claim, as the schedule sees it."""

    audit_history_id: int
    organization_id: int
    started_at: datetime
    #: items that can be claimed now, counted up to the number asked for
    ready: int
    #: about how many tokens its rules take in each call; None: not known
    prompt_tokens: int | None = None


def expire(connection: Connection, moment: datetime) -> int:
    """Make the items whose lease has ended ready again, or park them at the third crash; returns how many.

    Items that a settle holds at this moment are skipped: their answer is being written.
    """
    found = connection.execute(_ended(connection), {"claim_moment": moment}).all()
    if not found:
        return 0
    keys = _KEYS.table(connection).c
    parked = items.c.crashes + 1 >= PARKED_AT
    connection.execute(
        update(items)
        .where(items.c.audit_history_id == keys.audit_history_id, items.c.transaction_id == keys.transaction_id)
        .values(
            crashes=items.c.crashes + 1,
            lease_until=None,
            available_at=moment,
            state=case((parked, ItemState.FAILED.value), else_=ItemState.READY.value),
            error_code=case((parked, ErrorCode.CRASHED.value), else_=items.c.error_code),
            error=case((parked, PARKED_MESSAGE), else_=items.c.error),
            settled_at=case((parked, moment), else_=items.c.settled_at),
        ),
        _KEYS.fill(connection, [dict(zip(_KEYS.columns, row, strict=False)) for row in found]),
    )
    connection.execute(
        update(calls)
        .where(among(connection, calls.c.id, [row.call_id for row in found]), calls.c.outcome.is_(None))
        .values(outcome=CallOutcome.EXPIRED.value)
    )
    return len(found)


_KEYS: Final = Rows("keys", audit_history_id=BigInteger(), transaction_id=BigInteger())
#: parameters of the kept statements below
_MOST: Final = bindparam("claim_most", type_=Integer())


@kept
def _ended(_connection: Connection) -> Select[Any]:
    return (
        select(items.c.audit_history_id, items.c.transaction_id, items.c.call_id)
        .where(IS_CALLING, items.c.lease_until < MOMENT)
        .with_for_update(skip_locked=True)
    )


def open_batches(
    connection: Connection, moment: datetime, most: int, organizations: Sequence[int] = ()
) -> list[OpenBatch]:
    """The batches with items that can be claimed now, suspects aside; each counted up to `most`, oldest first."""
    statement = _open_batches(connection)
    if organizations:
        statement = statement.where(batches.c.organization_id.in_(organizations))
    found = connection.execute(statement, {"claim_moment": moment, "claim_most": most})
    return [
        OpenBatch(
            audit_history_id=row.audit_history_id,
            organization_id=row.organization_id,
            started_at=row.started_at,
            ready=row.ready,
            prompt_tokens=row.prompt_tokens,
        )
        for row in found
        if row.ready
    ]


@kept
def _open_batches(_connection: Connection) -> Select[Any]:
    claimable = (
        select(literal(1).label("one"))
        .select_from(items)
        .where(*_claimable(batches.c.audit_history_id), items.c.crashes < SUSPECT_AFTER)
        .limit(_MOST)
        .correlate(batches)
        .subquery()
    )
    ready = select(func.count()).select_from(claimable).correlate(batches).scalar_subquery()
    return (
        select(
            batches.c.audit_history_id,
            batches.c.organization_id,
            batches.c.started_at,
            batches.c.prompt_tokens,
            ready.label("ready"),
        )
        .where(batches.c.closed_at.is_(None), batches.c.fanned_out_at.is_not(None))
        .order_by(batches.c.started_at, batches.c.audit_history_id)
    )


def _claimable(audit_history_id: Any) -> tuple[ColumnElement[bool], ...]:
    return items.c.audit_history_id == audit_history_id, IS_READY, items.c.available_at <= MOMENT


def count_open(connection: Connection, organizations: Sequence[int] = ()) -> int:
    """How many items wait for a call or are asked, over all open batches."""
    # batch by batch: as so large a share of all items, the ready ones would be looked for in the whole table
    ready = (
        select(func.count()).select_from(items).where(items.c.audit_history_id == batches.c.audit_history_id, IS_READY)
    )
    waiting = select(func.sum(ready.correlate(batches).scalar_subquery())).where(batches.c.closed_at.is_(None))
    asked = select(func.count()).select_from(items).where(IS_CALLING)
    if organizations:
        waiting = waiting.where(batches.c.organization_id.in_(organizations))
        asked = asked.where(items.c.organization_id.in_(organizations))
    return int(connection.execute(waiting).scalar_one() or 0) + int(connection.execute(asked).scalar_one())


def in_flight(connection: Connection, lease_seconds: float = LEASE_SECONDS) -> dict[int, int]:
    """How many calls are under way over all hosts, by organization.

    A call whose item was taken from it (its batch was withdrawn or given up) is still under way at the provider: it
    counts until its end is noted, or until it is older than `lease_seconds`, when it cannot be under way any more.
    """
    since = opened_at(connection) - timedelta(seconds=lease_seconds)
    return {row[0]: row[1] for row in connection.execute(_in_flight(connection), {"flight_since": since})}


@kept
def _in_flight(_connection: Connection) -> Select[Any]:
    orphaned = select(calls.c.organization_id).where(
        calls.c.outcome.is_(None), calls.c.dispatched_at > bindparam("flight_since", type_=UtcDateTime()), ~own_item()
    )
    both = union_all(select(items.c.organization_id).where(IS_CALLING), orphaned).subquery("under_way")
    return select(both.c.organization_id, func.count()).group_by(both.c.organization_id)


_NO_RESERVATIONS: Final[Mapping[int, Reservation]] = {}


def claim(
    connection: Connection,
    chosen: Sequence[tuple[int, int]],
    terms: CallTerms,
    moment: datetime,
    reservations: Mapping[int, Reservation] = _NO_RESERVATIONS,
) -> list[Claim]:
    """Claim the next n items of each chosen batch (`chosen`: batch id, n), one ledger row per call.

    To be called under the mutex row (`limits.lock`). The calls leave as soon as the transaction has been committed.
    `reservations`: by batch, what each of its calls counts for in the limits until its end is known.
    """
    if not chosen:
        return []
    wanted: dict[str, Any] = {}
    for i, (batch, n) in enumerate(chosen):
        wanted |= {f"claim_batch_{i}": batch, f"claim_n_{i}": n} | reserved(reservations.get(batch), i)
    return dispatch(connection, _insert_next(len(chosen)), wanted, terms, moment)


@lru_cache(maxsize=128)
def _insert_next(parts: int) -> ReturningInsert[Any]:
    nexts = [
        picked(i)
        .where(*_claimable(bindparam(f"claim_batch_{i}", type_=BigInteger())), items.c.crashes < SUSPECT_AFTER)
        .order_by(items.c.available_at, items.c.crashes, items.c.transaction_id)
        .limit(bindparam(f"claim_n_{i}", type_=Integer()))
        # what a late answer, a withdrawal or an operator holds at this moment keeps nobody waiting for the mutex
        .with_for_update(skip_locked=True)
        .subquery()
        for i in range(parts)
    ]
    return insert_calls(union_all(*(select(part) for part in nexts)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """An item that crashed runs before."""

    batch: OpenBatch
    transaction_id: int


def claim_suspect(
    connection: Connection,
    suspect: Suspect,
    terms: CallTerms,
    moment: datetime,
    reservation: Reservation | None = None,
) -> list[Claim]:
    """Claim what `next_suspect` found, to be asked with no other call of this run under way."""
    chosen = (
        picked(0)
        .where(
            items.c.audit_history_id == suspect.batch.audit_history_id,
            items.c.transaction_id == suspect.transaction_id,
            IS_SUSPECT,
            items.c.available_at <= MOMENT,
        )
        .with_for_update(skip_locked=True)
    )
    return dispatch(connection, insert_calls(chosen), reserved(reservation), terms, moment)


def next_suspect(
    connection: Connection,
    moment: datetime,
    organizations: Sequence[int] = (),
    only: Collection[int] | None = None,
    without: Collection[int] = (),
) -> Suspect | None:
    """The suspect that was due first, by `moment`; of none of the organizations `without`, and `only` of these batches
    (None: of any). None: there is none.
    """
    columns = (batches.c.audit_history_id, batches.c.organization_id, batches.c.started_at, batches.c.prompt_tokens)
    statement = (
        select(items.c.transaction_id, *columns)
        .join(batches, batches.c.audit_history_id == items.c.audit_history_id)
        .where(batches.c.closed_at.is_(None), IS_SUSPECT, items.c.available_at <= MOMENT)
        .order_by(items.c.available_at)
        .limit(1)
    )
    if organizations:
        statement = statement.where(items.c.organization_id.in_(organizations))
    if only is not None:
        statement = statement.where(among(connection, items.c.audit_history_id, only))
    if without:
        statement = statement.where(not_(among(connection, items.c.organization_id, without)))
    row = connection.execute(statement, {"claim_moment": moment}).one_or_none()
    if row is None:
        return None
    found = dict(row._mapping)
    return Suspect(transaction_id=found.pop("transaction_id"), batch=OpenBatch(**found, ready=1))


def claim_probe(
    connection: Connection,
    audit_history_ids: Collection[int],
    terms: CallTerms,
    moment: datetime,
    reservation: Reservation | None = None,
) -> list[Claim]:
    """Claim one item of these batches to try whether the provider still refuses us: one that was not refused before, if
    there is any, else the one whose refusal is the oldest. The fault may lie in the item that was refused last.
    """
    refused = case((items.c.error_code.in_([code.value for code in REFUSALS]), 1), else_=0)
    statement = (
        picked(0)
        .where(
            among(connection, items.c.audit_history_id, audit_history_ids),
            IS_READY,
            items.c.available_at <= MOMENT,
            items.c.crashes < SUSPECT_AFTER,
        )
        .order_by(refused, items.c.available_at, items.c.audit_history_id, items.c.transaction_id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return dispatch(connection, insert_calls(statement), reserved(reservation), terms, moment)


def release_unknown(connection: Connection, run_id: str, known: Collection[int]) -> int:
    """Let go what this run claimed in a transaction whose commit succeeded without its hearing of it; returns how many.

    `known`: the calls that the run has under way.
    """
    of_run = select(calls.c.id).where(
        calls.c.run_id == run_id, calls.c.outcome.is_(None), not_(among(connection, calls.c.id, known))
    )
    lost = list(connection.execute(of_run).scalars())
    if lost:
        connection.execute(
            update(items)
            .where(IS_CALLING, among(connection, items.c.call_id, lost))
            .values(state=ItemState.READY.value, call_id=None, lease_until=None)
        )
        connection.execute(
            update(calls)
            .where(among(connection, calls.c.id, lost))
            .values(outcome=CallOutcome.RELEASED.value, reserved_tokens=0, reserved_cost=Decimal(0))
        )
    return len(lost)


def next_due(
    connection: Connection,
    organizations: Sequence[int] = (),
    only: Collection[int] | None = None,
    *,
    without: Collection[int] = (),
) -> datetime | None:
    """When the next waiting item of an open batch, or of `only` these, may be claimed; None: none waits.

    `without`: none of these organizations.
    """
    first = (
        select(func.min(items.c.available_at, type_=UtcDateTime()))
        .where(items.c.audit_history_id == batches.c.audit_history_id, IS_READY)
        .correlate(batches)
        .scalar_subquery()
    )
    statement = select(func.min(first, type_=UtcDateTime())).where(batches.c.closed_at.is_(None))
    if organizations:
        statement = statement.where(batches.c.organization_id.in_(organizations))
    if only is not None:
        statement = statement.where(among(connection, batches.c.audit_history_id, only))
    if without:
        statement = statement.where(not_(among(connection, batches.c.organization_id, without)))
    due: datetime | None = connection.execute(statement).scalar_one()
    return due
