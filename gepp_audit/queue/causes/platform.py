"""Others work on the platform's rows: `rival`, `platform_lock`."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from gepp_audit.database.facts import Locker
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.queue.causes.case import GRACE, RUN_NOW, Case, Diagnosis
from gepp_audit.queue.causes.names import SWITCH_OFF, Cause
from gepp_audit.queue.wording import ago, counted


def settled_by_rival(case: Case) -> Diagnosis | None:
    """Another program completed or failed the batch that we have taken up."""
    batch = case.batch
    if not batch.settled_elsewhere:
        return None
    lost = f" {counted(batch.calling, 'call')} under way will have been paid for nothing." if batch.calling else ""
    return Diagnosis(
        cause=Cause.RIVAL,
        reason="settled",
        explanation=f"Another program has set this batch to {batch.platform_status}, though gepp-audit had taken it up "
        f"and has not closed it.{lost} What it has set stays as it is.",
        fix=f"{SWITCH_OFF}. {_LET_GO}",
    )


_LET_GO: Final = f"Then run {RUN_NOW}, which lets the batch go."


def rival_at_work(case: Case) -> Diagnosis | None:
    """Another program sets transactions of the batch, or counts in its row."""
    batch = case.batch
    if not batch.wanted or not (batch.taken_lately or batch.ahead_elsewhere):
        return None
    seen = []
    if batch.taken_lately:
        were = "was" if batch.taken_lately == 1 else "were"
        seen.append(
            f"{counted(batch.taken_lately, 'transaction')} of this batch {were} set by somebody else within the last "
            "15 minutes, after gepp-audit had claimed them"
        )
    if batch.ahead_elsewhere:
        seen.append(
            f"its row counts {counted(batch.ahead_elsewhere, 'transaction')} more as processed than gepp-audit has "
            "written back"
        )
    return Diagnosis(
        cause=Cause.RIVAL,
        reason="at_work",
        explanation=f"Another program works on the same batch: {', and '.join(seen)}. What both ask is paid for twice.",
        fix=f"{SWITCH_OFF}. Then run {RUN_NOW}, which does the rest.",
    )


def also_rival(case: Case) -> str | None:
    """What is added where another cause comes first."""
    return None if rival_at_work(case) is None else f"Besides, another program works on it. {SWITCH_OFF}."


def platform_lock(case: Case) -> Diagnosis | None:
    """What is left to do is to write to rows of the platform, and somebody keeps them locked."""
    batch = case.batch
    if batch.discovered_at is None:
        if batch.platform_status == IN_PROGRESS or not case.worked_since(batch.started_at + GRACE):
            return None
        return _locked(case, "The batch could not be taken up: somebody holds its row.", "takes it up")
    if not batch.wanted:
        if not batch.withdrawn:
            return None
        return _locked(
            case,
            "People withdrew the batch, and its transactions cannot be put back yet: somebody holds some of them.",
            "lets it go",
        )
    if batch.fanned_out_at is None or batch.left:
        return None
    if batch.unpublished:
        if not batch.held and not case.worked_since(_since(batch.unpublished_since, batch.fanned_out_at)):
            return None
        held = f", of which {batch.held} were found locked" if 0 < batch.held < batch.unpublished else ""
        what = f"Everything is audited, but {counted(batch.unpublished, 'transaction')} could not be written back "
        return _locked(case, f"{what}yet{held}: somebody holds rows of the platform.", "writes them back")
    if not case.worked_since(_since(batch.last_settled_at, batch.fanned_out_at)):
        return None
    return _locked(
        case,
        "Everything is audited and written back, but the batch could not be closed: somebody holds its row or one of "
        "its transactions, or the platform's database refuses to have it changed (then the log has batch_not_closed).",
        "closes it",
    )


def _since(moment: datetime | None, otherwise: datetime) -> datetime:
    return (moment or otherwise) + GRACE


def _locked(case: Case, what: str, then: str) -> Diagnosis:
    lockers = case.queue.lockers
    if not lockers:
        return Diagnosis(
            cause=Cause.PLATFORM_LOCK,
            explanation=f"{what} No session is seen that holds them at this moment, or this user may not see it.",
            fix=f"Run {RUN_NOW}, which {then}; if that does not help, a session of the platform that is idle in a "
            "transaction must end.",
        )
    told = "; ".join(_session(one, case.now) for one in lockers)
    ending = ", ".join(f"pg_terminate_backend({one.pid})" for one in lockers)
    return Diagnosis(
        cause=Cause.PLATFORM_LOCK,
        explanation=f"{what} Seen to hold some for long: {told}.",
        fix=f"Let the transaction of that session end, or end it in psql with SELECT {ending}; then run {RUN_NOW}, "
        f"which {then}.",
    )


def _session(one: Locker, now: datetime) -> str:
    who = [f"session {one.pid}"]
    if one.user:
        who.append(f"of user {one.user}")
    if one.application:
        who.append(f"({one.application})")
    state = f", {one.state}" if one.state else ""
    since = f", in a transaction since {ago(one.since, now)}" if one.since is not None else ""
    return f"{' '.join(who)} on {one.table}{state}{since}"
