"""Whether what a person names is there at all: organizations, rules, and statuses of batches. Reads only."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from gepp_audit.database.platform_tables import audit_rules, organizations
from gepp_audit.database.platform_tables import transaction_audit_history as history


def unknown_organizations(connection: Connection, ids: Sequence[int]) -> tuple[int, ...]:
    """Those of `ids` that the platform has no organization for; one that was deleted is known."""
    there = set(connection.execute(select(organizations.c.id).where(organizations.c.id.in_(ids))).scalars())
    return tuple(id_ for id_ in dict.fromkeys(ids) if id_ not in there)


def unknown_rules(connection: Connection, ids: Sequence[str]) -> tuple[str, ...]:
    """Those of `ids` that no rule of the platform has, not even one that was deleted or is switched off."""
    there = set(connection.execute(select(audit_rules.c.rule_id).where(audit_rules.c.rule_id.in_(ids))).scalars())
    return tuple(id_ for id_ in dict.fromkeys(ids) if id_ not in there)


def is_status(connection: Connection, status: str) -> bool:
    """Whether any batch of the platform has this status."""
    return connection.execute(select(history.c.id).where(history.c.status == status).limit(1)).first() is not None
