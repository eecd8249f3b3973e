"""What a person may do to a stuck batch: let its items go on at once, or give up what has no verdict.

No verdict that was settled is touched, and no lease of a living run is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, or_, select, update

from gepp_audit.database.engine import now
from gepp_audit.database.rows import among
from gepp_audit.database.tables import GLOBAL_SCOPE, IS_READY, batches, items, limits, state_is
from gepp_audit.model import BatchOutcome, ErrorCode, ItemState

GIVEN_UP_MESSAGE = "An operator gave the batch up before this transaction had a verdict."


def make_due(connection: Connection, ids: Sequence[int]) -> int:
    """Let the waiting items of these batches be claimed now; returns how many had to wait. Their counters stay."""
    moment = now(connection)
    return connection.execute(
        update(items)
        .where(among(connection, items.c.audit_history_id, ids), IS_READY, items.c.available_at > moment)
        .values(available_at=moment)
    ).rowcount


def hasten_gate(connection: Connection) -> bool:
    """Let the next probe of a refusing provider leave at once, and forget its wish that we wait; True: one stood.

    The block itself stays until a call is answered: if nothing was mended, one more call is lost and not a slotful.
    """
    moment = now(connection)
    standing = or_(limits.c.blocked_until > moment, limits.c.throttled_until > moment)
    # a wait without a reason is over with it; a block is known by its reason, whatever its time
    hastened = connection.execute(
        update(limits).where(limits.c.scope == GLOBAL_SCOPE, standing).values(blocked_until=None, throttled_until=None)
    )
    return hastened.rowcount > 0


def give_up(connection: Connection, audit_history_id: int) -> int | None:
    """Fail what has no verdict yet in an open batch; returns how many items. None: it is not open any more.

    Protocol: under the row lock of our batch, which publishing and closing take too. The fencing token goes, so that
    the answer of a call under way finds no item and is kept in the ledger alone.
    """
    batch = connection.execute(
        select(batches.c.audit_history_id)
        .where(batches.c.audit_history_id == audit_history_id, batches.c.closed_at.is_(None))
        .with_for_update()
    ).one_or_none()
    if batch is None:
        return None
    moment = now(connection)
    return connection.execute(
        update(items)
        .where(
            items.c.audit_history_id == audit_history_id,
            state_is(ItemState.READY, ItemState.CALLING, ItemState.SUBMITTED),
        )
        .values(
            state=ItemState.FAILED.value,
            call_id=None,
            lease_until=None,
            error_code=ErrorCode.GIVEN_UP.value,
            error=GIVEN_UP_MESSAGE,
            settled_at=moment,
            # one that waited for another attempt is written back at once
            available_at=moment,
        )
    ).rowcount


def outcome_of(connection: Connection, audit_history_id: int) -> BatchOutcome | None:
    """How the batch ended, whoever ended it; None: it is open, or not ours."""
    outcome = connection.execute(
        select(batches.c.outcome).where(batches.c.audit_history_id == audit_history_id)
    ).scalar_one_or_none()
    return None if outcome is None else BatchOutcome(outcome)
