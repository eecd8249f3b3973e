"""What a failed call means for its item: pure, `decide(failure, counters) -> Decision`.

Backoff is "full jitter" (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015): a uniform wait in [0,
min(longest, first * 2^waits)]. Example: first 2 s, after 3 waits: somewhere in 0 to 16 s; the provider's own wish, if
longer, wins.

A bad answer is asked again at once, for the model may do better. What cannot be read at all, a gateway's page for
instance, comes again as long as the cause stands, so the next attempt waits: half of first * 2^(attempts + 1) for
certain, the other half by chance. Example: first 2 s: 2 to 4 s after the first attempt, 4 to 8 s after the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gepp_audit.model import ErrorCode, Failure, FailureKind, ItemState

#: the longest wait between two calls for one item, in seconds
LONGEST_BACKOFF: Final = 300.0
#: how long a provider may be down or throttle before an item is given up, since its first failure
LONGEST_OUTAGE: Final = timedelta(hours=24)
#: and so often it must have waited for it: a pause or a limit that held it for a day is no outage
FEWEST_WAITS: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Counters:
    """What an item has been through."""

    attempts: int
    waits: int
    first_failed_at: datetime | None
    #: the provider refused us over this item before, and answered others since
    refused_alone: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What becomes of the item: READY again after `delay` seconds, or FAILED."""

    state: ItemState
    code: ErrorCode
    message: str
    delay: float = 0.0
    #: the failure cost one of the attempts
    attempt: bool = False
    #: the failure was a wait for the provider
    wait: bool = False


def decide(
    failure: Failure, counters: Counters, *, moment: datetime, chance: float, max_attempts: int, first_backoff: float
) -> Decision:
    """What follows from `failure` for an item with these counters.

    `moment`: now. `chance`: uniform in [0, 1). `first_backoff`: seconds.
    """
    if failure.kind is FailureKind.RETRY:
        return _wait(failure, counters, moment, chance, first_backoff)
    if failure.kind is FailureKind.ANSWER:
        spent = counters.attempts + 1 >= max_attempts
        state = ItemState.FAILED if spent else ItemState.READY
        nonsense = failure.code is ErrorCode.UNREADABLE and not spent
        delay = _after_nonsense(counters.attempts, chance, first_backoff) if nonsense else 0.0
        return Decision(state=state, code=failure.code, message=failure.message, attempt=True, delay=delay)
    if failure.kind is FailureKind.ITEM:
        return Decision(state=ItemState.FAILED, code=failure.code, message=failure.message)
    return _refused(failure, counters, max_attempts)


def _refused(failure: Failure, counters: Counters, max_attempts: int) -> Decision:
    """A refusal costs nothing, unless it is this item's own: else one item would stop everybody for ever."""
    if counters.refused_alone and counters.attempts + 1 >= max_attempts:
        message = f"It was refused again and again while others were answered; last: {failure.message}"
        return Decision(state=ItemState.FAILED, code=ErrorCode.INVALID_INPUT, message=message, attempt=True)
    return Decision(state=ItemState.READY, code=failure.code, message=failure.message, attempt=counters.refused_alone)


def _after_nonsense(attempts: int, chance: float, first_backoff: float) -> float:
    longest = min(LONGEST_BACKOFF, first_backoff * 2.0 ** min(attempts + 1, 30))
    return longest / 2 * (1 + chance)


def _wait(failure: Failure, counters: Counters, moment: datetime, chance: float, first_backoff: float) -> Decision:
    since = counters.first_failed_at
    if since is not None and moment - since > LONGEST_OUTAGE and counters.waits >= FEWEST_WAITS:
        if failure.code is ErrorCode.TOO_LARGE_FOR_LIMIT:
            message = f"It had no room for 24 hours. {failure.message}"
            return Decision(state=ItemState.FAILED, code=failure.code, message=message, wait=True)
        message = f"The provider did not answer for 24 hours; last: {failure.message}"
        return Decision(state=ItemState.FAILED, code=ErrorCode.PROVIDER_UNAVAILABLE, message=message, wait=True)
    jitter = chance * min(LONGEST_BACKOFF, first_backoff * 2.0 ** min(counters.waits, 30))
    delay = max(jitter, failure.retry_after or 0.0)
    return Decision(state=ItemState.READY, code=failure.code, message=failure.message, delay=delay, wait=True)
