"""Step 8 of the data's way: a batch with nothing left open ends, exactly once, in one transaction.

A sweep looks for such batches; under the row lock of ours, then of the platform's (never waiting), it recomputes the
counters from the items, builds `audit_info` in the database, puts transactions that are still queued back to `null`,
and drops what the queue does not need any more. total = approved + rejected + undecided + failed + skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Integer,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    not_,
    or_,
    select,
    update,
)

from gepp_audit.audit import failure_words
from gepp_audit.database.engine import now
from gepp_audit.database.json_functions import JsonFunctions, exact_sum
from gepp_audit.database.platform import Platform
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.tables import IS_CALLING, IS_LIVE, IS_READY, IS_UNPUBLISHED, batches, calls, items, state_is
from gepp_audit.database.unqueue import put_back
from gepp_audit.model import BatchOutcome, ItemState, VerdictStatus

#: above so many transactions, only failed and rejected ones stand in audit_results
TRUNCATE_ABOVE: Final = 5_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """How a batch ended."""

    audit_history_id: int
    organization_id: int
    outcome: BatchOutcome
    total: int
    approved: int
    rejected: int
    undecided: int
    failed: int
    skipped: int
    error: str | None


def finished(connection: Connection) -> list[int]:
    """Our open batches in which nothing is left to ask or to write back, oldest first."""
    open_items = or_(
        exists().where(items.c.audit_history_id == batches.c.audit_history_id, IS_READY),
        exists().where(items.c.audit_history_id == batches.c.audit_history_id, IS_CALLING),
        exists().where(items.c.audit_history_id == batches.c.audit_history_id, IS_UNPUBLISHED),
    )
    return list(
        connection.execute(
            select(batches.c.audit_history_id)
            .where(batches.c.closed_at.is_(None), batches.c.fanned_out_at.is_not(None), not_(open_items))
            .order_by(batches.c.started_at, batches.c.audit_history_id)
        ).scalars()
    )


def close(connection: Connection, platform: Platform, audit_history_id: int, engine: str) -> Closed | None:
    """End the batch. None: it is not finished, somebody else ended it, or the platform holds a row of it: next time."""
    batch = connection.execute(
        select(batches)
        .where(batches.c.audit_history_id == audit_history_id, batches.c.closed_at.is_(None))
        .with_for_update(skip_locked=True)
    ).one_or_none()
    ours = items.c.audit_history_id == audit_history_id
    if batch is None or connection.execute(select(exists().where(ours, IS_LIVE))).scalar_one():
        return None
    held = connection.execute(
        select(history.c.id)
        .where(history.c.id == audit_history_id, history.c.deleted_date.is_(None), history.c.status == IN_PROGRESS)
        .with_for_update(key_share=True, skip_locked=True)
    ).one_or_none()
    if held is None or not put_back(connection, platform, audit_history_id):
        return None
    counts = _counts(connection, batch)
    _write_history(connection, platform, counts, engine)
    _forget(connection, counts)
    return counts


def _counts(connection: Connection, batch: Any) -> Closed:
    done = state_is(ItemState.DONE)
    row = connection.execute(
        select(
            func.count().label("total"),
            func.count().filter(done, items.c.verdict_status == VerdictStatus.APPROVED.value).label("approved"),
            func.count().filter(done, items.c.verdict_status == VerdictStatus.REJECTED.value).label("rejected"),
            func.count().filter(done, items.c.verdict_status == VerdictStatus.NO_ACTION.value).label("undecided"),
            func.count().filter(state_is(ItemState.FAILED)).label("failed"),
            func.count().filter(state_is(ItemState.SKIPPED)).label("skipped"),
        ).where(items.c.audit_history_id == batch.audit_history_id)
    ).one()
    audited = row.approved + row.rejected + row.undecided
    failed = not audited and (row.failed > 0 or batch.error is not None)
    return Closed(
        audit_history_id=batch.audit_history_id,
        organization_id=batch.organization_id,
        outcome=BatchOutcome.FAILED if failed else BatchOutcome.COMPLETED,
        total=row.total,
        approved=row.approved,
        rejected=row.rejected,
        undecided=row.undecided,
        failed=row.failed,
        skipped=row.skipped,
        error=batch.error or _name_failed(connection, batch.audit_history_id),
    )


def _name_failed(connection: Connection, audit_history_id: int) -> str | None:
    """Why transactions of the batch failed, grouped by reason; None: none did."""
    numbered = (
        select(
            items.c.transaction_id,
            items.c.error_code,
            func.count().over(partition_by=items.c.error_code).label("of_reason"),
            func.row_number().over(partition_by=items.c.error_code, order_by=items.c.transaction_id).label("number"),
        )
        .where(items.c.audit_history_id == audit_history_id, state_is(ItemState.FAILED))
        .subquery("numbered")
    )
    named = connection.execute(
        select(numbered.c.error_code, numbered.c.of_reason, numbered.c.transaction_id)
        .where(numbered.c.number <= failure_words.NAMED)
        .order_by(numbered.c.error_code, numbered.c.transaction_id)
    ).all()
    ids: dict[tuple[str, int], list[int]] = {}
    for row in named:
        ids.setdefault((row.error_code, row.of_reason), []).append(row.transaction_id)
    return failure_words.told(
        [
            failure_words.FailureGroup(error_code=code, count=count, transaction_ids=of_code)
            for (code, count), of_code in ids.items()
        ]
    )


def _write_history(connection: Connection, platform: Platform, counts: Closed, engine: str) -> None:
    summary = {
        "total_transactions": counts.total,
        "processed_transactions": counts.total - counts.skipped,
        "approved_count": counts.approved,
        "rejected_count": counts.rejected,
        "undecided_count": counts.undecided,
        "failed_count": counts.failed,
        "skipped_count": counts.skipped,
    } | _spent(connection, counts.audit_history_id, engine)
    changes: dict[str, Any] = {
        "status": counts.outcome.value,
        "completed_at": now(connection),
        "error_message": counts.error,
        "total_transactions": counts.total,
        "processed_transactions": summary["processed_transactions"],
        "approved_count": counts.approved,
        "rejected_count": counts.rejected,
        "audit_info": _audit_info(connection, counts, summary),
    }
    if "audit_records" in platform.history_columns and platform.has_audits:
        changes["audit_records"] = _audit_records(connection, counts.audit_history_id)
    connection.execute(update(history).where(history.c.id == counts.audit_history_id).values(changes))


def _spent(connection: Connection, audit_history_id: int, engine: str) -> dict[str, Any]:
    """What all calls of the batch used, the failed and superseded ones too; the cost is unknown if one call's is."""
    of_batch = calls.c.audit_history_id == audit_history_id
    used = or_(calls.c.input_tokens.is_not(None), calls.c.output_tokens.is_not(None))
    row = connection.execute(
        select(
            func.coalesce(func.sum(calls.c.input_tokens), 0).label("input"),
            func.coalesce(func.sum(calls.c.output_tokens), 0).label("output"),
            func.coalesce(func.sum(calls.c.cached_tokens), 0).label("cached"),
            func.count().filter(used, calls.c.cost.is_(None)).label("unpriced"),
            exact_sum(connection, calls.c.cost).label("cost"),
        ).where(of_batch)
    ).one()
    named = func.coalesce(calls.c.model_answered, calls.c.model)
    model = connection.execute(
        select(named).where(of_batch).group_by(named).order_by(func.count().desc(), named).limit(1)
    ).scalar_one_or_none()
    return {
        "token_usage": {
            "total_input_tokens": row.input,
            "total_output_tokens": row.output,
            "total_tokens": row.input + row.output,
            "cached_input_tokens": row.cached,
        },
        "cost_usd": None if row.unpriced else float(row.cost or 0),
        "model": model,
        "engine": engine,
    }


