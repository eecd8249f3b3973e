"""People are told of the day's money as of its tokens, whichever they were told of before.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column, which an older version leaves at 0."""
    op.add_column("gepp_audit_spend", Column("cost_warned_at_percent", Integer(), nullable=False, server_default="0"))
