"""What the checks look at, opened once: the settings, the database, this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from gepp_audit.database import health
from gepp_audit.database.engine import Database
from gepp_audit.errors import OperatorError
from gepp_audit.queue.doctor.machine import Machine
from gepp_audit.settings import Settings

T = TypeVar("T")

#: seconds for which a database that is out of reach is tried
_PATIENCE = 3.0


class Surroundings:
    """What is there to be looked at. What cannot be had raises the same OperatorError each time it is asked for."""

    def __init__(self, settings: Settings | OperatorError, machine: Machine | None = None) -> None:
        """`settings`: or why there are none."""
        self._settings = settings
        self.machine = Machine() if machine is None else machine
        self._database: Database | OperatorError | None = None

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        if isinstance(self._settings, OperatorError):
            raise self._settings
        return self._settings

    @property
    def settings_or_none(self) -> Settings | None:
        """The settings, for checks that can do without."""
        return None if isinstance(self._settings, OperatorError) else self._settings

    def open_database(self) -> Database:
        """The database, tried once: the first look says for how long it was tried, the others do not try again."""
        if self._database is None:
            try:
                database = health.open_to_look(self.settings.require_database_url())
                database.patience = _PATIENCE
                database.read(health.server)
                self._database = database
            except OperatorError as error:
                self._database = error
        if isinstance(self._database, OperatorError):
            raise self._database
        return self._database

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` reads from the database."""
        return self.open_database().read(work)

    def close(self) -> None:
        """Close what was opened."""
        if isinstance(self._database, Database):
            self._database.close()
