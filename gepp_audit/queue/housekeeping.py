"""When and how much of the old rows is pruned: in small slices, by ticks that have nothing else to do and between the
work of those that have. It never makes a run fail, and never waits for a lock.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Final

from gepp_audit import logs
from gepp_audit.database import retention
from gepp_audit.database.engine import Database
from gepp_audit.errors import OperatorError

#: a slice that takes longer is given up
_STATEMENT_TIMEOUT_MS: Final = 5_000
#: seconds after which a run looks again where it found nothing to prune, or could not
_LOOK_EVERY: Final = 60.0


def prune_slice(database: Database, statuses: tuple[str, ...]) -> int:
    """Prune one slice; returns how many rows went, 0 where something stood in the way."""
    try:
        pruned = database.write(
            lambda connection: retention.prune(connection, statuses),
            patience=0.0,
            statement_timeout_ms=_STATEMENT_TIMEOUT_MS,
        )
    except OperatorError as error:  # old rows that stay a little longer are nobody's trouble
        logs.info("old_rows_kept", reason=error.message)
        return 0
    if pruned.rows:
        logs.info("old_rows_pruned", **asdict(pruned))
    return pruned.rows


class Housekeeper:
    """What a working run remembers of its pruning."""

    def __init__(self, database: Database, statuses: tuple[str, ...]) -> None:
        self.database = database
        self.statuses = statuses
        self._look_at = -math.inf

    def tidy(self, seconds: float) -> int:
        """Prune slice after slice until nothing is left or `seconds` are over; returns how many rows went.

        Where there is nothing to prune this asks the database once a minute, and else does nothing.
        """
        began = time.monotonic()
        if began < self._look_at:
            return 0
        gone, full = 0, self._due()
        while full:
            rows = prune_slice(self.database, self.statuses)
            gone += rows
            full = rows >= retention.SLICE
            if full and time.monotonic() - began >= seconds:
                return gone  # there may be more: the next time
        self._look_at = time.monotonic() + _LOOK_EVERY
        return gone

    def _due(self) -> bool:
        try:
            return self.database.read(lambda connection: retention.due(connection, self.statuses), patience=0.0)
        except OperatorError as error:
            logs.info("old_rows_kept", reason=error.message)
            return False
