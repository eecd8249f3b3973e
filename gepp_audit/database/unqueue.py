"""How a batch ends for the transactions that nothing was written to: still `queued`, they go back to `null`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Text, and_, cast, exists, literal, or_, select, update

from gepp_audit.database.platform_tables import transactions
from gepp_audit.database.tables import items, live
from gepp_audit.database.types import AuditStatus
from gepp_audit.model import SkipReason

_LEFT_ALONE: Final = tuple(
    reason.value for reason in (SkipReason.FOREIGN, SkipReason.NOT_FOUND, SkipReason.DELETED, SkipReason.DECIDED)
)


def put_back(connection: Connection, audit_history_id: int) -> bool:
    """Set the batch's still `queued` transactions back to `null`, so that they can be queued again; False: some are
    held.

    Those that people decided or deleted, that belong to others, or that another open batch works on, stay as they are.
    """
    other = items.alias("other")
    live_elsewhere = exists().where(
        other.c.transaction_id == items.c.transaction_id,
        other.c.audit_history_id != items.c.audit_history_id,
        live(other),
    )
    left = (
        select(items.c.transaction_id)
        .where(
            items.c.audit_history_id == audit_history_id,
            or_(
                items.c.skip_reason.is_(None),
                items.c.skip_reason.not_in(_LEFT_ALONE),
            ),
            ~live_elsewhere,
        )
        .scalar_subquery()
    )
    still_queued = and_(transactions.c.id.in_(left), cast(transactions.c.ai_audit_status, Text) == "queued")
    free = select(transactions.c.id).where(still_queued).with_for_update(key_share=True, skip_locked=True)
    connection.execute(
        update(transactions)
        .where(transactions.c.id.in_(free))
        .values(ai_audit_status=cast(literal("null"), AuditStatus))
    )
    return not connection.execute(select(exists().where(still_queued))).scalar_one()
