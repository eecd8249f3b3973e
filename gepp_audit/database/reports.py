"""What is stored about the open batches, for whoever asks why one does not move. Reads only.

A fixed number of set-based statements, whatever the number of batches: they walk the partial indexes and the items of
open batches, never the history nor the ledger as a whole. What the facts mean, `queue/diagnosis.py` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, true
from sqlalchemy.engine import Row

from gepp_audit.database import lockers, signs_of_life
from gepp_audit.database.facts import LATELY_SECONDS, BatchFacts, Facts, GateFacts, Lease, Moving, QueueFacts
from gepp_audit.database.open_batches import Opened
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.database.rows import among
from gepp_audit.database.tables import GLOBAL_SCOPE, IS_READY, IS_UNPUBLISHED, batches, items, limits, state_is
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import ErrorCode, ItemState, SkipReason


def collect(connection: Connection, opened: Opened, chosen: Collection[int]) -> Facts:
    """The facts of the `chosen` open batches, and of those of their organizations behind which they wait in vain."""
    moment = opened.moment
    organizations = {opened.rows[id_].organization_id for id_ in chosen}
    beside = [id_ for id_, row in opened.rows.items() if id_ not in chosen and row.organization_id in organizations]
    rows = {id_: opened.rows[id_] for id_ in (*chosen, *_all_failing(connection, beside))}
    counts = _counts(connection, moment, [id_ for id_, row in rows.items() if row.fanned_out_at is not None])
    errors = _last_errors(connection, [id_ for id_, row in counts.items() if row.with_error])
    leases = signs_of_life.leases(connection, moment)
    verdicts = signs_of_life.verdicts_lately(connection, moment)
    found = [_batch(row, counts.get(id_), errors.get(id_), leases.get(id_, ())) for id_, row in rows.items()]
    queue = QueueFacts(
        gates=_gates(connection, organizations),
        runs=signs_of_life.latest_runs(connection),
        verdicts_lately=_by_organization(verdicts),
        moving=_moving(opened, verdicts),
        under_way=_under_way(opened, leases),
        failing=_failing(found),
    )
    if any(_may_wait_for_a_lock(batch) for batch in found):
        queue = replace(queue, lockers=lockers.find(connection, moment))
    return Facts(
        moment=moment,
        queue=queue,
        batches=tuple(sorted(found, key=lambda batch: (batch.started_at, batch.audit_history_id))),
    )


def _by_organization(verdicts: Mapping[tuple[int, int], int]) -> dict[int, int]:
    by_organization: Counter[int] = Counter()
    for (organization, _), number in verdicts.items():
        by_organization[organization] += number
    return dict(by_organization)


def _moving(opened: Opened, verdicts: Mapping[tuple[int, int], int]) -> tuple[Moving, ...]:
    return tuple(
        Moving(
            audit_history_id=id_,
            organization_id=organization,
            started_at=opened.rows[id_].started_at,
            verdicts=number,
        )
        for (organization, id_), number in verdicts.items()
        if id_ in opened.rows
    )


def _under_way(opened: Opened, leases: Mapping[int, Sequence[Lease]]) -> dict[int, int]:
    by_organization: Counter[int] = Counter()
    for id_, of_batch in leases.items():
        if id_ in opened.rows:
            by_organization[opened.rows[id_].organization_id] += sum(lease.calls - lease.ended for lease in of_batch)
    return dict(+by_organization)


def _failing(found: Iterable[BatchFacts]) -> dict[int, BatchFacts]:
    newest_first = sorted(found, key=lambda batch: (batch.started_at, batch.audit_history_id), reverse=True)
    return {one.organization_id: one for one in newest_first if one.wanted and 0 < one.failing == one.left}


def _all_failing(connection: Connection, ids: Sequence[int]) -> Sequence[int]:
    """Those of these open batches of which something is left, and all that is has had a failed call: found by a look at
    one item of most others, where counting would look at all.
    """
    if not ids:
        return ()
    left = select(items.c.transaction_id).where(_OF_BATCH, _LEFT)
    statement = select(batches.c.audit_history_id).where(
        among(connection, batches.c.audit_history_id, ids), left.exists(), ~left.where(~_HAS_FAILED).exists()
    )
    return connection.execute(statement).scalars().all()


def _may_wait_for_a_lock(batch: BatchFacts) -> bool:
    """What is left of it is to be written to the platform's rows; or, not taken up yet, it has to be marked there."""
    if batch.discovered_at is None:
        return batch.platform_status != IN_PROGRESS
    return not batch.wanted or (batch.fanned_out_at is not None and not batch.left)


# -- batches -----------------------------------------------------------------------------------------------------------


def _batch(row: Any, counts: Row[Any] | None, error: Row[Any] | None, leases: Sequence[Lease]) -> BatchFacts:
    named = {
        "audit_history_id": row.id,
        "organization_id": row.organization_id,
        "started_at": row.started_at,
        "discovered_at": row.discovered_at,
        "fanned_out_at": row.fanned_out_at,
        "wanted": bool(row.wanted),
        "platform_status": row.platform_status,
        "settled_elsewhere": bool(row.settled_elsewhere),
        "ahead_elsewhere": max(row.ahead_elsewhere, 0),
        "last_error_code": None if error is None else error.error_code,
        "last_error": row.error if error is None else error.error,
        "leases": tuple(leases),
    }
    if counts is None:
        return BatchFacts(**named, ready=row.listed)
    return BatchFacts(**named, **{name: value for name, value in counts._mapping.items() if name not in _NO_FACTS})


