"""What a person sees where a page fails."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from fastapi import Request, Response

from gepp_audit.web.failures import Failure
from gepp_audit.web.pages import rendering
from gepp_audit.web.pages.session import FORGED, Visitor, crosses_sites, visitor_of
from gepp_audit.web.pages.words import Words

#: by code: the words' name
_BY_CODE: Final = {
    FORGED: ("error_forged_title", "error_forged"),
    "batch_not_open": ("error_refused_title", "error_ended"),
    "held_by_platform": ("error_refused_title", "error_held"),
}
_NOT_FOUND: Final = ("error_not_found_title", "error_not_found")
_REFUSED: Final = ("error_refused_title", "error_refused")
_BROKEN: Final = ("error_broken_title", "error_broken")


def error_page(request: Request, failure: Failure) -> Response:
    """The page for a failure, or the way to the sign-in where nobody has signed in. Reads no database."""
    visitor = visitor_of(request)
    if failure.code == "not_signed_in":
        return _who_are_you(request, visitor)
    # a number in an address that can be none of ours is an address that does not exist
    status = 404 if failure.code == "wrong_request" else failure.status
    title, text = _words(failure.code, status)
    words = Words(visitor.language)
    detail = failure.message if text == "error_refused" else None
    response = rendering.page(
        request, visitor, "error.html", status=status, title=words(title), text=words(text), detail=detail
    )
    response.headers.update(failure.headers)
    return response


def _who_are_you(request: Request, visitor: Visitor) -> Response:
    if crosses_sites(request):
        # the cookie is withheld from links of other sites: asking again from a page of our own brings it along
        return rendering.page(request, visitor, "arriving.html", path=visitor.path)
    return rendering.elsewhere(f"/sign-in?next={quote(visitor.path, safe='/')}")


def _words(code: str, status: int) -> tuple[str, str]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status in (404, 405):
        return _NOT_FOUND
    return _BROKEN if status >= 500 else _REFUSED
