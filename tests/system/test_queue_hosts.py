"""Several runs at once: no work is done twice, and one that was frozen writes nothing when it wakes too late."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from tests.laws import assert_laws
from tests.support.chaos import settled_log, shifted
from tests.support.evidence import Told
from tests.support.platforms import Platform
from tests.support.postgres import PostgresServer
from tests.support.processes import Programs, Simulator
from tests.support.queues import (
    BROKEN,
    CLEAN,
    HANG,
    SampleQueue,
    asked,
    connect,
    everything,
    finish,
    items,
    ledger,
    start,
    theirs,
    wait_for_calls,
)
from tests.support.tcp_proxy import tcp_proxy
from tests.support.waiting import wait_until

CONCURRENCY = 4
both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and programs that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    return SampleQueue(platform)


# -- crowded -----------------------------------------------------------------------------------------------------------


@both
def test_six_hosts_at_once_ask_each_transaction_once_and_close_each_batch_once(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(240, 6)
    simulator.scenario({"rules": [{"do": {"extra_latency_ms": 150}}]})
    runs = [start(programs, f"h{number}") for number in range(1, 7)]
    told = [run.wait() for run in runs]

    assert {(one.exit_code, one.stderr) for one in told} == {(0, "")}
    summaries = [one.json() for one in told]
    assert sorted(asked(simulator)) == sorted(queue.expected)
    assert sum(one["calls"] for one in summaries) == 240
    assert len([one for one in summaries if one["calls"]]) > 1, "the hosts did not work at the same time"
    assert sum(one["batches"]["completed"] for one in summaries) == 6
    assert sorted(ledger(queue.platform, "verdict")) == sorted(queue.expected)
    queue.assert_all_settled()
    trouble = Told(disruptions=0, concurrency=CONCURRENCY, expected=queue.statuses, killers=set())
    assert_laws(queue.platform.url, asked=settled_log(simulator), told=trouble)


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_no_run_claims_anything_while_somebody_holds_the_mutex_of_the_claim(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    platform = queue.platform
    queue.queue([*CLEAN, BROKEN] * 4)
    simulator.scenario({"rules": [{"match": {"first": CONCURRENCY}, "do": {"extra_latency_ms": 2_000}}]})
    run = start(programs)
    wait_for_calls(simulator, CONCURRENCY)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with platform.database.engine.begin() as holder:
        holder.execute(text("SELECT * FROM gepp_audit_limits WHERE scope = 'global' FOR UPDATE"))
        wait_until(lambda: platform.value(waiting), what="the wait for the mutex")
        assert len(simulator.calls()) == CONCURRENCY
    assert run.wait().exit_code == 0
    assert sorted(asked(simulator)) == sorted(queue.expected)
    queue.assert_all_settled()


@both
def test_six_processes_of_one_host_at_once_are_one_run_and_five_that_leave_in_silence(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    batch = queue.queue([*CLEAN, BROKEN] * 4)
    slow = queue.batches[batch][0]
    simulator.scenario({"rules": [{"match": {"transaction_id": str(slow)}, "do": HANG}]})
    runs = [start(programs, "h1") for _ in range(6)]
    wait_until(lambda: len(ledger(queue.platform, "verdict")) == 11, what="the settling of the others")
    silent = programs.run("process-queue", GEPP_AUDIT_HOST="h1")
    assert (silent.exit_code, silent.stdout, silent.stderr) == (0, "", "")
    wait_until(lambda: sum(run.running for run in runs) == 1, what="the end of five")
    told = [run.wait() for run in runs if not run.running]
    assert {(one.exit_code, one.stderr, one.json()["outcome"]) for one in told} == {(0, "", "busy")}
    assert sorted(asked(simulator)) == sorted(queue.expected)
    for run in runs:
        run.kill()
    finish(programs, simulator)
    queue.assert_all_settled()
    trouble = Told(disruptions=1, concurrency=CONCURRENCY, expected=queue.statuses, killers=set())
    assert_laws(queue.platform.url, asked=settled_log(simulator), told=trouble)


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_every_time_that_is_written_is_the_databases_and_not_the_hosts(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(4, 2)
    refused_once = {"match": {"attempt": 1}, "do": {"status": 500}}
    simulator.scenario({"rules": [refused_once]})
    before = queue.platform.value("SELECT clock_timestamp()")
    programs.environ |= {"GEPP_AUDIT_BACKOFF_SECONDS": "0.01", **shifted(3_600)}
    done = programs.run("process-queue")
    assert done.exit_code == 0, done.stderr
    queue.assert_all_settled()
    moments = queue.platform.rows(_MOMENTS)
    assert {row["written_in"] for row in moments} >= {"calls.dispatched_at", "calls.answered_at", "runs.finished_at"}
    after = queue.platform.value("SELECT clock_timestamp()")
    wrong = {row["written_in"]: row["at"] for row in moments if not before <= row["at"] <= after}
    assert wrong == {}


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_a_database_too_far_away_for_any_call_is_told(
    queue: SampleQueue, programs: Programs, simulator: Simulator, cluster: PostgresServer
) -> None:
    queue.fill(4, 1)
    with tcp_proxy(cluster.port) as proxy:
        proxy.be_far(0.1)
        programs.environ["DATABASE_URL"] = proxy.url(queue.platform.url)
        done = programs.run("process-queue", "--max-seconds", "16", timeout=120)
    assert (done.exit_code, asked(simulator)) == (0, [])
    assert "no_call_left_in_time" in done.stderr
    assert "the database is too far away, or this machine is overloaded" in done.stderr


#: every moment that a finished run leaves behind
_MOMENTS = " UNION ALL ".join(
    f"SELECT '{table.removeprefix('gepp_audit_')}.{column}' AS written_in, {column}{zone} AS at FROM {table}"
    f" WHERE {column} IS NOT NULL"
    for table, columns, zone in (
        ("gepp_audit_batches", ("discovered_at", "fanned_out_at", "closed_at"), ""),
        ("gepp_audit_calls", ("dispatched_at", "answered_at"), ""),
        ("gepp_audit_runs", ("started_at", "reported_at", "finished_at"), ""),
        ("transaction_audit_history", ("completed_at",), ""),
        ("transaction_audits", ("created_date", "updated_date"), ""),
        ("transactions", ("ai_audit_date",), " AT TIME ZONE 'UTC'"),
    )
    for column in columns
)


# -- frozen ------------------------------------------------------------------------------------------------------------


def lease_is_over(platform: Platform) -> bool:
    moment = "clock_timestamp()" if platform.is_postgresql else "strftime('%Y-%m-%d %H:%M:%f', 'now')"
    return bool(
        platform.value(f"SELECT count(*) = 0 FROM gepp_audit_items WHERE state = 'calling' AND lease_until >= {moment}")
    )


def rows_of_the_platform(platform: Platform) -> dict[str, list[dict[str, Any]]]:
    return everything(platform, *theirs(platform), "gepp_audit_items", "gepp_audit_batches", "gepp_audit_limits")


@both
def test_a_run_frozen_past_its_lease_and_woken_after_another_host_finished_writes_nothing(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    platform = queue.platform
    queue.queue([*CLEAN, BROKEN, *CLEAN, BROKEN])
    simulator.scenario({"rules": [{"match": {"first": CONCURRENCY}, "do": {"extra_latency_ms": 1_500}}]})
    frozen = start(programs, "h1", GEPP_AUDIT_CALL_TIMEOUT="2", GEPP_AUDIT_LEASE_MARGIN="1")
    wait_for_calls(simulator, CONCURRENCY)
    frozen.freeze()
    wait_until(lambda: lease_is_over(platform), what="the end of the leases")
    other = programs.run("process-queue", "--json", GEPP_AUDIT_HOST="h2")
    assert (other.exit_code, other.json()["calls"]) == (0, 6)
    queue.assert_all_settled()
    before, calls = rows_of_the_platform(platform), len(simulator.calls())

    frozen.thaw()
    woken = frozen.wait()
    assert (woken.exit_code, woken.stderr) == (0, "")
    assert rows_of_the_platform(platform) == before
    assert len(simulator.calls()) == calls
    assert sorted(ledger(platform, "verdict")) == sorted(queue.expected)
    trouble = Told(disruptions=1, concurrency=CONCURRENCY, expected=queue.statuses, killers=set())
    assert_laws(platform.url, asked=settled_log(simulator), told=trouble)


@both
def test_late_answers_of_a_woken_run_do_not_reach_items_that_another_host_has_claimed(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    # the frozen run's answers lie: they would approve what must be rejected
    platform = queue.platform
    batch = queue.queue([BROKEN] * CONCURRENCY)
    last = queue.batches[batch][-1]
    lies = {"answer": "all_pass", "extra_latency_ms": 1_500}
    waits = {"match": {"transaction_id": str(last), "attempt": 2}, "do": HANG}
    simulator.scenario({"rules": [{"match": {"attempt": 1}, "do": lies}, waits]})
    frozen = start(programs, "h1")
    wait_for_calls(simulator, CONCURRENCY)
    frozen.freeze()
    past = "2020-01-01 00:00:00.000000" + ("+00" if platform.is_postgresql else "")
    platform.execute("UPDATE gepp_audit_items SET lease_until = :past WHERE state = 'calling'", past=past)
    wait_until(lambda: all(call["ending"] == "answered" for call in simulator.calls()), what="the lies")

    other = start(programs, "h2")
    wait_until(
        lambda: sum(item["published_at"] is not None for item in items(platform).values()) == CONCURRENCY - 1,
        what="the writing back of the other three",
    )
    wait_until(lambda: items(platform)[last]["state"] == "calling", what="the second call for the last one")
    before = rows_of_the_platform(platform)
    frozen.thaw()
    woken = frozen.wait()
    assert (woken.exit_code, woken.stderr) == (0, "")
    assert rows_of_the_platform(platform) == before
    assert other.running, "the other host was to be at work all the time"
    assert sorted(ledger(platform, "superseded")) == queue.batches[batch]

    other.kill()
    finish(programs, simulator, "h2")
    queue.assert_all_settled()
    trouble = Told(disruptions=2, concurrency=CONCURRENCY, expected=queue.statuses, killers=set())
    assert_laws(platform.url, asked=settled_log(simulator), told=trouble)
