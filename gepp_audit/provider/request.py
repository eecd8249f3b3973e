"""How a `CallRequest` is written as the JSON body of Chat Completions: `encode_request`, pure.

Field names and shapes are those of the SDK's `types/chat/completion_create_params.py`. The rules come first and the
transaction last, so that a provider's prompt cache can keep everything before the transaction.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gepp_audit.model import CallRequest
from gepp_audit.provider.models import Capabilities

#: OpenAI's limits on the length of these two fields
_MAX_CACHE_KEY: Final = 64
_MAX_SAFETY_IDENTIFIER: Final = 128


def encode_request(request: CallRequest, capabilities: Capabilities) -> bytes:
    """The body as UTF-8 JSON. Raises ValueError where it cannot be written as such (half a surrogate pair, NaN)."""
    return json.dumps(
        request_body(request, capabilities), ensure_ascii=False, separators=(",", ":"), allow_nan=False
    ).encode()


def request_body(request: CallRequest, capabilities: Capabilities) -> dict[str, Any]:
    """The body as a dictionary, with the fields that `capabilities` allows."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [
            {"role": capabilities.rules_role, "content": _rules_content(request.prefix, capabilities)},
            {"role": "user", "content": request.suffix},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": request.schema_name, "strict": True, "schema": dict(request.schema)},
        },
        capabilities.cap_field: request.max_completion_tokens,
    }
    if capabilities.effort is not None:
        body["reasoning_effort"] = capabilities.effort
    if capabilities.verbosity is not None:
        body["verbosity"] = capabilities.verbosity
    if capabilities.openai_fields:
        body["store"] = False
        body["safety_identifier"] = request.safety_identifier[:_MAX_SAFETY_IDENTIFIER]
    if capabilities.cache_key:
        body["prompt_cache_key"] = request.cache_key[:_MAX_CACHE_KEY]
    if capabilities.cache_breakpoint:
        # Without it each call would pay to write its own transaction, which nobody reads again, to the cache.
        body["prompt_cache_options"] = {"mode": "explicit"}
    return body


def _rules_content(prefix: str, capabilities: Capabilities) -> str | list[dict[str, Any]]:
    if not capabilities.cache_breakpoint:
        return prefix
    return [{"type": "text", "text": prefix, "prompt_cache_breakpoint": {"mode": "explicit"}}]
