"""Who asks: the platform's token, read the same way wherever it comes from, the API's header or the page's cookie.

The token is a JWT (RFC 7519) that the platform signs with HS256 and the shared secret. The algorithm is fixed here and
not taken from the token (RFC 8725, section 3.1). Whoever it names sees and does what belongs to their organization.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import jwt
from fastapi import Request
from fastapi.security.utils import get_authorization_scheme_param
from starlette.concurrency import run_in_threadpool

from gepp_audit.settings import Settings
from gepp_audit.web.failures import Failure, Refusal
from gepp_audit.web.state import state_of

_ALGORITHM: Final = "HS256"
#: the kind of token that is meant for people at these routes; others (refresh, device, integration) are not
_KIND: Final = "auth"
#: the platform's history holds the ids of both as 32-bit integers
_LARGEST_ID: Final = 2**31 - 1
#: no token of the platform is as long; what is longer is not even looked at
_LONGEST: Final = 8_000
#: the moments are compared here, with the caller's clock
_OPTIONS: Final[Any] = {"require": ["exp"], "verify_exp": False, "verify_nbf": False, "verify_iat": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """For whom a request is answered."""

    organization_id: int
    #: None: nobody in particular (`serve --dev`)
    user_id: int | None


class NotSignedIn(Refusal):
    """There is no token, or it is none that we accept: 401, or 403 where it is a valid one for something else."""


def caller_of_token(token: str, settings: Settings, now: datetime) -> Caller:
    """Whom a token names at the moment `now` (aware). NotSignedIn: it names nobody; OperatorError: no secret is set."""
    secret = settings.require_jwt_secret()
    if len(token) > _LONGEST:
        raise _refused("The token is not valid.")
    try:
        claims: dict[str, Any] = jwt.decode(token, secret, algorithms=[_ALGORITHM], options=_OPTIONS)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _refused("The token is not valid.") from error
    moment = now.timestamp()
    expires, begins = _moment(claims.get("exp")), _moment(claims.get("nbf", 0))
    if expires is None or begins is None:
        raise _refused("The token is not valid.")
    if expires <= moment:
        raise _refused("The token has expired. Sign in again.")
    if begins > moment:
        raise _refused("The token is not valid yet.")
    if claims.get("type") != _KIND:
        failure = Failure(status=403, code="wrong_token", message="This kind of token is not for this address.")
        raise NotSignedIn(failure)
    organization, user = _id(claims.get("organization_id")), _id(claims.get("user_id"))
    if organization is None or user is None:
        raise _refused("The token names no user of an organization.")
    return Caller(organization_id=organization, user_id=user)


async def require_caller(request: Request) -> Caller:
    """The caller of a route of the API, by `Authorization: Bearer TOKEN`. NotSignedIn: there is none.

    With `serve --dev` everybody on this machine acts for the first organization.
    """
    state = state_of(request)
    if state.dev:
        return await run_in_threadpool(dev_caller, request)
    scheme, token = get_authorization_scheme_param(request.headers.get("Authorization"))
    if scheme.lower() != "bearer" or not token:
        raise _refused('This address wants a token: "Authorization: Bearer TOKEN".')
    caller = caller_of_token(token, state.settings, datetime.now(UTC))
    state.note_caller(request, caller.organization_id, caller.user_id)
    return caller


def dev_caller(request: Request) -> Caller:
    """For whom `serve --dev` answers: the first organization. Reads the database. Refusal: there is none."""
    state = state_of(request)
    assert state.dev
    organization = state.first_organization()
    if organization is None:
        message = 'There is no organization yet: "gepp-audit import FILE" reads some.'
        raise Refusal(Failure(status=409, code="no_organization", message=message))
    state.note_caller(request, organization, None)
    return Caller(organization_id=organization, user_id=None)


def _refused(message: str) -> NotSignedIn:
    challenge = {"WWW-Authenticate": f'{_SCHEME} realm="gepp-audit"'}
    return NotSignedIn(Failure(status=401, code="not_signed_in", message=message, headers=challenge))


_SCHEME: Final = "Bearer"


def _moment(value: Any) -> float | None:
    """A NumericDate; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return float(value)


def _id(value: Any) -> int | None:
    """An id of the platform; None: it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_ID else None
