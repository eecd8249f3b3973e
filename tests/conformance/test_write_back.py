"""Publish and close: what the platform's screens read, people first, each batch ended once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Thread

import pytest
from sqlalchemy import create_engine, text

from gepp_audit.audit.transaction import input_digest
from gepp_audit.database import publish
from gepp_audit.database.batches import Withdrawn
from gepp_audit.database.engine import parse_url
from gepp_audit.database.platform import detect
from gepp_audit.model import Claim, ErrorCode, Transaction
from gepp_audit.queue.summary import Summary
from gepp_audit.queue.writeback import publish_settled
from tests.support import steps
from tests.support.platforms import Platform
from tests.support.waiting import wait_until


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


def claimed_batch(platform: Platform, organization: int, count: int) -> tuple[int, list[Claim]]:
    batch = platform.batch(organization, platform.transactions(organization, count))
    steps.take_up(platform)
    return batch, sorted(steps.claim(platform), key=lambda one: one.transaction_id)


def test_a_verdict_is_written_as_the_platform_reads_it(platform: Platform, organization: int) -> None:
    _, [claimed] = claimed_batch(platform, organization, 1)
    told = steps.verdict(platform, claimed, "rejected")
    steps.settle_all(platform, [told])
    steps.write_back(platform)
    row = platform.one("SELECT * FROM transactions")
    assert (row["ai_audit_status"], row["status"]) == ("rejected", "rejected")
    assert row["ai_audit_note"] == told.verdict
    assert (row["reject_triggers"], row["warning_triggers"]) == (["DC-01"], [])
    if platform.is_new:
        tokens = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120, "cached_input_tokens": 64}
        assert row["audit_tokens"] == tokens
        written = row["ai_audit_date"]
        written = datetime.fromisoformat(written) if isinstance(written, str) else written
        assert abs((written.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()) < 300
        audit = platform.one("SELECT * FROM transaction_audits")
        assert (audit["transaction_id"], audit["organization_id"]) == (claimed.transaction_id, organization)
        assert (audit["audit_notes"], audit["audit_type"], bool(audit["by_human"])) == (told.verdict, "ai_async", False)
        assert (audit["audit_status"], audit["ai_audit_status"]) == ("rejected", "rejected")
        assert (audit["processing_time_ms"], audit["model_version"]) == (512, "m-1-2026")


@pytest.mark.parametrize(
    ("allowed", "status", "verdict", "expected"),
    [
        (True, "pending", "approved", "approved"),
        (True, "pending", "no_action", "pending"),
        (True, "completed", "rejected", "completed"),
        (False, "pending", "approved", "pending"),
    ],
)
def test_the_transactions_own_status_follows_only_where_the_organization_allows_it(
    platform: Platform, allowed: bool, status: str, verdict: str, expected: str
) -> None:
    platform.rule()
    organization = platform.organization(allow_ai_audit=allowed)
    transaction = platform.transaction(organization)
    platform.execute("UPDATE transactions SET status = :status", status=status)
    platform.batch(organization, [transaction])
    steps.take_up(platform)
    steps.settle_all(platform, [steps.verdict(platform, one, verdict) for one in steps.claim(platform)])
    steps.write_back(platform)
    assert platform.value("SELECT status FROM transactions") == expected


def test_a_failed_transaction_is_marked_where_the_platform_can(platform: Platform, organization: int) -> None:
    batch, [claimed] = claimed_batch(platform, organization, 1)
    steps.settle_all(platform, [steps.failure(claimed)])
    steps.write_back(platform)
    assert platform.labels([claimed.transaction_id]) == {claimed.transaction_id: platform.failed_label}
    [closed] = steps.close_all(platform)
    assert (closed.outcome, closed.failed) == ("failed", 1)
    assert platform.history(batch)["error_message"] == (
        f"1 transaction could not be audited: refused by the provider's policy: 1 ({claimed.transaction_id})."
    )


def test_what_people_changed_meanwhile_stays_as_they_left_it(platform: Platform, organization: int) -> None:
    _, claims = claimed_batch(platform, organization, 4)
    told = [steps.verdict(platform, one) for one in claims]
    ids = [one.transaction_id for one in claims]
    platform.execute("UPDATE transactions SET ai_audit_status = 'approved' WHERE id = :id", id=ids[0])
    platform.execute("UPDATE transactions SET is_active = FALSE WHERE id = :id", id=ids[1])
    other = platform.organization()
    platform.execute("UPDATE transactions SET organization_id = :other WHERE id = :id", id=ids[2], other=other)
    expected = {ids[0]: "not_queued", ids[1]: "deleted", ids[2]: "foreign"}
    if platform.is_new:
        platform.execute("UPDATE transactions SET is_user_audit = TRUE WHERE id = :id", id=ids[3])
        expected[ids[3]] = "decided_by_person"
    kept = f"SELECT * FROM transactions WHERE id IN ({', '.join(map(str, expected))}) ORDER BY id"
    before = platform.rows(kept)
    steps.settle_all(platform, told)
    steps.write_back(platform)
    assert platform.rows(kept) == before
    assert steps.skips(platform) == expected


def test_a_transaction_that_was_edited_while_it_was_audited_is_asked_again(
    platform: Platform, organization: int
) -> None:
    _, claims = claimed_batch(platform, organization, 3)
    told = [steps.verdict(platform, one) for one in claims]
    first, second, third = (one.transaction_id for one in claims)
    platform.execute("UPDATE transactions SET notes = 'changed' WHERE id = :id", id=first)
    platform.execute("UPDATE transaction_records SET notes = 'x' WHERE created_transaction_id = :id", id=second)
    steps.settle_all(platform, told)
    done = steps.write_back(platform)
    assert (sorted(done.edited), list(done.written)) == ([first, second], [third])
    assert steps.states(platform) == {first: "ready", second: "ready", third: "done"}
    assert sorted(one.transaction_id for one in steps.claim(platform)) == [first, second]


def test_a_transaction_that_changes_each_time_is_given_up_in_the_end(platform: Platform, organization: int) -> None:
    _, [claimed] = claimed_batch(platform, organization, 1)
    for edit in range(4):
        told = steps.verdict(platform, claimed)
        platform.execute("UPDATE transactions SET notes = :notes", notes=f"edit {edit}")
        steps.settle_all(platform, [told])
        steps.write_back(platform)
        claimed = next(iter(steps.claim(platform)), claimed)
    row = platform.one("SELECT state, error_code FROM gepp_audit_items")
    assert (row["state"], row["error_code"]) == ("failed", "edited")


def test_a_closed_batch_tells_what_became_of_each_transaction(platform: Platform, organization: int) -> None:
    batch, claims = claimed_batch(platform, organization, 5)
    kinds = ("approved", "rejected", "no_action")
    told = [steps.verdict(platform, one, kind) for one, kind in zip(claims, kinds, strict=False)]
    steps.settle_all(platform, [*told, steps.failure(claims[3])])
    platform.execute("UPDATE transactions SET ai_audit_status = 'null' WHERE id = :id", id=claims[4].transaction_id)
    steps.settle_all(platform, [steps.verdict(platform, claims[4])])
    steps.write_back(platform)
    [closed] = steps.close_all(platform)
    assert closed.total == closed.approved + closed.rejected + closed.undecided + closed.failed + closed.skipped == 5
    row = platform.history(batch)
    assert (row["status"], row["total_transactions"], row["processed_transactions"]) == ("completed", 5, 4)
    assert (row["approved_count"], row["rejected_count"]) == (1, 1)
    assert row["completed_at"] is not None
    info = row["audit_info"]
    assert info["summary"] == {
        "total_transactions": 5, "processed_transactions": 4, "approved_count": 1, "rejected_count": 1,
        "undecided_count": 1, "failed_count": 1, "skipped_count": 1,
        "token_usage": {
            "total_input_tokens": 400, "total_output_tokens": 80, "total_tokens": 480, "cached_input_tokens": 256,
        },
        "cost_usd": 0.0005, "model": "m-1-2026", "engine": "openai",
    }  # fmt: skip
    assert [(entry["status"], entry["rejected_by"], entry["tokens"]) for entry in info["audit_results"]] == [
        ("approved", [], 120), ("rejected", ["DC-01"], 120), ("no_action", [], 120), ("failed", [], 0),
        ("skipped", [], 120),
    ]  # fmt: skip
    if platform.is_new:
        ids = platform.rows("SELECT id FROM transaction_audits ORDER BY id")
        assert row["audit_records"] == [one["id"] for one in ids]


def test_only_failed_items_stay_when_a_batch_has_ended(platform: Platform, organization: int) -> None:
    _, claims = claimed_batch(platform, organization, 2)
    steps.settle_all(platform, [steps.verdict(platform, claims[0]), steps.failure(claims[1])])
    steps.write_back(platform)
    steps.close_all(platform)
    assert steps.states(platform) == {claims[1].transaction_id: "failed"}


def test_a_batch_ends_exactly_once(platform: Platform, organization: int) -> None:
    batch, claims = claimed_batch(platform, organization, 1)
    steps.settle_all(platform, [steps.verdict(platform, one) for one in claims])
    steps.write_back(platform)
    assert len(steps.close_all(platform)) == 1
    before = platform.history(batch)
    assert steps.close_all(platform) == []
    assert platform.history(batch) == before


def test_a_batch_with_something_open_is_not_ended(platform: Platform, organization: int) -> None:
    _, claims = claimed_batch(platform, organization, 2)
    steps.settle_all(platform, [steps.verdict(platform, claims[0])])
    assert steps.close_all(platform) == []
    steps.write_back(platform)
    assert steps.close_all(platform) == []


def test_the_counters_grow_while_the_batch_runs(platform: Platform, organization: int) -> None:
    batch, claims = claimed_batch(platform, organization, 3)
    steps.settle_all(platform, [steps.verdict(platform, claims[0]), steps.verdict(platform, claims[1], "rejected")])
    steps.write_back(platform)
    row = platform.history(batch)
    assert (row["processed_transactions"], row["approved_count"], row["rejected_count"]) == (2, 1, 1)


def test_above_five_thousand_transactions_only_what_needs_a_look_is_listed(
    platform: Platform, organization: int
) -> None:
    batch = platform.batch(organization, platform.transactions(organization, 5_001))
    steps.take_up(platform)
    template, *_ = claims = steps.claim(platform, 6_000)
    told = json.dumps(steps.verdict(platform, template).verdict)
    platform.execute(
        "UPDATE gepp_audit_items SET state = 'done', verdict = "
        + ("CAST(:told AS jsonb)" if platform.is_postgresql else ":told")
        + ", verdict_status = CASE WHEN transaction_id % 1000 = 0 THEN 'rejected' ELSE 'approved' END, "
        "published_at = available_at",
        told=told,
    )
    [closed] = steps.close_all(platform)
    assert (closed.total, closed.rejected) == (len(claims), 5)
    info = platform.history(batch)["audit_info"]
    assert info["truncated"] is True
    assert {entry["status"] for entry in info["audit_results"]} == {"rejected"}
    assert len(info["audit_results"]) == 5


@contextmanager
def held(platform: Platform, statement: str) -> Iterator[None]:
    """The platform itself holds rows in a transaction of its own."""
    engine = create_engine(parse_url(platform.url))
    with engine.connect() as connection:
        connection.execute(text(statement))
        yield
        connection.rollback()
    engine.dispose()


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_what_the_platform_holds_is_left_for_the_next_time_and_nothing_waits(
    platform: Platform, organization: int
) -> None:
    batch, claims = claimed_batch(platform, organization, 2)
    steps.settle_all(platform, [steps.verdict(platform, one) for one in claims])
    first, second = (one.transaction_id for one in claims)
    with held(platform, f"UPDATE transactions SET notes = notes WHERE id = {first}"):
        done = steps.write_back(platform)
        assert (done.locked, list(done.written)) == ([first], [second])
        assert steps.close_all(platform) == []
    assert list(wait_until(lambda: steps.write_back(platform).written)) == [first]
    with held(platform, f"UPDATE transaction_audit_history SET status = status WHERE id = {batch}"):
        assert steps.close_all(platform) == []
    assert len(steps.close_all(platform)) == 1


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_a_row_that_the_platform_refuses_keeps_no_other_away(platform: Platform, organization: int) -> None:
    _, claims = claimed_batch(platform, organization, 5)
    refused = claims[2].transaction_id
    told = [steps.verdict(platform, one) for one in claims]
    platform.execute("UPDATE transactions SET notes = 'old' WHERE id = :id", id=refused)
    told[2] = steps.verdict(platform, claims[2])
    platform.execute("ALTER TABLE transactions ADD CHECK (notes <> 'old') NOT VALID")
    steps.settle_all(platform, told)
    summary = Summary(run_id="run-1")
    publish_settled(platform.database, platform.database.read(detect), summary)
    assert (summary.approved, summary.failed) == (4, 1)
    row = platform.one("SELECT state, error_code FROM gepp_audit_items WHERE transaction_id = :id", id=refused)
    assert (row["state"], row["error_code"]) == ("failed", "not_writable")
    call = platform.one("SELECT verdict FROM gepp_audit_calls WHERE transaction_id = :id", id=refused)
    assert call["verdict"]["status"] == "approved"


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_a_batch_with_a_row_that_the_platform_refuses_ends(platform: Platform, organization: int) -> None:
    batch, claims = claimed_batch(platform, organization, 5)
    refused = claims[2].transaction_id
    platform.execute("UPDATE transactions SET notes = 'old' WHERE id = :id", id=refused)
    told = [steps.verdict(platform, one) for one in claims]
    platform.execute("ALTER TABLE transactions ADD CHECK (notes <> 'old') NOT VALID")
    steps.settle_all(platform, told)
    publish_settled(platform.database, platform.database.read(detect), Summary(run_id="run-1"))
    [closed] = steps.close_all(platform)
    assert (closed.outcome, closed.approved, closed.failed) == ("completed", 4, 1)
    assert platform.history(batch)["status"] == "completed"


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_a_withdrawn_batch_with_a_row_that_the_platform_refuses_lets_the_others_go(
    platform: Platform, organization: int
) -> None:
    batch, claims = claimed_batch(platform, organization, 5)
    refused = claims[2].transaction_id
    platform.execute("UPDATE transactions SET notes = 'old' WHERE id = :id", id=refused)
    platform.execute("ALTER TABLE transactions ADD CHECK (notes <> 'old') NOT VALID")
    platform.execute("UPDATE transaction_audit_history SET status = 'undone' WHERE id = :id", id=batch)
    assert steps.reconcile(platform) == [Withdrawn(skipped=5, closed=True)]
    labels = platform.labels([one.transaction_id for one in claims])
    assert {id_ for id_, label in labels.items() if label == "queued"} == {refused}


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_a_late_answer_of_a_parked_item_is_not_lost_between_reading_and_writing_it(
    platform: Platform, organization: int
) -> None:
    batch, _ = claimed_batch(platform, organization, 2)
    for _ in range(2):
        steps.end_leases(platform)
        steps.claim(platform)
    steps.end_leases(platform)
    steps.claim(platform, 0)
    suspects = [steps.claim_suspect(platform)[0] for _ in range(2)]
    first, second = sorted(suspects, key=lambda one: one.transaction_id)
    steps.settle_all(platform, [steps.verdict(platform, first)])
    steps.end_leases(platform)
    steps.claim(platform, 0)
    assert steps.states(platform) == {first.transaction_id: "done", second.transaction_id: "failed"}
    late = steps.verdict(platform, second)
    other = Thread(target=lambda: steps.settle_all(platform, [late]))

    def digest(transaction: Transaction) -> str:
        if other.ident is None:  # the frozen run wakes while another host publishes what it gave up
            other.start()
            other.join(1.0)
        return input_digest(transaction)

    platform.database.write(lambda connection: publish.publish(connection, detect(connection), digest))
    other.join()
    wait_until(lambda: not steps.write_back(platform).locked and not unpublished(platform))
    steps.close_all(platform)
    row, label = platform.history(batch), platform.labels([second.transaction_id])[second.transaction_id]
    [said] = [one for one in row["audit_info"]["audit_results"] if one["transaction_id"] == second.transaction_id]
    failed = label in ("failed", "null")
    assert said["status"] == ("failed" if failed else "approved")
    assert (row["approved_count"], row["processed_transactions"]) == (1 if failed else 2, 2)
    kept = platform.one("SELECT outcome, verdict FROM gepp_audit_calls WHERE id = :id", id=late.call_id)
    assert (kept["outcome"], kept["verdict"] is not None) == (("superseded", True) if failed else ("verdict", False))


def unpublished(platform: Platform) -> bool:
    count = "SELECT count(*) FROM gepp_audit_items WHERE published_at IS NULL AND state IN ('done', 'failed')"
    return bool(platform.value(count))


def test_giving_up_what_cannot_be_written_hits_no_other_item_whatever_happens_meanwhile(
    platform: Platform, organization: int
) -> None:
    _, claims = claimed_batch(platform, organization, 3)
    earlier, *later = [steps.verdict(platform, one) for one in claims]
    steps.settle_all(platform, later)
    refused = platform.database.read(publish.first_waiting)
    assert refused == (claims[1].audit_history_id, claims[1].transaction_id)
    steps.settle_all(platform, [earlier])  # by another host: now this is the first one
    # the reply to the first commit was lost, so it is done again
    tries = [platform.database.write(lambda connection: publish.give_up(connection, refused)) for _ in range(2)]
    assert tries == [True, False]
    written = steps.write_back(platform).written
    assert written == {earlier.transaction_id: "approved", later[1].transaction_id: "approved"}


def test_a_verdict_outdates_an_earlier_failure(platform: Platform, organization: int) -> None:
    transaction = platform.transaction(organization)
    for fails in (True, False):
        platform.execute("UPDATE transactions SET ai_audit_status = 'queued', status = 'pending'")
        platform.batch(organization, [transaction])
        steps.take_up(platform)
        [claimed] = steps.claim(platform)
        told = steps.failure(claimed) if fails else steps.verdict(platform, claimed)
        steps.settle_all(platform, [told])
        steps.write_back(platform)
        steps.close_all(platform)
    assert steps.states(platform) == {}


def test_failed_transactions_are_named_by_reason_a_few_of_each(platform: Platform, organization: int) -> None:
    batch, claims = claimed_batch(platform, organization, 9)
    ids = sorted(claim.transaction_id for claim in claims)
    codes = [ErrorCode.REFUSED] * 2 + [ErrorCode.UNREADABLE] * 7
    steps.settle_all(platform, [steps.failure(claim, code=codes[ids.index(claim.transaction_id)]) for claim in claims])
    steps.write_back(platform)
    steps.close_all(platform)
    assert platform.history(batch)["error_message"] == (
        "9 transactions could not be audited: answer not readable: 7 "
        f"({', '.join(map(str, ids[2:7]))} and 2 more); the model refused to answer: 2 ({ids[0]}, {ids[1]})."
    )
