"""Which open batches are stuck, and why: the stored facts, what this host can see of processes, and the diagnosis of
each. Changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from gepp_audit.database import health, items, limits, reports, retrying, windows
from gepp_audit.database.engine import Database
from gepp_audit.database.facts import BatchFacts, Facts, Orphans, PlatformBatch, Rivals
from gepp_audit.database.limits import Gate
from gepp_audit.database.platform import detect
from gepp_audit.errors import OperatorError
from gepp_audit.queue import liveness
from gepp_audit.queue.causes.platform import SWITCH_OFF
from gepp_audit.queue.diagnosis import Diagnosis, Held, Status, diagnose
from gepp_audit.queue.holding import Hold
from gepp_audit.queue.standing import look, reservation
from gepp_audit.queue.untaken import Untaken, untaken
from gepp_audit.queue.wording import listed

#: so many queued transactions are looked at for orphans
_LOOKED_AT: Final = 5_000
#: what another program settled so long ago is past
_RIVAL_WITHIN: Final = timedelta(hours=1)
FREE_ORPHANS: Final = 'Run "gepp-audit retry --orphans", which frees them; then they can be queued again.'
RIVAL_FIX: Final = f"{SWITCH_OFF}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked for: batches older than so many seconds, or those named, of any age."""

    older_than: int
    batch_statuses: tuple[str, ...]
    ids: tuple[int, ...] = ()
    #: None: the host's own name
    host: str | None = None
    #: the cap of an answer in tokens, and USD of so many tokens of input and output: what one more call would reserve
    most_output: int = 0
    price: Callable[[int, int], Decimal | None] | None = None


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
    #: of the whole queue: looked for where no batch is named
    orphans: Orphans = field(default_factory=Orphans)
    rivals: Rivals = field(default_factory=Rivals)
    #: open, but in a status that no run takes; of those named where batches are named
    untaken: Untaken = field(default_factory=Untaken)

    @property
    def status(self) -> Status:
        """The worst of all."""
        found = [stuck.diagnosis.status for stuck in self.stuck]
        if self.orphans.count or self.rivals.batches or self.untaken.batches:
            found.append(Status.WARNING)
        return max(found, key=lambda status: status.exit_code, default=Status.OK)

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
            "orphans": {
                "count": self.orphans.count,
                "complete": self.orphans.complete,
                "fix": FREE_ORPHANS if self.orphans.count else None,
            },
            "rivals": {
                "batches": self.rivals.batches,
                "last_at": self.rivals.last_at,
                "fix": RIVAL_FIX if self.rivals.batches else None,
            },
            "untaken": self.untaken.as_json(),
        }


def inspect(database: Database, question: Question) -> Report:
    """Look at all open batches and diagnose those that are asked for. OperatorError: a named batch does not exist."""
    facts, others, held, beside = database.read(lambda connection: _look(connection, question))
    unknown = tuple(id_ for id_ in _not_open(facts, question.ids) if id_ not in others)
    if unknown:
        raise no_such_batch(unknown)
    queue = replace(facts.queue, gone=_gone(facts, question.host))
    chosen = []
    for batch in facts.batches:
        age = max(int((facts.moment - batch.started_at).total_seconds()), 0)
        if batch.audit_history_id in question.ids if question.ids else age >= question.older_than:
            chosen.append(
                Stuck(
                    batch=batch,
                    diagnosis=diagnose(batch, queue, facts.moment, held.get(batch.organization_id)),
                    age=age,
                )
            )
    return Report(
        older_than=0 if question.ids else question.older_than,
        stuck=tuple(chosen),
        open_batches=len(facts.batches),
        ended=tuple(others[id_] for id_ in sorted(others)),
        orphans=beside.orphans,
        rivals=beside.rivals,
        untaken=beside.untaken,
    )


class _Beside(NamedTuple):
    """What is wrong beside the batches that runs take."""

    orphans: Orphans
    rivals: Rivals
    untaken: Untaken


def _look(
    connection: Connection, question: Question
) -> tuple[Facts, dict[int, PlatformBatch], dict[int, Held], _Beside]:
    facts = reports.collect(connection, question.batch_statuses)
    missing = _not_open(facts, question.ids)
    others = reports.platform_batches(connection, missing) if missing else {}
    if question.ids:
        named = Counter(one.status for one in others.values() if one.status in health.OPEN_STATUSES and not one.deleted)
        beside = _Beside(Orphans(), Rivals(), untaken(named, question.batch_statuses))
    else:
        beside = _whole_queue(connection, question.batch_statuses)
    return facts, others, _held(connection, question, facts.moment), beside


def _whole_queue(connection: Connection, statuses: Sequence[str]) -> _Beside:
    count, complete = retrying.count_orphans(connection, detect(connection), statuses, _LOOKED_AT)
    _, settled, last_at = health.settled_by_others(connection, _RIVAL_WITHIN)
    return _Beside(
        Orphans(count=count, complete=complete),
        Rivals(batches=settled, last_at=last_at),
        untaken(health.open_by_status(connection), statuses),
    )


def _held(connection: Connection, question: Question, moment: datetime) -> dict[int, Held]:
    """What the limits hold back, by organization, as a claim would see it at this moment."""
    gate = limits.gate(connection)
    claimable = items.open_batches(connection, moment, 1)
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
