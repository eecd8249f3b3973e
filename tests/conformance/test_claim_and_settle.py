"""Claim and settle: one live call per item, fencing, leases, counters; on SQLite and on both platforms."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from gepp_audit.database import runs
from gepp_audit.database.engine import now
from gepp_audit.database.items import next_due, release_unknown
from gepp_audit.model import CallOutcome, ErrorCode, ItemState, RunIdentity
from tests.support import steps
from tests.support.platforms import Platform


@pytest.fixture
def ids(platform: Platform) -> list[int]:
    """A batch of six transactions, fanned out."""
    platform.rule()
    organization = platform.organization()
    created = platform.transactions(organization, 6)
    platform.batch(organization, created)
    steps.take_up(platform)
    return created


def item(platform: Platform, transaction: int) -> dict[str, object]:
    return platform.one("SELECT * FROM gepp_audit_items WHERE transaction_id = :id", id=transaction)


def test_a_claim_takes_as_many_as_asked_for_oldest_first_each_with_its_ledger_row(
    platform: Platform, ids: list[int]
) -> None:
    claimed = steps.claim(platform, 4)
    assert sorted(one.transaction_id for one in claimed) == ids[:4]
    calls = platform.rows("SELECT id, transaction_id, run_id, model, outcome FROM gepp_audit_calls")
    assert {(row["id"], row["transaction_id"]) for row in calls} == {
        (one.call_id, one.transaction_id) for one in claimed
    }
    assert {(row["run_id"], row["model"], row["outcome"]) for row in calls} == {("run-1", "m-1", None)}


def test_what_is_claimed_cannot_be_claimed_again(platform: Platform, ids: list[int]) -> None:
    first = {one.transaction_id for one in steps.claim(platform, 4)}
    second = {one.transaction_id for one in steps.claim(platform, 4, run_id="run-2")}
    assert first | second == set(ids)
    assert not first & second


def test_a_settled_verdict_stands_on_the_item_and_in_the_ledger(platform: Platform, ids: list[int]) -> None:
    [claimed] = steps.claim(platform, 1)
    assert steps.settle_all(platform, [steps.verdict(platform, claimed, "rejected")]) == {claimed.call_id}
    found = item(platform, claimed.transaction_id)
    assert (found["state"], found["verdict_status"], found["call_id"]) == ("done", "rejected", claimed.call_id)
    call = platform.one("SELECT * FROM gepp_audit_calls")
    assert (call["outcome"], call["input_tokens"], call["cached_tokens"], call["latency_ms"]) == (
        "verdict",
        100,
        64,
        512,
    )
    assert str(call["cost"]) == "0.00012500"


def test_settling_twice_changes_nothing(platform: Platform, ids: list[int]) -> None:
    claimed = steps.claim(platform, 3)
    settlements = [steps.verdict(platform, claimed[0]), steps.failure(claimed[1]), steps.verdict(platform, claimed[2])]
    taken = steps.settle_all(platform, settlements)
    before = platform.rows("SELECT * FROM gepp_audit_items ORDER BY transaction_id")
    assert steps.settle_all(platform, settlements) == taken
    assert platform.rows("SELECT * FROM gepp_audit_items ORDER BY transaction_id") == before
    outcomes = platform.rows("SELECT outcome FROM gepp_audit_calls ORDER BY id")
    assert sorted(row["outcome"] for row in outcomes) == ["item", "verdict", "verdict"]


def test_an_answer_after_its_lease_is_still_taken_and_is_no_crash(platform: Platform, ids: list[int]) -> None:
    [claimed] = steps.claim(platform, 1)
    steps.end_leases(platform)
    steps.claim(platform, 0)  # notices the end of the lease, claims nothing
    assert item(platform, claimed.transaction_id)["crashes"] == 1
    assert steps.settle_all(platform, [steps.verdict(platform, claimed)]) == {claimed.call_id}
    found = item(platform, claimed.transaction_id)
    assert (found["state"], found["crashes"]) == ("done", 0)


def test_an_answer_after_another_claim_changes_nothing_but_the_ledger(platform: Platform, ids: list[int]) -> None:
    old = steps.claim(platform)
    steps.end_leases(platform)
    new = steps.claim(platform, run_id="run-2")
    assert {one.transaction_id for one in new} == set(ids)
    before = platform.rows("SELECT * FROM gepp_audit_items ORDER BY transaction_id")
    assert steps.settle_all(platform, [steps.verdict(platform, one) for one in old]) == set()
    assert platform.rows("SELECT * FROM gepp_audit_items ORDER BY transaction_id") == before
    superseded = platform.rows("SELECT outcome FROM gepp_audit_calls WHERE run_id = 'run-1'")
    assert {row["outcome"] for row in superseded} == {"superseded"}
    assert len(steps.settle_all(platform, [steps.verdict(platform, one) for one in new])) == len(ids)


def test_fresh_items_are_claimed_before_those_that_crashed(platform: Platform, ids: list[int]) -> None:
    steps.claim(platform, 2)
    steps.end_leases(platform)
    assert sorted(one.transaction_id for one in steps.claim(platform, 4)) == ids[2:]


def test_after_two_crashes_an_item_is_claimed_alone_and_after_the_third_it_is_parked(
    platform: Platform, ids: list[int]
) -> None:
    for _ in range(2):
        assert len(steps.claim(platform)) == 6
        steps.end_leases(platform)
    assert steps.claim(platform) == []
    [suspect] = steps.claim_suspect(platform)
    steps.end_leases(platform)
    steps.claim(platform)
    found = item(platform, suspect.transaction_id)
    assert (found["state"], found["error_code"]) == ("failed", "crashed")
    assert sorted(steps.states(platform).values()) == ["failed"] + ["ready"] * 5


def test_a_wait_costs_no_attempt_and_keeps_the_item_away_until_it_is_due(platform: Platform, ids: list[int]) -> None:
    [claimed] = steps.claim(platform, 1)
    wait = steps.failure(
        claimed, state=ItemState.READY, code=ErrorCode.RATE_LIMITED, outcome=CallOutcome.RETRY, wait=True, delay=60.0
    )
    assert steps.settle_all(platform, [wait]) == {claimed.call_id}
    found = item(platform, claimed.transaction_id)
    assert (found["state"], found["attempts"], found["waits"], found["call_id"]) == ("ready", 0, 1, None)
    assert found["first_failed_at"] is not None
    assert claimed.transaction_id not in {one.transaction_id for one in steps.claim(platform)}
    due = platform.database.read(lambda connection: (next_due(connection), now(connection)))
    assert due[0] is not None
    assert timedelta(seconds=50) < due[0] - due[1] <= timedelta(seconds=60)


def test_a_bad_answer_costs_an_attempt_and_is_asked_again_knowing_why(platform: Platform, ids: list[int]) -> None:
    [claimed] = steps.claim(platform, 1)
    bad = steps.failure(
        claimed, state=ItemState.READY, code=ErrorCode.EVIDENCE, outcome=CallOutcome.ANSWER, attempt=True
    )
    steps.settle_all(platform, [bad])
    again = next(one for one in steps.claim(platform) if one.transaction_id == claimed.transaction_id)
    assert (again.attempts, again.waits, again.error_code) == (1, 0, ErrorCode.EVIDENCE)


def test_a_call_that_was_never_sent_leaves_no_trace_on_its_item(platform: Platform, ids: list[int]) -> None:
    [claimed] = steps.claim(platform, 1)
    steps.settle_all(
        platform,
        [steps.failure(claimed, state=ItemState.READY, outcome=CallOutcome.RELEASED, error_code=None, error=None)],
    )
    found = item(platform, claimed.transaction_id)
    assert (found["state"], found["attempts"], found["waits"], found["crashes"]) == ("ready", 0, 0, 0)
    assert found["first_failed_at"] is None
    assert platform.value("SELECT outcome FROM gepp_audit_calls") == "released"


def test_a_ledger_id_is_never_used_twice(platform: Platform, ids: list[int]) -> None:
    first = max(one.call_id for one in steps.claim(platform))
    platform.execute("DELETE FROM gepp_audit_calls")
    steps.end_leases(platform)
    assert min(one.call_id for one in steps.claim(platform)) > first


def test_an_answer_to_an_item_that_was_just_parked_is_still_taken(platform: Platform, ids: list[int]) -> None:
    for _ in range(2):
        steps.claim(platform)
        steps.end_leases(platform)
    steps.claim(platform)
    [suspect] = steps.claim_suspect(platform)
    steps.end_leases(platform)
    steps.claim(platform)
    assert item(platform, suspect.transaction_id)["error_code"] == "crashed"
    assert steps.settle_all(platform, [steps.verdict(platform, suspect)]) == {suspect.call_id}
    assert item(platform, suspect.transaction_id)["state"] == "done"
    assert platform.value("SELECT outcome FROM gepp_audit_calls WHERE id = :id", id=suspect.call_id) == "verdict"


def test_claims_whose_commit_was_not_heard_of_are_let_go(platform: Platform, ids: list[int]) -> None:
    lost, known = steps.claim(platform, 2), steps.claim(platform, 2)
    calls = {one.call_id for one in known}
    assert platform.database.write(lambda connection: release_unknown(connection, "run-1", calls)) == 2
    assert {one.transaction_id for one in steps.claim(platform, 2)} == {one.transaction_id for one in lost}
    assert {item(platform, one.transaction_id)["crashes"] for one in lost} == {0}


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_items_that_somebody_holds_keep_no_claim_waiting(platform: Platform) -> None:
    # on SQLite there is one writer at a time, so nobody holds anything beside a claim
    organization = platform.organization()
    platform.rule()
    batches = [platform.batch(organization, platform.transactions(organization, 2)) for _ in range(2)]
    steps.take_up(platform)
    platform.database.patience = 0.0
    with platform.database.engine.connect() as somebody:
        somebody.execute(
            text("UPDATE gepp_audit_items SET error = NULL WHERE audit_history_id = :id"), {"id": batches[0]}
        )
        claims = steps.claim(platform, 4)
        somebody.rollback()
    assert {claim.audit_history_id for claim in claims} == {batches[1]}


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_a_burial_waits_for_no_item_that_somebody_holds_and_is_finished_by_the_next_one(platform: Platform) -> None:
    organization = platform.organization()
    platform.rule()
    platform.batch(organization, platform.transactions(organization, 2))
    steps.take_up(platform)
    dead = RunIdentity(run_id="run-1", host="h", boot_id="b", pid_namespace="n", pid=1, pid_started_at=1.0, version="1")
    platform.database.write(lambda connection: runs.start(connection, dead))
    held_one, free_one = [one.transaction_id for one in steps.claim(platform, 2)]
    platform.database.patience = 0.0

    def bury() -> int:
        return platform.database.write(lambda connection: runs.bury(connection, ["run-1"]))

    with platform.database.engine.connect() as somebody:
        holding = text("SELECT 1 FROM gepp_audit_items WHERE transaction_id = :id FOR UPDATE")
        somebody.execute(holding, {"id": held_one})
        assert bury() == 1
        somebody.rollback()
    assert platform.database.read(lambda connection: runs.unfinished(connection, "h")) != []
    assert bury() == 1
    assert platform.database.read(lambda connection: runs.unfinished(connection, "h")) == []
    assert {claim.transaction_id for claim in steps.claim(platform, 2)} == {held_one, free_one}
