"""What goes in and out of the API, for its description (`/openapi.json`), and for the check of what comes in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

#: the platform's batches hold ids as 32-bit integers
LARGEST_ID: Final = 2**31 - 1
MOST_IDS: Final = 50_000


def _whole(value: Any) -> Any:
    """`2.0` is an integer in JSON; `"2"` and `true` are none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Id = Annotated[int, Field(ge=1, le=LARGEST_ID, strict=True), BeforeValidator(_whole)]
_Count = Annotated[int, Field(ge=0)]


class Shape(BaseModel):
    """An object with these members and no others."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


# -- in ----------------------------------------------------------------------------------------------------------------


class EnqueueBody(Shape):
    """Which transactions are to be audited; nothing named: all that nobody has queued, audited or decided."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"transaction_ids": [1001, 1002]}, {}]})
    #: left out is not the same as null: what is misspelled must not queue everything
    transaction_ids: Annotated[list[_Id], Field(min_length=1, max_length=MOST_IDS)] = Field(default_factory=list)


class CancelBody(Shape):
    """Which batch is to be cancelled."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"batch_id": 17}]})
    batch_id: _Id


# -- out ---------------------------------------------------------------------------------------------------------------


class TokenUsage(Shape):
    total_input_tokens: _Count
    total_output_tokens: _Count
    total_tokens: _Count
    cached_input_tokens: _Count


class EnqueuedData(Shape):
    queued_count: _Count
    organization_id: int
    #: null: nothing waited, so there is no batch
    audit_history_id: int | None
    transaction_ids: list[int]


class Enqueued(Shape):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "message": "2 transactions were queued in batch 17.",
                    "data": {
                        "queued_count": 2,
                        "organization_id": 1,
                        "audit_history_id": 17,
                        "transaction_ids": [1001, 1002],
                    },
                }
            ]
        },
    )
    success: Literal[True]
    message: str
    data: EnqueuedData


class RunBatches(Shape):
    completed: _Count
    failed: _Count
    in_progress: _Count


class RunTransactions(Shape):
    approved: _Count
    rejected: _Count
    undecided: _Count
    failed: _Count
    skipped: _Count
    released: _Count


class Run(Shape):
    """What a run did; the same as `gepp-audit process-queue --json` tells, less what held it."""

    run_id: str
    #: null: it is under way, so its counts are those up to now
    outcome: Literal["idle", "busy", "processed", "interrupted", "blocked"] | None
    batches: RunBatches
    transactions: RunTransactions
    calls: _Count
    retries: _Count
    token_usage: TokenUsage
    cost_usd: Annotated[float, Field(ge=0)] | None
    seconds: Annotated[float, Field(ge=0)]


class ProcessedData(Shape):
    processed_batches: _Count
    failed_batches: _Count
    total_batches: _Count
    #: false: calls that are paid for are still waited for, in the background
    finished: bool
    #: null: it has not begun to work yet
    run: Run | None


class Processed(Shape):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "message": "31 approved, 22 rejected, 11 undecided, 0 failed.",
                    "data": {
                        "processed_batches": 1,
                        "failed_batches": 0,
                        "total_batches": 1,
                        "finished": True,
                        "run": None,
                    },
                }
            ]
        },
    )
    success: Literal[True]
    message: str
    data: ProcessedData


class Figures(Shape):
    """What is told of a batch wherever it is told of."""

    organization_id: int
    triggered_by_user_id: int | None
    status: str
    total_transactions: _Count
    processed_transactions: _Count
    approved_count: _Count
    rejected_count: _Count
    #: null: the platform's own program ended the batch, and does not say
    undecided_count: _Count | None
    failed_count: _Count | None
    skipped_count: _Count | None
    token_usage: TokenUsage | None
    cost_usd: float | None
    error_message: str | None
    started_at: datetime
    completed_at: datetime | None


class HistoryBatch(Figures):
    """A row of the platform's history, and what else is known of its batch."""

    id: int
    created_date: datetime | None
    #: null: the batch has not ended
    audit_info: Any


class Meta(Shape):
    page: int
    page_size: int
    total: _Count
    total_pages: _Count
    has_more: bool


