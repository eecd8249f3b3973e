"""Why transactions of a batch failed, grouped by reason."""

from __future__ import annotations

from gepp_audit.audit.failure_words import FailureGroup, in_words, told
from gepp_audit.model import ErrorCode


def group(code: str, count: int, *ids: int) -> FailureGroup:
    return FailureGroup(error_code=code, count=count, transaction_ids=ids)


def test_the_largest_reason_comes_first_and_a_few_of_many_are_named() -> None:
    assert told([group("context_length_exceeded", 2, 7, 9), group("unreadable_answer", 40, 1, 2, 3, 4, 5)]) == (
        "42 transactions could not be audited: answer not readable: 40 (1, 2, 3, 4, 5 and 35 more); "
        "too long for the model: 2 (7, 9)."
    )


def test_one_is_told_as_one() -> None:
    assert told([group("crashed", 1, 3)]) == (
        "1 transaction could not be audited: three runs died while they worked on it: 1 (3)."
    )


def test_nothing_failed_nothing_is_told() -> None:
    assert told([]) is None


def test_every_way_to_fail_has_words_of_its_own() -> None:
    ends_no_item = {
        ErrorCode.RATE_LIMITED, ErrorCode.SERVER_ERROR, ErrorCode.TIMEOUT, ErrorCode.CONNECTION,
        ErrorCode.KEY_REJECTED, ErrorCode.QUOTA_EXHAUSTED, ErrorCode.MODEL_UNAVAILABLE, ErrorCode.REQUEST_REJECTED,
    }  # fmt: skip
    codes = [code.value for code in ErrorCode if code not in ends_no_item]
    words = [in_words(code) for code in codes]
    assert len(set(words)) == len(codes)
    assert [code for code, said in zip(codes, words, strict=True) if said == code.replace("_", " ")] == []


def test_a_code_of_a_newer_version_is_spelled_as_it_is() -> None:
    assert in_words("of_tomorrow") == "of tomorrow"
