"""Steps 7 and 8 of the data's way: settled verdicts go back to the platform, and batches with nothing left open end."""

from __future__ import annotations

from functools import partial

from gepp_audit import logs
from gepp_audit.audit.transaction import input_digest
from gepp_audit.database import closing, publish
from gepp_audit.database.engine import LOCK_STATES, REFUSED_CLASSES, Database, sqlstate_behind
from gepp_audit.database.platform import Platform
from gepp_audit.errors import OperatorError
from gepp_audit.model import BatchOutcome, ItemState, VerdictStatus
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.summary import Summary

#: items in one transaction of publishing
_SLICE = 500
_CLOSE_TIMEOUT_MS = 300_000
#: seconds for which a slice is tried again where the platform holds what it refers to
_LOCK_PATIENCE = 4.0


def publish_settled(database: Database, platform: Platform, summary: Summary) -> bool:
    """Write back all that is settled, slice by slice; True: some transactions were edited and are asked again."""
    again = False
    while True:
        done = _publish(database, platform, summary, _SLICE)
        again = again or bool(done.edited)
        if not (done.written or done.edited or done.skipped):
            return again


def publish_slice(database: Database, platform: Platform, summary: Summary, most: int) -> bool:
    """Write back at most so many items; True: some transactions were edited and are asked again."""
    return bool(_publish(database, platform, summary, most).edited)


def _publish(database: Database, platform: Platform, summary: Summary, most: int) -> publish.Published:
    done = _publish_at_most(database, platform, most)
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


def _publish_at_most(
    database: Database, platform: Platform, most: int, only: publish.Key | None = None
) -> publish.Published:
    """Publish a slice, or `only` this item. What the platform keeps locked is left for the next time; a row that it
    refuses (a constraint, a trigger) is found by halving, marked as failed, and keeps nothing else away.

    It is given up by its name: which item is the first may change at any moment.
    """
    try:
        return database.write(
            lambda connection: publish.publish(connection, platform, input_digest, most=most, only=only),
            lock_patience=_LOCK_PATIENCE,
        )
    except OperatorError as error:
        state = sqlstate_behind(error)
        if state in LOCK_STATES:
            logs.info("publish_waits", reason="the platform holds what the verdicts refer to")
            return publish.Published()
        if state is None or not state.startswith(REFUSED_CLASSES):
            raise
        if only is not None:
            return _give_up(database, only, state)
    if most > 1:
        return _publish_at_most(database, platform, most // 2)
    first = database.read(publish.first_waiting)
    return publish.Published() if first is None else _publish_at_most(database, platform, 1, first)


def _give_up(database: Database, item: publish.Key, state: str) -> publish.Published:
    if not database.write(lambda connection: publish.give_up(connection, item)):
        return publish.Published()
    logs.error("transaction_not_writable", transaction_id=item[1], sqlstate=state)
    return publish.Published(written={item[1]: ItemState.FAILED.value})


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
        try:
            closed = database.write(
                partial(closing.close, platform=platform, audit_history_id=audit_history_id, engine=options.engine),
                statement_timeout_ms=_CLOSE_TIMEOUT_MS,
            )
        except OperatorError as error:
            if sqlstate_behind(error) is None:
                raise
            logs.error("batch_not_closed", audit_history_id=audit_history_id, reason=error.message)
            continue  # one batch that the platform refuses to end keeps no other open
        if closed is None:
            continue
        ended += 1
        if closed.outcome is BatchOutcome.FAILED:
            summary.failed_batches.append(closed.audit_history_id)
        else:
            summary.batches_completed += 1
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
