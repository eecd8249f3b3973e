"""What is kept for how long: after 90 days a call lives on in the sums of its day, and what has ended goes.

- The ledger: rows go into `gepp_audit_usage_daily` and out of `gepp_audit_calls` in one transaction, so that no call is
  counted twice or lost, whoever else does the same at this moment. Calls of a batch that is still open stay: its end
  sums them up.
- A batch, with its failed items, goes 90 days after its end; but not while the platform still shows it as open: it
  would be discovered anew.
- Runs, the idle row of a host too, go 90 days after they last reported; what a day had spent, after 90 days.

`prune` does one slice. It waits for nobody: rows that somebody holds are left for the next slice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Date,
    and_,
    cast,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from gepp_audit.database.engine import opened_at
from gepp_audit.database.json_functions import exact_sum
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.rows import Rows, among
from gepp_audit.database.tables import batches, calls, items, runs, spend, usage_daily
from gepp_audit.database.types import ExactDecimal
from gepp_audit.model import CallOutcome

#: how long what has ended is kept
KEPT: Final = timedelta(days=90)
#: rows that one transaction removes at most
SLICE: Final = 500
#: how long a slice waits for a lock, where SKIP LOCKED does not help: a day's sum that another host is adding to
_LOCK_TIMEOUT_MS: Final = 200
_KEYS: Final = Rows("keys", audit_history_id=BigInteger(), transaction_id=BigInteger())
_DAY: Final = ("day", "organization_id", "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """How many rows one slice removed."""

    calls: int = 0
    items: int = 0
    batches: int = 0
    runs: int = 0
    #: what a scope had spent on a day, kept for its limits
    spends: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.calls + self.items + self.batches + self.runs + self.spends


def due(connection: Connection, statuses: Collection[str]) -> bool:
    """Whether there is anything to prune: one query of index look-ups.

    `statuses`: those of the platform's open batches.
    """
    before = opened_at(connection) - KEPT
    # in the index's order and no EXISTS: statistics from before the last pruning would make it a scan of the ledger
    first_call = select(literal(1)).where(_old_call(before)).order_by(calls.c.dispatched_at).limit(1).scalar_subquery()
    first_batch = (
        select(literal(1)).where(_old_batch(before, statuses)).order_by(batches.c.closed_at).limit(1).scalar_subquery()
    )
    return bool(
        connection.execute(
            select(
                or_(
                    first_call.is_not(None),
                    first_batch.is_not(None),
                    exists().where(runs.c.reported_at < before),
                    exists().where(spend.c.day < before.date()),
                )
            )
        ).scalar_one()
    )


def prune(connection: Connection, statuses: Collection[str], *, most: int = SLICE) -> Pruned:
    """Remove up to `most` rows that are older than is kept, the oldest first, and keep the sums of the calls.

    To be run in a write transaction of its own. Repeating it after a lost reply is safe: what is gone is not found.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
    before = opened_at(connection) - KEPT
    rolled_up = _roll_up(connection, before, most)
    left = most - rolled_up
    dropped_items, dropped_batches = _drop_batches(connection, before, statuses, left) if left else (0, 0)
    left -= dropped_items + dropped_batches
    dropped_runs = _drop_runs(connection, before, left) if left else 0
    left -= dropped_runs
    return Pruned(
        calls=rolled_up,
        items=dropped_items,
        batches=dropped_batches,
        runs=dropped_runs,
        spends=_drop_spends(connection, before, left) if left else 0,
    )


# -- the ledger --------------------------------------------------------------------------------------------------------


def _old_call(before: datetime) -> ColumnElement[bool]:
    still_open = exists().where(batches.c.audit_history_id == calls.c.audit_history_id, batches.c.closed_at.is_(None))
    return and_(calls.c.dispatched_at < before, ~still_open)


