"""The API: the platform's routes around the queue, with its field names and envelopes, and one batch in detail.

A route reads the request, calls `actions` or `showing` in a thread, and puts the result into the envelope. It runs the
same functions as the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from gepp_audit.database.history import StoredBatch
from gepp_audit.queue import showing
from gepp_audit.queue.showing import LineFilter
from gepp_audit.queue.summary import Outcome, Summary
from gepp_audit.queue.wording import counted
from gepp_audit.web import actions, shapes, visitors
from gepp_audit.web.answers import Answer, done, spliced
from gepp_audit.web.failures import Failure, Refusal
from gepp_audit.web.identity import Caller, require_caller
from gepp_audit.web.runs import BackgroundRun
from gepp_audit.web.state import state_of

#: seconds of `process_queue`
_DEFAULT_SECONDS: Final = 25.0
#: a run that had less would hardly have begun
_LEAST_SECONDS: Final = 5.0
_MOST_SECONDS: Final = 300.0

_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": shapes.Error, "description": what}
    for code, what in {
        400: "The request could not be read.",
        401: "There is no token, or none that is accepted.",
        403: "The token is of another kind, or names somebody unknown.",
        408: "The request did not arrive in time.",
        413: "The request is too large.",
        422: "A field of the request is wrong.",
        500: "Something went wrong here.",
        503: "The database cannot be used, or the service is not set up.",
    }.items()
}
_NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": shapes.Error, "description": "The caller's organization has no such batch."}
}
_CONFLICT: Final[dict[int | str, dict[str, Any]]] = {
    409: {"model": shapes.Error, "description": "As things stand this cannot be done; nothing was changed."}
}
_TOO_MANY: Final[dict[int | str, dict[str, Any]]] = {
    429: {"model": shapes.Error, "description": "Too many runs are under way here."}
}


def _ok(shape: type[shapes.Shape]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": shape}}


class _CallerFirst(APIRoute):
    """A route that knows its caller before it reads the body of a stranger."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own, behind the door."""
        handler = super().get_route_handler()

        async def behind_the_door(request: Request) -> Response:
            request.scope[_CALLER] = await require_caller(request)
            return await handler(request)

        return behind_the_door


_CALLER: Final = "gepp_audit.api_caller"


def _caller(request: Request) -> Caller:
    found: Caller = request.scope[_CALLER]
    return found


TheCaller = Annotated[Caller, Depends(_caller)]
_bearer: Final = HTTPBearer(auto_error=False, bearerFormat="JWT", description="The platform's token, of type `auth`.")

router = APIRouter(
    prefix="/api/transaction_audit",
    tags=["transaction audit"],
    route_class=_CallerFirst,
    dependencies=[Depends(_bearer)],
    responses=_ERRORS,
)


@router.post("/add_ai_audit_queue", responses=_ok(shapes.Enqueued) | _CONFLICT)
def add_ai_audit_queue(request: Request, caller: TheCaller, body: shapes.EnqueueBody) -> Response:
    """Queue the named transactions as one batch, or with `{}` all that nobody has queued, audited or decided.

    All of the named ones are queued, or none.
    """
    named = body.transaction_ids if "transaction_ids" in body.model_fields_set else None
    queued = actions.start_audit(state_of(request), caller, named)
    if not queued.transaction_ids:
        return done(queued.as_json(), "Nothing was queued: no transaction waits to be audited.")
    number = counted(len(queued.transaction_ids), "transaction was", "transactions were")
    return done(queued.as_json(), f"{number} queued in batch {queued.audit_history_ids[0]}.")


@router.post("/cancel_audit_batch", responses=_ok(shapes.Cancelled) | _NOT_FOUND | _CONFLICT)
def cancel_audit_batch(request: Request, caller: TheCaller, body: shapes.CancelBody) -> Response:
    """Cancel an open batch: what is still queued in it can be queued again, verdicts stay."""
    cancelled = actions.cancel(state_of(request), caller, body.batch_id)
    data = {"batch_id": cancelled.audit_history_id, "reverted_count": cancelled.reverted}
    return done(data, f"Batch {cancelled.audit_history_id} was cancelled.")


