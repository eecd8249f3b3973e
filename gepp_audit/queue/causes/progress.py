"""It goes on, if not as fast as one would like: `retrying`, `slow`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from gepp_audit.database.facts import BatchFacts
from gepp_audit.model import ErrorCode
from gepp_audit.queue import remedies
from gepp_audit.queue.causes.case import GO_ON, GRACE, RUN_NOW, Case, Diagnosis
from gepp_audit.queue.causes.names import Cause
from gepp_audit.queue.wording import ago, counted, moment_in_words, sentence, span

#: an expected end further away than this is none
_FARTHEST_END: Final = timedelta(days=365)
#: so many runs that found the way free and did nothing are no accident
_IDLE_RUNS: Final = 3
#: or one that has been at it for so long
_IDLE_FOR: Final = timedelta(minutes=5)
_FASTER: Final = (
    "Wait, or raise GEPP_AUDIT_CONCURRENCY if the provider's limits allow it; "
    '"gepp-audit show --status in_progress" tells how far it is.'
)


def retrying(case: Case) -> Diagnosis | None:
    """All that is left has failed before, or some has and nothing was settled lately; or the provider asked to wait."""
    batch = case.batch
    if not batch.wanted:
        return None
    waits = [case.queue.gate().throttled_until, case.queue.gate(batch.organization_id).throttled_until]
    throttled_until = max((until for until in waits if until is not None and until > case.now), default=None)
    throttled = throttled_until is not None and batch.left > 0
    failing = batch.failing > 0 and (batch.failing == batch.left or not batch.settled_lately) and not _over(batch)
    if not throttled and not failing:
        return None
    told: list[str] = []
    if batch.failing:
        again = counted(batch.failing, "transaction")
        told.append(f"{again} of {batch.left} left had a failed call and will be asked again.")
    due = batch.next_attempt_at
    if throttled and throttled_until is not None:
        due = throttled_until
        told.append(f"The provider asked to be left alone until {moment_in_words(throttled_until)}.")
    elif due is not None:
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
        fix=f"{remedies.of_failure(code)}; to try at once, run {GO_ON}.",
        clears_at=due if due is not None and due > case.now else None,
    )


def behind_failing(case: Case) -> Diagnosis | None:
    """It has not been asked, and the calls of its organization's older batch all fail: it would fare no better."""
    batch = case.batch
    older = case.queue.failing.get(batch.organization_id)
    if older is None or older.audit_history_id == batch.audit_history_id or _over(older):
        return None
    if not batch.wanted or not batch.left or batch.failing or batch.settled_lately or case.worked_on:
        return None
    told = f"It waits its turn behind batch {older.audit_history_id} of its organization, in which every call failed."
    if older.last_error:
        told += f" The last error: {sentence(older.last_error)}"
    return Diagnosis(
        cause=Cause.RETRYING,
        reason=older.last_error_code,
        explanation=told,
        fix=f"{remedies.of_failure(older.last_error_code)}; to try at once, run {GO_ON}.",
        clears_at=None,
    )


def _over(batch: BatchFacts) -> bool:
    """The provider answers again: the wait of the failing ones has ended, and verdicts arrived since."""
    if batch.last_settled_at is None or batch.next_attempt_at is None or not batch.settled_lately:
        return False
    return not batch.waiting and batch.last_settled_at > batch.next_attempt_at


