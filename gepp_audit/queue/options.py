"""What a run is told to do, and what it tells when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from gepp_audit.model import CallRequest, CallResult, ErrorCode


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
    send_fields: frozenset[str] = frozenset()
    price_overrides: Mapping[str, Any] | None = None
    organizations: tuple[int, ...] = ()
    max_batches: int | None = None
    max_transactions: int | None = None
    max_seconds: float | None = None


class Outcome(StrEnum):
    """How a run ended."""

    IDLE = "idle"
    BUSY = "busy"
    PROCESSED = "processed"
    INTERRUPTED = "interrupted"
    BLOCKED = "blocked"
    #: an error ended it; stands in `gepp_audit_runs` alone
    FAILED = "failed"


@dataclass(slots=True)
class Summary:
    """What a run did, as `process-queue --json` tells it."""

    run_id: str
    outcome: Outcome = Outcome.IDLE
    batches_completed: int = 0
    batches_failed: int = 0
    batches_in_progress: int = 0
    approved: int = 0
    rejected: int = 0
    undecided: int = 0
    failed: int = 0
    skipped: int = 0
    released: int = 0
    calls: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    #: None: at least one call's cost is unknown
    cost: Decimal | None = field(default_factory=Decimal)
    seconds: float = 0.0
    block_reason: ErrorCode | None = None
    block_detail: str | None = None
    #: seconds until the provider may be tried again, where this run found it blocked and did not try
    block_wait: float | None = None
    #: transactions that were ready when this run took up their batches
    taken_up: int = 0
    #: the run that keeps this one away
    busy_run: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The contract of `process-queue --json`."""
        return {
            "run_id": self.run_id,
            "outcome": self.outcome.value,
            "batches": {
                "completed": self.batches_completed,
                "failed": self.batches_failed,
                "in_progress": self.batches_in_progress,
            },
            "transactions": {
                "approved": self.approved,
                "rejected": self.rejected,
                "undecided": self.undecided,
                "failed": self.failed,
                "skipped": self.skipped,
                "released": self.released,
            },
            "calls": self.calls,
            "retries": self.retries,
            "token_usage": {
                "total_input_tokens": self.input_tokens,
                "total_output_tokens": self.output_tokens,
                "total_tokens": self.input_tokens + self.output_tokens,
                "cached_input_tokens": self.cached_tokens,
            },
            "cost_usd": None if self.cost is None else float(self.cost),
            "seconds": round(self.seconds, 3),
        }


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