@router.get("/audit_history", responses=_ok(shapes.History))
def audit_history(
    request: Request,
    caller: TheCaller,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    page_size: Annotated[int, Query(ge=1, le=50)] = 20,
    status: Annotated[
        str | None, Query(pattern="^[a-z_]{1,50}$", description="In this status alone, such as `in_progress`.")
    ] = None,
) -> Response:
    """The organization's batches, newest first; deleted ones only where their status is asked for. As of a second ago
    at most.
    """
    state = state_of(request)

    def page_now() -> bytes:
        found, total = showing.history_page(
            state.database, caller.organization_id, page=page, size=page_size, status=status
        )
        meta = {
            "page": page,
            "page_size": page_size,
            "total": total,
            "total_pages": -(-total // page_size),
            "has_more": page * page_size < total,
        }
        rows = [(_history_row(one), "audit_info", one.audit_info) for one in found]
        return spliced({"success": True, "meta": meta}, rows)

    body = state.glimpses.of(caller.organization_id, ("audit_history", page, page_size, status), page_now)
    return Response(body, media_type=Answer.media_type)


@router.get("/batches/{batch_id}", responses=_ok(shapes.OneBatch) | _NOT_FOUND)
def one_batch(
    request: Request,
    caller: TheCaller,
    batch_id: Annotated[int, Path(ge=1, le=shapes.LARGEST_ID)],
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="Transactions behind this id: the next page.")] = 0,
    page_size: Annotated[int, Query(ge=1, le=500)] = 100,
    verdict: Annotated[
        list[Annotated[str, Query(pattern="^[a-z_]{1,20}$")]], Query(max_length=10, description="Of these alone.")
    ] = [],  # noqa: B006 # FastAPI copies it
    rule: Annotated[
        list[Annotated[str, Query(pattern="^[ -~]{1,20}$")]],
        Query(max_length=50, description="Transactions that broke one of these rules, or where it could not be told."),
    ] = [],  # noqa: B006
) -> Response:
    """One batch with its transactions by id: verdicts, reasons, evidence, errors, tokens and money."""
    found = showing.show_batch(
        state_of(request).database,
        batch_id,
        page_size,
        after=after,
        wanted=LineFilter(verdicts=frozenset(verdict), rules=frozenset(rule)),
        organizations=(caller.organization_id,),
    )
    return done(visitors.batch(found).as_json())


@router.post("/process_queue", responses=_ok(shapes.Processed) | _TOO_MANY)
async def process_queue(
    request: Request,
    caller: TheCaller,
    max_seconds: Annotated[
        float, Query(ge=_LEAST_SECONDS, le=_MOST_SECONDS, description="Answer after so many seconds at the latest.")
    ] = _DEFAULT_SECONDS,
) -> Response:
    """Audit what is queued for the caller's organization, for at most so long, and tell how far it came.

    What was paid for by then is settled in the background. Safe to call at any time: calls at once share the work.
    """
    run = await run_in_threadpool(actions.process, state_of(request), caller, max_seconds)
    await run.wait(max_seconds)
    state_of(request).glimpses.forget(caller.organization_id)
    if run.ended.done():
        return _at_its_end(run.ended.result())
    left = await run_in_threadpool(actions.open_batches, state_of(request), caller)
    return _under_way(run, left)


def _under_way(run: BackgroundRun, left: int) -> Answer:
    """What a run did so far; `left`: batches that are in work. What a run knows at its end alone is not told yet."""
    summary = run.so_far
    if summary is None:
        return done(_counts(0, 0, left) | {"finished": False, "run": None}, "The run begins.")
    completed, failed = summary.batches_completed, len(summary.failed_batches)
    told = _told(summary) | {
        "outcome": None,
        "batches": {"completed": completed, "failed": failed, "in_progress": left},
        "seconds": round(run.seconds, 3),
    }
    data = _counts(completed, failed, left) | {"finished": False, "run": told}
    return done(data, f"{_verdicts(summary)} The run goes on with what it has asked.")


def _at_its_end(summary: Summary) -> Answer:
    """What a run did; the provider's refusal is told as such."""
    data = _counts(summary.batches_completed, len(summary.failed_batches), summary.batches_in_progress)
    data |= {"finished": True, "run": _told(summary)}
    if summary.outcome is Outcome.BLOCKED:
        message = "The provider refuses all calls at this moment; the service's operator finds the reason with “stuck”."
        raise Refusal(Failure(status=503, code=str(summary.block_reason), message=message, data=data))
    return done(data, _in_words(summary))


def _counts(completed: int, failed: int, left: int) -> dict[str, Any]:
    return {"processed_batches": completed, "failed_batches": failed, "total_batches": completed + failed + left}


def _told(summary: Summary) -> dict[str, Any]:
    """The run without what held it: that may quote the provider, and tells of everybody's limits."""
    return {name: value for name, value in summary.as_json().items() if name != "held"}


def _in_words(summary: Summary) -> str:
    if summary.outcome is Outcome.IDLE:
        return "Nothing is queued."
    if summary.outcome is Outcome.BUSY:
        return "Another run is at work on this queue; it does what there is to do."
    return _verdicts(summary)


def _verdicts(summary: Summary) -> str:
    told = f"{summary.approved} approved, {summary.rejected} rejected, {summary.undecided} undecided, "
    return f"{told}{summary.failed} failed."


def _history_row(stored: StoredBatch) -> dict[str, Any]:
    line = stored.line
    told = showing.batch_json(line)
    kept = ("status", "started_at", "completed_at", "token_usage", "cost_usd", "error_message", "triggered_by_user_id")
    counts = ("total_transactions", "processed_transactions", "approved_count", "rejected_count", "undecided_count")
    return {
        "id": line.audit_history_id,
        "organization_id": line.organization_id,
        **{name: told[name] for name in (*kept, *counts, "failed_count", "skipped_count")},
        "created_date": stored.created_date,
    }
