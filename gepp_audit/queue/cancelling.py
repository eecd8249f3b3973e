"""Cancelling a batch, as the platform's own button does it: what is still queued can be queued again, verdicts stay."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from gepp_audit import logs
from gepp_audit.database import cancelling
from gepp_audit.database.cancelling import Standing
from gepp_audit.database.engine import Database
from gepp_audit.database.platform import detect
from gepp_audit.errors import OperatorError
from gepp_audit.queue.inspecting import no_such_batch
from gepp_audit.queue.wording import moment_in_words

#: the platform may hold a row for a moment
_TRIES: Final = 8
_PAUSE_SECONDS: Final = 0.25
_LONG_MS: Final = 300_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """What cancelling a batch did."""

    audit_history_id: int
    organization_id: int
    #: transactions that were queued and are `null` again
    reverted: int
    #: verdicts and failures that were written back before: they stay
    kept: int
    #: verdicts that were paid for and not yet written back: they stay in the ledger alone
    dropped: int
    #: calls in flight, whose answers go to the ledger alone
    calling: int

    def as_json(self) -> dict[str, Any]:
        """The contract of `cancel --json`."""
        return {
            "audit_history_id": self.audit_history_id,
            "organization_id": self.organization_id,
            "status": cancelling.CANCELLED,
            "reverted_count": self.reverted,
            "kept_count": self.kept,
            "dropped_verdicts": self.dropped,
            "calls_under_way": self.calling,
        }


def look(database: Database, audit_history_id: int, statuses: Collection[str] = ()) -> Standing:
    """What cancelling the batch would do; changes nothing. OperatorError: no such batch, or it has ended.

    `statuses`: how the platform marks open batches, beside `in_progress` and `pending`.
    """
    platform = database.read(detect)
    return _open(
        database.read(lambda connection: cancelling.standing(connection, platform, audit_history_id)),
        audit_history_id,
        statuses,
    )


def cancel(database: Database, audit_history_id: int, statuses: Collection[str] = ()) -> Cancelled:
    """Cancel an open batch in one transaction. OperatorError: no such batch, it has ended, or the platform holds it."""
    platform = database.read(detect)
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        try:
            stood = database.write(
                lambda connection: cancelling.cancel(connection, platform, audit_history_id, statuses),
                statement_timeout_ms=_LONG_MS,
            )
        except cancelling.Held:
            continue
        stood = _open(stood, audit_history_id, statuses)
        done = Cancelled(
            audit_history_id=audit_history_id,
            organization_id=stood.organization_id,
            reverted=stood.queued,
            kept=stood.written,
            dropped=stood.unwritten,
            calling=stood.calling,
        )
        logs.info("batch_cancelled", **done.as_json())
        return done
    raise OperatorError(
        f"the platform works on transactions of batch {audit_history_id} at this moment, so nothing was changed.",
        fix="Run the command again in a moment.",
        code="held_by_platform",
    )


def _open(stood: Standing | None, audit_history_id: int, statuses: Collection[str]) -> Standing:
    if stood is None:
        raise no_such_batch([audit_history_id])
    if stood.is_open(statuses):
        return stood
    ended = stood.status if stood.status not in (*cancelling.OPEN, *statuses) else "deleted"
    when = f" on {moment_in_words(stood.completed_at)}" if stood.completed_at is not None else ""
    raise OperatorError(
        f"batch {audit_history_id} is not open: it ended as {ended}{when}, so nothing was changed.",
        fix=f'"gepp-audit show {audit_history_id}" tells how it ended.',
        code="batch_not_open",
        exit_code=2,
    )
