"""Runs inside the server: their time, their end by a signal, and how they stand beside others of the same host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.laws import assert_laws
from tests.support.chaos import settled_log
from tests.support.evidence import Told
from tests.support.platforms import Platform
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
)  # fmt: skip
from tests.support.waiting import wait_until
from tests.support.web import API, Reply, Served, serving, token

CONCURRENCY = 4
PROCESS = f"{API}/process_queue"
#: originals of organization 2
OF_OTHER = (2001, 2002, 2003)
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-old"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """12 transactions of organization 1 in one batch, and at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ |= {"GEPP_AUDIT_CONCURRENCY": str(CONCURRENCY), "GEPP_AUDIT_HOST": "h1"}
    queue = SampleQueue(platform)
    queue.queue([*CLEAN, BROKEN] * 4)
    return queue


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def process(server: Served, organization: int = 1, seconds: float = 25) -> Reply:
    bearer = {"Authorization": f"Bearer {token(organization)}"}
    return server.post(f"{PROCESS}?max_seconds={seconds}", headers=bearer)


def unfinished(platform: Platform) -> int:
    found: int = platform.value("SELECT count(*) FROM gepp_audit_runs WHERE finished_at IS NULL")
    return found


def assert_all_well(queue: SampleQueue, simulator: Simulator) -> None:
    queue.assert_all_settled()
    trouble = Told(disruptions=0, concurrency=CONCURRENCY, expected=queue.statuses, killers=set())
    assert_laws(queue.platform.url, asked=settled_log(simulator), told=trouble)


