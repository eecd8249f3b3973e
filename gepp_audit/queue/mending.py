"""What a person does about a stuck batch: `requeue` lets it go on at once, `give_up` ends it by the ordinary steps.

Neither loses a settled verdict: requeue only moves times and frees leases that hold nobody any more; give up fails what
has no verdict, and then publishes and closes as any run does. What the platform holds at that moment is left to the
next run, which finds it as it finds everything else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit import logs
from gepp_audit.database import batches, closing, items, limits, mending, runs
from gepp_audit.database.engine import Database, now
from gepp_audit.database.facts import BatchFacts
from gepp_audit.database.platform import Platform, detect
from gepp_audit.model import BatchOutcome, RunIdentity
from gepp_audit.queue import liveness, writeback
from gepp_audit.queue.summary import Summary

#: transactions that are edited while they are published come back ready: so often they are given up again
_ROUNDS: Final = 5
#: the platform may hold a row for a moment
_CLOSE_TRIES: Final = 3
_CLOSE_PAUSE_SECONDS: Final = 0.2
_LONG_MS: Final = 300_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Requeued:
    """What `requeue` did."""

    audit_history_ids: tuple[int, ...]
    #: items that had to wait and may be claimed now
    made_due: int
    #: calls of dead runs, or with ended leases, that may be made again; of all batches
    freed: int
    #: the provider's block or wait ends now: the next run tries at once
    gate_hastened: bool
    #: a person paused the queue: nothing moves before it is resumed
    paused: bool

    def as_json(self) -> dict[str, Any]:
        """What `stuck --requeue --json` tells."""
        return {
            "requeued": list(self.audit_history_ids),
            "made_due": self.made_due,
            "leases_freed": self.freed,
            "gate_hastened": self.gate_hastened,
            "paused": self.paused,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenUp:
    """What `give_up` did to one batch."""

    audit_history_id: int
    #: transactions that had no verdict and are failed now
    given_up: int
    #: None: the platform holds some of its rows; the next run writes them back and closes it
    outcome: BatchOutcome | None

    def as_json(self) -> dict[str, Any]:
        """Its entry in `stuck --fail --json`."""
        return {
            "audit_history_id": self.audit_history_id,
            "given_up": self.given_up,
            "outcome": None if self.outcome is None else self.outcome.value,
        }


def requeue(database: Database, ids: Sequence[int], host: str | None) -> Requeued:
    """Let these batches go on at once: waiting items are due now, leases that hold nobody end, a probe leaves at once.

    `host`: this host's name in the table of runs, None: its own. Counters stay, so that nothing is asked for ever.
    """
    here = liveness.identify(host)
    done = database.write(lambda connection: _requeue(connection, ids, here))
    logs.info("batches_requeued", **done.as_json())
    return done


def _requeue(connection: Connection, ids: Sequence[int], here: RunIdentity) -> Requeued:
    gate, _ = limits.lock(connection)
    gone = [run.run_id for run, _ in runs.unfinished(connection, here.host) if liveness.is_gone(run, here)]
    runs.bury(connection, gone)
    freed = items.expire(connection, now(connection))
    return Requeued(
        audit_history_ids=tuple(ids),
        made_due=mending.make_due(connection, ids),
        freed=freed,
        gate_hastened=mending.hasten_gate(connection) | limits.forget_waits(connection, ids),
        paused=gate.paused_at is not None,
    )


def give_up(
    database: Database, chosen: Sequence[BatchFacts], batch_statuses: Sequence[str], engine: str
) -> list[GivenUp]:
    """End these batches: what has no verdict is failed, the rest is written back, and they close. One by one."""
    platform = database.read(detect)
    done = [_give_up(database, platform, batch, tuple(batch_statuses), engine) for batch in chosen]
    for one in done:
        logs.info("batch_given_up", **one.as_json())
    return done


def _give_up(
    database: Database, platform: Platform, batch: BatchFacts, statuses: tuple[str, ...], engine: str
) -> GivenUp:
    id_ = batch.audit_history_id
    if not batch.wanted:
        done = database.write(
            lambda connection: batches.withdraw(connection, platform, id_), statement_timeout_ms=_LONG_MS
        )
        outcome = BatchOutcome.WITHDRAWN if done is not None and done.closed else None
        return GivenUp(audit_history_id=id_, given_up=0, outcome=outcome)
    if batch.fanned_out_at is None:
        _take_up(database, platform, batch, statuses)
    failed = 0
    for _ in range(_ROUNDS):
        given = database.write(lambda connection: mending.give_up(connection, id_), statement_timeout_ms=_LONG_MS)
        failed += given or 0
        if not writeback.publish_settled(database, platform, Summary(run_id="")):
            break
    return GivenUp(audit_history_id=id_, given_up=failed, outcome=_close(database, platform, id_, statuses, engine))


def _take_up(database: Database, platform: Platform, batch: BatchFacts, statuses: tuple[str, ...]) -> None:
    """No run has looked at the batch yet: make its items, so that each of its transactions has an end."""
    id_, organization = batch.audit_history_id, (batch.organization_id,)
    database.write(lambda connection: batches.discover(connection, statuses, organization))
    database.write(lambda connection: batches.fan_out(connection, platform, id_), statement_timeout_ms=_LONG_MS)


def _close(
    database: Database, platform: Platform, audit_history_id: int, statuses: tuple[str, ...], engine: str
) -> BatchOutcome | None:
    for attempt in range(_CLOSE_TRIES):
        if attempt:
            time.sleep(_CLOSE_PAUSE_SECONDS)
            writeback.publish_settled(database, platform, Summary(run_id=""))
        closed = database.write(
            lambda connection: closing.close(connection, platform, audit_history_id, engine),
            statement_timeout_ms=_LONG_MS,
        )
        if closed is not None:
            return closed.outcome
    return database.read(lambda connection: mending.outcome_of(connection, audit_history_id))
