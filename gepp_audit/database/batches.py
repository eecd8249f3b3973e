"""Steps 1 to 3 of the data's way: discover the platform's open batches, fan them out into items, reconcile with people.

Race of two hosts: `discover` inserts with ON CONFLICT DO NOTHING, and `fan_out` works under the row lock of our batch,
so one of them does it and the other finds it done. A live item is unique per transaction over all batches by a partial
index.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from gepp_audit.audit.prompt import compile_rules, prompt_tokens
from gepp_audit.audit.rules import from_snapshot, rules_digest, to_snapshot
from gepp_audit.database.engine import now
from gepp_audit.database.failure_memory import refuse_unchanged
from gepp_audit.database.listing import listed_ids
from gepp_audit.database.platform import Platform, load_rules
from gepp_audit.database.platform_tables import IN_PROGRESS, transactions
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.rows import among_later, ids_of, kept
from gepp_audit.database.runs import undiscovered_batches
from gepp_audit.database.tables import IS_LIVE, batches, calls, items, state_is
from gepp_audit.database.types import UtcDateTime
from gepp_audit.database.unqueue import put_back
from gepp_audit.model import Batch, BatchOutcome, CallOutcome, ErrorCode, ItemState, SkipReason

NO_RULES_MESSAGE: Final = "There is no active audit rule for this organization, so nothing was audited."


@dataclass(frozen=True, kw_only=True, slots=True)
class FannedOut:
    """What became of the ids of one batch."""

    audit_history_id: int
    organization_id: int
    total: int
    ready: int
    skipped: int
    #: failed before and did not change since
    refused: int
    #: set: the organization has no rules
    error: str | None


def discover(connection: Connection, statuses: Sequence[str], organizations: Sequence[int] = ()) -> int:
    """Take up the platform's open batches that we have not seen; returns how many.

    A batch in another status of `statuses` than `in_progress` (a newer platform's `pending`) is flipped by
    compare-and-swap.
    """
    found = connection.execute(
        undiscovered_batches(statuses, organizations).order_by(history.c.started_at, history.c.id)
    ).all()
    if not found:
        return 0
    seen_at = now(connection)
    taken = 0
    for row in found:
        if row.status != IN_PROGRESS and not _flip(connection, row.id, row.status):
            continue  # the platform holds or changed it: next time
        known = _insert(connection)(batches).values(
            audit_history_id=row.id,
            organization_id=row.organization_id,
            started_at=row.started_at,
            discovered_at=seen_at,
        )
        taken += connection.execute(known.on_conflict_do_nothing()).rowcount
    return taken


def _flip(connection: Connection, audit_history_id: int, status: str) -> bool:
    free = (
        select(history.c.id).where(history.c.id == audit_history_id).with_for_update(key_share=True, skip_locked=True)
    )
    flipped = connection.execute(
        update(history)
        .where(history.c.id.in_(free.scalar_subquery()), history.c.status == status)
        .values(status=IN_PROGRESS)
    )
    return flipped.rowcount == 1


def _insert(connection: Connection) -> Any:
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def waiting_for_fan_out(connection: Connection, organizations: Sequence[int] = ()) -> list[int]:
    """Our open batches that have no items yet, oldest first."""
    statement = select(batches.c.audit_history_id).where(
        batches.c.closed_at.is_(None), batches.c.fanned_out_at.is_(None)
    )
    if organizations:
        statement = statement.where(batches.c.organization_id.in_(organizations))
    ordered = statement.order_by(batches.c.started_at, batches.c.audit_history_id)
    return list(connection.execute(ordered).scalars())


def undiscovered(connection: Connection, statuses: Sequence[str], organizations: Sequence[int] = ()) -> bool:
    """Whether the platform has an open batch that we have not seen."""
    return bool(connection.execute(select(exists(undiscovered_batches(statuses, organizations)))).scalar_one())


def count_open(connection: Connection, organizations: Sequence[int] = ()) -> int:
    """How many batches are still in work."""
    statement = select(func.count()).select_from(batches).where(batches.c.closed_at.is_(None))
    if organizations:
        statement = statement.where(batches.c.organization_id.in_(organizations))
    return int(connection.execute(statement).scalar_one())


def fan_out(
    connection: Connection, platform: Platform, audit_history_id: int, *, model: str | None = None
) -> FannedOut | None:
    """Make one item per distinct id of the batch, in the database alone, and keep the rules it is audited by.

    Ids that are not to be audited become skipped items with their reason; what `model` (None: any) failed to audit
    before and did not change is refused. None: another run did it, or the batch is gone.
    """
    batch = connection.execute(
        select(batches)
        .where(
            batches.c.audit_history_id == audit_history_id,
            batches.c.fanned_out_at.is_(None),
            batches.c.closed_at.is_(None),
        )
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if batch is None:
        return None
    rules = load_rules(connection, batch.organization_id)
    moment = now(connection)
    _insert_ready(connection, platform, batch, moment, failed=not rules)
    _insert_skipped(connection, platform, batch, moment)
    total, skipped = connection.execute(
        select(func.count(), func.count().filter(items.c.state == ItemState.SKIPPED)).where(
            items.c.audit_history_id == audit_history_id
        )
    ).one()
    error = None if rules else NO_RULES_MESSAGE
    told = {"fanned_out_at": moment, "total": total, "rules": to_snapshot(rules), "rules_digest": rules_digest(rules)}
    told["prompt_tokens"] = prompt_tokens(compile_rules(rules)) if rules else None
    connection.execute(
        update(batches).where(batches.c.audit_history_id == audit_history_id).values(told | {"error": error})
    )
    forced = batch.forced or not rules
    refused = 0 if forced else refuse_unchanged(connection, platform, audit_history_id, moment, model=model)
    return FannedOut(
        audit_history_id=audit_history_id,
        organization_id=batch.organization_id,
        total=total,
        ready=total - skipped - refused if rules else 0,
        skipped=skipped,
        refused=refused,
        error=error,
    )


def fate(platform: Platform, batch: Any) -> ColumnElement[str | None]:
    """Why a listed transaction is not audited, as SQL; NULL: it is."""
    decided = transactions.c.is_user_audit.is_(True) if "is_user_audit" in platform.transaction_columns else false()
    return case(
        (transactions.c.id.is_(None), SkipReason.NOT_FOUND.value),
        (transactions.c.organization_id.is_distinct_from(batch.organization_id), SkipReason.FOREIGN.value),
        (or_(transactions.c.deleted_date.is_not(None), transactions.c.is_active.is_(False)), SkipReason.DELETED.value),
        (decided, SkipReason.DECIDED.value),
        (cast(transactions.c.ai_audit_status, Text) != "queued", SkipReason.NOT_QUEUED.value),
        else_=null(),
    )


def _insert_ready(connection: Connection, platform: Platform, batch: Any, moment: datetime, *, failed: bool) -> None:
    listed = listed_ids(connection, batch.audit_history_id)
    state = ItemState.FAILED if failed else ItemState.READY
    at = literal(moment, UtcDateTime())
    chosen = select(
        literal(batch.audit_history_id, BigInteger),
        listed.c.id,
        literal(batch.organization_id, BigInteger),
        literal(state.value, Text),
        at,
        literal(ErrorCode.NO_RULES.value if failed else None, Text),
        literal(NO_RULES_MESSAGE if failed else None, Text),
        # nothing to write back for them: the end of the batch puts the transactions back
        at if failed else literal(None, UtcDateTime()),
        at if failed else literal(None, UtcDateTime()),
    ).select_from(listed.outerjoin(transactions, transactions.c.id == listed.c.id))
    chosen = chosen.where(fate(platform, batch).is_(None))
    columns = ["audit_history_id", "transaction_id", "organization_id", "state", "available_at"]
    columns += ["error_code", "error", "published_at", "settled_at"]
    connection.execute(_insert(connection)(items).from_select(columns, chosen).on_conflict_do_nothing())


def _insert_skipped(connection: Connection, platform: Platform, batch: Any, moment: datetime) -> None:
    listed = listed_ids(connection, batch.audit_history_id)
    reason = func.coalesce(fate(platform, batch), SkipReason.IN_OTHER_BATCH.value)
    rest = (
        select(
            literal(batch.audit_history_id, BigInteger),
            listed.c.id,
            literal(batch.organization_id, BigInteger),
            literal(ItemState.SKIPPED.value, Text),
            cast(reason, Text),
            literal(moment, UtcDateTime()),
            literal(moment, UtcDateTime()),
        )
        .select_from(listed.outerjoin(transactions, transactions.c.id == listed.c.id))
        .where(true())  # SQLite takes ON CONFLICT for a join's condition without it
    )
    columns = [
        "audit_history_id",
        "transaction_id",
        "organization_id",
        "state",
        "skip_reason",
        "available_at",
        "settled_at",
    ]
    # Those that are there already are met by their key. Looked for by a join, each would be compared with all of the
    # batch, of which the statistics know nothing yet.
    connection.execute(_insert(connection)(items).from_select(columns, rest).on_conflict_do_nothing())


def still_open(connection: Connection, ids: Collection[int]) -> set[int]:
    """Those of these batches that the platform has not cancelled, undone, deleted or closed."""
    return set(connection.execute(_still_open(connection), ids_of(connection, "open_ids", ids)).scalars())


@kept
def _still_open(connection: Connection) -> Select[Any]:
    return select(history.c.id).where(
        among_later(connection, history.c.id, "open_ids"),
        history.c.deleted_date.is_(None),
        history.c.status == IN_PROGRESS,
    )


def withdrawn(connection: Connection) -> list[int]:
    """Our open batches that the platform cancelled, undid, deleted or closed: to be given to `withdraw`."""
    open_there = exists().where(
        history.c.id == batches.c.audit_history_id, history.c.deleted_date.is_(None), history.c.status == IN_PROGRESS
    )
    return list(
        connection.execute(
            select(batches.c.audit_history_id).where(batches.c.closed_at.is_(None), ~open_there)
        ).scalars()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawn:
    """What became of a batch that people withdrew."""

    #: items that were skipped now
    skipped: int
    #: False: the platform holds one of its transactions at this moment, the rest is done next time
    closed: bool


def withdraw(connection: Connection, platform: Platform, audit_history_id: int) -> Withdrawn | None:
    """Skip what is left of a batch that people withdrew, and close it for us; the platform's row stays as it is.

    A call in flight keeps its ledger row, where its answer will stand. None: another run does or did it.
    """
    locked = connection.execute(
        select(batches.c.audit_history_id)
        .where(batches.c.audit_history_id == audit_history_id, batches.c.closed_at.is_(None))
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if locked is None:
        return None
    moment = now(connection)
    _keep_paid_verdicts(connection, audit_history_id)
    skipped = connection.execute(
        update(items)
        .where(items.c.audit_history_id == audit_history_id, IS_LIVE)
        .values(
            state=ItemState.SKIPPED.value,
            skip_reason=SkipReason.BATCH_WITHDRAWN.value,
            call_id=None,
            lease_until=None,
            settled_at=moment,
        )
    ).rowcount
    if not put_back(connection, platform, audit_history_id):
        return Withdrawn(skipped=skipped, closed=False)
    connection.execute(
        update(batches)
        .where(batches.c.audit_history_id == audit_history_id)
        .values(closed_at=moment, outcome=BatchOutcome.WITHDRAWN.value, rules=None)
    )
    connection.execute(
        delete(items).where(items.c.audit_history_id == audit_history_id, state_is(ItemState.DONE, ItemState.SKIPPED))
    )
    return Withdrawn(skipped=skipped, closed=True)


def _keep_paid_verdicts(connection: Connection, audit_history_id: int) -> None:
    """Verdicts that were settled and not yet written back go to the ledger: they were paid for."""
    connection.execute(
        update(calls)
        .where(
            calls.c.id == items.c.call_id,
            items.c.audit_history_id == audit_history_id,
            state_is(ItemState.DONE),
            items.c.published_at.is_(None),
        )
        .values(verdict=items.c.verdict, outcome=CallOutcome.SUPERSEDED.value)
    )


def load_batches(connection: Connection, ids: Sequence[int]) -> dict[int, Batch]:
    """Batches with the rules they are audited by, by id."""
    found = connection.execute(select(batches).where(batches.c.audit_history_id.in_(ids)))
    return {
        row.audit_history_id: Batch(
            audit_history_id=row.audit_history_id,
            organization_id=row.organization_id,
            discovered_at=row.discovered_at,
            rules_digest=row.rules_digest,
            rules=from_snapshot(row.rules or []),
            total=row.total,
        )
        for row in found
    }
