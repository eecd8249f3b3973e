"""Reads back what became of batches: the newest ones, one of them, and its transactions with their verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, Text, cast, func, select

from gepp_audit.database.batches import listed_ids
from gepp_audit.database.json_functions import JsonFunctions
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.platform_tables import transactions
from gepp_audit.database.tables import batches, calls, items
from gepp_audit.database.types import JsonValue


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLine:
    """One batch as the Audit History shows it."""

    audit_history_id: int
    organization_id: int
    status: str
    started_at: datetime
    completed_at: datetime | None
    total: int
    processed: int
    approved: int
    rejected: int
    #: `audit_info.summary`, once the batch has ended
    summary: dict[str, Any]
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionLine:
    """One transaction of a batch with what an audit said of it."""

    transaction_id: int
    #: the platform's label now, or why it was not audited
    status: str
    #: what was written into `ai_audit_note`
    note: dict[str, Any]
    input_tokens: int | None
    output_tokens: int | None


def newest(connection: Connection, most: int) -> list[BatchLine]:
    """The newest batches, deleted ones left out, newest first."""
    statement = _batches(connection).where(history.c.deleted_date.is_(None)).order_by(history.c.id.desc()).limit(most)
    return [_line(row) for row in connection.execute(statement)]


def one(connection: Connection, audit_history_id: int) -> BatchLine | None:
    """The batch with this id, or None."""
    row = connection.execute(_batches(connection).where(history.c.id == audit_history_id)).one_or_none()
    return None if row is None else _line(row)


def _batches(connection: Connection) -> Select[Any]:
    summary = JsonFunctions(connection).member(history.c.audit_info, "summary")
    return select(
        history.c.id,
        history.c.organization_id,
        history.c.status,
        history.c.started_at,
        history.c.completed_at,
        func.coalesce(batches.c.total, history.c.total_transactions, 0).label("total"),
        func.coalesce(history.c.processed_transactions, 0).label("processed"),
        func.coalesce(history.c.approved_count, 0).label("approved"),
        func.coalesce(history.c.rejected_count, 0).label("rejected"),
        cast(summary, JsonValue).label("summary")
        if connection.dialect.name == "postgresql"
        else summary.label("summary"),
        func.coalesce(history.c.error_message, batches.c.error).label("error"),
    ).outerjoin_from(history, batches, batches.c.audit_history_id == history.c.id)


def _line(row: Any) -> BatchLine:
    return BatchLine(
        audit_history_id=row.id,
        organization_id=row.organization_id,
        status=row.status,
        started_at=row.started_at,
        completed_at=row.completed_at,
        total=row.total,
        processed=row.processed,
        approved=row.approved,
        rejected=row.rejected,
        summary=_document(row.summary),
        error=row.error,
    )


def _document(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    return value if isinstance(value, dict) else {}


def transactions_of(
    connection: Connection, audit_history_id: int, most: int, after: int = 0
) -> Sequence[TransactionLine]:
    """Transactions of the batch by id, at most `most`, those after the id `after`; each with its tokens over all its
    calls.
    """
    listed = listed_ids(connection, audit_history_id)
    spent = (
        select(
            calls.c.transaction_id,
            func.sum(calls.c.input_tokens).label("input_tokens"),
            func.sum(calls.c.output_tokens).label("output_tokens"),
        )
        .where(calls.c.audit_history_id == audit_history_id)
        .group_by(calls.c.transaction_id)
        .subquery("spent")
    )
    # another organization's data never shows here, even where a batch lists its ids
    organization = select(history.c.organization_id).where(history.c.id == audit_history_id).scalar_subquery()
    of_the_same_organization = transactions.c.organization_id == organization
    statement = (
        select(
            listed.c.id,
            cast(transactions.c.ai_audit_status, Text).label("label"),
            transactions.c.ai_audit_note,
            items.c.skip_reason,
            items.c.error_code,
            items.c.error,
            spent.c.input_tokens,
            spent.c.output_tokens,
        )
        .select_from(
            listed.outerjoin(transactions, (transactions.c.id == listed.c.id) & of_the_same_organization)
            .outerjoin(items, (items.c.audit_history_id == audit_history_id) & (items.c.transaction_id == listed.c.id))
            .outerjoin(spent, spent.c.transaction_id == listed.c.id)
        )
        .where(listed.c.id > after)
        .order_by(listed.c.id)
        .limit(most)
    )
    return [
        TransactionLine(
            transaction_id=row.id,
            status=row.skip_reason or row.label or "not_found",
            note=_document(row.ai_audit_note)
            or ({"error_code": row.error_code, "error": row.error} if row.error else {}),
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
        )
        for row in connection.execute(statement)
    ]
