"""What surrounds every request, whatever route it is for: who may knock, how much may be sent and how slowly, what each
answer carries, what the log says of it, and that no error leaves as a traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gepp_audit import logs
from gepp_audit.web.failures import Failure, failure_of
from gepp_audit.web.measures import Measures

#: bytes of a body: ids of tens of thousands of transactions fit into it
LARGEST_BODY: Final = 1_000_000
#: seconds within which the body must have arrived
_BODY_SECONDS: Final = 20.0
#: for answers that say nothing else; a page has its own policy
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})

Told = Callable[[Request, Failure], Response]


class Surroundings:
    """The outermost layer that is ours."""

    def __init__(self, app: ASGIApp, *, dev: bool, told: Told, measures: Measures) -> None:
        """`dev`: only this machine's own pages may knock. `told`: how a failure is answered."""
        self._app = app
        self._dev = dev
        self._told = told
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            failure = _not_from_here(Headers(scope=scope), scope["method"]) if self._dev else None
            if failure is not None:
                await self._answer(exchange, failure)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            failure = failure_of(error)
            if not exchange.begun:
                await self._answer(exchange, failure)
            else:  # the answer is half out: the connection's end tells that it is not whole
                raise
        finally:
            self._tell(exchange)

    async def _answer(self, exchange: _Exchange, failure: Failure) -> None:
        answer = self._told(Request(exchange.scope), failure)
        await answer(exchange.scope, exchange.receive, exchange.send)

    def _tell(self, exchange: _Exchange) -> None:
        scope, seconds = exchange.scope, time.monotonic() - exchange.began
        path = getattr(scope.get("route"), "path", None)
        self._measures.note(path or "other", exchange.status, seconds)
        if scope["path"] in _QUIET and exchange.status < 400:
            return
        logs.info(
            "request",
            request_id=exchange.id,
            method=scope["method"],
            path=scope["path"],
            status=exchange.status,
            seconds=round(seconds, 3),
            client=(scope.get("client") or (None,))[0],
            **scope.get("gepp_audit.caller", {}),
        )


class _Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.id = secrets.token_hex(8)
        self.began = time.monotonic()
        #: 0: nothing was answered
        self.status = 0
        self.begun = False
        self._receive = receive
        self._send = send
        self._read = 0
        self._whole = False

    async def receive(self) -> Message:
        """The next piece of the request. HTTPException: it is too large, or too slow."""
        if self._whole:
            return await self._receive()
        if self._says_too_large():
            raise HTTPException(413)
        left = self.began + _BODY_SECONDS - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.0))
        except TimeoutError as error:
            raise HTTPException(408) from error
        self._read += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._read > LARGEST_BODY:
            raise HTTPException(413)
        return message

    async def send(self, message: Message) -> None:
        """The next piece of the answer, its head with what every answer carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._read_the_rest()
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-ID"] = self.id
            if not self._whole:
                headers["Connection"] = "close"
        await self._send(message)

    async def _read_the_rest(self) -> None:
        """Take what was sent and nobody wanted: a connection that is closed on it may take the answer with it."""
        with contextlib.suppress(HTTPException):
            while not self._whole:
                await self.receive()

    def _says_too_large(self) -> bool:
        declared = Headers(scope=self.scope).get("content-length", "")
        return declared.isdecimal() and int(declared) > LARGEST_BODY


def _not_from_here(headers: Headers, method: str) -> Failure | None:
    """Without tokens: why this request may come from somebody else's page in a browser of this machine; None: it does
    not.

    A foreign name that resolves to this machine is told by its Host (DNS rebinding); a form of a foreign page by its
    Origin or Sec-Fetch-Site.
    """
    if not is_loopback_name(headers.get("host", "")):
        return Failure(
            status=403, code="foreign_host", message="This server answers to this machine's own names alone."
        )
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    foreign = origin is not None and not is_loopback_name(origin.partition("://")[2])
    if method in _UNSAFE and (foreign or site not in ("none", "same-origin", "same-site")):
        return Failure(status=403, code="foreign_page", message="A page of another site may not ask for this.")
    return None


def is_loopback_name(host: str) -> bool:
    """Whether `host` (of a header, with a port or without) is a name that only this machine has."""
    try:
        name: Any = urlsplit(f"//{host}").hostname
        return name == "localhost" or ip_address(name or "").is_loopback
    except ValueError:
        return False
