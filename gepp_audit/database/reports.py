"""What is stored about the open batches, for whoever asks why one does not move. Reads only.

A fixed number of set-based statements, whatever the number of batches: they walk the partial indexes and the items of
open batches, never the history nor the ledger as a whole. What the facts mean, `queue/diagnosis.py` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Integer, and_, case, func, null, select
from sqlalchemy.engine import Row

from gepp_audit.database.engine import now
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.rows import among
from gepp_audit.database.tables import (
    GLOBAL_SCOPE,
    IS_CALLING,
    IS_READY,
    IS_UNPUBLISHED,
    batches,
    calls,
    items,
    limits,
    runs,
    state_is,
)
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import CallOutcome, ItemState, RunIdentity

#: what was settled within so many seconds counts as lately, for rates
LATELY_SECONDS: Final = 900.0
#: so many of the latest runs and idle ticks are looked at
_LATEST_RUNS: Final = 50
_TICK: Final = "tick:"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """One run, or the idle ticks of one host."""

    identity: RunIdentity
    started_at: datetime
    reported_at: datetime
    finished_at: datetime | None
    outcome: str | None

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
    ready: int = 0
    calling: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    #: settled, but not yet written back to the platform
    unpublished: int = 0
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

    def gate(self, organization_id: int | None = None) -> GateFacts:
        """The gate of everybody, or of one organization."""
        scope = GLOBAL_SCOPE if organization_id is None else f"organization:{organization_id}"
        return self.gates.get(scope, GateFacts())


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything that is known, as of `moment` on the database's clock."""

    moment: datetime
    queue: QueueFacts
    #: every open batch, oldest first
    batches: tuple[BatchFacts, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformBatch:
    """A row of the platform's history that is not open for us."""

    audit_history_id: int
    status: str | None
    completed_at: datetime | None
    deleted: bool


def collect(connection: Connection, statuses: Sequence[str]) -> Facts:
    """The facts of all open batches: ours that are not closed, and those of the platform that we have not seen yet.

    `statuses`: by which the platform marks an open batch.
    """
    moment = now(connection)
    # in this order, a batch that is taken up meanwhile is found at least once, and as ours if twice
    open_ = {row.id: row for row in (*_unseen(connection, statuses), *_ours(connection, statuses))}
    counts = _counts(connection, moment)
    errors = _last_errors(connection)
    leases = _leases(connection, moment)
    found = [_batch(row, counts.get(id_), errors.get(id_), leases.get(id_, ())) for id_, row in open_.items()]
    return Facts(
        moment=moment,
        queue=QueueFacts(
            gates=_gates(connection, {batch.organization_id for batch in found}),
            runs=_latest_runs(connection),
            verdicts_lately=_verdicts_lately(connection, moment),
        ),
        batches=tuple(sorted(found, key=lambda batch: (batch.started_at, batch.audit_history_id))),
    )


def platform_batches(connection: Connection, ids: Iterable[int]) -> dict[int, PlatformBatch]:
    """What the platform says of these batches, by id; those that it does not know are left out."""
    statement = select(history.c.id, history.c.status, history.c.completed_at, history.c.deleted_date)
    found = connection.execute(statement.where(among(connection, history.c.id, ids)))
    return {
        row.id: PlatformBatch(
            audit_history_id=row.id,
            status=row.status,
            completed_at=row.completed_at,
            deleted=row.deleted_date is not None,
        )
        for row in found
    }


# -- batches -----------------------------------------------------------------------------------------------------------


def _ours(connection: Connection, statuses: Sequence[str]) -> Sequence[Any]:
    """Our open batches, each with whether the platform still wants it."""
    # whatever status it was discovered in, it is in progress since
    wanted = and_(history.c.deleted_date.is_(None), history.c.status.in_({*statuses, IN_PROGRESS}))
    return connection.execute(
        select(
            batches.c.audit_history_id.label("id"),
            batches.c.organization_id,
            batches.c.started_at,
            batches.c.discovered_at,
            batches.c.fanned_out_at,
            batches.c.error,
            case((wanted, 1), else_=0).label("wanted"),
            case((batches.c.fanned_out_at.is_(None), _listed(connection)), else_=0).label("listed"),
        )
        .outerjoin_from(batches, history, history.c.id == batches.c.audit_history_id)
        .where(batches.c.closed_at.is_(None))
    ).all()


def _unseen(connection: Connection, statuses: Sequence[str]) -> Sequence[Any]:
    """The platform's open batches that no run of ours has taken up yet."""
    known = select(batches.c.audit_history_id).where(batches.c.audit_history_id == history.c.id).exists()
    nothing = null()
    return connection.execute(
        select(
            history.c.id,
            history.c.organization_id,
            history.c.started_at,
            nothing.label("discovered_at"),
            nothing.label("fanned_out_at"),
            nothing.label("error"),
            select(1).scalar_subquery().label("wanted"),
            _listed(connection).label("listed"),
        ).where(history.c.status.in_(statuses), history.c.deleted_date.is_(None), ~known)
    ).all()


def _listed(connection: Connection) -> ColumnElement[int]:
    length = func.cardinality if connection.dialect.name == "postgresql" else func.json_array_length
    return func.coalesce(length(history.c.transactions, type_=Integer()), 0)


def _batch(row: Any, counts: Row[Any] | None, error: Row[Any] | None, leases: Sequence[Lease]) -> BatchFacts:
    named = {
        "audit_history_id": row.id,
        "organization_id": row.organization_id,
        "started_at": row.started_at,
        "discovered_at": row.discovered_at,
        "fanned_out_at": row.fanned_out_at,
        "wanted": bool(row.wanted),
        "last_error_code": None if error is None else error.error_code,
        "last_error": row.error if error is None else error.error,
        "leases": tuple(leases),
    }
    if counts is None:
        return BatchFacts(**named, ready=row.listed)
    return BatchFacts(**named, **{name: value for name, value in counts._mapping.items() if name != "id"})


def _counts(connection: Connection, moment: datetime) -> dict[int, Row[Any]]:
    """The items of each open batch, counted by what matters, under the names of BatchFacts."""
    left = state_is(ItemState.READY, ItemState.CALLING, ItemState.SUBMITTED)
    settled = state_is(ItemState.DONE, ItemState.FAILED)
    failing = items.c.attempts + items.c.waits > 0
    lately = and_(settled, items.c.settled_at > moment - timedelta(seconds=LATELY_SECONDS))

    def count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
        return func.count().filter(*conditions)

    def first(column: ColumnElement[datetime], *conditions: ColumnElement[bool]) -> Any:
        return func.min(column, type_=UtcDateTime()).filter(*conditions)

    found = connection.execute(
        select(
            items.c.audit_history_id.label("id"),
            count(IS_READY).label("ready"),
            count(state_is(ItemState.CALLING, ItemState.SUBMITTED)).label("calling"),
            count(state_is(ItemState.DONE)).label("done"),
            count(state_is(ItemState.FAILED)).label("failed"),
            count(state_is(ItemState.SKIPPED)).label("skipped"),
            count(IS_UNPUBLISHED).label("unpublished"),
            count(IS_READY, items.c.available_at > moment).label("waiting"),
            count(left, failing).label("failing"),
            count(left, items.c.crashes > 0).label("crashed"),
            first(items.c.available_at, IS_READY, failing).label("next_attempt_at"),
            first(items.c.first_failed_at, left).label("first_failed_at"),
            count(lately).label("settled_lately"),
            first(items.c.settled_at, lately).label("settled_since"),
            func.max(items.c.settled_at, type_=UtcDateTime()).filter(settled).label("last_settled_at"),
        )
        .join_from(batches, items, items.c.audit_history_id == batches.c.audit_history_id)
        .where(batches.c.closed_at.is_(None))
        .group_by(items.c.audit_history_id)
    )
    return {row.id: row for row in found}


def _last_errors(connection: Connection) -> dict[int, Row[Any]]:
    """The newest error of each open batch: a waiting item's stands at the moment of its next attempt."""
    newest = func.coalesce(items.c.settled_at, items.c.available_at)
    ranked = (
        select(
            items.c.audit_history_id.label("id"),
            items.c.error_code,
            items.c.error,
            func.row_number()
            .over(partition_by=items.c.audit_history_id, order_by=(newest.desc(), items.c.transaction_id))
            .label("place"),
        )
        .join_from(batches, items, items.c.audit_history_id == batches.c.audit_history_id)
        .where(batches.c.closed_at.is_(None), items.c.error_code.is_not(None))
        .subquery("ranked")
    )
    return {row.id: row for row in connection.execute(select(ranked).where(ranked.c.place == 1))}


# -- runs --------------------------------------------------------------------------------------------------------------


def _leases(connection: Connection, moment: datetime) -> dict[int, list[Lease]]:
    """Who has calls under way, by batch: in one statement, so that no run ends between its leases and its row."""
    held = (
        select(
            items.c.audit_history_id,
            calls.c.run_id,
            func.count().label("calls"),
            func.count().filter(items.c.lease_until < moment).label("ended"),
            func.max(items.c.lease_until, type_=UtcDateTime()).label("until"),
        )
        .outerjoin_from(items, calls, calls.c.id == items.c.call_id)
        .where(IS_CALLING)
        .group_by(items.c.audit_history_id, calls.c.run_id)
        .subquery("held")
    )
    found = connection.execute(
        select(held.c.audit_history_id, held.c.calls, held.c.ended, held.c.until, *_RUN_COLUMNS)
        .outerjoin_from(held, runs, runs.c.id == held.c.run_id)
        .order_by(held.c.audit_history_id, held.c.until)
    )
    leases: dict[int, list[Lease]] = {}
    for row in found:
        run = None if row.id is None else _run(row)
        lease = Lease(run=run, calls=row.calls, ended=row.ended, until=row.until)
        leases.setdefault(row.audit_history_id, []).append(lease)
    return leases


_RUN_COLUMNS: Final = tuple(column for column in runs.c if column.name not in ("draining_at", "counts"))


def _latest_runs(connection: Connection) -> tuple[RunFacts, ...]:
    """The runs and idle ticks that reported last, over all hosts."""
    statement = select(*_RUN_COLUMNS).order_by(runs.c.reported_at.desc()).limit(_LATEST_RUNS)
    return tuple(_run(row) for row in connection.execute(statement))


def _run(row: Row[Any]) -> RunFacts:
    return RunFacts(
        identity=RunIdentity(
            run_id=row.id,
            host=row.host,
            boot_id=row.boot_id,
            pid_namespace=row.pid_namespace,
            pid=row.pid,
            pid_started_at=row.pid_started_at,
            version=row.version,
        ),
        started_at=row.started_at,
        reported_at=row.reported_at,
        finished_at=row.finished_at,
        outcome=row.outcome,
    )


# -- what holds for all ------------------------------------------------------------------------------------------------


def _gates(connection: Connection, organizations: Iterable[int]) -> dict[str, GateFacts]:
    """What keeps calls from leaving, for everybody and for these organizations."""
    scopes = [GLOBAL_SCOPE, *(f"organization:{id_}" for id_ in sorted(organizations))]
    columns = [limits.c[name] for name in GateFacts.__dataclass_fields__]
    found = connection.execute(select(limits.c.scope, *columns).where(limits.c.scope.in_(scopes)))
    return {row.scope: GateFacts(**{column.name: row._mapping[column.name] for column in columns}) for row in found}


def _verdicts_lately(connection: Connection, moment: datetime) -> dict[int, int]:
    """Verdicts of the last LATELY_SECONDS by organization, from the newest end of the ledger."""
    found = connection.execute(
        select(calls.c.organization_id, func.count())
        .where(
            calls.c.dispatched_at > moment - timedelta(seconds=LATELY_SECONDS),
            calls.c.outcome == CallOutcome.VERDICT.value,
        )
        .group_by(calls.c.organization_id)
    )
    return {row[0]: row[1] for row in found}
