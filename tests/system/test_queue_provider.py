"""A provider that is down, throttles or refuses us costs no attempt, no verdict and no second call."""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any, Final

import pytest

from tests.support.platforms import Platform
from tests.support.processes import Finished, Programs, Simulator
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
from tests.support.waiting import wait_until

CONCURRENCY: Final = 4
on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and programs that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    return SampleQueue(platform)


def always(id_: int, do: Any) -> dict[str, Any]:
    """Each call about this transaction goes like that."""
    return {"match": {"transaction_id": str(id_)}, "do": do}


def run(programs: Programs, *options: str, **environ: str) -> Finished:
    return programs.run("process-queue", "--json", *options, environ=environ)


# -- bad hours ---------------------------------------------------------------------------------------------------------


@on_postgresql
def test_more_outages_than_attempts_are_waited_out(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([*CLEAN, BROKEN])
    outages = ["server_error", "bad_gateway", "rate_limited_ms", "overloaded", "hang_up"]
    rules = [
        {"match": {"attempt": attempt}, "do": preset}
        for attempt, preset in enumerate(outages, 1)
    ]  # fmt: skip
    simulator.scenario({"rules": rules})
    done = run(programs, GEPP_AUDIT_BACKOFF_SECONDS="0.02")
    assert (done.exit_code, done.stderr) == (0, "")
    assert Counter(asked(simulator)) == dict.fromkeys(queue.expected, 6)
    assert sorted(ledger(queue.platform, "retry")) == [1] * 5 + [2] * 5 + [3] * 5
    queue.assert_all_settled()


@on_postgresql
def test_no_host_asks_before_the_time_that_the_provider_asked_to_wait(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([*CLEAN, BROKEN] * 2)
    throttled = {"preset": "rate_limited", "headers": {"Retry-After": "4"}}
    simulator.scenario({"rules": [{"match": {"first": 1}, "do": throttled}]})
    first = start(programs, "h1", GEPP_AUDIT_CONCURRENCY="1")
    wait_until(lambda: ledger(queue.platform, "retry"), what="the settling of the throttled call")
    second = start(programs, "h2")
    assert [one.wait().exit_code for one in (first, second)] == [0, 0]
    refused, *others = simulator.calls()
    assert refused["status"] == 429
    assert min(call["received"] for call in others) >= refused["answered"] + 4
    queue.assert_all_settled()


@on_postgresql
def test_a_call_that_takes_too_long_is_cut_off_and_asked_again(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([*CLEAN, BROKEN])
    drip = {"match": {"transaction_id": "1", "attempt": 1}, "do": {"drip_seconds": 300}}
    hang = {"match": {"transaction_id": "2", "attempt": 1}, "do": HANG}
    simulator.scenario({"rules": [drip, hang]})
    done = run(programs, GEPP_AUDIT_CALL_TIMEOUT="1.5")
    assert done.exit_code == 0
    assert sorted(ledger(queue.platform, "retry")) == [1, 2]
    assert Counter(asked(simulator)) == {1: 2, 2: 2, 3: 1}
    queue.assert_all_settled()


@on_sqlite
def test_without_a_server_nothing_is_lost_and_stuck_says_that_it_is_tried_again(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    batch = queue.queue([*CLEAN, BROKEN])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        started = start(programs, OPENAI_BASE_URL=url, GEPP_AUDIT_BACKOFF_SECONDS="60")
        wait_until(lambda: len(set(ledger(queue.platform, "retry"))) == len(queue.expected), what="a try of each")
        started.terminate()
        done = started.wait()
    # by itself, where nothing is due soon, or by the signal
    assert (done.exit_code in (0, 143), done.json()["batches"]["in_progress"]) == (True, 1)
    assert set(queue.labels().values()) == {"queued"}
    found = items(queue.platform).values()
    assert {(item["state"], item["error_code"], item["attempts"]) for item in found} == {("ready", "connection", 0)}

    told = programs.run("stuck", str(batch), "--json")
    assert (told.exit_code, told.json()["stuck"][0]["cause"]) == (1, "retrying")
    assert programs.run("stuck", str(batch), "--requeue", "--yes").exit_code == 0
    finish(programs, simulator)
    queue.assert_all_settled()


# -- a provider that refuses us ----------------------------------------------------------------------------------------

REFUSALS: Final = {
    "key_rejected": ("key_rejected", "OPENAI_API_KEY"),
    "quota_with_retry_after": ("quota_exhausted", "Add credit"),
    "model_not_found": ("model_unavailable", "GEPP_AUDIT_MODEL"),
    "access_denied": ("key_rejected", "OPENAI_API_KEY"),
    "request_rejected": ("request_rejected", "OPENAI_BASE_URL"),
}


@pytest.mark.parametrize("preset", REFUSALS)
@on_sqlite
def test_a_refusal_ends_the_run_costs_no_attempt_and_is_over_once_it_is_mended(
    queue: SampleQueue, programs: Programs, simulator: Simulator, preset: str
) -> None:
    reason, fix = REFUSALS[preset]
    batch = queue.queue([*CLEAN, BROKEN] * 4)
    simulator.scenario({"rules": [{"do": preset}]})
    refused = programs.run("process-queue")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert fix in refused.stderr
    calls = len(simulator.calls())
    assert 1 <= calls <= CONCURRENCY
    check_nothing_was_spent(queue, batch, programs, reason)

    # until somebody mends it, the next tick asks nothing
    assert programs.run("process-queue").exit_code == 1
    assert len(simulator.calls()) == calls

    assert programs.run("stuck", str(batch), "--requeue", "--yes").exit_code == 0
    finish(programs, simulator)
    assert len(simulator.calls()) == calls + 12
    queue.assert_all_settled()
    assert programs.run("stuck", "--older-than", "0s").exit_code == 0


def check_nothing_was_spent(queue: SampleQueue, batch: int, programs: Programs, reason: str) -> None:
    assert set(queue.labels().values()) == {"queued"}
    found = items(queue.platform).values()
    assert {(one["state"], one["attempts"], one["waits"], one["crashes"]) for one in found} == {("ready", 0, 0, 0)}
    told = programs.run("stuck", str(batch), "--json")
    [stuck] = told.json()["stuck"]
    assert (told.exit_code, told.json()["status"]) == (2, "critical")
    assert (stuck["cause"], stuck["reason"]) == ("blocked", reason)


@on_postgresql
def test_while_the_key_is_rejected_one_probe_a_minute_leaves_over_all_hosts_and_the_right_key_ends_it(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    platform = queue.platform
    queue.fill(24, 3)
    wrong = {"OPENAI_API_KEY": "sk-not-the-right-one"}
    refused = programs.run("process-queue", environ={"GEPP_AUDIT_HOST": "h1", **wrong})
    assert refused.exit_code == 1
    calls = len(simulator.calls())
    assert 1 <= calls <= CONCURRENCY

    for host in ("h1", "h2", "h3"):  # the minute is over: one of them may try
        if host == "h1":
            let_a_minute_pass(platform)
        assert programs.run("process-queue", environ={"GEPP_AUDIT_HOST": host, **wrong}).exit_code == 1
    assert len(simulator.calls()) == calls + 1

    let_a_minute_pass(platform)
    simulator.reset()
    finish(programs, simulator)
    assert sorted(asked(simulator)) == sorted(queue.expected)
    queue.assert_all_settled()


def let_a_minute_pass(platform: Platform) -> None:
    long_ago = "2020-01-01 00:00:00.000000" + ("+00" if platform.is_postgresql else "")
    platform.execute("UPDATE gepp_audit_limits SET blocked_until = :at WHERE blocked_until IS NOT NULL", at=long_ago)


@pytest.mark.parametrize("fault", ["connection", "overloaded"])
@pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
def test_a_probe_that_fails_in_another_way_than_the_refusal_is_told_with_its_own_fault(
    queue: SampleQueue, programs: Programs, simulator: Simulator, fault: str
) -> None:
    queue.queue([*CLEAN, BROKEN])
    assert programs.run("process-queue", OPENAI_API_KEY="sk-not-the-right-one").exit_code == 1
    let_a_minute_pass(queue.platform)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        environ = {"OPENAI_BASE_URL": url} if fault == "connection" else {}
        simulator.scenario({"rules": [{"do": "overloaded"}]})
        failed = run(programs, **environ)
    told = failed.json()
    assert (failed.exit_code, told["outcome"], told["retries"]) == (1, "blocked", 1)
    error = told["error"]
    assert error["code"] == "key_rejected"
    [met] = {one["error"] for one in items(queue.platform).values() if one["error_code"] not in (None, "key_rejected")}
    assert error["message"].startswith("this run's one call did not get through: ")
    assert str(met) in error["message"]
    assert "An earlier call was refused (key_rejected): " in error["message"]
    assert "tried none" not in error["message"]
    assert ("OPENAI_BASE_URL" if fault == "connection" else "status page") in error["fix"]

    again = run(programs)  # within the minute
    assert "an earlier call was refused (key_rejected), and this run tried none" in again.json()["error"]["message"]
    assert again.json()["held"] is None  # nobody asked to wait


@on_sqlite
def test_a_base_url_without_the_route_is_no_unknown_model(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    batch = queue.queue([*CLEAN, BROKEN])
    refused = programs.run("process-queue", OPENAI_BASE_URL=simulator.url)
    assert refused.exit_code == 1
    assert "OPENAI_BASE_URL" in refused.stderr
    check_nothing_was_spent(queue, batch, programs, "request_rejected")


@on_sqlite
def test_calls_under_way_when_the_provider_begins_to_refuse_are_not_lost(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([*CLEAN, BROKEN] * 2)
    slow = [always(id_, {"extra_latency_ms": 1_000}) for id_ in (1, 2, 3)]
    simulator.scenario({"rules": [*slow, always(4, "quota_exhausted")]})
    process = start(programs)
    wait_for_calls(simulator, CONCURRENCY)
    assert process.wait().exit_code == 1
    assert ledger(queue.platform, "verdict") == [1, 2, 3]
    labels = queue.labels()
    assert {id_: labels[id_] for id_ in (1, 2, 3)} == {id_: queue.statuses[id_] for id_ in (1, 2, 3)}
    assert len(simulator.calls()) == CONCURRENCY


@pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
def test_a_transaction_over_which_all_is_refused_each_time_ends_and_stops_nobody(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    for _ in range(6):
        queue.queue([*CLEAN] * 2)
    poison = 1
    simulator.scenario({"rules": [{"match": {"transaction_id": str(poison)}, "do": "request_rejected"}]})
    for _ in range(8):
        ended = programs.run("process-queue")
        if ended.exit_code == 0:
            break
        let_a_minute_pass(queue.platform)
    assert ended.exit_code == 0
    assert items(queue.platform)[poison]["error"].startswith(
        "It was refused again and again while others were answered"
    )
    labels = queue.labels()
    assert labels.pop(poison) in ("failed", "null")
    assert set(labels.values()) == {"approved"}
    assert asked(simulator).count(poison) <= 4
