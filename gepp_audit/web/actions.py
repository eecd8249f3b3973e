"""What a signed-in person may do, the same for the API and the page. Everything is scoped to the caller's organization:
what belongs to another one does not exist.

Each function is synchronous and belongs into the thread pool; none leaves a transaction open. OperatorError and Refusal
tell why something was not done; `failures.failure_of` puts both into words.
"""

from __future__ import annotations

from collections.abc import Sequence

from gepp_audit import logs
from gepp_audit.queue import cancelling, enqueue, retrying, showing
from gepp_audit.queue.cancelling import Cancelled
from gepp_audit.queue.enqueue import Enqueued, EnqueueRequest
from gepp_audit.queue.retrying import Retried, RetryRequest
from gepp_audit.web.failures import Refusal
from gepp_audit.web.identity import Caller
from gepp_audit.web.runs import BackgroundRun
from gepp_audit.web.state import WebState


def start_audit(state: WebState, caller: Caller, transaction_ids: Sequence[int] | None) -> Enqueued:
    """Queue these transactions, or with None whatever waits, as the platform's button does.

    Where the settings say so, the server processes them itself, in the background. OperatorError: ids that cannot be
    queued, by name.
    """
    done = enqueue.enqueue(
        state.database,
        EnqueueRequest(
            organization_id=caller.organization_id,
            transaction_ids=None if transaction_ids is None else tuple(transaction_ids),
            triggered_by=caller.user_id,
            batch_statuses=state.settings.batch_statuses,
        ),
    )
    state.glimpses.forget(caller.organization_id)
    if done.transaction_ids:
        _process_soon(state, caller)
    return done


def cancel(state: WebState, caller: Caller, batch_id: int) -> Cancelled:
    """Cancel an open batch. OperatorError: no such batch, it has ended, or the platform holds it at this moment."""
    _require_batch(state, caller, batch_id)
    done = cancelling.cancel(state.database, batch_id, state.settings.batch_statuses)
    state.glimpses.forget(caller.organization_id)
    return done


def retry_failed(state: WebState, caller: Caller, batch_id: int) -> Retried:
    """Ask again what failed in a batch; nothing that failed is no error. OperatorError: no such batch."""
    _require_batch(state, caller, batch_id)
    request = RetryRequest(
        batch=batch_id, organizations=(caller.organization_id,), failed=True, triggered_by=caller.user_id
    )
    done = retrying.retry(state.database, request, retrying.plan(state.database, request))
    state.glimpses.forget(caller.organization_id)
    if done.count:
        _process_soon(state, caller)
    return done


def process(state: WebState, caller: Caller, seconds: float | None) -> BackgroundRun:
    """Start a run for the caller's organization and return at once; `seconds`: for which it works, None: until nothing
    is due. Refusal: too many are under way.
    """
    state.database  # noqa: B018 # its schema must be ours before anything is claimed
    return state.runs.start(caller.organization_id, seconds)


def open_batches(state: WebState, caller: Caller) -> int:
    """How many batches of the caller's organization runs have taken up and not ended."""
    return showing.count_in_work(state.database, caller.organization_id)


def _process_soon(state: WebState, caller: Caller) -> None:
    """Where the settings say so, process what was just queued. A run that is at work finds it by itself."""
    if not state.settings.process_on_start:
        return
    try:
        process(state, caller, state.settings.max_seconds)
    except Refusal as refusal:
        logs.info("background_run_refused", organization_id=caller.organization_id, reason=refusal.failure.code)


def _require_batch(state: WebState, caller: Caller, batch_id: int) -> None:
    showing.show_batch(state.database, batch_id, 0, organizations=(caller.organization_id,))
