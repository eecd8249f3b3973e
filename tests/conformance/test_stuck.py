"""What `stuck` finds and mends, on SQLite and on PostgreSQL, old and new platform."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from gepp_audit.database import limits, mending, reports, retrying, runs
from gepp_audit.database.facts import Facts
from gepp_audit.database.open_batches import open_batches
from gepp_audit.database.platform import detect
from gepp_audit.errors import OperatorError
from gepp_audit.model import BatchOutcome, ErrorCode, ItemState, Pace, RunIdentity
from gepp_audit.queue import liveness
from gepp_audit.queue.diagnosing import Stuck
from gepp_audit.queue.diagnosis import Cause, Status
from gepp_audit.queue.inspecting import Question, Report, inspect
from gepp_audit.queue.mending import GivenUp, Requeued, give_up, requeue
from tests.support import steps
from tests.support.platforms import Platform
from tests.support.waiting import wait_until

HOST = "worker-1"


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


@pytest.fixture
def batch(platform: Platform, organization: int) -> int:
    """A batch of three transactions that a run has taken up."""
    id_ = platform.batch(organization, platform.transactions(organization, 3))
    steps.take_up(platform)
    return id_


def look(platform: Platform, *ids: int, older_than: int = 0) -> Report:
    question = Question(older_than=older_than, batch_statuses=steps.STATUSES, ids=ids, host=HOST)
    return inspect(platform.database, question)


def collect(connection: Connection) -> Facts:
    """The facts of every open batch."""
    opened = open_batches(connection, steps.STATUSES)
    return reports.collect(connection, opened, opened.rows.keys())


def only(report: Report) -> Stuck:
    [stuck] = report.stuck
    return stuck


def a_run(platform: Platform, run_id: str = "run-1", *, gone: bool = False) -> RunIdentity:
    """A run of this process, or of one that is gone."""
    here = liveness.identify(HOST)
    identity = RunIdentity(
        run_id=run_id,
        host=here.host,
        boot_id=here.boot_id,
        pid_namespace=here.pid_namespace,
        pid=here.pid,
        pid_started_at=here.pid_started_at + (1.0 if gone else 0.0),
        version=here.version,
    )
    platform.database.write(lambda connection: runs.start(connection, identity))
    return identity


def a_tick(platform: Platform) -> None:
    platform.database.write(lambda connection: runs.tick(connection, liveness.identify(HOST)))


def move(platform: Platform, table: str, column: str, where: str, **back: float) -> None:
    """Let moments of a table lie in the past (or, with negative spans, in the future)."""
    moment: Any = datetime.now(UTC) - timedelta(**back)
    if not platform.is_postgresql:
        moment = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    platform.execute(f"UPDATE {table} SET {column} = :moment WHERE {where}", moment=moment)


# -- what is found -----------------------------------------------------------------------------------------------------


def test_an_empty_queue_is_ok(platform: Platform) -> None:
    assert look(platform).as_json() == {
        "status": "ok",
        "older_than_seconds": 0,
        "stuck": [],
        "orphans": {"count": 0, "complete": True, "fix": None},
        "rivals": {"batches": 0, "last_at": None, "fix": None},
        "untaken": {"batches": 0, "by_status": {}, "fix": None},
    }


def test_the_answer_has_exactly_the_keys_of_the_contract(platform: Platform, organization: int, batch: int) -> None:
    told = look(platform).as_json()
    [entry] = told["stuck"]
    assert told["status"] == "critical"
    assert list(entry) == [
        "audit_history_id",
        "organization_id",
        "started_at",
        "age_seconds",
        "cause",
        "reason",
        "explanation",
        "fix",
        "transactions",
        "last_error",
    ]
    assert (entry["audit_history_id"], entry["organization_id"], entry["cause"]) == (batch, organization, "no_run")
    assert entry["transactions"] == {"ready": 3, "calling": 0, "done": 0, "failed": 0, "skipped": 0}


def test_a_batch_that_no_run_has_seen_is_stuck_with_the_transactions_that_it_lists(
    platform: Platform, organization: int
) -> None:
    id_ = platform.batch(organization, platform.transactions(organization, 4))
    stuck = only(look(platform))
    assert (stuck.batch.audit_history_id, stuck.batch.discovered_at, stuck.batch.ready) == (id_, None, 4)
    assert stuck.diagnosis.cause == Cause.NO_RUN


def test_a_pending_batch_is_looked_at_only_where_the_setting_names_that_status(
    platform: Platform, organization: int
) -> None:
    platform.batch(organization, platform.transactions(organization, 1), status="pending")
    assert look(platform).stuck == ()
    both = Question(older_than=0, batch_statuses=("in_progress", "pending"))
    assert len(inspect(platform.database, both).stuck) == 1


def test_only_batches_that_are_old_enough_are_stuck(platform: Platform, organization: int, batch: int) -> None:
    platform.batch(organization, platform.transactions(organization, 1))
    move(platform, "gepp_audit_batches", "started_at", f"audit_history_id = {batch}", hours=2)
    report = look(platform, older_than=3600)
    stuck = only(report)
    assert (stuck.batch.audit_history_id, stuck.age // 60, report.open_batches) == (batch, 120, 2)
    assert look(platform, older_than=3 * 3600).status == Status.OK


def test_a_named_batch_is_looked_at_whatever_its_age(platform: Platform, batch: int) -> None:
    assert only(look(platform, batch, older_than=3600)).batch.audit_history_id == batch


def test_ids_that_name_no_batch_are_refused_by_name(platform: Platform, batch: int) -> None:
    with pytest.raises(OperatorError, match="there is no batch 77001 and 77002"):
        look(platform, batch, 77_001, 77_002)


def test_a_named_batch_that_has_ended_is_told_and_not_stuck(platform: Platform, organization: int) -> None:
    id_ = platform.batch(organization, [], status="completed")
    report = look(platform, id_)
    assert (report.stuck, report.status) == ((), Status.OK)
    assert [(one.audit_history_id, one.status) for one in report.ended] == [(id_, "completed")]


def test_states_are_counted_by_batch(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 5)
    platform.batch(organization, [*ids, 88_001])
    other = platform.batch(organization, platform.transactions(organization, 2))
    steps.take_up(platform)
    first, second, third, *_ = steps.claim(platform, 4)
    steps.settle_all(platform, [steps.verdict(platform, first), steps.failure(second)])
    found = {stuck.batch.audit_history_id: stuck.transactions for stuck in look(platform).stuck}
    assert third.audit_history_id != other
    assert found.pop(other) == {"ready": 2, "calling": 0, "done": 0, "failed": 0, "skipped": 0}
    assert list(found.values()) == [{"ready": 1, "calling": 2, "done": 1, "failed": 1, "skipped": 1}]


def test_the_last_error_is_the_newest_of_the_batch(platform: Platform, batch: int) -> None:
    first, second, third = steps.claim(platform)
    steps.settle_all(platform, [steps.failure(first), steps.failure(second, error="an older one")])
    move(platform, "gepp_audit_items", "settled_at", f"transaction_id = {second.transaction_id}", minutes=5)
    assert only(look(platform)).last_error == "policy_violation: the provider refused this transaction"
    late = steps.failure(third, state=ItemState.READY, code=ErrorCode.TIMEOUT, error="no answer", delay=30.0, wait=True)
    steps.settle_all(platform, [late])
    assert only(look(platform)).last_error == "timeout: no answer"


# -- causes ------------------------------------------------------------------------------------------------------------


def test_a_block_of_the_provider_is_found_with_its_reason(platform: Platform, batch: int) -> None:
    a_tick(platform)
    platform.database.write(lambda connection: limits.block(connection, ErrorCode.KEY_REJECTED, "status 401"))
    found = only(look(platform)).diagnosis
    assert (found.cause, found.reason) == (Cause.BLOCKED, "key_rejected")


def test_a_pause_is_found(platform: Platform, batch: int) -> None:
    a_tick(platform)
    move(platform, "gepp_audit_limits", "paused_at", "scope = 'global'", minutes=5)
    assert only(look(platform)).diagnosis.cause == Cause.PAUSED


def test_no_run_is_found_when_the_last_tick_is_old_and_not_before(platform: Platform, batch: int) -> None:
    a_tick(platform)
    assert only(look(platform)).diagnosis.cause == Cause.SLOW
    move(platform, "gepp_audit_runs", "reported_at", "TRUE", minutes=30)
    assert only(look(platform)).diagnosis.cause == Cause.NO_RUN


def test_a_run_whose_process_is_gone_is_seen_before_its_lease_ends(platform: Platform, batch: int) -> None:
    a_run(platform, gone=True)
    steps.claim(platform, 2)
    found = only(look(platform)).diagnosis
    assert found.cause == Cause.RUN_DIED
    assert "had 2 calls of this batch under way" in found.explanation


def test_the_calls_of_a_living_run_are_no_death(platform: Platform, batch: int) -> None:
    a_run(platform)
    steps.claim(platform, 2)
    assert only(look(platform)).diagnosis.cause == Cause.SLOW


def test_a_run_of_another_host_died_when_its_lease_has_ended_and_it_is_silent(platform: Platform, batch: int) -> None:
    a_run(platform)
    platform.execute("UPDATE gepp_audit_runs SET boot_id = 'another machine', host = 'worker-2'")
    steps.claim(platform, 2)
    move(platform, "gepp_audit_runs", "reported_at", "TRUE", minutes=3)
    assert only(look(platform)).diagnosis.cause == Cause.SLOW
    steps.end_leases(platform)
    assert only(look(platform)).diagnosis.cause == Cause.RUN_DIED


def test_transactions_that_wait_for_their_next_attempt_are_found(platform: Platform, batch: int) -> None:
    a_tick(platform)
    waits: dict[str, Any] = {"state": ItemState.READY, "code": ErrorCode.SERVER_ERROR, "delay": 120.0, "wait": True}
    steps.settle_all(platform, [steps.failure(claim, **waits) for claim in steps.claim(platform)])
    stuck = only(look(platform))
    assert (stuck.diagnosis.cause, stuck.diagnosis.reason) == (Cause.RETRYING, "server_error")
    assert (stuck.batch.failing, stuck.batch.waiting) == (3, 3)


def test_a_batch_that_is_named_alone_is_told_of_the_one_before_it_whose_calls_all_fail(
    platform: Platform, organization: int, batch: int
) -> None:
    a_tick(platform)
    waits: dict[str, Any] = {"state": ItemState.READY, "code": ErrorCode.SERVER_ERROR, "delay": 120.0, "wait": True}
    steps.settle_all(platform, [steps.failure(claim, **waits) for claim in steps.claim(platform)])
    newer = platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    found = only(look(platform, newer)).diagnosis
    assert (found.cause, found.reason) == (Cause.RETRYING, "server_error")
    assert f"behind batch {batch} of its organization" in found.explanation
    assert look(platform, newer).open_batches == 2


def test_a_batch_that_is_named_alone_is_told_of_the_calls_of_other_organizations(
    platform: Platform, organization: int, batch: int
) -> None:
    a_run(platform)
    steps.claim(platform, 2)
    other = platform.organization()
    named = platform.batch(other, platform.transactions(other, 1))
    steps.take_up(platform)
    found = only(look(platform, named)).diagnosis
    assert found.cause == Cause.SLOW
    assert "runs work on batches of other organizations" in found.explanation


def test_a_batch_that_moves_has_a_rate_and_an_end(platform: Platform, batch: int) -> None:
    a_run(platform)
    first, *_ = steps.claim(platform, 2)
    steps.settle_all(platform, [steps.verdict(platform, first)])
    move(platform, "gepp_audit_items", "settled_at", "state = 'done'", minutes=10)
    found = only(look(platform)).diagnosis
    assert (found.cause, round(found.rate or 0, 2)) == (Cause.SLOW, 0.1)
    assert found.eta is not None


def test_a_batch_of_an_organization_whose_older_ones_move_is_slow(
    platform: Platform, organization: int, batch: int
) -> None:
    a_run(platform)
    first, *_ = steps.claim(platform, 1)
    steps.settle_all(platform, [steps.verdict(platform, first)])
    newer = platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    stuck = only(look(platform, newer))
    assert (stuck.batch.audit_history_id, stuck.diagnosis.cause) == (newer, Cause.SLOW)
    assert f"organization {organization} has older batches, of which 1 transaction was" in stuck.diagnosis.explanation


@pytest.mark.parametrize("taken_up", [False, True])
def test_a_batch_of_an_organization_whose_older_ones_are_closed_is_first_in_line(
    platform: Platform, organization: int, batch: int, taken_up: bool
) -> None:
    a_run(platform)
    steps.settle_all(platform, [steps.verdict(platform, claim) for claim in steps.claim(platform)])
    steps.write_back(platform)
    steps.close_all(platform)
    newer = platform.batch(organization, platform.transactions(organization, 1))
    if taken_up:
        steps.take_up(platform)
    stuck = only(look(platform))
    assert (stuck.batch.audit_history_id, stuck.diagnosis.cause) == (newer, Cause.SLOW)
    first_in_line = "Nothing is in its way; the next run asks" if taken_up else "It was queued "
    assert stuck.diagnosis.explanation.startswith(first_in_line)


def test_the_providers_own_pace_is_told_from_a_limit_of_ours(platform: Platform, batch: int) -> None:
    a_run(platform)
    steps.claim(platform, 2)
    platform.database.write(lambda connection: limits.slow_down(connection, [Pace(calls_per_minute=2)]))
    found = only(look(platform)).diagnosis
    assert (found.cause, found.reason) == (Cause.LIMITED, "calls_per_minute")
    assert "It is the provider's own limit" in found.explanation
    platform.database.write(lambda connection: limits.set_caps(connection, None, {"calls_per_minute": 1}))
    assert "gepp-audit limits set --global --calls-per-minute" in only(look(platform)).diagnosis.fix


def test_a_counter_of_the_platform_that_runs_ahead_of_ours_is_a_rivals(platform: Platform, batch: int) -> None:
    a_run(platform)
    platform.execute("UPDATE transaction_audit_history SET processed_transactions = 2")
    assert only(look(platform)).diagnosis.cause != Cause.RIVAL  # it may be from before we took the batch up
    first, *_ = steps.claim(platform)
    steps.settle_all(platform, [steps.verdict(platform, first)])
    steps.write_back(platform)
    assert only(look(platform)).diagnosis.cause == Cause.SLOW
    platform.execute("UPDATE transaction_audit_history SET processed_transactions = 3")
    found = only(look(platform)).diagnosis
    assert (found.cause, found.reason, "2 transactions more" in found.explanation) == (Cause.RIVAL, "at_work", True)


def test_ids_that_were_not_queued_from_the_start_are_no_rivals_work(platform: Platform, organization: int) -> None:
    a_tick(platform)
    queued = platform.transactions(organization, 1)
    platform.batch(organization, [*queued, *platform.transactions(organization, 2, status="approved")])
    steps.take_up(platform)
    stuck = only(look(platform))
    assert (stuck.transactions["skipped"], stuck.diagnosis.cause) == (2, Cause.SLOW)


# -- beside the open batches -------------------------------------------------------------------------------------------


def test_transactions_that_are_queued_in_no_open_batch_are_counted(platform: Platform, organization: int) -> None:
    platform.batch(organization, platform.transactions(organization, 2))
    platform.batch(organization, platform.transactions(organization, 2), status="pending")
    steps.take_up(platform)
    platform.transactions(organization, 3)
    report = look(platform, older_than=3600)
    assert (report.orphans.count, report.orphans.complete, report.status) == (3, True, Status.WARNING)
    assert report.as_json()["orphans"]["fix"].startswith('Run "gepp-audit retry --orphans"')


def test_named_batches_are_told_without_a_look_at_the_whole_queue(
    platform: Platform, organization: int, batch: int
) -> None:
    platform.transactions(organization, 3)
    assert look(platform, batch).orphans.count == 0


def test_only_so_many_queued_transactions_are_looked_at(platform: Platform, organization: int, batch: int) -> None:
    platform.transactions(organization, 3)

    def count(most: int) -> tuple[int, bool]:
        return platform.database.read(
            lambda connection: retrying.count_orphans(connection, detect(connection), steps.STATUSES, most)
        )

    assert count(7) == (3, True)
    found, complete = count(6)
    assert (found <= 3, complete) == (True, False)


def test_batches_that_another_program_settled_lately_are_counted_and_those_of_people_are_not(
    platform: Platform, organization: int, batch: int
) -> None:
    cancelled = platform.batch(organization, platform.transactions(organization, 1))
    old = platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    history = "UPDATE transaction_audit_history SET status = :status WHERE id = :id"
    platform.execute(history, status="completed", id=batch)
    platform.execute(history, status="cancelled", id=cancelled)
    platform.execute(history, status="failed", id=old)
    assert look(platform).rivals.batches == 2
    assert len(steps.reconcile(platform)) == 3
    move(platform, "gepp_audit_batches", "closed_at", f"audit_history_id = {old}", hours=2)
    report = look(platform)
    assert (report.rivals.batches, report.rivals.last_at is not None, report.status) == (1, True, Status.WARNING)


def test_batches_in_a_status_that_no_run_takes_are_a_warning_and_are_not_acted_upon(
    platform: Platform, organization: int, batch: int
) -> None:
    waiting = platform.batch(organization, platform.transactions(organization, 2), status="pending")
    platform.batch(organization, [], status="completed")
    deleted = platform.batch(organization, [], status="pending")
    platform.execute("UPDATE transaction_audit_history SET deleted_date = started_at WHERE id = :id", id=deleted)
    report = look(platform, older_than=3600)
    assert (report.stuck, report.status) == ((), Status.WARNING)
    assert report.as_json()["untaken"] == {
        "batches": 1,
        "by_status": {"pending": 1},
        "fix": "Set GEPP_AUDIT_BATCH_STATUSES=in_progress,pending, unless another program does those.",
    }
    assert report.untaken.seen == "nobody takes 1 batch pending: GEPP_AUDIT_BATCH_STATUSES is in_progress"
    assert look(platform, batch).untaken.batches == 0
    named = look(platform, waiting)
    assert (named.stuck, named.untaken.batches, named.status) == ((), 1, Status.WARNING)


# -- requeue -----------------------------------------------------------------------------------------------------------


def test_requeue_makes_waiting_transactions_due_and_keeps_their_counters(platform: Platform, batch: int) -> None:
    waits: dict[str, Any] = {"state": ItemState.READY, "code": ErrorCode.SERVER_ERROR, "delay": 120.0, "wait": True}
    steps.settle_all(platform, [steps.failure(claim, **waits) for claim in steps.claim(platform)])
    assert steps.claim(platform) == []
    done = requeue(platform.database, [batch], HOST)
    assert done == Requeued(audit_history_ids=(batch,), made_due=3, freed=0, gate_hastened=False, paused=False)
    assert [claim.waits for claim in steps.claim(platform)] == [1, 1, 1]


def test_requeue_leaves_other_batches_alone(platform: Platform, organization: int, batch: int) -> None:
    other = platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    waits: dict[str, Any] = {"state": ItemState.READY, "code": ErrorCode.SERVER_ERROR, "delay": 120.0, "wait": True}
    steps.settle_all(platform, [steps.failure(claim, **waits) for claim in steps.claim(platform)])
    requeue(platform.database, [batch], HOST)
    assert {claim.audit_history_id for claim in steps.claim(platform)} == {batch}
    assert only(look(platform, other)).batch.waiting == 1


def test_requeue_frees_the_calls_of_a_dead_run_but_not_of_a_living_one(platform: Platform, batch: int) -> None:
    a_run(platform, "run-1", gone=True)
    a_run(platform, "run-2")
    [dead] = steps.claim(platform, 1, run_id="run-1")
    [living] = steps.claim(platform, 1, run_id="run-2")
    assert requeue(platform.database, [batch], HOST).freed == 1
    states = steps.states(platform)
    assert (states[dead.transaction_id], states[living.transaction_id]) == ("ready", "calling")
    assert platform.value("SELECT outcome FROM gepp_audit_runs WHERE id = 'run-1'") == "died"


def test_requeue_lets_a_probe_leave_at_once_and_keeps_the_block(platform: Platform, batch: int) -> None:
    platform.database.write(lambda connection: limits.block(connection, ErrorCode.KEY_REJECTED, "status 401"))
    assert requeue(platform.database, [batch], HOST).gate_hastened
    gate, moment = platform.database.write(limits.lock)
    assert (gate.blocked_reason, gate.closed_until(moment)) == (ErrorCode.KEY_REJECTED, None)


def test_requeue_touches_no_settled_verdict(platform: Platform, batch: int) -> None:
    first, *_ = steps.claim(platform)
    steps.settle_all(platform, [steps.verdict(platform, first, "rejected")])
    before = platform.rows("SELECT * FROM gepp_audit_items WHERE state = 'done'")
    requeue(platform.database, [batch], HOST)
    assert platform.rows("SELECT * FROM gepp_audit_items WHERE state = 'done'") == before


# -- fail --------------------------------------------------------------------------------------------------------------


def end(platform: Platform, *ids: int) -> list[GivenUp]:
    chosen = [stuck.batch for stuck in look(platform, *ids).stuck]
    return give_up(platform.database, chosen, steps.STATUSES, "openai")


def test_giving_up_fails_what_has_no_verdict_publishes_the_rest_and_closes(platform: Platform, batch: int) -> None:
    first, second, third = steps.claim(platform)
    steps.settle_all(platform, [steps.verdict(platform, first, "rejected")])
    assert end(platform, batch) == [
        GivenUp(audit_history_id=batch, given_up=2, outcome=BatchOutcome.COMPLETED),
    ]
    assert platform.labels([first.transaction_id, second.transaction_id, third.transaction_id]) == {
        first.transaction_id: "rejected",
        second.transaction_id: platform.failed_label,
        third.transaction_id: platform.failed_label,
    }
    row = platform.history(batch)
    assert (row["status"], row["rejected_count"], row["processed_transactions"]) == ("completed", 1, 3)
    assert "given up by an operator: 2" in row["error_message"]
    assert look(platform).stuck == ()


def test_giving_up_a_batch_without_a_verdict_fails_it(platform: Platform, batch: int) -> None:
    assert end(platform, batch) == [GivenUp(audit_history_id=batch, given_up=3, outcome=BatchOutcome.FAILED)]
    assert platform.history(batch)["status"] == "failed"


def test_giving_up_a_batch_that_no_run_has_seen_leaves_no_transaction_queued(
    platform: Platform, organization: int
) -> None:
    ids = platform.transactions(organization, 3)
    id_ = platform.batch(organization, ids)
    assert end(platform, id_) == [GivenUp(audit_history_id=id_, given_up=3, outcome=BatchOutcome.FAILED)]
    assert platform.labels(ids) == dict.fromkeys(ids, platform.failed_label)


def test_an_answer_that_comes_after_the_batch_was_given_up_stays_in_the_ledger(platform: Platform, batch: int) -> None:
    first, *_ = steps.claim(platform)
    end(platform, batch)
    late = steps.verdict(platform, first)
    assert steps.settle_all(platform, [late]) == set()
    call = platform.one("SELECT outcome, verdict, input_tokens FROM gepp_audit_calls WHERE id = :id", id=first.call_id)
    assert (call["outcome"], call["verdict"]["status"], call["input_tokens"]) == ("superseded", "approved", 100)
    assert platform.labels([first.transaction_id]) == {first.transaction_id: platform.failed_label}


def test_a_verdict_of_a_transaction_that_was_edited_meanwhile_is_given_up_too(platform: Platform, batch: int) -> None:
    first, *_ = steps.claim(platform)
    steps.settle_all(platform, [steps.verdict(platform, first)])
    platform.execute("UPDATE transactions SET notes = 'another' WHERE id = :id", id=first.transaction_id)
    assert end(platform, batch) == [GivenUp(audit_history_id=batch, given_up=3, outcome=BatchOutcome.FAILED)]


def test_a_batch_that_the_platform_cancelled_is_let_go_and_not_failed(platform: Platform, batch: int) -> None:
    platform.execute("UPDATE transaction_audit_history SET status = 'cancelled' WHERE id = :id", id=batch)
    [stuck] = look(platform).stuck
    assert not stuck.batch.wanted
    [done] = give_up(platform.database, [stuck.batch], steps.STATUSES, "openai")
    assert (done.outcome, platform.history(batch)["status"]) == (BatchOutcome.WITHDRAWN, "cancelled")


def test_what_waits_for_another_attempt_is_given_up_and_written_back_at_once(platform: Platform, batch: int) -> None:
    waits: dict[str, Any] = {"state": ItemState.READY, "code": ErrorCode.SERVER_ERROR, "delay": 600.0, "wait": True}
    steps.settle_all(platform, [steps.failure(claim, **waits) for claim in steps.claim(platform)])
    assert end(platform, batch) == [GivenUp(audit_history_id=batch, given_up=3, outcome=BatchOutcome.FAILED)]


def test_giving_up_other_batches_leaves_this_one_as_it_is(platform: Platform, organization: int, batch: int) -> None:
    other = platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    end(platform, other)
    assert only(look(platform)).transactions["ready"] == 3
    assert platform.history(batch)["status"] == "in_progress"


def test_a_batch_that_was_closed_meanwhile_is_not_touched(platform: Platform, batch: int) -> None:
    end(platform, batch)
    assert platform.database.write(lambda connection: mending.give_up(connection, batch)) is None


def test_collecting_the_facts_writes_nothing(platform: Platform, batch: int) -> None:
    steps.claim(platform, 1)
    before = platform.rows("SELECT * FROM gepp_audit_items ORDER BY transaction_id")
    platform.database.read(collect)
    assert platform.rows("SELECT * FROM gepp_audit_items ORDER BY transaction_id") == before


# -- PostgreSQL alone --------------------------------------------------------------------------------------------------

on_postgresql = pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)


@on_postgresql
def test_what_the_platform_holds_is_left_to_the_next_run(platform: Platform, batch: int) -> None:
    first, *_ = steps.claim(platform)
    with platform.database.engine.connect() as held:
        held.execute(text("SELECT id FROM transactions WHERE id = :id FOR NO KEY UPDATE"), {"id": first.transaction_id})
        assert end(platform, batch) == [GivenUp(audit_history_id=batch, given_up=3, outcome=None)]
        a_tick(platform)
        found = only(look(platform)).diagnosis
        assert (found.cause, "1 transaction could not be written back yet" in found.explanation) == (
            Cause.PLATFORM_LOCK,
            True,
        )
    wait_until(lambda: steps.write_back(platform).written)
    [closed] = steps.close_all(platform)
    assert (closed.audit_history_id, closed.failed) == (batch, 3)


@on_postgresql
def test_a_platform_without_an_index_of_what_is_queued_is_not_searched(platform: Platform, organization: int) -> None:
    platform.transactions(organization, 3)
    platform.execute("DROP INDEX idx_transactions_ai_audit_status, idx_transactions_organization_ai_audit")
    report = look(platform)
    assert (report.orphans.count, report.orphans.complete, report.status) == (0, False, Status.OK)


@on_postgresql
def test_a_long_history_and_a_long_ledger_are_never_read_as_a_whole(
    platform: Platform, organization: int, batch: int
) -> None:
    """50,000 closed batches, calls and runs beside one open batch: every statement goes by an index."""
    for statement in (
        "INSERT INTO transaction_audit_history (organization_id, status, started_at) "
        f"SELECT {organization}, 'completed', now() - g * interval '1 minute' FROM generate_series(1, 50000) g",
        "INSERT INTO gepp_audit_batches (audit_history_id, organization_id, started_at, discovered_at, closed_at) "
        "SELECT id, organization_id, started_at, started_at, now() FROM transaction_audit_history "
        "WHERE status = 'completed'",
        "INSERT INTO gepp_audit_calls (run_id, audit_history_id, transaction_id, organization_id, engine, model, "
        "prompt_version, dispatched_at, outcome) SELECT 'r', g, g, 1, 'e', 'm', '1', now() - g * interval '1 minute', "
        "'verdict' FROM generate_series(1, 50000) g",
        "INSERT INTO gepp_audit_runs (id, host, boot_id, pid_namespace, pid, pid_started_at, version, started_at, "
        "reported_at) SELECT 'r' || g, 'h', 'b', 'p', 1, 1, '1', now(), now() - g * interval '1 minute' "
        "FROM generate_series(1, 50000) g",
        "ANALYZE",
    ):
        platform.execute(statement)
    told: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if not statement.startswith("SET LOCAL"):
            told.append((statement, parameters))

    event.listen(platform.database.engine, "before_cursor_execute", keep)
    platform.database.read(collect)
    event.remove(platform.database.engine, "before_cursor_execute", keep)
    plans = platform.database.read(
        lambda connection: [
            line
            for statement, parameters in told
            for (line,) in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        ]
    )
    scanned = {line.strip(" ->").split("  ")[0] for line in plans if "Seq Scan on" in line}
    large = ("transaction_audit_history", "gepp_audit_batches", "gepp_audit_calls", "gepp_audit_runs")
    assert [scan for scan in scanned if scan.endswith(large)] == []