def _roll_up(connection: Connection, before: datetime, most: int) -> int:
    """Add the oldest calls to the sums of their days and remove them; returns how many."""
    ids = (
        connection.execute(
            select(calls.c.id)
            .where(_old_call(before))
            .order_by(calls.c.dispatched_at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        .scalars()
        .all()
    )
    if ids:
        _add_to_days(connection, ids)
        connection.execute(delete(calls).where(among(connection, calls.c.id, ids)))
    return len(ids)


def _add_to_days(connection: Connection, ids: Sequence[int]) -> None:
    """Add these calls to the rows of their days; a call that never left this machine is no use of anything.

    The days are written in the order of their keys, so that two hosts cannot wait for each other in a circle.
    """
    sums = _sums(connection)
    named = {"day": _day(connection), "organization_id": calls.c.organization_id, "model": _model()}
    source = (
        select(*named.values(), *sums.values())
        .where(among(connection, calls.c.id, ids), calls.c.outcome.is_distinct_from(CallOutcome.RELEASED.value))
        .group_by(*named.values())
        .order_by(*named.values())
    )
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = dialect.insert(usage_daily).from_select([*named, *sums], source)
    added = {name: usage_daily.c[name] + new.excluded[name] for name in sums if name != "cost"}
    added["cost"] = _exactly_added(connection, usage_daily.c.cost, new.excluded.cost)
    connection.execute(new.on_conflict_do_update(index_elements=list(_DAY), set_=added))


def _sums(connection: Connection) -> dict[str, ColumnElement[Any]]:
    """What a day's row holds, over the calls of a group. Money that is unknown is counted, not taken for none."""
    told = (CallOutcome.VERDICT.value, CallOutcome.SUPERSEDED.value)
    no_verdict = or_(calls.c.outcome.is_(None), calls.c.outcome.not_in(told))
    used = or_(calls.c.input_tokens.is_not(None), calls.c.output_tokens.is_not(None))
    tokens = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    return {
        "calls": func.count(),
        "failed_calls": func.count().filter(no_verdict),
        **{name: func.coalesce(func.sum(calls.c[name]), 0) for name in tokens},
        "unpriced_calls": func.count().filter(used, calls.c.cost.is_(None)),
        "cost": func.coalesce(exact_sum(connection, calls.c.cost), literal(Decimal(0), ExactDecimal(14, 8))),
    }


def _day(connection: Connection) -> ColumnElement[Any]:
    """The UTC day on which a call left."""
    if connection.dialect.name == "postgresql":
        return cast(func.timezone("UTC", calls.c.dispatched_at), Date)
    return func.date(calls.c.dispatched_at)


def _model() -> ColumnElement[str]:
    return func.coalesce(calls.c.model_answered, calls.c.model)


def _exactly_added(
    connection: Connection, one: ColumnElement[Decimal], other: ColumnElement[Decimal]
) -> ColumnElement[Any]:
    """The sum of two decimals; SQLite's own + would make a float of them."""
    if connection.dialect.name == "postgresql":
        return one + other
    both = func.json_each(func.json_array(one, other)).table_valued("value")
    return select(func.exact_sum(both.c.value)).select_from(both).scalar_subquery()


# -- batches and runs --------------------------------------------------------------------------------------------------


def _old_batch(before: datetime, statuses: Collection[str]) -> ColumnElement[bool]:
    open_statuses = sorted({*statuses, IN_PROGRESS})
    found_again = exists().where(
        history.c.id == batches.c.audit_history_id,
        history.c.deleted_date.is_(None),
        history.c.status.in_(open_statuses),
    )
    return and_(batches.c.closed_at < before, not_(found_again))


def _drop_batches(connection: Connection, before: datetime, statuses: Collection[str], most: int) -> tuple[int, int]:
    """Remove the items of batches that ended long ago, then the batches of which nothing is left.

    Returns how many items and how many batches went.
    """
    old = (
        connection.execute(
            select(batches.c.audit_history_id)
            .where(_old_batch(before, statuses))
            .order_by(batches.c.closed_at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        .scalars()
        .all()
    )
    if not old:
        return 0, 0
    of_old = among(connection, items.c.audit_history_id, old)
    found = connection.execute(
        select(items.c.audit_history_id, items.c.transaction_id)
        .where(of_old)
        # by their key: for any so many of them PostgreSQL would read the table until it has met them
        .order_by(items.c.audit_history_id, items.c.transaction_id)
        .limit(most)
        .with_for_update(skip_locked=True)
    ).all()
    if found:
        keys = _KEYS.table(connection)
        listed = tuple_(items.c.audit_history_id, items.c.transaction_id).in_(select(keys))
        connection.execute(delete(items).where(listed), _KEYS.fill(connection, (row._asdict() for row in found)))
    left = most - len(found)
    if left <= 0:
        return len(found), 0
    empty = ~exists().where(items.c.audit_history_id == batches.c.audit_history_id)
    gone = connection.execute(delete(batches).where(among(connection, batches.c.audit_history_id, old[:left]), empty))
    return len(found), gone.rowcount


def _drop_runs(connection: Connection, before: datetime, most: int) -> int:
    old = select(runs.c.id).where(runs.c.reported_at < before).order_by(runs.c.reported_at).limit(most)
    found = connection.execute(old.with_for_update(skip_locked=True)).scalars().all()
    if not found:
        return 0
    return connection.execute(delete(runs).where(runs.c.id.in_(found))).rowcount


def _drop_spends(connection: Connection, before: datetime, most: int) -> int:
    old = select(spend.c.scope, spend.c.day).where(spend.c.day < before.date()).limit(most)
    found = connection.execute(old.with_for_update(skip_locked=True)).all()
    for row in found:
        connection.execute(delete(spend).where(spend.c.scope == row.scope, spend.c.day == row.day))
    return len(found)