_ROW_EXAMPLE: dict[str, Any] = {
    "organization_id": 1,
    "triggered_by_user_id": 7,
    "status": "completed",
    "total_transactions": 21,
    "processed_transactions": 21,
    "approved_count": 11,
    "rejected_count": 7,
    "undecided_count": 3,
    "failed_count": 0,
    "skipped_count": 0,
    "token_usage": {
        "total_input_tokens": 90_112,
        "total_output_tokens": 2_241,
        "total_tokens": 92_353,
        "cached_input_tokens": 74_240,
    },
    "cost_usd": 0.0231,
    "error_message": None,
    "started_at": "2026-01-31T12:00:00Z",
    "completed_at": "2026-01-31T12:00:11Z",
}


class History(Shape):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "meta": {"page": 1, "page_size": 20, "total": 1, "total_pages": 1, "has_more": False},
                    "data": [{"id": 17, **_ROW_EXAMPLE, "created_date": "2026-01-31T12:00:00Z", "audit_info": None}],
                }
            ]
        },
    )
    success: Literal[True]
    meta: Meta
    data: list[HistoryBatch]


class CancelledData(Shape):
    batch_id: int
    #: transactions that can be queued again
    reverted_count: _Count


class Cancelled(Shape):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "message": "Batch 17 was cancelled.",
                    "data": {"batch_id": 17, "reverted_count": 3},
                }
            ]
        },
    )
    success: Literal[True]
    message: str
    data: CancelledData


class Evidence(BaseModel):
    """What a finding quotes; `record_id` null is the transaction itself."""

    record_id: int | None
    field: str
    value: str


class Finding(BaseModel):
    rule_id: str
    reason: str
    evidence: list[Evidence]


class BatchTransaction(Shape):
    """One transaction of a batch, and what the batch said of it."""

    transaction_id: int
    status: str
    #: approved, rejected, no_action, failed, skipped; or how far it is: waiting, calling
    verdict: str | None
    rules: dict[str, str]
    rejected_by: list[str]
    warned_by: list[str]
    findings: list[Finding]
    skip_reason: str | None
    error_code: str | None
    error: str | None
    next_attempt_at: datetime | None
    settled_at: datetime | None
    source: str | None
    calls: _Count
    input_tokens: _Count | None
    output_tokens: _Count | None
    cached_tokens: _Count | None
    cost_usd: float | None


class BatchData(Figures):
    """One batch; the same as `gepp-audit show BATCH --json` tells, with failures in words for visitors."""

    audit_history_id: int
    summary: dict[str, Any] | None
    deleted: bool
    transactions: list[BatchTransaction]
    #: there are further ones: ask with `after` = the last one's id
    has_more: bool


class OneBatch(Shape):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "data": {
                        "audit_history_id": 17,
                        **_ROW_EXAMPLE,
                        "summary": None,
                        "deleted": False,
                        "transactions": [
                            {
                                "transaction_id": 1005,
                                "status": "done",
                                "verdict": "rejected",
                                "rules": {"DC-01": "fail", "DC-02": "pass"},
                                "rejected_by": ["DC-01"],
                                "warned_by": [],
                                "findings": [
                                    {
                                        "rule_id": "DC-01",
                                        "reason": "The records weigh 64 kg, the transaction 74 kg.",
                                        "evidence": [{"record_id": None, "field": "weight_kg", "value": "74"}],
                                    }
                                ],
                                "skip_reason": None,
                                "error_code": None,
                                "error": None,
                                "next_attempt_at": None,
                                "settled_at": "2026-01-31T12:00:09Z",
                                "source": "item",
                                "calls": 1,
                                "input_tokens": 4_361,
                                "output_tokens": 111,
                                "cached_tokens": 3_712,
                                "cost_usd": 0.0011,
                            }
                        ],
                        "has_more": True,
                    },
                }
            ]
        },
    )
    success: Literal[True]
    data: BatchData


class Well(Shape):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"success": True, "message": "Ready."}]})
    success: Literal[True]
    message: str


class WrongField(Shape):
    field: str
    message: str


class Error(Shape):
    """Why nothing was done."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"success": False, "message": "There is no batch 17.", "code": "unknown_batch"}]
        },
    )
    success: Literal[False]
    #: for people
    message: str
    #: for programs: stable
    code: str
    errors: list[WrongField] | None = None
    data: ProcessedData | None = None
