"""Connections and transactions: the only place that opens, guards, retries and ends them.

`Database.write(work)` runs `work(connection)` in one transaction under timeouts and repeats it from memory where the
database asks for that (40001, 40P01, 55P03, SQLite busy) or the connection was lost; so `work` must change nothing but
the database. `Database.read(work)` runs it in a transaction that is rolled back. No transaction outlives the call,
hence none is open while a provider is asked. Nothing is kept in the session, so PgBouncer in transaction mode is fine.
"""

from __future__ import annotations

import math
import random
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from gepp_audit.database.glance import Glance
from gepp_audit.database.json_functions import ExactSum
from gepp_audit.database.sessions import CONNECT_ARGUMENTS, STATEMENT_TIMEOUT_MS, guard
from gepp_audit.database.sqlite_files import require_local_file_system
from gepp_audit.database.types import UtcDateTime, sqlite_timestamp
from gepp_audit.errors import OperatorError
from gepp_audit.setting_values import masked_url

T = TypeVar("T")

#: what the database itself asks to repeat: serialization failure, deadlock, lock not available
_REPEAT: Final = frozenset({"40001", "40P01", "55P03"})
#: the server is going down, starting, or has ended our session (a frozen process is cut off by 25P03)
_LOST: Final = frozenset(
    {
        "57P01",
        "57P02",
        "57P03",
        "25P03",
        "08000",
        "08003",
        "08006",
        "08001",
        "08004",
        "53300",
    }
)

_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0
_SQLITE_BUSY_MS: Final = 10_000


class Database:
    """One database, PostgreSQL or SQLite, behind `read` and `write`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_postgresql = engine.dialect.name == "postgresql"
        #: seconds for which a statement is repeated while the database is out of reach, unless a caller says otherwise
        self.patience = 15.0
        #: when (monotonic) nothing is repeated any more, however patient a caller is: the process is ended soon after
        self.give_up_at = math.inf
        #: for messages: the password is masked
        plain = engine.url.set(drivername=engine.url.get_backend_name())
        self.name = masked_url(plain.render_as_string(hide_password=False))

    def write(
        self,
        work: Callable[[Connection], T],
        *,
        patience: float | None = None,
        lock_patience: float | None = None,
        statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    ) -> T:
        """Run `work` in one write transaction and return what it returns.

        `patience`: seconds for which it is repeated when the database asks for it or is out of reach, default
        `self.patience`; then OperatorError. `lock_patience`: the same where somebody else keeps a lock.
        """
        return self._repeat(
            lambda: self._in_transaction(work, True, statement_timeout_ms), patience, lock_patience=lock_patience
        )

    def read(self, work: Callable[[Connection], T], *, patience: float | None = None) -> T:
        """Run `work` in a transaction that is rolled back, and return what it returns."""
        return self._repeat(lambda: self._in_transaction(work, False, STATEMENT_TIMEOUT_MS), patience)

    def give_up_within(self, seconds: float) -> None:
        """Repeat nothing any more after so many seconds. For other threads and for signal handlers."""
        self.give_up_at = min(self.give_up_at, time.monotonic() + seconds)

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def _in_transaction(self, work: Callable[[Connection], T], write: bool, statement_timeout_ms: int) -> T:
        with self.engine.connect() as connection:
            if write and not self.is_postgresql:
                connection = connection.execution_options(gepp_audit_write=True)
            transaction = connection.begin()
            try:
                if self.is_postgresql:
                    _guard(connection, statement_timeout_ms)
                result = work(connection)
                if write:
                    transaction.commit()
                return result
            finally:
                transaction.close()

    def _repeat(self, attempt: Callable[[], T], patience: float | None, *, lock_patience: float | None = None) -> T:
        began = time.monotonic()
        patience = self.patience if patience is None else patience
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                held = lock_patience is not None and sqlstate(error) in LOCK_STATES
                limit = lock_patience if held and lock_patience is not None else patience
                if not _worth_repeating(error) or time.monotonic() + pause > min(began + limit, self.give_up_at):
                    raise operator_error(error, self.name) from error
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _guard(connection: Connection, statement_timeout_ms: int) -> None:
    """Bound the waits of a transaction; a reader's too: a table that the platform is altering must not let tick after
    tick hang.

    The same round trip reads the clock, for `opened_at`.
    """
    connection.info[_OPENED_AT] = connection.exec_driver_sql(
        f"SELECT clock_timestamp(), {guard(statement_timeout_ms)}"
    ).scalar_one()


_OPENED_AT: Final = "gepp_audit_opened_at"


def opened_at(connection: Connection) -> datetime:
    """The database's clock when this transaction began, aware, UTC: costs nothing, but is old after a wait."""
    moment = connection.info.get(_OPENED_AT)
    return moment.astimezone(UTC) if isinstance(moment, datetime) else now(connection)


