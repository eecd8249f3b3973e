"""Readers of the Audit History for `scripts/bench`: many at once, each on a connection of its own, again and again."""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.support.processes import Programs
from tests.support.web import API, WITH_SECRET, serving, token

#: each reader looks so often, as a page that shows progress does
EVERY_SECONDS: Final = 1.0


@dataclass
class Readers:
    """What they met."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def p95(self) -> float:
        """Seconds within which 95 of 100 answers were there."""
        return statistics.quantiles(self.seconds, n=20)[-1]


@contextmanager
def reading(url: str, organizations: Sequence[int], count: int) -> Iterator[Readers]:
    """So many readers of the server at `url`, spread over the organizations, until the block ends."""
    found, over = Readers(), threading.Event()
    threads = [
        threading.Thread(
            target=_read, args=(url, organizations[number % len(organizations)], number / count, over, found)
        )
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _read(url: str, organization: int, late: float, over: threading.Event, found: Readers) -> None:
    address, headers = urlsplit(url), {"Authorization": f"Bearer {token(organization)}"}
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    over.wait(late * EVERY_SECONDS)
    while not over.is_set():
        began = time.monotonic()
        try:
            connection.request("GET", f"{API}/audit_history", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or b'"success":true' not in body:
                found.errors.append(f"{answer.status}: {body[:200]!r}")
        except (OSError, http.client.HTTPException) as error:
            found.errors.append(repr(error))
            connection.close()
        spent = time.monotonic() - began
        found.seconds.append(spent)
        over.wait(max(EVERY_SECONDS - spent, 0.0))
    connection.close()


@contextmanager
def server_of(environment: Mapping[str, str], home: Path) -> Iterator[str]:
    """`gepp-audit serve` in this environment; its address."""
    with Programs(home=home) as programs, serving(programs, environ={**environment, **WITH_SECRET}) as server:
        yield server.url
