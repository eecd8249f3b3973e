"""What an error that ends a run leaves to the next one: paid answers settled, calls in flight let go.

Without that, every call under way would count as a crash of its transaction. What itself makes the work fail is left
alone, and does count: it must be found out in the end, and not be claimed for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import Connection

from gepp_audit import logs
from gepp_audit.database import items
from gepp_audit.database.engine import Database, sqlstate_behind
from gepp_audit.database.settling import Settlement, settle
from gepp_audit.errors import OperatorError

#: seconds for the database to come back, after the run has waited for it already
_PATIENCE: Final = 5.0


def hand_back(
    database: Database, run_id: str, settlements: Sequence[Settlement], *, keep: Collection[int] | None
) -> dict[int, bool]:
    """Settle what can be settled; returns, by call id, whether its item took it. What could not be written is left out.

    `keep`: where the database was out of reach, calls of the run that stay as they are; all others of it were claimed
    and never sent, and are released. None: nothing is released.
    """
    database.patience = _PATIENCE

    def all_at_once(connection: Connection) -> set[int]:
        taken = settle(connection, settlements)
        if keep is not None:
            items.release_unknown(connection, run_id, {*keep, *(one.call_id for one in settlements)})
        return taken

    try:
        taken = database.write(all_at_once)
    except OperatorError as error:
        if sqlstate_behind(error) is None:
            raise
        return _one_by_one(database, settlements)
    return {one.call_id: one.call_id in taken for one in settlements}


def _one_by_one(database: Database, settlements: Sequence[Settlement]) -> dict[int, bool]:
    """The database refuses one of them: keep the others."""
    told: dict[int, bool] = {}
    for settlement in settlements:
        try:
            taken = database.write(lambda connection, one=settlement: settle(connection, [one]))  # type: ignore[misc] # bound now
        except OperatorError as error:
            logs.error("answer_not_kept", transaction_id=settlement.transaction_id, reason=error.message)
        else:
            told[settlement.call_id] = settlement.call_id in taken
    return told
