"""The body of a 200 is hostile: only one complete chat completion yields a text, and every one its tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.model import ErrorCode, FailureKind, Usage
from gepp_audit.provider.response import read_answer, read_usage
from tests.support.hostile_server import choice, completion

PAID = Usage(input_tokens=1500, cached_tokens=1024, cache_write_tokens=256, output_tokens=90, reasoning_tokens=40)
TEXT = '{"rules": {"DC-01": "pass"}}'


def raw(body: Any) -> bytes:
    return json.dumps(body).encode()


def test_a_complete_answer_yields_its_text_and_who_gave_it() -> None:
    answer = read_answer(raw(completion(TEXT)))
    assert (answer.text, answer.failure, answer.model, answer.tier, answer.usage) == (
        TEXT,
        None,
        "hostile-1",
        "default",
        PAID,
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (completion(choices=[choice(TEXT, finish_reason="length")]), ErrorCode.TRUNCATED),
        (completion(choices=[choice("", finish_reason="length")]), ErrorCode.TRUNCATED),
        (completion(choices=[choice(None, finish_reason="length")]), ErrorCode.TRUNCATED),
        (completion(choices=[choice(TEXT, finish_reason="content_filter")]), ErrorCode.CONTENT_FILTER),
        (completion(choices=[choice(None, refusal="I will not")]), ErrorCode.REFUSED),
        (completion(choices=[choice(TEXT, refusal="I will not")]), ErrorCode.REFUSED),
        (completion(choices=[choice(TEXT, finish_reason=None)]), ErrorCode.UNREADABLE),
        (completion(choices=[choice(TEXT, finish_reason="tool_calls")]), ErrorCode.UNREADABLE),
        (completion(choices=[choice(TEXT, finish_reason=["stop"])]), ErrorCode.UNREADABLE),
        (completion(choices=[choice(None)]), ErrorCode.UNREADABLE),
        (completion(choices=[choice("  \n")]), ErrorCode.UNREADABLE),
        (completion(choices=[choice([{"type": "text", "text": TEXT}])]), ErrorCode.UNREADABLE),
        (completion(choices=[choice({"rules": {}})]), ErrorCode.UNREADABLE),
        (completion(choices=[choice("a\x00b")]), ErrorCode.UNREADABLE),
        (completion(choices=[choice("half \ud83d")]), ErrorCode.UNREADABLE),
        (completion(choices=[{"index": 0, "message": None, "finish_reason": "stop"}]), ErrorCode.UNREADABLE),
        (completion(choices=[{"index": 0, "finish_reason": "stop"}]), ErrorCode.UNREADABLE),
        (completion(choices=[choice(TEXT), choice(TEXT)]), ErrorCode.UNREADABLE),
        (completion(choices=[]), ErrorCode.UNREADABLE),
        (completion(choices=[None]), ErrorCode.UNREADABLE),
        (completion(choices=None), ErrorCode.UNREADABLE),
        (completion(choices={"0": choice(TEXT)}), ErrorCode.UNREADABLE),
    ],
)
def test_an_answer_that_is_none_fails_and_keeps_its_tokens(body: Any, code: ErrorCode) -> None:
    answer = read_answer(raw(body))
    assert answer.failure is not None
    assert (answer.text, answer.failure.kind, answer.failure.code, answer.usage) == (
        None,
        FailureKind.ANSWER,
        code,
        PAID,
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ok",
        b"<html>busy</html>",
        b"data: {}\n\n",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b'{"usage": ' + b"9" * 5000,
        raw(completion(TEXT))[:-1],
    ],
)
def test_a_body_that_is_no_completion_is_unreadable(body: bytes) -> None:
    answer = read_answer(body)
    assert answer.failure is not None
    assert (answer.text, answer.failure.code, answer.accepted) == (None, ErrorCode.UNREADABLE, False)


def test_an_error_reported_under_a_200_is_classified_as_that_error() -> None:
    answer = read_answer(raw({"error": {"code": "insufficient_quota", "message": "pay"}}))
    assert answer.failure is not None
    assert answer.failure.code is ErrorCode.QUOTA_EXHAUSTED


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ("many", Usage()),
        ([], Usage()),
        ({}, Usage()),
        ({"prompt_tokens": None, "completion_tokens": 7}, Usage(output_tokens=7)),
        ({"prompt_tokens": "12", "completion_tokens": -1}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, Usage()),
        ({"prompt_tokens": 10**30}, Usage()),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(input_tokens=0, output_tokens=0)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 11}}, Usage(input_tokens=10)),
        (
            {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 3}},
            Usage(input_tokens=10, cached_tokens=8),
        ),
        ({"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 4}}, Usage(output_tokens=3)),
        ({"prompt_tokens": 1, "prompt_tokens_details": "none"}, Usage(input_tokens=1)),
    ],
)
def test_what_is_not_a_count_is_unknown_and_not_zero(usage: Any, expected: Usage) -> None:
    assert read_usage(usage) == expected


@pytest.mark.parametrize("name", [None, 7, "", "a\nb", "x" * 101, "ไทย", {"model": "x"}])
def test_a_model_name_that_is_no_plain_name_is_dropped(name: Any) -> None:
    assert read_answer(raw(completion(TEXT, model=name))).model is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["stop", "length", TEXT]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
choices = st.fixed_dictionaries(
    {}, optional={"finish_reason": anything, "message": anything | st.fixed_dictionaries({"content": anything})}
)
completions = st.fixed_dictionaries(
    {}, optional={"choices": anything | st.lists(choices, max_size=2), "usage": anything, "model": anything}
)


@given(st.binary() | completions.map(raw))
def test_no_body_makes_it_raise_and_each_yields_either_text_or_failure(body: bytes) -> None:
    answer = read_answer(body)
    assert (answer.text is None) != (answer.failure is None)


@given(completions)
def test_a_text_needs_a_choice_that_says_stop(body: dict[str, Any]) -> None:
    answer = read_answer(raw(body))
    if answer.text is not None:
        assert body["choices"][0]["finish_reason"] == "stop"
