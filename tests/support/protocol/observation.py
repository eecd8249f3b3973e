"""What stands in the database, seen from outside: by a connection of the test's own and plain SQL.

The same connection is the platform's: it writes what people do. It also lets time pass, by moving every moment that our
tables hold into the past.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg2

from gepp_audit.database.engine import parse_url, sqlite_path
from gepp_audit.database.tables import metadata
from gepp_audit.database.types import UtcDateTime, sqlite_timestamp
from tests.support.platforms import Platform

Row = dict[str, Any]
#: batch, transaction
Key = tuple[int, int]
#: what an audit may see of a transaction, as far as the people of the model change it
Content = tuple[Any, ...]

_SEEN: Final = ("organization_id", "status", "notes")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All rows that the protocol is about, at one moment."""

    transactions: Mapping[int, Row]
    record_notes: Mapping[int, Any]
    history: Mapping[int, Row]
    batches: Mapping[int, Row]
    items: Mapping[Key, Row]
    calls: Mapping[int, Row]

    def content(self, transaction: int) -> Content | None:
        """What a call is shown of the transaction now; None: it is gone."""
        row = self.transactions.get(transaction)
        return None if row is None else (*(row[name] for name in _SEEN), self.record_notes.get(transaction))

    def listed(self, batch: int) -> list[int]:
        """The distinct ids of the platform's row, or none where it is gone."""
        row = self.history.get(batch)
        if row is None:
            return []
        ids = row["transactions"]
        return list(dict.fromkeys(json.loads(ids) if isinstance(ids, str) else ids))

    def is_open(self, batch: int, *statuses: str) -> bool:
        """Whether people still want the batch; `statuses`: which count as open, default in_progress."""
        row = self.history.get(batch)
        return row is not None and row["deleted_date"] is None and row["status"] in (statuses or ("in_progress",))


def untouched(row: Row) -> bool:
    """The transaction is there, and no person decided it."""
    return row["deleted_date"] is None and row["is_active"] not in (False, 0) and not row.get("is_user_audit")


def moment(value: Any) -> datetime | None:
    """A stored moment, aware and in UTC, of either database."""
    if value is None:
        return None
    read: datetime = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)


class Observer:
    """The test's own connection to the database of `platform`; commits at once."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._holder: Any = None
        if platform.is_postgresql:
            self._connection: Any = psycopg2.connect(platform.url)
            self._connection.autocommit = True
        else:
            path = sqlite_path(parse_url(platform.url))
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.create_function("shifted", 2, _shifted)
        self._cursor = self._connection.cursor()

    def close(self) -> None:
        """Let go what is held, and the connections."""
        self.let_go()
        self._connection.close()

    def execute(self, statement: str) -> None:
        """Run one statement and commit it. What is held by `hold` is let go first: nobody waits for himself."""
        self.let_go()
        self._cursor.execute(statement)

    def transaction(self, *statements: str) -> None:
        """Run these in one transaction."""
        self.let_go()
        self._cursor.execute("BEGIN")
        for statement in statements:
            self._cursor.execute(statement)
        self._cursor.execute("COMMIT")

    def rows(self, statement: str) -> list[Row]:
        """What a query returns."""
        self._cursor.execute(statement)
        names = [column[0] for column in self._cursor.description]
        return [dict(zip(names, row, strict=True)) for row in self._cursor.fetchall()]

    def hold(self, statement: str) -> None:
        """Keep the rows that `statement` locks in a transaction of the platform's own, until `let_go`."""
        self.let_go()
        self._holder = psycopg2.connect(self.platform.url)
        self._holder.cursor().execute(statement)

    def let_go(self) -> None:
        """End what `hold` began."""
        if self._holder is not None:
            self._holder.rollback()
            self._holder.close()
            self._holder = None

    @property
    def holds(self) -> bool:
        """Whether the platform keeps rows locked at this moment."""
        return self._holder is not None

    # -- the whole state -----------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """All rows that the protocol is about."""
        records = self.rows("SELECT created_transaction_id AS id, notes FROM transaction_records")
        return Snapshot(
            transactions=_by_id(self.rows("SELECT * FROM transactions")),
            record_notes={row["id"]: row["notes"] for row in records},
            history=_by_id(self.rows("SELECT * FROM transaction_audit_history")),
            batches=_by_id(self.rows("SELECT * FROM gepp_audit_batches"), "audit_history_id"),
            items={
                (row["audit_history_id"], row["transaction_id"]): row
                for row in self.rows("SELECT * FROM gepp_audit_items")
            },
            calls=_by_id(self.rows("SELECT * FROM gepp_audit_calls")),
        )

    def clear(self) -> None:
        """Empty all tables but the organizations and rules; the gate stands open again."""
        self.let_go()
        audits = ["transaction_audits"] if self.platform.is_new else []
        ours = [table.name for table in metadata.sorted_tables if table.name != "gepp_audit_limits"]
        theirs = [*audits, "transaction_records", "transactions", "transaction_audit_history"]
        columns = [column.name for column in metadata.tables["gepp_audit_limits"].columns if column.nullable]
        self.transaction(
            *(f"DELETE FROM {table}" for table in [*ours, *theirs]),
            "DELETE FROM gepp_audit_limits WHERE scope <> 'global'",
            f"UPDATE gepp_audit_limits SET {', '.join(f'{name} = NULL' for name in columns)}",
        )

    def let_pass(self, seconds: float) -> None:
        """Time goes on: every moment in our tables lies so many seconds further back."""
        shifted = (
            f"{{0}} - interval '{seconds} seconds'" if self.platform.is_postgresql else f"shifted({{0}}, {seconds})"
        )
        for table in metadata.sorted_tables:
            moments = [column.name for column in table.columns if isinstance(column.type, UtcDateTime)]
            if moments:
                changes = ", ".join(f"{name} = {shifted.format(name)}" for name in moments)
                self._cursor.execute(f"UPDATE {table.name} SET {changes}")


def _by_id(rows: Iterable[Row], name: str = "id") -> dict[int, Row]:
    return {row[name]: row for row in rows}


def _shifted(stored: str | None, seconds: float) -> str | None:
    at = moment(stored)
    return None if at is None else sqlite_timestamp(at - timedelta(seconds=seconds))
