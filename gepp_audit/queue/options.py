"""What a run is told to do, and what it needs of those around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gepp_audit.model import CallRequest, CallResult
from gepp_audit.queue.summary import Summary


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The settings and flags that a run follows."""

    model: str
    engine: str
    concurrency: int
    call_timeout: float
    lease_margin: float
    max_attempts: int
    first_backoff: float
    max_completion_tokens: int
    batch_statuses: tuple[str, ...]
    host: str | None = None
    #: names a place that does one run at a time and shares its host's name with others; see `liveness`
    sandbox: str | None = None
    send_fields: frozenset[str] = frozenset()
    price_overrides: Mapping[str, Any] | None = None
    organizations: tuple[int, ...] = ()
    max_batches: int | None = None
    max_transactions: int | None = None
    max_seconds: float | None = None


class Provider(Protocol):
    """What a run needs of the provider layer."""

    def ready(self, timeout: float) -> bool:
        """Wait until calls can leave, or never will; False: `timeout` seconds were not enough."""

    def submit(self, request: CallRequest) -> None:
        """Send one call in the background."""

    def wait(self, timeout: float) -> list[CallResult]:
        """All finished calls, after at least one has finished or `timeout` seconds have passed."""

    @property
    def in_flight(self) -> int:
        """Calls that were submitted and not yet handed over by `wait`."""

    def abandon(self) -> list[int]:
        """Give up what is in flight; returns the call ids."""


class Listener(Protocol):
    """Who watches a run: a progress bar, or nobody."""

    def progress(self, summary: Summary, waiting: int, total: int) -> None:
        """Called after each turn. `waiting`: calls under way; `total`: transactions in this run's sight."""


class Silence:
    """A listener that does nothing."""

    def progress(self, summary: Summary, waiting: int, total: int) -> None:
        """Nothing."""
