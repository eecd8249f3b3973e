"""How the queue is started, whoever starts it: cron, an operator, a schedule or a route all call `process_queue`.

An idle tick comes here every minute on every host, so what only a working run needs is imported when there is work.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gepp_audit import logs
from gepp_audit.database import limits, retention, runs
from gepp_audit.database.engine import Database
from gepp_audit.errors import OperatorError
from gepp_audit.model import RunIdentity
from gepp_audit.queue import liveness
from gepp_audit.queue.options import Listener, Provider, RunOptions, Silence
from gepp_audit.queue.stopping import Stop
from gepp_audit.queue.summary import Outcome, Summary

if TYPE_CHECKING:
    from gepp_audit.queue.run import Run


def process_queue(
    database: Database,
    options: RunOptions,
    open_provider: Callable[[], Provider],
    *,
    stop: Stop,
    listener: Listener | None = None,
) -> Summary:
    """Do what is due and return what was done. Safe to start at any time, on any number of hosts.

    `open_provider` is called only where there is something to do, ahead of the queries of the work, so that it may load
    beside them; the caller closes what it opened. OperatorError: the database cannot be used, or has no organization
    that the options name. Once this is a run, its `run_id` stands in every event until the caller's `logs.bound` ends,
    also in what is told of an error.
    """
    began = time.monotonic()
    if options.organizations:
        _require(database, options.organizations)
    identity = liveness.identify(options.host, options.sandbox)
    summary = Summary(run_id=identity.run_id, organizations=tuple(options.organizations))
    is_open, others, old_rows = database.read(lambda connection: _look(connection, options))
    if not is_open:
        _note_idle(database, options, identity, summary, others=others, old_rows=old_rows)
        return summary
    in_sandbox = options.sandbox is not None
    summary.busy_run, dead, in_flight = database.write(
        lambda connection: begin(connection, identity, summary, in_sandbox=in_sandbox)
    )
    if summary.busy_run is None:
        logs.bind(run_id=summary.run_id)
    if dead:
        logs.warning("runs_buried", run_ids=dead, calls_in_flight=in_flight)
    if summary.busy_run is not None:
        summary.outcome = Outcome.BUSY
        return summary
    try:
        provider = open_provider()  # it loads beside what comes now
        from gepp_audit.queue.run import Run

        run = Run(database, options, provider, summary, stop, listener or Silence(), began)
    except OperatorError as error:
        summary.error = error
        database.write(lambda connection: runs.finish(connection, summary.run_id, "refused", summary.as_stored()))
        raise
    _lead(run, summary)
    return summary


def _note_idle(
    database: Database, options: RunOptions, identity: RunIdentity, summary: Summary, *, others: bool, old_rows: bool
) -> None:
    """There is nothing for this run. `others`: there is for others; `old_rows`: there is something to prune."""
    if others:
        database.write(lambda connection: runs.note_idle(connection, identity, summary.as_stored()))
        return
    database.write(lambda connection: runs.tick(connection, identity))
    if old_rows:
        from gepp_audit.queue.housekeeping import prune_slice

        prune_slice(database, options.batch_statuses)


def _lead(run: Run, summary: Summary) -> None:
    """Let the run work, and end it, whatever ends it."""
    try:
        run.work()
    except BaseException as error:
        summary.error = error
        with contextlib.suppress(Exception):  # the error itself is what must be told
            run.hand_back(error)
        with contextlib.suppress(OperatorError):
            run.end(Outcome.FAILED)
        raise
    run.end()


def _require(database: Database, organizations: tuple[int, ...]) -> None:
    from gepp_audit.queue.known import require_organizations

    database.read(lambda connection: require_organizations(connection, organizations))


def _look(connection: Connection, options: RunOptions) -> tuple[bool, bool, bool]:
    """Whether there is anything to work on; where not, whether others have work, and else whether there are old rows to
    prune.
    """
    statuses = options.batch_statuses
    if runs.anything_open(connection, statuses, options.organizations):
        return True, False, False
    others = bool(options.organizations) and runs.anything_open(connection, statuses)
    return False, others, not others and retention.due(connection, statuses)


def begin(
    connection: Connection, identity: RunIdentity, summary: Summary, *, in_sandbox: bool = False
) -> tuple[str | None, list[str], int]:
    """Note this run, and bury those of this host whose process is gone.

    A run for some organizations alone keeps away only those that would do nothing else: the others' work must not wait
    for it. `in_sandbox`: the host is the sandbox alone, and in one process of it one run follows the other; see
    `liveness`.

    Returns the run that keeps this one away, the buried ones, and how many calls those had in flight.
    """
    limits.lock(connection)
    found = runs.unfinished(connection, identity.host, summary.organizations)
    # this one is among them where the first try was committed and only its reply lost
    others = [(other, away) for other, away in found if other.run_id != identity.run_id]
    known = len(others) < len(found)
    if in_sandbox:
        others = [(other, away) for other, away in others if liveness.same_place(other, identity)]
    dead = [
        other.run_id
        for other, _ in others
        if liveness.is_gone(other, identity) or (in_sandbox and liveness.same_process(other, identity))
    ]
    in_flight = runs.bury(connection, dead)
    busy = [other.run_id for other, keeps_away in others if keeps_away and other.run_id not in dead]
    if not busy and not known:
        runs.start(connection, identity, summary.as_stored())
    return (busy[0] if busy else None), dead, in_flight
