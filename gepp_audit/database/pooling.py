"""Whether a pooler such as PgBouncer stands between us and PostgreSQL, and in which mode: seen from outside.

A pooler answers the log-in itself, so the process number that it hands out with the cancel key (BackendKeyData,
https://www.postgresql.org/docs/current/protocol-flow.html) is its own invention, while `pg_backend_pid()` is what the
server says: they differ exactly where somebody stands between.

The mode follows from who gets which server process. One connection asks for its number; then another one opens a
transaction, and stays in it. If that was given the process of the first, which is still connected, or the first another
one than before, then a process belongs to a connection for a transaction only. A pooler that gives one to each
statement cuts off whoever says BEGIN. Nothing is set or written.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import psycopg2
import psycopg2.extensions

from gepp_audit.database.engine import parse_url

#: whoever else uses the pool may take a process away between two looks, so that one round can show nothing
_ROUNDS: Final = 3
#: a pool that is full lets us wait
_SECONDS: Final = 4.0
_PID: Final = "SELECT pg_backend_pid()"
_PID_IN_TRANSACTION: Final = f"BEGIN; {_PID}"


class Mode(StrEnum):
    """For how long a server process belongs to a connection."""

    #: nobody stands between
    DIRECT = "direct"
    SESSION = "session"
    TRANSACTION = "transaction"
    #: for one statement: no transaction of several is possible
    STATEMENT = "statement"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooling:
    """What was seen."""

    mode: Mode
    #: no second server process was to be had within some seconds: the pool is full
    waited: bool = False


def look(url: str) -> Pooling | None:
    """How the PostgreSQL at `url` is reached; None: it cannot be reached at all."""
    try:
        with _connected(url) as first:
            ours = first.ask(_PID)
            if ours is None:
                return None
            if ours == first.told:
                return Pooling(mode=Mode.DIRECT)
            return _behind_a_pooler(url, first, ours)
    except psycopg2.Error:
        return None


def _behind_a_pooler(url: str, first: _Connection, ours: int) -> Pooling:
    for _ in range(_ROUNDS):
        with _connected(url) as second:
            try:
                theirs = second.ask(_PID_IN_TRANSACTION)
            except psycopg2.OperationalError:
                return Pooling(mode=Mode.STATEMENT)
            if theirs is None:
                return Pooling(mode=Mode.SESSION, waited=True)
            again = first.ask(_PID)
        if theirs == ours or again != ours:
            return Pooling(mode=Mode.TRANSACTION)
    return Pooling(mode=Mode.SESSION)


class _Connection:
    """A connection whose every wait is bounded, for a full pool lets it wait for minutes. Each question is one
    transaction, unless it begins one.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._connection: Any = psycopg2.connect(**arguments, async_=True)
        self._open = self._done()

    @property
    def told(self) -> int:
        """The number that came with the cancel key."""
        return int(self._connection.info.backend_pid)

    def ask(self, question: str) -> int | None:
        """The one number that is the answer; None: there was none in time. psycopg2.Error: it was cut off."""
        if not self._open:
            return None
        cursor = self._connection.cursor()
        cursor.execute(question)
        return int(cursor.fetchone()[0]) if self._done() else None

    def close(self) -> None:
        """End it, and with it a transaction that it is in."""
        self._connection.close()

    def _done(self) -> bool:
        """Whether the driver has finished what it was told to do, within the time for one step."""
        deadline = time.monotonic() + _SECONDS
        while True:
            state = self._connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            reading = [self._connection] if state == psycopg2.extensions.POLL_READ else []
            writing = [self._connection] if state == psycopg2.extensions.POLL_WRITE else []
            select.select(reading, writing, [], left)


@contextmanager
def _connected(url: str) -> Iterator[_Connection]:
    parsed = parse_url(url)
    arguments = parsed.get_dialect()().create_connect_args(parsed)[1]
    connection = _Connection({**arguments, "application_name": "gepp-audit"})
    try:
        yield connection
    finally:
        connection.close()
