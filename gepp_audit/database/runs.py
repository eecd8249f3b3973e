"""What a tick needs before there is any work: is there something to do, and who works already.

One row per run, and one per host for its idle ticks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gepp_audit.database.engine import now
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.rows import among
from gepp_audit.database.tables import IS_CALLING, batches, calls, items, own_item, runs
from gepp_audit.model import CallOutcome, RunIdentity

#: a run that has not reported for so long does not keep the next one away
BUSY_SECONDS: Final = 60.0


def tick(connection: Connection, identity: RunIdentity) -> None:
    """Note an idle tick of this host: one row, however often."""
    moment = now(connection)
    times = dict.fromkeys(("started_at", "reported_at", "finished_at"), moment)
    values = _values(identity) | times | {"id": f"tick:{identity.host}", "outcome": "idle"}
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(runs).values(values)
    changed = {name: statement.excluded[name] for name in values if name not in ("id", "started_at")}
    connection.execute(statement.on_conflict_do_update(index_elements=[runs.c.id], set_=changed))


def start(connection: Connection, identity: RunIdentity, counts: dict[str, Any] | None = None) -> None:
    """Note that a run begins. `counts`: as of `report`."""
    moment = now(connection)
    times = {"started_at": moment, "reported_at": moment}
    connection.execute(insert(runs).values(_values(identity) | times | {"id": identity.run_id, "counts": counts}))


def _values(identity: RunIdentity) -> dict[str, Any]:
    return {
        "host": identity.host,
        "boot_id": identity.boot_id,
        "pid_namespace": identity.pid_namespace,
        "pid": identity.pid,
        "pid_started_at": identity.pid_started_at,
        "version": identity.version,
    }


def unfinished(connection: Connection, host: str, organizations: Sequence[int] = ()) -> list[tuple[RunIdentity, bool]]:
    """The runs of this host that have not ended, each with whether it keeps the next one away: it reported lately, is
    not draining, and works for all `organizations` that the next one is for (none named: for all there are).
    """
    recent = now(connection) - timedelta(seconds=BUSY_SECONDS)
    found = connection.execute(select(runs).where(runs.c.host == host, runs.c.finished_at.is_(None)))
    return [
        (_identity(row), row.draining_at is None and row.reported_at > recent and _works_for(row, organizations))
        for row in found
    ]


def _works_for(row: Any, organizations: Sequence[int]) -> bool:
    """Whether the run does all that one for `organizations` would do."""
    theirs = (row.counts or {}).get("organizations")
    return not theirs or (bool(organizations) and set(organizations) <= set(theirs))


def _identity(row: Any) -> RunIdentity:
    return RunIdentity(
        run_id=row.id,
        host=row.host,
        boot_id=row.boot_id,
        pid_namespace=row.pid_namespace,
        pid=row.pid,
        pid_started_at=row.pid_started_at,
        version=row.version,
    )


def bury(connection: Connection, run_ids: Iterable[str]) -> int:
    """End runs whose process is gone, and their leases with them; returns how many calls had been in flight."""
    dead = list(run_ids)
    if not dead:
        return 0
    moment = now(connection)
    unknown = and_(calls.c.run_id.in_(dead), calls.c.outcome.is_(None))
    theirs = items.c.call_id.in_(select(calls.c.id).where(unknown).scalar_subquery())
    ended = _end_leases(connection, theirs, moment)
    # a run some of whose items are held at this moment is buried by the next one to look
    left = select(calls.c.run_id).where(
        unknown, exists().where(items.c.call_id == calls.c.id, IS_CALLING, items.c.lease_until >= moment)
    )
    connection.execute(
        update(runs)
        .where(runs.c.id.in_(dead), runs.c.finished_at.is_(None), runs.c.id.not_in(left))
        .values(finished_at=moment, outcome="died")
    )
    # an item that was taken from its call (its batch was withdrawn) has no lease by whose end a claim would note it
    connection.execute(update(calls).where(unknown, ~own_item()).values(outcome=CallOutcome.EXPIRED.value))
    return ended


def end_leases(connection: Connection, call_ids: Sequence[int]) -> None:
    """The process that made these calls is gone: their items count a crash at the next claim."""
    _end_leases(connection, among(connection, items.c.call_id, call_ids), now(connection))


def _end_leases(connection: Connection, theirs: ColumnElement[bool], moment: datetime) -> int:
    free = (
        select(items.c.call_id)
        .where(IS_CALLING, theirs, items.c.lease_until >= moment)
        # whoever holds one takes it away: nobody waits for that, since the mutex is held meanwhile
        .with_for_update(skip_locked=True)
    )
    found = list(connection.execute(free).scalars())
    if found:
        connection.execute(
            update(items)
            .where(IS_CALLING, among(connection, items.c.call_id, found))
            .values(lease_until=moment - timedelta(microseconds=1))
        )
    return len(found)


def note_idle(connection: Connection, identity: RunIdentity, counts: dict[str, Any]) -> None:
    """Note a run for some organizations alone that found nothing of theirs, while others have open batches."""
    start(connection, identity, counts)
    finish(connection, identity.run_id, "idle", counts)


def report(connection: Connection, run_id: str, counts: dict[str, Any]) -> None:
    """Note that the run lives, and how far it is."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(reported_at=now(connection), counts=counts))


def drain(connection: Connection, run_id: str) -> None:
    """Note that the run claims nothing more: the next one may start beside it."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(draining_at=now(connection)))


def finish(connection: Connection, run_id: str, outcome: str, counts: dict[str, Any]) -> None:
    """Note that the run ended, and how."""
    moment = now(connection)
    connection.execute(
        update(runs)
        .where(runs.c.id == run_id)
        .values(finished_at=moment, reported_at=moment, outcome=outcome, counts=counts)
    )


def latest(connection: Connection) -> datetime | None:
    """When any host last reported, or None: never."""
    moment: datetime | None = connection.execute(
        select(runs.c.reported_at).order_by(runs.c.reported_at.desc()).limit(1)
    ).scalar_one_or_none()
    return moment


def anything_open(connection: Connection, statuses: Sequence[str], organizations: Sequence[int] = ()) -> bool:
    """Whether a tick has anything to look at: a batch of ours that is not closed, or one that we have not seen.

    `organizations`: of one of these, none named: of any.
    """
    ours = exists().where(batches.c.closed_at.is_(None))
    if organizations:
        ours = ours.where(batches.c.organization_id.in_(organizations))
    unseen = exists(undiscovered_batches(statuses, organizations))
    return bool(connection.execute(select(or_(ours, unseen))).scalar_one())


def undiscovered_batches(statuses: Sequence[str], organizations: Sequence[int] = ()) -> Select[Any]:
    """The platform's open batches that we have not seen: the query."""
    statement = select(history.c.id, history.c.organization_id, history.c.started_at, history.c.status).where(
        history.c.status.in_(statuses),
        history.c.deleted_date.is_(None),
        ~exists().where(batches.c.audit_history_id == history.c.id),
    )
    return statement.where(history.c.organization_id.in_(organizations)) if organizations else statement
