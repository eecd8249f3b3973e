"""A transaction that failed and was not changed since is refused at the fan-out, with its old reason, unless forced.

Asking the same model the same question by the same rules would cost the same money for the same failure. Only failures
that lie in the transaction or in the answers to it are remembered: a provider that was down, a key, a person who gave
up say nothing of the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Text, select, update
from sqlalchemy.engine import Row

from gepp_audit.audit.transaction import input_digest
from gepp_audit.database.platform import Platform, load
from gepp_audit.database.rows import Rows
from gepp_audit.database.tables import IS_READY, batches, items, state_is
from gepp_audit.model import ErrorCode, ItemState

_REMEMBERED: Final = tuple(
    code.value
    for code in (
        ErrorCode.UNREADABLE,
        ErrorCode.TRUNCATED,
        ErrorCode.CONTENT_FILTER,
        ErrorCode.REFUSED,
        ErrorCode.INCOMPLETE,
        ErrorCode.WRONG_TRANSACTION,
        ErrorCode.UNKNOWN_RULE,
        ErrorCode.EVIDENCE,
        ErrorCode.CONTEXT_LENGTH,
        ErrorCode.INVALID_INPUT,
        ErrorCode.POLICY,
        ErrorCode.UNCHANGED,
    )
)
#: transactions that are loaded at a time, so that the memory stays flat
_SLICE: Final = 200
_REFUSED: Final = Rows("refused", transaction_id=BigInteger(), error=Text(), input_digest=Text())


def refuse_unchanged(connection: Connection, platform: Platform, audit_history_id: int, moment: datetime) -> int:
    """Fail the ready items of a batch whose transaction failed before and did not change since; returns how many."""
    failed_before = connection.execute(_failures(audit_history_id)).all()
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


def _failures(audit_history_id: int) -> Any:
    """The remembered failures of this batch's transactions, by the same rules."""
    old, old_batch, batch = items.alias("old"), batches.alias("old_batch"), batches.alias("batch")
    return (
        select(old.c.transaction_id, old.c.error, old.c.input_digest)
        .select_from(items)
        .join(batch, batch.c.audit_history_id == items.c.audit_history_id)
        .join(old, old.c.transaction_id == items.c.transaction_id)
        .join(old_batch, old_batch.c.audit_history_id == old.c.audit_history_id)
        .where(
            items.c.audit_history_id == audit_history_id,
            IS_READY,
            old.c.audit_history_id != audit_history_id,
            state_is(ItemState.FAILED, table=old),
            old.c.error_code.in_(_REMEMBERED),
            old.c.input_digest.is_not(None),
            old_batch.c.rules_digest == batch.c.rules_digest,
        )
    )


def _refuse(connection: Connection, audit_history_id: int, same: Sequence[Row[Any]], moment: datetime) -> int:
    if not same:
        return 0
    refused = _REFUSED.table(connection).c
    values = {row.transaction_id: row._asdict() for row in same}
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