def moving(case: Case) -> Diagnosis | None:
    """Something of the batch was settled lately, or calls are under way, or older batches of its organization move."""
    batch = case.batch
    if not batch.left or not batch.wanted:
        return None
    if batch.settled_lately and batch.settled_since is not None:
        # a single moment says nothing of a rate: at least a minute is taken
        minutes = max(case.seconds_since(batch.settled_since), 60.0) / 60
        rate = batch.settled_lately / minutes
        eta = _eta(case.now, batch.left, rate)
        ends = f"it will be through at {moment_in_words(eta)} (in {span(eta - case.now)})" if eta else "the end is far"
        return Diagnosis(
            cause=Cause.SLOW,
            explanation=f"It moves: {_rate(rate)} a minute lately, {batch.left} left; at this rate {ends}.",
            fix=_FASTER,
            rate=rate,
            eta=eta,
        )
    if case.worked_on:
        under_way = sum(lease.calls for lease in batch.leases if not case.is_dead(lease))
        return _slow(
            f"{counted(under_way, 'call')} {'is' if under_way == 1 else 'are'} under way; none of this "
            f"batch was answered within the last 15 minutes, so there is no rate yet. {batch.left} left."
        )
    own = batch.organization_id
    audited = sum(one.verdicts for one in case.queue.moving if case.is_behind(one))
    if audited:
        return _slow(
            f"It waits its turn: organization {own} has older batches, of which {counted(audited, 'transaction')} "
            f"{'was' if audited == 1 else 'were'} audited within the last 15 minutes. {batch.left} left in this one."
        )
    if case.queue.under_way.get(own):
        return _slow(f"It waits its turn: calls of other batches of organization {own} are under way. {_left(case)}")
    return None


def waiting(case: Case) -> Diagnosis | None:
    """The next run does it: nothing is in the way, and no run has had the time yet."""
    batch = case.batch
    if not batch.wanted:
        return _slow("The platform has cancelled, undone or deleted this batch; the next run lets it go.", RUN_NOW)
    if batch.left and batch.fanned_out_at is not None:
        own = batch.organization_id  # its verdicts are of closed or newer batches: this one does not wait for them
        busy = sum(number for id_, number in case.queue.verdicts_lately.items() if id_ != own)
        busy += sum(case.queue.under_way.values())
        alone = f" Runs died over {batch.crashed} of them, and such are asked alone." if batch.crashed else ""
        if busy:
            return _slow(f"It waits its turn: runs work on batches of other organizations. {_left(case)}{alone}")
        if _in_vain(case):
            return None
        return _slow(f"Nothing is in its way; the next run asks what is left. {_left(case)}{alone}", RUN_NOW)
    if batch.fanned_out_at is None:
        # a run that saw it took it up: later ones must have been kept from it
        if case.worked_since((batch.discovered_at or batch.started_at) + GRACE):
            return None
        since = ago(batch.started_at, case.now)
        return _slow(f"It was queued {since}; the next run takes it up. {_left(case)}", RUN_NOW)
    rest = "writes back the last verdicts and closes it" if batch.unpublished else "closes it"
    return _slow(f"Everything is audited; the next run {rest}.", RUN_NOW)


def _in_vain(case: Case) -> bool:
    """Runs had the time and found the way free, and yet did nothing."""
    batch = case.batch
    moments = (batch.started_at, batch.fanned_out_at, batch.last_settled_at)
    since = max(moment for moment in moments if moment is not None) + GRACE
    free = [run for run in case.queue.runs if case.works(run) and run.held is None and run.calls == 0]
    ended = [run for run in free if run.finished_at is not None and run.started_at >= since]
    long = [run for run in free if case.is_alive(run) and run.started_at < case.now - _IDLE_FOR]
    return len([run for run in ended if run.outcome == "processed"]) >= _IDLE_RUNS or bool(long)


def _slow(explanation: str, command: str | None = None) -> Diagnosis:
    fix = _FASTER if command is None else f"Wait for the next run, or run {command}."
    return Diagnosis(cause=Cause.SLOW, explanation=explanation, fix=fix)


def _left(case: Case) -> str:
    return f"{counted(case.batch.left, 'transaction')} left in this one."


def _eta(now: datetime, left: int, rate: float) -> datetime | None:
    minutes = left / rate
    return now + timedelta(minutes=minutes) if minutes * 60 < _FARTHEST_END.total_seconds() else None


def _rate(rate: float) -> str:
    return f"{rate:.0f} transactions" if rate >= 10 else f"{rate:.1f} transactions"
