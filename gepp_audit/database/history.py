"""Reads back what became of batches: the newest ones, filtered, or one of them.

The platform's row has the counters; undecided and failed ones, tokens and money stand in its `audit_info.summary` once
the batch has ended, and are counted from our items and the ledger before. Pages go by id, newest first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, Text, and_, cast, func, or_, select, type_coerce

from gepp_audit.database.json_functions import JsonFunctions, exact_sum
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.rows import among
from gepp_audit.database.tables import batches, calls, items, state_is
from gepp_audit.database.types import JsonValue
from gepp_audit.model import ItemState, VerdictStatus

#: statuses that the platform gives to batches which it also marks as deleted
_DELETED: Final = frozenset({"cancelled", "undone"})


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFilter:
    """Which batches are wanted; what is empty is not asked for."""

    organizations: tuple[int, ...] = ()
    statuses: tuple[str, ...] = ()
    #: queued at this moment or later
    since: datetime | None = None
    #: queued before this moment
    until: datetime | None = None
    #: older than this batch: the next page
    before: int | None = None
    #: also those that people cancelled or undid, which the platform marks as deleted too; else only where `statuses`
    #: asks for them
    withdrawn: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What calls used. Unknown counts as nothing, so `unpriced` says how many calls' price is not in `cost`."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: Decimal = Decimal(0)
    #: calls that used tokens whose price is unknown
    unpriced: int = 0

    @property
    def total_tokens(self) -> int:
        """In and out."""
        return self.input_tokens + self.output_tokens

    @property
    def price(self) -> Decimal | None:
        """What all of it cost; None: not all of it is known."""
        return None if self.unpriced else self.cost


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLine:
    """One batch as the Audit History shows it."""

    audit_history_id: int
    organization_id: int
    status: str
    started_at: datetime
    completed_at: datetime | None
    #: cancelled, undone or deleted by people
    deleted: bool
    triggered_by: int | None
    total: int
    processed: int
    approved: int
    rejected: int
    #: None: the platform's own program ended it, and does not say
    undecided: int | None = None
    failed: int | None = None
    skipped: int | None = None
    #: None as above
    spent: Spent | None = None
    #: `audit_info.summary`, once the batch has ended
    summary: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    #: our end of it has not come yet
    open: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBatch:
    """One batch, with what else the platform's own history page shows of its row."""

    line: BatchLine
    created_date: datetime | None
    #: as JSON text, for it may be long and nobody here reads it; None: the batch has not ended
    audit_info: str | None


def newest(connection: Connection, most: int, wanted: BatchFilter | None = None) -> list[BatchLine]:
    """The newest batches, newest first, with those that were cancelled or undone; not what was deleted otherwise."""
    statement = _batches(connection).where(*_conditions(wanted or BatchFilter()))
    rows = connection.execute(statement.order_by(history.c.id.desc()).limit(most)).all()
    return _with_live_figures(connection, [_line(row) for row in rows])


def page(connection: Connection, first: int, most: int, wanted: BatchFilter) -> tuple[list[StoredBatch], int]:
    """At most `most` of the newest batches behind the first `first`, and how many there are in all."""
    conditions = _conditions(wanted)
    in_postgresql = connection.dialect.name == "postgresql"
    told = cast(history.c.audit_info, Text) if in_postgresql else type_coerce(history.c.audit_info, Text)
    statement = _batches(connection).add_columns(told.label("audit_info"), history.c.created_date).where(*conditions)
    rows = connection.execute(statement.order_by(history.c.id.desc()).limit(most).offset(first)).all()
    lines = _with_live_figures(connection, [_line(row) for row in rows])
    total = connection.execute(select(func.count()).select_from(history).where(*conditions)).scalar_one()
    stored = [
        StoredBatch(line=line, created_date=row.created_date, audit_info=row.audit_info)
        for line, row in zip(lines, rows, strict=True)
    ]
    return stored, total


def one(connection: Connection, audit_history_id: int, organizations: Sequence[int] = ()) -> BatchLine | None:
    """The batch with this id, deleted or not, or None. `organizations`: None too if it belongs to no one of these."""
    statement = _batches(connection).where(history.c.id == audit_history_id)
    if organizations:
        statement = statement.where(history.c.organization_id.in_(organizations))
    row = connection.execute(statement).one_or_none()
    return None if row is None else _with_live_figures(connection, [_line(row)])[0]


def _conditions(wanted: BatchFilter) -> list[ColumnElement[bool]]:
    shown = history.c.deleted_date.is_(None)
    withdrawn = wanted.withdrawn or not _DELETED.isdisjoint(wanted.statuses)
    conditions: list[ColumnElement[bool]] = [or_(shown, history.c.status.in_(_DELETED)) if withdrawn else shown]
    if wanted.statuses:
        conditions.append(history.c.status.in_(wanted.statuses))
    if wanted.organizations:
        conditions.append(history.c.organization_id.in_(wanted.organizations))
    if wanted.since is not None:  # by the column that has an index; both are written at the same moment
        unknown = and_(history.c.created_date.is_(None), history.c.started_at >= wanted.since)
        conditions.append(or_(history.c.created_date >= wanted.since, unknown))
    if wanted.until is not None:
        unknown = and_(history.c.created_date.is_(None), history.c.started_at < wanted.until)
        conditions.append(or_(history.c.created_date < wanted.until, unknown))
    if wanted.before is not None:
        conditions.append(history.c.id < wanted.before)
    return conditions


