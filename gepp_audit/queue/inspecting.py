"""Which open batches are stuck, and what is wrong beside them. Why one is stuck, `diagnosing` says. Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Connection

from gepp_audit.database import retrying
from gepp_audit.database.engine import Database
from gepp_audit.database.open_batches import Opened, PlatformBatch, open_batches, platform_batches
from gepp_audit.database.platform import detect
from gepp_audit.database.whole_queue import OPEN_STATUSES, Orphans, Rivals, open_by_status, settled_by_others
from gepp_audit.errors import OperatorError
from gepp_audit.queue.causes.names import SWITCH_OFF, Status
from gepp_audit.queue.untaken import Untaken, untaken
from gepp_audit.queue.wording import listed

if TYPE_CHECKING:
    from gepp_audit.queue.diagnosing import Findings, Stuck

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


class _Seen(NamedTuple):
    """What was read."""

    opened: Opened
    #: None: nothing is stuck
    findings: Findings | None
    #: those named that are not open, as far as they exist
    others: dict[int, PlatformBatch]
    beside: _Beside


class _Beside(NamedTuple):
    """What is wrong beside the batches that runs take."""

    orphans: Orphans
    rivals: Rivals
    untaken: Untaken


def inspect(database: Database, question: Question) -> Report:
    """Look at all open batches and diagnose those that are asked for. OperatorError: a named batch does not exist."""
    seen = database.read(lambda connection: _look(connection, question))
    unknown = tuple(id_ for id_ in _not_open(seen.opened, question.ids) if id_ not in seen.others)
    if unknown:
        raise no_such_batch(unknown)
    return Report(
        older_than=0 if question.ids else question.older_than,
        stuck=() if seen.findings is None else seen.findings.diagnoses(),
        open_batches=len(seen.opened.rows),
        ended=tuple(seen.others[id_] for id_ in sorted(seen.others)),
        orphans=seen.beside.orphans,
        rivals=seen.beside.rivals,
        untaken=seen.beside.untaken,
    )


def _look(connection: Connection, question: Question) -> _Seen:
    opened = open_batches(connection, question.batch_statuses)
    missing = _not_open(opened, question.ids)
    others = platform_batches(connection, missing) if missing else {}
    if question.ids:
        named = Counter(one.status for one in others.values() if one.status in OPEN_STATUSES and not one.deleted)
        beside = _Beside(Orphans(), Rivals(), untaken(named, question.batch_statuses))
    else:
        beside = _whole_queue(connection, question.batch_statuses)
    findings = None
    if chosen := _chosen(opened, question):
        # the rest of the queue's modules and tables: a monitor that finds nothing stuck shall not pay for them
        from gepp_audit.queue.diagnosing import find

        findings = find(connection, opened, chosen, question)
    return _Seen(opened=opened, findings=findings, others=others, beside=beside)


def _chosen(opened: Opened, question: Question) -> frozenset[int]:
    """The open batches that are named, or that are old enough."""
    if question.ids:
        return frozenset(id_ for id_ in question.ids if id_ in opened.rows)
    return frozenset(
        id_ for id_, row in opened.rows.items() if age(row.started_at, opened.moment) >= question.older_than
    )


def age(started_at: datetime, moment: datetime) -> int:
    """Whole seconds since a batch was started."""
    return max(int((moment - started_at).total_seconds()), 0)


def _whole_queue(connection: Connection, statuses: Sequence[str]) -> _Beside:
    count, complete = retrying.count_orphans(connection, detect(connection), statuses, _LOOKED_AT)
    _, settled, last_at = settled_by_others(connection, _RIVAL_WITHIN)
    return _Beside(
        Orphans(count=count, complete=complete),
        Rivals(batches=settled, last_at=last_at),
        untaken(open_by_status(connection), statuses),
    )


def _not_open(opened: Opened, ids: Sequence[int]) -> list[int]:
    return [id_ for id_ in dict.fromkeys(ids) if id_ not in opened.rows]


def no_such_batch(ids: Sequence[int]) -> OperatorError:
    """The refusal of ids that name no batch."""
    return OperatorError(
        f"there is no batch {listed(tuple(ids))}.",
        fix='"gepp-audit stuck --older-than 0s" names every open batch, "gepp-audit show" the newest ones.',
        code="unknown_batch",
        exit_code=2,
    )
