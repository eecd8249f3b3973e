"""Waiting items by when they are due, so that neither a claim nor a wait reads those that are not; suspects apart.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "gepp_audit_items", columns, postgresql_where=text(where), sqlite_where=text(where))


def upgrade() -> None:
    """Exchange the index of the ready items, which an older version does without, and add one of the suspects."""
    _index(
        "ix_gepp_audit_items_due", ["audit_history_id", "available_at", "crashes", "transaction_id"], "state = 'ready'"
    )
    _index("ix_gepp_audit_items_suspect", ["available_at", "audit_history_id"], "state = 'ready' AND crashes >= 2")
    op.drop_index("ix_gepp_audit_items_ready", "gepp_audit_items")
