"""Chat Completions, outgoing: completions with their usage, errors, models, and a simulated prompt cache.

Tokens are estimated from the length of the text. The shapes are those of the SDK's `types/chat/chat_completion.py` and
`types/completion_usage.py`.
"""

from __future__ import annotations

import json
from typing import Any, Final

from .requests import ChatRequest

MODEL: Final = "simulator-1"
#: 2026-11-01
_CREATED: Final = 1_793_491_200
_LEAST_CACHED: Final = 1024
_CACHE_STEP: Final = 128
_CACHED_PREFIXES: Final = 1000
#: tokens that frame the messages of a chat
_FRAMING: Final = 7


def count_tokens(text: str) -> int:
    """About as many tokens as OpenAI's encodings take: four ASCII characters or seven other bytes in each."""
    if text.isascii():
        return -(-len(text) // 4)
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // 4) + -(-(len(text.encode("utf-8", "surrogatepass")) - plain) // 7)


class PromptCache:
    """Remembers the prefixes that were seen: the second and every later call with one finds it cached.

    Cached are whole steps of 128 tokens, from 1,024 on, as OpenAI's guide on prompt caching tells it.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}

    def look_up(self, request: ChatRequest) -> tuple[int, int, int]:
        """Tokens of the whole prompt, of it cached before, of it written to the cache now."""
        key = (request.model, request.prefix)
        known = self._seen.get(key)
        constant = self._remember(key, request) if known is None else known
        whole = constant + count_tokens(request.suffix) + _FRAMING
        cacheable = constant - constant % _CACHE_STEP if constant >= _LEAST_CACHED else 0
        return (whole, 0, cacheable) if known is None else (whole, cacheable, 0)

    def _remember(self, key: tuple[str, str], request: ChatRequest) -> int:
        if len(self._seen) >= _CACHED_PREFIXES:
            del self._seen[next(iter(self._seen))]
        schema = "" if request.schema is None else json.dumps(request.schema, separators=(",", ":"))
        self._seen[key] = count_tokens(request.prefix) + count_tokens(schema)
        return self._seen[key]


def usage(prompt: tuple[int, int, int], visible: int, reasoning: int) -> dict[str, Any]:
    """`usage`, from what the cache says of the prompt and the tokens of the answer."""
    whole, cached, written = prompt
    return {
        "prompt_tokens": whole,
        "completion_tokens": visible + reasoning,
        "total_tokens": whole + visible + reasoning,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(
    request: ChatRequest, text: str, prompt: tuple[int, int, int], *, number: int, created: int, reasoning: int
) -> dict[str, Any]:
    """The completion of call `number`. A text beyond the request's cap is cut, with `finish_reason` "length".

    Reasoning counts towards the cap and comes first: it may leave nothing for the text.
    """
    visible, finish = count_tokens(text), "stop"
    if request.cap is not None and reasoning + visible > request.cap:
        reasoning = min(reasoning, request.cap)
        kept = request.cap - reasoning
        text, visible, finish = text[: len(text) * kept // max(visible, 1)], kept, "length"
    return {
        "id": f"chatcmpl-simulator{number:08}",
        "object": "chat.completion",
        "created": created,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
        "usage": usage(prompt, visible, reasoning),
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }


def model() -> dict[str, Any]:
    """The one model that there is."""
    return {"id": MODEL, "object": "model", "created": _CREATED, "owned_by": "gepp-audit"}


def error(message: str, *, type_: str = "invalid_request_error", param: str | None = None, code: Any = None) -> bytes:
    """An error's body."""
    return encode({"error": {"message": message, "type": type_, "param": param, "code": code}})


def encode(value: Any) -> bytes:
    """As JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
