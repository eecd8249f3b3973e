"""What a call costs: prices with their date and source, `cost(model, usage) -> Decimal | None`. Pure.

A price or a usage that is not known makes the cost unknown (None), never 0.

Prices are USD for 1,000,000 tokens on the standard tier, looked up on `PRICES_READ`: OpenAI's model pages
(developers.openai.com/api/docs/models/MODEL: gpt-6-luna, gpt-6.2-sol, gpt-5.6-luna), its page on the premium tier
(openai.com/api-priority-processing), and for the others public tables that quote OpenAI's price list and agree. They
hold for requests of up to 272,000 input tokens; a longer one costs up to twice as much, and no prompt of an
audit comes near. Left out, so unknown: gpt-5.6-sol (its reduced price was promised until 2026-11-21 only), the `pro`,
`codex` and `chat` variants, fine-tuned models, and every model that is not OpenAI's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from gepp_audit.model import Usage

#: the day on which the table below was read
PRICES_READ: Final = date(2026, 11, 24)
PRICES_SOURCE: Final = "https://developers.openai.com/api/docs/pricing"

_MILLION: Final = Decimal(1_000_000)
_DATED: Final = re.compile(r"(.+)-\d{4}-\d{2}-\d{2}")
_STANDARD_TIERS: Final = frozenset({"default", "auto", "standard"})
_HALF_TIERS: Final = frozenset({"flex", "batch"})
_PREMIUM_TIERS: Final = frozenset({"priority", "fast"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """USD per 1,000,000 tokens of one model on the standard tier."""

    input: Decimal
    output: Decimal
    #: None: read from the cache costs as much as any input
    cached_input: Decimal | None = None
    #: None: writing to the cache costs nothing extra
    cache_write: Decimal | None = None
    #: factor of the tiers `flex` and `batch`; None: unknown
    half: Decimal | None = None
    #: factor of the tiers `priority` and `fast`; None: unknown
    premium: Decimal | None = None


def cost(
    model: str, usage: Usage, tier: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Decimal | None:
    """USD for a usage of `model`, exact; None if the model's price, the tier's or the usage is unknown.

    `model` may carry the date of a snapshot (gpt-5-nano-2025-08-07). `tier`: the service tier that answered, None: the
    standard one. `overrides`: prices of `parse_overrides`; they win, and hold for every tier.

    cost = (input - cached - written) * input price + cached * cached price + written * write price + output * output
    price. Cached and written tokens lie inside the input; where a server does not count them, they are plain input.
    Example: 2,000 input tokens, 1,500 of them cached, and 100 output tokens of gpt-6-luna:
    (500 * 0.10 + 1,500 * 0.01 + 100 * 0.50) / 1,000,000 = 0.000115.
    """
    price, factor = _price(model, tier, overrides)
    if price is None or factor is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    plain = usage.input_tokens - cached - written
    if min(plain, cached, written, usage.output_tokens) < 0:
        return None
    cached_price = price.input if price.cached_input is None else price.cached_input
    write_price = price.input if price.cache_write is None else price.cache_write
    total = plain * price.input + cached * cached_price + written * write_price + usage.output_tokens * price.output
    return total * factor / _MILLION


def most(
    model: str, input_tokens: int, output_tokens: int, overrides: Mapping[str, Any] | None = None
) -> Decimal | None:
    """USD that so many tokens cost at most: nothing read from the cache, and all of it written there where that costs
    extra; None where the price is unknown.
    """
    plain = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    written = Usage(input_tokens=input_tokens, cache_write_tokens=input_tokens, output_tokens=output_tokens)
    costs = [cost(model, usage, None, overrides) for usage in (plain, written)]
    return max((one for one in costs if one is not None), default=None)


def parse_overrides(text: str) -> dict[str, Price]:
    """Prices of one's own from JSON: `{"MODEL": {"input": "0.10", "output": "0.50"}}`, USD per 1,000,000 tokens.

    `cached_input` and `cache_write` may be given too. Raises ValueError with what is wrong and what it should be.
    """
    wanted = 'expected {"MODEL": {"input": USD, "output": USD}} for 1,000,000 tokens'
    try:
        data = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError):
        raise ValueError(f"prices are not JSON; {wanted}") from None
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise ValueError(f"prices are not an object of objects; {wanted}")
    return {model.strip().lower(): _override(model, entry) for model, entry in data.items()}


def _override(model: str, entry: Mapping[str, Any]) -> Price:
    known = ("input", "output", "cached_input", "cache_write")
    unknown = sorted(entry.keys() - set(known))
    if unknown or not {"input", "output"} <= entry.keys():
        raise ValueError(f"the price of {model!r} needs input and output, and may have cached_input and cache_write")
    prices = {name: _amount(model, name, entry[name]) for name in known if name in entry}
    return Price(**prices)


def _amount(model: str, name: str, value: Any) -> Decimal:
    try:
        amount = Decimal(value) if isinstance(value, str | Decimal) else None
    except ArithmeticError:
        amount = None
    if amount is None or not amount.is_finite() or amount < 0:
        raise ValueError(f"the {name} price of {model!r} is not a number of USD")
    return amount


def _price(model: str, tier: str | None, overrides: Mapping[str, Any] | None) -> tuple[Price | None, Decimal | None]:
    if overrides:
        names = (model.strip().lower(), _family(model))
        own = next((overrides[name] for name in names if name in overrides), None)
        if isinstance(own, Price):
            return own, Decimal(1)
    price = _PRICES.get(_family(model))
    if price is None:
        return None, None
    if tier is None or tier in _STANDARD_TIERS:
        return price, Decimal(1)
    if tier in _HALF_TIERS:
        return price, price.half
    return price, price.premium if tier in _PREMIUM_TIERS else None


@lru_cache(maxsize=256)
def _family(model: str) -> str:
    """`openai/gpt-5-nano-2025-08-07` → `gpt-5-nano`; a snapshot with a price of its own keeps its date."""
    name = model.strip().lower().removeprefix("openai/")
    dated = _DATED.fullmatch(name)
    return name if dated is None or name in _UNLIKE_THEIR_FAMILY else dated[1]


#: snapshots that do not cost what their family costs
_UNLIKE_THEIR_FAMILY: Final = frozenset({"gpt-4o-2024-05-13"})


def _of(
    input_: str, cached: str, output: str, *, write: str | None = None, half: str | None = "0.5", premium: str | None
) -> Price:
    return Price(
        input=Decimal(input_),
        cached_input=Decimal(cached),
        output=Decimal(output),
        cache_write=None if write is None else Decimal(write),
        half=None if half is None else Decimal(half),
        premium=None if premium is None else Decimal(premium),
    )


_PRICES: Final[dict[str, Price]] = {
    "gpt-6.2-sol": _of("2", "0.1", "10", write="2.5", premium="2"),
    "gpt-6.1-sol": _of("2", "0.1", "10", write="2.5", premium="2"),
    "gpt-6.1-terra": _of("1", "0.05", "5", write="1.25", premium="2"),
    "gpt-6-astra": _of("10", "1", "50", write="12.5", premium="2"),
    "gpt-6-sol": _of("2", "0.2", "10", write="2.5", premium="2"),
    "gpt-6-luna": _of("0.1", "0.01", "0.5", write="0.125", premium="2"),
    "gpt-5.6-terra": _of("2", "0.2", "12", write="2.5", premium="2"),
    "gpt-5.6-luna": _of("0.2", "0.02", "1.2", write="0.25", premium="2"),
    "gpt-5.5": _of("5", "0.5", "30", premium="2.5"),
    "gpt-5.4": _of("2.5", "0.25", "15", premium="2"),
    "gpt-5.4-mini": _of("0.75", "0.075", "4.5", premium="2"),
    "gpt-5.4-nano": _of("0.2", "0.02", "1.25", premium=None),
    "gpt-5.2": _of("1.75", "0.175", "14", premium="2"),
    "gpt-5.1": _of("1.25", "0.125", "10", premium="2"),
    "gpt-5": _of("1.25", "0.125", "10", premium="2"),
    "gpt-5-mini": _of("0.25", "0.025", "2", premium="1.8"),
    "gpt-5-nano": _of("0.05", "0.005", "0.4", premium=None),
    "gpt-4.1": _of("2", "0.5", "8", half=None, premium="1.75"),
    "gpt-4.1-mini": _of("0.4", "0.1", "1.6", half=None, premium=None),
    "gpt-4.1-nano": _of("0.1", "0.025", "0.4", half=None, premium=None),
    "gpt-4o": _of("2.5", "1.25", "10", half=None, premium=None),
    "gpt-4o-mini": _of("0.15", "0.075", "0.6", half=None, premium=None),
    "o3": _of("2", "0.5", "8", premium=None),
    "o4-mini": _of("1.1", "0.275", "4.4", premium=None),
}
