"""What cron's mail gets of process-queue: each failure once, then once an hour, and one line when it is over.

Outside of cron, at a terminal and with -v everything is told; the log file gets everything in any case, and so does
stdout with `--json`.

A failure has one of three kinds, by what proves that it is over:
- `start.CODE`: it struck before there was work (settings, log file, database): any run that ends without it proves it;
- `work.CODE`: it struck at work (provider, key, price): a run that got an answer and did not meet it proves it;
- `beside.CODE`: beside the work (log file, ping, metrics): the same thing done well proves it.
A further kind, `seen.NAME`, is an event of a single moment: it is not over, its mark just goes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gepp_audit.heard.marks import Marks

#: the command that cron starts every minute
COMMAND: Final = "process-queue"
#: events that last, and what they are; every other one is of a moment
_LASTING: Final = {
    "no_call_got_through": "work.no_call_got_through",
    "log_file_not_written": "beside.log_file_not_written",
    "ping_failed": "beside.ping_failed",
    "metrics_not_written": "beside.metrics_not_written",
}
#: the fields that make an event of a moment another one
_IDENTITY: Final = ("audit_history_id", "transaction_id", "run_ids", "scope", "limit", "names")


class Mail:
    """Decides what this process tells; asks for the marks, and whether cron is there, only when it has to."""

    def __init__(self, words: Sequence[str], *, applies: bool) -> None:
        """`words`: the command line without the program; `applies`: it is one that cron starts every minute."""
        self._words = tuple(words)
        self._applies = applies
        self._marks: Marks | None = None
        self._under_cron: bool | None = None
        #: the failures that this process has met
        self._met: set[str] = set()
        #: a run has begun: what fails from now on fails at work
        self.at_work = False
        #: -v: tell everything
        self.verbose = False

    def wants_error(self, code: str) -> bool:
        """Whether the error that ends this process is to be told on stderr."""
        return self._wants(f"{'work' if self.at_work else 'start'}.{code}")

    def wants_event(self, name: str, fields: Mapping[str, Any]) -> bool:
        """Whether this event is to be told on stderr."""
        if not self._applies:
            return True
        told = [str(fields[key]) for key in _IDENTITY if fields.get(key)]
        return self._wants(_LASTING.get(name) or ".".join(["seen", name, *told])[:200])

    def over(self, *, answered: bool, done_well: Sequence[str]) -> list[str]:
        """What is over, as lines to tell; called by a run that ends without an error, at its very end.

        `answered`: it got an answer of the provider; `done_well`: the events of `_LASTING` that it proves wrong.
        """
        if not self._applies or _is_read_now():
            return []
        marks = self._stored()
        found = marks.all()
        if not found or not self._is_under_cron():
            return []
        well = {_LASTING[name] for name in done_well}
        lines = []
        for mark in found:
            kind = mark.name.partition(".")[0]
            if mark.name in self._met:
                continue
            if kind == "seen":
                if time.time() - mark.told > 3600:
                    marks.remove(mark.name)
            elif (kind == "start" or (kind == "work" and answered) or mark.name in well) and marks.remove(mark.name):
                lines.append(_works_again(mark.name, mark.since))
        return lines

    def _wants(self, name: str) -> bool:
        if not self._applies or self.verbose or _is_read_now():
            return True
        self._met.add(name)
        return not self._is_under_cron() or self._stored().due(name)

    def _is_under_cron(self) -> bool:
        if self._under_cron is None:
            from gepp_audit.heard.ancestors import is_under_cron

            self._under_cron = is_under_cron()
        return self._under_cron

    def _stored(self) -> Marks:
        if self._marks is None:
            from gepp_audit.heard.marks import of_command
            from gepp_audit.setting_values import masked_url

            # what tells one queue of this user from another, as far as it is known where no setting can be read
            address = masked_url(os.environ.get("DATABASE_URL", ""))
            words = (*self._words, os.environ.get("GEPP_AUDIT_ENV_FILE", ""), address, os.path.realpath("."))
            self._marks = of_command(words, os.environ)
        return self._marks


def _is_read_now() -> bool:
    """Whether a person sees stderr."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def _works_again(name: str, since: float) -> str:
    from datetime import UTC, datetime, timedelta

    from gepp_audit.queue.wording import moment_in_words, span

    began = datetime.fromtimestamp(since, UTC)
    length = span(timedelta(seconds=time.time() - since))
    what = name.partition(".")[2]
    return f"gepp-audit works again: {what} is over, which began at {moment_in_words(began)} ({length} ago)."
