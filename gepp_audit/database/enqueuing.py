"""The first step of the data's way: transactions become a batch, as the platform's own button writes it.

Unlike the platform's, this is one transaction that marks by UPDATE … RETURNING: a double click cannot queue a
transaction twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Text, and_, cast, insert, literal, or_, select, update

from gepp_audit.database.engine import now
from gepp_audit.database.platform import Platform, untouched
from gepp_audit.database.platform_tables import organizations, transaction_audit_history, transactions
from gepp_audit.database.rows import among
from gepp_audit.database.tables import batches
from gepp_audit.database.types import AuditStatus

#: the platform's batches hold ids as `integer[]`
LARGEST_ID: Final = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A transaction that cannot be queued, and why, in words."""

    transaction_id: int
    why: str


def organization_exists(connection: Connection, organization_id: int) -> bool:
    """Whether there is such an organization, not deleted."""
    found = select(organizations.c.id).where(
        organizations.c.id == organization_id, organizations.c.deleted_date.is_(None)
    )
    return connection.execute(found).one_or_none() is not None


def first_organization(connection: Connection) -> int | None:
    """The organization with the smallest id, not deleted, or None."""
    found = select(organizations.c.id).where(organizations.c.deleted_date.is_(None)).order_by(organizations.c.id)
    return connection.execute(found.limit(1)).scalar_one_or_none()


def candidates(connection: Connection, platform: Platform, organization_id: int, most: int | None) -> list[int]:
    """The organization's transactions that wait for nobody and that nobody decided, oldest first."""
    statement = (
        select(transactions.c.id)
        .where(
            transactions.c.organization_id == organization_id,
            transactions.c.ai_audit_status == cast(literal("null"), AuditStatus),
            transactions.c.id <= LARGEST_ID,
            *untouched(platform),
        )
        .order_by(transactions.c.id)
        .limit(most)
    )
    return list(connection.execute(statement).scalars())


def refusals(connection: Connection, platform: Platform, organization_id: int, ids: Sequence[int]) -> list[Refused]:
    """Which of these ids cannot be queued for the organization, and why; empty: all can."""
    decided = transactions.c.is_user_audit if "is_user_audit" in platform.transaction_columns else literal(False)
    found: dict[int, Any] = {
        row.id: row
        for row in connection.execute(
            select(
                transactions.c.id,
                transactions.c.organization_id,
                or_(transactions.c.deleted_date.is_not(None), transactions.c.is_active.is_(False)).label("deleted"),
                cast(transactions.c.ai_audit_status, Text).label("status"),
                decided.label("decided"),
            ).where(among(connection, transactions.c.id, ids))
        )
    }
    refused = [(id_, _why_not(found.get(id_), organization_id)) for id_ in ids]
    return [Refused(transaction_id=id_, why=why) for id_, why in refused if why is not None]


def _why_not(row: Any, organization_id: int) -> str | None:
    if row is None or row.organization_id != organization_id:
        return f"is no transaction of organization {organization_id}"
    if row.deleted:
        return "was deleted"
    if row.decided:
        return "was decided by a person"
    if row.status == "queued":
        return "is queued already"
    return None if row.status == "null" else f"was audited already ({row.status})"


def mark_queued(connection: Connection, platform: Platform, ids: Sequence[int]) -> list[int]:
    """Set those of `ids` that are still `null` to `queued`; returns them in order."""
    wanted = and_(among(connection, transactions.c.id, ids), *untouched(platform))
    # what the platform holds at this moment is left out, not waited for
    free = select(transactions.c.id).where(wanted).with_for_update(key_share=True, skip_locked=True)
    marked = connection.execute(
        update(transactions)
        .where(
            transactions.c.id.in_(free),
            transactions.c.ai_audit_status == cast(literal("null"), AuditStatus),
        )
        .values(ai_audit_status=cast(literal("queued"), AuditStatus))
        .returning(transactions.c.id)
    ).scalars()
    return sorted(marked)


def insert_batch(
    connection: Connection,
    organization_id: int,
    ids: Sequence[int],
    *,
    status: str,
    triggered_by: int | None,
    forced: bool,
) -> int:
    """Write the platform's row for these queued transactions; returns its id.

    `forced`: those that failed before and did not change are asked again.
    """
    moment = now(connection)
    audit_history_id: int = connection.execute(
        insert(transaction_audit_history)
        .values(
            organization_id=organization_id,
            triggered_by_user_id=triggered_by,
            transactions=list(ids),
            total_transactions=len(ids),
            processed_transactions=0,
            approved_count=0,
            rejected_count=0,
            status=status,
            started_at=moment,
            created_date=moment,
        )
        .returning(transaction_audit_history.c.id)
    ).scalar_one()
    if forced:
        connection.execute(
            insert(batches).values(
                audit_history_id=audit_history_id,
                organization_id=organization_id,
                started_at=moment,
                discovered_at=moment,
                forced=True,
            )
        )
    return audit_history_id
