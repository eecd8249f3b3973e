"""What a working run does beside the ordinary: it asks suspects alone, and prunes what is older than 90 days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator
from tests.support.queues import CLEAN, SampleQueue, connect

both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)


@both
def test_a_suspect_is_asked_with_no_other_call_of_its_run_under_way(
    platform: Platform, programs: Programs, simulator: Simulator
) -> None:
    connect(programs, platform, simulator)
    queue = SampleQueue(platform)
    batch = queue.queue(CLEAN * 5)
    # the batch is taken up, then two of its transactions become suspects
    assert programs.run("process-queue", "--max-transactions", "1", GEPP_AUDIT_HOST="h1").exit_code == 0
    suspects = queue.batches[batch][4:6]
    platform.execute(
        "UPDATE gepp_audit_items SET crashes = 2 WHERE transaction_id IN (:one, :other)",
        one=suspects[0],
        other=suspects[1],
    )
    simulator.scenario({"rules": [{"match": {}, "do": {"extra_latency_ms": 50}}]})
    assert programs.run("process-queue", GEPP_AUDIT_HOST="h1").exit_code == 0
    queue.assert_all_settled()
    calls = platform.rows("SELECT transaction_id, dispatched_at, answered_at FROM gepp_audit_calls")
    beside = [
        other["transaction_id"]
        for call in calls
        if call["transaction_id"] in suspects
        for other in calls
        if other is not call
        and other["dispatched_at"] < call["answered_at"]
        and other["answered_at"] > call["dispatched_at"]
    ]
    assert (len(calls), beside) == (10, [])


@both
def test_a_working_run_prunes_what_is_old_and_ends_its_batch(
    platform: Platform, programs: Programs, simulator: Simulator
) -> None:
    connect(programs, platform, simulator)
    queue = SampleQueue(platform)
    queue.queue(CLEAN * 2)
    old = {
        "run_id": "r", "audit_history_id": 900_000, "transaction_id": 1, "organization_id": 1, "engine": "openai",
        "model": "m", "prompt_version": "1", "dispatched_at": datetime.now(UTC) - timedelta(days=91),
        "outcome": "verdict", "input_tokens": 7,
    }  # fmt: skip
    platform.insert("gepp_audit_calls", [old] * 1_200)
    assert programs.run("process-queue", GEPP_AUDIT_HOST="h1").exit_code == 0
    queue.assert_all_settled()
    assert platform.value("SELECT count(*) FROM gepp_audit_calls") == 4
    assert platform.one("SELECT calls, input_tokens FROM gepp_audit_usage_daily") == {
        "calls": 1_200,
        "input_tokens": 8_400,
    }
