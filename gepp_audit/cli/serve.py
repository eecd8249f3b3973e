"""`gepp-audit serve`: the HTTP API and the Audit History page. Needs the optional extra [web]."""

from __future__ import annotations

import importlib
from typing import Final

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.options import json_option
from gepp_audit.cli.render import Result, emit, error_text
from gepp_audit.errors import OperatorError

#: what the extra [web] installs, by the names under which it is imported
_EXTRA: Final = ("fastapi", "starlette", "uvicorn", "jwt", "jinja2")


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="H", help="Listen at this address.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    metavar="P",
    help="And port; 0: a free one.",
)
@click.option("--dev", is_flag=True, help="Without tokens, for the first organization; for this machine alone.")
@json_option
@click.pass_obj
def serve(app: App, host: str, port: int, dev: bool) -> int:
    """Serve the platform's routes around the queue, and the Audit History page, until a signal comes.

    Whoever asks needs the platform's token, signed with GEPP_AUDIT_JWT_SECRET. TLS is a reverse proxy's work.
    """
    settings = app.load()
    _require_extra()
    from gepp_audit.web.server import serve as serve_until_stopped

    def tell(url: str) -> None:
        if app.as_json:
            emit(Result(data={"url": url, "dev": dev}), as_json=True)
        elif app.verbosity >= 0:
            error_text(f"Serving {url}{' without tokens' if dev else ''}; Ctrl+C ends it.")

    return serve_until_stopped(settings, host=host, port=port, dev=dev, ready=tell)


def _require_extra() -> None:
    for name in _EXTRA:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise OperatorError(
                f"the extra for the web is not installed (there is no {error.name or name}).",
                fix="Install it: pip install 'gepp-audit[web]'",
                code="no_web_extra",
            ) from error
