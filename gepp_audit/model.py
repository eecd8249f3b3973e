"""The frozen dataclasses and closed lists that cross the layers.

Nothing here does I/O, and nothing here imports another module of the package: every layer may import it, so a name
means the same thing from the SQL to the screen. Datetimes are aware and in UTC; a naive one is refused at the
database's border. Money and weights are exact decimals. Identifiers of the platform are integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final


class ItemState(StrEnum):
    """Where one transaction of one batch stands in the queue."""

    #: waits to be claimed, not before its `available_at`
    READY = "ready"
    #: a call is in flight under a lease; `call_id` is its fencing token
    CALLING = "calling"
    #: reserved for the provider's batch interface
    SUBMITTED = "submitted"
    #: has a verdict
    DONE = "done"
    #: ended without a verdict; `error_code` says why
    FAILED = "failed"
    #: was never asked, or its answer is not wanted any more; `skip_reason` says why
    SKIPPED = "skipped"


class SkipReason(StrEnum):
    """Why an id of a batch is not audited."""

    #: no such transaction
    NOT_FOUND = "not_found"
    #: the transaction belongs to another organization
    FOREIGN = "foreign"
    #: the transaction was deleted
    DELETED = "deleted"
    #: its ai_audit_status is not `queued` (any more)
    NOT_QUEUED = "not_queued"
    #: a person decided it
    DECIDED = "decided_by_person"
    #: it is live in another open batch
    IN_OTHER_BATCH = "in_other_batch"
    #: its batch was cancelled, undone, deleted or settled by somebody else
    BATCH_WITHDRAWN = "batch_withdrawn"


class BatchOutcome(StrEnum):
    """How a batch ended for us."""

    COMPLETED = "completed"
    FAILED = "failed"
    #: cancelled, undone, deleted or closed by somebody else; the platform's row was left as it was
    WITHDRAWN = "withdrawn"


class VerdictStatus(StrEnum):
    """What an audit says of a transaction; the values are labels of the platform's ai_audit_status_enum."""

    APPROVED = "approved"
    REJECTED = "rejected"
    #: a person must look
    NO_ACTION = "no_action"


class RuleOutcome(StrEnum):
    """What an answer says of one rule."""

    PASS = "pass"
    FAIL = "fail"
    CANNOT_TELL = "cannot_tell"


class FailureKind(StrEnum):
    """How the queue treats a call that brought no verdict."""

    #: provider down or throttled: again after a backoff, costs no attempt
    RETRY = "retry"
    #: an answer that is no answer: again, at most `max_attempts` in all
    ANSWER = "answer"
    #: this transaction cannot be asked: failed at once
    ITEM = "item"
    #: nothing can be asked until a person mends it: the run ends
    BLOCK = "block"


class ErrorCode(StrEnum):
    """The closed list of `error_code` in items, calls and JSON."""

    # retry
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    # answer
    UNREADABLE = "unreadable_answer"
    TRUNCATED = "truncated_answer"
    CONTENT_FILTER = "content_filter"
    REFUSED = "refused"
    INCOMPLETE = "incomplete_answer"
    WRONG_TRANSACTION = "wrong_transaction"
    UNKNOWN_RULE = "unknown_rule"
    EVIDENCE = "evidence_not_found"
    # item
    CONTEXT_LENGTH = "context_length_exceeded"
    INVALID_INPUT = "invalid_input"
    POLICY = "policy_violation"
    # block: the values are also the reasons of `stuck`
    KEY_REJECTED = "key_rejected"
    QUOTA_EXHAUSTED = "quota_exhausted"
    MODEL_UNAVAILABLE = "model_unavailable"
    REQUEST_REJECTED = "request_rejected"
    # the queue's own endings
    CRASHED = "crashed"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    EDITED = "edited"
    NO_RULES = "no_rules"
    UNCHANGED = "unchanged_since_failure"
    GIVEN_UP = "given_up_by_operator"
    NOT_WRITABLE = "not_writable"
    TOO_LARGE_FOR_LIMIT = "call_too_large_for_limit"


#: the codes with which a provider refuses us for good
REFUSALS: Final = (
    ErrorCode.KEY_REJECTED,
    ErrorCode.QUOTA_EXHAUSTED,
    ErrorCode.MODEL_UNAVAILABLE,
    ErrorCode.REQUEST_REJECTED,
)


