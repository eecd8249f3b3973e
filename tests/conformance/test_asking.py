"""What is asked, and with what knowledge, as it stands in the database at that moment."""

from __future__ import annotations

import pytest

from gepp_audit.database.platform import detect
from gepp_audit.database.settling import Settlement
from gepp_audit.model import CallOutcome, CallRequest, Claim, ErrorCode, ItemState, SkipReason
from gepp_audit.queue import asking
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.summary import Summary
from tests.support import steps
from tests.support.platforms import Platform

OPTIONS = RunOptions(
    model="m-1", engine="openai", concurrency=1, call_timeout=1.0, lease_margin=1.0, max_attempts=3, first_backoff=1.0,
    max_completion_tokens=1_000, batch_statuses=steps.STATUSES,
)  # fmt: skip


@pytest.fixture
def batch(platform: Platform) -> int:
    """One transaction in one batch."""
    platform.rule()
    organization = platform.organization()
    batch = platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    return batch


def prepare(
    platform: Platform, claims: list[Claim], prompts: asking.Prompts | None = None
) -> tuple[list[tuple[CallRequest, asking.Asked]], list[Settlement]]:
    found = platform.database.read(detect)
    return asking.prepare(platform.database, found, prompts or asking.Prompts(), claims, OPTIONS, 0.0)


def ask_in_vain(platform: Platform, code: ErrorCode, *, outcome: CallOutcome, wait: bool = False) -> None:
    """One call that brings no verdict, so that the item waits for the next one."""
    [claimed] = steps.claim(platform)
    [(_, asked)], _ = prepare(platform, [claimed])
    told = steps.failure(
        claimed, state=ItemState.READY, code=code, outcome=outcome, attempt=not wait, wait=wait,
        input_digest=asked.digest,
    )  # fmt: skip
    steps.settle_all(platform, [told])


def ask(platform: Platform) -> tuple[CallRequest, asking.Asked]:
    [asked], unasked = prepare(platform, steps.claim(platform))
    assert unasked == []
    return asked


def throttled(platform: Platform) -> None:
    ask_in_vain(platform, ErrorCode.RATE_LIMITED, outcome=CallOutcome.RETRY, wait=True)


def test_a_call_that_is_not_wanted_any_more_is_skipped_and_not_released(platform: Platform, batch: int) -> None:
    claims = steps.claim(platform)
    platform.execute("UPDATE transactions SET is_active = false")
    _, [settlement] = prepare(platform, claims)
    summary = Summary(run_id="r")
    for taken in (True, False):  # the second: somebody else ended the item meanwhile
        summary.note(settlement, taken)
    assert (summary.skipped, summary.released) == (1, 0)


def test_a_first_question_knows_of_no_earlier_answer(platform: Platform, batch: int) -> None:
    request, asked = ask(platform)
    assert (request.max_completion_tokens, asked.earlier) == (1_000, frozenset())


@pytest.mark.parametrize("code", [ErrorCode.EVIDENCE, ErrorCode.TRUNCATED])
def test_an_earlier_bad_answer_is_known_even_if_a_throttled_call_came_between(
    platform: Platform, batch: int, code: ErrorCode
) -> None:
    ask_in_vain(platform, code, outcome=CallOutcome.ANSWER)
    throttled(platform)
    request, asked = ask(platform)
    assert asked.earlier == {code}
    assert request.max_completion_tokens == (2_000 if code is ErrorCode.TRUNCATED else 1_000)


def test_an_answer_about_the_transaction_as_it_was_before_an_edit_does_not_count(
    platform: Platform, batch: int
) -> None:
    ask_in_vain(platform, ErrorCode.EVIDENCE, outcome=CallOutcome.ANSWER)
    platform.execute("UPDATE transactions SET notes = 'edited'")
    assert ask(platform)[1].earlier == frozenset()


def test_a_wait_alone_is_no_earlier_answer(platform: Platform, batch: int) -> None:
    throttled(platform)
    assert ask(platform)[1].earlier == frozenset()


@pytest.mark.parametrize(
    "withdrawal", ["status = 'cancelled'", "status = 'undone'", "deleted_date = created_date", "status = 'completed'"]
)
def test_a_batch_that_was_withdrawn_a_moment_ago_is_not_asked_about(
    platform: Platform, batch: int, withdrawal: str
) -> None:
    prompts = asking.Prompts()
    claims = steps.claim(platform)
    prepare(platform, claims, prompts)  # a run that has asked about this batch before knows its rules
    platform.execute(f"UPDATE transaction_audit_history SET {withdrawal}")
    requests, unasked = prepare(platform, claims, prompts)
    assert requests == []
    assert [one.skip_reason for one in unasked] == [SkipReason.BATCH_WITHDRAWN]
    steps.settle_all(platform, unasked)
    steps.reconcile(platform)
    assert platform.labels([1]) == {1: "null"}
    assert platform.rows("SELECT * FROM gepp_audit_items") == []
