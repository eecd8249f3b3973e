"""What the next run would find: read-only, for `process-queue --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, and_, exists, func, or_, select

from gepp_audit.database.batches import fate
from gepp_audit.database.listing import listed_ids
from gepp_audit.database.platform import Platform
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.platform_tables import transactions
from gepp_audit.database.tables import batches, calls, items, live, state_is
from gepp_audit.model import ItemState

#: calls among which those to one model are looked for
_LOOKED_BACK: Final = 5_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """One open batch with what is left to ask in it."""

    audit_history_id: int
    organization_id: int
    transactions: int
    #: some of them, to measure
    sample: tuple[int, ...]


def waiting(
    connection: Connection, platform: Platform, statuses: Sequence[str], organizations: Sequence[int], sample: int
) -> list[Waiting]:
    """The open batches, oldest first, with the number of transactions that are still to be asked, and up to `sample` of
    them.
    """
    statement = (
        select(history.c.id, history.c.organization_id, batches.c.fanned_out_at)
        .outerjoin_from(history, batches, batches.c.audit_history_id == history.c.id)
        .where(history.c.status.in_(statuses), history.c.deleted_date.is_(None), batches.c.closed_at.is_(None))
        .order_by(history.c.started_at, history.c.id)
    )
    if organizations:
        statement = statement.where(history.c.organization_id.in_(organizations))
    result = []
    for row in connection.execute(statement).all():
        ids = _ready(row) if row.fanned_out_at is not None else _to_be_fanned_out(connection, platform, row)
        count = connection.execute(select(func.count()).select_from(ids.subquery())).scalar_one()
        some = connection.execute(ids.limit(sample)).scalars().all()
        result.append(
            Waiting(
                audit_history_id=row.id, organization_id=row.organization_id, transactions=count, sample=tuple(some)
            )
        )
    return result


def _ready(row: Any) -> Any:
    return select(items.c.transaction_id.label("id")).where(
        items.c.audit_history_id == row.id, state_is(ItemState.READY, ItemState.CALLING)
    )


def _to_be_fanned_out(connection: Connection, platform: Platform, row: Any) -> Any:
    listed = listed_ids(connection, row.id)
    elsewhere = exists().where(items.c.transaction_id == listed.c.id, live())
    return (
        select(listed.c.id)
        .select_from(listed.outerjoin(transactions, transactions.c.id == listed.c.id))
        .where(and_(fate(platform, row).is_(None), ~elsewhere))
    )


def usual_output_tokens(connection: Connection, model: str) -> float | None:
    """The mean output of the latest answered calls to `model`, in tokens; None: there were none lately."""
    # a model that was never asked must not have the whole ledger read
    newest = select(calls).order_by(calls.c.id.desc()).limit(_LOOKED_BACK).subquery("newest")
    latest = (
        select(newest.c.output_tokens)
        .where(or_(newest.c.model == model, newest.c.model_answered == model), newest.c.output_tokens.is_not(None))
        .order_by(newest.c.id.desc())
        .limit(200)
        .subquery()
    )
    mean = connection.execute(select(func.avg(latest.c.output_tokens))).scalar_one()
    return None if mean is None else float(mean)
