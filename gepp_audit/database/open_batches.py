"""Which batches are open: ours that are not closed, and those of the platform that no run of ours has taken up.

Reads only. It is all that is asked where none of them is stuck, so that a monitor may look often; what else is stored
about them, `reports` collects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, and_, case, func, literal, null, select

from gepp_audit.database.engine import opened_at
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.rows import among
from gepp_audit.database.tables import batches

#: as another program marks a batch that it has settled
_SETTLED: Final = ("completed", "failed")


class Opened(NamedTuple):
    """The open batches at one moment on the database's clock."""

    moment: datetime
    #: by id; each has organization_id and started_at, and what `reports` reads of it
    rows: Mapping[int, Any]


class PlatformBatch(NamedTuple):
    """A row of the platform's history that is not open for us."""

    audit_history_id: int
    status: str | None
    completed_at: datetime | None
    deleted: bool


def open_batches(connection: Connection, statuses: Sequence[str]) -> Opened:
    """All open batches. `statuses`: by which the platform marks one."""
    moment = opened_at(connection)
    # in this order, a batch that is taken up meanwhile is found at least once, and as ours if twice
    found = (*_unseen(connection, statuses), *_ours(connection, statuses))
    return Opened(moment=moment, rows={row.id: row for row in found})


def platform_batches(connection: Connection, ids: Iterable[int]) -> dict[int, PlatformBatch]:
    """What the platform says of these batches, by id; those that it does not know are left out."""
    statement = select(history.c.id, history.c.status, history.c.completed_at, history.c.deleted_date)
    found = connection.execute(statement.where(among(connection, history.c.id, ids)))
    return {
        row.id: PlatformBatch(
            audit_history_id=row.id,
            status=row.status,
            completed_at=row.completed_at,
            deleted=row.deleted_date is not None,
        )
        for row in found
    }


def _ours(connection: Connection, statuses: Sequence[str]) -> Sequence[Any]:
    """Our open batches, each with whether the platform still wants it."""
    # whatever status it was discovered in, it is in progress since
    wanted = and_(history.c.deleted_date.is_(None), history.c.status.in_({*statuses, IN_PROGRESS}))
    settled = and_(history.c.deleted_date.is_(None), history.c.status.in_(_SETTLED))
    # before we have written our counters, theirs may be those of whoever worked on the batch in former times
    ahead = case((batches.c.processed > 0, history.c.processed_transactions - batches.c.processed), else_=0)
    return connection.execute(
        select(
            batches.c.audit_history_id.label("id"),
            batches.c.organization_id,
            batches.c.started_at,
            batches.c.discovered_at,
            batches.c.fanned_out_at,
            batches.c.error,
            case((wanted, 1), else_=0).label("wanted"),
            history.c.status.label("platform_status"),
            case((settled, 1), else_=0).label("settled_elsewhere"),
            func.coalesce(ahead, 0).label("ahead_elsewhere"),
            case((batches.c.fanned_out_at.is_(None), _listed(connection)), else_=0).label("listed"),
        )
        .outerjoin_from(batches, history, history.c.id == batches.c.audit_history_id)
        .where(batches.c.closed_at.is_(None))
    ).all()


def _unseen(connection: Connection, statuses: Sequence[str]) -> Sequence[Any]:
    """The platform's open batches that no run of ours has taken up yet."""
    known = select(batches.c.audit_history_id).where(batches.c.audit_history_id == history.c.id).exists()
    nothing = null()
    return connection.execute(
        select(
            history.c.id,
            history.c.organization_id,
            history.c.started_at,
            nothing.label("discovered_at"),
            nothing.label("fanned_out_at"),
            nothing.label("error"),
            literal(1).label("wanted"),
            history.c.status.label("platform_status"),
            literal(0).label("settled_elsewhere"),
            literal(0).label("ahead_elsewhere"),
            _listed(connection).label("listed"),
        ).where(history.c.status.in_(statuses), history.c.deleted_date.is_(None), ~known)
    ).all()


def _listed(connection: Connection) -> ColumnElement[int]:
    length = func.cardinality if connection.dialect.name == "postgresql" else func.json_array_length
    return func.coalesce(length(history.c.transactions, type_=Integer()), 0)
