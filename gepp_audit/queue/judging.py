"""Step 6 of the data's way, its pure half: what came back of a call becomes what its item and the ledger are told."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final

from gepp_audit import logs
from gepp_audit.audit.answer import BadAnswer, parse_answer
from gepp_audit.audit.pricing import cost
from gepp_audit.audit.verdict import judge, to_json
from gepp_audit.database.settling import Settlement
from gepp_audit.model import (
    REFUSALS,
    CallOutcome,
    CallResult,
    Claim,
    ErrorCode,
    Failure,
    FailureKind,
    ItemState,
    Verdict,
)
from gepp_audit.queue.asking import Asked
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.retry_policy import Counters, decide

_OUTCOMES: Final = {
    FailureKind.RETRY: CallOutcome.RETRY,
    FailureKind.ANSWER: CallOutcome.ANSWER,
    FailureKind.ITEM: CallOutcome.ITEM,
    FailureKind.BLOCK: CallOutcome.BLOCK,
}


def settlement(
    result: CallResult, asked: Asked, options: RunOptions, *, moment: datetime, chance: float, blocked: bool = False
) -> Settlement:
    """What `result` does to its item. `moment`: now; `chance`: uniform in [0, 1), for the backoff; `blocked`: the
    provider refused us when the call left, so that its refusal tells nothing of the item.
    """
    if not result.sent and result.failure is None:
        return released(asked.claim)
    read = _read(result, asked)
    if isinstance(read, Failure):
        return _failed(result, asked, read, options, moment, chance, blocked)
    return Settlement(
        call_id=result.call_id,
        audit_history_id=asked.claim.audit_history_id,
        transaction_id=asked.claim.transaction_id,
        organization_id=asked.claim.organization_id,
        state=ItemState.DONE,
        outcome=CallOutcome.VERDICT,
        sent=True,
        verdict=to_json(read),
        verdict_status=read.status.value,
        input_digest=asked.digest,
        usage=result.usage,
        cost=_cost(result, options),
        model_answered=result.model_answered,
        tier=result.tier,
        request_id=result.request_id,
        latency_ms=result.latency_ms,
    )


def _read(result: CallResult, asked: Asked) -> Verdict | Failure:
    if result.failure is not None:
        return result.failure
    try:
        answer = parse_answer(
            result.text or "",
            transaction_id=asked.claim.transaction_id,
            rules=asked.prompt.rules,
            payload=asked.payload,
            evidence_failed_before=ErrorCode.EVIDENCE in asked.earlier,
        )
    except BadAnswer as bad:
        return Failure(kind=FailureKind.ANSWER, code=bad.code, message=str(bad))
    return judge(answer, asked.prompt.rules)


def _failed(
    result: CallResult,
    asked: Asked,
    failure: Failure,
    options: RunOptions,
    moment: datetime,
    chance: float,
    blocked: bool,
) -> Settlement:
    claim = asked.claim
    decision = decide(
        failure,
        Counters(
            attempts=claim.attempts,
            waits=claim.waits,
            first_failed_at=claim.first_failed_at,
            refused_alone=claim.error_code in REFUSALS and not blocked,
        ),
        moment=moment,
        chance=chance,
        max_attempts=options.max_attempts,
        first_backoff=options.first_backoff,
    )
    return Settlement(
        call_id=result.call_id,
        audit_history_id=claim.audit_history_id,
        transaction_id=claim.transaction_id,
        organization_id=claim.organization_id,
        state=decision.state,
        outcome=_OUTCOMES[failure.kind],
        sent=result.sent,
        delay=decision.delay,
        attempt=decision.attempt,
        wait=decision.wait,
        throttle=failure.retry_after if failure.kind is FailureKind.RETRY else None,
        error_code=decision.code,
        error=decision.message,
        input_digest=asked.digest,
        usage=result.usage,
        cost=_cost(result, options),
        model_answered=result.model_answered,
        tier=result.tier,
        request_id=result.request_id,
        latency_ms=result.latency_ms,
    )


def _cost(result: CallResult, options: RunOptions) -> Decimal | None:
    return cost(result.model_answered or options.model, result.usage, result.tier, options.price_overrides)


def released(claim: Claim) -> Settlement:
    """A call that never left this machine: the item waits again, as if it had not been claimed."""
    return Settlement(
        call_id=claim.call_id,
        audit_history_id=claim.audit_history_id,
        transaction_id=claim.transaction_id,
        organization_id=claim.organization_id,
        state=ItemState.READY,
        outcome=CallOutcome.RELEASED,
        error_code=claim.error_code,
    )


def abandoned(claim: Claim) -> Settlement:
    """A call that was given up in flight when the run had to leave: the item waits again; the call may have been paid
    for.
    """
    return Settlement(
        call_id=claim.call_id,
        audit_history_id=claim.audit_history_id,
        transaction_id=claim.transaction_id,
        organization_id=claim.organization_id,
        state=ItemState.READY,
        outcome=CallOutcome.ABANDONED,
        error_code=claim.error_code,
    )


def tell(settlement: Settlement, taken: bool) -> None:
    """The canonical log line of one audited transaction. `taken`: its item took the answer."""
    usage = settlement.usage
    logs.info(
        "transaction_audited" if settlement.state is ItemState.DONE else "transaction_not_audited",
        audit_history_id=settlement.audit_history_id,
        organization_id=settlement.organization_id,
        transaction_id=settlement.transaction_id,
        call_id=settlement.call_id,
        outcome=settlement.outcome.value if taken else CallOutcome.SUPERSEDED.value,
        status=settlement.verdict_status or settlement.state.value,
        error_code=settlement.error_code,
        error=settlement.error,
        retry_in_seconds=round(settlement.delay, 3) if settlement.delay else None,
        model=settlement.model_answered,
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=None if settlement.cost is None else float(settlement.cost),
        latency_ms=settlement.latency_ms,
        request_id=settlement.request_id,
    )
