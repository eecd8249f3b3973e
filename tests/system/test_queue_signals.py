"""How a run is told to stop: by a signal, or by its time. What it paid for it waits for, and nothing is lost."""

from __future__ import annotations

import contextlib
from collections import Counter
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

import psutil
import psycopg2
import pytest

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
    finish,
    items,
    ledger,
    start,
    wait_for_calls,
)
from tests.support.tcp_proxy import tcp_proxy
from tests.support.waiting import wait_until

CONCURRENCY = 4
PAID = {"extra_latency_ms": 3_000}
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """12 transactions in one batch, and programs that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    queue = SampleQueue(platform)
    queue.queue([*CLEAN, BROKEN] * 4)
    return queue


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def states(queue: SampleQueue) -> Counter[str]:
    return Counter(item["state"] for item in items(queue.platform).values())


@pytest.mark.usefixtures("cold_starts")
@on_postgresql
@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGKILL])
def test_a_provider_that_loads_already_ends_with_a_run_that_is_ended_before_it_begins(
    queue: SampleQueue, programs: Programs, number: int
) -> None:
    with contextlib.closing(psycopg2.connect(queue.platform.url)) as altering:
        # the glance reads other tables, and sees work; the run waits
        altering.cursor().execute("LOCK TABLE gepp_audit_alembic_version IN ACCESS EXCLUSIVE MODE")
        run = start(programs)
        process = psutil.Process(run.pid)
        wait_until(process.children)
        [provider] = process.children()
        run.popen.send_signal(number)
        assert run.wait().exit_code == (130 if number == SIGINT else -number)
        wait_until(lambda: has_ended(provider))
    assert ledger(queue.platform, None) == []


@pytest.mark.parametrize(
    ("platform", "number", "exit_code"),
    [("postgresql-old", SIGTERM, 143), ("sqlite", SIGINT, 130), ("postgresql-new", SIGHUP, 129)],
    indirect=["platform"],
)
def test_a_signal_ends_a_run_after_the_calls_that_were_paid_for(
    queue: SampleQueue, programs: Programs, simulator: Simulator, number: int, exit_code: int
) -> None:
    simulator.scenario({"rules": [{"do": PAID}]})
    run = start(programs)
    wait_for_calls(simulator, CONCURRENCY)
    run.popen.send_signal(number)
    stopped = run.wait()

    assert (stopped.exit_code, stopped.stderr) == (exit_code, "")
    told = stopped.json()
    assert (told["outcome"], told["calls"], told["transactions"]["released"]) == ("interrupted", CONCURRENCY, 0)
    assert len(simulator.calls()) == CONCURRENCY
    assert sorted(ledger(queue.platform, "verdict")) == sorted(asked(simulator))
    assert states(queue) == {"done": CONCURRENCY, "ready": 8}
    assert Counter(queue.labels().values())["queued"] == 8
    assert queue.platform.history(1)["processed_transactions"] == CONCURRENCY
    assert queue.platform.value("SELECT outcome FROM gepp_audit_runs") == "interrupted"

    finish(programs, simulator)
    assert sorted(asked(simulator)) == sorted(queue.expected)
    queue.assert_all_settled()


@on_postgresql
def test_a_signal_ends_a_run_whose_database_is_gone_though_it_would_wait_for_it_longer(
    queue: SampleQueue, programs: Programs, simulator: Simulator, cluster: PostgresServer
) -> None:
    simulator.scenario({"rules": [{"do": PAID}]})
    with tcp_proxy(cluster.port) as proxy:
        programs.environ["DATABASE_URL"] = proxy.url(queue.platform.url)
        run = start(programs)
        wait_for_calls(simulator, CONCURRENCY)
    run.popen.send_signal(SIGTERM)
    stopped = run.wait()
    assert (stopped.exit_code, stopped.json()["error"]["code"]) == (1, "database_unreachable")


@on_postgresql
def test_a_second_signal_leaves_at_once_and_the_next_run_takes_over_without_waiting(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    simulator.scenario({"rules": [{"do": HANG}]})
    run = start(programs)
    wait_for_calls(simulator, CONCURRENCY)
    run.terminate()
    wait_until(lambda: queue.platform.value("SELECT draining_at FROM gepp_audit_runs"), what="the draining")
    assert run.running
    run.terminate()
    left = run.wait(5)
    assert (left.exit_code, left.stdout) == (143, "")
    assert len(ledger(queue.platform, None)) == CONCURRENCY

    finish(programs, simulator)
    assert Counter(asked(simulator)).total() == 12 + CONCURRENCY
    queue.assert_all_settled()


@on_sqlite
def test_calls_that_outlast_the_grace_are_given_up_and_asked_again_by_the_next_run(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    simulator.scenario({"rules": [{"do": HANG}]})
    run = start(programs)
    wait_for_calls(simulator, CONCURRENCY)
    run.terminate()
    stopped = run.wait(40)
    assert (stopped.exit_code, stopped.json()["transactions"]["released"]) == (143, CONCURRENCY)
    assert sorted(ledger(queue.platform, "abandoned")) == sorted(asked(simulator))
    assert states(queue) == {"ready": 12}
    assert {item["crashes"] for item in items(queue.platform).values()} == {0}

    finish(programs, simulator)
    queue.assert_all_settled()


@on_postgresql
def test_a_run_out_of_time_waits_for_what_it_paid_while_the_next_one_works_beside_it(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    simulator.scenario({"rules": [{"match": {"first": CONCURRENCY}, "do": {"extra_latency_ms": 12_000}}]})
    first = programs.start("process-queue", "--max-seconds", "4", "--json")
    wait_for_calls(simulator, CONCURRENCY)
    busy = programs.run("process-queue", "--json")
    assert busy.json()["outcome"] == "busy"
    wait_until(lambda: queue.platform.value("SELECT max(draining_at) FROM gepp_audit_runs"), what="the draining")
    second = programs.run("process-queue", "--json")
    assert (second.exit_code, second.json()["outcome"], second.json()["calls"]) == (0, "processed", 8)
    assert first.running

    ended = first.wait()
    assert (ended.exit_code, ended.json()["outcome"], ended.json()["calls"]) == (0, "processed", CONCURRENCY)
    assert sorted(asked(simulator)) == sorted(queue.expected)
    queue.assert_all_settled()


@on_sqlite
def test_a_run_out_of_time_does_not_stay_for_what_is_due_soon(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    throttled = {"preset": "rate_limited", "headers": {"Retry-After": "9"}}
    simulator.scenario({"rules": [{"do": throttled}]})
    stopped = programs.run("process-queue", "--max-seconds", "7")
    assert (stopped.exit_code, stopped.stdout) == (0, "")
    [waited] = queue.platform.rows(
        "SELECT max(draining_at) < max(throttled_until) AS in_time FROM gepp_audit_runs, gepp_audit_limits"
    )
    assert waited["in_time"]
