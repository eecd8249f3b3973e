"""Why an open batch does not move: pure, `diagnose(batch, queue, now) -> Diagnosis`.

Each cause is one function of `causes/` that derives it from stored facts, or says None. Several may hold at once;
`_CAUSES` is their precedence, and the first that holds is the answer, the others are told in its explanation where a
person has to act on them too:

1. rival: another program has settled the batch, so nothing of it is ours to do any more
2. blocked: nothing moves before a person has mended what runs or the provider refuse, whatever else is wrong
3. paused: a person wants it so
4. run_died: a run that held calls of the batch is gone, or the last one ended badly
5. no_run: nobody works on the queue at all, or not on this batch
6. platform_lock: all is audited, and the platform's rows are kept from us
7. rival: another program works on the same batch
8. limited: runs work, and a limit that people set keeps the organization's calls back
9. retrying: runs work, and what is left fails and waits for its next attempt
10. slow: it moves, or its turn or the next run comes
11. unknown: none of these; it says what is seen

A further cause is one more function and one more line in `_CAUSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from gepp_audit.database.facts import BatchFacts, QueueFacts
from gepp_audit.queue.causes import people, platform, progress, provider, runs
from gepp_audit.queue.causes.case import SILENT_SECONDS, Case, Diagnosis, Held
from gepp_audit.queue.causes.names import Cause, Status
from gepp_audit.queue.wording import counted

__all__ = ["SILENT_SECONDS", "Cause", "Diagnosis", "Held", "Status", "diagnose"]


def diagnose(batch: BatchFacts, queue: QueueFacts, now: datetime, held: Held | None = None) -> Diagnosis:
    """The one cause that holds `batch`. `now`: on the database's clock, as the facts' moments are. `held`: by which the
    limits keep calls of its organization from leaving.
    """
    case = Case(batch=batch, queue=queue, now=now, held=held)
    found = next(diagnosis for cause in _CAUSES if (diagnosis := cause(case)) is not None)
    more = [told for cause, also in _ALSO.items() if cause is not found.cause and (told := also(case)) is not None]
    return replace(found, explanation=" ".join((found.explanation, *more)))


def _unknown(case: Case) -> Diagnosis:
    """None of the causes above: what is seen, and where to look."""
    batch = case.batch
    if batch.fanned_out_at is None:
        seen = "Runs report, but none has taken up this batch."
    else:
        left = counted(batch.left, "transaction")
        seen = f"{left} could be asked now and runs find the way free, but ask nothing."
    return Diagnosis(
        cause=Cause.UNKNOWN,
        explanation=seen,
        fix='Run "gepp-audit -v process-queue" by hand and read what it says; "gepp-audit doctor" looks at the rest.',
    )


_CAUSES: Final[tuple[Callable[[Case], Diagnosis | None], ...]] = (
    platform.settled_by_rival,
    provider.refused,
    provider.blocked,
    people.paused,
    runs.run_died,
    runs.no_run,
    platform.platform_lock,
    platform.rival_at_work,
    people.limited,
    progress.retrying,
    progress.behind_failing,
    progress.moving,
    progress.waiting,
    _unknown,
)

#: what is added where another cause comes first: things that a person has to mend as well
_ALSO: Final[dict[Cause, Callable[[Case], str | None]]] = {
    Cause.PAUSED: people.also_paused,
    Cause.NO_RUN: runs.also_no_run,
    Cause.RIVAL: platform.also_rival,
}
