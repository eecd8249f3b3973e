"""Nothing can be asked before a person mends something: `blocked`."""

from __future__ import annotations

from typing import Final

from gepp_audit.database.facts import RunFacts
from gepp_audit.model import ErrorCode
from gepp_audit.queue import remedies
from gepp_audit.queue.causes.case import GO_ON, REFUSED, RUN_NOW, Case, Diagnosis
from gepp_audit.queue.causes.names import Cause
from gepp_audit.queue.holding import Limit
from gepp_audit.queue.wording import ago, sentence

#: what keeps runs from beginning, by the code of their error: as which cause and reason it is told
_REFUSED_AS: Final = {
    "no_api_key": (Cause.BLOCKED, ErrorCode.KEY_REJECTED.value),
    "price_unknown": (Cause.LIMITED, Limit.UNPRICED.value),
}


def refused(case: Case) -> Diagnosis | None:
    """Every run of late ended before it began: something that it needs is missing."""
    run = _refused(case)
    if run is None:
        return None
    since = f"Runs on {run.identity.host} cannot begin (the last was {ago(run.reported_at, case.now)})"
    if run.error is None:
        return Diagnosis(
            cause=Cause.BLOCKED,
            reason="not_started",
            explanation=f"{since}: something that they need is missing.",
            fix='Run "gepp-audit -v process-queue" there by hand and read what it says.',
        )
    cause, reason = _REFUSED_AS.get(run.error.code, (Cause.BLOCKED, run.error.code))
    fix = f"{sentence(run.error.fix)} Then run" if run.error.fix else "Mend that, then run"
    return Diagnosis(
        cause=cause,
        reason=reason,
        explanation=f"{since}: {sentence(run.error.message)}",
        fix=f"{fix} {RUN_NOW} on {run.identity.host}.",
    )


def _refused(case: Case) -> RunFacts | None:
    """The latest run, where it could not begin and no other host's works."""
    recent = [run for run in case.recent() if not run.is_tick]
    last = next((run for run in recent if run.outcome == REFUSED), None)
    if last is None:
        return None
    for run in recent:
        before = run.identity.host == last.identity.host and run.reported_at < last.started_at
        works = case.is_alive(run) or (run.finished_at is not None and not case.died(run))
        if run.outcome != REFUSED and works and not before:
            return None
    return last


def blocked(case: Case) -> Diagnosis | None:
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
        fix=f"{remedy.mend}, then run {GO_ON}.",
    )
