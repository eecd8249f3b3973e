"""What may be wrong beside the batches that runs take: transactions that are queued in none, other programs at work, a
status that nobody takes. Reads only; orphans are counted in `retrying`, which knows what one is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, func, select, union_all

from gepp_audit.database.engine import opened_at
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.tables import batches
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import BatchOutcome

#: how a platform marks a batch that is not settled
OPEN_STATUSES: Final = ("in_progress", "pending")


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphans:
    """Transactions that are `queued` in no open batch."""

    count: int = 0
    #: False: there were more queued ones than are looked at
    complete: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Rivals:
    """Batches of ours that another program completed or failed lately."""

    batches: int = 0
    last_at: datetime | None = None


def open_by_status(connection: Connection) -> dict[str, int]:
    """How many batches of the platform are open in which status, whether or not a run takes that status."""
    found = connection.execute(
        select(history.c.status, func.count())
        .where(history.c.status.in_(OPEN_STATUSES), history.c.deleted_date.is_(None))
        .group_by(history.c.status)
    )
    return {row[0]: row[1] for row in found}


def settled_by_others(connection: Connection, within: timedelta) -> tuple[datetime, int, datetime | None]:
    """The database's clock; how many batches that we had taken up somebody else completed or failed lately; the last.

    A batch that a person cancelled or undid has another status, or is deleted.
    """
    moment = opened_at(connection)
    # an expression: by the status itself, SQLite would read the whole history
    theirs = and_(history.c.deleted_date.is_(None), history.c.status.concat("").in_(("completed", "failed")))
    ours = select(batches.c.closed_at).join_from(batches, history, history.c.id == batches.c.audit_history_id)
    let_go = and_(batches.c.outcome == BatchOutcome.WITHDRAWN.value, batches.c.closed_at > moment - within)
    settled = union_all(
        ours.where(let_go, theirs),
        ours.where(batches.c.closed_at.is_(None), theirs),
    ).subquery("settled")
    found = connection.execute(select(func.count(), func.max(settled.c.closed_at, type_=UtcDateTime()))).one()
    return moment, found[0], found[1]
