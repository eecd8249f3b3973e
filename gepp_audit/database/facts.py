"""What is known of the open batches and of the queue when somebody asks why one does not move: plain values.

`reports` and `signs_of_life` gather them, `queue/diagnosis.py` says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.database.tables import GLOBAL_SCOPE
from gepp_audit.model import RunIdentity

#: what was settled within so many seconds counts as lately, for rates
LATELY_SECONDS: Final = 900.0
_TICK: Final = "tick:"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunError:
    """What kept a run from working, as it told its operator."""

    code: str
    message: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """One run, or the idle ticks of one host."""

    identity: RunIdentity
    started_at: datetime
    reported_at: datetime
    finished_at: datetime | None
    outcome: str | None
    #: None: not known
    calls: int | None = None
    #: what kept calls from leaving when it last looked for work
    held: str | None = None
    #: it works for these alone; empty: for all
    organizations: tuple[int, ...] = ()
    #: None: none, or its version did not keep it
    error: RunError | None = None

    @property
    def is_tick(self) -> bool:
        """It found nothing to do."""
        return self.identity.run_id.startswith(_TICK)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The calls of one batch that one run has under way."""

    #: None: its row is not there any more
    run: RunFacts | None
    calls: int
    #: of these, those whose lease has ended
    ended: int
    #: when the last of them ends
    until: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFacts:
    """One open batch. Counts are of its items; before it is fanned out, of the ids that it lists."""

    audit_history_id: int
    organization_id: int
    started_at: datetime
    #: None: no run of ours has seen it yet
    discovered_at: datetime | None = None
    fanned_out_at: datetime | None = None
    #: False: the platform cancelled, undid, deleted or closed it, and no run of ours has noticed yet
    wanted: bool = True
    #: the status of the platform's row; None: there is no row any more
    platform_status: str | None = IN_PROGRESS
    #: the platform's row says that another program completed or failed it
    settled_elsewhere: bool = False
    #: by so many transactions the platform's row is ahead of what we wrote back
    ahead_elsewhere: int = 0
    ready: int = 0
    calling: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    #: settled, but not yet written back to the platform; of these, those that the platform held when that was tried
    unpublished: int = 0
    held: int = 0
    #: when the first of the unpublished ones was settled
    unpublished_since: datetime | None = None
    #: skipped within LATELY_SECONDS, since somebody else had set their ai_audit_status
    taken_lately: int = 0
    #: skipped, since people withdrew the batch: it closes when the platform lets go of its rows
    withdrawn: int = 0
    #: ready, but not before a moment in the future
    waiting: int = 0
    #: left, and had a failed call before
    failing: int = 0
    #: left, and a run died while it worked on it
    crashed: int = 0
    #: when the first of the failing ones may be asked again
    next_attempt_at: datetime | None = None
    first_failed_at: datetime | None = None
    #: done or failed within LATELY_SECONDS, and when the first of those was
    settled_lately: int = 0
    settled_since: datetime | None = None
    last_settled_at: datetime | None = None
    last_error_code: str | None = None
    last_error: str | None = None
    leases: tuple[Lease, ...] = ()

    @property
    def left(self) -> int:
        """Transactions that still need an answer."""
        return self.ready + self.calling

    @property
    def due(self) -> int:
        """Transactions that may be asked now."""
        return max(self.ready - self.waiting, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateFacts:
    """What keeps calls of one scope from leaving."""

    blocked_reason: str | None = None
    blocked_detail: str | None = None
    blocked_at: datetime | None = None
    blocked_until: datetime | None = None
    throttled_until: datetime | None = None
    paused_at: datetime | None = None
    paused_reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Locker:
    """A session of the database that holds rows of a platform's table, or the table itself."""

    pid: int
    table: str
    user: str | None = None
    application: str | None = None
    #: `active`, `idle in transaction`; None: we may not see it
    state: str | None = None
    #: when its transaction began; None: we may not see it
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Moving:
    """An open batch of which verdicts arrived lately."""

    audit_history_id: int
    organization_id: int
    started_at: datetime
    verdicts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueFacts:
    """What holds for all batches."""

    #: by scope: `global`, `organization:ID`
    gates: Mapping[str, GateFacts] = field(default_factory=dict)
    #: the latest runs and idle ticks over all hosts, the one that reported last first
    runs: tuple[RunFacts, ...] = ()
    #: ids of runs whose process is gone, as far as that can be told from this host
    gone: frozenset[str] = frozenset()
    #: verdicts within LATELY_SECONDS by organization, those of closed batches too
    verdicts_lately: Mapping[int, int] = field(default_factory=dict)
    #: open batches with verdicts within LATELY_SECONDS
    moving: tuple[Moving, ...] = ()
    #: sessions that hold the platform's tables for long, as far as the database lets us see them
    lockers: tuple[Locker, ...] = ()
    #: calls under way by organization, whose lease has not ended
    under_way: Mapping[int, int] = field(default_factory=dict)
    #: by organization its oldest open batch of which all that is left has had a failed call
    failing: Mapping[int, BatchFacts] = field(default_factory=dict)

    def gate(self, organization_id: int | None = None) -> GateFacts:
        """The gate of everybody, or of one organization."""
        scope = GLOBAL_SCOPE if organization_id is None else f"organization:{organization_id}"
        return self.gates.get(scope, GateFacts())


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known, as of `moment` on the database's clock."""

    moment: datetime
    queue: QueueFacts
    #: the open batches that are asked about, and those of their organizations of which all calls fail, oldest first
    batches: tuple[BatchFacts, ...]
