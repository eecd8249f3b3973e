"""After 90 days a call lives on in the sums of its day, and batches, failed items and runs that ended go."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gepp_audit.database import batches, retention
from gepp_audit.database.engine import open_database
from gepp_audit.queue import housekeeping
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.start import process_queue
from gepp_audit.queue.stopping import Stop
from gepp_audit.queue.summary import Summary
from tests.support import steps
from tests.support.platforms import Platform

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=100)
LATELY = NOW - timedelta(days=89)
_ids = count(1)
TOKENS = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def call(at: datetime = LONG_AGO, **columns: Any) -> dict[str, Any]:
    """A row of the ledger; without more, one whose verdict was taken."""
    number = next(_ids)
    row: dict[str, Any] = {
        "run_id": "r", "audit_history_id": 900_000, "transaction_id": number, "organization_id": 1, "engine": "openai",
        "model": "m", "model_answered": "m-1", "prompt_version": "1", "dispatched_at": at, "outcome": "verdict",
        "cost": Decimal("0.00012345"), **dict.fromkeys(TOKENS, 3),
    }  # fmt: skip
    return row | columns


def batch(
    platform: Platform, *, closed_at: datetime | None = LONG_AGO, failed: int = 0, status: str = "completed"
) -> int:
    """A batch as the platform and we have it, with failed items."""
    id_ = platform.batch(1, [], status=status)
    row = {
        "audit_history_id": id_, "organization_id": 1, "started_at": LONG_AGO, "discovered_at": LONG_AGO,
        "fanned_out_at": LONG_AGO, "closed_at": closed_at, "outcome": closed_at and "completed", "total": failed,
    }  # fmt: skip
    platform.insert("gepp_audit_batches", [row])
    item = {
        "audit_history_id": id_, "organization_id": 1, "state": "failed", "error_code": "policy_violation",
        "available_at": LONG_AGO, "settled_at": LONG_AGO, "published_at": LONG_AGO,
    }  # fmt: skip
    platform.insert("gepp_audit_items", [item | {"transaction_id": number} for number in range(1, failed + 1)])
    return id_


def run(id_: str, reported_at: datetime) -> dict[str, Any]:
    return {
        "id": id_, "host": "h", "boot_id": "b", "pid_namespace": "n", "pid": 1, "pid_started_at": 1.0, "version": "1",
        "started_at": reported_at, "reported_at": reported_at,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _organization(platform: Platform) -> None:
    platform.organization()


def prune(platform: Platform, most: int = retention.SLICE) -> retention.Pruned:
    return platform.database.write(lambda connection: retention.prune(connection, steps.STATUSES, most=most))


def is_due(platform: Platform) -> bool:
    return platform.database.read(lambda connection: retention.due(connection, steps.STATUSES))


def daily(platform: Platform) -> dict[tuple[str, int, str], dict[str, Any]]:
    """The sums by day, organization and model."""
    found = platform.rows("SELECT * FROM gepp_audit_usage_daily")
    return {
        (str(row.pop("day")), row.pop("organization_id"), row.pop("model")): row | {"cost": Decimal(str(row["cost"]))}
        for row in found
    }


def summed(rows: list[dict[str, Any]]) -> dict[tuple[str, int, str], dict[str, Any]]:
    """What the sums of these ledger rows must be, by plain arithmetic."""
    totals: dict[tuple[str, int, str], dict[str, Any]] = defaultdict(
        lambda: {"calls": 0, "failed_calls": 0, **dict.fromkeys(TOKENS, 0), "unpriced_calls": 0, "cost": Decimal(0)}
    )
    for row in rows:
        if row["outcome"] == "released":
            continue
        total = totals[str(row["dispatched_at"].date()), row["organization_id"], row["model_answered"] or row["model"]]
        total["calls"] += 1
        total["failed_calls"] += row["outcome"] not in ("verdict", "superseded")
        for name in TOKENS:
            total[name] += row[name] or 0
        total["unpriced_calls"] += row["cost"] is None and row["input_tokens"] is not None
        total["cost"] += row["cost"] or 0
    return dict(totals)


def some_calls(seed: int, number: int) -> list[dict[str, Any]]:
    """Calls of every kind around the borders of a few days."""
    chance = random.Random(seed)
    midnight = LONG_AGO.replace(hour=0, minute=0, second=0, microsecond=0)
    outcomes = ("verdict", "superseded", "retry", "answer", "item", "block", "released", "abandoned", "expired", None)
    rows = []
    for _ in range(number):
        used = chance.random() < 0.7
        at = midnight + timedelta(days=chance.randint(-1, 1), microseconds=chance.choice((-1, 0, 1, 3_600_000_000)))
        tokens = {name: chance.randint(0, 5_000) if used else None for name in TOKENS}
        cost = Decimal(chance.randint(1, 99_999_999)).scaleb(-8) if used and chance.random() < 0.8 else None
        rows.append(
            call(at, outcome=chance.choice(outcomes), cost=cost, organization_id=chance.randint(1, 2),
                 model_answered=chance.choice(("m-1", "m-2", None)), **tokens)
        )  # fmt: skip
    return rows


def test_the_sums_of_a_day_are_exact_in_whatever_slices_they_came_together(platform: Platform) -> None:
    rows = some_calls(1, 120)
    platform.insert("gepp_audit_calls", rows)
    slices = [prune(platform, 17).calls for _ in range(9)]
    assert slices == [17] * 7 + [1, 0]
    gone = sum(slices)
    assert (gone, platform.value("SELECT count(*) FROM gepp_audit_calls")) == (120, 0)
    assert daily(platform) == summed(rows)
    assert (prune(platform).rows, is_due(platform)) == (0, False)


def test_several_hosts_at_once_count_no_call_twice_and_lose_none(platform: Platform) -> None:
    rows = some_calls(2, 200)
    platform.insert("gepp_audit_calls", rows)

    def host(_number: int) -> int:
        database = open_database(platform.url)
        try:
            return sum(
                database.write(lambda connection: retention.prune(connection, steps.STATUSES, most=7).calls)
                for _ in range(40)
            )
        finally:
            database.close()

    with ThreadPoolExecutor(3) as hosts:
        gone = list(hosts.map(host, range(3)))
    assert sum(gone) == 200
    assert daily(platform) == summed(rows)


def test_what_is_younger_than_90_days_stays(platform: Platform) -> None:
    platform.insert("gepp_audit_calls", [call(LATELY)])
    platform.insert("gepp_audit_runs", [run("r", LATELY), run("tick:h", LATELY)])
    batch(platform, closed_at=LATELY, failed=1)
    assert (is_due(platform), prune(platform)) == (False, retention.Pruned())
    assert daily(platform) == {}


def test_the_calls_of_an_open_batch_stay_for_its_end(platform: Platform) -> None:
    open_batch = batch(platform, closed_at=None, failed=1, status="in_progress")
    platform.insert("gepp_audit_calls", [call(audit_history_id=open_batch), call()])
    assert prune(platform) == retention.Pruned(calls=1)
    assert (is_due(platform), platform.value("SELECT audit_history_id FROM gepp_audit_calls")) == (False, open_batch)
    assert platform.value("SELECT count(*) FROM gepp_audit_items") == 1


def test_a_batch_goes_with_its_failed_items_when_it_ended_long_ago(platform: Platform) -> None:
    batch(platform, failed=12)
    batch(platform, failed=1)
    kept = batch(platform, closed_at=LATELY, failed=1)
    assert is_due(platform)
    assert prune(platform, 5) == retention.Pruned(items=5)
    assert sum(prune(platform, 5).rows for _ in range(4)) == 10
    assert not is_due(platform)
    assert [row["audit_history_id"] for row in platform.rows("SELECT * FROM gepp_audit_batches")] == [kept]
    assert [row["audit_history_id"] for row in platform.rows("SELECT * FROM gepp_audit_items")] == [kept]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "undone"])
def test_a_batch_that_is_forgotten_is_not_discovered_anew(platform: Platform, status: str) -> None:
    batch(platform, status=status)
    assert prune(platform).batches == 1
    assert platform.database.write(lambda connection: batches.discover(connection, steps.STATUSES)) == 0


@pytest.mark.parametrize("status", ["in_progress", "pending"])
def test_a_batch_that_the_platform_still_shows_as_open_is_not_forgotten(platform: Platform, status: str) -> None:
    batch(platform, status=status)
    statuses = ("in_progress", "pending")
    due, pruned = platform.database.write(
        lambda connection: (retention.due(connection, statuses), retention.prune(connection, statuses))
    )
    assert (due, pruned.batches) == (False, 0)


def test_runs_and_idle_rows_of_hosts_that_are_no_more_go(platform: Platform) -> None:
    platform.insert("gepp_audit_runs", [run("r1", LONG_AGO), run("tick:gone", LONG_AGO), run("tick:h", NOW)])
    assert prune(platform) == retention.Pruned(runs=2)
    assert platform.value("SELECT id FROM gepp_audit_runs") == "tick:h"


def test_what_a_day_had_spent_goes_when_no_limit_can_ask_for_it(platform: Platform) -> None:
    spend = {"scope": "global", "through_call": 1, "tokens": 1, "cost": Decimal(1)}
    platform.insert("gepp_audit_spend", [spend | {"day": at.date().isoformat()} for at in (LONG_AGO, LATELY, NOW)])
    assert prune(platform) == retention.Pruned(spends=1)
    assert (is_due(platform), platform.value("SELECT count(*) FROM gepp_audit_spend")) == (False, 2)


# -- nothing waits -----------------------------------------------------------------------------------------------------


@contextmanager
def held(platform: Platform, statement: str) -> Iterator[Connection]:
    """A transaction of somebody else that keeps its locks all the while."""
    database = open_database(platform.url)
    with database.engine.connect() as connection, connection.begin():
        connection.execute(text(statement))
        yield connection
    database.close()


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_calls_that_somebody_holds_are_left_for_the_next_time(platform: Platform) -> None:
    rows = [call(), call()]
    platform.insert("gepp_audit_calls", rows)
    with held(
        platform, f"SELECT 1 FROM gepp_audit_calls WHERE transaction_id = {rows[0]['transaction_id']} FOR UPDATE"
    ):
        assert prune(platform).calls == 1
    assert prune(platform).calls == 1
    assert daily(platform) == summed(rows)


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_a_batch_stays_as_long_as_somebody_holds_one_of_its_items(platform: Platform) -> None:
    batch(platform, failed=2)
    with held(platform, "SELECT 1 FROM gepp_audit_items WHERE transaction_id = 1 FOR UPDATE"):
        assert prune(platform) == retention.Pruned(items=1)
    assert prune(platform) == retention.Pruned(items=1, batches=1)


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
@pytest.mark.parametrize(
    "statement",
    ["SELECT 1 FROM gepp_audit_usage_daily FOR UPDATE", "LOCK gepp_audit_calls", "LOCK gepp_audit_batches"],
)
def test_whatever_somebody_holds_a_slice_gives_up_and_the_next_one_does_it(platform: Platform, statement: str) -> None:
    rows = [call(), call()]
    platform.insert("gepp_audit_calls", rows[:1])
    prune(platform)
    platform.insert("gepp_audit_calls", rows[1:])
    with held(platform, statement), ThreadPoolExecutor(1) as other:
        assert other.submit(housekeeping.prune_slice, platform.database, steps.STATUSES).result(timeout=10) == 0
    assert housekeeping.prune_slice(platform.database, steps.STATUSES) == 1
    assert daily(platform) == summed(rows)


# -- when --------------------------------------------------------------------------------------------------------------


def tick(platform: Platform) -> Summary:
    """An idle tick; it opens no provider."""
    options = RunOptions(
        model="m", engine="openai", concurrency=1, call_timeout=1.0, lease_margin=1.0, max_attempts=3,
        first_backoff=1.0, max_completion_tokens=100, batch_statuses=steps.STATUSES, host="h",
    )  # fmt: skip
    return process_queue(platform.database, options, lambda: pytest.fail("a provider was opened"), stop=Stop())


def test_an_idle_tick_does_one_slice(platform: Platform) -> None:
    platform.insert("gepp_audit_calls", [call() for _ in range(retention.SLICE + 1)])
    left = []
    for _ in range(2):
        assert tick(platform).outcome == "idle"
        left.append(platform.value("SELECT count(*) FROM gepp_audit_calls"))
    assert left == [1, 0]


def test_a_working_run_goes_on_slice_by_slice_and_then_lets_the_database_alone(platform: Platform) -> None:
    platform.insert("gepp_audit_calls", [call() for _ in range(retention.SLICE + 1)])
    housekeeper = housekeeping.Housekeeper(platform.database, steps.STATUSES)
    assert housekeeper.tidy(60.0) == retention.SLICE + 1
    platform.insert("gepp_audit_calls", [call()])
    assert housekeeper.tidy(60.0) == 0, "it looked again at once"


def test_a_look_for_old_rows_that_fails_is_no_failure_of_the_run(platform: Platform) -> None:
    platform.execute("ALTER TABLE gepp_audit_calls RENAME TO away")
    assert housekeeping.Housekeeper(platform.database, steps.STATUSES).tidy(60.0) == 0


def test_without_time_it_does_one_slice_and_goes_on_when_it_has_time_again(platform: Platform) -> None:
    platform.insert("gepp_audit_calls", [call() for _ in range(retention.SLICE + 1)])
    housekeeper = housekeeping.Housekeeper(platform.database, steps.STATUSES)
    assert [housekeeper.tidy(1e-6) for _ in range(2)] == [retention.SLICE, 1]
