"""What limits of tokens and money ask of a run beside the claim: that no call takes more than it reserved, and that
people hear of a limit that is nearly used up.

A claim reserves before the prompts are built, by what calls of the organization usually take. `fit` measures the built
ones: where one is larger, more is reserved if the limits allow it; else it does not leave and waits for its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from gepp_audit.errors import OperatorError
from gepp_audit.model import CallRequest
from gepp_audit.queue import judging
from gepp_audit.queue.asking import Asked
from gepp_audit.queue.holding import hold, room
from gepp_audit.queue.options import RunOptions
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
    delays = database.write(lambda connection: _reserve_more(connection, larger, needs))
    may_leave = [(request, asked) for request, asked in prepared if request.call_id not in delays]
    waits = [asked for request, asked in prepared if request.call_id in delays]
    for asked in waits:
        logs.info("call_too_large_for_limit", transaction_id=asked.claim.transaction_id)
    return may_leave, [replace(judging.released(one.claim), delay=delays[one.claim.call_id]) for one in waits]


def _of_prompt(sizes: dict[str, int], prompt: RuleSetPrompt) -> int:
    if prompt.cache_key not in sizes:
        sizes[prompt.cache_key] = prompt_tokens(prompt)
    return sizes[prompt.cache_key]


def _reserve_more(connection: Connection, larger: Sequence[Asked], needs: dict[int, Reservation]) -> dict[int, float]:
    """Reserve what these calls need; returns the seconds to wait for those for which there is no room, by call."""
    gate, moment = limits.lock(connection)
    scopes = limits.of_organizations(connection)
    delays: dict[int, float] = {}
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
        whole = [hold(scope, one, uses[scope], more, moment) for scope, one in caps.items()]
        delays[call_id] = _longest([one.clears_at for one in whole if one is not None], moment)
    return delays


def _longest(ends: Sequence[datetime | None], moment: datetime) -> float:
    seconds = [_SOME_TIME if end is None else (end - moment).total_seconds() for end in ends]
    return max(seconds, default=0.0)
