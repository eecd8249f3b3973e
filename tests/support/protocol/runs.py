"""The queue as the model drives it: a run with its memory, and what it does, each in the transactions of the product.

The one place of the model that knows how the product's functions are called. A run is single-threaded as the real one
is: it asks what it claimed before it claims again. What happens between its transactions is up to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit.audit.transaction import input_digest
from gepp_audit.database import enqueuing, items, limits, mending, runs
from gepp_audit.database.engine import Database, now
from gepp_audit.database.platform import Platform, load
from gepp_audit.database.publish import unwanted
from gepp_audit.database.settling import Settlement, settle
from gepp_audit.errors import OperatorError
from gepp_audit.model import (
    CallOutcome,
    Claim,
    ErrorCode,
    Failure,
    FailureKind,
    ItemState,
    RunIdentity,
    SkipReason,
    Usage,
)
from gepp_audit.queue import intake, judging, writeback
from gepp_audit.queue import mending as repairs
from gepp_audit.queue.claiming import Claimed, Claimer
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.retry_policy import Counters, decide
from gepp_audit.queue.summary import Summary
from tests.support.protocol.observation import Content

STATUSES: Final = ("in_progress", "pending")
OPTIONS: Final = RunOptions(
    model="m-1",
    engine="openai",
    concurrency=8,
    call_timeout=60.0,
    lease_margin=30.0,
    max_attempts=3,
    first_backoff=2.0,
    max_completion_tokens=100,
    batch_statuses=STATUSES,
)
#: a claimed call that was not sent within so many seconds is released
SEND_WITHIN: Final = 2.0


class Answer(Enum):
    """What comes back of a call."""

    APPROVED = "approved"
    REJECTED = "rejected"
    NO_ACTION = "no_action"
    BAD = FailureKind.ANSWER
    DOWN = FailureKind.RETRY
    THROTTLED = 30.0
    HOPELESS = FailureKind.ITEM
    BLOCKED = FailureKind.BLOCK


_FAILURES: Final = {
    Answer.BAD: Failure(kind=FailureKind.ANSWER, code=ErrorCode.INCOMPLETE, message="a rule is missing"),
    Answer.DOWN: Failure(kind=FailureKind.RETRY, code=ErrorCode.SERVER_ERROR, message="the provider is down"),
    Answer.THROTTLED: Failure(
        kind=FailureKind.RETRY, code=ErrorCode.RATE_LIMITED, message="too many calls", retry_after=30.0
    ),
    Answer.HOPELESS: Failure(kind=FailureKind.ITEM, code=ErrorCode.POLICY, message="refused by policy"),
    Answer.BLOCKED: Failure(kind=FailureKind.BLOCK, code=ErrorCode.QUOTA_EXHAUSTED, message="no money is left"),
}
_OUTCOMES: Final = {
    FailureKind.RETRY: CallOutcome.RETRY,
    FailureKind.ANSWER: CallOutcome.ANSWER,
    FailureKind.ITEM: CallOutcome.ITEM,
    FailureKind.BLOCK: CallOutcome.BLOCK,
}
_ANSWERED: Final = (CallOutcome.VERDICT, CallOutcome.ANSWER, CallOutcome.ITEM)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A call under way: what it was shown."""

    claim: Claim
    digest: str
    content: Content


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one committed turn of settling and claiming did, for the reference."""

    run_id: str
    settlements: Sequence[Settlement]
    taken: set[int]
    #: calls that this run has under way; set where the turn is repeated, since its reply was lost
    known: set[int] | None
    nothing_under_way: bool
    claimed: Claimed | None


@dataclass
class Run:
    """A process of the queue and its memory."""

    identity: RunIdentity
    #: by call id, in the order of their claims
    asked: dict[int, Shown] = field(default_factory=dict)
    #: settlements that need no answer, for the next turn
    unasked: list[Settlement] = field(default_factory=list)
    alone_call: int | None = None
    blocked: bool = False
    #: what its turns did that nobody has looked at yet
    turns: list[Turn] = field(default_factory=list)

    @property
    def id(self) -> str:
        """As the tables name it."""
        return self.identity.run_id


def identity(number: int, host: str) -> RunIdentity:
    """A run of `host`, on a boot that is not this machine's."""
    return RunIdentity(
        run_id=f"run-{number}",
        host=host,
        boot_id="model",
        pid_namespace="model",
        pid=number,
        pid_started_at=float(number),
        version="model",
    )


