"""The server itself: its socket, its signals, its end. uvicorn speaks HTTP.

SIGTERM, SIGINT and SIGHUP end runs at the moment they arrive: they stop claiming, settle what is paid for within 20 s,
release the rest, and the requests that wait for them are answered. A second signal leaves at once.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from gepp_audit import logs
from gepp_audit.errors import OperatorError
from gepp_audit.queue.stopping import GRACE_SECONDS
from gepp_audit.settings import Settings
from gepp_audit.web.app import create_app

#: seconds for requests under way once the server was told to end
_GRACE: Final = int(GRACE_SECONDS) + 5
#: more connections are answered with 503; well below what `select` can watch in one process
_CONNECTIONS: Final = 400
_BACKLOG: Final = 256


def serve(settings: Settings, *, host: str, port: int, dev: bool, ready: Callable[[str], None]) -> int:
    """Serve until a signal comes; returns the exit code, 130 or 143.

    `ready`: called with the address once it is served. OperatorError: a setting is missing or wrong, the address
    cannot be had, or is not of this machine alone where there are no tokens.
    """
    addresses = _addresses(host, port)
    if dev:
        _require_loopback(host, addresses)
    app = create_app(settings, dev=dev)
    listening = _listen(addresses[0], host, port)
    server = _Server(app, dev=dev, ready=lambda: ready(_url(listening)))
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
    return 128 + server.signal


class _Server(uvicorn.Server):
    """uvicorn with our signals, and a word when it is ready."""

    def __init__(self, app: FastAPI, *, dev: bool, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,  # what it logs comes out through our logs
                access_log=False,
                server_header=False,
                proxy_headers=not dev,
                forwarded_allow_ips=["127.0.0.1", "::1"],
                limit_concurrency=_CONNECTIONS,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_GRACE,
                ws="none",
            )
        )
        self.signal = 0
        self._runs = app.state.gepp_audit.runs
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, then say that we are there."""
        await super().startup(sockets)
        if self.started:
            logs.info("server_started")
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours until the server has ended; uvicorn would let the signal kill the process after that."""
        heard = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # what nohup ignores stays ignored
            heard.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        logs.info("server_stopped", signal=self.signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        self._runs.stop(number)
        self.should_exit = True


# -- the address -------------------------------------------------------------------------------------------------------


def _addresses(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OperatorError(
            f"there is no address {host!r}: {getattr(error, 'strerror', None) or 'it is no name of a host'}.",
            fix="Correct --host; 127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in.",
            code="server_address",
            exit_code=2,
        ) from error


def _require_loopback(host: str, addresses: list[Any]) -> None:
    """Without tokens nobody but this machine may come in: every address that the name stands for must be its own."""
    if all(ipaddress.ip_address(found[4][0].partition("%")[0]).is_loopback for found in addresses):
        return
    raise OperatorError(
        f"--dev asks for no token, so it listens at this machine's own address alone, not at {host or 'all of them'}.",
        fix="Leave --host out, or leave --dev out and set GEPP_AUDIT_JWT_SECRET.",
        code="dev_address",
        exit_code=2,
    )


def _listen(found: Any, host: str, port: int) -> socket.socket:
    family, _, _, _, address = found
    # named TCP, else asyncio lets the kernel hold small answers back for 40 ms (Nagle's algorithm)
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise OperatorError(
            f"cannot listen at {host} port {port}: {error.strerror}.",
            fix="Name another --port, or end what listens there.",
            code="server_address",
        ) from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
