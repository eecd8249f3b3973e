"""Steps 4 and 6 of the data's way: an item is claimed for one call, and settled by that call alone.

The protocol (fencing: Kleppmann, "How to do distributed locking", 2016):
1. A claim, under the mutex row, writes one ledger row per item and puts its id on the item as the fencing token
   `call_id`.
2. Every later write names that token; a write with an old one matches no row.
3. A lease that has ended makes the item ready again inside the next claim, but leaves the token: an answer that is only
   late is still taken. The next claim of the item overwrites the token, and from then on the late answer is superseded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Connection,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    not_,
    select,
    union_all,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from gepp_audit.database.rows import Rows, among, among_later, ids_of, kept
from gepp_audit.database.tables import IS_CALLING, IS_READY, batches, calls, items, state_is
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import CallOutcome, Claim, ErrorCode, ItemState

#: from this many crashes on, an item is suspect and claimed alone
SUSPECT_AFTER: Final = 2
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CallTerms:
    """What the ledger notes of every call of one claim."""

    run_id: str
    engine: str
    model: str
    prompt_version: str
    #: call timeout + margin, in seconds
    lease_seconds: float


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


_CODES: Final = frozenset(code.value for code in ErrorCode)
_KEYS: Final = Rows("keys", audit_history_id=BigInteger(), transaction_id=BigInteger())
#: parameters of the kept statements below
_MOMENT: Final = bindparam("claim_moment", type_=UtcDateTime())
_MOST: Final = bindparam("claim_most", type_=Integer())


@kept
def _ended(_connection: Connection) -> Select[Any]:
    return (
        select(items.c.audit_history_id, items.c.transaction_id, items.c.call_id)
        .where(IS_CALLING, items.c.lease_until < _MOMENT)
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
        select(batches.c.audit_history_id, batches.c.organization_id, batches.c.started_at, ready.label("ready"))
        .where(batches.c.closed_at.is_(None), batches.c.fanned_out_at.is_not(None))
        .order_by(batches.c.started_at, batches.c.audit_history_id)
    )


def _claimable(audit_history_id: Any) -> tuple[ColumnElement[bool], ...]:
    return items.c.audit_history_id == audit_history_id, IS_READY, items.c.available_at <= _MOMENT


def count_open(connection: Connection, organizations: Sequence[int] = ()) -> int:
    """How many items wait for a call or are asked, over all open batches."""
    statement = select(func.count()).where(state_is(ItemState.READY, ItemState.CALLING))
    if organizations:
        statement = statement.where(items.c.organization_id.in_(organizations))
    return int(connection.execute(statement).scalar_one())


def in_flight(connection: Connection) -> dict[int, int]:
    """How many calls are under way over all hosts, by organization."""
    return {row[0]: row[1] for row in connection.execute(_in_flight(connection))}


@kept
def _in_flight(_connection: Connection) -> Select[Any]:
    return select(items.c.organization_id, func.count()).where(IS_CALLING).group_by(items.c.organization_id)


def claim(connection: Connection, chosen: Sequence[tuple[int, int]], terms: CallTerms, moment: datetime) -> list[Claim]:
    """Claim the next n items of each chosen batch (`chosen`: batch id, n), one ledger row per call.

    To be called under the mutex row (`limits.lock`). The calls leave as soon as the transaction has been committed.
    """
    if not chosen:
        return []
    numbered = enumerate(chosen)
    wanted = {
        f"claim_{name}_{i}": value for i, pair in numbered for name, value in zip(("batch", "n"), pair, strict=True)
    }
    return _dispatch(connection, _insert_next(len(chosen)), wanted, terms, moment)


@lru_cache(maxsize=128)
def _insert_next(parts: int) -> ReturningInsert[Any]:
    nexts = [
        _picked()
        .where(*_claimable(bindparam(f"claim_batch_{i}", type_=BigInteger())), items.c.crashes < SUSPECT_AFTER)
        .order_by(items.c.crashes, items.c.transaction_id)
        .limit(bindparam(f"claim_n_{i}", type_=Integer()))
        .subquery()
        for i in range(parts)
    ]
    return _insert_calls(union_all(*(select(part) for part in nexts)))


def claim_suspect(
    connection: Connection,
    terms: CallTerms,
    moment: datetime,
    organizations: Sequence[int] = (),
    only: Collection[int] | None = None,
) -> list[Claim]:
    """Claim one item that crashed runs before, to be asked with no other call of this run under way; or none.

    `only`: of these batches; None: of any.
    """
    statement = (
        _picked()
        .join(batches, batches.c.audit_history_id == items.c.audit_history_id)
        .where(
            batches.c.closed_at.is_(None),
            *_claimable(batches.c.audit_history_id),
            items.c.crashes >= SUSPECT_AFTER,
        )
        .order_by(items.c.available_at)
        .limit(1)
    )
    if organizations:
        statement = statement.where(items.c.organization_id.in_(organizations))
    if only is not None:
        statement = statement.where(among(connection, items.c.audit_history_id, only))
    return _dispatch(connection, _insert_calls(statement), {}, terms, moment)


def _picked() -> Select[Any]:
    return select(items.c.audit_history_id, items.c.transaction_id, items.c.organization_id)


def _insert_calls(picked: Select[Any] | CompoundSelect[Any]) -> ReturningInsert[Any]:
    """The ledger rows of the picked items, before the items themselves are marked."""
    part = picked.subquery("picked")
    terms = {name: bindparam(f"claim_{name}", type_=Text()) for name in ("run_id", "engine", "model", "prompt_version")}
    picked_columns = {name: part.c[name] for name in ("audit_history_id", "transaction_id", "organization_id")}
    source = terms | {"dispatched_at": _MOMENT} | picked_columns | {"rules_digest": batches.c.rules_digest}
    return (
        insert(calls)
        .from_select(
            list(source),
            select(*source.values()).join_from(part, batches, batches.c.audit_history_id == part.c.audit_history_id),
        )
        .returning(calls.c.id)
    )


def _dispatch(
    connection: Connection,
    insert_calls: ReturningInsert[Any],
    wanted: dict[str, int],
    terms: CallTerms,
    moment: datetime,
) -> list[Claim]:
    told = {
        "claim_run_id": terms.run_id,
        "claim_engine": terms.engine,
        "claim_model": terms.model,
        "claim_prompt_version": terms.prompt_version,
        "claim_moment": moment,
    }
    call_ids = connection.execute(insert_calls, told | wanted).scalars().all()
    if not call_ids:
        return []
    lease_until = moment + timedelta(seconds=terms.lease_seconds)
    claimed = connection.execute(
        _mark_calling(connection), ids_of(connection, "claim_calls", call_ids) | {"claim_lease_until": lease_until}
    ).all()
    lost = set(call_ids) - {row.call_id for row in claimed}
    if lost:
        connection.execute(delete(calls).where(among(connection, calls.c.id, lost)))
    return [
        Claim(
            call_id=row.call_id,
            audit_history_id=row.audit_history_id,
            transaction_id=row.transaction_id,
            organization_id=row.organization_id,
            crashes=row.crashes,
            attempts=row.attempts,
            waits=row.waits,
            first_failed_at=row.first_failed_at,
            error_code=ErrorCode(row.error_code) if row.error_code in _CODES else None,
        )
        for row in claimed
    ]


@kept
def _mark_calling(connection: Connection) -> ReturningUpdate[Any]:
    return (
        update(items)
        .where(
            among_later(connection, calls.c.id, "claim_calls"),
            items.c.audit_history_id == calls.c.audit_history_id,
            items.c.transaction_id == calls.c.transaction_id,
            IS_READY,  # asked again under the row's lock: a late answer or a withdrawal may just have taken it
        )
        .values(
            state=ItemState.CALLING.value,
            call_id=calls.c.id,
            lease_until=bindparam("claim_lease_until", type_=UtcDateTime()),
        )
        .returning(
            items.c.call_id,
            items.c.audit_history_id,
            items.c.transaction_id,
            items.c.organization_id,
            items.c.crashes,
            items.c.attempts,
            items.c.waits,
            items.c.first_failed_at,
            items.c.error_code,
        )
    )


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
            update(calls).where(among(connection, calls.c.id, lost)).values(outcome=CallOutcome.RELEASED.value)
        )
    return len(lost)


def next_due(
    connection: Connection, organizations: Sequence[int] = (), only: Collection[int] | None = None
) -> datetime | None:
    """When the next waiting item of an open batch, or of `only` these, may be claimed; None: none waits."""
    statement = (
        select(func.min(items.c.available_at, type_=UtcDateTime()))
        .join(batches, batches.c.audit_history_id == items.c.audit_history_id)
        .where(IS_READY, batches.c.closed_at.is_(None))
    )
    if organizations:
        statement = statement.where(items.c.organization_id.in_(organizations))
    if only is not None:
        statement = statement.where(among(connection, items.c.audit_history_id, only))
    due: datetime | None = connection.execute(statement).scalar_one()
    return due
