"""Step 7 of the data's way: settled verdicts go to the platform's transactions, never waiting on a lock of the
platform.

The protocol:
1. Batches with something to write back are locked (SKIP LOCKED), then their settled items: one publisher per batch over
   all hosts, and no late answer that changes an item between its reading and its writing.
2. Their transactions are locked FOR NO KEY UPDATE SKIP LOCKED; what the platform holds is published next time.
3. Under those locks each is looked at again: people win, and what was edited since it was shown is asked again.
4. Transactions, transaction_audits, our items and counters change in this one transaction (`written_back`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Row

from gepp_audit.database.engine import now
from gepp_audit.database.platform import Loaded, Platform, existing, load
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.rows import Rows, among_later, ids_of, kept
from gepp_audit.database.tables import IS_UNPUBLISHED, batches, calls, items, state_is
from gepp_audit.database.types import UtcDateTime
from gepp_audit.database.written_back import write
from gepp_audit.model import CallOutcome, ErrorCode, ItemState, SkipReason, Transaction

#: how often a transaction that changes while its call runs is asked again
MOST_EDITS: Final = 3
NOT_WRITABLE_MESSAGE: Final = (
    "The platform's database refuses to have this transaction changed (a constraint or trigger)."
)
#: what the platform holds is published so many seconds later at the earliest
LOCKED_SECONDS: Final = 1.0
EDITED_MESSAGE: Final = "The transaction was changed each time while it was audited."


@dataclass(slots=True)
class Published:
    """What one turn of publishing did, by transaction id."""

    #: with the status that was written
    written: dict[int, str] = field(default_factory=dict)
    #: changed while their call ran: ready again
    edited: list[int] = field(default_factory=list)
    skipped: dict[int, SkipReason] = field(default_factory=dict)
    #: held by the platform at this moment: next time
    locked: list[int] = field(default_factory=list)


#: an item: its batch and its transaction
Key = tuple[int, int]


def publish(
    connection: Connection,
    platform: Platform,
    digest: Callable[[Transaction], str],
    *,
    most: int = 500,
    only: Key | None = None,
) -> Published:
    """Write back up to `most` settled items of any run, or `only` this one. `digest`: what a call was shown of a
    transaction, as it stands now.
    """
    result = Published()
    waiting = _lock_unpublished(connection, most, only)
    if not waiting:
        return result
    moment = now(connection)
    loaded = load(connection, platform, [item.transaction_id for item in waiting], lock=True)
    absent = {item.transaction_id for item in waiting} - loaded.keys()
    gone = absent - existing(connection, absent) if absent else set()
    writable: list[Row[Any]] = []
    for item in waiting:
        _sort(item, loaded.get(item.transaction_id), item.transaction_id in gone, digest, result, writable)
    if writable:
        write(connection, platform, writable, moment)
    by_id = {item.transaction_id: item for item in waiting}
    _wait(connection, [by_id[id_] for id_ in result.locked], moment)
    _ask_again(connection, [by_id[id_] for id_ in result.edited], moment)
    _skip(connection, [(by_id[id_], reason) for id_, reason in result.skipped.items()], moment)
    return result


#: people did not withdraw the batch meanwhile: where they did, `batches.withdraw` skips what is left of it
_STILL_OPEN: Final = exists().where(
    history.c.id == items.c.audit_history_id, history.c.deleted_date.is_(None), history.c.status == IN_PROGRESS
)


#: parameters of the kept statements below
_MOMENT: Final = bindparam("publish_moment", type_=UtcDateTime())
_MOST: Final = bindparam("publish_most", type_=Integer())
_DUE: Final = and_(IS_UNPUBLISHED, items.c.available_at <= _MOMENT, _STILL_OPEN)
_ONLY: Final = and_(
    _DUE,
    items.c.audit_history_id == bindparam("publish_batch", type_=BigInteger()),
    items.c.transaction_id == bindparam("publish_transaction", type_=BigInteger()),
)


def _lock_unpublished(connection: Connection, most: int, only: Key | None = None) -> Sequence[Row[Any]]:
    one = only is not None
    wanted: dict[str, Any] = {"publish_moment": now(connection), "publish_most": most}
    if only is not None:
        wanted |= {"publish_batch": only[0], "publish_transaction": only[1]}
    ours = connection.execute(_lock_batches(connection, one), wanted).scalars().all()
    if not ours:
        return ()
    return connection.execute(_lock_items(connection, one), wanted | ids_of(connection, "publish_ours", ours)).all()


@kept
def _lock_batches(_connection: Connection, one: bool) -> Select[Any]:
    """The batches with something to write back; `one`: the batch of one named item."""
    some = select(items.c.audit_history_id).where(_ONLY if one else _DUE).limit(_MOST).subquery()
    return (
        select(batches.c.audit_history_id)
        .where(batches.c.audit_history_id.in_(select(some.c.audit_history_id)), batches.c.closed_at.is_(None))
        .order_by(batches.c.audit_history_id)
        .with_for_update(skip_locked=True)
    )


@kept
def _lock_items(connection: Connection, one: bool) -> Select[Any]:
    """Their settled items with what their calls took, or `one` that is named."""
    return (
        select(
            items,
            calls.c.input_tokens,
            calls.c.output_tokens,
            calls.c.cached_tokens,
            calls.c.latency_ms,
            func.coalesce(calls.c.model_answered, calls.c.model).label("model"),
        )
        .outerjoin_from(items, calls, calls.c.id == items.c.call_id)
        .where(
            _ONLY if one else _DUE,
            among_later(connection, items.c.audit_history_id, "publish_ours"),
            # a late answer may just now take a parked item: what was read must still stand when it is written back
            or_(state_is(ItemState.FAILED), _BROUGHT),
        )
        .order_by(items.c.audit_history_id, items.c.transaction_id)
        .limit(_MOST)
        .with_for_update(of=items, key_share=True, skip_locked=True)
    )


#: the ledger row is as new as the item: under the lock the item is read anew, and its call is not
_BROUGHT: Final = calls.c.outcome == CallOutcome.VERDICT.value


def first_waiting(connection: Connection) -> Key | None:
    """The item that a slice of one would write back; None: nothing waits."""
    keys = select(items.c.audit_history_id, items.c.transaction_id).where(_DUE)
    first = keys.order_by(items.c.audit_history_id, items.c.transaction_id).limit(1)
    row = connection.execute(first, {"publish_moment": now(connection)}).one_or_none()
    return None if row is None else (row.audit_history_id, row.transaction_id)


def give_up(connection: Connection, only: Key) -> bool:
    """Fail this settled item, whose transaction the platform refuses to have written. False: it does not wait any more,
    or is held: nothing was changed, so that a repeated giving up hits no other one.

    Its verdict, paid for, goes to the ledger.
    """
    waiting = _lock_unpublished(connection, 1, only)
    if not waiting:
        return False
    [item] = waiting
    if item.verdict is not None:
        connection.execute(update(calls).where(calls.c.id == item.call_id).values(verdict=item.verdict))
    connection.execute(
        update(items)
        .where(items.c.audit_history_id == item.audit_history_id, items.c.transaction_id == item.transaction_id)
        .values(
            state=ItemState.FAILED.value,
            error_code=ErrorCode.NOT_WRITABLE.value,
            error=NOT_WRITABLE_MESSAGE,
            verdict=None,
            verdict_status=None,
            published_at=now(connection),
        )
    )
    return True


def _sort(
    item: Row[Any],
    found: Loaded | None,
    gone: bool,
    digest: Callable[[Transaction], str],
    result: Published,
    writable: list[Row[Any]],
) -> None:
    """Decide what becomes of one settled item, now that its transaction is locked."""
    id_ = item.transaction_id
    if found is None:
        if gone:
            result.skipped[id_] = SkipReason.NOT_FOUND
        else:
            result.locked.append(id_)
        return
    reason = unwanted(found, item.organization_id)
    if reason is not None:
        result.skipped[id_] = reason
    elif item.state == ItemState.DONE and digest(found.transaction) != item.input_digest:
        result.edited.append(id_)
    else:
        result.written[id_] = item.verdict_status if item.state == ItemState.DONE else ItemState.FAILED.value
        writable.append(item)


def unwanted(found: Loaded, organization_id: int) -> SkipReason | None:
    """Why a transaction is left alone, asked or not: people win. None: it may be asked about and written to."""
    if found.transaction.organization_id != organization_id:
        return SkipReason.FOREIGN
    if found.deleted:
        return SkipReason.DELETED
    if found.decided:
        return SkipReason.DECIDED
    return None if found.queued else SkipReason.NOT_QUEUED


_KEYS: Final = Rows("waiting", audit_history_id=BigInteger(), transaction_id=BigInteger())


def _wait(connection: Connection, locked: Sequence[Row[Any]], moment: datetime) -> None:
    """What the platform holds is looked at again a little later, so that it keeps nothing else away."""
    if not locked:
        return
    keys = _KEYS.table(connection).c
    connection.execute(
        update(items)
        .where(items.c.audit_history_id == keys.audit_history_id, items.c.transaction_id == keys.transaction_id)
        .values(available_at=moment + timedelta(seconds=LOCKED_SECONDS)),
        _KEYS.fill(
            connection,
            [{"audit_history_id": item.audit_history_id, "transaction_id": item.transaction_id} for item in locked],
        ),
    )


def _ask_again(connection: Connection, edited: Sequence[Row[Any]], moment: datetime) -> None:
    for item in edited:
        given_up = item.edits + 1 > MOST_EDITS
        connection.execute(
            update(items)
            .where(items.c.audit_history_id == item.audit_history_id, items.c.transaction_id == item.transaction_id)
            .values(
                state=(ItemState.FAILED if given_up else ItemState.READY).value,
                error_code=ErrorCode.EDITED.value if given_up else None,
                error=EDITED_MESSAGE if given_up else None,
                edits=item.edits + 1,
                call_id=item.call_id if given_up else None,
                available_at=moment,
                verdict=None,
                verdict_status=None,
                input_digest=None,
            )
        )


def _skip(connection: Connection, skipped: Collection[tuple[Row[Any], SkipReason]], moment: datetime) -> None:
    """Leave to people what they took out of our hands; a verdict that was paid for goes to the ledger."""
    for item, reason in skipped:
        if item.verdict is not None:
            connection.execute(
                update(calls)
                .where(calls.c.id == item.call_id)
                .values(verdict=item.verdict, outcome=CallOutcome.SUPERSEDED.value)
            )
        connection.execute(
            update(items)
            .where(items.c.audit_history_id == item.audit_history_id, items.c.transaction_id == item.transaction_id)
            .values(state=ItemState.SKIPPED.value, skip_reason=reason.value, settled_at=moment)
        )
