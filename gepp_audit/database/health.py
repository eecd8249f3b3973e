"""What a doctor asks of a database: its version, its clock, its file, who reported last.

Reads only, a SQLite file through a handle that cannot write. What the facts mean, `queue/doctor/` says.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, and_, create_engine, event, func, inspect, select

from gepp_audit.database.engine import Database, now, open_database, parse_url, sqlite_path
from gepp_audit.database.json_functions import ExactSum
from gepp_audit.database.migrate import revision_of
from gepp_audit.database.platform_tables import embedded_marker, platform_metadata, transaction_audits
from gepp_audit.database.retention import KEPT
from gepp_audit.database.sqlite_files import file_system_of, is_network
from gepp_audit.database.tables import SCHEMA_REVISION, batches, calls, runs
from gepp_audit.database.types import UtcDateTime, sqlite_timestamp
from gepp_audit.database.whole_queue import open_by_status
from gepp_audit.errors import OperatorError

__all__ = [
    "MOST_COUNTED",
    "HostFacts",
    "PlatformShape",
    "Server",
    "SqliteFile",
    "hosts",
    "is_embedded",
    "is_network",
    "is_postgresql",
    "open_to_look",
    "overdue",
    "revision",
    "server",
    "shape",
    "sqlite_file",
]

#: how far a count goes: beyond it, it is "many"
MOST_COUNTED: Final = 10_000
_ROUND_TRIPS: Final = 3
#: pruning happens in small slices between the work, so a day's delay is none
_PRUNED_WITHIN: Final = timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """What answers."""

    #: `PostgreSQL`, `SQLite`
    product: str
    #: (16, 4); (3, 40, 1)
    version: tuple[int, ...]
    #: seconds of one round trip
    round_trip: float
    #: this host's clock minus the database's, in seconds; None: they are one clock
    clock_ahead: float | None
    #: a standby takes no writes
    read_only: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SqliteFile:
    """The file of an embedded database, as it lies on the disk."""

    path: Path
    #: the file's header says that the write-ahead log is in force; None: it is no SQLite database
    wal: bool | None
    #: `ext4`, `nfs4`…; empty: cannot be told
    file_system: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformShape:
    """How far the platform's tables are what we read and write."""

    missing_tables: tuple[str, ...]
    #: `table.column`
    missing_columns: tuple[str, ...]
    #: it has what only newer platforms have
    is_new: bool
    #: open batches by status, as the platform marks them: `in_progress`, `pending`
    open_batches: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class HostFacts:
    """When a host was last heard of."""

    host: str
    reported_at: datetime
    version: str


def is_postgresql(url: str) -> bool:
    """Whether `url` names a PostgreSQL."""
    return parse_url(url).get_backend_name() == "postgresql"


# -- opening -----------------------------------------------------------------------------------------------------------


