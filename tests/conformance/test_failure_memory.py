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
    found = platform.database.read(lambda connection: load(connection, detect(connection), [transaction]))
    digest = input_digest(found[transaction].transaction)
    steps.settle_all(platform, [steps.failure(claimed, code=code, input_digest=digest)])
    steps.write_back(platform)
    steps.close_all(platform)
    platform.execute("UPDATE transactions SET ai_audit_status = 'null'")
    return transaction


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


def test_a_change_lets_it_be_asked_again(platform: Platform, organization: int) -> None:
    transaction = failed_transaction(platform, organization)
    platform.execute("UPDATE transactions SET notes = 'mended'")
    queue(platform, organization)
    steps.take_up(platform)
    assert [one.transaction_id for one in steps.claim(platform)] == [transaction]


def test_another_rule_lets_it_be_asked_again(platform: Platform, organization: int) -> None:
    transaction = failed_transaction(platform, organization)
    platform.rule("DC-02")
    queue(platform, organization)
    steps.take_up(platform)
    assert [one.transaction_id for one in steps.claim(platform)] == [transaction]


def test_forcing_asks_again(platform: Platform, organization: int) -> None:
    transaction = failed_transaction(platform, organization)
    queue(platform, organization, force=True)
    steps.take_up(platform)
    assert [one.transaction_id for one in steps.claim(platform)] == [transaction]


def test_a_provider_that_was_down_says_nothing_of_the_transaction(platform: Platform, organization: int) -> None:
    transaction = failed_transaction(platform, organization, ErrorCode.PROVIDER_UNAVAILABLE)
    queue(platform, organization)
    steps.take_up(platform)
    assert [one.transaction_id for one in steps.claim(platform)] == [transaction]
