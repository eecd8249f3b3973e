"""Why an open batch does not move: pure, `diagnose(batch, queue, now) -> Diagnosis`.

Each cause is one function that derives it from stored facts, or says None. Several may hold at once; `_CAUSES` is their
precedence, and the first that holds is the answer, the others are told in its explanation where a person has to act on
them too:

1. blocked: nothing moves before a person has mended what the provider refuses, whatever else is wrong
2. paused: a person wants it so
3. run_died: a run that held calls of the batch is gone
4. no_run: nobody works on the queue at all
5. retrying: runs work, and what is left fails and waits for its next attempt
6. slow: runs work, and it moves, or the organization's older batches do
7. unknown: none of these; it says what is seen

A further cause is one more function and one more line in `_CAUSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from gepp_audit.database.reports import BatchFacts, GateFacts, Lease, QueueFacts, RunFacts
from gepp_audit.model import ErrorCode
from gepp_audit.queue import remedies
from gepp_audit.queue.wording import ago, capital, counted, moment_in_words, sentence, span

#: cron starts a run a minute, so silence over this many seconds is no accident
SILENT_SECONDS: Final = 300.0
#: a run at work reports every few seconds
RUN_SILENT_SECONDS: Final = 60.0
#: deaths within this time belong together
_DEATHS_WITHIN: Final = timedelta(hours=1)
#: an expected end further away than this is none
_FARTHEST_END: Final = timedelta(days=365)
#: how a run ends that could not begin
REFUSED: Final = "refused"
#: in `Diagnosis.fix`, where the ids of the batches stand
_IDS: Final = "{ids}"


class Cause(StrEnum):
    """Why a batch does not move; the values are a contract."""

    BLOCKED = "blocked"
    PAUSED = "paused"
    RUN_DIED = "run_died"
    NO_RUN = "no_run"
    RETRYING = "retrying"
    SLOW = "slow"
    UNKNOWN = "unknown"


class Status(StrEnum):
    """What a monitor makes of it; the exit code of `stuck` is the place in this list."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """The monitoring plugins' code."""
        return list(Status).index(self)


