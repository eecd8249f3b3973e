"""Named failures: what `"do": "rate_limited"` in a scenario stands for, as a scenario would write it. Data only.

Every way to spoil an answer (`spoiling`) is a name too. The errors are those of OpenAI's error codes guide, and what
compatible servers and gateways send in their place. "{key}" in a message becomes the key that the request carried: some
servers quote it.
"""

from __future__ import annotations

from typing import Any, Final

from .spoiling import NAMES

_HTML: Final = (
    "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
)


def _error(
    status: int,
    code: Any,
    message: str,
    *,
    type_: str | None = "invalid_request_error",
    param: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {"status": status, "error": {"message": message, "type": type_, "param": param, "code": code}, **more}


def _gateway(status: int) -> dict[str, Any]:
    return {"status": status, "body": _HTML, "content_type": "text/html"}


_THROTTLED: Final = "Rate limit reached for simulator-1 on requests per min (RPM). Please try again in 1s."
_QUOTA: Final = "You exceeded your current quota, please check your plan and billing details."

#: asked again later
_RETRY: Final[dict[str, dict[str, Any]]] = {
    "rate_limited": _error(429, "rate_limit_exceeded", _THROTTLED, type_="requests", headers={"Retry-After": "1"}),
    "rate_limited_ms": _error(
        429, "rate_limit_exceeded", _THROTTLED, type_="requests", headers={"retry-after-ms": "150", "Retry-After": "1"}
    ),
    "rate_limited_until": _error(429, "rate_limit_exceeded", _THROTTLED, type_="tokens", retry_after_date=2),
    "rate_limited_bare": {"status": 429, "body": ""},
    "slow_down": _error(503, "slow_down", "Please reduce your request rate.", type_="service_unavailable"),
    "flex_unavailable": _error(429, "resource_unavailable", "No flex capacity is left.", type_="flex_unavailable"),
    "request_timeout": _error(408, None, "The request took too long.", type_="timeout"),
    "conflict": _error(409, None, "The resource was locked by another request.", type_="conflict"),
    "server_error": _error(500, "server_error", "The server had an error.", type_="server_error"),
    "bad_gateway": _gateway(502),
    "overloaded": _error(503, "server_is_overloaded", "The engine is overloaded.", type_="server_error"),
    "gateway_timeout": _gateway(504),
    "server_error_final": _error(500, None, "Failed.", type_="server_error", headers={"x-should-retry": "false"}),
    "should_retry": _error(400, None, "Try that again.", headers={"x-should-retry": "true"}),
}

#: this transaction only
_ITEM: Final[dict[str, dict[str, Any]]] = {
    "context_length": _error(
        400,
        "context_length_exceeded",
        "This model's maximum context length is 400000 tokens. Please reduce the length of the messages.",
        param="messages",
    ),
    "invalid_image": _error(
        400, "invalid_image_url", "The image could not be downloaded.", param="messages[1].content"
    ),
    "policy": _error(403, "content_policy_violation", "The request was rejected by the safety system.", type_=None),
    "invalid_prompt": _error(400, "invalid_prompt", "Your prompt was flagged as violating our usage policy."),
}

#: nothing can be asked until a person mends it
_BLOCK: Final[dict[str, dict[str, Any]]] = {
    "key_rejected": _error(401, "invalid_api_key", "Incorrect API key provided: {key}."),
    "key_rejected_bare": {"status": 401, "body": "unauthorized", "content_type": "text/plain"},
    "access_denied": _error(403, "permission_denied", "You are not allowed to sample from this model."),
    "country": _error(403, "unsupported_country_region_territory", "Country, region, or territory not supported."),
    "quota_exhausted": _error(429, "insufficient_quota", _QUOTA, type_="insufficient_quota"),
    "quota_with_retry_after": _error(
        429, "insufficient_quota", _QUOTA, type_="insufficient_quota", headers={"Retry-After": "1"}
    ),
    "billing_limit": _error(429, "billing_hard_limit_reached", "Billing hard limit has been reached.", type_=None),
    "model_not_found": _error(
        404, "model_not_found", "The model does not exist or you do not have access to it.", param="model"
    ),
    "unknown_route": _error(404, None, "Invalid URL (POST /v1/chat/completions)."),
    "unknown_route_bare": {"status": 404, "body": "404 page not found\n", "content_type": "text/plain"},
    "request_rejected": _error(400, "invalid_value", "Invalid value: 'verbosity'.", param="verbosity"),
    "schema_rejected": _error(400, "invalid_json_schema", "Invalid schema.", param="response_format"),
    "redirect": {"status": 308, "body": "", "headers": {"Location": "https://elsewhere.invalid/v1"}},
}

#: what compatible servers and gateways make of it
_ODD: Final[dict[str, dict[str, Any]]] = {
    "string_error": {"status": 500, "body": {"error": "upstream connect error"}},
    "integer_code": {"status": 503, "body": {"error": {"code": 503, "message": "Loading model", "type": None}}},
    "error_as_text": {"status": 500, "body": '"Internal Server Error"'},
    "error_in_ok": {"status": 200, "body": {"error": {"message": "Upstream failed", "code": 502}}},
    "not_json": {"status": 200, "body": "OK, the request was processed.", "content_type": "application/json"},
    "html": {"status": 200, "body": _HTML, "content_type": "text/html"},
    "empty_object": {"status": 200, "body": {}},
    "empty_body": {"status": 200, "body": ""},
    "json_list": {"status": 200, "body": []},
    "no_content": {"status": 204, "body": ""},
}

_CONNECTION: Final[dict[str, dict[str, Any]]] = {
    "hang": {"hang": True},
    "hang_up": {"hang_up": True},
    "drip": {"drip_seconds": 60},
    "cut": {"cut_after": 0.5},
    "slow": {"extra_latency_ms": 5000},
}

#: name → the `do` that it stands for; a `match` in it is added to the rule's own
PRESETS: Final[dict[str, dict[str, Any]]] = {
    **{name: {"answer": name} for name in sorted(NAMES)},
    "wrong_evidence_once": {"answer": "wrong_evidence", "match": {"attempt": 1}},
    **_RETRY,
    **_ITEM,
    **_BLOCK,
    **_ODD,
    **_CONNECTION,
}
