"""Reads the ledger back: every call that was made for one transaction, and which batches asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Text, cast, false, or_, select, union

from gepp_audit.database.platform import Platform
from gepp_audit.database.platform_tables import transactions
from gepp_audit.database.tables import IS_LIVE, calls, items, runs, state_is
from gepp_audit.model import ItemState, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class CallMade:
    """One row of the ledger with the run that made it."""

    call_id: int
    audit_history_id: int
    run_id: str
    #: None: the run's row is not kept any more
    host: str | None
    model: str
    model_answered: str | None
    tier: str | None
    prompt_version: str
    rules_digest: str | None
    input_digest: str | None
    dispatched_at: datetime
    answered_at: datetime | None
    #: None: under way, or its fate is unknown
    outcome: str | None
    error_code: str | None
    usage: Usage
    #: USD; None: unknown
    cost: Decimal | None
    request_id: str | None
    latency_ms: int | None
    #: a paid verdict that its transaction did not take
    verdict: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionNow:
    """A transaction as the platform shows it now."""

    transaction_id: int
    organization_id: int | None
    #: its ai_audit_status
    label: str
    #: its own status: pending, approved, …
    status: str | None
    deleted: bool
    #: a person decided it
    decided: bool


def transaction_now(connection: Connection, platform: Platform, transaction_id: int) -> TransactionNow | None:
    """The transaction with this id, deleted or not; None: there is none."""
    decided = transactions.c.is_user_audit if "is_user_audit" in platform.transaction_columns else false()
    row = connection.execute(
        select(
            transactions.c.id,
            transactions.c.organization_id,
            cast(transactions.c.ai_audit_status, Text).label("label"),
            transactions.c.status,
            or_(transactions.c.deleted_date.is_not(None), transactions.c.is_active.is_(False)).label("deleted"),
            decided.label("decided"),
        ).where(transactions.c.id == transaction_id)
    ).one_or_none()
    if row is None:
        return None
    return TransactionNow(
        transaction_id=row.id,
        organization_id=row.organization_id,
        label=row.label,
        status=row.status,
        deleted=bool(row.deleted),
        decided=bool(row.decided),
    )


def batches_of(connection: Connection, transaction_id: int, organization_id: int) -> list[int]:
    """The batches that asked about the transaction or still mean to, newest first, as far as our tables remember."""
    of_it = (calls.c.transaction_id == transaction_id, calls.c.organization_id == organization_id)
    waiting = (items.c.transaction_id == transaction_id, items.c.organization_id == organization_id)
    known = union(
        select(calls.c.audit_history_id).where(*of_it),
        # one by one: each has a partial index
        select(items.c.audit_history_id).where(*waiting, IS_LIVE),
        select(items.c.audit_history_id).where(*waiting, state_is(ItemState.FAILED)),
    )
    return sorted(connection.execute(known).scalars(), reverse=True)


def calls_for(
    connection: Connection, transaction_id: int, organization_id: int, *, batch: int | None = None
) -> Sequence[CallMade]:
    """Every call about the transaction that the ledger remembers (90 days), oldest first; `batch`: of this alone."""
    statement = (
        select(calls, runs.c.host)
        .outerjoin_from(calls, runs, runs.c.id == calls.c.run_id)
        .where(calls.c.transaction_id == transaction_id, calls.c.organization_id == organization_id)
        .order_by(calls.c.id)
    )
    if batch is not None:
        statement = statement.where(calls.c.audit_history_id == batch)
    return [_made(row) for row in connection.execute(statement)]


def _made(row: Any) -> CallMade:
    return CallMade(
        call_id=row.id,
        audit_history_id=row.audit_history_id,
        run_id=row.run_id,
        host=row.host,
        model=row.model,
        model_answered=row.model_answered,
        tier=row.tier,
        prompt_version=row.prompt_version,
        rules_digest=row.rules_digest,
        input_digest=row.input_digest,
        dispatched_at=row.dispatched_at,
        answered_at=row.answered_at,
        outcome=row.outcome,
        error_code=row.error_code,
        usage=Usage(
            input_tokens=row.input_tokens,
            cached_tokens=row.cached_tokens,
            cache_write_tokens=row.cache_write_tokens,
            output_tokens=row.output_tokens,
            reasoning_tokens=row.reasoning_tokens,
        ),
        cost=row.cost,
        request_id=row.request_id,
        latency_ms=row.latency_ms,
        verdict=row.verdict,
    )
