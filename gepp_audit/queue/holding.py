"""What keeps calls from leaving now, and until when: pure, from the limits and what was used of them.

`room` is what the schedule may give out of one scope, `hold` why it may not give out one call more. Both look at the
same figures, so that what an operator is told is what the claim goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from gepp_audit.database.items import Reservation
from gepp_audit.database.limits import Caps
from gepp_audit.database.spending import day_ends
from gepp_audit.database.windows import WINDOW, Departure, Use
from gepp_audit.queue.schedule import Room
from gepp_audit.queue.wording import capital, exact_moment, scope_in_words, sentence

#: further away than any other moment
_UNKNOWN: Final = datetime.max.replace(tzinfo=UTC)


class Limit(StrEnum):
    """What holds calls back; the values are a contract: the reasons of `stuck`, and the names of the limits."""

    CALLS_PER_MINUTE = "calls_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    CONCURRENCY = "concurrency"
    TOKENS_PER_DAY = "tokens_per_day"
    COST_PER_DAY = "cost_per_day"
    #: money is limited, and what a call costs is not known
    UNPRICED = "unpriced_model"
    #: the provider asked to wait
    THROTTLED = "throttled"
    #: a person wants it so
    PAUSED = "paused"

    @property
    def of_the_day(self) -> bool:
        """It counts the UTC day."""
        return self in (Limit.TOKENS_PER_DAY, Limit.COST_PER_DAY)

    @property
    def of_the_minute(self) -> bool:
        """It counts the last minute, so calls leave again within one."""
        return self in (Limit.CALLS_PER_MINUTE, Limit.TOKENS_PER_MINUTE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """One reason why no call of a scope leaves."""

    limit: Limit
    #: whose limit it is; None: everybody's
    organization_id: int | None = None
    most: int | Decimal | None = None
    used: int | Decimal | None = None
    #: what one more call would reserve of it
    need: int | Decimal | None = None
    #: when it lets a call pass at the latest; None: nobody can say
    clears_at: datetime | None = None
    #: what a person said of it
    said: str | None = None

    @property
    def of_everybodys_minute(self) -> bool:
        """It is over as soon as enough has left everybody's window."""
        return self.organization_id is None and self.limit.of_the_minute and not self.too_small

    @property
    def too_small(self) -> bool:
        """The limit lets no call pass at all, however little was used of it."""
        return self.most is not None and self.need is not None and self.need > self.most


def room(caps: Caps, use: Use) -> Room:
    """What may still leave of a scope."""
    calls = (
        _left(caps.calls_per_minute, sum(one.calls for one in use.minute)),
        _left(caps.concurrency, use.in_flight),
    )
    tokens = (
        _left(caps.tokens_per_minute, sum(one.tokens for one in use.minute)),
        _left(caps.tokens_per_day, use.today.tokens),
    )
    return Room(
        calls=_least(calls),
        tokens=_least(tokens),
        cost=None if caps.cost_per_day is None else caps.cost_per_day - use.today.cost,
    )


def _left(most: int | None, used: int) -> int | None:
    return None if most is None else most - used


