"""Why a batch does not move: each cause from its facts, one cause whatever the facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.database.facts import BatchFacts, GateFacts, Lease, Locker, Moving, QueueFacts, RunError, RunFacts
from gepp_audit.model import ErrorCode, RunIdentity
from gepp_audit.queue.diagnosis import Cause, Diagnosis, Held, Status, diagnose
from gepp_audit.queue.holding import Hold, Limit

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


def diagnosed(batch: BatchFacts, queue: QueueFacts | None = None, held: Held | None = None) -> Diagnosis:
    return diagnose(batch, queue or a_queue(), NOW, held)


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
    found = diagnosed(a_batch(ready=0, done=10, unpublished=10, held=10), a_queue(gates={"global": BLOCK}))
    assert found.cause == Cause.PLATFORM_LOCK


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
    assert diagnosed(batch, a_queue(runs=(a_tick(), dead))).cause == Cause.SLOW


def test_silence_of_all_hosts_means_that_cron_does_not_run() -> None:
    found = diagnosed(a_batch(), a_queue(runs=(a_tick(reported_at=ago(hours=2)),)))
    assert (found.cause, found.status) == (Cause.NO_RUN, Status.CRITICAL)
    assert "since 2026-03-01 01:00 UTC (2 h ago) (the last was on worker-1)" in found.explanation
    assert found.fix.startswith(
        'Run "gepp-audit process-queue" on worker-1 once by hand; for good, "gepp-audit crontab'
    )


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


def test_failures_that_are_over_do_not_send_to_the_providers_status_page() -> None:
    over = a_batch(
        ready=55,
        failing=55,
        next_attempt_at=ago(minutes=12),
        first_failed_at=ago(minutes=13),
        last_error_code="server_error",
        settled_lately=45,
        settled_since=ago(minutes=14),
        last_settled_at=ago(minutes=1),
    )
    assert diagnosed(over).cause == Cause.SLOW
    # no verdict since, or some of them wait again
    assert diagnosed(replace(over, last_settled_at=ago(minutes=13))).cause == Cause.RETRYING
    assert diagnosed(replace(over, waiting=3)).cause == Cause.RETRYING


def test_the_command_that_tells_how_far_slow_batches_are_takes_any_number_of_them() -> None:
    fix = diagnosed(a_batch(settled_lately=3, settled_since=ago(minutes=1))).fix_for(12, 13)
    assert '"gepp-audit show --status in_progress"' in fix


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
    older = Moving(audit_history_id=11, organization_id=7, started_at=ago(hours=4), verdicts=500)
    found = diagnosed(a_batch(), a_queue(verdicts_lately={7: 500}, moving=(older,)))
    assert (found.cause, "organization 7 has older batches" in found.explanation) == (Cause.SLOW, True)
    found = diagnosed(a_batch(), a_queue(verdicts_lately={8: 500}))
    assert (found.cause, "batches of other organizations" in found.explanation) == (Cause.SLOW, True)


@pytest.mark.parametrize(
    "changes", [None, {"organization_id": 8}, {"started_at": ago(hours=2)}, {"audit_history_id": 13}]
)
def test_a_batch_waits_its_turn_behind_older_open_ones_of_its_organization_alone(
    changes: dict[str, Any] | None,
) -> None:
    values: dict[str, Any] = {"audit_history_id": 11, "organization_id": 7, "started_at": ago(hours=3), "verdicts": 21}
    moving = () if changes is None else (Moving(**(values | changes)),)
    found = diagnosed(a_batch(), a_queue(verdicts_lately={7: 21}, moving=moving))
    assert (found.cause, found.explanation) == (
        Cause.SLOW, "Nothing is in its way; the next run asks what is left. 10 transactions left in this one."
    )  # fmt: skip


def test_a_batch_behind_one_whose_calls_all_fail_is_retrying_with_it_until_verdicts_arrive() -> None:
    older = a_batch(
        audit_history_id=11, ready=10, failing=10, waiting=10, last_error="HTTP 500", last_error_code="server_error",
        next_attempt_at=ago(minutes=-1),
    )  # fmt: skip
    queue = a_queue(verdicts_lately={7: 500}, failing={7: older})
    found = diagnosed(a_batch(), queue)
    assert (found.cause, found.reason) == (Cause.RETRYING, "server_error")
    assert "behind batch 11 of its organization, in which every call failed. The last error: HTTP 500." in (
        found.explanation
    )
    again = replace(older, waiting=0, settled_lately=3, next_attempt_at=ago(minutes=2), last_settled_at=ago(minutes=1))
    assert diagnosed(a_batch(), replace(queue, failing={7: again})).cause == Cause.SLOW


def test_an_end_in_the_far_future_is_not_computed() -> None:
    found = diagnosed(a_batch(ready=10**12, settled_lately=1, settled_since=ago(minutes=10)))
    assert (found.cause, found.eta) == (Cause.SLOW, None)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (a_batch(wanted=False, platform_status="cancelled"), "cancelled, undone or deleted this batch; the next run"),
        (a_batch(discovered_at=None, fanned_out_at=None, started_at=ago(seconds=40)), "the next run takes it up"),
        (a_batch(fanned_out_at=None, discovered_at=ago(seconds=40)), "the next run takes it up"),
        (a_batch(ready=0, done=3, unpublished=2, unpublished_since=ago(seconds=3)), "writes back the last verdicts"),
        (a_batch(ready=0, done=3, last_settled_at=ago(seconds=3)), "the next run closes it"),
        (a_batch(ready=1), "Nothing is in its way; the next run asks what is left. 1 transaction left"),
        (a_batch(crashed=2), "Runs died over 2 of them"),
    ],
)
def test_what_the_next_run_does_is_slow_and_the_fix_is_to_start_one(batch: BatchFacts, said: str) -> None:
    found = diagnosed(batch)
    assert (found.cause, found.status) == (Cause.SLOW, Status.WARNING)
    assert said in found.explanation
    assert found.fix == 'Wait for the next run, or run "gepp-audit process-queue".'


def ended_run(number: int, **changes: Any) -> RunFacts:
    """One of the runs that cron started, a minute apart, which found nothing to ask."""
    at = ago(minutes=number)
    values: dict[str, Any] = {
        "reported_at": at,
        "finished_at": at,
        "started_at": at,
        "outcome": "processed",
        "calls": 0,
    }
    return a_run(f"run-{number}", **(values | changes))


def test_runs_that_find_the_way_free_and_ask_nothing_are_a_riddle() -> None:
    found = diagnosed(a_batch(), a_queue(runs=tuple(map(ended_run, range(4)))))
    assert (found.cause, found.status) == (Cause.UNKNOWN, Status.CRITICAL)
    assert "10 transactions could be asked now" in found.explanation


@pytest.mark.parametrize("changes", [{"calls": 3}, {"held": "paused"}, {"calls": None}, {"outcome": "interrupted"}])
def test_runs_that_had_something_else_to_do_or_were_held_are_no_riddle(changes: dict[str, Any]) -> None:
    runs = tuple(ended_run(number, **changes) for number in range(4))
    assert diagnosed(a_batch(), a_queue(runs=runs)).cause == Cause.SLOW


# -- runs that cannot begin, or leave this batch alone -----------------------------------------------------------------

NO_KEY = RunError(code="no_api_key", message="OPENAI_API_KEY is not set.", fix="Set OPENAI_API_KEY.")


def a_refused(**changes: Any) -> RunFacts:
    """A run that could not begin."""
    values: dict[str, Any] = {
        "started_at": ago(seconds=9),
        "reported_at": ago(seconds=9),
        "finished_at": ago(seconds=9),
    }
    return a_run("run-9", **(values | {"outcome": "refused", "error": NO_KEY} | changes))


def test_a_missing_key_blocks_as_a_rejected_one_does_and_its_own_words_say_what_to_do() -> None:
    found = diagnosed(a_batch(), a_queue(runs=(a_refused(),)))
    assert (found.cause, found.reason, found.status) == (Cause.BLOCKED, "key_rejected", Status.CRITICAL)
    assert found.explanation.endswith(": OPENAI_API_KEY is not set.")
    assert found.fix == 'Set OPENAI_API_KEY. Then run "gepp-audit process-queue" on worker-1.'


def test_a_run_of_an_older_version_that_could_not_begin_is_told_without_its_reason() -> None:
    found = diagnosed(a_batch(), a_queue(runs=(a_refused(error=None),)))
    assert (found.cause, found.reason) == (Cause.BLOCKED, "not_started")


def test_a_model_without_a_price_under_a_limit_of_money_is_limited() -> None:
    error = RunError(code="price_unknown", message="The price is not known.", fix="Tell it.")
    found = diagnosed(a_batch(), a_queue(runs=(a_refused(error=error),)))
    assert (found.cause, found.reason) == (Cause.LIMITED, "unpriced_model")


def test_one_host_that_cannot_begin_blocks_nothing_while_another_one_works() -> None:
    other = replace(identity("run-2"), host="worker-2")
    works = RunFacts(
        identity=other, started_at=ago(hours=1), reported_at=ago(seconds=5), finished_at=None, outcome=None
    )
    assert diagnosed(a_batch(), a_queue(runs=(works, a_refused()))).cause == Cause.SLOW


def test_a_host_that_worked_before_its_key_was_taken_away_does_not_hide_that_it_cannot_begin_now() -> None:
    before = ended_run(2, calls=9)
    assert diagnosed(a_batch(), a_queue(runs=(a_refused(), before))).cause == Cause.BLOCKED


def test_runs_for_other_organizations_alone_are_no_run_for_this_one() -> None:
    found = diagnosed(a_batch(), a_queue(runs=(ended_run(1, organizations=(3, 4)),)))
    assert (found.cause, found.reason) == (Cause.NO_RUN, "organization")
    assert '"gepp-audit process-queue --organization 7"' in found.fix
    assert (
        diagnosed(a_batch(organization_id=4), a_queue(runs=(ended_run(1, organizations=(3, 4)),))).cause == Cause.SLOW
    )


def test_idle_ticks_beside_a_batch_that_has_been_there_for_long_look_for_other_statuses() -> None:
    unseen = a_batch(discovered_at=None, fanned_out_at=None, platform_status="pending")
    found = diagnosed(unseen, a_queue(runs=(a_tick(),)))
    assert (found.cause, found.reason) == (Cause.NO_RUN, "batch_status")
    assert "GEPP_AUDIT_BATCH_STATUSES" in found.fix


# -- the platform's rows -----------------------------------------------------------------------------------------------

AUDITED: dict[str, Any] = {"ready": 0, "done": 10}


@pytest.mark.parametrize(
    "batch",
    [
        a_batch(**AUDITED, unpublished=2, held=1, unpublished_since=ago(seconds=5)),
        a_batch(**AUDITED, unpublished=2, unpublished_since=ago(minutes=5)),
        a_batch(**AUDITED, last_settled_at=ago(minutes=5)),
        a_batch(**AUDITED, wanted=False, platform_status="cancelled", withdrawn=3),
        a_batch(discovered_at=None, fanned_out_at=None, platform_status="pending"),
    ],
    ids=["found locked", "not written back", "not closed", "not let go", "not taken up"],
)
def test_what_a_run_had_the_time_for_and_did_not_write_is_kept_locked(batch: BatchFacts) -> None:
    found = diagnosed(batch)
    assert (found.cause, found.status) == (Cause.PLATFORM_LOCK, Status.CRITICAL)
    assert '"gepp-audit process-queue"' in found.fix


def test_the_session_that_holds_rows_is_named_with_the_statement_that_ends_it() -> None:
    locker = Locker(
        pid=4711, table="transactions", user="app", application="uwsgi", state="idle in transaction",
        since=ago(minutes=20),
    )  # fmt: skip
    found = diagnosed(a_batch(**AUDITED, unpublished=2, held=2), a_queue(lockers=(locker,)))
    assert "session 4711 of user app (uwsgi) on transactions, idle in transaction, in a transaction since" in (
        found.explanation
    )
    assert "SELECT pg_terminate_backend(4711)" in found.fix


def test_a_batch_that_another_program_settled_has_a_rival_whatever_else_is_wrong() -> None:
    batch = a_batch(wanted=False, platform_status="completed", settled_elsewhere=True, calling=2)
    found = diagnosed(batch, a_queue(gates={"global": BLOCK}, runs=()))
    assert (found.cause, found.reason, found.status) == (Cause.RIVAL, "settled", Status.CRITICAL)
    assert "2 calls under way will have been paid for nothing." in found.explanation


@pytest.mark.parametrize(("changes", "said"), [({"taken_lately": 3}, "3 transactions"), ({"ahead_elsewhere": 9}, "9")])
def test_another_program_at_work_on_the_same_batch_is_a_rival(changes: dict[str, Any], said: str) -> None:
    found = diagnosed(a_batch(**changes, settled_lately=60, settled_since=ago(minutes=10)))
    assert (found.cause, found.reason, said in found.explanation) == (Cause.RIVAL, "at_work", True)


def test_a_rival_is_told_beside_a_cause_that_comes_first() -> None:
    found = diagnosed(a_batch(taken_lately=1), a_queue(gates={"global": BLOCK}))
    assert (found.cause, "another program works on it" in found.explanation) == (Cause.BLOCKED, True)


# -- limits ------------------------------------------------------------------------------------------------------------

FULL = Hold(limit=Limit.CALLS_PER_MINUTE, organization_id=7, most=10, used=10, need=1, clears_at=NOW)


def test_a_limit_names_itself_when_it_clears_and_a_command_that_raises_it() -> None:
    found = diagnosed(a_batch(), held=Held(hold=FULL))
    assert (found.cause, found.reason, found.clears_at) == (Cause.LIMITED, "calls_per_minute", NOW)
    assert '"gepp-audit limits set --organization 7 --calls-per-minute 20"' in found.fix


def test_a_limit_that_no_call_fits_into_is_raised_to_what_two_take() -> None:
    hold = Hold(limit=Limit.COST_PER_DAY, most=Decimal("0.01"), used=Decimal(0), need=Decimal("0.0312"))
    found = diagnosed(a_batch(), held=Held(hold=hold))
    assert found.fix == 'Raise the limit, for example with "gepp-audit limits set --global --cost-per-day 0.07".'


def test_the_providers_own_pace_is_not_to_be_raised_here() -> None:
    found = diagnosed(a_batch(), held=Held(hold=replace(FULL, organization_id=None), by_provider=True))
    assert (found.cause, found.fix) == (Cause.LIMITED, "Wait, or raise the rate limit at the provider.")


def test_a_limit_does_not_hold_what_waits_for_another_attempt_anyway() -> None:
    batch = a_batch(failing=10, waiting=10, next_attempt_at=NOW + timedelta(minutes=1))
    assert diagnosed(batch, held=Held(hold=FULL)).cause == Cause.RETRYING


def test_a_run_that_an_error_ended_is_told_with_what_it_said() -> None:
    error = RunError(code="database_error", message="the database refused a statement")
    failed = ended_run(1, outcome="failed", error=error)
    found = diagnosed(a_batch(), a_queue(runs=(failed,)))
    assert (found.cause, found.reason) == (Cause.RUN_DIED, "database_error")
    assert "was ended by an error" in found.explanation
    assert "It said: the database refused a statement." in found.explanation
    assert "killed" not in found.fix


def test_a_run_that_an_error_ended_hands_on_what_mends_it() -> None:
    error = RunError(code="database_rights", message="a right is missing", fix='Run "gepp-audit doctor".')
    found = diagnosed(a_batch(), a_queue(runs=(ended_run(1, outcome="failed", error=error),)))
    assert found.fix.startswith('Run "gepp-audit doctor". Then run "gepp-audit process-queue" on ')


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
    outcome=st.none() | st.sampled_from(["idle", "processed", "died", "blocked", "interrupted", "refused", "failed"]),
    calls=st.none() | st.integers(0, 9),
    held=st.none() | st.just("paused"),
    organizations=st.lists(st.integers(1, 9), max_size=2).map(tuple),
    error=st.none()
    | st.builds(RunError, code=st.sampled_from(["no_api_key", "price_unknown", "x"]), message=st.text()),
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
    platform_status=st.none() | st.sampled_from(["in_progress", "pending", "completed", "cancelled"]),
    settled_elsewhere=st.booleans(),
    unpublished_since=_maybe,
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
            "held",
            "taken_lately",
            "withdrawn",
            "ahead_elsewhere",
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
    moving=st.lists(
        st.builds(
            Moving,
            audit_history_id=st.integers(1, 9),
            organization_id=st.integers(1, 9),
            started_at=_moments,
            verdicts=_counts,
        ),
        max_size=3,
    ).map(tuple),
    under_way=st.dictionaries(st.integers(1, 9), _counts),
    lockers=st.lists(st.builds(Locker, pid=st.integers(1, 9), table=st.just("transactions"), since=_maybe)).map(tuple),
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
    begun = tuple(run for run in queue.runs if run.outcome != "refused")
    blocked = replace(queue, gates={**queue.gates, "global": BLOCK}, runs=begun)
    wanted = replace(batch, ready=batch.ready + 1, wanted=True, settled_elsewhere=False)
    assert diagnose(wanted, blocked, NOW).cause == Cause.BLOCKED


@given(_batches, _queues)
def test_without_a_sign_of_life_nothing_is_said_to_go_on_by_itself(batch: BatchFacts, queue: QueueFacts) -> None:
    silent = replace(queue, runs=(), gates={})
    assert diagnose(replace(batch, leases=(), settled_elsewhere=False), silent, NOW).cause == Cause.NO_RUN


@given(_batches, _queues)
def test_the_same_facts_give_the_same_answer(batch: BatchFacts, queue: QueueFacts) -> None:
    assert diagnose(batch, queue, NOW) == diagnose(batch, queue, NOW)
