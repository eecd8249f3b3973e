"""What the ledger remembers of bad answers to the same question: a second bad answer may be judged by the first.

The item itself tells only of its latest failure, which may be a throttled call in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from gepp_audit.database.rows import among
from gepp_audit.database.tables import calls
from gepp_audit.model import CallOutcome, Claim, ErrorCode

#: the code of each earlier bad answer, with the digest of the transaction as it was then
Earlier = frozenset[tuple[str | None, ErrorCode]]

_CODES = {code.value: code for code in ErrorCode}


def earlier_answers(connection: Connection, claims: Sequence[Claim]) -> Mapping[int, Earlier]:
    """The earlier bad answers of each claimed item, by call id; items that had none are left out, and cost no query."""
    tried = [claim for claim in claims if claim.attempts]
    if not tried:
        return {}
    found = connection.execute(
        select(calls.c.audit_history_id, calls.c.transaction_id, calls.c.input_digest, calls.c.error_code).where(
            among(connection, calls.c.audit_history_id, {claim.audit_history_id for claim in tried}),
            among(connection, calls.c.transaction_id, {claim.transaction_id for claim in tried}),
            calls.c.outcome == CallOutcome.ANSWER.value,
        )
    )
    by_item: dict[tuple[int, int], set[tuple[str | None, ErrorCode]]] = {}
    for row in found:
        if row.error_code in _CODES:
            item = by_item.setdefault((row.audit_history_id, row.transaction_id), set())
            item.add((row.input_digest, _CODES[row.error_code]))
    return {
        claim.call_id: frozenset(by_item[claim.audit_history_id, claim.transaction_id])
        for claim in tried
        if (claim.audit_history_id, claim.transaction_id) in by_item
    }
