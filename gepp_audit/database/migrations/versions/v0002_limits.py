"""Limits: what a call reserves, what a day has spent, and the pace that the provider asks for; finding old batches.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Date, Integer, Text, text

from gepp_audit.database.types import ExactDecimal, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns that an older version leaves empty, and one table that it does not know."""
    op.add_column("gepp_audit_batches", Column("prompt_tokens", Integer()))
    op.add_column("gepp_audit_calls", Column("reserved_cost", ExactDecimal(14, 8)))
    op.add_column("gepp_audit_limits", Column("pace_until", UtcDateTime()))
    op.add_column("gepp_audit_limits", Column("pace_calls_per_minute", Integer()))
    op.add_column("gepp_audit_limits", Column("pace_tokens_per_minute", BigInteger()))
    op.create_table(
        "gepp_audit_spend",
        Column("scope", Text(), primary_key=True),
        Column("day", Date(), primary_key=True),
        Column("through_call", BigInteger(), nullable=False),
        Column("tokens", BigInteger(), nullable=False),
        Column("cost", ExactDecimal(14, 8), nullable=False),
        Column("warned_at_percent", Integer(), nullable=False, server_default="0"),
    )
    ended = text("closed_at IS NOT NULL")
    op.create_index(
        "ix_gepp_audit_batches_closed", "gepp_audit_batches", ["closed_at"], postgresql_where=ended, sqlite_where=ended
    )
