"""The ledger by transaction: what was ever asked about it is found without its batch.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index."""
    op.create_index("ix_gepp_audit_calls_of_transaction", "gepp_audit_calls", ["transaction_id"])
