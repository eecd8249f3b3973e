"""Every failure that the simulator can be told, once: what the OpenAI SDK makes of it, and what we do.

Each named failure stands in exactly one table; a name that is missing there fails the last test.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import openai
import pytest

from gepp_audit.audit.answer import BadAnswer, parse_answer
from gepp_audit.audit.prompt import compile_rules, render_transaction
from gepp_audit.audit.verdict import judge
from gepp_audit.model import ErrorCode, FailureKind, Rule, RuleAction, VerdictStatus
from gepp_audit.provider.errors import classify
from gepp_audit.provider.response import ReadAnswer, read_answer
from scripts.simulator_lib.presets import PRESETS
from tests.support.processes import Simulator, running_simulator
from tests.support.secrets import TEST_API_KEY

REJECT = RuleAction(type="system_action", action="reject")
PROMPT = compile_rules(
    Rule(rule_id=f"DC-0{number}", rule_type="accuracy", name="weights and amounts", actions=(REJECT,))
    for number in (1, 2, 3)
)
#: 5 kg, recorded as 50: DC-01 is broken
SENT: dict[str, Any] = {
    "transaction_id": "7",
    "weight_kg": "50",
    "total_amount": "47.5",
    "records": [
        {
            "record_id": 71,
            "material": "PET",
            "origin_quantity": "5",
            "origin_weight_kg": "5",
            "origin_price_per_unit": "9.5",
            "total_amount": "47.5",
        }
    ],
}
QUESTION: dict[str, Any] = {
    "model": "gpt-6-luna",
    "messages": [
        {"role": "developer", "content": PROMPT.prefix},
        {"role": "user", "content": render_transaction(SENT, "a1")},
    ],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": PROMPT.schema_name, "strict": True, "schema": PROMPT.schema},
    },
}

RETRY, ANSWER, ITEM, BLOCK = FailureKind.RETRY, FailureKind.ANSWER, FailureKind.ITEM, FailureKind.BLOCK

#: a response of another status than 200: the status, and what we make of it
REFUSALS: dict[str, tuple[int, FailureKind, ErrorCode]] = {
    "rate_limited": (429, RETRY, ErrorCode.RATE_LIMITED),
    "rate_limited_ms": (429, RETRY, ErrorCode.RATE_LIMITED),
    "rate_limited_until": (429, RETRY, ErrorCode.RATE_LIMITED),
    "rate_limited_bare": (429, RETRY, ErrorCode.RATE_LIMITED),
    "slow_down": (503, RETRY, ErrorCode.RATE_LIMITED),
    "flex_unavailable": (429, RETRY, ErrorCode.RATE_LIMITED),
    "request_timeout": (408, RETRY, ErrorCode.TIMEOUT),
    "conflict": (409, RETRY, ErrorCode.SERVER_ERROR),
    "server_error": (500, RETRY, ErrorCode.SERVER_ERROR),
    "bad_gateway": (502, RETRY, ErrorCode.SERVER_ERROR),
    "overloaded": (503, RETRY, ErrorCode.SERVER_ERROR),
    "gateway_timeout": (504, RETRY, ErrorCode.SERVER_ERROR),
    # the server says that the same request will not succeed later
    "server_error_final": (500, ANSWER, ErrorCode.SERVER_ERROR),
    "should_retry": (400, RETRY, ErrorCode.SERVER_ERROR),
    "context_length": (400, ITEM, ErrorCode.CONTEXT_LENGTH),
    "invalid_image": (400, ITEM, ErrorCode.INVALID_INPUT),
    "policy": (403, ITEM, ErrorCode.POLICY),
    "invalid_prompt": (400, ITEM, ErrorCode.POLICY),
    "key_rejected": (401, BLOCK, ErrorCode.KEY_REJECTED),
    "key_rejected_bare": (401, BLOCK, ErrorCode.KEY_REJECTED),
    "access_denied": (403, BLOCK, ErrorCode.KEY_REJECTED),
    "country": (403, BLOCK, ErrorCode.KEY_REJECTED),
    "quota_exhausted": (429, BLOCK, ErrorCode.QUOTA_EXHAUSTED),
    "quota_with_retry_after": (429, BLOCK, ErrorCode.QUOTA_EXHAUSTED),
    "billing_limit": (429, BLOCK, ErrorCode.QUOTA_EXHAUSTED),
    "model_not_found": (404, BLOCK, ErrorCode.MODEL_UNAVAILABLE),
    "unknown_route": (404, BLOCK, ErrorCode.REQUEST_REJECTED),
    "unknown_route_bare": (404, BLOCK, ErrorCode.REQUEST_REJECTED),
    "request_rejected": (400, BLOCK, ErrorCode.REQUEST_REJECTED),
    "schema_rejected": (400, BLOCK, ErrorCode.REQUEST_REJECTED),
    "redirect": (308, BLOCK, ErrorCode.REQUEST_REJECTED),
    "string_error": (500, RETRY, ErrorCode.SERVER_ERROR),
    "integer_code": (503, RETRY, ErrorCode.SERVER_ERROR),
    "error_as_text": (500, RETRY, ErrorCode.SERVER_ERROR),
    "no_content": (204, ANSWER, ErrorCode.UNREADABLE),
}

#: a 200 from which no verdict may follow: the failure, found in the completion or in the answer
SPOILED: dict[str, ErrorCode] = {
    "error_in_ok": ErrorCode.SERVER_ERROR,
    "not_json": ErrorCode.UNREADABLE,
    "html": ErrorCode.UNREADABLE,
    "empty_object": ErrorCode.UNREADABLE,
    "empty_body": ErrorCode.UNREADABLE,
    "json_list": ErrorCode.UNREADABLE,
    "no_choices": ErrorCode.UNREADABLE,
    "null_choices": ErrorCode.UNREADABLE,
    "empty_choices": ErrorCode.UNREADABLE,
    "two_choices": ErrorCode.UNREADABLE,
    "null_message": ErrorCode.UNREADABLE,
    "null_content": ErrorCode.UNREADABLE,
    "no_finish_reason": ErrorCode.UNREADABLE,
    "null_finish_reason": ErrorCode.UNREADABLE,
    "refusal": ErrorCode.REFUSED,
    "length_complete": ErrorCode.TRUNCATED,
    "length_cut": ErrorCode.TRUNCATED,
    "length_empty": ErrorCode.TRUNCATED,
    "content_filter": ErrorCode.CONTENT_FILTER,
    "cut_answer": ErrorCode.UNREADABLE,
    "empty_answer": ErrorCode.INCOMPLETE,
    "no_answer": ErrorCode.UNREADABLE,
    "prose": ErrorCode.UNREADABLE,
    "fenced": ErrorCode.UNREADABLE,
    "prose_around": ErrorCode.UNREADABLE,
    "twice": ErrorCode.UNREADABLE,
    "duplicate_key": ErrorCode.UNREADABLE,
    "nul_character": ErrorCode.UNREADABLE,
    "half_character": ErrorCode.UNREADABLE,
    "deep": ErrorCode.UNREADABLE,
    "huge_number": ErrorCode.UNREADABLE,
    "foreign_transaction": ErrorCode.WRONG_TRANSACTION,
    "unknown_rule": ErrorCode.UNKNOWN_RULE,
    "missing_rule": ErrorCode.INCOMPLETE,
    "missing_rules": ErrorCode.INCOMPLETE,
    "unknown_outcome": ErrorCode.INCOMPLETE,
    "fail_without_finding": ErrorCode.INCOMPLETE,
    "pass_against_finding": ErrorCode.INCOMPLETE,
    "wrong_evidence": ErrorCode.EVIDENCE,
    "wrong_evidence_once": ErrorCode.EVIDENCE,
    "unknown_record": ErrorCode.EVIDENCE,
    "no_evidence": ErrorCode.EVIDENCE,
}

#: a 200 that is a complete answer all the same: the verdict, and the tokens that are known of it
ANSWERED: dict[str, tuple[VerdictStatus, bool]] = {
    "no_usage": (VerdictStatus.REJECTED, False),
    "null_usage": (VerdictStatus.REJECTED, False),
    "odd_usage": (VerdictStatus.REJECTED, False),
    "no_model": (VerdictStatus.REJECTED, True),
    # a model that lies in good form cannot be told from one that is right
    "all_pass": (VerdictStatus.APPROVED, True),
}

CONNECTIONS = frozenset({"hang", "hang_up", "drip", "cut", "slow"})


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(server: Simulator) -> Simulator:
    """The one of this module, as freshly started."""
    server.reset()
    return server


@pytest.fixture
def client(simulator: Simulator) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(follow_redirects=False)
    with openai.OpenAI(
        api_key=TEST_API_KEY, base_url=f"{simulator.url}/v1", max_retries=0, timeout=20, http_client=http
    ) as client:
        yield client


def ask(client: openai.OpenAI) -> tuple[int, Any, bytes]:
    """Status, headers and body of one response, as the SDK has them."""
    try:
        raw = client.chat.completions.with_raw_response.create(**QUESTION)
    except openai.APIStatusError as error:
        return error.status_code, error.response.headers, error.response.content
    return raw.status_code, raw.headers, raw.content


def verdict_of(read: ReadAnswer) -> VerdictStatus:
    """Raises BadAnswer."""
    answer = parse_answer(
        read.text or "", transaction_id=7, rules=PROMPT.rules, payload=SENT, evidence_failed_before=False
    )
    return judge(answer, PROMPT.rules).status


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_has_its_status_and_its_meaning(name: str, client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": name}])
    status, headers, body = ask(client)
    failure = classify(status, headers, body)
    expected_status, kind, code = REFUSALS[name]
    assert (status, failure.kind, failure.code) == (expected_status, kind, code)
    assert [call["action"] for call in simulator.calls()] == [name]


@pytest.mark.parametrize("name", SPOILED)
def test_from_a_spoiled_answer_no_verdict_follows(name: str, client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": name}])
    status, _, body = ask(client)
    read = read_answer(body)
    if read.failure is not None:
        found = read.failure.code
    else:
        with pytest.raises(BadAnswer) as caught:
            verdict_of(read)
        found = caught.value.code
    assert (status, found) == (200, SPOILED[name])


@pytest.mark.parametrize("name", ANSWERED)
def test_what_is_still_a_whole_answer_is_taken(name: str, client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": name}])
    read = read_answer(ask(client)[2])
    assert (verdict_of(read), read.usage.input_tokens is not None) == ANSWERED[name]


def test_without_a_scenario_the_transaction_is_rejected(client: openai.OpenAI) -> None:
    assert verdict_of(read_answer(ask(client)[2])) is VerdictStatus.REJECTED


def test_evidence_that_is_wrong_once_is_right_the_second_time(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": "wrong_evidence_once"}])
    ask(client)
    assert verdict_of(read_answer(ask(client)[2])) is VerdictStatus.REJECTED


# -- how long to wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "seconds"),
    [
        ("rate_limited", 1.0),
        ("rate_limited_ms", 0.15),
        ({"preset": "rate_limited_bare", "headers": {"Retry-After": 7}}, 7.0),
        ("rate_limited_bare", None),
        ("quota_with_retry_after", None),
    ],
)
def test_the_wish_to_wait_is_told(do: Any, seconds: float | None, client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": do}])
    assert classify(*ask(client)).retry_after == seconds


def test_a_wait_can_be_a_date(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": {"preset": "rate_limited_until", "retry_after_date": 30}}])
    headers = ask(client)[1]
    wait = parsedate_to_datetime(headers["Retry-After"]) - parsedate_to_datetime(headers["Date"])
    assert 29 <= wait.total_seconds() <= 31


def test_a_message_can_quote_the_key_as_some_servers_do(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": "key_rejected"}])
    status, headers, body = ask(client)
    quoted, told = TEST_API_KEY.encode() in body, TEST_API_KEY in classify(status, headers, body).message
    assert (quoted, told) == (True, False)


# -- connections -----------------------------------------------------------------------------------------------------


def ending(simulator: Simulator) -> str:
    told: str = simulator.calls()[0]["ending"]
    return told


def test_a_call_that_hangs_runs_into_the_timeout(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": "hang"}])
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(**QUESTION)
    assert simulator.calls()[0]["answered"] is None


def test_a_connection_that_is_hung_up_brings_nothing(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": "hang_up"}])
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert ending(simulator) == "hung_up"


def test_a_body_that_is_cut_is_an_error_of_the_connection(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": "cut"}])
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert ending(simulator) == "cut"


def test_a_body_that_drips_takes_its_time_and_is_whole(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": {"preset": "drip", "drip_seconds": 0.3}}])
    assert verdict_of(read_answer(ask(client)[2])) is VerdictStatus.REJECTED
    call = simulator.calls()[0]
    assert call["answered"] - call["received"] >= 0.29


def test_an_answer_can_be_slow(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": {"preset": "slow", "extra_latency_ms": 100}}])
    assert verdict_of(read_answer(ask(client)[2])) is VerdictStatus.REJECTED
    call = simulator.calls()[0]
    assert call["answered"] - call["received"] >= 0.099


def test_chance_follows_the_seed_and_not_the_order(client: openai.OpenAI, simulator: Simulator) -> None:
    def hit(ids: list[int]) -> dict[int, str | None]:
        simulator.reset()
        simulator.scenario([{"match": {"probability": 0.5}, "do": "no_usage"}])
        for id_ in ids:
            text = render_transaction(SENT | {"transaction_id": str(id_)}, "a1")
            client.chat.completions.create(
                **(QUESTION | {"messages": [QUESTION["messages"][0], {"role": "user", "content": text}]})
            )
        return {int(call["transaction_id"]): call["action"] for call in simulator.calls()}

    ids = list(range(20))
    first = hit(ids)
    assert (hit(ids[::-1]), set(first.values())) == (first, {None, "no_usage"})


def test_every_named_failure_is_tried_here() -> None:
    assert PRESETS.keys() == REFUSALS.keys() | SPOILED.keys() | ANSWERED.keys() | CONNECTIONS
