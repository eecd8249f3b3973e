"""A platform's database after years of use and in the middle of a busy hour, built in seconds.

1,000,000 history rows of which 205 are open, 250,000 closed batches of ours, a ledger of 1,000,000 calls over 89 days
with 25,000 in the last hour, 200,000 items of 200 open batches of 40 organizations, 20,000 failed items of old batches,
300,000 transactions. The
database itself makes the rows (`big_rows`); indexes are built once the rows are there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psycopg2

from tests.support.big_rows import large, small
from tests.support.platforms import Platform


def fill_postgresql(platform: Platform) -> None:
    """Fill a fresh platform with our tables: the rows first, then the indexes, on two connections at once."""
    statements = large(platform)
    theirs = [table for table in statements if table.startswith("transaction") and table != "transaction_audit_history"]
    groups = [theirs, [table for table in statements if table not in theirs]]
    _run(platform, small(platform))

    def load(tables: Sequence[str]) -> None:
        filling = [statement for table in tables for statement in statements[table]]
        _run(platform, [*_QUICKLY, f"TRUNCATE {', '.join(tables)}", *filling], tables)
        for table in tables:
            _run(platform, [f"VACUUM ANALYZE {table}"])

    with ThreadPoolExecutor(len(groups)) as threads:
        list(threads.map(load, groups))
    _run(platform, ["ANALYZE organizations, audit_rules, main_materials, gepp_audit_limits"])


def clean_up(platform: Platform) -> None:
    """Take away what rolled back transactions left behind in a PostgreSQL database."""
    for table in large(platform):
        _run(platform, [f"VACUUM {table}"])


def refill(platform: Platform, statements: Mapping[str, str]) -> None:
    """Replace the rows of these tables of a PostgreSQL database by what the statements insert."""
    _run(platform, [*_QUICKLY, f"TRUNCATE {', '.join(statements)} CASCADE", *statements.values()], list(statements))
    for table in statements:
        _run(platform, [f"VACUUM ANALYZE {table}"])


#: no checks of foreign keys and no triggers; what is truncated in the same transaction needs no write-ahead log
_QUICKLY: Final = (
    "SET LOCAL session_replication_role = replica",
    "SET LOCAL maintenance_work_mem = '256MB'",
    "SET LOCAL max_parallel_maintenance_workers = 0",
)


def _run(platform: Platform, statements: Sequence[str], loaded: Sequence[str] = ()) -> None:
    """Run the statements in one transaction (one alone: in none), and build the indexes of the tables `loaded` last."""
    connection = psycopg2.connect(platform.url)
    connection.autocommit = len(statements) == 1
    try:
        with connection.cursor() as cursor:
            indexes = _drop_indexes(cursor, loaded)
            for statement in (*statements, *indexes):
                cursor.execute(statement)
        if not connection.autocommit:
            connection.commit()
    finally:
        connection.close()


def _drop_indexes(cursor: Any, tables: Sequence[str]) -> list[str]:
    """Drop the indexes that are no constraint's; returns their definitions."""
    cursor.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY (%s)"
        " AND indexname NOT IN (SELECT conname FROM pg_constraint WHERE contype IN ('p', 'u'))",
        (list(tables),),
    )
    found = cursor.fetchall()
    for name, _ in found:
        cursor.execute(f'DROP INDEX "{name}"')
    return [definition for _, definition in found]


def fill_sqlite(platform: Platform, path: Path) -> None:
    """Fill a fresh embedded database. It is not analyzed: the product never does that either."""
    filling = [*small(platform), *(statement for statements in large(platform).values() for statement in statements)]
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "locking_mode = EXCLUSIVE"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for statement in (*filling, *(definition for _, definition in indexes)):
            connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        connection.close()
