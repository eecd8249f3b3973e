"""What the requests of one server share: the settings, the database, the runs that it started."""

from __future__ import annotations

from typing import Final

from fastapi import Request

from gepp_audit.database.engine import Database, open_database
from gepp_audit.database.enqueuing import first_organization
from gepp_audit.database.migrate import require_schema
from gepp_audit.settings import Settings
from gepp_audit.web.glimpses import Glimpses
from gepp_audit.web.measures import Measures, QueueFigures
from gepp_audit.web.runs import Runs

#: seconds for which a request waits for a database that is out of reach
_PATIENCE: Final = 3.0


class WebState:
    """One server's. Used by many threads at once."""

    def __init__(self, settings: Settings, *, dev: bool) -> None:
        """OperatorError: no address of a database, or an embedded one that does not exist."""
        self.settings = settings
        #: no tokens: everybody on this machine acts for the first organization
        self.dev = dev
        self.runs = Runs(settings)
        self.measures = Measures()
        self.glimpses = Glimpses()
        self.queue_figures = QueueFigures()
        self._database = open_database(settings.require_database_url())
        self._database.patience = _PATIENCE
        self._schema_is_ours = False

    @property
    def database(self) -> Database:
        """The database, once its schema was seen to be ours. OperatorError: not reachable, or another version's."""
        if not self._schema_is_ours:  # no lock: requests that wait for the database wait at the same time
            self.require_schema()
        return self._database

    def require_schema(self) -> None:
        """Look at the schema now. OperatorError: the database is not reachable, or has another version's."""
        require_schema(self._database)
        self._schema_is_ours = True

    def first_organization(self) -> int | None:
        """The organization with the smallest id, or None."""
        return self.database.read(first_organization)

    def note_caller(self, request: Request, organization_id: int, user_id: int | None) -> None:
        """For the log: for whom the request is."""
        request.scope["gepp_audit.caller"] = {"organization_id": organization_id, "user_id": user_id}

    def close(self) -> None:
        """Close every connection; the runs have ended by then."""
        self._database.close()


def state_of(request: Request) -> WebState:
    """The state of the server that answers `request`."""
    state = request.app.state.gepp_audit
    assert isinstance(state, WebState)
    return state
