"""Pings for a dead man's switch: it hears when a run starts, ends well or fails, and complains when it hears nothing.

The protocol is healthchecks.io's, which others speak too (https://healthchecks.io/docs/http_api/ and
https://healthchecks.io/docs/attaching_logs/): an HTTP request to the check's address says success, to the address with
`/start` or `/fail` behind its path the start or a failure, and the body of a POST is kept with the ping. Any status of
200–299 means that it arrived.

The address is a secret: who knows it can pretend that a run went well. It stands in no message of this module.
"""

from __future__ import annotations

import threading
import time
from enum import StrEnum
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from gepp_audit import __version__

#: a ping takes no longer than this in all, name resolution included
TIMEOUT: Final = 5.0
#: healthchecks.io keeps so many bytes of a body by default (its setting PING_BODY_LIMIT)
_LARGEST_BODY: Final = 10_000


class Moment(StrEnum):
    """What a ping says; the value stands behind the check's path."""

    START = "/start"
    SUCCESS = ""
    FAIL = "/fail"


class Pinger:
    """The pings of one run. None of its methods raises, and none takes longer than `TIMEOUT`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._start: _Sending | None = None

    def start(self) -> None:
        """Say that the run starts. Returns at once: the run does not wait for it."""
        self._start = _Sending(self._url, Moment.START, "")

    def end(self, moment: Moment, body: str) -> str | None:
        """Say how the run ended; returns why that, or the start's ping, did not arrive, or None."""
        deadline = time.monotonic() + TIMEOUT
        # the service measures from start to end, so the start goes first
        early = None if self._start is None else self._start.problem(time.monotonic() + TIMEOUT / 2)
        return _Sending(self._url, moment, body).problem(deadline) or early


def address(url: str, moment: Moment) -> str:
    """The address that says `moment`: `/start` or `/fail` go behind the path, a query stays behind them."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + moment.value, fragment=""))


class _Sending:
    """One ping under way, in a thread of its own: a timeout of a socket bounds each wait, never the sum of them."""

    def __init__(self, url: str, moment: Moment, body: str) -> None:
        self._problem: str | None = f"no answer within {TIMEOUT:g} s"
        self._thread = threading.Thread(target=self._send, args=(url, moment, body), name="ping", daemon=True)
        self._thread.start()

    def problem(self, deadline: float) -> str | None:
        """Why it did not arrive (a part of a sentence without any secret), or None; waits for the answer.

        `deadline`: by `time.monotonic`.
        """
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        return self._problem

    def _send(self, url: str, moment: Moment, body: str) -> None:
        try:
            _post(address(url, moment), body)
        except Exception as error:
            self._problem = _why(error)
        else:
            self._problem = None


def _post(url: str, body: str) -> None:
    from base64 import b64encode
    from urllib.request import Request, build_opener

    headers = {"User-Agent": f"gepp-audit/{__version__}", "Content-Type": "text/plain; charset=utf-8"}
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    if at:
        headers["Authorization"] = f"Basic {b64encode(unquote(credentials).encode()).decode()}"
        url = urlunsplit(parts._replace(netloc=host))
    data = body.encode("utf-8", "replace")[:_LARGEST_BODY]
    # the settings let only http and https through
    request = Request(url, data=data, headers=headers, method="POST")  # noqa: S310
    with build_opener().open(request, timeout=TIMEOUT) as answer:
        answer.read(1)


def _why(error: Exception) -> str:
    """What went wrong, in words of ours or the system's: those of a library may quote the address."""
    from urllib.error import HTTPError, URLError

    if isinstance(error, HTTPError):
        return f"it answered with status {error.code}"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    strerror = getattr(cause, "strerror", None)
    return f"{strerror}" if strerror else type(cause).__name__
