"""What publishing writes of a settled item: the transaction, its row in transaction_audits, our mark and the counters.

Used by `publish` alone, whose protocol says when.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Delete,
    Integer,
    String,
    Text,
    Update,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.engine import Row
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from gepp_audit.database.platform import Platform, auditing_organizations
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.platform_tables import transaction_audits, transactions
from gepp_audit.database.rows import Rows, among_later, ids_of, kept
from gepp_audit.database.tables import batches, items, state_is
from gepp_audit.database.types import AuditStatus, JsonValue, NaiveUtcDateTime, UtcDateTime
from gepp_audit.model import ItemState, VerdictStatus

_NEW: Final = Rows(
    "verdicts",
    id=BigInteger(),
    ai_audit_status=Text(),
    note=JsonValue,
    rejected_by=JsonValue,
    warned_by=JsonValue,
    tokens=JsonValue,
    new_status=Text(),
)


def write(connection: Connection, platform: Platform, writable: Sequence[Row[Any]], moment: datetime) -> None:
    """Write these settled items, whose transactions are locked and wanted, in the caller's transaction."""
    deciding = auditing_organizations(connection, {item.organization_id for item in writable})
    values = [_transaction_row(platform, item, item.organization_id in deciding) for item in writable]
    written = connection.execute(
        _update_transactions(connection, platform.transaction_columns), _NEW.fill(connection, values) | _at(moment)
    )
    statuses: dict[int, str | None] = {row.id: row.status for row in written}
    records = _write_audits(connection, writable, statuses, moment) if platform.has_audits else {}
    _mark_published(connection, writable, records, moment)
    _forget_failures(connection, writable)
    _count(connection, writable)


#: the moment of publishing, a parameter of the kept statements, for the platform's two kinds of times and ours
_UTC: Final = bindparam("written_at", type_=UtcDateTime())
_NAIVE: Final = bindparam("written_at_naive", type_=NaiveUtcDateTime())


def _at(moment: datetime) -> dict[str, datetime]:
    return {"written_at": moment, "written_at_naive": moment}


@kept
def _update_transactions(connection: Connection, columns: frozenset[str]) -> ReturningUpdate[Any]:
    """The verdicts, in as many of `columns` as this platform has."""
    new = _NEW.table(connection)
    changes: dict[str, Any] = {
        "ai_audit_status": cast(new.c.ai_audit_status, AuditStatus),
        "ai_audit_note": new.c.note,
        "reject_triggers": new.c.rejected_by,
        "warning_triggers": new.c.warned_by,
        "status": case(
            (
                func.coalesce(transactions.c.status, "pending") == "pending",
                func.coalesce(new.c.new_status, transactions.c.status),
            ),
            else_=transactions.c.status,
        ),
        "ai_audit_date": _NAIVE,
        "audit_tokens": new.c.tokens,
    }
    return (
        update(transactions)
        .where(transactions.c.id == new.c.id)
        .values({name: value for name, value in changes.items() if name in columns})
        .returning(transactions.c.id, transactions.c.status)
    )


def _transaction_row(platform: Platform, item: Row[Any], decides: bool) -> dict[str, Any]:
    verdict = item.verdict if item.state == ItemState.DONE else None
    status = item.verdict_status if verdict else platform.failed_label
    may_decide = decides and status in (VerdictStatus.APPROVED, VerdictStatus.REJECTED)
    return {
        "id": item.transaction_id,
        "ai_audit_status": status,
        "note": verdict or {"status": "failed", "error_code": item.error_code, "error": item.error},
        "rejected_by": verdict["rejected_by"] if verdict else [],
        "warned_by": verdict["warned_by"] if verdict else [],
        "tokens": _tokens(item),
        "new_status": status if may_decide else None,
    }


def _tokens(item: Row[Any]) -> dict[str, Any] | None:
    if item.input_tokens is None and item.output_tokens is None:
        return None
    return {
        "input_tokens": item.input_tokens,
        "output_tokens": item.output_tokens,
        "total_tokens": (item.input_tokens or 0) + (item.output_tokens or 0),
        "cached_input_tokens": item.cached_tokens,
    }


_AUDIT: Final = Rows(
    "audits",
    transaction_id=BigInteger(),
    organization_id=BigInteger(),
    audit_notes=JsonValue,
    audit_status=String(50),
    ai_audit_status=String(50),
    processing_time_ms=Integer(),
    token_usage=JsonValue,
    model_version=String(100),
)


