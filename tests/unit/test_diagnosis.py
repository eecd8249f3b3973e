"""Why a batch does not move: each cause from its facts, one cause whatever the facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.database.reports import BatchFacts, GateFacts, Lease, QueueFacts, RunFacts
from gepp_audit.model import ErrorCode, RunIdentity
from gepp_audit.queue.diagnosis import Cause, Diagnosis, Status, diagnose

NOW = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def identity(run_id: str = "run-1", host: str = "worker-1") -> RunIdentity:
    return RunIdentity(
        run_id=run_id, host=host, boot_id="b", pid_namespace="p", pid=4711, pid_started_at=1.0, version="1"
    )


def a_run(run_id: str = "run-1", **changes: Any) -> RunFacts:
    """A run at work."""
    values: dict[str, Any] = {
        "started_at": ago(minutes=1),
        "reported_at": ago(seconds=5),
        "finished_at": None,
        "outcome": None,
    }
    return RunFacts(identity=identity(run_id), **(values | changes))


def a_tick(**changes: Any) -> RunFacts:
    """An idle tick just now."""
    moments: dict[str, Any] = dict.fromkeys(("started_at", "reported_at", "finished_at"), ago(seconds=30))
    return a_run("tick:worker-1", **({**moments, "outcome": "idle"} | changes))


def a_batch(**changes: Any) -> BatchFacts:
    """A batch of which ten transactions wait to be asked."""
    values: dict[str, Any] = {
        "audit_history_id": 12,
        "organization_id": 7,
        "started_at": ago(hours=3),
        "discovered_at": ago(hours=3),
        "fanned_out_at": ago(hours=3),
        "ready": 10,
    }
    return BatchFacts(**(values | changes))


def a_queue(**changes: Any) -> QueueFacts:
    """A queue on which runs work."""
    values: dict[str, Any] = {"runs": (a_run(),)}
    return QueueFacts(**(values | changes))


def lease(**changes: Any) -> Lease:
    """Four calls of a living run."""
    values: dict[str, Any] = {"run": a_run(), "calls": 4, "ended": 0, "until": NOW + timedelta(seconds=60)}
    return Lease(**(values | changes))


def diagnosed(batch: BatchFacts, queue: QueueFacts | None = None) -> Diagnosis:
    return diagnose(batch, queue or a_queue(), NOW)


BLOCK = GateFacts(blocked_reason="key_rejected", blocked_detail="status 401", blocked_at=ago(minutes=50))


# -- blocked, paused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["key_rejected", "quota_exhausted", "model_unavailable", "request_rejected"])
def test_a_refusing_provider_blocks_with_its_reason(reason: str) -> None:
    found = diagnosed(a_batch(), a_queue(gates={"global": replace(BLOCK, blocked_reason=reason)}))
    assert (found.cause, found.reason, found.status) == (Cause.BLOCKED, reason, Status.CRITICAL)


def test_a_block_tells_since_when_what_the_provider_said_and_the_command_that_goes_on() -> None:
    found = diagnosed(a_batch(), a_queue(gates={"global": BLOCK}))
    assert "since 2026-03-01 02:10 UTC (50 min ago)" in found.explanation
    assert "status 401." in found.explanation
    assert found.fix_for(12) == (
        "Put a valid key into OPENAI_API_KEY (or OPENAI_API_KEY_FILE), then run "
        '"gepp-audit stuck --requeue 12 --yes && gepp-audit process-queue".'
    )


def test_a_block_without_a_run_tells_both() -> None:
    found = diagnosed(a_batch(), a_queue(gates={"global": BLOCK}, runs=(a_tick(reported_at=ago(days=1)),)))
    assert found.cause == Cause.BLOCKED
    assert "no run has reported for long" in found.explanation


def test_a_batch_that_is_audited_but_not_written_back_is_not_blocked() -> None:
    found = diagnosed(a_batch(ready=0, done=10, unpublished=10), a_queue(gates={"global": BLOCK}))
    assert found.cause == Cause.UNKNOWN


def test_a_refusal_of_a_newer_version_is_still_a_block() -> None:
    found = diagnosed(a_batch(), a_queue(gates={"global": replace(BLOCK, blocked_reason="moon_phase")}))
    assert (found.cause, found.reason) == (Cause.BLOCKED, "moon_phase")


def test_a_paused_queue_is_a_warning_with_the_reason_of_who_paused_it() -> None:
    gate = GateFacts(paused_at=ago(hours=1), paused_reason="month end")
    found = diagnosed(a_batch(), a_queue(gates={"global": gate}))
    assert (found.cause, found.status) == (Cause.PAUSED, Status.WARNING)
    assert "month end." in found.explanation
    assert '"gepp-audit resume"' in found.fix


def test_only_the_paused_organization_is_paused() -> None:
    queue = a_queue(gates={"organization:7": GateFacts(paused_at=ago(hours=1))})
    found = diagnosed(a_batch(organization_id=7), queue)
    assert (found.cause, '"gepp-audit resume --organization 7"' in found.fix) == (Cause.PAUSED, True)
    assert diagnosed(a_batch(organization_id=8), queue).cause != Cause.PAUSED


# -- run_died, no_run --------------------------------------------------------------------------------------------------


def test_a_lease_of_a_process_that_is_gone_means_that_a_run_died() -> None:
    batch = a_batch(ready=6, calling=4, leases=(lease(),))
    found = diagnosed(batch, a_queue(gone=frozenset({"run-1"})))
    assert (found.cause, found.status) == (Cause.RUN_DIED, Status.CRITICAL)
    assert "Run run-1 on worker-1 (process 4711) died while it had 4 calls of this batch under way." in (
        found.explanation
    )
    assert '"gepp-audit stuck --requeue 12 --yes && gepp-audit process-queue"' in found.fix_for(12)


def test_an_ended_lease_of_a_silent_run_on_another_host_means_that_a_run_died() -> None:
    silent = a_run(reported_at=ago(minutes=4))
    batch = a_batch(ready=6, calling=4, leases=(lease(run=silent, ended=4, until=ago(minutes=2)),))
    assert diagnosed(batch, a_queue(runs=(silent,))).cause == Cause.RUN_DIED


def test_an_ended_lease_of_a_run_that_reports_is_no_death() -> None:
    batch = a_batch(ready=0, calling=4, leases=(lease(ended=4, until=ago(seconds=1)),))
    assert diagnosed(batch).cause == Cause.SLOW


def test_a_silent_run_whose_lease_has_not_ended_is_no_death() -> None:
    silent = a_run(reported_at=ago(minutes=20))
    batch = a_batch(ready=0, calling=4, leases=(lease(run=silent),))
    assert diagnosed(batch, a_queue(runs=(silent,))).cause == Cause.SLOW


def test_a_finished_run_that_left_calls_behind_counts_as_dead() -> None:
    finished = a_run(finished_at=ago(seconds=30), outcome="processed")
    assert diagnosed(a_batch(calling=4, leases=(lease(run=finished),))).cause == Cause.RUN_DIED


def test_calls_of_a_dead_run_do_not_matter_while_a_living_one_works_on_the_batch() -> None:
    dead = a_run("run-2")
    batch = a_batch(calling=8, leases=(lease(run=dead), lease()), settled_lately=5, settled_since=ago(minutes=5))
    assert diagnosed(batch, a_queue(gone=frozenset({"run-2"}))).cause == Cause.SLOW


def test_runs_that_die_one_after_the_other_are_told_even_where_their_leases_were_freed() -> None:
    dead = tuple(
        a_run(f"run-{n}", reported_at=ago(minutes=n), finished_at=ago(minutes=n - 1), outcome="died") for n in (1, 2, 3)
    )
    found = diagnosed(a_batch(crashed=2), a_queue(runs=dead))
    assert found.cause == Cause.RUN_DIED
    assert found.explanation.startswith("3 runs have died within the last hour; the last of them, run run-1 on")


def test_a_death_is_over_once_something_was_settled_after_it() -> None:
    dead = a_run(reported_at=ago(minutes=9), finished_at=ago(minutes=9), outcome="died")
    batch = a_batch(settled_lately=3, settled_since=ago(minutes=3), last_settled_at=ago(minutes=1))
    assert diagnosed(batch, a_queue(runs=(a_tick(), dead))).cause == Cause.SLOW


def test_a_death_before_the_batch_was_started_is_none_of_its_business() -> None:
    dead = a_run(reported_at=ago(minutes=9), finished_at=ago(minutes=9), outcome="died")
    batch = a_batch(started_at=ago(minutes=5))
    assert diagnosed(batch, a_queue(runs=(a_tick(), dead))).cause == Cause.UNKNOWN


def test_silence_of_all_hosts_means_that_cron_does_not_run() -> None:
    found = diagnosed(a_batch(), a_queue(runs=(a_tick(reported_at=ago(hours=2)),)))
    assert (found.cause, found.status) == (Cause.NO_RUN, Status.CRITICAL)
    assert "since 2026-03-01 01:00 UTC (2 h ago) (the last was on worker-1)" in found.explanation
    assert "crontab -l" in found.fix


def test_a_queue_that_never_saw_a_run_says_so() -> None:
    found = diagnosed(a_batch(discovered_at=None, fanned_out_at=None), a_queue(runs=()))
    assert (found.cause, "No run of gepp-audit has ever reported" in found.explanation) == (Cause.NO_RUN, True)


def test_an_idle_tick_is_a_sign_of_life() -> None:
    assert diagnosed(a_batch(), a_queue(runs=(a_tick(),))).cause != Cause.NO_RUN


# -- retrying, slow, unknown -------------------------------------------------------------------------------------------


def test_transactions_that_wait_for_their_next_attempt_are_retrying_with_the_last_error() -> None:
    batch = a_batch(
        failing=10,
        waiting=10,
        next_attempt_at=NOW + timedelta(seconds=95),
        first_failed_at=ago(minutes=40),
        last_error_code="server_error",
        last_error="The provider answered with status 503",
    )
    found = diagnosed(batch)
    assert (found.cause, found.reason, found.status) == (Cause.RETRYING, "server_error", Status.WARNING)
    assert found.explanation == (
        "10 transactions of 10 left had a failed call and will be asked again. The next one is due at 2026-03-01 03:01 "
        "UTC (in 1 min). The first failure was 2026-03-01 02:20 UTC (40 min ago). The last error: The provider "
        "answered with status 503."
    )


def test_a_few_failing_transactions_do_not_hide_that_the_batch_moves() -> None:
    batch = a_batch(ready=100, failing=3, settled_lately=60, settled_since=ago(minutes=10))
    assert diagnosed(batch).cause == Cause.SLOW


def test_a_few_failing_transactions_are_all_that_holds_a_batch_where_nothing_else_is_left() -> None:
    batch = a_batch(ready=3, failing=3, settled_lately=60, settled_since=ago(minutes=10))
    assert diagnosed(batch).cause == Cause.RETRYING


def test_a_provider_that_asked_to_wait_is_retrying() -> None:
    found = diagnosed(a_batch(), a_queue(gates={"global": GateFacts(throttled_until=NOW + timedelta(minutes=3))}))
    assert (found.cause, found.reason) == (Cause.RETRYING, "rate_limited")
    assert "until 2026-03-01 03:03 UTC" in found.explanation


def test_a_batch_that_moves_is_slow_with_rate_and_end() -> None:
    found = diagnosed(a_batch(ready=340, done=120, settled_lately=120, settled_since=ago(minutes=10)))
    assert (found.cause, found.status, found.rate) == (Cause.SLOW, Status.WARNING, 12.0)
    assert found.eta == NOW + timedelta(minutes=340 / 12)
    assert found.explanation == (
        "It moves: 12 transactions a minute lately, 340 left; at this rate it will be through at 2026-03-01 03:28 UTC "
        "(in 28 min)."
    )


def test_a_batch_whose_calls_are_under_way_is_slow_without_a_rate() -> None:
    found = diagnosed(a_batch(ready=6, calling=4, leases=(lease(),)))
    assert (found.cause, found.rate, found.eta) == (Cause.SLOW, None, None)


def test_a_batch_behind_older_ones_of_its_organization_is_slow() -> None:
    found = diagnosed(a_batch(), a_queue(verdicts_lately={7: 500}))
    assert (found.cause, "waits its turn" in found.explanation) == (Cause.SLOW, True)
    assert diagnosed(a_batch(), a_queue(verdicts_lately={8: 500})).cause == Cause.UNKNOWN


def test_an_end_in_the_far_future_is_not_computed() -> None:
    found = diagnosed(a_batch(ready=10**12, settled_lately=1, settled_since=ago(minutes=10)))
    assert (found.cause, found.eta) == (Cause.SLOW, None)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (a_batch(wanted=False), "The platform has cancelled"),
        (a_batch(discovered_at=None, fanned_out_at=None), "none has taken up this batch"),
        (a_batch(ready=0, done=3, unpublished=2), "2 transactions could not be written back yet"),
        (a_batch(ready=0, done=3), "the batch is not closed"),
        (a_batch(ready=1), "1 transaction could be asked now"),
        (a_batch(crashed=2), "Runs died over 2 of them"),
    ],
)
def test_what_has_no_known_cause_is_critical_and_tells_what_is_seen(batch: BatchFacts, said: str) -> None:
    found = diagnosed(batch)
    assert (found.cause, found.status) == (Cause.UNKNOWN, Status.CRITICAL)
    assert said in found.explanation


def test_a_last_run_that_could_not_begin_is_told() -> None:
    refused = a_run(finished_at=ago(seconds=9), outcome="refused")
    found = diagnosed(a_batch(), a_queue(runs=(refused,)))
    assert (found.cause, "could not begin to work" in found.explanation) == (Cause.UNKNOWN, True)


# -- whatever the facts ------------------------------------------------------------------------------------------------

_counts = st.integers(0, 10**9)
_moments = st.datetimes(datetime(2020, 1, 1), datetime(2032, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
_maybe = st.none() | _moments
_texts = st.none() | st.text(max_size=30)
_runs = st.builds(
    RunFacts,
    identity=st.builds(identity, run_id=st.sampled_from(["run-1", "run-2", "run-3", "tick:worker-1"])),
    started_at=_moments,
    reported_at=_moments,
    finished_at=_maybe,
    outcome=st.none() | st.sampled_from(["idle", "processed", "died", "blocked", "interrupted", "refused"]),
)
_leases = st.builds(Lease, run=st.none() | _runs, calls=st.integers(1, 99), ended=st.integers(0, 99), until=_moments)
_batches = st.builds(
    BatchFacts,
    audit_history_id=st.integers(1, 2**31 - 1),
    organization_id=st.integers(1, 9),
    started_at=_moments,
    discovered_at=_maybe,
    fanned_out_at=_maybe,
    wanted=st.booleans(),
    **dict.fromkeys(
        (
            "ready",
            "calling",
            "done",
            "failed",
            "skipped",
            "unpublished",
            "waiting",
            "failing",
            "crashed",
            "settled_lately",
        ),
        _counts,
    ),
    next_attempt_at=_maybe,
    first_failed_at=_maybe,
    settled_since=_maybe,
    last_settled_at=_maybe,
    last_error_code=st.none() | st.sampled_from(list(ErrorCode)).map(str) | st.text(max_size=9),
    last_error=_texts,
    leases=st.lists(_leases, max_size=3).map(tuple),
)
_gates = st.builds(
    GateFacts,
    blocked_reason=st.none() | st.sampled_from(["key_rejected", "quota_exhausted"]) | st.text(min_size=1, max_size=9),
    blocked_detail=_texts,
    blocked_at=_maybe,
    blocked_until=_maybe,
    throttled_until=_maybe,
    paused_at=_maybe,
    paused_reason=_texts,
)
_queues = st.builds(
    QueueFacts,
    gates=st.dictionaries(st.sampled_from(["global", "organization:1", "organization:2"]), _gates),
    runs=st.lists(_runs, max_size=5).map(tuple),
    gone=st.frozensets(st.sampled_from(["run-1", "run-2", "run-3"])),
    verdicts_lately=st.dictionaries(st.integers(1, 9), _counts),
)


@given(_batches, _queues)
def test_any_facts_have_one_cause_with_a_sentence_and_a_fix(batch: BatchFacts, queue: QueueFacts) -> None:
    found = diagnose(batch, queue, NOW)
    assert found.cause in Cause
    assert found.status in (Status.WARNING, Status.CRITICAL)
    assert found.explanation[:1].strip()
    assert found.explanation.endswith((".", "!", "?"))
    assert found.fix.endswith(".")
    assert "{" not in found.fix_for(batch.audit_history_id)


@given(_batches, _queues)
def test_a_block_outranks_everything_while_something_is_left_to_ask(batch: BatchFacts, queue: QueueFacts) -> None:
    blocked = replace(queue, gates={**queue.gates, "global": BLOCK})
    cause = diagnose(replace(batch, ready=batch.ready + 1), blocked, NOW).cause
    assert cause == Cause.BLOCKED


@given(_batches, _queues)
def test_without_a_sign_of_life_nothing_is_said_to_go_on_by_itself(batch: BatchFacts, queue: QueueFacts) -> None:
    silent = replace(queue, runs=(), gates={})
    assert diagnose(replace(batch, leases=()), silent, NOW).cause == Cause.NO_RUN


@given(_batches, _queues)
def test_the_same_facts_give_the_same_answer(batch: BatchFacts, queue: QueueFacts) -> None:
    assert diagnose(batch, queue, NOW) == diagnose(batch, queue, NOW)
