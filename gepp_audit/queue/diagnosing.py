"""The stuck ones of the open batches, each with its diagnosis, from what is stored of all of them, what the limits hold
back, and what this host can see of processes. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection

from gepp_audit.database import items, limits, reports, windows
from gepp_audit.database.facts import BatchFacts, Facts
from gepp_audit.database.limits import Gate
from gepp_audit.database.open_batches import Opened
from gepp_audit.queue import liveness
from gepp_audit.queue.diagnosis import Diagnosis, Held, diagnose
from gepp_audit.queue.holding import Hold
from gepp_audit.queue.inspecting import Question, age
from gepp_audit.queue.standing import look, reservation


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


class Findings(NamedTuple):
    """What is stored where something is stuck."""

    facts: Facts
    #: by organization
    held: Mapping[int, Held]
    #: those that are asked about
    chosen: frozenset[int]
    #: None: this host's own name
    host: str | None

    def diagnoses(self) -> tuple[Stuck, ...]:
        """The stuck batches, the oldest first."""
        facts = self.facts
        queue = replace(facts.queue, gone=_gone(facts, self.host))
        return tuple(
            Stuck(
                batch=batch,
                diagnosis=diagnose(batch, queue, facts.moment, self.held.get(batch.organization_id)),
                age=age(batch.started_at, facts.moment),
            )
            for batch in facts.batches
            if batch.audit_history_id in self.chosen
        )


def find(connection: Connection, opened: Opened, chosen: frozenset[int], question: Question) -> Findings:
    """Read all that the diagnoses of the `chosen` ones go by."""
    return Findings(
        facts=reports.collect(connection, opened, chosen),
        held=_held(connection, question, opened.moment),
        chosen=chosen,
        host=question.host,
    )


def _held(connection: Connection, question: Question, moment: datetime) -> dict[int, Held]:
    """What the limits hold back, by organization, as a claim would see it at this moment."""
    gate = limits.gate(connection)
    narrower = limits.of_organizations(connection).values()
    if not gate.caps_at(moment) and not any(one.caps or one.paused_at or one.throttled_until for one in narrower):
        return {}
    claimable = items.open_batches(connection, moment, 1)
    if not claimable:
        return {}
    recent = windows.recent(connection)

    def price(read: int, written: int) -> Decimal | None:
        return Decimal(0) if question.price is None else question.price(read, written)

    needs = {}
    for batch in claimable:
        newest = recent.get(batch.organization_id)
        largest = None if newest is None else newest.input_tokens
        needs[batch.audit_history_id] = reservation(batch, largest, question.most_output, price)
    holds = look(connection, gate, moment, claimable, needs, write=False).holds
    return {id_: Held(hold=one, by_provider=_by_provider(one, gate)) for id_, one in holds.items()}


def _by_provider(hold: Hold, gate: Gate) -> bool:
    """What people set lies higher, or is no limit at all: it is the provider's own pace."""
    if hold.organization_id is not None or not hold.limit.of_the_minute:
        return False
    of_people: int | None = getattr(gate.caps, hold.limit.value)
    return of_people is None or (hold.most is not None and of_people > hold.most)


def _gone(facts: Facts, host: str | None) -> frozenset[str]:
    """The runs of this host that have not ended and whose process is not there any more."""
    here = liveness.identify(host)
    held = [lease.run for batch in facts.batches for lease in batch.leases if lease.run is not None]
    return frozenset(
        run.identity.run_id
        for run in (*facts.queue.runs, *held)
        if run.finished_at is None and liveness.is_gone(run.identity, here)
    )
