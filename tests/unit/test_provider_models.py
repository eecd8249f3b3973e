"""What a model and its server accept, and how a request to them is written."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from gepp_audit.model import CallRequest
from gepp_audit.provider.models import DEFAULT_MODEL, capabilities, is_openai, shutdown_date
from gepp_audit.provider.request import encode_request, request_body

LOCAL = "http://127.0.0.1:9/v1"


def call(model: str = DEFAULT_MODEL, **changes: Any) -> CallRequest:
    values: dict[str, Any] = {
        "call_id": 1,
        "model": model,
        "prefix": "rules",
        "suffix": "ธุรกรรม",
        "schema": {"type": "object"},
        "schema_name": "audit",
        "max_completion_tokens": 900,
        "safety_identifier": "org-hash",
        "cache_key": "rules-hash",
        "send_before": 0.0,
    }
    return CallRequest(**(values | changes))


def body(model: str, base_url: str | None = None, **changes: Any) -> dict[str, Any]:
    encoded: dict[str, Any] = json.loads(encode_request(call(model, **changes), capabilities(model, base_url)))
    return encoded


def test_the_default_model_at_openai_gets_every_field() -> None:
    assert body(DEFAULT_MODEL) == {
        "model": "gpt-6-luna",
        "messages": [
            {
                "role": "developer",
                "content": [{"type": "text", "text": "rules", "prompt_cache_breakpoint": {"mode": "explicit"}}],
            },
            {"role": "user", "content": "ธุรกรรม"},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "audit", "strict": True, "schema": {"type": "object"}},
        },
        "max_completion_tokens": 900,
        "reasoning_effort": "low",
        "verbosity": "low",
        "store": False,
        "safety_identifier": "org-hash",
        "prompt_cache_key": "rules-hash",
        "prompt_cache_options": {"mode": "explicit"},
    }


def test_an_unknown_model_on_another_server_gets_only_what_every_server_accepts() -> None:
    assert body("qwen3", LOCAL) == {
        "model": "qwen3",
        "messages": [{"role": "system", "content": "rules"}, {"role": "user", "content": "ธุรกรรม"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "audit", "strict": True, "schema": {"type": "object"}},
        },
        "max_tokens": 900,
    }


def test_an_openai_model_behind_another_address_gets_its_fields_but_those_of_the_cache() -> None:
    sent = body(DEFAULT_MODEL, LOCAL)
    assert sent["messages"][0]["content"] == "rules"
    assert sorted(set(body(DEFAULT_MODEL)) - set(sent)) == ["prompt_cache_key", "prompt_cache_options"]


@pytest.mark.parametrize(
    ("model", "explicit"),
    [
        ("gpt-5.6-luna", True),
        ("gpt-6-luna", True),
        ("gpt-6.2-astra", True),
        ("gpt-5.10", True),
        ("ft:gpt-6-luna:acme::1", True),
        ("gpt-5.5", False),
        ("gpt-5.4-nano", False),
        ("gpt-5-nano", False),
        ("gpt-4o-mini", False),
        ("o3", False),
        ("something-else", False),
    ],
)
def test_explicit_cache_breakpoints_go_to_gpt_5_6_and_later_only(model: str, explicit: bool) -> None:
    sent = body(model)
    assert ("prompt_cache_options" in sent, isinstance(sent["messages"][0]["content"], list)) == (explicit, explicit)


@pytest.mark.parametrize(
    ("model", "effort", "verbosity", "role"),
    [
        ("gpt-6-luna", "low", "low", "developer"),
        ("openai/gpt-6-luna", "low", "low", "developer"),
        ("gpt-5.4-nano", "low", "low", "developer"),
        ("gpt-5-nano-2025-08-07", "low", "low", "developer"),
        ("gpt-5.1", "low", "low", "developer"),
        ("gpt-5.3-chat-latest", None, None, "developer"),
        ("o4-mini", "low", None, "developer"),
        ("gpt-4.1-mini", None, None, "system"),
        ("gpt-4o", None, None, "system"),
        ("gpt-oss-120b", None, None, "system"),
        ("", None, None, "system"),
    ],
)
def test_effort_and_verbosity_are_low_where_the_model_takes_them(
    model: str, effort: str | None, verbosity: str | None, role: str
) -> None:
    can = capabilities(model, LOCAL)
    assert (can.effort, can.verbosity, can.rules_role) == (effort, verbosity, role)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, True),
        ("https://api.openai.com/v1", True),
        ("https://API.OpenAI.com/v1/", True),
        ("https://eu.api.openai.com/v1", True),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com.evil.example/v1", False),
        ("https://api.openai.com@evil.example/v1", False),
        ("https://[bad/v1", False),
        (LOCAL, False),
    ],
)
def test_openai_itself_is_told_from_lookalikes(url: str | None, expected: bool) -> None:
    assert is_openai(url) is expected


@pytest.mark.parametrize(
    ("model", "day"),
    [
        ("gpt-5-nano", date(2026, 12, 11)),
        ("ft:gpt-4o-mini-2024-07-18:acme::1", date(2027, 1, 14)),
        ("gpt-5.4-nano", date(2027, 4, 1)),
        ("gpt-6-luna", None),
        ("never-heard-of", None),
    ],
)
def test_the_day_a_model_is_shut_down_is_known_or_none(model: str, day: date | None) -> None:
    assert shutdown_date(model) == day


def test_identifiers_are_cut_to_what_openai_takes() -> None:
    sent = request_body(call(cache_key="k" * 99, safety_identifier="s" * 199), capabilities(DEFAULT_MODEL, None))
    assert (len(sent["prompt_cache_key"]), len(sent["safety_identifier"])) == (64, 128)


def test_half_a_surrogate_pair_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode_request(call(suffix="\ud83d"), capabilities(DEFAULT_MODEL, None))
