"""What the causes share: what a diagnosis is, and one batch with what can be told of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gepp_audit.database.facts import BatchFacts, Lease, Moving, QueueFacts, RunFacts
from gepp_audit.queue.causes.names import Cause, Status
from gepp_audit.queue.holding import Hold

#: cron starts a run a minute, so silence over this many seconds is no accident
SILENT_SECONDS: Final = 300.0
#: a run at work reports every few seconds
RUN_SILENT_SECONDS: Final = 60.0
#: what a run that works does within this time; what it has not done then, something keeps it from
GRACE: Final = timedelta(seconds=60)
#: how a run ends that could not begin
REFUSED: Final = "refused"
#: in `Diagnosis.fix`, where the ids of the batches stand
IDS: Final = "{ids}"
#: sets a batch going again at once
GO_ON: Final = f'"gepp-audit stuck --requeue {IDS} --yes && gepp-audit process-queue"'
#: what the next run does by itself, now
RUN_NOW: Final = '"gepp-audit process-queue"'

#: it goes on by itself or was meant so; any other cause needs a person
_WARNINGS: Final = frozenset({Cause.PAUSED, Cause.LIMITED, Cause.RETRYING, Cause.SLOW})


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What holds one batch, and what to do."""

    cause: Cause
    #: what sort of it, from a closed list: the provider's refusal, the limit, the code of the failing calls
    reason: str | None = None
    #: full sentences
    explanation: str
    #: the next command to type or setting to mend; where batches are named, by `{ids}`
    fix: str
    #: settled transactions a minute, and when the batch will be through at that rate
    rate: float | None = None
    eta: datetime | None = None
    #: when what holds it back is over by itself; None: nobody can say
    clears_at: datetime | None = None

    @property
    def status(self) -> Status:
        """How bad it is."""
        return Status.WARNING if self.cause in _WARNINGS else Status.CRITICAL

    def fix_for(self, *audit_history_ids: int) -> str:
        """The fix for these batches, to be typed as it stands."""
        return self.fix.replace(IDS, " ".join(str(id_) for id_ in audit_history_ids))


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What keeps an organization's next call from leaving, by the limits."""

    hold: Hold
    #: not a limit of ours: the provider's own, as its answers tell it
    by_provider: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One batch as the causes look at it."""

    batch: BatchFacts
    queue: QueueFacts
    now: datetime
    held: Held | None = None

    @property
    def pending(self) -> bool:
        """Something is left to ask, or the batch has not even been looked at; and the platform still wants it."""
        return self.batch.wanted and (self.batch.left > 0 or self.batch.fanned_out_at is None)

    def is_dead(self, lease: Lease) -> bool:
        """Whoever holds this lease will not settle it any more."""
        run = lease.run
        if run is None:
            return lease.ended > 0
        if run.finished_at is not None or run.identity.run_id in self.queue.gone:
            return True
        return lease.ended > 0 and self.seconds_since(run.reported_at) > RUN_SILENT_SECONDS

    @property
    def worked_on(self) -> bool:
        """A living run has calls of the batch under way."""
        return any(not self.is_dead(lease) for lease in self.batch.leases)

    def is_behind(self, one: Moving) -> bool:
        """The batch's turn comes after this one's, which is its organization's too."""
        batch = self.batch
        older = (one.started_at, one.audit_history_id) < (batch.started_at, batch.audit_history_id)
        return one.organization_id == batch.organization_id and older

    def died(self, run: RunFacts) -> bool:
        """This run ended without telling so."""
        return run.outcome == "died" or (run.finished_at is None and run.identity.run_id in self.queue.gone)

    def is_alive(self, run: RunFacts) -> bool:
        """This run is at work."""
        silent = self.seconds_since(run.reported_at) > RUN_SILENT_SECONDS
        return run.finished_at is None and run.identity.run_id not in self.queue.gone and not silent

    def seconds_since(self, moment: datetime) -> float:
        """How long ago it was."""
        return (self.now - moment).total_seconds()

    def recent(self) -> Iterator[RunFacts]:
        """The runs and idle ticks that reported lately, the latest first."""
        return (run for run in self.queue.runs if self.seconds_since(run.reported_at) <= SILENT_SECONDS)

    def serves(self, run: RunFacts) -> bool:
        """This run works for the batch's organization, among others."""
        return not run.organizations or self.batch.organization_id in run.organizations

    def works(self, run: RunFacts) -> bool:
        """This run does, or did, what there is to do of the batch."""
        return not run.is_tick and run.outcome != REFUSED and not self.died(run) and self.serves(run)

    def worked_since(self, moment: datetime) -> bool:
        """A run that would have seen to the batch was at work at `moment` or later."""
        return any(self.works(run) and run.reported_at >= moment for run in self.queue.runs)


def name(run: RunFacts) -> str:
    """A run for a sentence."""
    identity = run.identity
    return f"run {identity.run_id} on {identity.host} (process {identity.pid})"
