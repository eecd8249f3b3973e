"""A dead man's switch of the test's own: it writes down the pings that arrive, and can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Ping(NamedTuple):
    """A ping that arrived."""

    method: str
    path: str
    body: str
    authorization: str | None


@dataclass
class PingService:
    """A running service."""

    url: str = ""
    #: what it answers
    status: int = 200
    #: pings are not answered before this is set
    answers: threading.Event = field(default_factory=threading.Event)
    pings: list[Ping] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """The paths of the pings, in the order of their arrival."""
        return [ping.path for ping in self.pings]


@contextmanager
def running_ping_service() -> Iterator[PingService]:
    """A service on 127.0.0.1 for the time of the `with` block."""
    service = PingService()
    service.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            service.pings.append(Ping(self.command, self.path, body, self.headers.get("Authorization")))
            service.answers.wait()
            self.send_response(service.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test run's stderr is not for this."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # whoever pinged did not wait
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_address[1]}/ping/token-of-the-check"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.answers.set()
        server.shutdown()
        server.server_close()
        thread.join()