_NOW: Final = select(func.clock_timestamp(type_=UtcDateTime()))


def now(connection: Connection) -> datetime:
    """The database's clock at this moment (not at the transaction's start), aware, UTC; in SQLite this host's."""
    moment: datetime = connection.execute(_NOW).scalar_one()
    return moment


def open_database(url: str, seen: Glance | None = None) -> Database:
    """The database at `url` (`postgresql://`, `postgres://` or `sqlite:///FILE`); nothing is connected yet. `seen`: who
    glanced at it, whose connection becomes the first one.

    A SQLite file must exist unless `create_database` made it: a cron job must never create an empty database and go on.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = sqlite_path(parsed)
        if not path.exists():
            raise OperatorError(
                f"there is no database at {path}.",
                fix='Create it with "gepp-audit init-db", or correct DATABASE_URL.',
                code="database_missing",
            )
        require_local_file_system(path)
    return Database(_engine(parsed, seen))


def create_database(url: str) -> Database:
    """As `open_database`, but a SQLite file and its folder are created if missing: for `init-db` alone."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = sqlite_path(parsed)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=True)
        except OSError as error:
            raise OperatorError(
                f"cannot create the database {path}: {error.strerror}.",
                fix="Correct DATABASE_URL or the rights of its folder.",
                code="database_unwritable",
            ) from error
    return open_database(url)


def parse_url(url: str) -> URL:
    """`url` with the driver we ship: SQLAlchemy 2.1 would take psycopg 3 for `postgresql://`."""
    wrong = OperatorError(
        "DATABASE_URL is not a database address that gepp-audit knows.",
        fix="Use postgresql://USER:PASSWORD@HOST:PORT/NAME or sqlite:///FILE.",
        code="database_url",
    )
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise wrong from error
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg2"):
        return parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database and parsed.database != ":memory:":
        return parsed.set(drivername="sqlite+pysqlite")
    raise wrong


def sqlite_path(url: URL) -> Path:
    """The file of a SQLite URL."""
    return Path(url.database or "").absolute()


def _engine(url: URL, seen: Glance | None = None) -> Engine:
    if url.get_backend_name() == "postgresql":
        engine = create_engine(
            url,
            hide_parameters=True,
            use_native_hstore=False,
            pool_size=2,
            connect_args=CONNECT_ARGUMENTS,
        )
        if seen is not None:
            event.listen(engine, "do_connect", lambda _dialect, _record, _args, found: seen.hand_over(found))
        return engine
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours: writers take the lock at once, readers never
    connection.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_MS}")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise OperatorError(
            f"SQLite cannot use its write-ahead log for this database (journal mode is {mode}).",
            fix="Put the database on a local disk, or use PostgreSQL.",
            code="database_no_wal",
        )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.create_function("clock_timestamp", 0, _host_clock)
    connection.create_aggregate("exact_sum", 1, ExactSum)  # type: ignore[arg-type] # typeshed wants an int of finalize


