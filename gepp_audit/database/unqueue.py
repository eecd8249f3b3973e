"""How a batch ends for the transactions that nothing was written to: still `queued`, they go back to `null`."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    Text,
    and_,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from gepp_audit.database.platform import Platform, untouched
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.platform_tables import transactions
from gepp_audit.database.tables import batches, items, live
from gepp_audit.database.types import AuditStatus
from gepp_audit.model import SkipReason

_LEFT_ALONE: Final = tuple(
    reason.value for reason in (SkipReason.FOREIGN, SkipReason.NOT_FOUND, SkipReason.DELETED, SkipReason.DECIDED)
)


#: as the platform calls a batch that is to be worked on
_WAITING: Final = ("in_progress", "pending")


def put_back(connection: Connection, platform: Platform, audit_history_id: int) -> bool:
    """Set the batch's still `queued` transactions back to `null`, so that they can be queued again; False: some are
    held.

    Those that people decided or deleted, that belong to others, or that another open batch lists, stay as they are.
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
    organization = select(batches.c.organization_id).where(batches.c.audit_history_id == audit_history_id)
    still_queued = and_(
        transactions.c.id.in_(left),
        transactions.c.id.not_in(_listed_elsewhere(connection, audit_history_id)),
        cast(transactions.c.ai_audit_status, Text) == "queued",
        transactions.c.organization_id == organization.scalar_subquery(),
        *untouched(platform),
    )
    free = select(transactions.c.id).where(still_queued).with_for_update(key_share=True, skip_locked=True)
    connection.execute(
        update(transactions)
        .where(transactions.c.id.in_(free))
        .values(ai_audit_status=cast(literal("null"), AuditStatus))
    )
    return not connection.execute(select(exists().where(still_queued))).scalar_one()


def _listed_elsewhere(connection: Connection, audit_history_id: int) -> Select[Any]:
    """The ids of the platform's other open batches that have no items yet: queued again, and not yet seen by us."""
    fanned_out = exists().where(batches.c.audit_history_id == history.c.id, batches.c.fanned_out_at.is_not(None))
    waiting = and_(
        history.c.id != audit_history_id,
        history.c.status.in_(_WAITING),
        history.c.deleted_date.is_(None),
        ~fanned_out,
    )
    if connection.dialect.name == "postgresql":
        return select(cast(func.unnest(history.c.transactions), BigInteger)).where(waiting)
    each = func.json_each(history.c.transactions).table_valued("value", joins_implicitly=True)
    return select(cast(each.c.value, Integer)).select_from(history, each).where(waiting)