def _audit_info(connection: Connection, counts: Closed, summary: dict[str, Any]) -> Any:
    """The whole `audit_info` as one SQL expression: neither the items nor the result pass through this process."""
    sql = JsonFunctions(connection)
    truncated = counts.total > TRUNCATE_ABOVE
    spent = (
        select(
            calls.c.transaction_id,
            func.sum(func.coalesce(calls.c.input_tokens, 0) + func.coalesce(calls.c.output_tokens, 0)).label("tokens"),
        )
        .where(calls.c.audit_history_id == counts.audit_history_id)
        .group_by(calls.c.transaction_id)
        .subquery("spent")
    )
    status = case((items.c.state == ItemState.DONE.value, items.c.verdict_status), else_=items.c.state)
    shown = (
        select(
            items.c.transaction_id,
            status.label("status"),
            sql.member(items.c.verdict, "rejected_by").label("rejected_by"),
            sql.member(items.c.verdict, "warned_by").label("warned_by"),
            spent.c.tokens,
        )
        .outerjoin_from(items, spent, spent.c.transaction_id == items.c.transaction_id)
        .where(items.c.audit_history_id == counts.audit_history_id)
        .order_by(items.c.transaction_id)
    )
    if truncated:
        rejected = items.c.verdict_status == VerdictStatus.REJECTED.value
        shown = shown.where(or_(state_is(ItemState.FAILED), and_(state_is(ItemState.DONE), rejected)))
    entry = shown.subquery("entry")
    entries = select(
        sql.array(
            sql.object(
                transaction_id=entry.c.transaction_id,
                status=entry.c.status,
                rejected_by=func.coalesce(sql.value(entry.c.rejected_by), sql.constant([])),
                warned_by=func.coalesce(sql.value(entry.c.warned_by), sql.constant([])),
                tokens=func.coalesce(entry.c.tokens, 0),
            )
        )
    ).scalar_subquery()
    parts = {"audit_results": sql.value(entries), "summary": sql.constant(summary)}
    if truncated:
        parts["truncated"] = sql.constant(True)
    return sql.object(**parts)


def _audit_records(connection: Connection, audit_history_id: int) -> Any:
    """The ids of the batch's rows in transaction_audits, as the column keeps lists of ids."""
    listed = select(cast(items.c.audit_record_id, Integer).label("id")).where(
        items.c.audit_history_id == audit_history_id, items.c.audit_record_id.is_not(None)
    )
    if connection.dialect.name == "postgresql":
        return func.array(listed.order_by(items.c.audit_record_id).scalar_subquery())
    ids = listed.order_by(items.c.audit_record_id).subquery("ids")
    return select(func.json_group_array(ids.c.id)).scalar_subquery()


def _forget(connection: Connection, counts: Closed) -> None:
    """Note the end in our own row, and drop the items that nothing asks for any more; failed ones stay for `retry`."""
    connection.execute(
        update(batches)
        .where(batches.c.audit_history_id == counts.audit_history_id)
        .values(closed_at=now(connection), outcome=counts.outcome.value, error=counts.error, rules=None)
    )
    connection.execute(
        delete(items).where(
            items.c.audit_history_id == counts.audit_history_id, state_is(ItemState.DONE, ItemState.SKIPPED)
        )
    )