def _counts(connection: Connection, moment: datetime, ids: Sequence[int]) -> dict[int, Row[Any]]:
    """The items of each of these open batches, counted by what matters, under the names of BatchFacts."""
    if not ids:
        return {}
    settled = state_is(ItemState.DONE, ItemState.FAILED)
    since = moment - timedelta(seconds=LATELY_SECONDS)
    lately = and_(settled, items.c.settled_at > since)
    # publishing puts off what the platform holds; one that was edited too often was put back before it ended
    held = and_(
        IS_UNPUBLISHED,
        items.c.available_at > items.c.settled_at,
        func.coalesce(items.c.error_code, "") != ErrorCode.EDITED.value,
    )
    skipped = state_is(ItemState.SKIPPED)
    # those that were not queued from the start were never claimed
    taken = and_(skipped, items.c.skip_reason == SkipReason.NOT_QUEUED.value, items.c.call_id.is_not(None))

    def count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
        return func.count().filter(*conditions)

    def first(column: ColumnElement[datetime], *conditions: ColumnElement[bool]) -> Any:
        return func.min(column, type_=UtcDateTime()).filter(*conditions)

    counts = _of_batches(
        connection,
        ids,
        count(IS_READY).label("ready"),
        count(state_is(ItemState.CALLING, ItemState.SUBMITTED)).label("calling"),
        count(state_is(ItemState.DONE)).label("done"),
        count(state_is(ItemState.FAILED)).label("failed"),
        count(skipped).label("skipped"),
        count(IS_UNPUBLISHED).label("unpublished"),
        count(items.c.error_code.is_not(None)).label("with_error"),
        count(held).label("held"),
        first(items.c.settled_at, IS_UNPUBLISHED).label("unpublished_since"),
        count(taken, items.c.settled_at > since).label("taken_lately"),
        count(skipped, items.c.skip_reason == SkipReason.BATCH_WITHDRAWN.value).label("withdrawn"),
        count(IS_READY, items.c.available_at > moment).label("waiting"),
        count(_LEFT, _HAS_FAILED).label("failing"),
        count(_LEFT, items.c.crashes > 0).label("crashed"),
        first(items.c.available_at, IS_READY, _HAS_FAILED).label("next_attempt_at"),
        first(items.c.first_failed_at, _LEFT).label("first_failed_at"),
        count(lately).label("settled_lately"),
        first(items.c.settled_at, lately).label("settled_since"),
        func.max(items.c.settled_at, type_=UtcDateTime()).filter(settled).label("last_settled_at"),
    )
    return {row.id: row for row in connection.execute(counts)}


#: of what is counted, what is not kept
_NO_FACTS: Final = ("id", "with_error")
_LEFT: Final = state_is(ItemState.READY, ItemState.CALLING, ItemState.SUBMITTED)
_HAS_FAILED: Final = items.c.attempts + items.c.waits > 0
_OF_BATCH: Final = items.c.audit_history_id == batches.c.audit_history_id


def _of_batches(connection: Connection, ids: Sequence[int], *aggregates: ColumnElement[Any]) -> Select[Any]:
    """These aggregates over the items of each of these batches: batch by batch, however small a share of all items
    theirs is. Either database has its own way to be held to that.
    """
    if connection.dialect.name == "sqlite":
        key = items.c.audit_history_id
        return select(key.label("id"), *aggregates).where(among(connection, key, ids)).group_by(key)
    each = select(*aggregates).where(_OF_BATCH).correlate(batches).lateral("each")
    of_batches = select(batches.c.audit_history_id.label("id"), *each.c).join_from(batches, each, true())
    return of_batches.where(among(connection, batches.c.audit_history_id, ids))


def _last_errors(connection: Connection, ids: Sequence[int]) -> dict[int, Row[Any]]:
    """The newest error of each of these open batches: a waiting item's stands at the moment of its next attempt."""
    if not ids:
        return {}
    newest = func.coalesce(items.c.settled_at, items.c.available_at)
    order = (newest.desc(), items.c.transaction_id)
    told = (items.c.error_code, items.c.error)
    failed = items.c.error_code.is_not(None)
    if connection.dialect.name == "sqlite":
        place = func.row_number().over(partition_by=items.c.audit_history_id, order_by=order)
        of_open = and_(failed, among(connection, items.c.audit_history_id, ids))
        ranked = select(items.c.audit_history_id.label("id"), *told, place.label("place")).where(of_open).subquery()
        statement = select(ranked).where(ranked.c.place == 1)
    else:
        last = select(*told).where(_OF_BATCH, failed).order_by(*order).limit(1).correlate(batches).lateral("last")
        each = select(batches.c.audit_history_id.label("id"), *last.c).join_from(batches, last, true())
        statement = each.where(among(connection, batches.c.audit_history_id, ids))
    return {row.id: row for row in connection.execute(statement)}


# -- what holds for all ------------------------------------------------------------------------------------------------


def _gates(connection: Connection, organizations: Iterable[int]) -> dict[str, GateFacts]:
    """What keeps calls from leaving, for everybody and for these organizations."""
    scopes = [GLOBAL_SCOPE, *(f"organization:{id_}" for id_ in sorted(organizations))]
    columns = [limits.c[name] for name in GateFacts.__dataclass_fields__]
    found = connection.execute(select(limits.c.scope, *columns).where(limits.c.scope.in_(scopes)))
    return {row.scope: GateFacts(**{column.name: row._mapping[column.name] for column in columns}) for row in found}