def _write_audits(
    connection: Connection, writable: Sequence[Row[Any]], statuses: dict[int, str | None], moment: datetime
) -> dict[int, int]:
    values = [
        {
            "transaction_id": item.transaction_id,
            "organization_id": item.organization_id,
            "audit_notes": item.verdict,
            "audit_status": statuses.get(item.transaction_id),
            "ai_audit_status": item.verdict_status,
            "processing_time_ms": item.latency_ms,
            "token_usage": _tokens(item),
            "model_version": (item.model or "")[:100] or None,
        }
        for item in writable
        if item.state == ItemState.DONE
    ]
    if not values:
        return {}
    written = connection.execute(_insert_audits(connection), _AUDIT.fill(connection, values) | _at(moment))
    return {row.transaction_id: row.id for row in written}


@kept
def _insert_audits(connection: Connection) -> ReturningInsert[Any]:
    new = _AUDIT.table(connection)
    source = select(
        *(new.c[name] for name in _AUDIT.columns),
        literal(False, Boolean),
        literal("ai_async", Text),
        literal(True, Boolean),
        _UTC,
        _UTC,
    )
    columns = [*_AUDIT.columns, "by_human", "audit_type", "is_active", "created_date", "updated_date"]
    return (
        insert(transaction_audits)
        .from_select(columns, source, include_defaults=False)
        .returning(transaction_audits.c.transaction_id, transaction_audits.c.id)
    )


_PUBLISHED: Final = Rows(
    "published",
    audit_history_id=BigInteger(),
    transaction_id=BigInteger(),
    audit_record_id=BigInteger(),
)


def _mark_published(
    connection: Connection, writable: Sequence[Row[Any]], records: dict[int, int], moment: datetime
) -> None:
    values = [
        {
            "audit_history_id": item.audit_history_id,
            "transaction_id": item.transaction_id,
            "audit_record_id": records.get(item.transaction_id),
        }
        for item in writable
    ]
    connection.execute(_update_items(connection), _PUBLISHED.fill(connection, values) | _at(moment))


@kept
def _update_items(connection: Connection) -> Update:
    new = _PUBLISHED.table(connection)
    return (
        update(items)
        .where(items.c.audit_history_id == new.c.audit_history_id, items.c.transaction_id == new.c.transaction_id)
        .values(published_at=_UTC, audit_record_id=new.c.audit_record_id)
    )


def _forget_failures(connection: Connection, writable: Sequence[Row[Any]]) -> None:
    """A verdict outdates what failed before it: only the latest outcome of a transaction is remembered."""
    decided = [item.transaction_id for item in writable if item.state == ItemState.DONE]
    connection.execute(_delete_failures(connection), ids_of(connection, "written_ids", decided))


@kept
def _delete_failures(connection: Connection) -> Delete:
    return delete(items).where(
        state_is(ItemState.FAILED),
        items.c.published_at.is_not(None),
        among_later(connection, items.c.transaction_id, "written_ids"),
        # asked of each, since SQLite would list every closed batch first
        exists().where(batches.c.audit_history_id == items.c.audit_history_id, batches.c.closed_at.is_not(None)),
    )


def _count(connection: Connection, writable: Sequence[Row[Any]]) -> None:
    """Add to our counters, and show them in the platform's rows where nobody holds those."""
    added: dict[int, dict[str, int]] = {}
    for item in writable:
        count = added.setdefault(item.audit_history_id, {"processed": 0, "approved": 0, "rejected": 0})
        count["processed"] += 1
        count["approved"] += item.verdict_status == VerdictStatus.APPROVED
        count["rejected"] += item.verdict_status == VerdictStatus.REJECTED
    counts = _COUNTED.fill(connection, ({"audit_history_id": id_, **count} for id_, count in added.items()))
    totals = connection.execute(_add_to_counters(connection), counts).all()
    connection.execute(
        _show_counters(connection),
        _COUNTED.fill(connection, (row._asdict() for row in totals)) | ids_of(connection, "counted_ids", added),
    )


@kept
def _add_to_counters(connection: Connection) -> ReturningUpdate[Any]:
    counted = _COUNTED.table(connection).c
    return (
        update(batches)
        .where(batches.c.audit_history_id == counted.audit_history_id)
        .values({name: batches.c[name] + counted[name] for name in ("processed", "approved", "rejected")})
        .returning(batches.c.audit_history_id, batches.c.processed, batches.c.approved, batches.c.rejected)
    )


@kept
def _show_counters(connection: Connection) -> Update:
    counted = _COUNTED.table(connection).c
    free = select(history.c.id).where(among_later(connection, history.c.id, "counted_ids"))
    return (
        update(history)
        .where(
            history.c.id == counted.audit_history_id,
            history.c.id.in_(free.with_for_update(key_share=True, skip_locked=True)),
        )
        .values(
            processed_transactions=counted.processed,
            approved_count=counted.approved,
            rejected_count=counted.rejected,
        )
    )


_COUNTED: Final = Rows(
    "counted", audit_history_id=BigInteger(), processed=Integer(), approved=Integer(), rejected=Integer()
)
