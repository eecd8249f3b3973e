"""What machines ask: is the process there, can it work, how is the queue."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from gepp_audit.queue.exposition import metric
from gepp_audit.web import shapes
from gepp_audit.web.answers import Answer
from gepp_audit.web.state import WebState, state_of

router = APIRouter(tags=["operation"])
_WELL: Final[dict[int | str, dict[str, Any]]] = {200: {"model": shapes.Well}}
_UNREADY: Final[dict[int | str, dict[str, Any]]] = {
    **_WELL,
    503: {"model": shapes.Error, "description": "The database cannot be reached, or has another schema."},
}


@router.get("/healthz", responses=_WELL)
async def healthz() -> Response:
    """The process is there and answers."""
    return Answer({"success": True, "message": "Alive."})


@router.get("/readyz", responses=_UNREADY)
def readyz(request: Request) -> Response:
    """It can work: the database answers and has our schema."""
    state_of(request).require_schema()
    return Answer({"success": True, "message": "Ready."})


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"description": "Prometheus' text format. Nothing in it is about one organization."}},
)
def metrics(request: Request) -> Response:
    """How the queue is, what runs here, and how requests were answered."""
    state = state_of(request)
    told = [state.queue_figures.text(state.settings, lambda: state.database), *_of_server(state)]
    return PlainTextResponse("\n".join(told) + "\n", media_type="text/plain; version=0.0.4")


def _of_server(state: WebState) -> list[str]:
    runs = metric("gepp_audit_http_runs", "gauge", "Runs under way in this server.", [({}, state.runs.under_way)])
    return [*runs, *state.measures.lines()]
