"""Chat Completions, incoming: `read_request` turns a body into what the simulator needs of it, or refuses it. Pure.

Refused is what OpenAI refuses too, with the same status and `param`: a body that is no JSON object, fields that are
missing, of the wrong kind or unknown, a schema that strict mode does not take. The names of the fields are those of the
SDK's `types/chat/completion_create_params.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

_FIELDS: Final = frozenset(
    {
        "messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "metadata", "modalities", "moderation", "n", "parallel_tool_calls",
        "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream",
        "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
        "web_search_options",
    }
)  # fmt: skip
_ROLES: Final = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
_FRAME: Final = re.compile(r"^<<<TRANSACTION (\S+)>>>\n(.*)\n<<<END \1>>>$", re.MULTILINE)


class RequestError(Exception):
    """A request that is refused: the status, and `error` as it stands in the body."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request, as far as the simulator looks at it."""

    model: str
    #: all messages but the last, which a prompt cache can keep
    prefix: str
    #: the last message
    suffix: str
    #: the schema that the answer must fit, if one was given
    schema: dict[str, Any] | None
    #: the ids that `properties.rules.required` of the schema lists
    rule_ids: tuple[str, ...]
    #: the transaction of the last message, if there is one
    transaction: dict[str, Any] | None
    #: the cap on the tokens of the answer
    cap: int | None
    safety_identifier: str | None

    @property
    def transaction_id(self) -> str | None:
        """As it stands in the transaction."""
        id_ = None if self.transaction is None else self.transaction.get("transaction_id")
        return None if id_ is None else str(id_)


def read_request(body: bytes) -> ChatRequest:
    """Read a body. Raises RequestError."""
    data = _object(body)
    unknown = next((name for name in data if name not in _FIELDS), None)
    if unknown is not None:
        raise RequestError(400, f"Unknown parameter: '{unknown}'.", param=unknown, code="unknown_parameter")
    if not isinstance(data.get("model"), str) or not data["model"]:
        raise RequestError(
            400, "Missing required parameter: 'model'.", param="model", code="missing_required_parameter"
        )
    if data.get("stream") or data.get("n") not in (None, 1):
        param = "stream" if data.get("stream") else "n"
        raise RequestError(400, f"The simulator does not support '{param}'.", param=param, code="unsupported_parameter")
    texts = _texts(data.get("messages"))
    schema = _schema(data.get("response_format"))
    identifier = data.get("safety_identifier")
    return ChatRequest(
        model=data["model"],
        prefix="\n".join(texts[:-1]),
        suffix=texts[-1],
        schema=schema,
        rule_ids=_rule_ids(schema),
        transaction=_transaction(texts[-1]),
        cap=_cap(data),
        safety_identifier=identifier if isinstance(identifier, str) else None,
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise RequestError(400, "We could not parse the JSON body of your request.")
    return data


def _texts(messages: Any) -> list[str]:
    if not isinstance(messages, list) or not messages:
        raise RequestError(
            400, "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter"
        )
    return [_text(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _text(message: Any, place: str) -> str:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise RequestError(400, f"Invalid value: '{place}.role'.", param=f"{place}.role", code="invalid_value")
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise RequestError(400, f"Invalid type for '{place}.content'.", param=f"{place}.content", code="invalid_type")


def _cap(data: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        cap = data.get(name)
        if cap is None:
            continue
        if isinstance(cap, bool) or not isinstance(cap, int) or cap < 1:
            raise RequestError(400, f"Invalid value for '{name}'.", param=name, code="invalid_value")
        return cap
    return None


def _schema(response_format: Any) -> dict[str, Any] | None:
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise RequestError(
            400, "Invalid value: 'response_format.type'.", param="response_format.type", code="invalid_value"
        )
    if kind != "json_schema":
        return None
    given = response_format.get("json_schema")
    if (
        not isinstance(given, dict)
        or not isinstance(given.get("name"), str)
        or not isinstance(given.get("schema"), dict)
    ):
        raise RequestError(
            400,
            "Missing required parameter: 'response_format.json_schema'.",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    if given.get("strict"):
        try:
            _check_strict(given["schema"], "()")
        except RecursionError:
            raise _bad_schema("It is nested too deeply.") from None
    schema: dict[str, Any] = given["schema"]
    return schema


def _check_strict(schema: Any, place: str) -> None:
    """Strict mode: every object names all its properties as required and allows no others."""
    if not isinstance(schema, dict):
        raise _bad_schema(f"In context={place}, a schema must be an object.")
    properties = schema.get("properties")
    if schema.get("type") == "object" or properties is not None:
        if schema.get("additionalProperties") is not False:
            raise _bad_schema(f"In context={place}, 'additionalProperties' is required to be supplied and to be false.")
        required = schema.get("required")
        if (
            not isinstance(properties, dict)
            or not isinstance(required, list)
            or not all(name in required for name in properties)
            or not all(isinstance(name, str) and name in properties for name in required)
        ):
            raise _bad_schema(f"In context={place}, 'required' is required to include every key in properties.")
        for name, inner in properties.items():
            _check_strict(inner, f"{place[:-1]}{', ' if len(place) > 2 else ''}'{name}')")
    if "items" in schema:
        _check_strict(schema["items"], place)


def _bad_schema(message: str) -> RequestError:
    return RequestError(
        400, f"Invalid schema for response_format: {message}", param="response_format", code="invalid_json_schema"
    )


def _rule_ids(schema: dict[str, Any] | None) -> tuple[str, ...]:
    found: Any = schema
    for step in ("properties", "rules", "required"):
        found = found.get(step) if isinstance(found, dict) else None
    return tuple(id_ for id_ in found if isinstance(id_, str)) if isinstance(found, list) else ()


def _transaction(text: str) -> dict[str, Any] | None:
    """The line of JSON between the first pair of marker lines that belong together."""
    framed = _FRAME.search(text)
    if framed is None:
        return None
    try:
        found = json.loads(framed[2])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
