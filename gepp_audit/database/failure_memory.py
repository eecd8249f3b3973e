"""A transaction that failed and was not changed since is refused at the fan-out, with its old reason, unless forced.

Asking the same model the same question by the same rules would cost the same money for the same failure. What was asked
stands in the ledger row of the failed call: the transaction's digest, the rules', the model and the prompt's version;
where one of them differs now, it is asked again, and so it is when that row has been pruned.

Only failures that lie in the transaction or in the answers to it are remembered. A provider that was down or answered
something else than an answer, a key, a run that died, a person who gave up say nothing of the transaction; an answer
that was cut off might fit another cap of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Select, Text, and_, exists, select, update
from sqlalchemy.engine import Row

from gepp_audit.audit.instructions import PROMPT_VERSION
from gepp_audit.audit.transaction import input_digest
from gepp_audit.database.platform import Platform, load
from gepp_audit.database.rows import Rows
from gepp_audit.database.tables import IS_READY, batches, calls, items, state_is
from gepp_audit.model import ErrorCode, ItemState

_REMEMBERED: Final = (
    ErrorCode.CONTENT_FILTER,
    ErrorCode.REFUSED,
    ErrorCode.INCOMPLETE,
    ErrorCode.WRONG_TRANSACTION,
    ErrorCode.UNKNOWN_RULE,
    ErrorCode.EVIDENCE,
    ErrorCode.CONTEXT_LENGTH,
    ErrorCode.INVALID_INPUT,
    ErrorCode.POLICY,
)
#: transactions that are loaded at a time, so that the memory stays flat
_SLICE: Final = 200
_REFUSED: Final = Rows("refused", transaction_id=BigInteger(), error=Text(), input_digest=Text())


def refuse_unchanged(
    connection: Connection, platform: Platform, audit_history_id: int, moment: datetime, *, model: str | None
) -> int:
    """Fail the ready items of a batch whose transaction failed before and did not change since; returns how many.

    The batch's rules must have been noted. `model`: the one that would be asked; None: whichever.
    """
    failed_before = connection.execute(_failures(audit_history_id, model)).all()
    refused = 0
    for first in range(0, len(failed_before), _SLICE):
        part = failed_before[first : first + _SLICE]
        now = load(connection, platform, [row.transaction_id for row in part])
        same = [
            row
            for row in part
            if row.transaction_id in now and input_digest(now[row.transaction_id].transaction) == row.input_digest
        ]
        refused += _refuse(connection, audit_history_id, same, moment)
    return refused


def _failures(audit_history_id: int, model: str | None) -> Select[Any]:
    """The remembered failures of this batch's transactions, asked by the same rules and prompt: few, by the index of
    the failed items; the latest last.
    """
    old = items.alias("old")
    this = batches.alias("this")
    ready_here = exists().where(
        items.c.audit_history_id == audit_history_id, items.c.transaction_id == old.c.transaction_id, IS_READY
    )
    same_question = and_(
        calls.c.id == old.c.call_id,
        calls.c.rules_digest == this.c.rules_digest,
        calls.c.prompt_version == PROMPT_VERSION,
        *(() if model is None else (calls.c.model == model,)),
    )
    return (
        select(old.c.transaction_id, old.c.error, old.c.input_digest)
        .join_from(old, this, this.c.audit_history_id == audit_history_id)
        .join(calls, same_question)
        .where(
            old.c.audit_history_id != audit_history_id,
            state_is(ItemState.FAILED, table=old),
            old.c.error_code.in_([code.value for code in _REMEMBERED]),
            old.c.input_digest.is_not(None),
            ready_here,
        )
        .order_by(old.c.settled_at)
    )


def _refuse(connection: Connection, audit_history_id: int, same: Sequence[Row[Any]], moment: datetime) -> int:
    if not same:
        return 0
    refused = _REFUSED.table(connection).c
    values = {
        row.transaction_id: {
            "transaction_id": row.transaction_id,
            "error": row.error,
            "input_digest": row.input_digest,
        }
        for row in same
    }
    done = connection.execute(
        update(items)
        .where(items.c.audit_history_id == audit_history_id, items.c.transaction_id == refused.transaction_id, IS_READY)
        .values(
            state=ItemState.FAILED.value,
            error_code=ErrorCode.UNCHANGED.value,
            error=refused.error,
            input_digest=refused.input_digest,
            settled_at=moment,
        ),
        _REFUSED.fill(connection, values.values()),
    )
    return done.rowcount
