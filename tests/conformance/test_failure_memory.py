"""A transaction that failed and was not changed since is refused with its old reason, unless that is forced."""

from __future__ import annotations

import pytest

from gepp_audit.audit.transaction import input_digest
from gepp_audit.database.platform import detect, load
from gepp_audit.model import ErrorCode
from gepp_audit.queue.enqueue import EnqueueRequest, enqueue
from tests.support import steps
from tests.support.platforms import Platform


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


def failed_transaction(platform: Platform, organization: int, code: ErrorCode = ErrorCode.POLICY) -> int:
    """One that failed in a batch that has ended, and can be queued again."""
    transaction = platform.transaction(organization)
    platform.batch(organization, [transaction])
    steps.take_up(platform)
    [claimed] = steps.claim(platform)
    steps.settle_all(platform, [steps.failure(claimed, code=code, input_digest=digest_of(platform, transaction))])
    steps.write_back(platform)
    steps.close_all(platform)
    platform.execute("UPDATE transactions SET ai_audit_status = 'null'")
    return transaction


def digest_of(platform: Platform, transaction: int) -> str:
    """What a call was shown of it."""
    found = platform.database.read(lambda connection: load(connection, detect(connection), [transaction]))
    return input_digest(found[transaction].transaction)


def queue(platform: Platform, organization: int, *, force: bool = False) -> None:
    enqueue(platform.database, EnqueueRequest(organization_id=organization, force=force))


def test_it_is_refused_without_a_call_and_with_its_old_reason(platform: Platform, organization: int) -> None:
    transaction = failed_transaction(platform, organization)
    queue(platform, organization)
    [done] = steps.take_up(platform)
    assert (done.ready, done.refused) == (0, 1)
    assert steps.claim(platform) == []
    steps.write_back(platform)
    [closed] = steps.close_all(platform)
    assert (closed.outcome, closed.failed) == ("failed", 1)
    row = platform.one("SELECT error_code, error FROM gepp_audit_items WHERE error_code = 'unchanged_since_failure'")
    assert row["error"] == "the provider refused this transaction"
    assert platform.labels([transaction]) == {transaction: platform.failed_label}