#: it goes on by itself or was meant so; any other cause needs a person
_WARNINGS: Final = frozenset({Cause.PAUSED, Cause.RETRYING, Cause.SLOW})


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What holds one batch, and what to do."""

    cause: Cause
    #: what sort of it, from a closed list: the provider's refusal, or the code of the failing calls
    reason: str | None = None
    #: full sentences
    explanation: str
    #: the next command to type or setting to mend; where batches are named, by `{ids}`
    fix: str
    #: settled transactions a minute, and when the batch will be through at that rate
    rate: float | None = None
    eta: datetime | None = None

    @property
    def status(self) -> Status:
        """How bad it is."""
        return Status.WARNING if self.cause in _WARNINGS else Status.CRITICAL

    def fix_for(self, *audit_history_ids: int) -> str:
        """The fix for these batches, to be typed as it stands."""
        return self.fix.replace(_IDS, " ".join(str(id_) for id_ in audit_history_ids))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """One batch as the functions below look at it."""

    batch: BatchFacts
    queue: QueueFacts
    now: datetime

    @property
    def pending(self) -> bool:
        """Something is left to ask, or the batch has not even been looked at."""
        return self.batch.left > 0 or self.batch.fanned_out_at is None

    def is_dead(self, lease: Lease) -> bool:
        """Whoever holds this lease will not settle it any more."""
        run = lease.run
        if run is None:
            return lease.ended > 0
        if run.finished_at is not None or run.identity.run_id in self.queue.gone:
            return True
        return lease.ended > 0 and _seconds(self.now, run.reported_at) > RUN_SILENT_SECONDS

    @property
    def worked_on(self) -> bool:
        """A living run has calls of the batch under way."""
        return any(not self.is_dead(lease) for lease in self.batch.leases)

    def died(self, run: RunFacts) -> bool:
        """This run ended without telling so."""
        return run.outcome == "died" or (run.finished_at is None and run.identity.run_id in self.queue.gone)

    def is_alive(self, run: RunFacts) -> bool:
        """This run is at work."""
        silent = _seconds(self.now, run.reported_at) > RUN_SILENT_SECONDS
        return run.finished_at is None and run.identity.run_id not in self.queue.gone and not silent


def diagnose(batch: BatchFacts, queue: QueueFacts, now: datetime) -> Diagnosis:
    """The one cause that holds `batch`. `now`: on the database's clock, as the facts' moments are."""
    case = _Case(batch=batch, queue=queue, now=now)
    found = [diagnosis for cause in _CAUSES if (diagnosis := cause(case)) is not None]
    first = found[0]
    others = [_ALSO[other.cause] for other in found[1:] if other.cause in _ALSO]
    if not others:
        return first
    return Diagnosis(
        cause=first.cause,
        reason=first.reason,
        explanation=" ".join((first.explanation, *others)),
        fix=first.fix,
        rate=first.rate,
        eta=first.eta,
    )


# -- the causes --------------------------------------------------------------------------------------------------------

_GO_ON: Final = f'"gepp-audit stuck --requeue {_IDS} --yes && gepp-audit process-queue"'


def _blocked(case: _Case) -> Diagnosis | None:
    """The provider refused a call for good, and has not answered one since."""
    gate = case.queue.gate()
    if gate.blocked_reason is None or not case.pending:
        return None
    remedy = remedies.of_refusal(gate.blocked_reason)
    since = "" if gate.blocked_at is None else f" since {ago(gate.blocked_at, case.now)}"
    said = f" What it said: {sentence(gate.blocked_detail)}" if gate.blocked_detail else ""
    return Diagnosis(
        cause=Cause.BLOCKED,
        reason=gate.blocked_reason,
        explanation=f"The provider refuses every call{since}: {remedy.words}.{said} No transaction was "
        "given up for that; runs try one call a minute, and the first one that is answered sets all going again.",
        fix=f"{remedy.mend}, then run {_GO_ON}.",
    )


def _paused(case: _Case) -> Diagnosis | None:
    """A person paused the queue, or the organization."""
    id_ = case.batch.organization_id
    everybody, own = case.queue.gate(), case.queue.gate(id_)
    gate: GateFacts = everybody if everybody.paused_at is not None else own
    if gate.paused_at is None or not case.pending:
        return None
    whole = everybody.paused_at is not None
    what = "The queue was paused" if whole else f"Organization {id_} was paused"
    why = f": {sentence(gate.paused_reason)}" if gate.paused_reason else "."
    return Diagnosis(
        cause=Cause.PAUSED,
        explanation=f"{what} by a person {ago(gate.paused_at, case.now)}{why}",
        fix=f'Run "gepp-audit resume{"" if whole else f" --organization {id_}"}" when it may go on.',
    )


def _run_died(case: _Case) -> Diagnosis | None:
    """A run that holds calls of the batch is gone, or the last run died and nothing was settled since."""
    if case.worked_on:  # by another one, which takes over what the dead one held
        return None
    dead = [lease for lease in case.batch.leases if case.is_dead(lease)]
    if dead:
        return _died(case, dead)
    deaths = _deaths(case)
    if not deaths or any(case.is_alive(run) for run in case.queue.runs):
        return None
    last = deaths[0]
    often = f"{len(deaths)} runs have died within the last hour; the last of them, " if len(deaths) > 1 else ""
    how = f"{often}{_name(last)}, died without a word" if often else f"{_name(last)} died without a word"
    crashed = case.batch.crashed
    touched = f" Runs died over {counted(crashed, 'transaction')} of this batch." if crashed else ""
    return Diagnosis(
        cause=Cause.RUN_DIED,
        explanation=f"{capital(how)}; it last reported {ago(last.reported_at, case.now)}, and nothing of this batch "
        f"was settled since.{touched}",
        fix=f'Run "gepp-audit -v process-queue" on {last.identity.host} and watch how it ends; the system\'s log tells '
        "whether it was killed (for lack of memory, say).",
    )


def _deaths(case: _Case) -> list[RunFacts]:
    """The runs that died lately over this batch, the newest first; none where a later run ended well or settled
    something.
    """
    ended = [run for run in case.queue.runs if not run.is_tick and (run.finished_at is not None or case.died(run))]
    since = max(case.batch.started_at, case.batch.last_settled_at or case.batch.started_at)
    if not ended or not case.died(ended[0]) or ended[0].reported_at < since:
        return []
    return [run for run in ended if case.died(run) and case.now - run.reported_at < _DEATHS_WITHIN]


def _died(case: _Case, dead: list[Lease]) -> Diagnosis:
    lease = max(dead, key=lambda one: one.calls)
    held = lease.calls
    run = lease.run
    if run is None:
        who, what = "A run that is not recorded any more", "is gone"
    else:
        who = capital(_name(run))
        what = "has ended" if run.finished_at is not None else "died"
        if run.finished_at is None and run.identity.run_id not in case.queue.gone:
            what = "is dead or frozen"
    told = f" It last reported {ago(run.reported_at, case.now)}." if run is not None else ""
    others = f" {counted(len(dead) - 1, 'more run')} did the same." if len(dead) > 1 else ""
    return Diagnosis(
        cause=Cause.RUN_DIED,
        explanation=f"{who} {what} while it had {counted(held, 'call')} of this batch under way.{told}{others} "
        f"The next run takes {'it' if held == 1 else 'them'} over; no settled verdict is lost.",
        fix=f"Run {_GO_ON}.",
    )


def _no_run(case: _Case) -> Diagnosis | None:
    """Neither a run nor an idle tick has reported for long, on any host."""
    last = case.queue.runs[0] if case.queue.runs else None
    by_hand = 'then run "gepp-audit process-queue" once by hand'
    if last is None:
        return Diagnosis(
            cause=Cause.NO_RUN,
            explanation="No run of gepp-audit has ever reported to this database, so nothing works on the queue.",
            fix='Put the line of crontab.example into the crontab ("crontab -e"), and look that cron is running; '
            f"{by_hand}.",
        )
    if _seconds(case.now, last.reported_at) <= SILENT_SECONDS or case.worked_on:
        return None
    return Diagnosis(
        cause=Cause.NO_RUN,
        explanation=f"No run of gepp-audit has reported on any host since {ago(last.reported_at, case.now)} "
        f"(the last was on {last.identity.host}), so nothing works on the queue.",
        fix=f'On {last.identity.host}, look with "crontab -l" for the line that starts gepp-audit, and whether cron is '
        f"running; {by_hand}.",
    )


def _retrying(case: _Case) -> Diagnosis | None:
    """All that is left has failed before, or some has and nothing was settled lately; or the provider asked to wait."""
    batch, gate = case.batch, case.queue.gate()
    throttled = gate.throttled_until is not None and gate.throttled_until > case.now and batch.left > 0
    failing = batch.failing > 0 and (batch.failing == batch.left or not batch.settled_lately)
    if not throttled and not failing:
        return None
    told: list[str] = []
    if batch.failing:
        again = counted(batch.failing, "transaction")
        told.append(f"{again} of {batch.left} left had a failed call and will be asked again.")
    if throttled and gate.throttled_until is not None:
        told.append(f"The provider asked to be left alone until {moment_in_words(gate.throttled_until)}.")
    elif batch.next_attempt_at is not None:
        due = batch.next_attempt_at
        when = f"at {moment_in_words(due)} (in {span(due - case.now)})" if due > case.now else "now"
        told.append(f"The next one is due {when}.")
    if batch.first_failed_at is not None:
        told.append(f"The first failure was {ago(batch.first_failed_at, case.now)}.")
    if batch.last_error:
        told.append(f"The last error: {sentence(batch.last_error)}")
    code = batch.last_error_code or (ErrorCode.RATE_LIMITED.value if throttled else None)
    return Diagnosis(
        cause=Cause.RETRYING,
        reason=code,
        explanation=" ".join(told),
        fix=f"{remedies.of_failure(code)}; to try at once, run {_GO_ON}.",
    )


def _slow(case: _Case) -> Diagnosis | None:
    """Something of the batch was settled lately, or calls are under way, or older batches of its organization move."""
    batch = case.batch
    if not batch.left:
        return None
    faster = "Wait, or raise GEPP_AUDIT_CONCURRENCY."
    if batch.settled_lately and batch.settled_since is not None:
        # a single moment says nothing of a rate: at least a minute is taken
        minutes = max(_seconds(case.now, batch.settled_since), 60.0) / 60
        rate = batch.settled_lately / minutes
        eta = _eta(case.now, batch.left, rate)
        ends = f"it will be through at {moment_in_words(eta)} (in {span(eta - case.now)})" if eta else "the end is far"
        return Diagnosis(
            cause=Cause.SLOW,
            explanation=f"It moves: {_rate(rate)} a minute lately, {batch.left} left; at this rate {ends}.",
            fix=faster,
            rate=rate,
            eta=eta,
        )
    if case.worked_on:
        under_way = sum(lease.calls for lease in batch.leases if not case.is_dead(lease))
        return Diagnosis(
            cause=Cause.SLOW,
            explanation=f"{counted(under_way, 'call')} {'is' if under_way == 1 else 'are'} under way; none of this "
            f"batch was answered within the last 15 minutes, so there is no rate yet. {batch.left} left.",
            fix=faster,
        )
    others = case.queue.verdicts_lately.get(batch.organization_id, 0)
    if not others:
        return None
    return Diagnosis(
        cause=Cause.SLOW,
        explanation=f"It waits its turn: organization {batch.organization_id} has older batches, of which {others} "
        f"transactions were audited within the last 15 minutes. {batch.left} left in this one.",
        fix=faster,
    )


def _eta(now: datetime, left: int, rate: float) -> datetime | None:
    minutes = left / rate
    return now + timedelta(minutes=minutes) if minutes * 60 < _FARTHEST_END.total_seconds() else None


def _unknown(case: _Case) -> Diagnosis:
    """None of the causes above: what is seen, and where to look."""
    batch = case.batch
    by_hand = 'run "gepp-audit -v process-queue" by hand and read what it says'
    locked = f"{capital(by_hand)}; a session of the platform that is idle in a transaction must end."
    if not batch.wanted:
        seen = "The platform has cancelled, undone, deleted or closed this batch; the next run lets it go."
        return _not_known(seen, 'Run "gepp-audit process-queue".')
    if case.pending and case.queue.runs and case.queue.runs[0].outcome == REFUSED:
        seen = "The last run could not begin to work: something that it needs is not set, an API key for example."
        return _not_known(seen, f"{capital(by_hand)}.")
    if batch.fanned_out_at is None:
        seen = "Runs report, but none has taken up this batch: they may be told to work for other organizations or "
        seen += "statuses only, or the platform holds its row."
        return _not_known(
            seen, f"Compare --organization and GEPP_AUDIT_BATCH_STATUSES of the crontab line with the batch; {by_hand}."
        )
    if batch.unpublished and not batch.left:
        settled = counted(batch.unpublished, "transaction")
        seen = f"Everything is audited, but {settled} could not be written back yet: the platform may hold them in a "
        seen += "transaction of its own."
        return _not_known(seen, locked)
    if not batch.left:
        seen = "Everything is audited and written back, but the batch is not closed: the platform may hold its row."
        return _not_known(seen, locked)
    left = counted(batch.left, "transaction")
    seen = f"{left} could be asked now and runs report, but nothing of this batch was settled lately."
    if batch.crashed:
        seen += f" Runs died over {batch.crashed} of them, and such are asked alone."
    return _not_known(seen, f"{capital(by_hand)}; --organization in the crontab line would leave it out.")


def _not_known(seen: str, fix: str) -> Diagnosis:
    return Diagnosis(cause=Cause.UNKNOWN, explanation=seen, fix=fix)


_CAUSES: Final[tuple[Callable[[_Case], Diagnosis | None], ...]] = (
    _blocked,
    _paused,
    _run_died,
    _no_run,
    _retrying,
    _slow,
    _unknown,
)

#: what is added where another cause comes first: things that a person has to mend as well
_ALSO: Final = {
    Cause.PAUSED: "Besides, it is paused: see “gepp-audit resume”.",
    Cause.NO_RUN: "Besides, no run has reported for long: look whether cron is running.",
}


def _seconds(now: datetime, then: datetime) -> float:
    return (now - then).total_seconds()


def _name(run: RunFacts) -> str:
    identity = run.identity
    return f"run {identity.run_id} on {identity.host} (process {identity.pid})"


def _rate(rate: float) -> str:
    return f"{rate:.0f} transactions" if rate >= 10 else f"{rate:.1f} transactions"
