"""Templates to answers: every value escaped, every name known, nothing from a foreign host.

The answers forbid everything that the pages do not need (Content-Security-Policy), so that even a value that was not
escaped could run nothing and send nothing away.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gepp_audit.plain_text import printable
from gepp_audit.web.pages import figures
from gepp_audit.web.pages.session import Visitor, keep_visit
from gepp_audit.web.pages.words import LANGUAGES, Words

_HERE: Final = Path(__file__).parent
_STATIC: Final = _HERE / "static"
_THAI: Final = re.compile("[\u0e00-\u0e7f]")
_FOR_EVER: Final = "public, max-age=31536000, immutable"

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # the origin alone, and to ourselves: without it a browser would call our own forms' origin null
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def page(request: Request, visitor: Visitor, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """The page that `template` makes of these values."""
    told = {"notice": None, "organization": None, "visitor": visitor, "t": Words(visitor.language)} | values
    response = HTMLResponse(_environment().get_template(template).render(told), status, dict(HEADERS))
    keep_visit(request, response, visitor)
    return response


def elsewhere(path: str) -> Response:
    """After a form: go there, by GET (RFC 9110, section 15.4.4)."""
    return RedirectResponse(path, 303, dict(HEADERS))


def asset(name: str) -> tuple[bytes, str] | None:
    """A file of the pages and its type; None: there is none of this name."""
    if name not in _assets():
        return None
    kind = mimetypes.types_map.get(Path(name).suffix, "application/octet-stream")
    return _assets()[name], kind


def asset_response(name: str) -> Response | None:
    """A file of the pages, to be kept by the browser: its address changes with what it holds."""
    found = asset(name)
    if found is None:
        return None
    content, kind = found
    return Response(content, media_type=kind, headers=HEADERS | {"Cache-Control": _FOR_EVER})


@cache
def _assets() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.is_file()}


@cache
def _address(name: str) -> str:
    return f"/static/{name}?v={hashlib.sha256(_assets()[name]).hexdigest()[:12]}"


def language_of(text: str) -> str:
    """The language that a text of the platform is written in, as far as its letters tell."""
    return "th" if _THAI.search(text) else "en"


def _shown(value: Any) -> Any:
    """What a `{{ }}` puts out: control characters and turned writing are spelled, then everything is escaped."""
    return printable(value) if type(value) is str else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(
        asset=_address,
        languages=LANGUAGES,
        language_of=language_of,
        **{name: getattr(figures, name) for name in ("number", "short", "money", "length", "moment", "day")},
    )
    return environment