def begin(database: Database, run: Run, dead: set[str]) -> str | None:
    """Note the run, and bury those of its host that are dead; returns the run that keeps it away."""

    def work(connection: Connection) -> str | None:
        limits.lock(connection)
        others = runs.unfinished(connection, run.identity.host)
        runs.bury(connection, [other.run_id for other, _ in others if other.run_id in dead])
        busy = [other.run_id for other, keeps_away in others if keeps_away and other.run_id not in dead]
        if not busy:
            runs.start(connection, run.identity)
        return busy[0] if busy else None

    return database.write(work)


def take_up(database: Database, platform: Platform, run_id: str) -> bool:
    """Discover, fan out and reconcile."""
    return intake.take_up(database, platform, OPTIONS, Summary(run_id=run_id))


def publish(database: Database, platform: Platform, run_id: str) -> bool:
    """Write back all that is settled."""
    return writeback.publish_settled(database, platform, Summary(run_id=run_id))


def close(database: Database, platform: Platform, run_id: str) -> int:
    """Close what is finished."""
    return writeback.close_finished(database, platform, OPTIONS, Summary(run_id=run_id))


def turn(
    database: Database,
    platform: Platform,
    run: Run,
    settlements: Sequence[Settlement],
    slots: int,
    content: Callable[[int], Content | None],
    waited: Callable[[], float],
    *,
    lost_reply: bool = False,
) -> None:
    """Settle what has arrived and claim up to `slots`, then ask what was claimed.

    `content`: what stands in a transaction now. `waited`: seconds that passed by the model's own count, read twice.
    `lost_reply`: the first commit succeeds, its reply does not arrive, and the turn is repeated from memory.
    """
    slots = 0 if run.alone_call in run.asked else slots
    terms = items.CallTerms(
        run_id=run.id,
        engine=OPTIONS.engine,
        model=OPTIONS.model,
        prompt_version="1",
        lease_seconds=OPTIONS.call_timeout + OPTIONS.lease_margin,
    )
    known = {*run.asked, *(one.call_id for one in settlements)}
    alone = not run.asked

    tries: list[int] = []

    def work(connection: Connection) -> tuple[set[int], Claimed | None]:
        tries.append(len(tries))
        taken = settle(connection, settlements)
        if len(tries) > 1:
            items.release_unknown(connection, run.id, known)
        _tell_gate(connection, run, settlements)
        # a new one each time: it looks for ended leases at once
        claimed = Claimer(terms).claim(connection, slots, nothing_under_way=alone) if slots else None
        return taken, claimed

    for _ in range(2 if lost_reply else 1):
        taken, claimed = database.write(work)
        run.turns.append(
            Turn(
                run_id=run.id,
                settlements=settlements,
                taken=taken,
                known=known if len(tries) > 1 else None,
                nothing_under_way=alone,
                claimed=claimed,
            )
        )
    run.blocked = run.blocked and not any(one.outcome in _ANSWERED for one in settlements)
    if claimed is not None:
        run.blocked = run.blocked or claimed.probe
        run.alone_call = claimed.claims[0].call_id if claimed.suspect or claimed.probe else run.alone_call
        ask(database, platform, run, claimed.claims, content, waited)


def _tell_gate(connection: Connection, run: Run, settlements: Sequence[Settlement]) -> None:
    refused = [one for one in settlements if one.outcome is CallOutcome.BLOCK]
    if refused:
        limits.block(connection, refused[0].error_code or ErrorCode.REQUEST_REJECTED, refused[0].error or "")
    elif run.blocked and any(one.outcome in _ANSWERED for one in settlements):
        limits.unblock(connection)
    for one in settlements:
        if one.throttle is not None:
            limits.throttle(connection, one.throttle, one.organization_id)


