"""What each family of models accepts on Chat Completions, and when a model is shut down. Pure, and free of the SDK.

Two questions are kept apart, because a gateway may stand between us and the model:

- what the *model* accepts (`reasoning_effort`, `verbosity`, the name of the cap, the role of the rules) follows from
  its name, wherever it is served;
- what *OpenAI's own service* accepts (`prompt_cache_key`, the cache breakpoint) is sent to OpenAI itself only.
  `store` and `safety_identifier` are OpenAI's too, but go out with every OpenAI model: a gateway that passes a request
  on to OpenAI must not make it store a customer's data because we left the field out.

A model that is not known here, on a server that is not OpenAI's, gets what every compatible server understands: model,
system and user message, `response_format` and `max_tokens`. A strict server refuses the whole request for one unknown
field, a lax one loses nothing by its absence.

Sources, as of November 2026: the parameter documentation and the list of deprecated models in the `openai` SDK 3.54.0
(`types/chat/completion_create_params.py`, `types/shared/chat_model.py`); OpenAI's deprecations page
(developers.openai.com/api/docs/deprecations) and prompt caching guide (same site); for the efforts of each model the
matrix on community.openai.com/t/1371738 and the model pages of the gpt-5.4, 5.6 and 6 families.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import urlsplit

#: the cheapest model that OpenAI recommends for focused work in large numbers
DEFAULT_MODEL: Final = "gpt-6-luna"

#: where requests go without OPENAI_BASE_URL
OPENAI_BASE_URL: Final = "https://api.openai.com/v1"

#: the first family whose cache takes explicit breakpoints and bills what is written to it
_EXPLICIT_CACHE_SINCE: Final = (5, 6)

#: variants of a family with another set of parameters than the plain model: only what is common to all is sent to them
_SPECIAL: Final = re.compile(r"-(chat-latest|codex|pro|audio|search|realtime|transcribe|cyber|rosalind|law)\b")

_GPT: Final = re.compile(r"gpt-(\d+)(?:\.(\d+))?(o?)(?![\d.])")
_O_SERIES: Final = re.compile(r"o\d+(?![\w.])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """How a request to one model on one server is written."""

    #: role of the message that carries the rules
    rules_role: Literal["developer", "system"]
    #: name of the field that caps the answer's tokens
    cap_field: Literal["max_completion_tokens", "max_tokens"]
    #: `reasoning_effort`, or None where the field is left out
    effort: str | None
    #: values of `reasoning_effort` that the model takes; empty: unknown, or none at all
    efforts: tuple[str, ...]
    #: `verbosity`, or None where the field is left out
    verbosity: str | None
    #: `store` and `safety_identifier` are sent
    openai_fields: bool
    #: `prompt_cache_key` is sent
    cache_key: bool
    #: one explicit cache breakpoint after the rules, with `prompt_cache_options.mode=explicit`
    cache_breakpoint: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Family:
    """What the name of a model says about it."""

    version: tuple[int, int] | None
    efforts: tuple[str, ...]
    verbosity: bool
    reasoning: bool


#: model → the day after which OpenAI no longer serves it: the SDK's list and OpenAI's deprecations page (see above)
_SHUTDOWN: Final[dict[date, tuple[str, ...]]] = {
    date(2026, 7, 23): (
        "gpt-5.1-codex", "gpt-5.1-chat-latest", "gpt-5-chat-latest", "gpt-4o-search-preview",
        "gpt-4o-search-preview-2025-03-11", "gpt-4o-mini-search-preview", "gpt-4o-mini-search-preview-2025-03-11",
    ),
    date(2026, 8, 10): ("gpt-5.3-chat-latest", "gpt-5.2-chat-latest"),
    date(2026, 9, 28): ("gpt-3.5-turbo-1106",),
    date(2026, 10, 23): (
        "gpt-4.1-nano", "gpt-4.1-nano-2025-04-14", "o4-mini", "o4-mini-2025-04-16", "o3-mini", "o3-mini-2025-01-31",
        "o1", "o1-2024-12-17", "o1-pro", "o1-pro-2025-03-19", "gpt-4o-2024-05-13", "gpt-4-turbo",
        "gpt-4-turbo-2024-04-09", "gpt-4-1106-preview", "gpt-4", "gpt-4-0613", "gpt-3.5-turbo", "gpt-3.5-turbo-0125",
    ),
    date(2026, 12, 11): (
        "gpt-5", "gpt-5-2025-08-07", "gpt-5-mini", "gpt-5-mini-2025-08-07", "gpt-5-nano", "gpt-5-nano-2025-08-07",
        "gpt-5-pro", "gpt-5-pro-2025-10-06", "o3", "o3-2025-04-16", "o3-pro", "o3-pro-2025-06-10",
    ),
    date(2027, 1, 14): (
        "gpt-4.1", "gpt-4.1-2025-04-14", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "gpt-4o", "gpt-4o-2024-08-06",
        "gpt-4o-2024-11-20", "gpt-4o-mini", "gpt-4o-mini-2024-07-18",
    ),
    date(2027, 4, 1): ("gpt-5.4-nano", "gpt-5.4-nano-2026-03-17", "gpt-5.1", "gpt-5.1-2025-11-13"),
}  # fmt: skip
_SHUTDOWN_OF: Final = {model: day for day, models in _SHUTDOWN.items() for model in models}


def shutdown_date(model: str) -> date | None:
    """The UTC day on which OpenAI shuts `model` down; None: none announced, or not known here.

    A fine-tuned model follows its base model.
    """
    return _SHUTDOWN_OF.get(_base_name(model))


def is_known(model: str) -> bool:
    """Whether this version knows how to write a request to `model`, wherever it is served."""
    return _family(model) is not None


def is_openai(base_url: str | None) -> bool:
    """Whether `base_url` (None: the default) is OpenAI itself: api.openai.com or one of its regional hosts, by TLS."""
    try:
        parts = urlsplit(base_url or OPENAI_BASE_URL)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme == "https" and (host == "api.openai.com" or host.endswith(".api.openai.com"))


@lru_cache(maxsize=64)
def capabilities(model: str, base_url: str | None) -> Capabilities:
    """How to write a request to `model` at `base_url` (None: OpenAI). An unknown name gets the careful set."""
    family = _family(model)
    official = is_openai(base_url)
    careful = family is None and not official
    return Capabilities(
        rules_role="developer" if family is not None and family.reasoning else "system",
        cap_field="max_tokens" if careful else "max_completion_tokens",
        effort="low" if family is not None and "low" in family.efforts else None,
        efforts=() if family is None else family.efforts,
        verbosity="low" if family is not None and family.verbosity else None,
        openai_fields=not careful,
        cache_key=official,
        cache_breakpoint=official
        and family is not None
        and family.version is not None
        and family.version >= _EXPLICIT_CACHE_SINCE,
    )


def _base_name(model: str) -> str:
    """`ft:gpt-4o-mini-2024-07-18:acme::x` and `openai/gpt-4o-mini` → the OpenAI model under it."""
    name = model.strip().lower()
    if name.startswith("ft:"):
        name = name[3:].partition(":")[0]
    return name.removeprefix("openai/")


def _family(model: str) -> _Family | None:
    name = _base_name(model)
    special = _SPECIAL.search(name) is not None
    if _O_SERIES.match(name):
        # o-series: efforts, but a verbosity other than `medium` is refused
        return _Family(
            version=None, efforts=() if special else ("low", "medium", "high"), verbosity=False, reasoning=True
        )
    found = _GPT.match(name)
    if found is None:
        return None
    version = (int(found[1]), int(found[2] or 0))
    if version < (5, 0) or found[3]:
        return _Family(version=version, efforts=(), verbosity=False, reasoning=False)
    return _Family(
        version=version, efforts=() if special else _gpt_efforts(version), verbosity=not special, reasoning=True
    )


def _gpt_efforts(version: tuple[int, int]) -> tuple[str, ...]:
    if version == (5, 0):
        return ("minimal", "low", "medium", "high")
    if version == (5, 1):
        return ("none", "low", "medium", "high")
    if version < (5, 6):
        return ("none", "low", "medium", "high", "xhigh")
    return ("none", "low", "medium", "high", "xhigh", "max")
