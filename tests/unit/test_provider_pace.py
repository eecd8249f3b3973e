"""The provider's own limits in the headers of its answers: read, heeded where they slow us down, never trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.model import Pace
from gepp_audit.provider.pace import LONGEST_HOLD, read_pace


def headers(what: str, limit: object, remaining: object, reset: object = "1s") -> dict[str, str]:
    told = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"X-RateLimit-{name.title()}-{what}": str(value) for name, value in told.items() if value is not None}


def test_a_generous_limit_of_which_much_is_left_says_nothing() -> None:
    assert read_pace(headers("Requests", 30_000, 29_999) | headers("Tokens", 150_000_000, 149_000_000)) is None
    assert read_pace({"content-type": "application/json"}) is None


def test_a_small_limit_matters_whatever_is_left_of_it() -> None:
    assert read_pace(headers("Requests", 500, 499)) == Pace(calls_per_minute=500)
    assert read_pace(headers("Tokens", 200_000, 190_000)) == Pace(tokens_per_minute=200_000)


def test_a_large_limit_matters_once_less_than_a_fifth_is_left() -> None:
    assert read_pace(headers("Requests", 30_000, 5_999)) == Pace(calls_per_minute=30_000)
    assert read_pace(headers("Requests", 30_000, 6_000)) is None


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("6m0s", LONGEST_HOLD), ("1s", 1.0), ("20ms", 0.02), ("1m2.5s", 62.5), ("0.25s", 0.25), ("1h", LONGEST_HOLD),
        ("1d2h", LONGEST_HOLD), ("1m20ms", 60.02),
    ],
)  # fmt: skip
def test_where_nothing_is_left_nothing_leaves_until_the_count_begins_anew(told: str, seconds: float) -> None:
    pace = read_pace(headers("Requests", 100, 0, told))
    assert pace is not None
    assert pace.calls_per_minute == 100
    assert pace.hold == pytest.approx(seconds)


def test_of_two_holds_the_longer_one_counts() -> None:
    told = headers("Requests", 100, 0, "2s") | headers("Tokens", 1_000, 0, "9s")
    assert read_pace(told) == Pace(calls_per_minute=100, tokens_per_minute=1_000, hold=9.0)


@pytest.mark.parametrize(
    "reset", ["", "s", "soon", "-5s", "1e9s", "nan", "5", "٣s", "1s1m", "9" * 30 + "s", None, "0s"]
)
def test_a_time_that_is_none_holds_nobody(reset: str | None) -> None:
    assert read_pace(headers("Requests", 100, 0, reset)) == Pace(calls_per_minute=100)


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "", "many", "٣", "9" * 13, "1e3", "0x10", " "])
def test_a_limit_that_is_none_is_ignored(limit: str) -> None:
    assert read_pace(headers("Requests", limit, 50)) is None


def test_more_left_than_there_may_be_is_no_limit_of_ours() -> None:
    assert read_pace(headers("Requests", 10, 11)) is None


@given(st.dictionaries(st.sampled_from([f"x-ratelimit-{a}-{b}" for a in ("limit", "remaining", "reset")
                                        for b in ("requests", "tokens")]), st.text(max_size=40)))  # fmt: skip
def test_hostile_headers_never_raise_and_never_hold_for_long(told: dict[str, str]) -> None:
    pace = read_pace(told)
    if pace is not None:
        assert pace.hold is None or 0 < pace.hold <= LONGEST_HOLD
        assert pace.calls_per_minute is None or pace.calls_per_minute >= 1
        assert pace.tokens_per_minute is None or pace.tokens_per_minute >= 1
