"""How a batch ends for the transactions that nothing was written to: still `queued`, they go back to `null`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    cast,
    exists,
    literal,
    not_,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from gepp_audit.database.engine import refuses_row
from gepp_audit.database.listing import listed, listed_ids
from gepp_audit.database.platform import Platform, untouched
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.platform_tables import transactions
from gepp_audit.database.rows import among
from gepp_audit.database.tables import batches, items, live
from gepp_audit.database.types import AuditStatus

#: as the platform calls a batch that is to be worked on
_WAITING: Final = ("in_progress", "pending")


def put_back(connection: Connection, platform: Platform, audit_history_id: int) -> bool:
    """Set the batch's still `queued` transactions back to `null`, so that they can be queued again; False: some are
    held.

    Those that people decided or deleted, that belong to others, or that another open batch lists, stay as they are:
    judged as they stand now, since people may have taken back what was seen at the fan-out.
    """
    seen = select(batches.c.fanned_out_at).where(batches.c.audit_history_id == audit_history_id)
    no_items_yet = connection.execute(seen).scalar_one() is None
    left = _of_row(connection, audit_history_id) if no_items_yet else _of_items(audit_history_id)
    organization = select(batches.c.organization_id).where(batches.c.audit_history_id == audit_history_id)
    still_queued = and_(
        transactions.c.id.in_(left.scalar_subquery()),
        transactions.c.id.not_in(listed_elsewhere(connection, audit_history_id)),
        cast(transactions.c.ai_audit_status, Text) == "queued",
        transactions.c.organization_id == organization.scalar_subquery(),
        *untouched(platform),
    )
    free = select(transactions.c.id).where(still_queued).with_for_update(key_share=True, skip_locked=True)
    refused: list[int] = []
    if not _free(connection, transactions.c.id.in_(free)):
        refused = _free_all_but_refused(connection, sorted(connection.execute(free).scalars()))
    held = and_(still_queued, not_(among(connection, transactions.c.id, refused))) if refused else still_queued
    return not connection.execute(select(exists().where(held))).scalar_one()


def _free(connection: Connection, chosen: ColumnElement[bool]) -> bool:
    """Set these back; False: the platform refuses to have one of them changed (a constraint, a trigger)."""
    try:
        with connection.begin_nested():
            connection.execute(
                update(transactions).where(chosen).values(ai_audit_status=cast(literal("null"), AuditStatus))
            )
    except DBAPIError as error:
        if not refuses_row(error):
            raise
        return False
    return True


def _free_all_but_refused(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Find by halving those that the platform refuses, which stay as they are and keep no batch open; returns them."""
    if not ids or _free(connection, among(connection, transactions.c.id, ids)):
        return []
    if len(ids) == 1:
        return list(ids)
    half = len(ids) // 2
    return _free_all_but_refused(connection, ids[:half]) + _free_all_but_refused(connection, ids[half:])


def _of_items(audit_history_id: int) -> Select[Any]:
    """The batch's transactions that no other batch works on."""
    live_elsewhere = _live_elsewhere(items.c.transaction_id, audit_history_id)
    return select(items.c.transaction_id).where(items.c.audit_history_id == audit_history_id, ~live_elsewhere)


def _of_row(connection: Connection, audit_history_id: int) -> Select[Any]:
    """As `_of_items`, of a batch that ends before it was fanned out: what the platform's row lists."""
    ids = listed_ids(connection, audit_history_id)
    return select(ids.c.id).where(~_live_elsewhere(ids.c.id, audit_history_id))


def _live_elsewhere(transaction_id: ColumnElement[int], audit_history_id: int) -> ColumnElement[bool]:
    other = items.alias("other")
    return exists().where(
        other.c.transaction_id == transaction_id, other.c.audit_history_id != audit_history_id, live(other)
    )


def listed_elsewhere(connection: Connection, audit_history_id: int) -> Select[Any]:
    """The ids of the platform's other open batches that have no items yet: queued again, and not yet seen by us."""
    fanned_out = exists().where(batches.c.audit_history_id == history.c.id, batches.c.fanned_out_at.is_not(None))
    waiting = and_(
        history.c.id != audit_history_id,
        history.c.status.in_(_WAITING),
        history.c.deleted_date.is_(None),
        ~fanned_out,
    )
    return listed(connection, waiting)