class CallOutcome(StrEnum):
    """The fate of one row of the ledger; NULL there means: sent, fate unknown."""

    #: brought a verdict that its item took
    VERDICT = "verdict"
    #: brought a verdict, paid for, that came too late or was not wanted any more
    SUPERSEDED = "superseded"
    #: failed, by kind
    RETRY = "retry"
    ANSWER = "answer"
    ITEM = "item"
    BLOCK = "block"
    #: never left this machine
    RELEASED = "released"
    #: given up by a run that was told to stop; may have been paid for
    ABANDONED = "abandoned"
    #: its lease ended without an outcome
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleAction:
    """One entry of a rule's `actions`."""

    type: str
    action: str
    message: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One audit rule as the platform stores it."""

    rule_id: str
    rule_type: str
    name: str
    process: str | None = None
    condition: str | None = None
    thresholds: str | None = None
    metrics: str | None = None
    actions: tuple[RuleAction, ...] = ()
    is_global: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One material line of a transaction. Missing is None, never 0."""

    id: int
    status: str | None
    transaction_type: str | None
    main_material: str | None
    main_material_code: str | None
    unit: str | None
    origin_quantity: Decimal | None
    origin_weight_kg: Decimal | None
    origin_price_per_unit: Decimal | None
    total_amount: Decimal | None
    hazardous_level: int | None
    treatment_method: str | None
    disposal_method: str | None
    notes: str | None
    image_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Transaction:
    """One transaction with its records, as far as an audit may see it. Missing is None, never 0."""

    id: int
    organization_id: int
    status: str | None
    transaction_method: str | None
    weight_kg: Decimal | None
    total_amount: Decimal | None
    transaction_date: datetime | None
    arrival_date: datetime | None
    hazardous_level: int | None
    treatment_method: str | None
    disposal_method: str | None
    notes: str | None
    image_count: int
    #: free-form JSON of the platform, sent only where a setting names them
    vehicle_info: Any = None
    driver_info: Any = None
    origin_coordinates: Any = None
    destination_coordinates: Any = None
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a finding quotes; `record_id` None is the transaction itself."""

    record_id: int | None
    field: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Why one rule failed (or could not be told)."""

    rule_id: str
    reason: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A complete, valid answer: every rule that was asked has its outcome."""

    transaction_id: int
    rules: Mapping[str, RuleOutcome]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What follows from an answer under the rules' actions."""

    status: VerdictStatus
    rules: Mapping[str, RuleOutcome]
    findings: tuple[Finding, ...] = ()
    #: ids of the failed rules that reject
    rejected_by: tuple[str, ...] = ()
    #: ids of the other failed or untold rules
    warned_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one call as the provider counted them; None is unknown, not 0.

    `cached_tokens` and `cache_write_tokens` lie inside `input_tokens`, `reasoning_tokens` inside `output_tokens`.
    """

    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a call brought no verdict. `message` is our own words: no secret, no quoted value of the platform."""

    kind: FailureKind
    code: ErrorCode
    message: str
    #: seconds the provider asked us to wait, from Retry-After and its kin
    retry_after: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRequest:
    """One call as the provider layer sends it."""

    call_id: int
    model: str
    #: byte-identical for all transactions of a rule set: instructions, worked examples, rules
    prefix: str
    #: this transaction, between its markers
    suffix: str
    #: the strict JSON schema of the answer (the `schema` member of `response_format.json_schema`)
    schema: Mapping[str, Any]
    schema_name: str
    max_completion_tokens: int
    #: a hash per organization, never the organization's name
    safety_identifier: str
    #: same for all calls that share `prefix`
    cache_key: str
    #: `provider.openai_client.clock()` after which the call must not leave any more
    send_before: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast the provider lets us ask, by the headers of its answers; None: no bound that matters."""

    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    #: seconds in which no further call would be let through
    hold: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """What became of one call: exactly one of `text` and `failure` is set, or neither where it was never sent."""

    call_id: int
    #: False: it never left this machine, nothing was paid
    sent: bool
    #: the answer's text, not yet parsed
    text: str | None = None
    failure: Failure | None = None
    usage: Usage = field(default_factory=Usage)
    model_answered: str | None = None
    tier: str | None = None
    request_id: str | None = None
    latency_ms: int | None = None
    #: what the answer's headers say of our pace, where that is near the provider's limits
    pace: Pace | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One batch of the platform as our tables know it, with the rules it is audited by."""

    audit_history_id: int
    organization_id: int
    discovered_at: datetime
    rules_digest: str | None
    rules: tuple[Rule, ...] = ()
    total: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One item whose call leaves now. `call_id` is the fencing token of every later write."""

    call_id: int
    audit_history_id: int
    transaction_id: int
    organization_id: int
    crashes: int
    attempts: int
    waits: int
    first_failed_at: datetime | None
    #: why the last attempt brought no verdict
    error_code: ErrorCode | None
    #: tokens that the limits keep free for the call; None: nothing was reserved
    reserved_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunIdentity:
    """Who a run is, precise enough to see from the same host that it is gone."""

    run_id: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    #: when the process began, in the kernel's own count: equal or not equal is all that may be asked of it
    pid_started_at: float
    version: str
