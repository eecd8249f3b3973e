"""Every error of the web, whatever raised it, as one thing: `Failure`. The API tells it as JSON in one envelope, a page
as a page; neither tells a traceback, nor what belongs to the operator alone (names of hosts, paths, SQLSTATEs): that
goes to the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gepp_audit import logs
from gepp_audit.errors import OperatorError
from gepp_audit.plain_text import as_sentence

#: errors of the queue that whoever asked can do something about, by code
_THEIRS: Final[Mapping[str, int]] = {
    "unknown_batch": 404,
    "unknown_transaction": 404,
    "unknown_organization": 403,
    "unknown_user": 403,
    "not_queueable": 409,
    "not_retryable": 409,
    "batch_not_open": 409,
    "held_by_platform": 409,
}
_NO_DATABASE: Final = "The database cannot be used at this moment. Try again in a minute; nothing was half-done."
_NOT_SET_UP: Final = (
    "The audit service cannot do this as it is set up. Its operator finds the reason in the log, under this code."
)
_BY_STATUS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("bad_request", "The request could not be read."),
    401: ("not_signed_in", "Sign in first."),
    403: ("forbidden", "This is not allowed."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not know this method."),
    408: ("too_slow", "The request did not arrive in time."),
    413: ("too_large", "The request is too large."),
    415: ("media_type", "The request is not of a kind that is read here."),
    429: ("too_many", "Too much is under way already."),
}
UNEXPECTED: Final = "Something went wrong here. It was written to the log, and nothing was half-done."


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a request brought nothing."""

    status: int
    #: stable, for programs
    code: str
    #: for people: whole sentences
    message: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    #: what is wrong with which field of the request
    errors: tuple[Mapping[str, str], ...] = ()
    #: what was done all the same
    data: Any = None

    def as_json(self) -> dict[str, Any]:
        """The envelope of every error."""
        told: dict[str, Any] = {"success": False, "message": self.message, "code": self.code}
        if self.errors:
            told["errors"] = [dict(one) for one in self.errors]
        return told if self.data is None else told | {"data": self.data}


class Refusal(Exception):
    """A request that is refused, with its failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failure_of(error: Exception) -> Failure:
    """What is told of `error`; what is not told of it goes to the log."""
    if isinstance(error, Refusal):
        return error.failure
    if isinstance(error, OperatorError):
        return _of_operator_error(error)
    if isinstance(error, RequestValidationError):
        return _of_wrong_fields(error)
    if isinstance(error, HTTPException):
        return _of_status(error)
    logs.error("request_crashed", error=error)
    return Failure(status=500, code="unexpected", message=UNEXPECTED)


def _of_operator_error(error: OperatorError) -> Failure:
    status = _THEIRS.get(error.code)
    if status is not None:
        headers = {"Retry-After": "2"} if error.code == "held_by_platform" else {}
        return Failure(status=status, code=error.code, message=as_sentence(error.message), headers=headers)
    logs.error("request_failed", code=error.code, message=error.message, fix=error.fix)
    if error.code.startswith(("database_", "schema_")):
        return Failure(status=503, code=error.code, message=_NO_DATABASE, headers={"Retry-After": "30"})
    return Failure(status=503, code=error.code, message=_NOT_SET_UP)


def _of_status(error: HTTPException) -> Failure:
    code, message = _BY_STATUS.get(error.status_code, ("error", UNEXPECTED))
    return Failure(status=error.status_code, code=code, message=message, headers=dict(error.headers or {}))


def _of_wrong_fields(error: RequestValidationError) -> Failure:
    """The fields by name; what was sent is not repeated."""
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return Failure(status=400, code="bad_request", message="The body is not JSON.")
    wrong = tuple({"field": _place(one["loc"]), "message": as_sentence(str(one["msg"]))} for one in found[:20])
    named = ", ".join(dict.fromkeys(one["field"] for one in wrong))
    return Failure(status=422, code="wrong_request", message=f"The request is wrong: {named}.", errors=wrong)


def _place(location: tuple[Any, ...]) -> str:
    """`transaction_ids.3` of `("body", "transaction_ids", 3)`."""
    inner = location[1:] or location[:1]
    return ".".join(str(part) for part in inner)
