"""Discover, fan out, reconcile: on SQLite and on PostgreSQL, old and new platform."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from gepp_audit.database import batches
from gepp_audit.database.platform import detect
from gepp_audit.errors import OperatorError
from gepp_audit.queue import intake
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.summary import Summary
from tests.support import steps
from tests.support.platforms import Platform

OPTIONS = RunOptions(
    model="m-1", engine="openai", concurrency=6, call_timeout=60.0, lease_margin=30.0, max_attempts=3,
    first_backoff=1.0, max_completion_tokens=1_000, batch_statuses=steps.STATUSES, host="h1",
)  # fmt: skip


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


def test_each_queued_transaction_of_a_batch_becomes_one_item(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 5)
    batch = platform.batch(organization, ids)
    [done] = steps.take_up(platform)
    assert (done.audit_history_id, done.total, done.ready, done.skipped) == (batch, 5, 5, 0)
    assert steps.states(platform) == dict.fromkeys(ids, "ready")


def test_taking_up_again_changes_nothing(platform: Platform, organization: int) -> None:
    platform.batch(organization, platform.transactions(organization, 2))
    steps.take_up(platform)
    before = platform.rows("SELECT * FROM gepp_audit_items ORDER BY transaction_id")
    assert steps.take_up(platform) == []
    assert platform.rows("SELECT * FROM gepp_audit_items ORDER BY transaction_id") == before


def test_ids_that_are_not_to_be_audited_are_skipped_with_their_reason(platform: Platform, organization: int) -> None:
    stranger = platform.organization()
    wanted = platform.transaction(organization)
    foreign = platform.transaction(stranger)
    unqueued = platform.transaction(organization, status="null")
    deleted = platform.transaction(organization)
    platform.execute("UPDATE transactions SET is_active = FALSE WHERE id = :id", id=deleted)
    expected = {foreign: "foreign", unqueued: "not_queued", deleted: "deleted", 99_999: "not_found"}
    if platform.is_new:
        decided = platform.transaction(organization, is_user_audit=True)
        expected[decided] = "decided_by_person"
    platform.batch(organization, [wanted, wanted, *expected])
    [done] = steps.take_up(platform)
    assert (done.total, done.ready) == (len(expected) + 1, 1)
    assert steps.skips(platform) == expected


def test_a_transaction_that_two_batches_list_is_audited_in_the_first(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 3)
    first = platform.batch(organization, ids)
    second = platform.batch(organization, ids)
    steps.take_up(platform)
    found = platform.rows("SELECT audit_history_id, state, skip_reason FROM gepp_audit_items")
    assert {(row["audit_history_id"], row["state"], row["skip_reason"]) for row in found} == {
        (first, "ready", None),
        (second, "skipped", "in_other_batch"),
    }


def test_a_batch_of_an_organization_without_rules_fails_and_says_so(platform: Platform) -> None:
    organization = platform.organization()
    platform.rule("XX-01", organization=platform.organization())
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, ids)
    [done] = steps.take_up(platform)
    assert done.error is not None
    assert steps.claim(platform) == []
    [closed] = steps.close_all(platform)
    assert (closed.outcome, closed.failed) == ("failed", 2)
    row = platform.history(batch)
    assert (row["status"], row["error_message"]) == ("failed", done.error)
    assert platform.labels(ids) == dict.fromkeys(ids, "null")


def test_an_empty_batch_is_closed_as_completed(platform: Platform, organization: int) -> None:
    batch = platform.batch(organization, [])
    steps.take_up(platform)
    [closed] = steps.close_all(platform)
    assert (closed.outcome, closed.total) == ("completed", 0)
    assert platform.history(batch)["audit_info"]["audit_results"] == []


def test_a_pending_batch_is_taken_up_only_where_that_is_set(platform: Platform, organization: int) -> None:
    batch = platform.batch(organization, platform.transactions(organization, 1), status="pending")
    assert steps.take_up(platform) == []
    assert len(steps.take_up(platform, ("in_progress", "pending"))) == 1
    assert platform.history(batch)["status"] == "in_progress"


@pytest.mark.parametrize("ending", ["cancelled", "undone", "completed", "deleted", "gone"])
def test_a_batch_that_people_ended_is_let_go(platform: Platform, organization: int, ending: str) -> None:
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    if ending == "gone":
        platform.execute("DELETE FROM transaction_audit_history WHERE id = :id", id=batch)
    elif ending == "deleted":
        platform.execute("UPDATE transaction_audit_history SET deleted_date = started_at WHERE id = :id", id=batch)
    else:
        platform.execute(f"UPDATE transaction_audit_history SET status = '{ending}' WHERE id = :id", id=batch)
    before = platform.rows("SELECT * FROM transaction_audit_history")
    assert steps.reconcile(platform) == [batches.Withdrawn(skipped=2, closed=True)]
    assert steps.states(platform) == {}
    assert platform.rows("SELECT * FROM transaction_audit_history") == before
    assert platform.labels(ids) == dict.fromkeys(ids, "null")
    assert platform.value("SELECT outcome FROM gepp_audit_batches") == "withdrawn"


def test_a_paid_answer_to_a_withdrawn_batch_stays_in_the_ledger(platform: Platform, organization: int) -> None:
    transaction = platform.transaction(organization)
    batch = platform.batch(organization, [transaction])
    steps.take_up(platform)
    [claimed] = steps.claim(platform)
    late = steps.verdict(platform, claimed)
    platform.execute("UPDATE transaction_audit_history SET status = 'cancelled' WHERE id = :id", id=batch)
    steps.reconcile(platform)
    assert steps.settle_all(platform, [late]) == set()
    call = platform.one("SELECT outcome, verdict, input_tokens FROM gepp_audit_calls")
    assert (call["outcome"], call["verdict"]["status"], call["input_tokens"]) == ("superseded", "approved", 100)
    assert steps.write_back(platform).written == {}
    assert platform.labels([transaction]) == {transaction: "null"}


def test_a_verdict_that_was_settled_before_the_batch_was_withdrawn_stays_in_the_ledger(
    platform: Platform, organization: int
) -> None:
    batch = platform.batch(organization, [platform.transaction(organization)])
    steps.take_up(platform)
    steps.settle_all(platform, [steps.verdict(platform, one) for one in steps.claim(platform)])
    platform.execute("UPDATE transaction_audit_history SET status = 'cancelled' WHERE id = :id", id=batch)
    steps.reconcile(platform)
    call = platform.one("SELECT outcome, verdict FROM gepp_audit_calls")
    assert (call["outcome"], call["verdict"]["status"]) == ("superseded", "approved")


@pytest.mark.parametrize("status", ["in_progress", "pending"])
def test_what_people_queued_again_after_a_cancel_stays_queued(
    platform: Platform, organization: int, status: str
) -> None:
    ids = platform.transactions(organization, 2)
    first = platform.batch(organization, ids)
    steps.take_up(platform)
    platform.execute("UPDATE transaction_audit_history SET status = 'cancelled' WHERE id = :id", id=first)
    platform.batch(organization, ids, status=status)
    steps.reconcile(platform)
    assert platform.labels(ids) == dict.fromkeys(ids, "queued")
    [done] = steps.take_up(platform, ("in_progress", "pending"))
    assert done.ready == 2


def test_what_a_person_decided_after_the_fan_out_is_not_put_back(platform: Platform, organization: int) -> None:
    transaction = platform.transaction(organization)
    batch = platform.batch(organization, [transaction])
    steps.take_up(platform)
    decided = "is_user_audit = TRUE" if platform.is_new else "is_active = FALSE"
    platform.execute(f"UPDATE transactions SET {decided}")
    platform.execute("UPDATE transaction_audit_history SET status = 'cancelled' WHERE id = :id", id=batch)
    steps.reconcile(platform)
    assert platform.labels([transaction]) == {transaction: "queued"}


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_what_is_skipped_of_a_batch_that_the_platform_holds_is_told_once(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 3)
    platform.batch(organization, ids)
    steps.take_up(platform)
    platform.execute("UPDATE transaction_audit_history SET status = 'undone'")
    with platform.database.engine.connect() as other:
        other.execute(text("SELECT 1 FROM transactions WHERE id = :id FOR UPDATE"), {"id": ids[0]})
        held = steps.reconcile(platform)
    assert held == [batches.Withdrawn(skipped=3, closed=False)]
    assert steps.reconcile(platform) == [batches.Withdrawn(skipped=0, closed=True)]


def refuse_items_of(platform: Platform, batch: int, state: str = "23514") -> None:
    """From now on the database itself takes no item of this batch, for the reason that `state` names."""
    when = f"BEFORE INSERT ON gepp_audit_items FOR EACH ROW WHEN (NEW.audit_history_id = {batch})"
    if platform.is_postgresql:
        refusal = f"BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END"
        platform.execute(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {refusal} $$")
        platform.execute(f"CREATE TRIGGER refuse {when} EXECUTE FUNCTION refuse()")
    else:
        platform.execute(f"CREATE TRIGGER refuse {when} BEGIN SELECT RAISE(ABORT, 'no'); END")


def test_a_batch_that_cannot_be_taken_up_keeps_no_other_away(platform: Platform, organization: int) -> None:
    bad, good = (platform.batch(organization, platform.transactions(organization, 1)) for _ in range(2))
    refuse_items_of(platform, bad)
    summary = Summary(run_id="r")
    intake.take_up(platform.database, platform.database.read(detect), OPTIONS, summary)
    assert [row["audit_history_id"] for row in platform.rows("SELECT audit_history_id FROM gepp_audit_items")] == [good]
    assert platform.history(bad)["status"] == "in_progress"


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
@pytest.mark.parametrize(("state", "code"), [("42501", "database_rights"), ("42P01", "database_schema")])
def test_what_no_batch_could_be_taken_up_for_ends_the_run_in_words(
    platform: Platform, organization: int, state: str, code: str
) -> None:
    refuse_items_of(platform, platform.batch(organization, platform.transactions(organization, 1)), state)
    with pytest.raises(OperatorError) as refused:
        intake.take_up(platform.database, platform.database.read(detect), OPTIONS, Summary(run_id="r"))
    assert refused.value.code == code


def test_an_id_that_the_platform_left_empty_is_none(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, [ids[0], None])  # type: ignore[list-item] # what the platform should not write
    steps.take_up(platform)
    assert steps.states(platform) == {ids[0]: "ready"}
    platform.batch(organization, [ids[1], None])  # type: ignore[list-item] # as above
    platform.execute("UPDATE transaction_audit_history SET status = 'undone' WHERE id = :id", id=batch)
    steps.reconcile(platform)
    assert platform.labels(ids)[ids[0]] == "null"
