"""Steps 7 and 8 of the data's way: settled verdicts go back to the platform, and batches with nothing left open end."""

from __future__ import annotations

from functools import partial

from gepp_audit import logs
from gepp_audit.audit.transaction import input_digest
from gepp_audit.database import closing, publish
from gepp_audit.database.engine import Database
from gepp_audit.database.platform import Platform
from gepp_audit.model import BatchOutcome, ItemState, VerdictStatus
from gepp_audit.queue.options import RunOptions, Summary

#: items in one transaction of publishing
_SLICE = 500
_CLOSE_TIMEOUT_MS = 300_000


def publish_settled(database: Database, platform: Platform, summary: Summary) -> bool:
    """Write back all that is settled, slice by slice; True: some transactions were edited and are asked again."""
    again = False
    while True:
        done = _publish(database, platform, summary, _SLICE)
        again = again or bool(done.edited)
        if len(done.written) + len(done.edited) + len(done.skipped) < _SLICE:
            return again


def publish_slice(database: Database, platform: Platform, summary: Summary, most: int) -> bool:
    """Write back at most so many items; True: some transactions were edited and are asked again."""
    return bool(_publish(database, platform, summary, most).edited)


def _publish(database: Database, platform: Platform, summary: Summary, most: int) -> publish.Published:
    done = database.write(lambda connection: publish.publish(connection, platform, input_digest, most=most))
    for status in done.written.values():
        _count(summary, status)
    summary.skipped += len(done.skipped)
    if done.edited or done.skipped or done.locked:
        logs.info(
            "publish_held_back",
            edited=done.edited,
            skipped={str(id_): reason.value for id_, reason in done.skipped.items()},
            locked=done.locked,
        )
    return done


def _count(summary: Summary, status: str) -> None:
    if status == VerdictStatus.APPROVED:
        summary.approved += 1
    elif status == VerdictStatus.REJECTED:
        summary.rejected += 1
    elif status == VerdictStatus.NO_ACTION:
        summary.undecided += 1
    elif status == ItemState.FAILED:
        summary.failed += 1


def close_finished(database: Database, platform: Platform, options: RunOptions, summary: Summary) -> int:
    """End every batch in which nothing is left open; returns how many this run ended."""
    ended = 0
    for audit_history_id in database.read(closing.finished):
        closed = database.write(
            partial(closing.close, platform=platform, audit_history_id=audit_history_id, engine=options.engine),
            statement_timeout_ms=_CLOSE_TIMEOUT_MS,
        )
        if closed is None:
            continue
        ended += 1
        failed = closed.outcome is BatchOutcome.FAILED
        summary.batches_failed += failed
        summary.batches_completed += not failed
        _tell(closed)
    return ended


def _tell(closed: closing.Closed) -> None:
    tell = logs.warning if closed.outcome is BatchOutcome.FAILED else logs.info
    tell(
        "batch_closed",
        audit_history_id=closed.audit_history_id,
        organization_id=closed.organization_id,
        outcome=closed.outcome.value,
        total=closed.total,
        approved=closed.approved,
        rejected=closed.rejected,
        undecided=closed.undecided,
        failed=closed.failed,
        skipped=closed.skipped,
        error=closed.error,
    )
