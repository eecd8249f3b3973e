"""What those hear of a run of process-queue who are not there: a ping and the metrics file, where they are set.

Nothing here can fail the work or hold it up: the start is told from a thread, the end once everything is written and
the database is left. What does not get through is a warning in the log.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gepp_audit import logs
from gepp_audit.cli.render import error_text
from gepp_audit.errors import OperatorError

if TYPE_CHECKING:
    from gepp_audit.cli.app import App
    from gepp_audit.heard.ping import Pinger
    from gepp_audit.queue.summary import Summary
    from gepp_audit.settings import Settings


class Tick:
    """One start of the queue, from its settings on."""

    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._began = time.monotonic()
        self._pinger: Pinger | None = None
        #: the events that this run has proved wrong
        self._done_well: list[str] = []
        if settings.ping_url is not None:
            from gepp_audit.heard.ping import Pinger

            self._pinger = Pinger(settings.ping_url.reveal())

    def at_work(self) -> None:
        """There is something to do. A tick without work tells its end alone."""
        self._app.mail.at_work = True
        if self._pinger is not None:
            self._pinger.start()

    def ended(self, summary: Summary, exit_code: int, said: Sequence[str]) -> None:
        """The run ended without an error; `said`: what a person would read of it."""
        self._write_metrics(summary.outcome.value, exit_code, summary)
        self._ping(exit_code in (0, 129, 130, 143), "\n".join(said))
        if logs.file_works():
            self._done_well.append("log_file_not_written")
        for line in self._app.mail.over(
            answered=summary.calls > 0 and summary.block_reason is None, done_well=self._done_well
        ):
            error_text(line)

    def failed(self, error: OperatorError) -> None:
        """An error ended the run; whoever catches it tells it."""
        self._write_metrics("failed", error.exit_code, None)
        self._ping(False, f"Error: {error.message}\n{error.fix}")

    def _ping(self, well: bool, body: str) -> None:
        if self._pinger is None or self._settings.ping_url is None:
            return
        from gepp_audit.heard.ping import Moment

        problem = self._pinger.end(Moment.SUCCESS if well else Moment.FAIL, logs.redacted(body))
        if problem is None:
            self._done_well.append("ping_failed")
        else:
            logs.warning("ping_failed", address=self._settings.ping_url.masked, reason=problem)

    def _write_metrics(self, outcome: str, exit_code: int, summary: Summary | None) -> None:
        path = self._settings.metrics_file
        if path is None:
            return
        from gepp_audit.heard import textfile

        ended = textfile.Ended(
            outcome=outcome,
            exit_code=exit_code,
            seconds=time.monotonic() - self._began,
            at=time.time(),
            summary={} if summary is None else summary.as_json(),
        )
        problem = textfile.write(path, ended)
        if problem is None:
            self._done_well.append("metrics_not_written")
        else:
            logs.warning("metrics_not_written", file=str(path), reason=problem)


@contextlib.contextmanager
def heard(app: App, settings: Settings) -> Iterator[Tick]:
    """The run inside is heard of; where an error ends it, that is told and raised again."""
    tick = Tick(app, settings)
    try:
        yield tick
    except Exception as error:
        from gepp_audit.cli.ending import in_words

        tick.failed(in_words(error))
        raise