def _host_clock() -> str:
    return sqlite_timestamp(datetime.now(UTC))


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("gepp_audit_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _worth_repeating(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    state = sqlstate(error)
    if state is None:  # libpq itself failed: refused, reset, timed out; a wrong password or name is a person's to mend
        from gepp_audit.database.unreachable import trouble  # no tick that reaches its database needs it

        return not trouble(str(error.orig)).lasting
    return error.connection_invalidated or state in _REPEAT or state in _LOST


def sqlstate(error: DBAPIError) -> str | None:
    """The five letters by which PostgreSQL names an error, or None."""
    state = getattr(error.orig, "pgcode", None)
    return state if isinstance(state, str) else None


#: somebody else holds what is needed
LOCK_STATES: Final = frozenset({"55P03", "40P01"})
#: classes of errors by which a database refuses the row itself: data, integrity, a trigger's own word
REFUSED_CLASSES: Final = ("22", "23", "P0")


def refuses_row(error: DBAPIError) -> bool:
    """Whether the database refuses the row itself."""
    return isinstance(error.orig, sqlite3.IntegrityError) or (sqlstate(error) or "").startswith(REFUSED_CLASSES)


def sqlstate_behind(error: OperatorError) -> str | None:
    """The SQLSTATE of the driver's error behind `error`, or None; SQLite's constraints count as 23000."""
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return None
    return "23000" if isinstance(cause.orig, sqlite3.IntegrityError) else sqlstate(cause)


def operator_error(error: DBAPIError, database: str) -> OperatorError:
    """A driver's error in our words; its own quote values, so none of them is passed on."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_error(error.orig, database)
    state = sqlstate(error)
    if state is None:
        from gepp_audit.database.unreachable import trouble

        found = trouble(str(error.orig))
        return OperatorError(
            f"cannot reach the database {database}: {found.words}.", fix=found.fix, code="database_unreachable"
        )
    if state in _LOST:
        return OperatorError(
            f"cannot reach the database {database}: it ended the connection (SQLSTATE {state}).",
            fix="Start PostgreSQL or correct DATABASE_URL, then run the command again.",
            code="database_unreachable",
        )
    if state == "42501":
        return OperatorError(
            f"the database {database} refuses a right that gepp-audit needs (SQLSTATE 42501).",
            fix='Run "gepp-audit doctor": it names what is missing and prints the GRANT for it.',
            code="database_rights",
        )
    if state in ("42P01", "42703"):
        return OperatorError(
            f"a table or column is missing in {database} (SQLSTATE {state}).",
            fix='Run "gepp-audit init-db"; if that does not help, this is no GEPP platform database.',
            code="database_schema",
        )
    return OperatorError(
        f"the database {database} refused a statement (SQLSTATE {state}).",
        fix="Run the command again; if it stays, look into the server's log for this SQLSTATE.",
        code="database_error",
    )


def _sqlite_error(error: sqlite3.Error, database: str) -> OperatorError:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    fixes = {
        "SQLITE_BUSY": "Another process holds the database for long; end it or wait, then run the command again.",
        "SQLITE_FULL": "The disk is full; free some space, then run the command again: nothing was half-written.",
        "SQLITE_IOERR": "The disk could not be read or written: look at its space and health, then try again.",
        "SQLITE_READONLY": "Give this user the right to write the file and its folder.",
        "SQLITE_CANTOPEN": "Give this user the right to read and write the file and its folder.",
        "SQLITE_NOTADB": "The file is no SQLite database; correct DATABASE_URL.",
        "SQLITE_CORRUPT": "The file is damaged; restore it from a backup.",
    }
    fix = next(
        (text for key, text in fixes.items() if name.startswith(key)),
        'Run "gepp-audit init-db", then try again.',
    )
    return OperatorError(
        f"the database {database} could not be used ({name}).",
        fix=fix,
        code="database_error",
    )
