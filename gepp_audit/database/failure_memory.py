"""A transaction that failed and was not changed since is refused at the fan-out, with its old reason, unless forced.

Asking the same model the same question by the same rules would cost the same money for the same failure. Only failures
that lie in the transaction or in the answers to it are remembered: a provider that was down, a key, a person who gave
up say nothing of the transaction; what another cap of tokens or another model might mend is asked again too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Select, Text, exists, select, update
from sqlalchemy.engine import Row

from gepp_audit.audit.transaction import input_digest
from gepp_audit.database.platform import Platform, load
from gepp_audit.database.rows import Rows, among
from gepp_audit.database.tables import IS_READY, batches, items, state_is
from gepp_audit.model import ErrorCode, ItemState

_REMEMBERED: Final = tuple(
    code.value
    for code in (
        ErrorCode.UNREADABLE,
        ErrorCode.CONTENT_FILTER,
        ErrorCode.REFUSED,
        ErrorCode.INCOMPLETE,
        ErrorCode.WRONG_TRANSACTION,
        ErrorCode.UNKNOWN_RULE,
        ErrorCode.EVIDENCE,
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
    failed_before = _by_the_same_rules(
        connection, audit_history_id, connection.execute(_failures(audit_history_id)).all()
    )
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


def _failures(audit_history_id: int) -> Select[Any]:
    """The remembered failures of this batch's transactions: few, by the index of the failed ones."""
    old = items.alias("old")
    ready_here = exists().where(
        items.c.audit_history_id == audit_history_id, items.c.transaction_id == old.c.transaction_id, IS_READY
    )
    return select(old.c.audit_history_id, old.c.transaction_id, old.c.error, old.c.input_digest).where(
        old.c.audit_history_id != audit_history_id,
        state_is(ItemState.FAILED, table=old),
        old.c.error_code.in_(_REMEMBERED),
        old.c.input_digest.is_not(None),
        ready_here,
    )


def _by_the_same_rules(connection: Connection, audit_history_id: int, found: Sequence[Row[Any]]) -> list[Row[Any]]:
    if not found:
        return []
    of_interest = {audit_history_id, *(row.audit_history_id for row in found)}
    known = connection.execute(
        select(batches.c.audit_history_id, batches.c.rules_digest).where(
            among(connection, batches.c.audit_history_id, of_interest)
        )
    )
    digests = {row.audit_history_id: row.rules_digest for row in known}
    return [row for row in found if digests.get(row.audit_history_id) == digests[audit_history_id]]


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
