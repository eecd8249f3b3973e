"""What a failed call means: `classify`, a pure function from what the server sent to one `Failure`.

The order of the evidence is the contract: first the server's `error.code`, then a `param` that is one of our own
fields, then `error.type`, then codes that say what they mean in words, and only for servers that send none of these
the HTTP status. Bodies are hostile: a string, an integer code, HTML, no JSON at all. A server's message is read only to
tell two meanings of one status apart and is never repeated: it may quote a key or a customer's data.

Never raises, whatever it is given, and never yields a verdict: the worst it makes of something unintelligible is a
failure that is asked again a bounded number of times.

The codes and the words stand in `meanings`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from gepp_audit.model import ErrorCode, Failure, FailureKind
from gepp_audit.provider.meanings import (
    ACCESS,
    BY_CODE,
    BY_WORD,
    CONTEXT,
    INPUT,
    KEY,
    MODEL,
    MONEY,
    OUR_PARAMS,
    POLICY,
    PROXY,
    RATE,
    REDIRECT,
    REJECTED,
    ROUTE,
    SERVER,
    SLOW,
    UNREADABLE,
    VAGUE_TYPES,
    Meaning,
)

#: a server's wish to wait is heeded up to a day: as long as an item may wait at all
MAX_RETRY_AFTER: Final = 86_400.0


class ExceptionKind(StrEnum):
    """How a call ended that brought no usable HTTP response."""

    #: the time for the whole call was over
    TIMEOUT = "timeout"
    #: no connection could be made; nothing was sent
    NOT_CONNECTED = "not_connected"
    #: the host's name was not found; nothing was sent
    NAME_RESOLUTION = "name_resolution"
    #: the server's certificate is not trusted; nothing was sent
    CERTIFICATE = "certificate"
    #: the connection broke after the request had left, or the server did not speak HTTP
    CONNECTION = "connection"
    #: the response was larger than we read
    TOO_LARGE = "too_large"
    #: the response's content encoding could not be undone
    UNDECODABLE = "undecodable"
    #: an exception that nobody foresaw
    UNEXPECTED = "unexpected"


_MODEL_MISSING: Final = re.compile(
    r"\b(model|deployment)\b.{0,200}\b(not found|not exist|unknown|not available|not supported|no access)",
    re.IGNORECASE | re.DOTALL,
)
_TOO_LONG: Final = re.compile(
    r"context (length|window|size)|maximum (context|prompt) length|prompt is too long|too many tokens", re.IGNORECASE
)
_TOKEN: Final = re.compile(r"[a-z][a-z0-9_]{2,79}")

_EXCEPTIONS: Final[dict[ExceptionKind, tuple[FailureKind, ErrorCode, str]]] = {
    ExceptionKind.TIMEOUT: (
        FailureKind.RETRY,
        ErrorCode.TIMEOUT,
        "The provider did not answer in full within the call timeout.",
    ),
    ExceptionKind.NOT_CONNECTED: (
        FailureKind.RETRY,
        ErrorCode.CONNECTION,
        "No connection to the provider could be made. Check that its address can be reached from this host.",
    ),
    ExceptionKind.NAME_RESOLUTION: (
        FailureKind.RETRY,
        ErrorCode.CONNECTION,
        "The provider's host name cannot be resolved. Check OPENAI_BASE_URL and this host's name server.",
    ),
    ExceptionKind.CERTIFICATE: (
        FailureKind.RETRY,
        ErrorCode.CONNECTION,
        (
            "The provider's TLS certificate is not trusted. Check this host's clock and its certificate authorities "
            "(SSL_CERT_FILE), or a proxy on the way."
        ),
    ),
    ExceptionKind.CONNECTION: (
        FailureKind.RETRY,
        ErrorCode.CONNECTION,
        "The connection to the provider broke before its answer was complete.",
    ),
    ExceptionKind.TOO_LARGE: (
        FailureKind.ANSWER,
        ErrorCode.UNREADABLE,
        "The provider's response was far larger than any answer and was not read to its end.",
    ),
    ExceptionKind.UNDECODABLE: (
        FailureKind.ANSWER,
        ErrorCode.UNREADABLE,
        "The provider's response is not encoded as its Content-Encoding says.",
    ),
    ExceptionKind.UNEXPECTED: (
        FailureKind.ANSWER,
        ErrorCode.UNREADABLE,
        "The call ended in an error of the client that nobody foresaw.",
    ),
}


@dataclass(frozen=True, slots=True)
class _ErrorBody:
    """What an error body says, as far as it can be read."""

    #: the body was a JSON object, so a server of the expected kind wrote it
    structured: bool = False
    code: str | None = None
    type: str | None = None
    param: str | None = None
    message: str = ""
    #: an HTTP status that stands in the body in place of a code
    status: int | None = None
    #: a moderator's note stands beside the error
    flagged: bool = False


def classify(
    status: int | None,
    headers: Mapping[str, str] | None,
    body: bytes | None,
    exception: ExceptionKind | None = None,
    *,
    now: float | None = None,
    accepted_before: bool = False,
) -> Failure:
    """Say what a call that brought no answer means.

    `status`, `headers` (any case) and `body` are the response's, as far as there is one; `exception` is set where there
    is none. `now` is the time in seconds since the epoch, for a Retry-After that is a date and comes without a Date
    header. `accepted_before`: the same server has already accepted a request of the same shape in this run, so a
    rejection that names neither code nor field is about this transaction and not about the request. Never raises.
    """
    lowered = _lowered(headers)
    if exception is not None:
        kind, code, words = _EXCEPTIONS[exception]
        return Failure(kind=kind, code=code, message=words)
    error = _read_error(body)
    if error.status is not None and (status is None or 200 <= status < 300):
        status = error.status
    meaning, from_code = _meaning(status, error, accepted_before=accepted_before)
    meaning = _heed_should_retry(meaning, status, lowered.get("x-should-retry", ""), from_code=from_code)
    wait = _retry_after(lowered, now) if meaning.kind is FailureKind.RETRY else None
    return Failure(kind=meaning.kind, code=meaning.code, message=_message(meaning, status, error), retry_after=wait)


def _meaning(status: int | None, error: _ErrorBody, *, accepted_before: bool) -> tuple[Meaning, bool]:
    """The meaning, and whether the server named it itself (by a code, a type or a field)."""
    if error.code in BY_CODE:
        return BY_CODE[error.code], True
    if status in (400, 422) and error.param is not None and _root(error.param) in OUR_PARAMS:
        return _of_our_param(error), True
    if error.type in BY_CODE and error.type not in VAGUE_TYPES:
        return BY_CODE[error.type], True
    for name in (error.code, error.type):
        for statuses, words, meaning in BY_WORD:
            if name is not None and status in statuses and words.search(name):
                return meaning, True
    return _by_status(status, error, accepted_before=accepted_before), False


def _of_our_param(error: _ErrorBody) -> Meaning:
    """A rejected field of ours meets every call, but for the content of the last message: that is the transaction."""
    param = error.param or ""
    if re.match(r"messages(\[1\]|\.1)\.content", param):
        return CONTEXT if error.code == "string_above_max_length" else INPUT
    if _root(param) == "messages" and (error.code == "string_above_max_length" or _TOO_LONG.search(error.message)):
        return CONTEXT
    return MODEL if param == "model" else REJECTED


def _by_status(status: int | None, error: _ErrorBody, *, accepted_before: bool) -> Meaning:
    """For servers that send neither code nor type nor field: all that is left is the status."""
    fixed = {401: KEY, 402: MONEY, 407: PROXY, 408: SLOW, 409: SERVER, 413: CONTEXT, 425: SERVER, 429: RATE}
    if status is None or status < 300:
        return UNREADABLE
    if status < 400:
        return REDIRECT
    if status >= 500:
        return SERVER
    if status in fixed:
        return fixed[status]
    if status == 403:
        return POLICY if error.flagged else ACCESS
    if status in (404, 405, 410):
        names_model = error.param == "model" or _MODEL_MISSING.search(error.message) is not None
        return MODEL if error.structured and names_model else ROUTE
    if status in (400, 422):
        if _TOO_LONG.search(error.message):
            return CONTEXT
        if error.flagged:
            return POLICY
        if accepted_before:
            return INPUT
    return REJECTED


def _heed_should_retry(meaning: Meaning, status: int | None, header: str, *, from_code: bool) -> Meaning:
    """`x-should-retry`, the server's word on whether the same request can succeed later.

    true turns a rejection into a retry, unless the server itself named a reason that waiting does not cure, or the
    status does (401, 402, 403). false makes an error of the server one that is asked again at most a few times
    instead of for a day, and a 429 without a code one of money: a throttle that passes would say so.
    """
    said = header.strip().lower()
    if said == "true" and not from_code and status not in (401, 402, 403):
        return meaning if meaning.kind in (FailureKind.RETRY, FailureKind.ANSWER) else SERVER
    if said == "false":
        if meaning is RATE and not from_code:
            return MONEY
        if meaning is SERVER:
            return Meaning(FailureKind.ANSWER, SERVER.code, SERVER.words)
    return meaning


def _message(meaning: Meaning, status: int | None, error: _ErrorBody) -> str:
    """Our words, the status, and of the server's only names that stand in our own lists."""
    facts = [] if status is None else [f"HTTP {status}"]
    if error.code in BY_CODE:
        facts.append(error.code)
    if meaning is REJECTED and error.param is not None and _root(error.param) in OUR_PARAMS:
        facts.append(f"field {_root(error.param)}")
    if meaning.code is ErrorCode.KEY_REJECTED and status == 403 and not error.structured:
        facts.append("not in the provider's format: perhaps a firewall on the way")
    head, dot, tail = meaning.words.partition(". ")
    return f"{head} ({', '.join(facts)}){dot}{tail}." if facts else f"{meaning.words}."


