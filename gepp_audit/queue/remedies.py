"""What a person does about each way in which a provider fails us: pure tables by `error_code`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from gepp_audit.model import ErrorCode
from gepp_audit.queue.wording import sentence

if TYPE_CHECKING:
    from gepp_audit.queue.summary import Summary


class Remedy(NamedTuple):
    """One refusal in words, and what mends it (no full stop: it may go on)."""

    words: str
    mend: str


_REFUSALS: Final = {
    ErrorCode.KEY_REJECTED.value: Remedy(
        "it rejects the API key",
        "Put a valid key into OPENAI_API_KEY (or OPENAI_API_KEY_FILE)",
    ),
    ErrorCode.QUOTA_EXHAUSTED.value: Remedy(
        "the account has no credit left or has reached its spending limit",
        "Add credit or raise the spending limit at the provider",
    ),
    ErrorCode.MODEL_UNAVAILABLE.value: Remedy(
        "there is no such model, or this key may not use it",
        "Set GEPP_AUDIT_MODEL to a model that this key may use",
    ),
    ErrorCode.REQUEST_REJECTED.value: Remedy(
        "it rejects our requests, whatever the transaction",
        "Correct GEPP_AUDIT_MODEL or OPENAI_BASE_URL",
    ),
}
_OTHER_REFUSAL: Final = Remedy("it gives a reason that this version does not know", "Look at what it said")

_FAILURES: Final = {
    ErrorCode.RATE_LIMITED.value: "Lower GEPP_AUDIT_CONCURRENCY, or raise the rate limit at the provider",
    ErrorCode.TIMEOUT.value: "Look at the provider's status page; if answers just take long, raise "
    "GEPP_AUDIT_CALL_TIMEOUT",
    ErrorCode.CONNECTION.value: "Look whether this host reaches the provider (OPENAI_BASE_URL, proxy, firewall)",
    ErrorCode.SERVER_ERROR.value: "Look at the provider's status page; it goes on by itself when the provider does",
    ErrorCode.TRUNCATED.value: "Raise GEPP_AUDIT_MAX_COMPLETION_TOKENS",
    ErrorCode.TOO_LARGE_FOR_LIMIT.value: 'Raise that limit with "gepp-audit limits set"',
}
_OTHER_FAILURE: Final = "It goes on by itself; if the error stays, try another GEPP_AUDIT_MODEL"


def of_refusal(reason: str) -> Remedy:
    """What the reason of a block means, and what mends it."""
    return _REFUSALS.get(reason, _OTHER_REFUSAL)


def of_failure(code: str | None) -> str:
    """What to do about calls that fail with `code` and are asked again (no full stop)."""
    return _FAILURES.get(code or "", _OTHER_FAILURE)


def refusal(summary: Summary) -> tuple[str, str]:
    """Why no call of a blocked run may leave, and what to do: a text without full stop, and sentences."""
    reason, detail = summary.block_reason, summary.block_detail or "the provider said no more"
    failed_once = summary.retries == 1 and not summary.ended
    if summary.block_wait is None or (summary.calls > 0 and not failed_once):
        message = f"the provider refuses all calls ({reason}): {summary.block_detail or 'it said no more'}"
        return message, f"{of_refusal(reason or '').mend}; the next run tries it by itself, one call a minute."
    fix = f"If that is mended, a run tries one call in {summary.block_wait:.0f} s by itself, or at once after "
    fix += '"gepp-audit stuck --requeue BATCH --yes".'
    if not failed_once:
        return f"an earlier call was refused ({reason}), and this run tried none: {detail}", fix
    # the refusal may be mended already: what this run met is the news
    message = f"this run's one call did not get through: {sentence(summary.last_failure or 'it failed')} "
    message += f"An earlier call was refused ({reason}): {detail}"
    return message, f"{of_failure(summary.last_failure_code)}. {fix}"
