"""HTTP/1.1 as far as a Chat Completions server needs it, on asyncio's transports: keep-alive, lengths, and rudeness.

A small parser of its own instead of a library: the simulator runs beside what is measured with it, on the same
processors. A `Reply` is written exactly `delay` seconds after the last byte of its request arrived, and may then hang,
drip, break off or hang up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

_LONGEST_HEAD: Final = 64 * 1024
_LONGEST_BODY: Final = 64 * 1024 * 1024
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
#: at most so many pieces of a dripping body
_MOST_DROPS: Final = 2000


@dataclass(slots=True)
class Request:
    """One request. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    #: when its last byte arrived, by the loop's clock and by the wall's
    arrived: float
    received: float
    #: the first one on its connection
    first: bool


def _ignore(_ending: str) -> None:
    pass


@dataclass(slots=True)
class Reply:
    """What a request gets."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    #: seconds after the request's arrival
    delay: float = 0.0
    hang: bool = False
    hang_up: bool = False
    drip_seconds: float | None = None
    #: bytes of the body, or a fraction of it
    cut_after: float | None = None
    #: called once, with how it ended: answered, cut, hung_up, or client_gone
    ended: Callable[[str], None] = field(default=_ignore)


class Connection(asyncio.Protocol):
    """One client's connection: one request at a time, in order."""

    def __init__(self, handle: Callable[[Request], Reply], connections: set[Connection]) -> None:
        self._handle = handle
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: tuple[int, str, str, dict[str, str], int] | None = None
        self._reply: Reply | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._first = True
        self._close = False

    # -- asyncio's calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._reply is None:
            self._advance()

    def eof_received(self) -> bool:
        """A client that only sends no more still gets its answer; one that is gone is found out by writing to it."""
        return self._reply is not None and not self._reply.hang

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._end("client_gone")

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- reading ---------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Read one request if it is complete, and prepare its reply."""
        if self._head is None and not self._read_head():
            return
        assert self._head is not None
        end, method, path, headers, length = self._head
        if len(self._buffer) < end + length:
            return
        body = bytes(self._buffer[end : end + length])
        del self._buffer[: end + length]
        self._head = None
        request = Request(method, path, headers, body, self._loop.time(), time.time(), self._first)
        self._first = False
        self._begin(self._handle(request), request.arrived)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LONGEST_HEAD:
                self._refuse(431)
            return False
        line, *rest = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for header in rest:
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        parts = line.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            self._refuse(400)
            return False
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            self._refuse(411)
            return False
        if int(length) > _LONGEST_BODY:
            self._refuse(413)
            return False
        connection = headers.get("connection", "").lower()
        self._close = connection == "close" or (parts[2] == "HTTP/1.0" and connection != "keep-alive")
        if headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._head = (end + 4, parts[0], parts[1], headers, int(length))
        return True

    def _refuse(self, status: int) -> None:
        """Answer what cannot be read, and close: nobody knows where the next request would begin."""
        self._close = True
        self._begin(Reply(status, b"", "text/plain"), self._loop.time())

    # -- writing ---------------------------------------------------------------------------------------------------

    def _begin(self, reply: Reply, arrived: float) -> None:
        self._reply = reply
        if reply.hang:
            return
        if reply.delay > 0:
            self._timer = self._loop.call_at(arrived + reply.delay, self._send, reply)
        else:
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        """Write the reply. Its ending is told before the last byte leaves: who has read it finds it in the log."""
        if self._transport is None:
            return
        if reply.hang_up:
            self._end("hung_up")
            self._transport.abort()
            return
        head, body = self._head_of(reply), reply.body
        if reply.drip_seconds is not None and body:
            self._transport.write(head)
            self._drip(body, reply.drip_seconds)
        elif reply.cut_after is not None:
            fraction = reply.cut_after < 1
            kept = int(len(body) * reply.cut_after) if fraction else int(reply.cut_after)
            self._end("cut")
            self._transport.write(head + body[: min(kept, len(body) - 1)])
            self._transport.close()
        else:
            self._finish(head + body)

    def _head_of(self, reply: Reply) -> bytes:
        lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}", f"date: {_date()}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        if reply.status not in (204, 304):
            lines += [f"content-type: {reply.content_type}", f"content-length: {len(reply.body)}"]
        if self._close:
            lines.append("connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _drip(self, body: bytes, seconds: float) -> None:
        size = -(-len(body) // _MOST_DROPS)
        drops = [body[at : at + size] for at in range(0, len(body), size)]
        self._drop(drops, 0, seconds / max(len(drops) - 1, 1))

    def _drop(self, drops: list[bytes], index: int, pause: float) -> None:
        if self._transport is None:
            return
        if index + 1 < len(drops):
            self._transport.write(drops[index])
            self._timer = self._loop.call_later(pause, self._drop, drops, index + 1, pause)
        else:
            self._finish(drops[index])

    def _finish(self, last: bytes) -> None:
        self._end("answered")
        if self._transport is None:
            return
        self._transport.write(last)
        if self._close:
            self._transport.close()
        elif self._buffer:
            self._advance()

    def _end(self, ending: str) -> None:
        reply, self._reply, self._timer = self._reply, None, None
        if reply is not None:
            reply.ended(ending)


class _Dates:
    """The Date header, made once a second."""

    second: int = 0
    text: str = ""


def _date() -> str:
    now = int(time.time())
    if now != _Dates.second:
        _Dates.second, _Dates.text = now, formatdate(now, usegmt=True)
    return _Dates.text


def http_date(seconds_from_now: float) -> str:
    """A moment as an HTTP date, for Retry-After."""
    return formatdate(time.time() + seconds_from_now, usegmt=True)


async def listen(
    handle: Callable[[Request], Reply], host: str, port: int
) -> tuple[asyncio.Server, set[Connection], tuple[Any, ...]]:
    """Start to listen. Returns the server, its open connections, and the address it is bound to."""
    connections: set[Connection] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(handle, connections), host, port, backlog=1024)
    return server, connections, server.sockets[0].getsockname()
