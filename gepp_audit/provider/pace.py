"""The provider's own limits in the headers of its answers: `read_pace`, a pure function that never raises.

`x-ratelimit-limit-requests`, `-remaining-requests` and `-reset-requests`, and the same three for tokens
(https://platform.openai.com/docs/guides/rate-limits, "Rate limits in headers"). They only slow us down. Where we are
nowhere near a limit nothing is said, so that a generous limit costs nothing; values that are no honest ones (negative,
not whole, absurdly large, a time that is none) are taken for missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gepp_audit.model import Pace

#: no honest limit of a minute reaches this, and no column holds more
_LARGEST: Final = 1_000_000_000
#: a limit up to this matters however much is left of it: the calls under way alone may use it up
_SMALL_REQUESTS: Final = 1_000
_SMALL_TOKENS: Final = 2_000_000
#: a larger one matters when less than this part of it is left
_NEARLY: Final = 5
#: seconds that an answer, which is no refusal, may hold us at most: a refusal would say more
LONGEST_HOLD: Final = 120.0

_COUNT: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
#: `6m0s`, `1s`, `20ms`, `1h2m3.5s`, `1d2h`
_TIME: Final = re.compile(
    r"(?=.)(?:(\d{1,4})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?",
    re.ASCII,
)
_UNITS: Final = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)


def read_pace(headers: Mapping[str, str]) -> Pace | None:
    """What these headers of an answer (any case) bid; None: nothing that matters now.

    `hold` is set where nothing is left: seconds until the provider's count begins anew, at most `LONGEST_HOLD`.
    """
    lowered = {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-ratelimit-")}
    if not lowered:
        return None
    calls, first = _bound(lowered, "requests", _SMALL_REQUESTS)
    tokens, second = _bound(lowered, "tokens", _SMALL_TOKENS)
    hold = max((one for one in (first, second) if one is not None), default=None)
    if calls is None and tokens is None and hold is None:
        return None
    return Pace(calls_per_minute=calls, tokens_per_minute=tokens, hold=hold)


def _bound(headers: Mapping[str, str], what: str, small: int) -> tuple[int | None, float | None]:
    """The limit, where it matters, and the seconds to hold."""
    limit = _count(headers.get(f"x-ratelimit-limit-{what}"))
    remaining = _count(headers.get(f"x-ratelimit-remaining-{what}"))
    if limit is not None and (limit < 1 or (remaining is not None and remaining > limit)):
        return None, None  # not a limit, or not the one that is counted here
    hold = None
    if remaining == 0:
        seconds = _seconds(headers.get(f"x-ratelimit-reset-{what}"))
        hold = min(seconds, LONGEST_HOLD) if seconds else None
    near = limit is not None and (limit <= small or (remaining is not None and remaining * _NEARLY < limit))
    return limit if near else None, hold


def _count(text: str | None) -> int | None:
    if text is None or _COUNT.fullmatch(text.strip()) is None:
        return None
    count = int(text)
    return count if count <= _LARGEST else None


def _seconds(text: str | None) -> float | None:
    """`6m0s` → 360.0; None for what is no such time."""
    match = _TIME.fullmatch((text or "").strip())
    if match is None:
        return None
    return sum(float(number) * unit for number, unit in zip(match.groups(), _UNITS, strict=True) if number is not None)
