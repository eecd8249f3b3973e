"""What stands in the body of a 200: `read_answer`, a pure function from hostile bytes to text or failure, and usage.

A text is handed on only when the body is one complete chat completion: valid JSON, exactly one choice, its
`finish_reason` is `stop`, no refusal, a content that is text and can be stored. Everything else is a failure, also
where the content reads like a perfect answer (`finish_reason=length`). The tokens are read in every case: the answer
was paid.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from gepp_audit.model import ErrorCode, Failure, FailureKind, Usage
from gepp_audit.provider.errors import classify

#: no honest count of one call reaches this; a larger one would not fit the ledger's columns
_MAX_TOKENS: Final = 1_000_000_000

_NAME: Final = re.compile(r"[\w.:/@+\- ]{1,100}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadAnswer:
    """One response of status 200: exactly one of `text` and `failure` is set."""

    text: str | None = None
    failure: Failure | None = None
    usage: Usage = field(default_factory=Usage)
    #: the model's name and the service tier as the server gives them, or None where they are no plain names
    model: str | None = None
    tier: str | None = None
    #: the body is a chat completion, so the server took the request as it was written
    accepted: bool = False


def read_answer(body: bytes) -> ReadAnswer:
    """Read the body of a response with status 200. Never raises."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return ReadAnswer(failure=_unreadable("is not JSON"))
    if not isinstance(data, dict):
        return ReadAnswer(failure=_unreadable("is no JSON object"))
    usage = read_usage(data.get("usage"))
    choices = data.get("choices")
    if not isinstance(choices, list):
        # Gateways report errors of the server behind them under a status of 200.
        told = data.get("error") is not None
        return ReadAnswer(
            failure=classify(200, None, body) if told else _unreadable("has no list of choices"), usage=usage
        )
    text, failure = _read_choices(choices)
    return ReadAnswer(
        text=text,
        failure=failure,
        usage=usage,
        model=plain_name(data.get("model")),
        tier=plain_name(data.get("service_tier")),
        accepted=True,
    )


def read_usage(usage: object) -> Usage:
    """The counted tokens; what is missing, negative, no integer or larger than what contains it is unknown (None)."""
    if not isinstance(usage, dict):
        return Usage()
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    prompt_details, completion_details = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = _part(prompt_details, "cached_tokens", prompt)
    return Usage(
        input_tokens=prompt,
        cached_tokens=cached,
        cache_write_tokens=_part(
            prompt_details, "cache_write_tokens", None if prompt is None else prompt - (cached or 0)
        ),
        output_tokens=completion,
        reasoning_tokens=_part(completion_details, "reasoning_tokens", completion),
    )


def plain_name(value: object) -> str | None:
    """`value` if it is a short plain name that can stand in a log or a column, else None."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _read_choices(choices: list[Any]) -> tuple[str | None, Failure | None]:
    if len(choices) != 1 or not isinstance(choices[0], dict):
        return None, _unreadable("does not have exactly one choice")
    choice = choices[0]
    finish, message = choice.get("finish_reason"), choice.get("message")
    if finish == "length":
        return None, _answer(
            ErrorCode.TRUNCATED, "The answer was cut off at the cap on its tokens (reasoning counts towards it)."
        )
    if finish == "content_filter":
        return None, _answer(ErrorCode.CONTENT_FILTER, "The provider's content filter withheld the answer.")
    if not isinstance(message, dict):
        return None, _unreadable("has no message")
    if message.get("refusal"):
        return None, _answer(ErrorCode.REFUSED, "The model refused to answer.")
    if finish != "stop":
        return None, _unreadable("does not say that its answer is complete (finish_reason is not stop)")
    return _read_content(message.get("content"))


def _read_content(content: object) -> tuple[str | None, Failure | None]:
    if not isinstance(content, str) or not content.strip():
        return None, _unreadable("has no text as its content")
    if "\x00" in content or not _encodable(content):
        return None, _unreadable("holds characters that no text can have")
    return content, None


def _encodable(text: str) -> bool:
    """False for half a surrogate pair: JSON can spell one, UTF-8 and so every database cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_TOKENS:
        return value
    return None


def _part(details: object, name: str, whole: int | None) -> int | None:
    count = _count(details.get(name)) if isinstance(details, dict) else None
    return None if count is None or (whole is not None and count > whole) else count


def _answer(code: ErrorCode, message: str) -> Failure:
    return Failure(kind=FailureKind.ANSWER, code=code, message=message)


def _unreadable(what: str) -> Failure:
    return _answer(ErrorCode.UNREADABLE, f"The provider's response {what}.")
