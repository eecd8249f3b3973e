"""Who looks at a page, and whether a form that arrives is one of ours.

The session is the platform's own token in a cookie: HttpOnly, SameSite=Strict, over HTTPS also Secure and with the
`__Host-` prefix, so that no other host can set it. A form is ours if it carries the proof of this session (a keyed hash
of the cookie; somebody else's page cannot read it) and its headers name no other site. Before anybody has signed in,
the proof is bound to a random cookie instead.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
from fastapi import Depends, Request, Response

from gepp_audit.web.failures import Failure, Refusal
from gepp_audit.web.identity import Caller, NotSignedIn, caller_of_token, dev_caller
from gepp_audit.web.pages.words import LANGUAGES, preferred
from gepp_audit.web.state import WebState, state_of

HOME: Final = "/history"
#: a code for `error_page`: the form is not ours
FORGED: Final = "forged_form"
_SESSION: Final = "gepp_audit_session"
_VISIT: Final = "gepp_audit_visit"
_LANGUAGE: Final = "gepp_audit_language"
_YEAR: Final = 365 * 86_400
#: a browser keeps no cookie above 4,096 bytes, its name and attributes included
_LONGEST_TOKEN: Final = 3_800
_MOST_FIELDS: Final = 20
#: where somebody may be sent after signing in: our own pages alone
_OWN_PATH: Final = re.compile(r"/history(?:[/?][\x21-\x5b\x5d-\x7e]*)?")
#: where there is no secret (`serve --dev`), proofs last as long as the process
_OF_THIS_PROCESS: Final = secrets.token_bytes(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Who looks."""

    #: None: has not signed in
    caller: Caller | None
    language: str
    #: what every form of theirs carries
    proof: str
    #: where they are, to come back to
    path: str
    dev: bool
    #: a random cookie that they have not got yet
    new_visit: str | None = None

    @property
    def signed_in(self) -> bool:
        """There is a session that can be ended."""
        return self.caller is not None and not self.dev


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """Who looks, and for which organization."""

    visitor: Visitor
    caller: Caller
    state: WebState

    @property
    def organization(self) -> int:
        """Theirs."""
        return self.caller.organization_id


def visitor_of(request: Request) -> Visitor:
    """Who looks, by their cookies alone: nothing is read from the database."""
    state = state_of(request)
    session, visit = (_cookie(request, name) for name in (_SESSION, _VISIT))
    caller = None
    if session and not state.dev:
        try:
            caller = caller_of_token(session, state.settings, datetime.now(UTC))
        except Refusal:
            session = ""
    new_visit = None if caller or visit else secrets.token_urlsafe(24)
    bound_to = f"session:{session}" if caller else f"visit:{visit or new_visit}"
    return Visitor(
        caller=caller,
        language=_language(request),
        proof=_proof(state, bound_to),
        path=_here(request),
        dev=state.dev,
        new_visit=new_visit,
    )


def member(request: Request) -> Member:
    """Who looks at a page that is an organization's. NotSignedIn: nobody has signed in.

    A dependency that may read the database: FastAPI runs it in the thread pool.
    """
    state, visitor = state_of(request), visitor_of(request)
    if state.dev:
        caller = dev_caller(request)
        return Member(visitor=replace(visitor, caller=caller), caller=caller, state=state)
    if visitor.caller is None:
        raise NotSignedIn(Failure(status=401, code="not_signed_in", message="Sign in first."))
    state.note_caller(request, visitor.caller.organization_id, visitor.caller.user_id)
    return Member(visitor=visitor, caller=visitor.caller, state=state)


async def own_form(request: Request) -> dict[str, str]:
    """The fields of a form that one of our pages sent. Refusal: it came from elsewhere, or is no form."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded" or not _from_here(request):
        raise _forged()
    body = await request.body()
    try:
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        raise _forged() from error
    visitor = visitor_of(request)
    given = fields.get("csrf", "").encode()
    if visitor.new_visit is not None or not hmac.compare_digest(given, visitor.proof.encode()):
        raise _forged()
    return fields


SignedIn = Annotated[Member, Depends(member)]
OwnForm = Annotated[dict[str, str], Depends(own_form)]


def sign_in(request: Request, response: Response, token: str) -> None:
    """Keep the token as the session until it expires. NotSignedIn: it is not valid here."""
    caller_of_token(token, state_of(request).settings, datetime.now(UTC))
    if len(token) > _LONGEST_TOKEN:
        raise NotSignedIn(Failure(status=403, code="not_signed_in", message="The token is too long for a cookie."))
    expires = jwt.decode(token, options={"verify_signature": False})["exp"]  # it has just been verified
    left = int(expires - datetime.now(UTC).timestamp())
    _set(request, response, _SESSION, token, left)
    _drop(request, response, _VISIT)


def sign_out(request: Request, response: Response) -> None:
    """Forget the session."""
    _drop(request, response, _SESSION)


def choose_language(request: Request, response: Response, language: str) -> None:
    """Keep the choice; what is no language of ours changes nothing."""
    if language in LANGUAGES:
        _set(request, response, _LANGUAGE, language, _YEAR)


def keep_visit(request: Request, response: Response, visitor: Visitor) -> None:
    """Give a visitor who has none the cookie that their forms are bound to."""
    if visitor.new_visit is not None:
        _set(request, response, _VISIT, visitor.new_visit, None)


def own_path(path: str) -> str:
    """`path` if it leads to one of our pages, else the list's."""
    return path if _OWN_PATH.fullmatch(path) else HOME


def crosses_sites(request: Request) -> bool:
    """Somebody followed a link from another site: the browser left the session's cookie out."""
    return request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method == "GET"


def _from_here(request: Request) -> bool:
    """Whether the request's own headers name this site: what the browser itself found (Fetch Metadata), or where it
    does not say so, the page's origin; very old ones send neither.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host", "")


def _proof(state: WebState, bound_to: str) -> str:
    secret = _OF_THIS_PROCESS if state.dev else state.settings.require_jwt_secret().encode()
    # a key of its own, so that no proof can be taken for a signature of the platform
    key = hmac.digest(secret, b"gepp-audit: proof of a form", hashlib.sha256)
    return base64.urlsafe_b64encode(hmac.digest(key, bound_to.encode(), hashlib.sha256)).decode().rstrip("=")


def _forged() -> Refusal:
    return Refusal(Failure(status=403, code=FORGED, message="This form is not one of ours, or too old."))


def _language(request: Request) -> str:
    chosen = _cookie(request, _LANGUAGE)
    return chosen if chosen in LANGUAGES else preferred(request.headers.get("Accept-Language", ""))


def _here(request: Request) -> str:
    query = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "part"])
    path = f"{request.url.path}?{query}" if query else request.url.path
    return own_path(path) if request.method == "GET" else HOME


# -- cookies -----------------------------------------------------------------------------------------------------------


def _name(request: Request, name: str) -> str:
    return f"__Host-{name}" if _secure(request) else name


def _secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _cookie(request: Request, name: str) -> str:
    return request.cookies.get(_name(request, name), "")


def _set(request: Request, response: Response, name: str, value: str, seconds: int | None) -> None:
    response.set_cookie(
        _name(request, name),
        value,
        max_age=seconds,
        path="/",
        secure=_secure(request),
        httponly=True,
        samesite="strict",
    )


def _drop(request: Request, response: Response, name: str) -> None:
    response.delete_cookie(_name(request, name), path="/", secure=_secure(request), httponly=True, samesite="strict")
