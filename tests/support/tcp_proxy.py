"""A TCP proxy before a database that cuts connections at chosen moments, as a bad network or a firewall does.

A chunk from the client is mostly one message of the protocol, so a connection is cut in the middle of a statement, or
behind a whole one: then the server does what it was told, and its reply is lost.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CHUNK: Final = 65_536
#: closing with a linger of 0 s sends a reset
_RESET: Final = struct.pack("ii", 1, 0)


class TcpProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`."""

    def __init__(self, target: int, seed: int, port: int = 0) -> None:
        """`port`: 0 is any that is free."""
        self._target = target
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._probability = 0.0
        self._delay = 0.0
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str) -> str:
        """The address of the database behind the proxy."""
        return url.replace(f":{self._target}/", f":{self.port}/")

    def cut_at_random(self, probability: float) -> None:
        """From now on each chunk of a client is the last of its connection with this probability; 0: none is."""
        self._probability = probability

    def be_far(self, seconds: float) -> None:
        """From now on what is sent, in either direction, arrives so much later."""
        self._delay = seconds

    def cut_all(self) -> None:
        """Reset every connection that is open now."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._cut(pair)

    def close(self) -> None:
        """Take no more connections, and reset the open ones."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._pump, args=(pair, client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(pair, server, client), daemon=True).start()

    def _pump(self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket) -> None:
        from_client = source is pair[0]
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                if from_client and self._random.random() < self._probability:
                    whole = self._random.random() < 0.5
                    sink.sendall(chunk if whole else chunk[: len(chunk) // 2])
                    self.cuts += 1
                    break
                time.sleep(self._delay)
                sink.sendall(chunk)
        self._cut(pair)

    def _cut(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.discard(pair)
        with contextlib.suppress(OSError):
            pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def tcp_proxy(target: int, *, seed: int = 1) -> Iterator[TcpProxy]:
    """A proxy before the port `target` for the time of the `with` block."""
    proxy = TcpProxy(target, seed)
    try:
        yield proxy
    finally:
        proxy.close()
