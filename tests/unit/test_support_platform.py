"""The platform's schema that tests run on bites as its description says, and its snapshot notices every change."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.pool import NullPool

from tests.support.platform_schema import snapshot_schema
from tests.support.platforms import Platform

Snapshot = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
def connection(bare_platform: Platform) -> Iterator[Connection]:
    url = bare_platform.url.replace("postgresql://", "postgresql+psycopg2://")
    with create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        yield connection


old_and_new = pytest.mark.parametrize("bare_platform", ["old", "new"], indirect=True)
new_only = pytest.mark.parametrize("bare_platform", ["new"], indirect=True)


def add_transaction(connection: Connection, **columns: Any) -> int:
    names = ", ".join(columns)
    values = ", ".join(f":{name}" for name in columns)
    statement = f"INSERT INTO transactions ({names}) VALUES ({values}) RETURNING id"
    return int(connection.execute(text(statement), columns).scalar_one())


@old_and_new
def test_the_old_version_lacks_what_is_new(connection: Connection, bare_platform: Platform) -> None:
    columns = {(table, name) for table, name, *_ in snapshot_schema(connection)["columns"]}
    labels = {label for _, label, _ in snapshot_schema(connection)["labels"]}
    new = [
        ("organizations", "public_form_key"),
        ("transactions", "ai_audit_date"),
        ("transactions", "audit_tokens"),
        ("transactions", "is_user_audit"),
        ("transaction_audit_history", "audit_records"),
        ("transaction_audits", "id"),
    ]
    is_new = bare_platform.version == "new"
    assert [column in columns for column in new] == [is_new] * len(new)
    assert ("failed" in labels, "queued" in labels) == (is_new, True)


@old_and_new
@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"weight_kg": -1}, IntegrityError),
        ({"total_amount": "-0.01"}, IntegrityError),
        ({"hazardous_level": 6}, IntegrityError),
        ({"transaction_method": "teleport"}, IntegrityError),
        ({"organization_id": 99}, IntegrityError),
        ({"created_by_id": 99}, IntegrityError),
        ({"weight_kg": 10_000_000}, DataError),
        ({"treatment_method": "x" * 101}, DataError),
    ],
)
def test_a_transaction_that_the_platform_would_refuse_is_refused(
    columns: dict[str, Any], error: type[Exception], connection: Connection
) -> None:
    with pytest.raises(error):
        add_transaction(connection, **columns)


@old_and_new
@pytest.mark.parametrize(("id_", "error"), [(3_000_000_000, DataError), (None, IntegrityError)])
def test_a_batch_holds_ids_of_four_bytes(id_: int | None, error: type[Exception], connection: Connection) -> None:
    value = "NULL" if id_ is None else f"ARRAY[{id_}]"
    with pytest.raises(error):
        connection.execute(
            text(
                "INSERT INTO transaction_audit_history (organization_id, started_at, transactions)"
                f" VALUES (1, now(), {value})"
            )
        )


@old_and_new
def test_an_update_stamps_its_date(connection: Connection) -> None:
    id_ = add_transaction(connection, updated_date=datetime(2020, 1, 1, tzinfo=UTC))
    connection.execute(text("UPDATE transactions SET notes = 'x' WHERE id = :id"), {"id": id_})
    stamped = connection.execute(text("SELECT updated_date > now() - interval '1 hour' FROM transactions"))
    assert stamped.scalar_one() is True


@old_and_new
def test_a_snapshot_without_a_change_is_the_same(connection: Connection) -> None:
    before = snapshot_schema(connection)
    add_transaction(connection, notes="x")
    assert snapshot_schema(connection) == before
    assert all(before[kind] for kind in before)


@old_and_new
def test_our_own_tables_are_no_change(connection: Connection) -> None:
    before = snapshot_schema(connection)
    connection.execute(text("CREATE TABLE gepp_audit_x (id bigserial PRIMARY KEY, name text UNIQUE CHECK (name > ''))"))
    assert snapshot_schema(connection) == before


@new_only
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("CREATE TABLE other (id int)", "tables"),
        ("ALTER TABLE transactions ADD COLUMN extra int", "columns"),
        ("ALTER TABLE transactions ALTER COLUMN notes SET DEFAULT ''", "columns"),
        ("ALTER TABLE organizations ALTER COLUMN name TYPE text", "columns"),
        ("CREATE INDEX extra ON transactions (notes)", "indexes"),
        ("DROP INDEX idx_transactions_status", "indexes"),
        ("ALTER TABLE transactions DROP CONSTRAINT transactions_weight_kg_check", "constraints"),
        ("DROP TRIGGER update_transactions_updated_date ON transactions", "triggers"),
        ("CREATE TABLE gepp_audit_x (id bigint REFERENCES transactions)", "triggers"),
        ("ALTER TYPE ai_audit_status_enum ADD VALUE 'extra'", "labels"),
        ("CREATE FUNCTION extra() RETURNS int LANGUAGE sql AS 'SELECT 1'", "functions"),
        ("CREATE SEQUENCE extra", "sequences"),
    ],
)
def test_a_snapshot_shows_what_was_changed(change: str, kind: str, connection: Connection) -> None:
    before = snapshot_schema(connection)
    connection.execute(text(change))
    assert snapshot_schema(connection)[kind] != before[kind]


def test_a_snapshot_of_the_embedded_database_leaves_our_tables_out(platform: Platform) -> None:
    snapshot = platform.database.read(snapshot_schema)
    assert "gepp_audit_items" not in repr(snapshot)
    assert "transaction_audit_history" in repr(snapshot)
