"""What a dead man's switch hears of an invocation, where GEPP_AUDIT_PING_URL is set: as of a run that cron starts."""

from __future__ import annotations

import time

from gepp_audit import logs
from gepp_audit.setting_values import Secret


class Pings:
    """The pings of one invocation; none of them raises, or outlasts the deadline."""

    def __init__(self, url: Secret | None, deadline: float) -> None:
        """`deadline`: by `time.monotonic`."""
        self._url = url
        self._deadline = deadline
        self._pinger = None
        if url is not None:
            from gepp_audit.heard.ping import Pinger

            self._pinger = Pinger(url.reveal())

    def at_work(self) -> None:
        """There is something to do."""
        if self._pinger is not None:
            self._pinger.start()

    def end(self, *, well: bool, body: str) -> None:
        """The invocation ends, with a result or an error."""
        if self._pinger is None or self._url is None:
            return
        from gepp_audit.heard.ping import TIMEOUT, Moment

        if time.monotonic() + TIMEOUT > self._deadline:
            problem: str | None = "no time was left"
        else:
            problem = self._pinger.end(Moment.SUCCESS if well else Moment.FAIL, logs.redacted(body))
        if problem is not None:
            logs.warning("ping_failed", address=self._url.masked, reason=problem)
