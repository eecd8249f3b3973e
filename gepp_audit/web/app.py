"""The application: routes, errors and what surrounds every request, put together.

`create_app` connects to nothing and starts nothing; the lifespan of the server ends what requests have started.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from gepp_audit import __version__
from gepp_audit.errors import OperatorError
from gepp_audit.settings import Settings
from gepp_audit.web.api import router as api
from gepp_audit.web.failures import Failure, Refusal, failure_of
from gepp_audit.web.pages.router import error_page
from gepp_audit.web.pages.router import router as pages
from gepp_audit.web.probes import router as probes
from gepp_audit.web.state import WebState
from gepp_audit.web.surroundings import Surroundings

#: threads that work on requests: no more than the pool of the database has connections
_THREADS: Final = 10
_FOR_PROGRAMS: Final = ("/api/", "/healthz", "/readyz", "/metrics", "/openapi.json")


def create_app(settings: Settings, *, dev: bool = False) -> FastAPI:
    """The web application. `dev`: without tokens, for the first organization; the caller sees to it that only this
    machine can reach it.

    OperatorError: a setting is missing or wrong.
    """
    if not dev:
        settings.require_jwt_secret()
    state = WebState(settings, dev=dev)
    app = FastAPI(
        title="gepp-audit",
        version=__version__,
        lifespan=_lifespan,
        docs_url=None,  # it would load a script from a foreign host
        redoc_url=None,
        redirect_slashes=False,  # it would lead to whatever host the request names
    )
    app.state.gepp_audit = state
    for kind in (OperatorError, Refusal, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _told)
    app.include_router(api)
    app.include_router(probes)
    app.include_router(pages)
    app.add_middleware(Surroundings, dev=dev, told=told, measures=state.measures)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
    state: WebState = app.state.gepp_audit
    try:
        yield
    finally:
        state.runs.stop()
        await run_in_threadpool(state.runs.wait)
        state.close()


async def _told(request: Request, error: Exception) -> Response:
    return told(request, failure_of(error))


def told(request: Request, failure: Failure) -> Response:
    """A failure as whoever asked can read it."""
    if request.url.path.startswith(_FOR_PROGRAMS):
        return JSONResponse(failure.as_json(), failure.status, dict(failure.headers))
    return error_page(request, failure)