CHANGES = {
    "a note": "UPDATE transactions SET notes = 'mended'",
    "a weight of a record": "UPDATE transaction_records SET origin_weight_kg = 7.5",
    "a record that is gone": "UPDATE transaction_records SET is_active = false",
    "the name of its material": "UPDATE main_materials SET name_en = 'Glass' WHERE id = 1",
    "the text of a rule": "UPDATE audit_rules SET condition = 'weight_kg > 0'",
    "what a rule does": "UPDATE audit_rules SET actions = '[]'",
    "a rule that is off": "UPDATE audit_rules SET is_active = false WHERE rule_id = 'DC-02'",
    "the instructions": "UPDATE gepp_audit_calls SET prompt_version = 'earlier'",
    "a ledger that does not reach back so far": "DELETE FROM gepp_audit_calls",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_is_another_question_now_is_asked_again(platform: Platform, organization: int, change: str) -> None:
    platform.insert("main_materials", [{"id": 1, "name_en": "Paper", "name_th": "กระดาษ", "code": "P"}])
    platform.rule("DC-02")
    transaction = failed_transaction(platform, organization)
    platform.execute(change)
    queue(platform, organization)
    steps.take_up(platform)
    assert [one.transaction_id for one in steps.claim(platform)] == [transaction]


def test_another_rule_lets_it_be_asked_again(platform: Platform, organization: int) -> None:
    transaction = failed_transaction(platform, organization)
    platform.rule("DC-02")
    queue(platform, organization)
    steps.take_up(platform)
    assert [one.transaction_id for one in steps.claim(platform)] == [transaction]


def test_another_model_is_asked(platform: Platform, organization: int) -> None:
    transaction = failed_transaction(platform, organization)
    queue(platform, organization)
    steps.take_up(platform, model="m-2")
    assert [one.transaction_id for one in steps.claim(platform)] == [transaction]


def test_what_no_audit_sees_is_no_change(platform: Platform, organization: int) -> None:
    failed_transaction(platform, organization)
    platform.execute("UPDATE transactions SET status = status, updated_date = created_date, weight_kg = 6.25")
    queue(platform, organization)
    [done] = steps.take_up(platform)
    assert (done.ready, done.refused) == (0, 1)


def test_it_is_refused_again_and_again_with_the_first_reason(platform: Platform, organization: int) -> None:
    failed_transaction(platform, organization)
    for _ in range(3):
        queue(platform, organization)
        [done] = steps.take_up(platform)
        assert (done.ready, done.refused) == (0, 1)
        steps.write_back(platform)
        steps.close_all(platform)
        platform.execute("UPDATE transactions SET ai_audit_status = 'null'")
    found = platform.rows("SELECT error FROM gepp_audit_items WHERE error_code = 'unchanged_since_failure'")
    assert [row["error"] for row in found] == ["the provider refused this transaction"] * 3


def test_the_others_of_its_batch_are_asked(platform: Platform, organization: int) -> None:
    failed_transaction(platform, organization)
    other = platform.transaction(organization, status="null")
    queue(platform, organization)
    [done] = steps.take_up(platform)
    assert (done.ready, done.refused) == (1, 1)
    assert [one.transaction_id for one in steps.claim(platform)] == [other]


def test_a_failure_that_was_written_back_before_its_batch_was_cancelled_is_remembered(
    platform: Platform, organization: int
) -> None:
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    first, second = steps.claim(platform)
    steps.settle_all(platform, [steps.failure(first, input_digest=digest_of(platform, ids[0]))])
    steps.write_back(platform)
    steps.settle_all(platform, [steps.failure(second, input_digest=digest_of(platform, ids[1]))])
    platform.execute("UPDATE transaction_audit_history SET status = 'cancelled' WHERE id = :id", id=batch)
    platform.execute("UPDATE transactions SET ai_audit_status = 'null'")
    steps.reconcile(platform)
    queue(platform, organization)
    [done] = steps.take_up(platform)
    assert (done.ready, done.refused) == (1, 1)
    assert [one.transaction_id for one in steps.claim(platform)] == [ids[1]]


def test_forcing_asks_again(platform: Platform, organization: int) -> None:
    transaction = failed_transaction(platform, organization)
    queue(platform, organization, force=True)
    steps.take_up(platform)
    assert [one.transaction_id for one in steps.claim(platform)] == [transaction]


def test_only_failures_that_lie_in_the_transaction_are_remembered(platform: Platform, organization: int) -> None:
    ids = dict(zip(ErrorCode, platform.transactions(organization, len(ErrorCode)), strict=True))
    platform.batch(organization, list(ids.values()))
    steps.take_up(platform)
    claimed = {one.transaction_id: one for one in steps.claim(platform)}
    steps.settle_all(
        platform,
        [steps.failure(claimed[id_], code=code, input_digest=digest_of(platform, id_)) for code, id_ in ids.items()],
    )
    steps.write_back(platform)
    steps.close_all(platform)
    platform.execute("UPDATE transactions SET ai_audit_status = 'null'")
    queue(platform, organization)
    steps.take_up(platform)
    asked = {one.transaction_id for one in steps.claim(platform)}
    assert {code for code, id_ in ids.items() if id_ not in asked} == {
        ErrorCode.CONTENT_FILTER, ErrorCode.REFUSED, ErrorCode.INCOMPLETE, ErrorCode.WRONG_TRANSACTION,
        ErrorCode.UNKNOWN_RULE, ErrorCode.EVIDENCE, ErrorCode.CONTEXT_LENGTH, ErrorCode.INVALID_INPUT, ErrorCode.POLICY,
    }  # fmt: skip
