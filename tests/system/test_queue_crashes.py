"""What a run does not survive, the queue does: killed, frozen and crowded runs lose no verdict and buy none twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.platforms import Platform
from tests.support.processes import Process, Programs, Simulator
from tests.support.queues import (
    BROKEN,
    CLEAN,
    OURS,
    SampleQueue,
    asked,
    connect,
    everything,
    items,
    ledger,
    theirs,
    wait_for_calls,
)
from tests.support.waiting import wait_until

CONCURRENCY = 4
HANG = {"extra_latency_ms": 60_000}
both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and programs that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    return SampleQueue(platform)


def start(programs: Programs, host: str = "h1", **environ: str) -> Process:
    return programs.start("process-queue", "--json", environ={**environ, "GEPP_AUDIT_HOST": host})


def finish(programs: Programs, simulator: Simulator, host: str = "h1") -> None:
    """Let the simulator answer again, and one more run do what is left."""
    simulator.scenario({"rules": []})
    done = programs.run("process-queue", GEPP_AUDIT_HOST=host)
    assert (done.exit_code, done.stdout) == (0, "")


def hang_after(simulator: Simulator, calls: int) -> None:
    """Answer so many further calls, and none of those that follow."""
    simulator.scenario({"rules": [{"match": {"after": calls}, "do": HANG}]})


# -- killed ------------------------------------------------------------------------------------------------------------


@both
def test_three_kills_in_the_middle_repeat_only_the_calls_in_flight(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    platform, answered = queue.platform, 10
    queue.fill(60, 6)
    settled: Counter[int] = Counter()
    for kill in range(3):
        before = len(simulator.calls())
        hang_after(simulator, answered)
        run = start(programs)
        wait_for_calls(simulator, before + answered + CONCURRENCY)
        wait_until(lambda kill=kill: len(ledger(platform, "verdict")) == (kill + 1) * answered, what="the settling")  # type: ignore[misc] # bound now
        assert run.kill().exit_code == -9
        assert len(ledger(platform, None)) == CONCURRENCY
        counts = Counter(asked(simulator))
        settled |= Counter({id_: counts[id_] for id_ in ledger(platform, "verdict")})

    finish(programs, simulator)
    counts = Counter(asked(simulator))
    assert {id_: counts[id_] for id_ in settled} == dict(settled), "what was settled was bought again"
    assert counts.total() == 60 + 3 * CONCURRENCY
    assert sorted(ledger(platform, "verdict")) == sorted(queue.expected)
    assert len(ledger(platform, "expired")) == 3 * CONCURRENCY
    queue.assert_all_settled()
    outcomes = platform.rows("SELECT outcome FROM gepp_audit_runs ORDER BY started_at")
    assert [row["outcome"] for row in outcomes] == ["died", "died", "died", "processed"]


@both
def test_a_run_killed_before_it_published_leaves_its_verdicts_to_the_next_one(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    # 5 answers are too few to be published at once, and the call that hangs keeps the run from its end
    platform = queue.platform
    queue.queue([*CLEAN, BROKEN, *CLEAN, BROKEN])
    simulator.scenario({"rules": [{"match": {"after": 5}, "do": HANG}]})
    run = start(programs)
    wait_until(lambda: len(ledger(platform, "verdict")) == 5, what="the settling")
    wait_for_calls(simulator, 6)
    run.kill()
    finish(programs, simulator)
    assert sorted(Counter(asked(simulator)).values()) == [1, 1, 1, 1, 1, 2]
    queue.assert_all_settled()


@on_postgresql
def test_a_transaction_that_kills_each_run_is_parked_and_the_rest_of_its_batch_completes(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    platform = queue.platform
    batch = queue.queue([*CLEAN, *CLEAN])
    bad = queue.batches[batch][0]
    simulator.scenario({"rules": [{"match": {"transaction_id": str(bad)}, "do": HANG}]})
    for kill in range(3):
        run = start(programs)
        wait_until(lambda kill=kill: asked(simulator).count(bad) == kill + 1, what="the call that never ends")  # type: ignore[misc] # bound now
        if not kill:
            wait_until(lambda: len(ledger(platform, "verdict")) == 3, what="the settling of the others")
        run.kill()
    assert programs.run("process-queue", GEPP_AUDIT_HOST="h1").exit_code == 0
    assert Counter(asked(simulator)) == {id_: 3 if id_ == bad else 1 for id_ in queue.batches[batch]}
    assert queue.labels() == {**queue.statuses, bad: "failed"}
    history = platform.history(batch)
    assert history["status"] == "completed"
    assert f"{bad} (crashed)" in history["error_message"]


# -- crowded -----------------------------------------------------------------------------------------------------------


@both
def test_six_hosts_at_once_ask_each_transaction_once_and_close_each_batch_once(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(120, 6)
    simulator.scenario({"rules": [{"do": {"extra_latency_ms": 300}}]})
    runs = [start(programs, f"h{number}") for number in range(1, 7)]
    told = [run.wait() for run in runs]

    assert {(one.exit_code, one.stderr) for one in told} == {(0, "")}
    summaries = [one.json() for one in told]
    assert sorted(asked(simulator)) == sorted(queue.expected)
    assert sum(one["calls"] for one in summaries) == 120
    assert len([one for one in summaries if one["calls"]]) > 1, "the hosts did not work at the same time"
    assert sum(one["batches"]["completed"] for one in summaries) == 6
    assert sorted(ledger(queue.platform, "verdict")) == sorted(queue.expected)
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
