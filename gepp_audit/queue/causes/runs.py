"""Who should work does not: `run_died`, `no_run`."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from gepp_audit.database.facts import Lease, RunFacts
from gepp_audit.queue.causes.case import GO_ON, GRACE, REFUSED, RUN_NOW, SILENT_SECONDS, Case, Diagnosis, name
from gepp_audit.queue.causes.names import Cause
from gepp_audit.queue.wording import ago, capital, counted, listed, sentence

#: deaths within this time belong together
_DEATHS_WITHIN: Final = timedelta(hours=1)
_FAILED: Final = "failed"
_CRON: Final = (
    'for good, "gepp-audit crontab --install" writes the line that starts it every minute, and "gepp-audit doctor" '
    "tells whether cron is running"
)


def run_died(case: Case) -> Diagnosis | None:
    """A run that holds calls of the batch is gone, or the last run died or failed and nothing was settled since."""
    if case.worked_on:  # by another one, which takes over what the dead one held
        return None
    dead = [lease for lease in case.batch.leases if case.is_dead(lease)]
    if dead:
        return _over_leases(case, dead)
    deaths = _deaths(case)
    if not deaths or any(case.is_alive(run) for run in case.queue.runs):
        return None
    last = deaths[0]
    how = "died without a word" if case.died(last) else "was ended by an error"
    ended = "died" if all(case.died(run) for run in deaths) else "ended badly"
    often = f"{len(deaths)} runs have {ended} within the last hour; the last of them, " if len(deaths) > 1 else ""
    told = f"{often}{name(last)}, {how}" if often else f"{name(last)} {how}"
    error = f" It said: {sentence(last.error.message)}" if last.error is not None else ""
    crashed = case.batch.crashed
    touched = f" Runs died over {counted(crashed, 'transaction')} of this batch." if crashed else ""
    return Diagnosis(
        cause=Cause.RUN_DIED,
        reason=None if case.died(last) or last.error is None else last.error.code,
        explanation=f"{capital(told)}; it last reported {ago(last.reported_at, case.now)}, and nothing of this batch "
        f"was settled since.{error}{touched}",
        fix=_way_out(last, died=case.died(last)),
    )


def _way_out(last: RunFacts, *, died: bool) -> str:
    """What mends the end of the last run: its own advice, where it was told one."""
    if not died and last.error is not None and last.error.fix:
        return f"{sentence(last.error.fix)} Then run {RUN_NOW} on {last.identity.host}."
    watch = f'Run "gepp-audit -v process-queue" on {last.identity.host} and watch how it ends'
    return f"{watch}; the system's log tells whether it was killed (for lack of memory, say)." if died else f"{watch}."


def _ended_badly(case: Case, run: RunFacts) -> bool:
    return case.died(run) or run.outcome == _FAILED


def _deaths(case: Case) -> list[RunFacts]:
    """The runs that ended badly lately over this batch, the newest first; none where a later run ended well or settled
    something.
    """
    ended = [
        run
        for run in case.queue.runs
        if not run.is_tick and run.outcome != REFUSED and (run.finished_at is not None or case.died(run))
    ]
    since = max(case.batch.started_at, case.batch.last_settled_at or case.batch.started_at)
    if not ended or not _ended_badly(case, ended[0]) or ended[0].reported_at < since:
        return []
    return [run for run in ended if _ended_badly(case, run) and case.now - run.reported_at < _DEATHS_WITHIN]


def _over_leases(case: Case, dead: list[Lease]) -> Diagnosis:
    lease = max(dead, key=lambda one: one.calls)
    held = lease.calls
    run = lease.run
    if run is None:
        who, what = "A run that is not recorded any more", "is gone"
    else:
        who = capital(name(run))
        what = "has ended" if run.finished_at is not None else "died"
        if run.finished_at is None and run.identity.run_id not in case.queue.gone:
            what = "is dead or frozen"
    told = f" It last reported {ago(run.reported_at, case.now)}." if run is not None else ""
    others = f" {counted(len(dead) - 1, 'more run')} did the same." if len(dead) > 1 else ""
    return Diagnosis(
        cause=Cause.RUN_DIED,
        explanation=f"{who} {what} while it had {counted(held, 'call')} of this batch under way.{told}{others} "
        f"The next run takes {'it' if held == 1 else 'them'} over; no settled verdict is lost.",
        fix=f"Run {GO_ON}.",
    )


def no_run(case: Case) -> Diagnosis | None:
    """Neither a run nor an idle tick has reported for long, on any host; or none of them works on this batch."""
    last = case.queue.runs[0] if case.queue.runs else None
    if last is None:
        return Diagnosis(
            cause=Cause.NO_RUN,
            explanation="No run of gepp-audit has ever reported to this database, so nothing works on the queue.",
            fix=f"Run {RUN_NOW} once by hand; {_CRON}.",
        )
    if case.worked_on:
        return None
    if case.seconds_since(last.reported_at) <= SILENT_SECONDS:
        return _not_for_this(case)
    why = f" That run could not begin: {sentence(last.error.message)}" if last.error is not None else ""
    return Diagnosis(
        cause=Cause.NO_RUN,
        explanation=f"No run of gepp-audit has reported on any host since {ago(last.reported_at, case.now)} "
        f"(the last was on {last.identity.host}), so nothing works on the queue.{why}",
        fix=f"Run {RUN_NOW} on {last.identity.host} once by hand; {_CRON}.",
    )


def _not_for_this(case: Case) -> Diagnosis | None:
    """Runs report, but they are told to leave such a batch alone."""
    recent = list(case.recent())
    working = [run for run in recent if not run.is_tick]
    batch = case.batch
    blind = [run for run in recent if run.is_tick and _overlooks(case, run)]
    if blind and not case.worked_since(batch.started_at + GRACE):
        return Diagnosis(
            cause=Cause.NO_RUN,
            reason="batch_status",
            explanation=f"Runs on {blind[0].identity.host} report that there is nothing to do: they do not look for "
            f"batches whose status is {batch.platform_status}.",
            fix=f"Run {RUN_NOW} with the settings of this command; for good, set GEPP_AUDIT_BATCH_STATUSES of the "
            "crontab's run so that it names that status, too.",
        )
    excluding = [run for run in working if not case.serves(run)]
    if not excluding or len(excluding) < len(working) or (recent[0].is_tick and not _overlooks(case, recent[0])):
        return None
    others = listed(tuple(sorted({id_ for run in excluding for id_ in run.organizations})))
    return Diagnosis(
        cause=Cause.NO_RUN,
        reason="organization",
        explanation=f"Runs report, but all of them work for other organizations alone ({others}), "
        f"not for organization {batch.organization_id}.",
        fix=f'Run "gepp-audit process-queue --organization {batch.organization_id}"; for good, add it to the crontab '
        "line, or take --organization out of that.",
    )


def _overlooks(case: Case, tick: RunFacts) -> bool:
    """An idle tick that came when the batch had stood there for a while, and did not see it."""
    batch = case.batch
    return batch.discovered_at is None and tick.reported_at > batch.started_at + GRACE


def also_no_run(case: Case) -> str | None:
    """What is added where another cause comes first."""
    found = no_run(case)
    if found is None:
        return None
    if found.reason is None:
        return "Besides, no run has reported for long: look whether cron is running."
    return f"Besides: {found.explanation}"