def open_to_look(url: str) -> Database:
    """As `open_database`, but a SQLite file through a handle that cannot write, and whatever its journal mode."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return open_database(url)
    path = sqlite_path(parsed)
    if not path.exists():
        raise OperatorError(
            f"there is no database at {path}.",
            fix='Create it with "gepp-audit init-db", or correct DATABASE_URL.',
            code="database_missing",
        )
    address = f"file:{quote(str(path))}?mode=ro"
    engine = create_engine(parsed, hide_parameters=True, creator=lambda: sqlite3.connect(address, uri=True))
    event.listen(engine, "connect", _prepare)
    return Database(engine)


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.create_function("clock_timestamp", 0, lambda: sqlite_timestamp(datetime.now(UTC)))
    connection.create_aggregate("exact_sum", 1, ExactSum)  # type: ignore[arg-type] # typeshed wants an int of finalize


def sqlite_file(url: str) -> SqliteFile | None:
    """The file behind a SQLite URL, or None for another database. OSError: it cannot be read.

    Bytes 18 and 19 of the header are 2 where the write-ahead log is in force, else 1
    (https://www.sqlite.org/fileformat2.html, "File format version numbers"): no handle has to be opened to see it.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    path = sqlite_path(parsed)
    with path.open("rb") as file:
        header = file.read(20)
    is_database = header[:16] == b"SQLite format 3\x00"
    return SqliteFile(
        path=path, wal=header[18:20] == b"\x02\x02" if is_database else None, file_system=file_system_of(path)
    )


# -- the server --------------------------------------------------------------------------------------------------------


def server(connection: Connection) -> Server:
    """What answers, how fast, and how its clock stands to this host's.

    The fastest of a few round trips counts: a slow one may be this host's own. The database's clock is read in the
    middle of it, so the difference is known to half of its time.
    """
    if connection.dialect.name != "postgresql":
        began = time.monotonic()
        version = str(connection.exec_driver_sql("SELECT sqlite_version(), count(*) FROM sqlite_master").one()[0])
        return Server(
            product="SQLite", version=_numbers(version), round_trip=time.monotonic() - began, clock_ahead=None
        )
    number = int(str(connection.exec_driver_sql("SHOW server_version_num").scalar_one()))
    round_trip, clock_ahead = min(_round_trip(connection) for _ in range(_ROUND_TRIPS))
    return Server(
        product="PostgreSQL",
        version=(number // 10_000, number % 10_000),
        round_trip=round_trip,
        clock_ahead=clock_ahead,
        read_only=bool(connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one()),
    )


def _round_trip(connection: Connection) -> tuple[float, float]:
    """How long one took, and by how much this host's clock is ahead."""
    began, sent = time.monotonic(), time.time()
    moment = now(connection)
    took = time.monotonic() - began
    return took, sent + took / 2 - moment.timestamp()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def revision(connection: Connection) -> tuple[str | None, str]:
    """The revision of our tables in this database (None: there are none), and the one that this program needs."""
    return revision_of(connection), SCHEMA_REVISION


def is_embedded(connection: Connection) -> bool:
    """Whether `init-db` created the platform's tables too."""
    return inspect(connection).has_table(embedded_marker.name)


def shape(connection: Connection) -> PlatformShape:
    """How far the platform's tables are what we read and write, and which open batches stand there."""
    inspector = inspect(connection)
    names = set(inspector.get_table_names())
    missing_columns: list[str] = []
    new_columns: list[bool] = []
    required = [table for table in platform_metadata.sorted_tables if not _is_optional(table.name)]
    for table in required:
        if table.name not in names:
            continue
        there = {column["name"] for column in inspector.get_columns(table.name)}
        missing_columns += [
            f"{table.name}.{column.name}"
            for column in table.c
            if column.name not in there and not column.info.get("new")
        ]
        new_columns += [column.name in there for column in table.c if column.info.get("new")]
    missing = tuple(table.name for table in required if table.name not in names)
    return PlatformShape(
        missing_tables=missing,
        missing_columns=tuple(missing_columns),
        is_new=transaction_audits.name in names or any(new_columns),
        open_batches={} if missing or missing_columns else open_by_status(connection),
    )


def _is_optional(table: str) -> bool:
    return table in (transaction_audits.name, embedded_marker.name)


# -- our tables --------------------------------------------------------------------------------------------------------


def hosts(connection: Connection) -> tuple[datetime, list[HostFacts]]:
    """The database's clock, and when each host was last heard of, the latest first."""
    latest = (
        select(runs.c.host, func.max(runs.c.reported_at, type_=UtcDateTime()).label("reported_at"))
        .group_by(runs.c.host)
        .subquery("latest")
    )
    found = connection.execute(
        select(latest.c.host, latest.c.reported_at, func.max(runs.c.version))
        .join_from(latest, runs, and_(runs.c.host == latest.c.host, runs.c.reported_at == latest.c.reported_at))
        .group_by(latest.c.host, latest.c.reported_at)
        .order_by(latest.c.reported_at.desc())
    )
    return now(connection), [HostFacts(host=row[0], reported_at=row[1], version=row[2]) for row in found]


def overdue(connection: Connection) -> dict[str, int]:
    """Rows of ours that should have been removed by now, by table; counted up to MOST_COUNTED."""
    before = now(connection) - KEPT - _PRUNED_WITHIN
    open_batch = select(batches.c.audit_history_id).where(
        batches.c.audit_history_id == calls.c.audit_history_id, batches.c.closed_at.is_(None)
    )
    old = {
        calls.name: select(calls.c.id).where(calls.c.dispatched_at < before, ~open_batch.exists()),
        runs.name: select(runs.c.id).where(runs.c.reported_at < before),
    }
    counted = {
        name: connection.execute(
            select(func.count()).select_from(statement.limit(MOST_COUNTED).subquery("old"))
        ).scalar_one()
        for name, statement in old.items()
    }
    return {name: count for name, count in counted.items() if count}