@both
def test_when_its_time_is_up_it_answers_and_settles_what_it_paid_for_in_the_background(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    simulator.scenario({"rules": [{"match": {"first": CONCURRENCY}, "do": {"extra_latency_ms": 6_000}}]})
    with serving(programs) as server:
        reply = process(server, seconds=5)
        told = reply.json()["data"]
        assert (reply.status, told["finished"], told["processed_batches"], told["total_batches"]) == (200, False, 0, 1)
        assert (told["run"]["outcome"], told["run"]["batches"]["in_progress"]) == (None, 1)
        assert told["run"]["seconds"] >= 5
        assert unfinished(queue.platform) == 1
        wait_until(lambda: unfinished(queue.platform) == 0, what="the end of the run")
        paid = sorted(asked(simulator))
        assert len(paid) == CONCURRENCY
        assert sorted(ledger(queue.platform, "verdict")) == paid
        rest = process(server).json()["data"]
        assert (rest["finished"], rest["processed_batches"], rest["run"]["calls"]) == (True, 1, 12 - CONCURRENCY)
    assert_all_well(queue, simulator)


@on_sqlite
def test_sigterm_ends_a_run_after_the_calls_that_were_paid_for_and_its_caller_is_answered(
    queue: SampleQueue, programs: Programs, simulator: Simulator, pool: ThreadPoolExecutor
) -> None:
    simulator.scenario({"rules": [{"do": {"extra_latency_ms": 2_000}}]})
    with serving(programs) as server:
        waiting = pool.submit(process, server)
        wait_for_calls(simulator, CONCURRENCY)
        server.process.terminate()
        stopped = server.process.wait(30)
    assert (stopped.exit_code, stopped.stderr) == (143, "")
    told = waiting.result().json()["data"]
    assert (told["finished"], told["run"]["outcome"], told["run"]["calls"]) == (True, "interrupted", CONCURRENCY)
    assert told["run"]["transactions"]["released"] == 0
    assert sorted(ledger(queue.platform, "verdict")) == sorted(asked(simulator))
    assert queue.platform.value("SELECT outcome FROM gepp_audit_runs") == "interrupted"
    simulator.scenario({"rules": []})
    finish(programs, simulator)
    assert_all_well(queue, simulator)


@on_postgresql
def test_a_second_signal_leaves_at_once_and_the_next_run_takes_over_without_waiting(
    queue: SampleQueue, programs: Programs, simulator: Simulator, pool: ThreadPoolExecutor
) -> None:
    simulator.scenario({"rules": [{"do": HANG}]})
    with serving(programs) as server:
        waiting: Future[Any] = pool.submit(process, server)
        wait_for_calls(simulator, CONCURRENCY)
        server.process.interrupt()
        wait_until(lambda: queue.platform.value("SELECT draining_at FROM gepp_audit_runs"), what="the draining")
        assert server.process.running
        server.process.interrupt()
        assert server.process.wait(5).exit_code == 130
    assert isinstance(waiting.exception(), OSError | EOFError)
    assert len(ledger(queue.platform, None)) == CONCURRENCY
    finish(programs, simulator, "h1")
    queue.assert_all_settled()


@both
def test_nobody_waits_for_the_run_of_another_organization_but_for_one_s_own(
    queue: SampleQueue, programs: Programs, simulator: Simulator, pool: ThreadPoolExecutor
) -> None:
    """Organization 1's calls hang: its run is at work until the end of the test. Cron's tick on the same host must not
    take it for its own, either.
    """
    simulator.scenario({"rules": [{"match": {"first": CONCURRENCY}, "do": {"extra_latency_ms": 10_000}}]})
    with serving(programs) as server:
        at_work = pool.submit(process, server, 1, 60)
        wait_for_calls(simulator, CONCURRENCY)
        again = process(server).json()
        assert (again["data"]["run"]["outcome"], again["data"]["finished"]) == ("busy", True)
        theirs = queue.queue(OF_OTHER, organization=2)
        other = process(server, 2).json()["data"]
        assert (other["run"]["outcome"], other["run"]["calls"], other["processed_batches"]) == ("processed", 3, 1)
        assert queue.platform.history(theirs)["status"] == "completed"
        assert process(server, 3).json()["data"]["run"]["outcome"] == "idle"
        last = queue.queue([3001, 3002], organization=3)
        tick = start(programs, "h1").wait().json()
        assert (tick["outcome"], tick["calls"] >= 2) == ("processed", True)
        assert queue.platform.history(last)["status"] == "completed"
        assert at_work.result().json()["data"]["run"]["outcome"] == "processed"
    simulator.scenario({"rules": []})
    finish(programs, simulator)
    assert_all_well(queue, simulator)


@on_sqlite
def test_a_third_run_of_an_organization_is_refused_while_one_works_and_one_settles(
    queue: SampleQueue, programs: Programs, simulator: Simulator, pool: ThreadPoolExecutor
) -> None:
    slow = {"match": {"first": 2 * CONCURRENCY}, "do": {"extra_latency_ms": 9_000}}
    simulator.scenario({"rules": [slow]})
    with serving(programs) as server:
        assert process(server, seconds=5).json()["data"]["finished"] is False
        at_work = pool.submit(process, server)
        wait_for_calls(simulator, 2 * CONCURRENCY)
        third = process(server)
        assert (third.status, third.json()["code"], third.headers["retry-after"]) == (429, "too_many", "10")
        assert process(server, 2).status == 200
        assert at_work.result().status == 200
    finish(programs, simulator)
    assert_all_well(queue, simulator)


@on_sqlite
def test_where_the_provider_refuses_everything_the_caller_is_told_without_its_words(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    with serving(programs, OPENAI_API_KEY="sk-wrong") as server:
        reply = process(server)
        told = reply.json()
    assert (reply.status, told["success"], told["code"]) == (503, False, "key_rejected")
    assert told["data"]["run"]["outcome"] == "blocked"
    assert "sk-" not in reply.text
    assert {item["attempts"] for item in items(queue.platform).values()} == {0}


@on_sqlite
def test_where_the_settings_say_so_what_is_queued_is_processed_without_cron(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    later = queue.add([2001], status="null")
    with serving(programs, token=token(2), GEPP_AUDIT_PROCESS_ON_START="yes") as server:
        told = server.post(f"{API}/add_ai_audit_queue", {}).json()["data"]
        assert told["transaction_ids"] == later
        queue.batches[told["audit_history_id"]] = later
        wait_until(lambda: queue.labels()[later[0]] != "queued", what="the verdict")
        wait_until(lambda: unfinished(queue.platform) == 0, what="the end of the run")
    assert asked(simulator) == later
    log = [json.loads(line) for path in programs.home.glob("*.log") for line in path.read_text().splitlines()]
    assert all("Bearer" not in json.dumps(line) for line in log)
    finish(programs, simulator)
    assert_all_well(queue, simulator)
