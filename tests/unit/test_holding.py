"""What keeps calls from leaving, and until when: the schedule and what an operator is told go by the same figures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.database.items import Reservation
from gepp_audit.database.limits import Caps
from gepp_audit.database.spending import Spent
from gepp_audit.database.windows import WINDOW, Departure, Use
from gepp_audit.queue.holding import Hold, Limit, hold, in_words, room

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def departures(*found: tuple[float, int, int]) -> tuple[Departure, ...]:
    """Claims so many seconds ago, oldest first."""
    return tuple(
        Departure(at=NOW - timedelta(seconds=ago), calls=calls, tokens=tokens)
        for ago, calls, tokens in sorted(found, reverse=True)
    )


amounts = st.none() | st.integers(1, 20)
caps = st.builds(
    lambda cpm, tpm, together, tpd, usd: Caps(
        calls_per_minute=cpm, tokens_per_minute=tpm, concurrency=together, tokens_per_day=tpd,
        cost_per_day=None if usd is None else Decimal(usd),
    ),
    amounts, amounts, amounts, amounts, amounts,
)  # fmt: skip
uses = st.builds(
    lambda minute, flying, tokens, usd: Use(
        minute=departures(*minute), in_flight=flying, today=Spent(tokens=tokens, cost=Decimal(usd))
    ),
    st.lists(st.tuples(st.floats(0, 61), st.integers(1, 4), st.integers(0, 9)), max_size=6),
    st.integers(0, 20), st.integers(0, 20), st.integers(0, 20),
)  # fmt: skip
needs = st.builds(
    lambda tokens, usd: Reservation(tokens=tokens, cost=Decimal(usd)), st.integers(0, 9), st.integers(0, 9)
)


@given(caps, uses, needs)
def test_a_call_is_held_exactly_where_the_schedule_has_no_room_for_it(caps: Caps, use: Use, need: Reservation) -> None:
    assert (hold(None, caps, use, need, NOW) is None) == room(caps, use).lets(need)


@given(st.integers(1, 9), uses, needs)
def test_a_full_minute_has_room_at_the_moment_that_is_told_and_not_before(
    most: int, use: Use, need: Reservation
) -> None:
    limits = Caps(calls_per_minute=most, tokens_per_minute=most * 3)
    held = hold(None, limits, use, need, NOW)
    if held is None or held.clears_at is None:
        return
    for moment, free in ((held.clears_at, True), (held.clears_at - timedelta(microseconds=1), False)):
        left = Use(minute=tuple(one for one in use.minute if one.at > moment - WINDOW))
        assert room(limits, left).lets(need) == free


def test_a_limit_that_lets_no_call_pass_at_all_has_no_end_and_says_so() -> None:
    held = hold(7, Caps(tokens_per_day=1_000), Use(), Reservation(tokens=8_900), NOW)
    assert held is not None
    assert (held.too_small, held.clears_at) == (True, None)
    assert in_words(held) == (
        "The limit of 1,000 tokens per day for organization 7 lets no call pass at all: one may take up to 8,900."
    )


def test_a_used_up_budget_is_over_at_midnight_utc() -> None:
    use = Use(today=Spent(cost=Decimal("4.999")))
    held = hold(None, Caps(cost_per_day=Decimal("5.00")), use, Reservation(cost=Decimal("0.0025")), NOW)
    assert held is not None
    assert held.clears_at == datetime(2026, 2, 1, tzinfo=UTC)
    assert in_words(held) == (
        "The limit of 5.00 USD per day for all organizations is reached: 4.9990 used, and one more call may take up to "
        "0.0025. The next call may leave at 2026-02-01 00:00:00 UTC."
    )


def test_of_several_limits_the_one_that_lasts_longest_is_told() -> None:
    use = Use(minute=departures((50, 1, 10)), today=Spent(tokens=10))
    held = hold(3, Caps(calls_per_minute=1, tokens_per_day=12), use, Reservation(tokens=5), NOW)
    assert held is not None
    assert held.limit is Limit.TOKENS_PER_DAY


def test_a_pause_and_a_wish_to_wait_are_told_in_words() -> None:
    assert in_words(Hold(limit=Limit.PAUSED, said="month end")) == "The queue is paused: month end."
    assert in_words(Hold(limit=Limit.PAUSED, organization_id=3)) == "Organization 3 is paused."
    told = in_words(Hold(limit=Limit.THROTTLED, organization_id=3, clears_at=NOW))
    assert told == "The provider asked organization 3 to wait until 2026-01-31 12:00:00 UTC."
