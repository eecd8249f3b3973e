"""Step 6 of the data's way: a finished call settles its item, if it still is that item's, and its ledger row anyhow.

What the fencing token is and when it is void, `items.py` says. Repeating a settle changes nothing: a lost reply of the
database is no lost result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Text,
    Update,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from gepp_audit.database.engine import opened_at
from gepp_audit.database.rows import Rows, among, kept
from gepp_audit.database.tables import calls, items, state_is
from gepp_audit.database.types import ExactDecimal, JsonValue, UtcDateTime
from gepp_audit.database.windows import counted
from gepp_audit.model import CallOutcome, ErrorCode, ItemState, SkipReason, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """What a finished call does to its item and to its ledger row."""

    call_id: int
    audit_history_id: int
    transaction_id: int
    state: ItemState
    outcome: CallOutcome
    #: None: not needed, since the provider asked nobody to wait
    organization_id: int | None = None
    #: seconds until the item may be claimed again, where state is READY
    delay: float = 0.0
    attempt: bool = False
    wait: bool = False
    #: the call left this machine: what it met says something of the provider
    sent: bool = False
    #: seconds that the provider asked all of us to wait
    throttle: float | None = None
    error_code: ErrorCode | None = None
    error: str | None = None
    skip_reason: SkipReason | None = None
    verdict: dict[str, Any] | None = None
    verdict_status: str | None = None
    input_digest: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost: Decimal | None = None
    model_answered: str | None = None
    tier: str | None = None
    request_id: str | None = None
    latency_ms: int | None = None


_SETTLED: Final = Rows(
    "settled",
    call_id=BigInteger(),
    audit_history_id=BigInteger(),
    transaction_id=BigInteger(),
    state=Text(),
    available_at=UtcDateTime(),
    attempt=Integer(),
    wait=Integer(),
    error_code=Text(),
    error=Text(),
    skip_reason=Text(),
    verdict=JsonValue,
    verdict_status=Text(),
    input_digest=Text(),
)
_ANSWERED: Final = Rows(
    "answered",
    id=BigInteger(),
    outcome=Text(),
    error_code=Text(),
    input_digest=Text(),
    input_tokens=Integer(),
    cached_tokens=Integer(),
    cache_write_tokens=Integer(),
    output_tokens=Integer(),
    reasoning_tokens=Integer(),
    cost=ExactDecimal(14, 8),
    counted_tokens=Integer(),
    counted_cost=ExactDecimal(14, 8),
    request_id=Text(),
    latency_ms=Integer(),
    model_answered=Text(),
    tier=Text(),
    verdict=JsonValue,
)


def settle(connection: Connection, settlements: Sequence[Settlement]) -> set[int]:
    """Write what finished calls brought: the items take it where the call is still theirs, the ledger in any case.

    Returns the call ids that their items took. What frees a slot is the commit.
    """
    taken: set[int] = set()
    while settlements:
        # a run that was frozen past a lease may hold two calls of one item: the item takes its own alone
        one_each = {(one.audit_history_id, one.transaction_id): one for one in settlements}
        taken |= _settle(connection, list(one_each.values()))
        settlements = [one for one in settlements if one is not one_each[one.audit_history_id, one.transaction_id]]
    return taken


def _settle(connection: Connection, settlements: Sequence[Settlement]) -> set[int]:
    """As `settle`, for settlements of different items."""
    moment = opened_at(connection)
    filled = _SETTLED.fill(connection, (_item_row(settlement, moment) for settlement in settlements))
    by_item = {(one.audit_history_id, one.transaction_id): one.call_id for one in settlements}
    found = connection.execute(_settle_items(connection), filled | {"settle_moment": moment})
    taken = {by_item[row.audit_history_id, row.transaction_id] for row in found}
    taken |= _taken_before(connection, [one for one in settlements if one.call_id not in taken])
    filled = _ANSWERED.fill(connection, (_call_row(settlement, taken) for settlement in settlements))
    connection.execute(_settle_calls(connection), filled | {"settle_moment": moment})
    return taken


@kept
def _settle_items(connection: Connection) -> ReturningUpdate[Any]:
    new = _SETTLED.table(connection).c
    moment = bindparam("settle_moment", type_=UtcDateTime())
    ended = new.state.in_((ItemState.DONE.value, ItemState.FAILED.value, ItemState.SKIPPED.value))
    late = and_(or_(state_is(ItemState.READY), _parked()), items.c.crashes > 0)
    failed_once = or_(new.attempt + new.wait > 0, items.c.first_failed_at.is_not(None))
    return (
        update(items)
        .where(
            items.c.audit_history_id == new.audit_history_id,
            items.c.transaction_id == new.transaction_id,
            items.c.call_id == new.call_id,
            or_(state_is(ItemState.CALLING, ItemState.READY), _parked()),
        )
        .values(
            state=new.state,
            # a settled item keeps its token, since it leads to the ledger; a waiting one has none
            call_id=case((ended, items.c.call_id), else_=None),
            lease_until=None,
            available_at=new.available_at,
            # the lease ended, but the answer came after all: no crash
            crashes=case((late, items.c.crashes - 1), else_=items.c.crashes),
            attempts=items.c.attempts + new.attempt,
            waits=items.c.waits + new.wait,
            first_failed_at=case((failed_once, func.coalesce(items.c.first_failed_at, moment)), else_=None),
            error_code=new.error_code,
            error=new.error,
            skip_reason=new.skip_reason,
            verdict=new.verdict,
            verdict_status=new.verdict_status,
            input_digest=new.input_digest,
            settled_at=case((ended, moment), else_=items.c.settled_at),
        )
        # not the call: SQLite would return the item's own, which a waiting one has lost just now
        .returning(items.c.audit_history_id, items.c.transaction_id)
    )


def _parked() -> ColumnElement[bool]:
    """Given up when its lease ended a third time, and nothing was written back yet: its answer may still come."""
    return and_(
        state_is(ItemState.FAILED), items.c.error_code == ErrorCode.CRASHED.value, items.c.published_at.is_(None)
    )


@kept
def _settle_calls(connection: Connection) -> Update:
    new = _ANSWERED.table(connection).c
    written = {name: new[name] for name in _ANSWERED.columns if name in calls.c and name != "id"}
    # where it is not known what the call took, it stays counted with what it reserved
    corrected = {
        "reserved_tokens": func.coalesce(new.counted_tokens, calls.c.reserved_tokens),
        "reserved_cost": func.coalesce(new.counted_cost, calls.c.reserved_cost),
    }
    return (
        update(calls)
        .where(calls.c.id == new.id)
        .values(written | corrected | {"answered_at": bindparam("settle_moment", type_=UtcDateTime())})
    )


def _taken_before(connection: Connection, missed: Sequence[Settlement]) -> set[int]:
    """Of the calls that no item took just now, those whose item had taken them already: this is a repeated settle."""
    if not missed:
        return set()
    own = select(items.c.call_id).where(
        among(connection, items.c.audit_history_id, {one.audit_history_id for one in missed}),
        among(connection, items.c.transaction_id, {one.transaction_id for one in missed}),
        among(connection, items.c.call_id, {one.call_id for one in missed}),
        state_is(ItemState.DONE, ItemState.FAILED, ItemState.SKIPPED),
        items.c.error_code.is_distinct_from(ErrorCode.CRASHED.value),
    )
    return set(connection.execute(own).scalars())


def _item_row(settlement: Settlement, moment: datetime) -> dict[str, Any]:
    return {
        "call_id": settlement.call_id,
        "audit_history_id": settlement.audit_history_id,
        "transaction_id": settlement.transaction_id,
        "state": settlement.state.value,
        "available_at": moment + timedelta(seconds=settlement.delay),
        "attempt": int(settlement.attempt),
        "wait": int(settlement.wait),
        "error_code": settlement.error_code,
        "error": settlement.error,
        "skip_reason": settlement.skip_reason,
        "verdict": settlement.verdict,
        "verdict_status": settlement.verdict_status,
        "input_digest": settlement.input_digest,
    }


def _call_row(settlement: Settlement, taken: set[int]) -> dict[str, Any]:
    wanted = settlement.call_id in taken
    outcome = settlement.outcome
    if outcome is CallOutcome.VERDICT and not wanted:
        outcome = CallOutcome.SUPERSEDED
    usage = settlement.usage
    tokens, cost = counted(
        settlement.outcome,
        sent=settlement.sent,
        error_code=settlement.error_code,
        usage=usage,
        cost=settlement.cost,
    )
    return {
        "id": settlement.call_id,
        "outcome": outcome.value,
        "error_code": settlement.error_code,
        "input_digest": settlement.input_digest,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost": settlement.cost,
        "counted_tokens": tokens,
        "counted_cost": cost,
        "request_id": settlement.request_id,
        "latency_ms": settlement.latency_ms,
        "model_answered": settlement.model_answered,
        "tier": settlement.tier,
        "verdict": None if wanted else settlement.verdict,
    }
