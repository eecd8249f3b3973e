"""A run that is killed loses no verdict and buys none twice; the next one of its host goes on at once."""

from __future__ import annotations

from collections import Counter

import psutil
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
    ledger,
    start,
    wait_for_calls,
)
from tests.support.waiting import wait_until

CONCURRENCY = 4
both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and programs that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    return SampleQueue(platform)


def hang_after(simulator: Simulator, calls: int) -> None:
    """Answer so many further calls, and none of those that follow."""
    simulator.scenario({"rules": [{"match": {"after": calls}, "do": HANG}]})


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
    told = Told(disruptions=3, concurrency=CONCURRENCY, expected=queue.statuses, killers=set())
    assert_laws(platform.url, asked=settled_log(simulator), told=told)


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
    told = Told(disruptions=1, concurrency=CONCURRENCY, expected=queue.statuses, killers=set())
    assert_laws(platform.url, asked=settled_log(simulator), told=told)


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
    assert f"three runs died while they worked on it: 1 ({bad})" in history["error_message"]
    expected = {**queue.statuses, bad: "failed"}
    told = Told(disruptions=3, concurrency=CONCURRENCY, expected=expected, killers={bad})
    assert_laws(platform.url, asked=settled_log(simulator), told=told)


@pytest.mark.usefixtures("cold_starts")
@both
def test_a_provider_process_that_dies_costs_a_crash_of_its_calls_and_the_run_goes_on(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(12, 2)
    hang_after(simulator, 4)
    run = start(programs)
    wait_for_calls(simulator, 4 + CONCURRENCY)
    wait_until(lambda: len(ledger(queue.platform, "verdict")) == 4, what="the settling")
    simulator.scenario({"rules": []})
    (provider,) = psutil.Process(run.pid).children()
    provider.kill()
    ended = run.wait()

    assert (ended.exit_code, "provider_process_died" in ended.stderr) == (0, True)
    assert len(ledger(queue.platform, "expired")) == CONCURRENCY
    assert len(simulator.calls()) == 12 + CONCURRENCY
    queue.assert_all_settled()
