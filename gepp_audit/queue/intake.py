"""Steps 1 to 3 of the data's way: new batches are discovered and fanned out, and what people withdrew is let go.

Each batch is a transaction of its own, so that a big one keeps nobody waiting. What is there to do is read first: a
look that finds nothing writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gepp_audit import logs
from gepp_audit.database import batches
from gepp_audit.database.engine import LOCK_STATES, REFUSED_CLASSES, Database, sqlstate_behind
from gepp_audit.database.platform import Platform
from gepp_audit.errors import OperatorError
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.summary import Summary

#: a batch of 100,000 transactions takes a few seconds
_FAN_OUT_TIMEOUT_MS = 300_000


def take_up(database: Database, platform: Platform, options: RunOptions, summary: Summary) -> bool:
    """Discover, fan out and reconcile; True: there is something new to claim."""
    statuses, organizations = options.batch_statuses, options.organizations
    new, waiting, withdrawn = database.read(
        lambda connection: (
            batches.undiscovered(connection, statuses, organizations),
            batches.waiting_for_fan_out(connection, organizations),
            batches.withdrawn(connection),
        )
    )
    if new:
        database.write(lambda connection: batches.discover(connection, statuses, organizations))
        # what was withdrawn meanwhile must be let go before its transactions can be items of a newer batch
        waiting, withdrawn = database.read(
            lambda connection: (
                batches.waiting_for_fan_out(connection, organizations),
                batches.withdrawn(connection),
            )
        )
    for audit_history_id in withdrawn:
        _one(audit_history_id, partial(_withdraw, database, platform, audit_history_id, summary))
    ready = [
        _one(audit_history_id, partial(_fan_out, database, platform, audit_history_id, options.model, summary))
        for audit_history_id in waiting
        if audit_history_id not in withdrawn
    ]
    return any(ready)


def _one(audit_history_id: int, work: Callable[[], int]) -> int:
    """Take up one batch; one whose rows the database refuses, or somebody holds, keeps no other waiting."""
    try:
        return work()
    except OperatorError as error:
        state = sqlstate_behind(error) or ""
        if state not in LOCK_STATES and not state.startswith(REFUSED_CLASSES):
            raise  # a missing right or table, a lost server: no batch fares better
        logs.error("batch_not_taken_up", audit_history_id=audit_history_id, reason=error.message)
        return 0


def _fan_out(database: Database, platform: Platform, audit_history_id: int, model: str, summary: Summary) -> int:
    done = database.write(
        lambda connection: batches.fan_out(connection, platform, audit_history_id, model=model),
        statement_timeout_ms=_FAN_OUT_TIMEOUT_MS,
    )
    if done is None:
        return 0
    summary.skipped += done.skipped
    summary.taken_up += done.total - done.ready
    # what failed the batch is warned of once: when it is closed
    logs.info(
        "batch_fanned_out",
        audit_history_id=audit_history_id,
        organization_id=done.organization_id,
        total=done.total,
        ready=done.ready,
        skipped=done.skipped,
        refused=done.refused,
        error=done.error,
    )
    return done.ready


def _withdraw(database: Database, platform: Platform, audit_history_id: int, summary: Summary) -> int:
    done = database.write(lambda connection: batches.withdraw(connection, platform, audit_history_id))
    if done is None:
        return 0
    summary.skipped += done.skipped
    if done.closed:
        logs.info("batch_withdrawn", audit_history_id=audit_history_id, skipped=done.skipped)
    return done.skipped
