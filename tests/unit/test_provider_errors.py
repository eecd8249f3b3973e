"""What each way of failing means: by code first, by status last, and never by what a hostile body wishes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.model import ErrorCode, Failure, FailureKind
from gepp_audit.provider.errors import MAX_RETRY_AFTER, ExceptionKind, classify
from gepp_audit.provider.meanings import BY_CODE, OUR_PARAMS
from tests.support.hostile_server import error

RETRY, ANSWER, ITEM, BLOCK = FailureKind.RETRY, FailureKind.ANSWER, FailureKind.ITEM, FailureKind.BLOCK
HTML = b"<html><body><h1>404 model not found</h1></body></html>"


def of(status: int, body: Any = b"", headers: dict[str, str] | None = None, **more: Any) -> Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(status, headers, raw, **more)


def verdict(failure: Failure) -> tuple[FailureKind, ErrorCode]:
    return failure.kind, failure.code


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        # retry
        (408, b"", (RETRY, ErrorCode.TIMEOUT)),
        (409, b"", (RETRY, ErrorCode.SERVER_ERROR)),
        (429, error("rate_limit_exceeded", type_="requests"), (RETRY, ErrorCode.RATE_LIMITED)),
        (429, error("slow_down"), (RETRY, ErrorCode.RATE_LIMITED)),
        (503, error("slow_down", type_="service_unavailable_error"), (RETRY, ErrorCode.RATE_LIMITED)),
        (429, error("flex_unavailable"), (RETRY, ErrorCode.RATE_LIMITED)),
        (429, b"", (RETRY, ErrorCode.RATE_LIMITED)),
        (429, HTML, (RETRY, ErrorCode.RATE_LIMITED)),
        (500, error("server_error", type_="server_error"), (RETRY, ErrorCode.SERVER_ERROR)),
        (502, HTML, (RETRY, ErrorCode.SERVER_ERROR)),
        (503, error(503, type_=None), (RETRY, ErrorCode.SERVER_ERROR)),
        (529, {"type": "error", "error": {"type": "overloaded_error"}}, (RETRY, ErrorCode.SERVER_ERROR)),
        # item
        (400, error("context_length_exceeded", param="messages"), (ITEM, ErrorCode.CONTEXT_LENGTH)),
        (400, error("string_above_max_length", param="messages[1].content"), (ITEM, ErrorCode.CONTEXT_LENGTH)),
        (413, b"", (ITEM, ErrorCode.CONTEXT_LENGTH)),
        (400, error("invalid_image", param="messages"), (ITEM, ErrorCode.INVALID_INPUT)),
        (400, error("unreadable_image_file"), (ITEM, ErrorCode.INVALID_INPUT)),
        (400, error("invalid_value", param="messages[1].content"), (ITEM, ErrorCode.INVALID_INPUT)),
        (400, error("invalid_prompt"), (ITEM, ErrorCode.POLICY)),
        (403, error("content_policy_violation"), (ITEM, ErrorCode.POLICY)),
        (403, error("some_new_policy_refusal"), (ITEM, ErrorCode.POLICY)),
        (403, {"error": {"code": 403, "message": "x", "metadata": {"reasons": ["hate"]}}}, (ITEM, ErrorCode.POLICY)),
        # block
        (401, b"", (BLOCK, ErrorCode.KEY_REJECTED)),
        (401, error("invalid_api_key"), (BLOCK, ErrorCode.KEY_REJECTED)),
        (401, HTML, (BLOCK, ErrorCode.KEY_REJECTED)),
        (403, error(None, type_="insufficient_permissions"), (BLOCK, ErrorCode.KEY_REJECTED)),
        (403, error("unsupported_country_region_territory"), (BLOCK, ErrorCode.KEY_REJECTED)),
        (403, HTML, (BLOCK, ErrorCode.KEY_REJECTED)),
        (404, error("model_not_found"), (BLOCK, ErrorCode.MODEL_UNAVAILABLE)),
        (403, error("model_not_found"), (BLOCK, ErrorCode.MODEL_UNAVAILABLE)),
        (400, error("model_not_found", param="model"), (BLOCK, ErrorCode.MODEL_UNAVAILABLE)),
        (429, error("insufficient_quota", type_="insufficient_quota"), (BLOCK, ErrorCode.QUOTA_EXHAUSTED)),
        (429, error("credit_balance_exhausted"), (BLOCK, ErrorCode.QUOTA_EXHAUSTED)),
        (429, error("project_spend_limit_exceeded"), (BLOCK, ErrorCode.QUOTA_EXHAUSTED)),
        (429, error("some_new_billing_limit"), (BLOCK, ErrorCode.QUOTA_EXHAUSTED)),
        (429, error(None, type_="insufficient_quota"), (BLOCK, ErrorCode.QUOTA_EXHAUSTED)),
        (402, b"", (BLOCK, ErrorCode.QUOTA_EXHAUSTED)),
        (400, error("unsupported_value", param="reasoning_effort"), (BLOCK, ErrorCode.REQUEST_REJECTED)),
        (400, error("string_above_max_length", param="prompt_cache_key"), (BLOCK, ErrorCode.REQUEST_REJECTED)),
        (400, error("invalid_value", param="messages[0].content[0]"), (BLOCK, ErrorCode.REQUEST_REJECTED)),
        (400, error("invalid_value", param="safety_identifier"), (BLOCK, ErrorCode.REQUEST_REJECTED)),
        (400, b"", (BLOCK, ErrorCode.REQUEST_REJECTED)),
        (422, {"detail": [{"loc": ["body", "store"]}]}, (BLOCK, ErrorCode.REQUEST_REJECTED)),
        (407, HTML, (BLOCK, ErrorCode.REQUEST_REJECTED)),
        (302, b"", (BLOCK, ErrorCode.REQUEST_REJECTED)),
        (418, b"", (BLOCK, ErrorCode.REQUEST_REJECTED)),
        # answer
        (204, b"", (ANSWER, ErrorCode.UNREADABLE)),
    ],
)
def test_a_response_is_classified_on_purpose(status: int, body: Any, expected: tuple[FailureKind, ErrorCode]) -> None:
    assert verdict(of(status, body)) == expected


@pytest.mark.parametrize("field", sorted(OUR_PARAMS - {"model"}))
def test_a_400_that_names_a_field_of_ours_blocks(field: str) -> None:
    assert verdict(of(400, error("whatever_code", param=field))) == (BLOCK, ErrorCode.REQUEST_REJECTED)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        HTML,
        {"detail": "Not Found"},
        error(None, message="Invalid URL (POST /v1/v1/chat/completions)"),
        error(404, message="not here"),
        {"error": "path not found"},
    ],
)
def test_a_missing_route_is_not_an_unknown_model(body: Any) -> None:
    failure = of(404, body)
    assert verdict(failure) == (BLOCK, ErrorCode.REQUEST_REJECTED)
    assert "base URL has no such route" in failure.message


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": 'model "x" not found, try pulling it first', "type": "api_error", "code": None}},
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
        {"error": {"message": "no", "param": "model", "code": None}},
        {"error": 'model "x" not found'},
    ],
)
def test_a_compatible_server_tells_of_an_unknown_model_in_prose(body: Any) -> None:
    assert verdict(of(404, body)) == (BLOCK, ErrorCode.MODEL_UNAVAILABLE)


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "This model's maximum context length is 4096 tokens", "code": 400},
        {"error": {"code": 400, "message": "too big", "type": "exceed_context_size_error"}},
        {"error": "the request exceeds the available context size"},
    ],
)
def test_a_compatible_server_tells_of_a_full_context_without_a_code(body: Any) -> None:
    assert verdict(of(400, body)) == (ITEM, ErrorCode.CONTEXT_LENGTH)


def test_an_unspecific_400_is_about_the_transaction_once_others_were_accepted() -> None:
    assert verdict(of(400, b"bad", accepted_before=True)) == (ITEM, ErrorCode.INVALID_INPUT)


def test_a_400_that_names_our_field_blocks_even_after_others_were_accepted() -> None:
    failure = of(400, error("unsupported_parameter", param="verbosity"), accepted_before=True)
    assert verdict(failure) == (BLOCK, ErrorCode.REQUEST_REJECTED)


def test_an_error_body_that_is_a_list_is_read() -> None:
    assert verdict(of(429, [error("insufficient_quota")])) == (BLOCK, ErrorCode.QUOTA_EXHAUSTED)


def test_an_error_body_that_is_a_bare_code_is_read() -> None:
    assert verdict(of(429, "insufficient_quota")) == (BLOCK, ErrorCode.QUOTA_EXHAUSTED)


def test_a_code_written_with_hyphens_and_capitals_is_the_same_code() -> None:
    assert verdict(of(429, error("Insufficient-Quota"))) == (BLOCK, ErrorCode.QUOTA_EXHAUSTED)


def test_the_code_outweighs_status_and_type() -> None:
    failure = of(500, error("insufficient_quota", type_="server_error"))
    assert verdict(failure) == (BLOCK, ErrorCode.QUOTA_EXHAUSTED)


def test_an_error_under_a_status_of_200_is_judged_by_the_status_it_carries() -> None:
    assert verdict(of(200, {"error": {"code": 502, "message": "upstream"}})) == (RETRY, ErrorCode.SERVER_ERROR)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Tue, 24 Nov 2026 10:00:30 GMT", "date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "1e9"}, MAX_RETRY_AFTER),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "never"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_the_wait_that_the_provider_asks_for_is_read(headers: dict[str, str], expected: float | None) -> None:
    assert of(429, error("rate_limit_exceeded"), headers, now=10.0).retry_after == expected


def test_money_that_is_gone_blocks_even_with_a_retry_after() -> None:
    failure = of(429, error("insufficient_quota"), {"retry-after": "5"})
    assert (failure.kind, failure.retry_after) == (BLOCK, None)


@pytest.mark.parametrize(
    ("status", "body", "said", "expected"),
    [
        (400, b"", "true", (RETRY, ErrorCode.SERVER_ERROR)),
        (404, HTML, "true", (RETRY, ErrorCode.SERVER_ERROR)),
        (401, b"", "true", (BLOCK, ErrorCode.KEY_REJECTED)),
        (429, error("insufficient_quota"), "true", (BLOCK, ErrorCode.QUOTA_EXHAUSTED)),
        (400, error("context_length_exceeded"), "true", (ITEM, ErrorCode.CONTEXT_LENGTH)),
        (500, b"", "false", (ANSWER, ErrorCode.SERVER_ERROR)),
        (409, b"", "false", (ANSWER, ErrorCode.SERVER_ERROR)),
        (429, b"", "false", (BLOCK, ErrorCode.QUOTA_EXHAUSTED)),
        (429, error("rate_limit_exceeded"), "false", (RETRY, ErrorCode.RATE_LIMITED)),
    ],
)
def test_x_should_retry_is_heeded_where_it_makes_sense(
    status: int, body: Any, said: str, expected: tuple[FailureKind, ErrorCode]
) -> None:
    assert verdict(of(status, body, {"X-Should-Retry": said})) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ExceptionKind.TIMEOUT, (RETRY, ErrorCode.TIMEOUT)),
        (ExceptionKind.NOT_CONNECTED, (RETRY, ErrorCode.CONNECTION)),
        (ExceptionKind.NAME_RESOLUTION, (RETRY, ErrorCode.CONNECTION)),
        (ExceptionKind.CERTIFICATE, (RETRY, ErrorCode.CONNECTION)),
        (ExceptionKind.CONNECTION, (RETRY, ErrorCode.CONNECTION)),
        (ExceptionKind.TOO_LARGE, (ANSWER, ErrorCode.UNREADABLE)),
        (ExceptionKind.UNDECODABLE, (ANSWER, ErrorCode.UNREADABLE)),
        (ExceptionKind.UNEXPECTED, (ANSWER, ErrorCode.UNREADABLE)),
    ],
)
def test_a_call_without_a_response_is_classified(kind: ExceptionKind, expected: tuple[FailureKind, ErrorCode]) -> None:
    assert verdict(classify(None, None, None, kind)) == expected


def test_every_block_says_what_to_do() -> None:
    told = {code: of(400, error(code)).message for code, meaning in BY_CODE.items() if meaning.kind is BLOCK}
    assert {code for code, message in told.items() if message.count(".") < 2 and "). " not in message} == set()


SECRET = "sk-secret-0123456789"
tokens = st.one_of(st.none(), st.text(), st.integers(), st.sampled_from(sorted(BY_CODE)), st.just(SECRET))
json_values = st.recursive(tokens, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
error_objects = st.fixed_dictionaries(
    {},
    optional={
        "code": json_values,
        "type": json_values,
        "param": st.one_of(json_values, st.sampled_from(sorted(OUR_PARAMS))),
        "message": json_values,
        "metadata": json_values,
    },
)
bodies = st.one_of(
    st.none(),
    st.binary(),
    json_values.map(lambda value: json.dumps(value).encode()),
    error_objects.map(lambda value: json.dumps(value).encode()),
    error_objects.map(lambda value: json.dumps({"error": value}).encode()),
    st.just(b"[" * 200_000),
    st.just(b"9" * 10_000),
)
header_names = st.sampled_from(["retry-after", "Retry-After-Ms", "x-should-retry", "Date", "x-request-id"])
headers_of_any_kind = st.one_of(st.none(), st.dictionaries(header_names | st.text(), st.text() | st.just(SECRET)))


@given(st.none() | st.integers(0, 999), headers_of_any_kind, bodies, st.booleans())
def test_whatever_a_server_sends_is_a_failure_in_our_own_words(
    status: int | None, headers: dict[str, str] | None, body: bytes | None, accepted: bool
) -> None:
    failure = classify(status, headers, body, now=1e9, accepted_before=accepted)
    assert failure.retry_after is None or 0 <= failure.retry_after <= MAX_RETRY_AFTER
    assert SECRET not in repr(failure)
    assert failure.message.endswith(".")
    assert failure.kind is RETRY or failure.retry_after is None


@given(st.integers(500, 599), st.binary())
def test_an_unreadable_server_error_is_always_retried(status: int, body: bytes) -> None:
    assert of(status, b"\xff" + body).kind is RETRY
