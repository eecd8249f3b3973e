"""Cancelling an open batch as the platform does it: its queued transactions go back to `null`, its row is marked.

The protocol, in one transaction:
1. Our row of the batch is locked, so that no run publishes into it or closes it meanwhile; then the platform's row.
2. Its still queued transactions are locked SKIP LOCKED and put back. The platform cancels in the other order (first
   transactions, then the batch): what it holds is not waited for, `Held` is raised and nothing has changed.
3. What is left of it in our queue is withdrawn: verdicts that were paid for and not yet written go to the ledger.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Text, and_, cast, exists, func, literal, select, update

from gepp_audit.database import batches as queue_batches
from gepp_audit.database.engine import now
from gepp_audit.database.listing import listed_ids
from gepp_audit.database.platform import Platform, untouched
from gepp_audit.database.platform_tables import IN_PROGRESS, transactions
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.tables import IS_CALLING, batches, items, live, state_is
from gepp_audit.database.types import AuditStatus
from gepp_audit.database.unqueue import listed_elsewhere
from gepp_audit.model import ItemState

#: what the platform writes into a batch that was cancelled
CANCELLED: Final = "cancelled"
#: what an open batch is called, whatever the settings say of those that we work on
OPEN: Final = (IN_PROGRESS, "pending")


class Held(Exception):
    """The platform holds rows of the batch at this moment; nothing was changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a batch stands: what cancelling it would do, or did."""

    audit_history_id: int
    organization_id: int
    status: str
    completed_at: datetime | None
    deleted: bool
    total: int
    #: transactions that are still queued
    queued: int
    #: calls in flight
    calling: int
    #: verdicts that are settled, but not yet written back
    unwritten: int
    #: transactions that were written back already: they stay as they are
    written: int

    def is_open(self, statuses: Collection[str]) -> bool:
        """It may be cancelled. `statuses`: how the platform marks an open batch, beside the usual names."""
        return not self.deleted and self.status in {*OPEN, *statuses}


def standing(connection: Connection, platform: Platform, audit_history_id: int) -> Standing | None:
    """How the batch stands; None: there is none of this id."""
    row = connection.execute(_row(audit_history_id)).one_or_none()
    return None if row is None else _standing(connection, platform, row)


def cancel(
    connection: Connection, platform: Platform, audit_history_id: int, statuses: Collection[str]
) -> Standing | None:
    """Cancel the batch and return how it stood, with `queued` as the number of transactions put back.

    Nothing was done where the result says that it is not open. None: no such batch. Raises Held.
    """
    ours = connection.execute(
        select(batches.c.closed_at).where(batches.c.audit_history_id == audit_history_id).with_for_update()
    ).one_or_none()
    row = connection.execute(_row(audit_history_id).with_for_update(key_share=True)).one_or_none()
    if row is None:
        return None
    stood = _standing(connection, platform, row)
    if not stood.is_open(statuses):
        return stood
    if _put_back(connection, platform, row) != stood.queued:
        raise Held
    if ours is not None and ours.closed_at is None:
        withdrawn = queue_batches.withdraw(connection, platform, audit_history_id)
        if withdrawn is None or not withdrawn.closed:
            raise Held
    connection.execute(
        update(history).where(history.c.id == audit_history_id).values(status=CANCELLED, deleted_date=now(connection))
    )
    return stood


def _row(audit_history_id: int) -> Any:
    return select(
        history.c.id,
        history.c.organization_id,
        history.c.status,
        history.c.completed_at,
        history.c.deleted_date,
        history.c.total_transactions,
    ).where(history.c.id == audit_history_id)


def _standing(connection: Connection, platform: Platform, row: Any) -> Standing:
    counts = connection.execute(
        select(
            func.count().filter(IS_CALLING).label("calling"),
            func.count().filter(state_is(ItemState.DONE), items.c.published_at.is_(None)).label("unwritten"),
            func.count().filter(items.c.published_at.is_not(None)).label("written"),
            func.count().label("total"),
        ).where(items.c.audit_history_id == row.id)
    ).one()
    queued = connection.execute(select(func.count()).where(_still_queued(connection, platform, row))).scalar_one()
    return Standing(
        audit_history_id=row.id,
        organization_id=row.organization_id,
        status=row.status or "",
        completed_at=row.completed_at,
        deleted=row.deleted_date is not None,
        total=counts.total or row.total_transactions or 0,
        queued=queued,
        calling=counts.calling,
        unwritten=counts.unwritten,
        written=counts.written,
    )


def _still_queued(connection: Connection, platform: Platform, row: Any) -> Any:
    """Those of the batch that go back: its own organization's, not decided by people, and in no other open batch."""
    listed = listed_ids(connection, row.id)
    other = items.alias("other")
    live_elsewhere = exists().where(
        other.c.transaction_id == transactions.c.id, other.c.audit_history_id != row.id, live(other)
    )
    return and_(
        transactions.c.id.in_(select(listed.c.id)),
        transactions.c.id.not_in(listed_elsewhere(connection, row.id)),
        cast(transactions.c.ai_audit_status, Text) == "queued",
        transactions.c.organization_id == row.organization_id,
        ~live_elsewhere,
        *untouched(platform),
    )


def _put_back(connection: Connection, platform: Platform, row: Any) -> int:
    free = (
        select(transactions.c.id)
        .where(_still_queued(connection, platform, row))
        .with_for_update(key_share=True, skip_locked=True)
    )
    return connection.execute(
        update(transactions)
        .where(transactions.c.id.in_(free))
        .values(ai_audit_status=cast(literal("null"), AuditStatus))
    ).rowcount