def _least(values: tuple[int | None, ...]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def hold(organization_id: int | None, caps: Caps, use: Use, need: Reservation, moment: datetime) -> Hold | None:
    """Which limit of a scope keeps a call that reserves `need` from leaving at `moment`: of several the one that lasts
    longest. None: it may leave.
    """
    return max(_holds(organization_id, caps, use, need, moment), key=lasts_until, default=None)


def lasts_until(one: Hold) -> datetime:
    """When it is over, for comparing; a hold whose end nobody can say lasts longest."""
    return one.clears_at or _UNKNOWN


def _holds(organization_id: int | None, caps: Caps, use: Use, need: Reservation, moment: datetime) -> Iterator[Hold]:
    def one(
        limit: Limit, most: int | Decimal, used: int | Decimal, more: int | Decimal, until: datetime | None
    ) -> Hold:
        return Hold(limit=limit, organization_id=organization_id, most=most, used=used, need=more, clears_at=until)

    calls, tokens = sum(each.calls for each in use.minute), sum(each.tokens for each in use.minute)
    if caps.calls_per_minute is not None and calls + 1 > caps.calls_per_minute:
        until = _frees(use.minute, calls + 1 - caps.calls_per_minute, lambda each: each.calls)
        yield one(Limit.CALLS_PER_MINUTE, caps.calls_per_minute, calls, 1, until)
    if caps.tokens_per_minute is not None and tokens + need.tokens > caps.tokens_per_minute:
        until = _frees(use.minute, tokens + need.tokens - caps.tokens_per_minute, lambda each: each.tokens)
        yield one(Limit.TOKENS_PER_MINUTE, caps.tokens_per_minute, tokens, need.tokens, until)
    if caps.concurrency is not None and use.in_flight + 1 > caps.concurrency:
        yield one(Limit.CONCURRENCY, caps.concurrency, use.in_flight, 1, None)
    if caps.tokens_per_day is not None and use.today.tokens + need.tokens > caps.tokens_per_day:
        until = day_ends(moment) if need.tokens <= caps.tokens_per_day else None
        yield one(Limit.TOKENS_PER_DAY, caps.tokens_per_day, use.today.tokens, need.tokens, until)
    if caps.cost_per_day is None:
        return
    if need.cost is None:
        yield Hold(limit=Limit.UNPRICED, organization_id=organization_id, most=caps.cost_per_day)
    elif use.today.cost + need.cost > caps.cost_per_day:
        until = day_ends(moment) if need.cost <= caps.cost_per_day else None
        yield one(Limit.COST_PER_DAY, caps.cost_per_day, use.today.cost, need.cost, until)


def _frees(minute: tuple[Departure, ...], excess: int, size: Callable[[Departure], int]) -> datetime | None:
    """When so much has left the window: exactly the moment at which the schedule has room for the call."""
    for one in minute:
        excess -= size(one)
        if excess <= 0:
            return one.at + WINDOW
    return None


# -- in words ----------------------------------------------------------------------------------------------------------

_WORDS: Final = {
    Limit.CALLS_PER_MINUTE: "calls per minute",
    Limit.TOKENS_PER_MINUTE: "tokens per minute",
    Limit.CONCURRENCY: "calls at the same time",
    Limit.TOKENS_PER_DAY: "tokens per day",
    Limit.COST_PER_DAY: "USD per day",
}


def in_words(held: Hold) -> str:
    """What holds calls back, and until when, in full sentences."""
    whose = scope_in_words(held.organization_id)
    said = f": {sentence(held.said)}" if held.said else "."
    if held.limit is Limit.PAUSED:
        return f"{'The queue' if held.organization_id is None else capital(whose)} is paused{said}"
    if held.limit is Limit.THROTTLED:
        until = "" if held.clears_at is None else f" until {exact_moment(held.clears_at)}"
        return f"The provider asked {whose} to wait{until}."
    if held.limit is Limit.UNPRICED:
        return f"Money is limited to {held.most} USD a day for {whose}, and the price of the model is not known."
    limit = f"The limit of {held.most:,} {_WORDS[held.limit]} for {whose}"
    if held.too_small:
        return f"{limit} lets no call pass at all: one may take up to {_amount(held.need)}."
    reached = f"{limit} is reached: {_amount(held.used)} used"
    if held.limit.of_the_day or held.limit is Limit.TOKENS_PER_MINUTE:
        reached += f", and one more call may take up to {_amount(held.need)}"
    if held.clears_at is None:
        return f"{reached}."
    return f"{reached}. The next call may leave at {exact_moment(held.clears_at)}."


def _amount(value: int | Decimal | None) -> str:
    return f"{value:,.4f}" if isinstance(value, Decimal) else f"{value:,}"
