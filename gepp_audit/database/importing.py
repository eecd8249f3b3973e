"""The SQL of `import`: rows of the platform's tables, written into a database whose platform tables are our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, and_, cast, delete, inspect, literal, not_, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from gepp_audit.database.platform_tables import (
    audit_rules,
    embedded_marker,
    organizations,
    transaction_records,
    transactions,
)
from gepp_audit.database.rows import Rows, among
from gepp_audit.database.types import AuditStatus


def is_embedded(connection: Connection) -> bool:
    """Whether `init-db` created the platform's tables of this database: only such a one may be imported into."""
    return inspect(connection).has_table(embedded_marker.name)


def allow_long_pauses(connection: Connection) -> None:
    """Between two statements of this transaction a large file may be walked; other transactions keep their guard."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '10min'")


def organization_ids(connection: Connection) -> set[int]:
    """The ids of all organizations that are there."""
    return set(connection.execute(select(organizations.c.id)).scalars())


def rule_names(connection: Connection) -> dict[str, int]:
    """`rule_id` → id of all rules that are there."""
    return {row.rule_id: row.id for row in connection.execute(select(audit_rules.c.rule_id, audit_rules.c.id))}


def existing_transactions(connection: Connection, ids: Iterable[int]) -> set[int]:
    """Those of these transactions that are there."""
    return set(connection.execute(select(transactions.c.id).where(among(connection, transactions.c.id, ids))).scalars())


def touched_transactions(connection: Connection, ids: Iterable[int]) -> set[int]:
    """Those of these transactions that were audited, are queued, or were decided by a person; the others are locked."""
    statement = (
        select(
            transactions.c.id,
            or_(
                transactions.c.ai_audit_status != cast(literal("null"), AuditStatus),
                transactions.c.is_user_audit.is_(True),
            ).label("touched"),
        )
        .where(among(connection, transactions.c.id, ids))
        .with_for_update()
    )
    return {row.id for row in connection.execute(statement) if row.touched}


def transactions_of_records(connection: Connection, ids: Iterable[int]) -> dict[int, int]:
    """Record id → the transaction that it belongs to, of those of these records that are there."""
    statement = select(transaction_records.c.id, transaction_records.c.created_transaction_id).where(
        among(connection, transaction_records.c.id, ids)
    )
    return {row.id: row.created_transaction_id for row in connection.execute(statement)}


def put(connection: Connection, table: Table, values: Sequence[Mapping[str, Any]]) -> None:
    """Insert these rows, each with every column; one whose id is there is replaced."""
    if not values:
        return
    others = [column.name for column in table.columns if not column.primary_key]
    if connection.dialect.name == "postgresql":  # whose driver would make a round trip per row
        source = Rows("given")
        source.columns.update({column.name: column.type for column in table.columns})  # one of them is called "name"
        chosen = select(*source.table(connection).c)
        on_postgresql = postgresql.insert(table).from_select(table.columns.keys(), chosen)
        replaced = {name: on_postgresql.excluded[name] for name in others}
        statement = on_postgresql.on_conflict_do_update(index_elements=[table.c.id], set_=replaced)
        connection.execute(statement, source.fill(connection, values))
        return
    on_sqlite = sqlite.insert(table)
    replaced = {name: on_sqlite.excluded[name] for name in others}
    connection.execute(
        on_sqlite.on_conflict_do_update(index_elements=[table.c.id], set_=replaced), [dict(row) for row in values]
    )


def remove_other_records(connection: Connection, transaction_ids: Iterable[int], kept: Iterable[int]) -> None:
    """Delete the records of these transactions that are not among `kept`."""
    connection.execute(
        delete(transaction_records).where(
            and_(
                among(connection, transaction_records.c.created_transaction_id, transaction_ids),
                not_(among(connection, transaction_records.c.id, kept)),
            )
        )
    )
