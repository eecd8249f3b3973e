"""A glance at the queue with the database's driver alone: is there work for which the provider is worth loading?

Loading the provider takes longer than loading all the rest, SQLAlchemy included, and the two can go on at the same
time: where a run is to be expected, this tells before SQLAlchemy is loaded. It is a guess. What there is to do says
`runs.anything_open`, who does it `runs.unfinished`; no work depends on the glance, so whatever goes wrong in it is left
to those.

The connection it made to PostgreSQL is the run's first one, so that a tick without work connects no second time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gepp_audit.database.sessions import CONNECT_ARGUMENTS, guard

#: seconds; whoever answers later is not waited for here
_CONNECT_SECONDS: Final = 2
_STATEMENT_MS: Final = 1_000
_POSTGRESQL: Final = ("postgresql://", "postgresql+psycopg2://", "postgres://")
_SQLITE: Final = ("sqlite:///", "sqlite+pysqlite:///")

#: some batch is open, seen by us or not, and no run of this host is at work, or died and was not buried. {mark}: the
#: driver's parameter, {statuses}: as many of them as there are statuses.
_SQL: Final = """
    SELECT (
        EXISTS (SELECT 1 FROM gepp_audit_batches WHERE closed_at IS NULL)
        OR EXISTS (
            SELECT 1 FROM transaction_audit_history
            WHERE status IN ({statuses}) AND deleted_date IS NULL
            AND NOT EXISTS (
                SELECT 1 FROM gepp_audit_batches WHERE audit_history_id = transaction_audit_history.id
            )
        )
    )
    AND NOT EXISTS (SELECT 1 FROM gepp_audit_runs WHERE host = {mark} AND finished_at IS NULL AND draining_at IS NULL)
"""


@dataclass
class Glance:
    """What was seen."""

    #: a run is to be expected
    work: bool = False
    #: psycopg2's connection, idle and in no transaction, and the address it was made with; None: there is none
    connection: Any = field(default=None, repr=False)
    address: str = field(default="", repr=False)

    def hand_over(self, arguments: dict[str, Any]) -> Any:
        """The connection, once, if `arguments` (psycopg2's) lead to the same place; None: make one."""
        connection, self.connection = self.connection, None
        if connection is None:
            return None
        if _place(**arguments) == _place(self.address, **CONNECT_ARGUMENTS):
            return connection
        connection.close()
        return None

    def close(self) -> None:
        """End the connection, unless it was handed over."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def glance(url: str, statuses: Sequence[str], host: str) -> Glance:
    """Look at the database at `url`, the batches of these `statuses` there, and the runs of `host`; never raises."""
    with contextlib.suppress(Exception):  # see the module: those who need it will say what is wrong
        if url.startswith(_POSTGRESQL) and _is_plain(url):
            return _postgresql(f"postgresql://{url.partition('://')[2]}", statuses, host)
        if url.startswith(_SQLITE):
            return _sqlite(Path(url.partition(":///")[2]), statuses, host)
    return Glance()


def _is_plain(url: str) -> bool:
    """SQLAlchemy takes a password with / or @ in it as it stands, where libpq would see another host."""
    authority, _, rest = url.partition("://")[2].partition("/")
    return authority.count("@") <= 1 and "@" not in rest


def question(mark: str, statuses: Sequence[str]) -> str:
    """The SQL of the glance, for as many statuses and then one host; `mark`: the driver's parameter."""
    return _SQL.format(mark=mark, statuses=", ".join([mark] * len(statuses)))


def _postgresql(address: str, statuses: Sequence[str], host: str) -> Glance:
    import psycopg2  # a tick on SQLite has no use for it

    connection = psycopg2.connect(address, **{**CONNECT_ARGUMENTS, "connect_timeout": _CONNECT_SECONDS})
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {guard(_STATEMENT_MS)}; {question('%s', statuses)}", [*statuses, host])
            (work,) = cursor.fetchone()
        connection.rollback()
    except BaseException:
        connection.close()
        raise
    return Glance(work=bool(work), connection=connection, address=address)


def _sqlite(path: Path, statuses: Sequence[str], host: str) -> Glance:
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
        (work,) = connection.execute(question("?", statuses), [*statuses, host]).fetchone()
    return Glance(work=bool(work))


def _place(address: str | None = None, **arguments: Any) -> dict[str, str]:
    """Where psycopg2 would connect to, and how."""
    from psycopg2.extensions import make_dsn, parse_dsn

    found: dict[str, str] = parse_dsn(make_dsn(address, **arguments))
    return found
