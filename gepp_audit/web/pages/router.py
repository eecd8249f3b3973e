"""The pages' routes."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from gepp_audit.web.failures import Failure

router = APIRouter(include_in_schema=False)


def error_page(request: Request, failure: Failure) -> Response:
    """What a person sees where a page fails: any error outside of the API comes here."""
    return PlainTextResponse(failure.message, failure.status, failure.headers)