def _batches(connection: Connection) -> Select[Any]:
    summary = JsonFunctions(connection).member(history.c.audit_info, "summary")
    return select(
        history.c.id,
        history.c.organization_id,
        history.c.status,
        history.c.started_at,
        history.c.completed_at,
        history.c.deleted_date,
        history.c.triggered_by_user_id,
        func.coalesce(batches.c.total, history.c.total_transactions, 0).label("total"),
        func.coalesce(history.c.processed_transactions, 0).label("processed"),
        func.coalesce(history.c.approved_count, 0).label("approved"),
        func.coalesce(history.c.rejected_count, 0).label("rejected"),
        cast(summary, JsonValue).label("summary")
        if connection.dialect.name == "postgresql"
        else summary.label("summary"),
        func.coalesce(history.c.error_message, batches.c.error).label("error"),
        batches.c.discovered_at,
        batches.c.closed_at,
    ).outerjoin_from(history, batches, batches.c.audit_history_id == history.c.id)


def _line(row: Any) -> BatchLine:
    summary = document(row.summary)
    return BatchLine(
        audit_history_id=row.id,
        organization_id=row.organization_id,
        status=row.status or "",
        started_at=row.started_at,
        completed_at=row.completed_at,
        deleted=row.deleted_date is not None,
        triggered_by=row.triggered_by_user_id,
        total=row.total,
        processed=row.processed,
        approved=row.approved,
        rejected=row.rejected,
        undecided=_count(summary.get("undecided_count")),
        failed=_count(summary.get("failed_count")),
        skipped=_count(summary.get("skipped_count")),
        spent=_spent_of(summary),
        summary=summary,
        error=row.error,
        open=row.completed_at is None and row.deleted_date is None and row.closed_at is None,
    )


def document(value: Any) -> dict[str, Any]:
    """A JSON object of the platform, whatever its column's type; anything else is an empty one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _spent_of(summary: dict[str, Any]) -> Spent | None:
    usage = document(summary.get("token_usage"))
    if not usage:
        return None
    cost = _decimal(summary.get("cost_usd"))
    return Spent(
        input_tokens=_count(usage.get("total_input_tokens")) or 0,
        output_tokens=_count(usage.get("total_output_tokens")) or 0,
        cached_tokens=_count(usage.get("cached_input_tokens")) or 0,
        cost=cost or Decimal(0),
        unpriced=1 if cost is None else 0,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _decimal(value: Any) -> Decimal | None:
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


# -- batches that have not ended ---------------------------------------------------------------------------------------


def _with_live_figures(connection: Connection, lines: list[BatchLine]) -> list[BatchLine]:
    """Count what the platform's rows do not say yet, and what it cost those that were withdrawn."""
    ids = [line.audit_history_id for line in lines if not line.summary]
    if not ids:
        return lines
    counts, spent = _live_counts(connection, ids), spent_by_batch(connection, ids)

    def completed(line: BatchLine) -> BatchLine:
        if line.summary:
            return line
        paid = spent.get(line.audit_history_id, Spent() if line.open else None)
        counted = counts.get(line.audit_history_id)
        if counted is None:
            return replace(line, spent=paid)
        return replace(line, spent=paid, undecided=counted.undecided, failed=counted.failed, skipped=counted.skipped)

    return [completed(line) for line in lines]


def _live_counts(connection: Connection, ids: Sequence[int]) -> dict[int, Any]:
    undecided = and_(state_is(ItemState.DONE), items.c.verdict_status == VerdictStatus.NO_ACTION.value)
    found = connection.execute(
        select(
            items.c.audit_history_id,
            func.count().filter(undecided).label("undecided"),
            func.count().filter(state_is(ItemState.FAILED)).label("failed"),
            func.count().filter(state_is(ItemState.SKIPPED)).label("skipped"),
        )
        .where(among(connection, items.c.audit_history_id, ids))
        .group_by(items.c.audit_history_id)
    )
    return {row.audit_history_id: row for row in found}


def spent_by_batch(connection: Connection, ids: Sequence[int]) -> dict[int, Spent]:
    """What the calls of these batches used so far, from the ledger."""
    found = connection.execute(
        select(calls.c.audit_history_id.label("id"), *spent_columns(connection))
        .where(among(connection, calls.c.audit_history_id, ids))
        .group_by(calls.c.audit_history_id)
    )
    return {row.id: spent_from(row) for row in found}


def spent_columns(connection: Connection) -> list[ColumnElement[Any]]:
    """The aggregates over ledger rows that `spent_from` reads."""
    used = or_(calls.c.input_tokens.is_not(None), calls.c.output_tokens.is_not(None))

    def total(column: Any) -> ColumnElement[int]:
        return cast(func.coalesce(func.sum(column), 0), BigInteger)

    return [
        func.count().label("calls"),
        total(calls.c.input_tokens).label("input_tokens"),
        total(calls.c.output_tokens).label("output_tokens"),
        total(calls.c.cached_tokens).label("cached_tokens"),
        func.count().filter(used, calls.c.cost.is_(None)).label("unpriced"),
        exact_sum(connection, calls.c.cost).label("cost"),
    ]


def spent_from(row: Any) -> Spent:
    """What a row with `spent_columns` says."""
    return Spent(
        calls=row.calls,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        cost=row.cost or Decimal(0),
        unpriced=row.unpriced,
    )