def _root(param: str) -> str:
    return re.split(r"[.\[]", param, maxsplit=1)[0]


def _read_error(body: bytes | None) -> _ErrorBody:
    data = _parse(body)
    if isinstance(data, list):
        data = next((entry for entry in data if isinstance(entry, dict)), None)
    if isinstance(data, str):
        return _ErrorBody(code=_token(data), message=data)
    if not isinstance(data, dict):
        return _ErrorBody()
    error = data.get("error")
    if isinstance(error, list):
        error = next((entry for entry in error if isinstance(entry, dict | str)), None)
    if isinstance(error, str):
        return _ErrorBody(structured=True, code=_token(data.get("code")) or _token(error), message=error)
    source = error if isinstance(error, dict) else data
    message = source.get("message")
    return _ErrorBody(
        structured=True,
        code=_token(source.get("code")),
        type=_token(source.get("type")),
        param=source["param"] if isinstance(source.get("param"), str) else None,
        message=message if isinstance(message, str) else "",
        status=_status(source.get("code")),
        flagged=_flagged(source.get("metadata")),
    )


def _parse(body: bytes | None) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _token(value: object) -> str | None:
    """A code as one lower-case word with underscores; None for what is no code (integers, sentences)."""
    if not isinstance(value, str):
        return None
    word = value.strip().lower().replace("-", "_")
    return word if _TOKEN.fullmatch(word) else None


def _status(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return value
    return None


def _flagged(metadata: object) -> bool:
    return isinstance(metadata, dict) and ("flagged_input" in metadata or "reasons" in metadata)


def _lowered(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {} if headers is None else {str(name).lower(): str(value) for name, value in headers.items()}


def _retry_after(headers: Mapping[str, str], now: float | None) -> float | None:
    """Seconds to wait, from `retry-after-ms`, else Retry-After in seconds or as a date; None where neither can be read.

    RFC 9110, section 10.2.3; the milliseconds are OpenAI's own. A date is measured against the response's own Date,
    so that a wrong clock on either side does not matter. Bounded to 0 … `MAX_RETRY_AFTER`.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _number(headers.get(name))
        if seconds is not None:
            return min(max(seconds * scale, 0.0), MAX_RETRY_AFTER)
    until = _date(headers.get("retry-after"))
    sent = _date(headers.get("date"))
    reference = now if sent is None else sent
    if until is None or reference is None:
        return None
    return min(max(until - reference, 0.0), MAX_RETRY_AFTER)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _date(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, OSError, IndexError):
        return None
