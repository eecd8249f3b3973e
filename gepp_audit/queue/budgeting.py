"""What limits of tokens and money ask of a run beside the claim: that no call takes more than it reserved, and that
people hear of a limit that is nearly used up.

A claim reserves before the prompts are built, by what calls of the organization usually take. `fit` measures the built
ones: where one is larger, more is reserved if the limits allow it; else it does not leave and waits for its time. One
that is larger than a limit would wait for ever: it waits as for a provider that is down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import Connection

from gepp_audit import logs
from gepp_audit.audit.prompt import RuleSetPrompt, estimate_tokens, prompt_tokens
from gepp_audit.database import limits, windows
from gepp_audit.database.engine import Database
from gepp_audit.database.items import Reservation
from gepp_audit.database.limits import Caps
from gepp_audit.database.settling import Settlement
from gepp_audit.database.windows import Use
from gepp_audit.errors import OperatorError
from gepp_audit.model import CallRequest, Claim, ErrorCode, Failure, FailureKind
from gepp_audit.queue import judging
from gepp_audit.queue.asking import Asked
from gepp_audit.queue.holding import hold, in_words, lasts_until, room
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.retry_policy import Counters, decide
from gepp_audit.queue.standing import Budget
from gepp_audit.queue.wording import scope_in_words

#: where nobody can say when a call will fit, it is looked at again after so many seconds
_SOME_TIME: Final = 600.0
_PROBED: Final = 1_000

Prepared = Sequence[tuple[CallRequest, Asked]]
Price = Callable[[int, int], Decimal | None]


def refuse_unpriced(caps: Caps, price: Price, options: RunOptions) -> None:
    """OperatorError where money is limited for everybody and the model's price is unknown: nothing would be spent
    blindly, so nothing could be asked at all.
    """
    if caps.cost_per_day is not None and price(_PROBED, _PROBED) is None:
        raise OperatorError(
            f"money is limited to {caps.cost_per_day} USD a day, and the price of the model {options.model} is not "
            "known, so no call may leave.",
            fix='Tell its price in GEPP_AUDIT_PRICES, set another GEPP_AUDIT_MODEL, or run "gepp-audit limits clear '
            '--global" and set the limit in tokens.',
            code="price_unknown",
        )


def tell(budget: Budget) -> None:
    """Say once a day that a limit of the day is nearly used up, or keeps calls back until midnight."""
    event = "daily_limit_reached" if budget.percent == 100 else "daily_limit_nearly_reached"
    # a limit is reached before it is used up: the next call may take more than is left
    more = {} if budget.need is None or budget.used >= budget.most else {"one_call_may_take": _plain(budget.need)}
    logs.warning(
        event,
        scope=scope_in_words(budget.organization_id),
        limit=budget.limit.value,
        used=_plain(budget.used),
        at_most=_plain(budget.most),
        **more,
    )


def _plain(value: int | Decimal) -> int | float:
    return float(value) if isinstance(value, Decimal) else value


def fit(
    database: Database, prepared: Prepared, price: Price
) -> tuple[list[tuple[CallRequest, Asked]], list[Settlement]]:
    """The calls that may leave as they are, and the settlements of those that may not. `prepared`: just claimed."""
    sizes: dict[str, int] = {}
    needs: dict[int, Reservation] = {}
    for request, asked in prepared:
        need = _of_prompt(sizes, asked.prompt) + estimate_tokens(request.suffix)
        tokens = need + request.max_completion_tokens
        if tokens > (asked.claim.reserved_tokens or 0):
            needs[request.call_id] = Reservation(tokens=tokens, cost=price(need, request.max_completion_tokens))
    if not needs:
        return list(prepared), []
    larger = [asked for request, asked in prepared if request.call_id in needs]
    waits = database.write(lambda connection: _reserve_more(connection, larger, needs))
    may_leave = [(request, asked) for request, asked in prepared if request.call_id not in waits]
    return may_leave, [
        _waiting(asked.claim, waits[asked.claim.call_id]) for asked in larger if asked.claim.call_id in waits
    ]


def _waiting(claim: Claim, wait: _Wait) -> Settlement:
    """The call does not leave. One that its limit will never let pass is a failure, of which people hear, and which is
    bounded as every wait is.
    """
    told = {"transaction_id": claim.transaction_id, "seconds": round(wait.seconds, 3)}
    released = replace(judging.released(claim), delay=wait.seconds)
    if not wait.never:
        logs.info("call_waits_for_limit", **told)
        return released
    logs.warning("call_too_large_for_limit", **told, reason=wait.reason)
    failure = Failure(kind=FailureKind.RETRY, code=ErrorCode.TOO_LARGE_FOR_LIMIT, message=wait.reason)
    counters = Counters(attempts=claim.attempts, waits=claim.waits, first_failed_at=claim.first_failed_at)
    decision = decide(failure, counters, moment=wait.moment, chance=0.0, max_attempts=1, first_backoff=0.0)
    return replace(released, state=decision.state, wait=decision.wait, error_code=decision.code, error=decision.message)


def _of_prompt(sizes: dict[str, int], prompt: RuleSetPrompt) -> int:
    if prompt.cache_key not in sizes:
        sizes[prompt.cache_key] = prompt_tokens(prompt)
    return sizes[prompt.cache_key]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wait:
    """How long a call has no room."""

    seconds: float
    #: a limit is smaller than the call, so that it will never have room
    never: bool
    reason: str
    moment: datetime


def _reserve_more(connection: Connection, larger: Sequence[Asked], needs: dict[int, Reservation]) -> dict[int, _Wait]:
    """Reserve what these calls need; returns those for which there is no room, by call."""
    gate, moment = limits.lock(connection)
    scopes = limits.of_organizations(connection)
    waits: dict[int, _Wait] = {}
    for asked in larger:
        id_, call_id = asked.claim.organization_id, asked.claim.call_id
        caps: dict[int | None, Caps] = {None: gate.caps_at(moment), id_: scopes[id_].caps if id_ in scopes else Caps()}
        # the call itself has its place already: what counts is the size
        caps = {scope: replace(one, calls_per_minute=None, concurrency=None) for scope, one in caps.items()}
        more = windows.missing(connection, call_id, needs[call_id])
        uses = windows.use(connection, moment, caps, {})
        if all(room(one, uses[scope]).lets(more) for scope, one in caps.items()):
            windows.reserve(connection, call_id, needs[call_id])
            continue
        waits[call_id] = _wait(caps, uses, more, needs[call_id], moment)
    return waits


def _wait(
    caps: dict[int | None, Caps],
    uses: Mapping[int | None, Use],
    more: Reservation,
    whole: Reservation,
    moment: datetime,
) -> _Wait:
    """How long a call of `whole` size waits that has `more` to reserve."""
    held = [one for scope, cap in caps.items() if (one := hold(scope, cap, uses[scope], more, moment)) is not None]
    # alone in its minute and day: what is too large then will always be
    never = [one for scope, cap in caps.items() if (one := hold(scope, cap, Use(), whole, moment)) is not None]
    longest = max([*never, *held], key=lasts_until)
    end = None if never else longest.clears_at
    seconds = _SOME_TIME if end is None else (end - moment).total_seconds()
    return _Wait(seconds=seconds, never=bool(never), reason=in_words(longest), moment=moment)
