"""The writing half of a claim: picked items get their ledger rows, and the items are marked with these as their tokens.

Used by `items` alone, whose protocol this is a part of. A statement picks with `picked` and whatever conditions its
kind of claim has; `insert_calls` writes the ledger rows of what it picks, `dispatch` runs both and marks the items.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    Text,
    bindparam,
    cast,
    insert,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from gepp_audit.database.rows import among_later, ids_of, kept
from gepp_audit.database.tables import batches, calls, items
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import Claim, ErrorCode, ItemState

_CODES: Final = frozenset(code.value for code in ErrorCode)
#: the moment of the claim, a parameter of the kept statements
MOMENT: Final = bindparam("claim_moment", type_=UtcDateTime())


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """What a call may take at most: tokens, and USD (None: its price is not known)."""

    tokens: int = 0
    cost: Decimal | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CallTerms:
    """What the ledger notes of every call of one claim."""

    run_id: str
    engine: str
    model: str
    prompt_version: str
    #: call timeout + margin, in seconds
    lease_seconds: float


def reserved(reservation: Reservation | None, part: int = 0) -> dict[str, Any]:
    """The parameters of `picked(part)`."""
    tokens, cost = (None, None) if reservation is None else (reservation.tokens, reservation.cost)
    return {f"claim_tokens_{part}": tokens, f"claim_cost_{part}": cost}


def picked(part: int) -> Select[Any]:
    """Items to claim, with what each reserves; `part` tells the parameters of several in one statement apart."""
    return select(
        items.c.audit_history_id,
        items.c.transaction_id,
        items.c.organization_id,
        _given(f"claim_tokens_{part}", calls.c.reserved_tokens),
        _given(f"claim_cost_{part}", calls.c.reserved_cost),
    )


def _given(name: str, column: Column[Any]) -> ColumnElement[Any]:
    """A parameter for `column` that may be NULL, which is cast, since in a derived table it would be taken for text."""
    return cast(bindparam(name, type_=column.type), column.type).label(column.name)


def insert_calls(picked: Select[Any] | CompoundSelect[Any]) -> ReturningInsert[Any]:
    """The ledger rows of the picked items, before the items themselves are marked."""
    part = picked.subquery("picked")
    terms = {name: bindparam(f"claim_{name}", type_=Text()) for name in ("run_id", "engine", "model", "prompt_version")}
    picked_columns = {column.name: column for column in part.c}
    source = terms | {"dispatched_at": MOMENT} | picked_columns | {"rules_digest": batches.c.rules_digest}
    return (
        insert(calls)
        .from_select(
            list(source),
            select(*source.values()).join_from(part, batches, batches.c.audit_history_id == part.c.audit_history_id),
        )
        .returning(calls.c.id, calls.c.reserved_tokens)
    )


def dispatch(
    connection: Connection,
    statement: ReturningInsert[Any],
    wanted: dict[str, Any],
    terms: CallTerms,
    moment: datetime,
) -> list[Claim]:
    """Run `statement` (of `insert_calls`) with the parameters `wanted`, and mark the items it picked and locked."""
    told = {
        "claim_run_id": terms.run_id,
        "claim_engine": terms.engine,
        "claim_model": terms.model,
        "claim_prompt_version": terms.prompt_version,
        "claim_moment": moment,
    }
    call_tokens = {row.id: row.reserved_tokens for row in connection.execute(statement, told | wanted)}
    if not call_tokens:
        return []
    lease_until = moment + timedelta(seconds=terms.lease_seconds)
    claimed = connection.execute(
        _mark_calling(connection), ids_of(connection, "claim_calls", call_tokens) | {"claim_lease_until": lease_until}
    ).all()
    return [
        Claim(
            call_id=row.call_id,
            audit_history_id=row.audit_history_id,
            transaction_id=row.transaction_id,
            organization_id=row.organization_id,
            crashes=row.crashes,
            attempts=row.attempts,
            waits=row.waits,
            first_failed_at=row.first_failed_at,
            error_code=ErrorCode(row.error_code) if row.error_code in _CODES else None,
            reserved_tokens=call_tokens[row.call_id],
        )
        for row in claimed
    ]


@kept
def _mark_calling(connection: Connection) -> ReturningUpdate[Any]:
    return (
        update(items)
        .where(
            among_later(connection, calls.c.id, "claim_calls"),
            items.c.audit_history_id == calls.c.audit_history_id,
            items.c.transaction_id == calls.c.transaction_id,
        )
        .values(
            state=ItemState.CALLING.value,
            call_id=calls.c.id,
            lease_until=bindparam("claim_lease_until", type_=UtcDateTime()),
        )
        .returning(
            items.c.call_id,
            items.c.audit_history_id,
            items.c.transaction_id,
            items.c.organization_id,
            items.c.crashes,
            items.c.attempts,
            items.c.waits,
            items.c.first_failed_at,
            items.c.error_code,
        )
    )
