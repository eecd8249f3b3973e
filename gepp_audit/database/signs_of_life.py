"""Who works on the queue: calls under way and whose they are, the runs that reported last, what was audited lately.

Reads only; part of what `reports` collects. What it means, `queue/diagnosis.py` says.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, func, literal_column, select
from sqlalchemy.engine import Row

from gepp_audit.database.facts import LATELY_SECONDS, Lease, RunError, RunFacts
from gepp_audit.database.tables import IS_CALLING, calls, items, runs
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import CallOutcome, RunIdentity

#: so many of the latest runs and idle ticks are looked at
_LATEST_RUNS: Final = 50


def leases(connection: Connection, moment: datetime) -> dict[int, list[Lease]]:
    """Who has calls under way, by batch: in one statement, so that no run ends between its leases and its row."""
    # an expression: by the column itself, SQLite would read all items in the order of their batches
    batch = items.c.audit_history_id + literal_column("0")
    held = (
        select(
            batch.label("audit_history_id"),
            calls.c.run_id,
            func.count().label("calls"),
            func.count().filter(items.c.lease_until < moment).label("ended"),
            func.max(items.c.lease_until, type_=UtcDateTime()).label("until"),
        )
        .outerjoin_from(items, calls, calls.c.id == items.c.call_id)
        .where(IS_CALLING)
        .group_by(batch, calls.c.run_id)
        .subquery("held")
    )
    found = connection.execute(
        select(held.c.audit_history_id, held.c.calls, held.c.ended, held.c.until, *_RUN_COLUMNS)
        .outerjoin_from(held, runs, runs.c.id == held.c.run_id)
        .order_by(held.c.audit_history_id, held.c.until)
    )
    by_batch: dict[int, list[Lease]] = {}
    for row in found:
        run = None if row.id is None else _run(row)
        lease = Lease(run=run, calls=row.calls, ended=row.ended, until=row.until)
        by_batch.setdefault(row.audit_history_id, []).append(lease)
    return by_batch


_RUN_COLUMNS: Final = tuple(column for column in runs.c if column.name != "draining_at")


def latest_runs(connection: Connection) -> tuple[RunFacts, ...]:
    """The runs and idle ticks that reported last, over all hosts."""
    statement = select(*_RUN_COLUMNS).order_by(runs.c.reported_at.desc()).limit(_LATEST_RUNS)
    return tuple(_run(row) for row in connection.execute(statement))


def _run(row: Row[Any]) -> RunFacts:
    counts = row.counts if isinstance(row.counts, dict) else {}
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
        calls=counts.get("calls"),
        held=counts.get("held"),
        organizations=tuple(counts.get("organizations") or ()),
        error=_error(counts.get("error")),
    )


def _error(told: Any) -> RunError | None:
    """What `Summary.as_stored` kept of an error."""
    if not isinstance(told, dict) or "code" not in told:
        return None
    return RunError(**{name: str(told.get(name) or "") for name in ("code", "message", "fix")})


def verdicts_lately(connection: Connection, moment: datetime) -> dict[tuple[int, int], int]:
    """Verdicts of the last LATELY_SECONDS by organization and batch, from the newest end of the ledger."""
    found = connection.execute(
        select(calls.c.organization_id, calls.c.audit_history_id, func.count())
        .where(
            calls.c.dispatched_at > moment - timedelta(seconds=LATELY_SECONDS),
            calls.c.outcome == CallOutcome.VERDICT.value,
        )
        .group_by(calls.c.organization_id, calls.c.audit_history_id)
    )
    return {(row[0], row[1]): row[2] for row in found}
