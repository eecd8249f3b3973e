"""Which open batches are stuck, and why: the stored facts, what this host can see of processes, and the diagnosis of
each. Changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from gepp_audit.database import reports
from gepp_audit.database.engine import Database
from gepp_audit.database.reports import BatchFacts, Facts, PlatformBatch
from gepp_audit.errors import OperatorError
from gepp_audit.queue import liveness
from gepp_audit.queue.diagnosis import Diagnosis, Status, diagnose
from gepp_audit.queue.wording import listed


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked for: batches older than so many seconds, or those named, of any age."""

    older_than: int
    batch_statuses: tuple[str, ...]
    ids: tuple[int, ...] = ()
    #: None: the host's own name
    host: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stuck:
    """One stuck batch."""

    batch: BatchFacts
    diagnosis: Diagnosis
    #: seconds since it was started
    age: int

    def as_json(self) -> dict[str, Any]:
        """Its entry in `stuck --json`."""
        batch, diagnosis = self.batch, self.diagnosis
        return {
            "audit_history_id": batch.audit_history_id,
            "organization_id": batch.organization_id,
            "started_at": batch.started_at,
            "age_seconds": self.age,
            "cause": diagnosis.cause.value,
            "reason": diagnosis.reason,
            "explanation": diagnosis.explanation,
            "fix": diagnosis.fix_for(batch.audit_history_id),
            "transactions": self.transactions,
            "last_error": self.last_error,
        }

    @property
    def transactions(self) -> dict[str, int]:
        """How many of its transactions are where."""
        return {name: getattr(self.batch, name) for name in ("ready", "calling", "done", "failed", "skipped")}

    @property
    def last_error(self) -> str | None:
        """`code: message`, or what there is of it."""
        return ": ".join(part for part in (self.batch.last_error_code, self.batch.last_error) if part) or None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The answer."""

    older_than: int
    #: oldest first
    stuck: tuple[Stuck, ...]
    #: how many batches are open in all
    open_batches: int
    #: named, but not open any more
    ended: tuple[PlatformBatch, ...] = ()

    @property
    def status(self) -> Status:
        """The worst of all."""
        return max(
            (stuck.diagnosis.status for stuck in self.stuck), key=lambda status: status.exit_code, default=Status.OK
        )

    @property
    def causes(self) -> Counter[tuple[str, str | None]]:
        """How many batches have which cause and reason."""
        return Counter((stuck.diagnosis.cause.value, stuck.diagnosis.reason) for stuck in self.stuck)

    def as_json(self) -> dict[str, Any]:
        """The contract of `stuck --json`."""
        return {
            "status": self.status.value,
            "older_than_seconds": self.older_than,
            "stuck": [stuck.as_json() for stuck in self.stuck],
        }


def inspect(database: Database, question: Question) -> Report:
    """Look at all open batches and diagnose those that are asked for. OperatorError: a named batch does not exist."""
    facts, others = database.read(lambda connection: _look(connection, question))
    unknown = tuple(id_ for id_ in _not_open(facts, question.ids) if id_ not in others)
    if unknown:
        raise no_such_batch(unknown)
    queue = replace(facts.queue, gone=_gone(facts, question.host))
    chosen = []
    for batch in facts.batches:
        age = max(int((facts.moment - batch.started_at).total_seconds()), 0)
        if batch.audit_history_id in question.ids if question.ids else age >= question.older_than:
            chosen.append(Stuck(batch=batch, diagnosis=diagnose(batch, queue, facts.moment), age=age))
    return Report(
        older_than=0 if question.ids else question.older_than,
        stuck=tuple(chosen),
        open_batches=len(facts.batches),
        ended=tuple(others[id_] for id_ in sorted(others)),
    )


def _look(connection: Connection, question: Question) -> tuple[Facts, dict[int, PlatformBatch]]:
    facts = reports.collect(connection, question.batch_statuses)
    missing = _not_open(facts, question.ids)
    return facts, reports.platform_batches(connection, missing) if missing else {}


def _not_open(facts: Facts, ids: Sequence[int]) -> list[int]:
    open_ids = {batch.audit_history_id for batch in facts.batches}
    return [id_ for id_ in dict.fromkeys(ids) if id_ not in open_ids]


def _gone(facts: Facts, host: str | None) -> frozenset[str]:
    """The runs of this host that have not ended and whose process is not there any more."""
    here = liveness.identify(host)
    held = [lease.run for batch in facts.batches for lease in batch.leases if lease.run is not None]
    return frozenset(
        run.identity.run_id
        for run in (*facts.queue.runs, *held)
        if run.finished_at is None and liveness.is_gone(run.identity, here)
    )


def no_such_batch(ids: Sequence[int]) -> OperatorError:
    """The refusal of ids that name no batch."""
    return OperatorError(
        f"there is no batch {listed(tuple(ids))}.",
        fix='"gepp-audit stuck --older-than 0s" names every open batch, "gepp-audit show" the newest ones.',
        code="unknown_batch",
        exit_code=2,
    )
