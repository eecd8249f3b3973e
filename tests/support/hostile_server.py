"""A scriptable HTTP/1.1 server over loopback that answers a Chat Completions client as badly as a test wants.

Standard library alone, raw sockets: it must be able to break every rule of the protocol. A test hands it replies:

    with HostileServer(Reply(429, error("rate_limit_exceeded")), Reply(200, completion("{}"))) as server:
        ...  # requests get the replies in turn, the last one again and again

or a function from the `Received` request to a `Reply`. Everything that was received stands in `server.received`.
Nothing here sleeps but a drip, and all that waits ends when the server is closed.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any] | list[Any] | str | int | None


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request gets. `body`: bytes as they are, anything else as JSON."""

    status: int = 200
    body: bytes | Json = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    #: held back until this is set (or the server closes)
    hold: threading.Event | None = None
    #: pause in seconds after every byte of the body
    drip: float | None = None
    #: the connection is closed after so many bytes of the body, although more were promised
    cut_after: int | None = None
    #: the connection is closed without a single byte
    hang_up: bool = False
    #: sent as they are in place of a response
    raw: bytes | None = None
    #: so many bytes are sent as the body, made on the fly
    endless: int | None = None


def error(code: Json = None, *, type_: Json = "invalid_request_error", param: Json = None, message: str = "no") -> Json:
    """An error body in OpenAI's shape."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def completion(content: Json = "{}", **changes: Any) -> dict[str, Any]:
    """A complete chat completion, with top-level members replaced by `changes`."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "hostile-1",
        "choices": [choice(content)],
        "usage": {
            "prompt_tokens": 1500,
            "completion_tokens": 90,
            "total_tokens": 1590,
            "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 256},
            "completion_tokens_details": {"reasoning_tokens": 40},
        },
        "service_tier": "default",
    }
    return body | changes


def choice(content: Json = "{}", *, finish_reason: Json = "stop", **message: Any) -> dict[str, Any]:
    """The only choice of a chat completion; further arguments are members of its message."""
    return {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None} | message,
        "finish_reason": finish_reason,
        "logprobs": None,
    }


class HostileServer:
    """Listens on a free port of 127.0.0.1 while it is entered."""

    def __init__(self, *replies: Reply, reply: Callable[[Received], Reply] | None = None) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.bytes_sent = 0
        self._replies = replies
        self._reply = reply
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and cut every connection."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def wait_for_requests(self, count: int, timeout: float = 20.0) -> None:
        """Return once `count` requests have arrived; an AssertionError after `timeout` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.received) >= count, timeout):
                raise AssertionError(f"{len(self.received)} of {count} requests arrived in {timeout} s")

    def _spawn(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._sockets.add(connection)
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            while True:
                line = stream.readline().decode("latin-1").split()
                if len(line) < 2:
                    break
                headers: dict[str, str] = {}
                while (header := stream.readline().decode("latin-1").strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", "0")))
                if not self._answer(connection, self._note(line[1], headers, body)):
                    break
        with self._lock:
            self._sockets.discard(connection)

    def _note(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        with self._arrived:
            request = Received(number=len(self.received) + 1, path=path, headers=headers, body=body)
            self.received.append(request)
            self._arrived.notify_all()
        if self._reply is not None:
            return self._reply(request)
        return self._replies[min(request.number, len(self._replies)) - 1]

    def _answer(self, connection: socket.socket, reply: Reply) -> bool:
        """Send one reply; whether the connection stays open."""
        while reply.hold is not None and not reply.hold.wait(0.05):
            if self._closing.is_set():
                return False
        if reply.hang_up:
            return False
        if reply.raw is not None:
            self._send(connection, reply.raw)
            return False
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        length = reply.endless if reply.endless is not None else len(body)
        headers = {"content-type": "application/json", "content-length": str(length), "x-request-id": "req_1"}
        lines = [
            f"HTTP/1.1 {reply.status} Whatever",
            *(f"{k}: {v}" for k, v in (headers | dict(reply.headers)).items()),
        ]
        self._send(connection, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if reply.endless is not None:
            for _ in range(reply.endless // 65536):
                self._send(connection, b" " * 65536)
        elif reply.drip is not None:
            for byte in body:
                self._send(connection, bytes([byte]))
                if self._closing.wait(reply.drip):
                    return False
        else:
            self._send(connection, body if reply.cut_after is None else body[: reply.cut_after])
        return reply.cut_after is None

    def _send(self, connection: socket.socket, data: bytes) -> None:
        connection.sendall(data)
        self.bytes_sent += len(data)
