"""The HTTP client under the SDK: reads at most so much, knows what has left, and sends nothing too late.

The SDK reads an error's body whole, whatever its size, and cannot tell a request that left from one that did not. Both
decide money here, so its HTTP client is ours: `BoundedClient` reads every body itself, up to `MAX_BODY_BYTES` before
and after decoding, and hands the SDK a response that is already complete. Proxies, certificates and everything else
stay as httpx2 has them.

Imports the SDK: load this module in the provider's process only.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import httpx2
from openai import DefaultAsyncHttpxClient

from gepp_audit.provider.clock import clock

#: seconds; a request is made and written in one or two thousandths
_LONGEST_TURN: Final = 0.05
#: an answer takes a few kilobytes; what is larger is none
MAX_BODY_BYTES: Final = 4 * 1024 * 1024


class SentTooLate(Exception):
    """The moment after which the request must not leave had passed."""


class BodyTooLarge(Exception):
    """The response's body exceeds `MAX_BODY_BYTES`."""


class BodyUndecodable(Exception):
    """The response's body is not what its Content-Encoding says."""


class Turnstile:
    """Lets one request at a time from its making to its last byte out.

    Calls that are handed over together would else be made and written by turns, so that the first of them left hardly
    before the last. Whoever has to wait for the network lets the next one pass.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def enter(self) -> Callable[[], None]:
        """Wait for one's turn; returns what ends it, to be called once or more often.

        One that stands still for `_LONGEST_TURN` seconds, its bytes not taken, keeps nobody else away.
        """
        try:
            async with asyncio.timeout(_LONGEST_TURN):
                await self._lock.acquire()
        except TimeoutError:
            return lambda: None
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                inside = False
                self._lock.release()

        return leave


#: events of httpx2's trace at which a request is out, or waits for the network
_LEAVES: Final = (".connect_tcp.started", ".connect_unix_socket.started", ".send_request_body.complete")


@dataclass(slots=True)
class Attempt:
    """One request on its way; the HTTP client notes in `sent` when its first byte leaves."""

    send_before: float
    sent: bool = False
    #: ends its turn
    leave: Callable[[], None] = lambda: None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx2's trace extension: called between the connection being ready and the headers being written."""
        if event.endswith(_LEAVES):
            self.leave()
        if not event.endswith(".send_request_headers.started"):
            return
        if getattr(info.get("request"), "method", None) == b"CONNECT":
            return  # to a proxy, which is asked for a tunnel; the request itself comes after it
        if clock() >= self.send_before:
            # it was on time when it was handed over: the way to the server took too long, which is no frozen process
            raise httpx2.ConnectTimeout("no connection in time")
        self.sent = True

    def check_in_time(self) -> None:
        """Raise SentTooLate once `send_before` has passed."""
        if clock() >= self.send_before:
            raise SentTooLate


#: the attempt of the running task
current_attempt: ContextVar[Attempt] = ContextVar("current_attempt")


class BoundedClient(DefaultAsyncHttpxClient):
    """httpx2's client with a bound on what is read and an eye on what is sent; see the module."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send, and return the response with its body read and decoded. Raises as httpx2 does, and the three above."""
        attempt = current_attempt.get()
        attempt.check_in_time()
        request.extensions["trace"] = attempt.trace
        options["stream"] = True
        response = await super().send(request, **options)
        attempt.sent = True
        try:
            body = await _read(response)
        finally:
            await response.aclose()
        # The body is decoded now: with these headers it would be decoded again, or found too short.
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
        ]
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)


async def _read(response: httpx2.Response) -> bytes:
    """The decoded body. An error's body that cannot be had is an empty one: its status speaks for itself."""
    try:
        chunks, size = [], 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise BodyTooLarge
            chunks.append(chunk)
        return _decode(b"".join(chunks), response.headers.get("content-encoding", ""))
    except (BodyTooLarge, BodyUndecodable):
        if response.status_code >= 300:
            return b""
        raise


def _decode(body: bytes, encoding: str) -> bytes:
    """Undo gzip or deflate, which a server may apply although we ask for neither. No other encoding is understood."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BodyUndecodable
    # 47: zlib or gzip, by its header (zlib's manual, inflateInit2)
    decoder = zlib.decompressobj(wbits=47)
    try:
        decoded = decoder.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise BodyUndecodable from error
    if len(decoded) > MAX_BODY_BYTES:
        raise BodyTooLarge
    if not decoder.eof:
        raise BodyUndecodable
    return decoded
