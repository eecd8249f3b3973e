"""The closed tables behind `errors.classify`: what each error code of a provider means, and in which words we say so.

Data only. The words are the operator's: what happened, and for what a person must mend, what to do. Codes are written
in lower case with underscores.

Sources: OpenAI's error codes guide (developers.openai.com/api/docs/guides/error-codes, November 2026) and the error
bodies of llama.cpp, vLLM, Ollama, Azure OpenAI and OpenRouter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gepp_audit.model import ErrorCode, FailureKind


@dataclass(frozen=True, slots=True)
class Meaning:
    """One thing a provider can tell us. `words` has no final full stop; its first sentence says what happened."""

    kind: FailureKind
    code: ErrorCode
    words: str


RATE = Meaning(FailureKind.RETRY, ErrorCode.RATE_LIMITED, "The provider throttles us")
OVERLOAD = Meaning(FailureKind.RETRY, ErrorCode.SERVER_ERROR, "The provider is overloaded")
SERVER = Meaning(FailureKind.RETRY, ErrorCode.SERVER_ERROR, "The provider had an error of its own")
SLOW = Meaning(FailureKind.RETRY, ErrorCode.TIMEOUT, "The provider gave up waiting")
MONEY = Meaning(
    FailureKind.BLOCK,
    ErrorCode.QUOTA_EXHAUSTED,
    "The provider's account has no money or quota left. Add credit or raise the limit in its billing settings",
)
KEY = Meaning(
    FailureKind.BLOCK,
    ErrorCode.KEY_REJECTED,
    "The provider rejected the API key. Put a valid one into OPENAI_API_KEY, or into the file that "
    "OPENAI_API_KEY_FILE names",
)
ACCESS = Meaning(
    FailureKind.BLOCK,
    ErrorCode.KEY_REJECTED,
    "The provider denies this key access. Check the key's project, permissions and allowed addresses",
)
COUNTRY = Meaning(
    FailureKind.BLOCK,
    ErrorCode.KEY_REJECTED,
    "The provider does not serve this host's country or address. Call it from an address that it serves",
)
MODEL = Meaning(
    FailureKind.BLOCK,
    ErrorCode.MODEL_UNAVAILABLE,
    "The provider does not offer the model to this key. Set GEPP_AUDIT_MODEL to one that it offers",
)
ROUTE = Meaning(
    FailureKind.BLOCK,
    ErrorCode.REQUEST_REJECTED,
    "The base URL has no such route as Chat Completions. Correct OPENAI_BASE_URL (it usually ends in /v1)",
)
REDIRECT = Meaning(
    FailureKind.BLOCK,
    ErrorCode.REQUEST_REJECTED,
    "The base URL redirects to another address, which is not followed. Set OPENAI_BASE_URL to the final address",
)
PROXY = Meaning(
    FailureKind.BLOCK,
    ErrorCode.REQUEST_REJECTED,
    "A proxy on the way asks for credentials. Correct HTTPS_PROXY, or NO_PROXY for this host",
)
REJECTED = Meaning(
    FailureKind.BLOCK,
    ErrorCode.REQUEST_REJECTED,
    "The provider rejected the request as such. Check GEPP_AUDIT_MODEL, OPENAI_BASE_URL and the version of gepp-audit",
)
CONTEXT = Meaning(
    FailureKind.ITEM, ErrorCode.CONTEXT_LENGTH, "The transaction and its rules are too long for the model"
)
INPUT = Meaning(FailureKind.ITEM, ErrorCode.INVALID_INPUT, "The provider cannot read this transaction's content")
POLICY = Meaning(
    FailureKind.ITEM, ErrorCode.POLICY, "The provider refuses this transaction's content under its usage policy"
)
UNREADABLE = Meaning(FailureKind.ANSWER, ErrorCode.UNREADABLE, "The provider's response is no answer")

#: `error.code`, lower case and with underscores; decides whatever the status says
BY_CODE: Final[dict[str, Meaning]] = {
    **dict.fromkeys(
        (
            "insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded", "organization_usage_limit_exceeded", "billing_hard_limit_reached",
            "billing_soft_limit_reached", "billing_not_active", "account_not_active", "quota_exceeded",
            "insufficient_balance", "insufficient_credits", "insufficient_funds", "insufficient_user_quota",
            "budget_exceeded", "enforced_spend_limit_reached", "payment_required",
        ),
        MONEY,
    ),
    **dict.fromkeys(
        (
            "invalid_api_key", "incorrect_api_key", "incorrect_api_key_provided", "missing_api_key",
            "invalid_authentication", "authentication_error", "unauthorized", "token_expired", "expired_api_key",
            "account_deactivated", "access_terminated", "invalid_organization", "no_organization",
            "mismatched_organization", "mismatched_project", "invalid_project",
        ),
        KEY,
    ),
    **dict.fromkeys(
        (
            "permission_denied", "permission_error", "insufficient_permissions", "missing_scope",
            "access_denied", "forbidden", "ip_not_authorized", "organization_restricted",
        ),
        ACCESS,
    ),
    **dict.fromkeys(("unsupported_country_region_territory", "unsupported_location_error"), COUNTRY),
    **dict.fromkeys(
        (
            "model_not_found", "model_not_available", "model_unavailable", "model_deprecated", "model_not_supported",
            "unsupported_model", "invalid_model", "unknown_model", "deployment_not_found", "deploymentnotfound",
        ),
        MODEL,
    ),
    **dict.fromkeys(("unknown_url", "invalid_url", "route_not_found"), ROUTE),
    **dict.fromkeys(
        (
            "context_length_exceeded", "context_window_exceeded", "context_size_exceeded", "exceed_context_size_error",
            "prompt_too_long", "request_too_large", "input_too_long",
        ),
        CONTEXT,
    ),
    **dict.fromkeys(
        (
            "invalid_image", "invalid_image_url", "invalid_image_format", "invalid_base64_image", "image_parse_error",
            "image_too_large", "image_too_small", "image_file_too_large", "image_file_not_found", "empty_image_file",
            "unsupported_image_media_type", "failed_to_download_image",
        ),
        INPUT,
    ),
    **dict.fromkeys(
        (
            "invalid_prompt", "content_policy_violation", "image_content_policy_violation", "policy_violation",
            "content_filter", "content_filtered", "moderation_blocked", "cyber_policy", "cyber_policy_violation",
            "bio_policy", "safety_policy_violation", "responsibleaipolicyviolation",
        ),
        POLICY,
    ),
    **dict.fromkeys(
        (
            "rate_limit_exceeded", "rate_limit_error", "rate_limited", "slow_down", "flex_unavailable",
            "resource_unavailable", "resource_exhausted", "too_many_requests", "tokens", "requests",
        ),
        RATE,
    ),
    **dict.fromkeys(
        (
            "server_is_overloaded", "server_overloaded", "engine_overloaded", "overloaded", "overloaded_error",
            "service_unavailable", "service_unavailable_error", "temporarily_unavailable",
        ),
        OVERLOAD,
    ),
    **dict.fromkeys(
        ("server_error", "internal_error", "internal_server_error", "api_error", "bad_gateway", "upstream_error"),
        SERVER,
    ),
    **dict.fromkeys(("request_timeout", "timeout", "timeout_error", "gateway_timeout", "deadline_exceeded"), SLOW),
}  # fmt: skip

#: types that say too little to outweigh the status
VAGUE_TYPES: Final = frozenset({"api_error", "forbidden", "tokens", "requests"})

#: codes that no table knows but that say what they mean, by the statuses on which they are believed
BY_WORD: Final[tuple[tuple[frozenset[int], re.Pattern[str], Meaning], ...]] = (
    (
        frozenset({402, 403, 429}),
        re.compile(r"billing|credit|balance|spend|payment|quota|budget|funds"),
        MONEY,
    ),
    (
        frozenset({400, 403, 422, 451}),
        re.compile(r"policy|moderation|flagged|content_filter|safety|guardrail"),
        POLICY,
    ),
    (
        frozenset({400, 413, 422}),
        re.compile(r"context_(length|window|size)|(prompt|input|request)_(is_)?too_(long|large)"),
        CONTEXT,
    ),
    (frozenset({400, 415, 422}), re.compile(r"(^|_)image(_|$)"), INPUT),
    (
        frozenset({400, 403, 404, 410}),
        re.compile(r"(model|deployment)_?(is_)?(not|un|no_longer|does_not|deprecated|retired)"),
        MODEL,
    ),
)

#: fields of the requests we write: a 400 that names one of them would meet every transaction
OUR_PARAMS: Final = frozenset(
    {
        "model", "messages", "response_format", "max_completion_tokens", "max_tokens", "reasoning_effort", "verbosity",
        "store", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "service_tier",
    }
)  # fmt: skip
