"""The queue: batches, items, the ledger of calls, daily usage, runs, limits.

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Double,
    Integer,
    String,
    Text,
    false,
    text,
)

from gepp_audit.database.types import BigKey, ExactDecimal, JsonValue, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _index(
    name: str,
    table: str,
    columns: list[str],
    *,
    where: str | None = None,
    unique: bool = False,
) -> None:
    condition = None if where is None else text(where)
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        postgresql_where=condition,
        sqlite_where=condition,
    )


def upgrade() -> None:
    """Create every table of the first version, and the row that is the mutex of the claim."""
    op.create_table(
        "gepp_audit_batches",
        Column("audit_history_id", BigInteger(), primary_key=True, autoincrement=False),
        Column("organization_id", BigInteger(), nullable=False),
        Column("started_at", UtcDateTime(), nullable=False),
        Column("discovered_at", UtcDateTime(), nullable=False),
        Column("fanned_out_at", UtcDateTime()),
        Column("closed_at", UtcDateTime()),
        Column("outcome", Text()),
        Column("total", Integer()),
        Column("processed", Integer(), nullable=False, server_default="0"),
        Column("approved", Integer(), nullable=False, server_default="0"),
        Column("rejected", Integer(), nullable=False, server_default="0"),
        Column("forced", Boolean(), nullable=False, server_default=false()),
        Column("rules_digest", String(64)),
        Column("rules", JsonValue),
        Column("error", Text()),
        CheckConstraint(
            "outcome IN ('completed', 'failed', 'withdrawn')",
            name="ck_gepp_audit_batches_outcome",
        ),
    )
    _index(
        "ix_gepp_audit_batches_open",
        "gepp_audit_batches",
        ["started_at", "audit_history_id"],
        where="closed_at IS NULL",
    )
    op.create_table(
        "gepp_audit_calls",
        Column("id", BigKey, primary_key=True, autoincrement=True),
        Column("run_id", String(32), nullable=False),
        Column("audit_history_id", BigInteger(), nullable=False),
        Column("transaction_id", BigInteger(), nullable=False),
        Column("organization_id", BigInteger(), nullable=False),
        Column("engine", Text(), nullable=False),
        Column("model", Text(), nullable=False),
        Column("model_answered", Text()),
        Column("tier", Text()),
        Column("prompt_version", Text(), nullable=False),
        Column("rules_digest", String(64)),
        Column("input_digest", String(64)),
        Column("dispatched_at", UtcDateTime(), nullable=False),
        Column("answered_at", UtcDateTime()),
        Column("outcome", Text()),
        Column("reserved_tokens", Integer()),
        Column("input_tokens", Integer()),
        Column("cached_tokens", Integer()),
        Column("cache_write_tokens", Integer()),
        Column("output_tokens", Integer()),
        Column("reasoning_tokens", Integer()),
        Column("cost", ExactDecimal(14, 8)),
        Column("request_id", Text()),
        Column("latency_ms", Integer()),
        Column("error_code", Text()),
        Column("verdict", JsonValue),
        CheckConstraint(
            "outcome IN ('verdict', 'superseded', 'retry', 'answer', 'item', 'block', "
            "'released', 'abandoned', 'expired')",
            name="ck_gepp_audit_calls_outcome",
        ),
        sqlite_autoincrement=True,
    )
    _index(
        "ix_gepp_audit_calls_dispatched",
        "gepp_audit_calls",
        ["dispatched_at", "organization_id"],
    )
    _index(
        "ix_gepp_audit_calls_transaction",
        "gepp_audit_calls",
        ["audit_history_id", "transaction_id"],
    )
    _index(
        "ix_gepp_audit_calls_unknown",
        "gepp_audit_calls",
        ["run_id"],
        where="outcome IS NULL",
    )
    op.create_table(
        "gepp_audit_items",
        Column("audit_history_id", BigInteger(), primary_key=True, autoincrement=False),
        Column("transaction_id", BigInteger(), primary_key=True, autoincrement=False),
        Column("organization_id", BigInteger(), nullable=False),
        Column("state", Text(), nullable=False),
        Column("skip_reason", Text()),
        Column("call_id", BigInteger()),
        Column("lease_until", UtcDateTime()),
        Column("available_at", UtcDateTime(), nullable=False),
        Column("crashes", Integer(), nullable=False, server_default="0"),
        Column("attempts", Integer(), nullable=False, server_default="0"),
        Column("waits", Integer(), nullable=False, server_default="0"),
        Column("edits", Integer(), nullable=False, server_default="0"),
        Column("first_failed_at", UtcDateTime()),
        Column("error_code", Text()),
        Column("error", Text()),
        Column("verdict_status", Text()),
        Column("verdict", JsonValue),
        Column("input_digest", String(64)),
        Column("settled_at", UtcDateTime()),
        Column("audit_record_id", BigInteger()),
        Column("published_at", UtcDateTime()),
        CheckConstraint(
            "state <> 'done' OR verdict IS NOT NULL",
            name="ck_gepp_audit_items_done_has_verdict",
        ),
        CheckConstraint(
            "state <> 'failed' OR error_code IS NOT NULL",
            name="ck_gepp_audit_items_failed_has_code",
        ),
        CheckConstraint(
            "state <> 'skipped' OR skip_reason IS NOT NULL",
            name="ck_gepp_audit_items_skipped_has_reason",
        ),
        CheckConstraint(
            "state IN ('ready', 'calling', 'submitted', 'done', 'failed', 'skipped')",
            name="ck_gepp_audit_items_state",
        ),
        CheckConstraint(
            "verdict_status IN ('approved', 'rejected', 'no_action')",
            name="ck_gepp_audit_items_verdict_status",
        ),
    )
    _index(
        "ix_gepp_audit_items_calling",
        "gepp_audit_items",
        ["lease_until", "organization_id", "audit_history_id"],
        where="state = 'calling'",
    )
    _index(
        "ix_gepp_audit_items_failed",
        "gepp_audit_items",
        ["transaction_id", "settled_at"],
        where="state = 'failed'",
    )
    _index(
        "ix_gepp_audit_items_ready",
        "gepp_audit_items",
        ["audit_history_id", "crashes", "transaction_id", "available_at"],
        where="state = 'ready'",
    )
    _index(
        "ix_gepp_audit_items_unpublished",
        "gepp_audit_items",
        ["audit_history_id", "transaction_id"],
        where="state IN ('done', 'failed') AND published_at IS NULL",
    )
    _index(
        "uq_gepp_audit_items_live",
        "gepp_audit_items",
        ["transaction_id"],
        where="state IN ('ready', 'calling', 'submitted') OR (state IN ('done', 'failed') AND published_at IS NULL)",
        unique=True,
    )
    op.create_table(
        "gepp_audit_limits",
        Column("scope", Text(), primary_key=True),
        Column("calls_per_minute", Integer()),
        Column("tokens_per_minute", BigInteger()),
        Column("concurrency", Integer()),
        Column("tokens_per_day", BigInteger()),
        Column("cost_per_day", ExactDecimal(14, 2)),
        Column("paused_at", UtcDateTime()),
        Column("paused_reason", Text()),
        Column("blocked_until", UtcDateTime()),
        Column("blocked_reason", Text()),
        Column("blocked_detail", Text()),
        Column("blocked_at", UtcDateTime()),
        Column("throttled_until", UtcDateTime()),
    )
    op.create_table(
        "gepp_audit_runs",
        Column("id", Text(), primary_key=True),
        Column("host", Text(), nullable=False),
        Column("boot_id", Text(), nullable=False),
        Column("pid_namespace", Text(), nullable=False),
        Column("pid", Integer(), nullable=False),
        Column("pid_started_at", Double(), nullable=False),
        Column("version", Text(), nullable=False),
        Column("started_at", UtcDateTime(), nullable=False),
        Column("reported_at", UtcDateTime(), nullable=False),
        Column("draining_at", UtcDateTime()),
        Column("finished_at", UtcDateTime()),
        Column("outcome", Text()),
        Column("counts", JsonValue),
    )
    _index("ix_gepp_audit_runs_reported", "gepp_audit_runs", ["reported_at"])
    _index(
        "ix_gepp_audit_runs_unfinished",
        "gepp_audit_runs",
        ["host"],
        where="finished_at IS NULL",
    )
    op.create_table(
        "gepp_audit_usage_daily",
        Column("day", Date(), primary_key=True),
        Column("organization_id", BigInteger(), primary_key=True, autoincrement=False),
        Column("model", Text(), primary_key=True),
        Column("calls", BigInteger(), nullable=False),
        Column("failed_calls", BigInteger(), nullable=False),
        Column("input_tokens", BigInteger(), nullable=False),
        Column("cached_tokens", BigInteger(), nullable=False),
        Column("cache_write_tokens", BigInteger(), nullable=False),
        Column("output_tokens", BigInteger(), nullable=False),
        Column("reasoning_tokens", BigInteger(), nullable=False),
        Column("unpriced_calls", BigInteger(), nullable=False),
        Column("cost", ExactDecimal(14, 8), nullable=False),
    )
    op.execute("INSERT INTO gepp_audit_limits (scope) VALUES ('global')")
