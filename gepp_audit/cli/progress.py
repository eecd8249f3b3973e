"""The progress bar of a run at a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gepp_audit import logs

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from gepp_audit.queue.summary import Summary


class Bar:
    """Shows a run's counts as they grow."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def progress(self, summary: Summary, waiting: int, total: int) -> None:
        """One turn has ended. `waiting`: calls under way; `total`: transactions in this run's sight."""
        done = summary.approved + summary.rejected + summary.undecided + summary.failed + summary.skipped
        told = f"{summary.approved} approved, {summary.rejected} rejected, {summary.undecided} undecided"
        if summary.failed:
            told += f", {summary.failed} failed"
        self._progress.update(self._task, completed=done, total=max(total, done), told=f"{told}, {waiting} under way")


@contextlib.contextmanager
def progress_bar() -> Iterator[Bar]:
    """A bar on stderr; the log lines of the run go above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None, told="")
        with logs.console_through(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)):
            yield Bar(progress, task)
