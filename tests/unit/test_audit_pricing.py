"""What a call costs, and when that is not known."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.audit.pricing import PRICES_READ, PRICES_SOURCE, Price, cost, parse_overrides
from gepp_audit.model import Usage


def usage(
    input_tokens: int | None = 2_000,
    output_tokens: int | None = 100,
    cached: int | None = 1_500,
    written: int | None = 0,
) -> Usage:
    return Usage(
        input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached, cache_write_tokens=written
    )


def test_cached_tokens_lie_inside_the_input_and_cost_their_own_price() -> None:
    assert cost("gpt-6-luna", usage()) == Decimal("0.000115")


def test_tokens_written_to_the_cache_lie_inside_the_input_and_cost_their_own_price() -> None:
    # 100 plain, 400 read, 1,500 written
    expected = (100 * Decimal("0.1") + 400 * Decimal("0.01") + 1_500 * Decimal("0.125") + 100 * Decimal("0.5")) / 10**6

    assert cost("gpt-6-luna", usage(cached=400, written=1_500)) == expected


def test_tokens_written_by_a_family_that_does_not_charge_for_it_are_plain_input() -> None:
    assert cost("gpt-5-nano", usage(cached=0, written=1_500)) == cost("gpt-5-nano", usage(cached=0))


def test_reasoning_lies_inside_the_output() -> None:
    thinking = Usage(input_tokens=10, output_tokens=100, reasoning_tokens=90)

    assert cost("gpt-5-nano", thinking) == cost("gpt-5-nano", Usage(input_tokens=10, output_tokens=100))


@pytest.mark.parametrize("model", ["gpt-5-nano-2025-08-07", "openai/gpt-5-nano", " GPT-5-nano "])
def test_a_snapshot_costs_what_its_family_costs(model: str) -> None:
    assert cost(model, usage()) == cost("gpt-5-nano", usage()) == Decimal("0.0000725")


@pytest.mark.parametrize(
    "model",
    [
        "simulator",
        "",
        "gpt-5-pro",
        "gpt-5-nano-extra",
        "gpt-4o-2024-05-13",
        "gpt-99",
        "ft:gpt-4o-mini:acme::x",
        "llama",
    ],
)
def test_the_cost_of_an_unknown_model_is_unknown(model: str) -> None:
    assert cost(model, usage()) is None


@pytest.mark.parametrize(
    "told",
    [
        Usage(),
        usage(input_tokens=None),
        usage(output_tokens=None),
        usage(cached=2_001),
        usage(cached=1_500, written=501),
        usage(output_tokens=-1),
        usage(cached=-1),
    ],
)
def test_the_cost_of_a_usage_that_is_unknown_or_impossible_is_unknown(told: Usage) -> None:
    assert cost("gpt-6-luna", told) is None


def test_input_that_a_server_does_not_break_down_is_plain_input() -> None:
    assert cost("gpt-6-luna", usage(cached=None, written=None)) == cost("gpt-6-luna", usage(cached=0))


@pytest.mark.parametrize(
    ("tier", "factor"), [(None, "1"), ("default", "1"), ("flex", "0.5"), ("batch", "0.5"), ("priority", "2")]
)
def test_the_tier_that_answered_has_its_price(tier: str | None, factor: str) -> None:
    standard = cost("gpt-6-luna", usage())

    assert standard is not None
    assert cost("gpt-6-luna", usage(), tier) == standard * Decimal(factor)


@pytest.mark.parametrize(
    ("model", "tier"), [("gpt-6-luna", "ultrafast"), ("gpt-5-nano", "priority"), ("gpt-4o", "flex")]
)
def test_the_cost_on_a_tier_without_a_known_price_is_unknown(model: str, tier: str) -> None:
    assert cost(model, usage(), tier) is None


tokens = st.integers(0, 10**9)


@given(tokens, tokens, tokens, tokens)
def test_the_cache_never_makes_a_call_of_a_family_without_write_prices_dearer(
    plain: int, cached: int, written: int, output: int
) -> None:
    told = usage(plain + cached + written, output, cached, written)
    known = cost("gpt-5-mini", told)

    assert known is not None
    assert 0 <= known <= cost("gpt-5-mini", usage(plain + cached + written, output, 0))  # type: ignore[operator]


def test_prices_of_ones_own_win_on_every_tier() -> None:
    own = parse_overrides('{"Simulator": {"input": 1, "output": "2.5"}, "gpt-6-luna": {"input": 0, "output": 0}}')

    assert own["simulator"] == Price(input=Decimal(1), output=Decimal("2.5"))
    assert cost("simulator", usage(cached=0), "flex", own) == Decimal("0.00225")
    assert cost("gpt-6-luna-2026-09-22", usage(), None, own) == 0
    assert cost("gpt-5-nano", usage(), None, own) == cost("gpt-5-nano", usage())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.1",
        "[]",
        '{"m": 1}',
        '{"m": {}}',
        '{"m": {"input": 1}}',
        '{"m": {"input": 1, "output": -1}}',
        '{"m": {"input": 1, "output": "cheap"}}',
        '{"m": {"input": 1, "output": NaN}}',
        '{"m": {"input": 1, "output": true}}',
        '{"m": {"input": 1, "output": null}}',
        '{"m": {"input": 1, "output": 1, "outptu": 1}}',
        "[" * 100_000,
    ],
)
def test_prices_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="price"):
        parse_overrides(text)


def test_prices_carry_their_date_and_source() -> None:
    assert PRICES_READ.year >= 2026
    assert PRICES_SOURCE.startswith("https://")