def ask(
    database: Database,
    platform: Platform,
    run: Run,
    claims: Sequence[Claim],
    content: Callable[[int], Content | None],
    waited: Callable[[], float],
) -> None:
    """Load what was claimed and send it: now, unless people took it out of our hands or this process was frozen."""
    began = waited()
    loaded = database.read(lambda connection: load(connection, platform, [one.transaction_id for one in claims]))
    for claim in claims:
        found, shown = loaded.get(claim.transaction_id), content(claim.transaction_id)
        reason = SkipReason.NOT_FOUND if found is None else unwanted(found, claim.organization_id)
        if found is None or shown is None or reason is not None:
            run.unasked.append(
                Settlement(
                    call_id=claim.call_id,
                    audit_history_id=claim.audit_history_id,
                    transaction_id=claim.transaction_id,
                    state=ItemState.SKIPPED,
                    outcome=CallOutcome.RELEASED,
                    skip_reason=reason,
                )
            )
        elif waited() - began > SEND_WITHIN:
            run.unasked.append(judging.released(claim))
        else:
            run.asked[claim.call_id] = Shown(claim=claim, digest=input_digest(found.transaction), content=shown)


def leave(database: Database, platform: Platform, run: Run) -> None:
    """The end of a run that was told to stop: what is in flight is given up, the rest is written back."""
    database.write(lambda connection: runs.drain(connection, run.id))
    given_up = [*run.unasked, *(judging.abandoned(shown.claim) for shown in run.asked.values())]
    run.unasked, run.asked = [], {}
    turn(database, platform, run, given_up, 0, lambda _: None, lambda: 0.0)
    publish(database, platform, run.id)
    close(database, platform, run.id)
    database.write(lambda connection: runs.finish(connection, run.id, "interrupted", {}))


def settlement(database: Database, shown: Shown, answer: Answer) -> Settlement:
    """What an answer does to the item of its call, by the product's own policy."""
    claim = shown.claim
    failure = _FAILURES.get(answer)
    if failure is None:
        return Settlement(
            call_id=claim.call_id,
            audit_history_id=claim.audit_history_id,
            transaction_id=claim.transaction_id,
            state=ItemState.DONE,
            outcome=CallOutcome.VERDICT,
            organization_id=claim.organization_id,
            sent=True,
            verdict=_verdict(str(answer.value)),
            verdict_status=str(answer.value),
            input_digest=shown.digest,
            usage=Usage(input_tokens=100, cached_tokens=0, output_tokens=20),
            model_answered="m-1",
        )
    decision = decide(
        failure,
        Counters(attempts=claim.attempts, waits=claim.waits, first_failed_at=claim.first_failed_at),
        moment=database.read(now),
        chance=0.5,
        max_attempts=OPTIONS.max_attempts,
        first_backoff=OPTIONS.first_backoff,
    )
    return Settlement(
        call_id=claim.call_id,
        audit_history_id=claim.audit_history_id,
        transaction_id=claim.transaction_id,
        state=decision.state,
        outcome=_OUTCOMES[failure.kind],
        organization_id=claim.organization_id,
        sent=True,
        delay=decision.delay,
        attempt=decision.attempt,
        wait=decision.wait,
        throttle=failure.retry_after,
        error_code=decision.code,
        error=decision.message,
        input_digest=shown.digest,
    )


def _verdict(status: str) -> dict[str, Any]:
    failed = status == "rejected"
    return {
        "status": status,
        "rules": {"DC-01": "fail" if failed else "pass"},
        "findings": [],
        "rejected_by": ["DC-01"] if failed else [],
        "warned_by": [],
    }


# -- what an operator does ---------------------------------------------------------------------------------------------


def enqueue(
    database: Database, platform: Platform, organization: int, ids: Sequence[int], *, force: bool
) -> int | None:
    """`enqueue --transaction …`; returns the batch, None: refused."""

    def work(connection: Connection) -> int | None:
        if enqueuing.refusals(connection, platform, organization, ids):
            return None
        if len(enqueuing.mark_queued(connection, platform, ids)) != len(ids):
            raise OperatorError("taken at this moment", fix="try again", code="not_queueable")
        return enqueuing.insert_batch(
            connection, organization, ids, status="in_progress", triggered_by=None, forced=force
        )

    try:
        return database.write(work)
    except OperatorError as error:
        if error.code != "not_queueable":
            raise
        return None


def requeue(database: Database, ids: Sequence[int]) -> None:
    """`stuck --requeue`."""
    repairs.requeue(database, ids, "operator")


def give_up(database: Database, platform: Platform, batch: int) -> None:
    """`stuck --fail` of a batch that was fanned out."""
    database.write(lambda connection: mending.give_up(connection, batch))
    publish(database, platform, "operator")
    close(database, platform, "operator")
