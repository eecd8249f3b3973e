"""Work on a database that is let on transaction by transaction, so that others may act at each border, or it may die.

The work runs in a thread of its own, but never at the same time as its caller: `advance` lets it do exactly one
transaction and returns when it stands before the next one, or has ended. So an interleaving is repeatable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from gepp_audit.database.engine import Database
from gepp_audit.database.sessions import STATEMENT_TIMEOUT_MS

T = TypeVar("T")


class Killed(BaseException):
    """The process is gone: nothing may catch this, and nothing more is written."""


class SteppedDatabase(Database):
    """The product's door to the database, with a border before each transaction; a lock is an error."""

    def __init__(self, database: Database, border: Callable[[], None]) -> None:
        super().__init__(database.engine)
        self.patience = 0.0
        self.wrote = False
        self._border = border

    def write(
        self,
        work: Callable[[Connection], T],
        *,
        patience: float | None = None,
        lock_patience: float | None = None,
        statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    ) -> T:
        self._border()
        self.wrote = True
        return super().write(work, patience=0.0, lock_patience=0.0, statement_timeout_ms=statement_timeout_ms)

    def read(self, work: Callable[[Connection], T], *, patience: float | None = None) -> T:
        self._border()
        return super().read(work, patience=0.0)


class Program:
    """`work(database)`, stopped before each of its transactions. `kind` names it for whoever judges what it did."""

    def __init__(self, kind: str, database: Database, work: Callable[[SteppedDatabase], Any]) -> None:
        self.kind = kind
        self.result: Any = None
        self.done = False
        self._database = SteppedDatabase(database, self._border)
        self._work = work
        self._error: BaseException | None = None
        self._killed = False
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._main, name=kind, daemon=True)
        self._thread.start()
        self._wait()

    def advance(self) -> bool:
        """Do one transaction; True: it was a writing one. Raises what the work raised."""
        self._database.wrote = False
        self._go.release()
        self._wait()
        return self._database.wrote

    def kill(self) -> None:
        """End the work where it stands, between two transactions."""
        if not self.done:
            self._killed = True
            self._go.release()
            self._thread.join()

    def _wait(self) -> None:
        self._stands.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _main(self) -> None:
        try:
            self.result = self._work(self._database)
        except Killed:
            pass
        except BaseException as error:
            self._error = error
        self.done = True
        self._stands.release()

    def _border(self) -> None:
        self._stands.release()
        self._go.acquire()
        if self._killed:
            raise Killed
