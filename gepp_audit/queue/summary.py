"""What a run did: counted as it goes, and told at its end, in `gepp_audit_runs` and by `process-queue --json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from gepp_audit.errors import OperatorError
from gepp_audit.model import CallOutcome, CallResult, ErrorCode, ItemState

if TYPE_CHECKING:
    from gepp_audit.database.settling import Settlement
    from gepp_audit.queue.holding import Hold
    from gepp_audit.queue.obstacles import Obstacle


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
    failed_batches: list[int] = field(default_factory=list)
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
    #: what held calls back when this run last looked for work
    held: Hold | None = None
    #: items that ended here, with a verdict or without; and what the latest call that failed met
    ended: int = 0
    last_failure: str | None = None
    last_failure_code: str | None = None
    #: transactions that were ready when this run took up their batches
    taken_up: int = 0
    #: transactions that wait for a call, or are asked, when it ends: what it leaves to others
    left: int = 0
    #: the run that keeps this one away
    busy_run: str | None = None
    #: it works for these alone; empty: for all
    organizations: tuple[int, ...] = ()
    #: what ended it, or kept it from beginning
    error: BaseException | None = None

    def as_json(self) -> dict[str, Any]:
        """The contract of `process-queue --json`."""
        return {
            "run_id": self.run_id,
            "outcome": self.outcome.value,
            "batches": {
                "completed": self.batches_completed,
                "failed": len(self.failed_batches),
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
            "held": None if self.obstacle is None else self.obstacle.as_json(),
        }

    @property
    def obstacle(self) -> Obstacle | None:
        """What kept calls from leaving when this run last looked for work."""
        if self.held is None:
            return None
        from gepp_audit.queue.obstacles import of_hold  # an idle tick needs none of it

        return of_hold(self.held)

    def as_stored(self) -> dict[str, Any]:
        """What `gepp_audit_runs` keeps of it: the same, and what whoever asks why a batch does not move must know.

        An error that no operator was meant to read is told by its kind alone: its words may hold values.
        """
        stored = self.as_json() | {"held": None if self.held is None else self.held.limit.value}
        if self.organizations:
            stored["organizations"] = list(self.organizations)
        if isinstance(self.error, OperatorError):
            stored["error"] = {"code": self.error.code, "message": self.error.message, "fix": self.error.fix}
        elif self.error is not None:
            stored["error"] = {"code": "unexpected", "message": f"an unexpected {type(self.error).__name__}"}
        return stored

    def count(self, result: CallResult) -> None:
        """Count a call that came back, whatever becomes of its answer."""
        self.calls += result.sent
        self.input_tokens += result.usage.input_tokens or 0
        self.output_tokens += result.usage.output_tokens or 0
        self.cached_tokens += result.usage.cached_tokens or 0

    def note(self, settlement: Settlement, taken: bool) -> None:
        """Count what a settled call did to its item. `taken`: the item took it."""
        usage = settlement.usage
        if usage.input_tokens is not None or usage.output_tokens is not None:
            unknown = self.cost is None or settlement.cost is None
            self.cost = None if unknown else self.cost + settlement.cost  # type: ignore[operator] # both are decimals
        again = settlement.state is ItemState.READY
        self.retries += taken and again and (settlement.attempt or settlement.wait)
        self.released += again and settlement.outcome in (CallOutcome.RELEASED, CallOutcome.ABANDONED)
        self.skipped += taken and settlement.state is ItemState.SKIPPED
        self.ended += not again
        if settlement.error:
            self.last_failure, self.last_failure_code = settlement.error, settlement.error_code
        if settlement.outcome is CallOutcome.BLOCK and self.block_reason is None:
            self.block_reason, self.block_detail = settlement.error_code, settlement.error
