"""What a failed call means for its item."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.model import ErrorCode, Failure, FailureKind, ItemState
from gepp_audit.queue.retry_policy import LONGEST_BACKOFF, LONGEST_OUTAGE, Counters, Decision, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def failure(kind: FailureKind, retry_after: float | None = None, code: ErrorCode = ErrorCode.SERVER_ERROR) -> Failure:
    return Failure(kind=kind, code=code, message="it failed", retry_after=retry_after)


def decided(
    kind: FailureKind,
    *,
    attempts: int = 0,
    waits: int = 0,
    first_failed_at: datetime | None = None,
    chance: float = 0.5,
    retry_after: float | None = None,
    code: ErrorCode = ErrorCode.SERVER_ERROR,
) -> Decision:
    counters = Counters(attempts=attempts, waits=waits, first_failed_at=first_failed_at)
    failed = failure(kind, retry_after, code)
    return decide(failed, counters, moment=NOW, chance=chance, max_attempts=3, first_backoff=2.0)


def test_the_third_bad_answer_ends_the_item() -> None:
    states = [decided(FailureKind.ANSWER, attempts=attempts).state for attempts in (0, 1, 2)]
    assert states == [ItemState.READY, ItemState.READY, ItemState.FAILED]


def test_what_cannot_be_read_at_all_is_not_asked_for_again_at_once() -> None:
    tried = [
        decided(FailureKind.ANSWER, code=ErrorCode.UNREADABLE, attempts=attempts, chance=chance)
        for attempts in (0, 1, 2)
        for chance in (0.0, 0.999)
    ]
    assert [round(one.delay, 1) for one in tried] == [2.0, 4.0, 4.0, 8.0, 0.0, 0.0]
    assert {(one.attempt, one.wait) for one in tried} == {(True, False)}


@pytest.mark.parametrize("code", [ErrorCode.EVIDENCE, ErrorCode.TRUNCATED, ErrorCode.INCOMPLETE, ErrorCode.REFUSED])
def test_any_other_bad_answer_is_asked_for_again_at_once(code: ErrorCode) -> None:
    assert decided(FailureKind.ANSWER, code=code).delay == 0.0


def test_a_provider_that_is_down_costs_no_attempt() -> None:
    decision = decided(FailureKind.RETRY, attempts=2, waits=50)
    assert (decision.state, decision.attempt, decision.wait) == (ItemState.READY, False, True)


def test_a_provider_that_is_down_for_a_day_ends_the_item() -> None:
    decision = decided(FailureKind.RETRY, waits=3, first_failed_at=NOW - LONGEST_OUTAGE - timedelta(seconds=1))
    assert (decision.state, decision.code) == (ItemState.FAILED, ErrorCode.PROVIDER_UNAVAILABLE)


def test_a_pause_of_a_day_is_no_outage_of_the_provider() -> None:
    decision = decided(FailureKind.RETRY, attempts=1, first_failed_at=NOW - LONGEST_OUTAGE - timedelta(seconds=1))
    assert decision.state is ItemState.READY


def test_an_item_that_cannot_be_asked_ends_at_once() -> None:
    assert decided(FailureKind.ITEM).state is ItemState.FAILED


def test_a_refused_key_costs_the_item_nothing() -> None:
    decision = decided(FailureKind.BLOCK, attempts=2)
    assert (decision.state, decision.attempt, decision.wait, decision.delay) == (ItemState.READY, False, False, 0.0)


def test_the_backoff_doubles_from_the_first_wait_on() -> None:
    assert [decided(FailureKind.RETRY, waits=waits).delay for waits in (0, 1, 2)] == [1.0, 2.0, 4.0]


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 100_000))
def test_the_wait_is_jittered_bounded_and_never_shorter_than_the_provider_asked(
    waits: int, chance: float, retry_after: float | None
) -> None:
    delay = decided(FailureKind.RETRY, waits=waits, chance=chance, retry_after=retry_after).delay
    assert (retry_after or 0.0) <= delay <= max(LONGEST_BACKOFF, retry_after or 0.0)
