"""What `/metrics` tells: what this server has answered, and how fast, counted in memory since its start; and how the
queue is.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from gepp_audit.database.engine import Database
from gepp_audit.errors import OperatorError
from gepp_audit.queue.configured import question
from gepp_audit.queue.exposition import Sample, metric, of_report, of_unknown
from gepp_audit.queue.inspecting import inspect
from gepp_audit.settings import Settings

#: the look at the whole queue is dear, so scrapers share one for so many seconds
_FRESH_SECONDS: Final = 5.0
#: as `stuck` takes it
_OLDER_THAN: Final = 3_600
#: upper bounds of the histogram, in seconds
_BOUNDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


class Measures:
    """Requests by route and status, and their duration. Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._within: Counter[float] = Counter()
        self._seconds = 0.0

    def note(self, route: str, status: int, seconds: float) -> None:
        """One request was answered. `route`: its pattern, so that there are few."""
        with self._lock:
            self._requests[route, status] += 1
            self._seconds += seconds
            for bound in _BOUNDS:
                self._within[bound] += seconds <= bound

    def lines(self) -> Iterator[str]:
        """In Prometheus' text format."""
        with self._lock:
            requests, within, seconds = dict(self._requests), dict(self._within), self._seconds
        counted: list[Sample] = [
            ({"route": route, "status": str(status)}, count) for (route, status), count in sorted(requests.items())
        ]
        yield from metric("gepp_audit_http_requests_total", "counter", "Requests by route and status.", counted)
        name, total = "gepp_audit_http_request_seconds", sum(requests.values())
        yield f"# HELP {name} How long requests took."
        yield f"# TYPE {name} histogram"
        for bound in _BOUNDS:
            yield f'{name}_bucket{{le="{bound:g}"}} {within.get(bound, 0)}'
        yield f'{name}_bucket{{le="+Inf"}} {total}'
        yield f"{name}_sum {round(seconds, 6)}"
        yield f"{name}_count {total}"


class QueueFigures:
    """How the queue is, looked at once for all who ask at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._text = ""

    def text(self, settings: Settings, open_database: Callable[[], Database]) -> str:
        """The metrics of `stuck`, without those that name a batch; `unknown` where the database cannot be looked at."""
        with self._lock:
            if time.monotonic() - self._looked_at >= _FRESH_SECONDS:
                try:
                    report = inspect(open_database(), question(settings, older_than=_OLDER_THAN))
                    self._text = of_report(report, each_batch=False)
                except OperatorError:
                    self._text = of_unknown()
                self._looked_at = time.monotonic()
            return self._text
