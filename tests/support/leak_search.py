"""A pytest plugin: at the end of a run no output and no log may hold the run's secrets.

Searched are the run's output folder (whatever processes and servers printed or logged), the log files that tests wrote
below their `tmp_path`, and what pytest captured while tests ran in this process or in its workers. A leak is reported
as one more failed test, after all others, so that no order of tests and no worker can hide it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.outputs import VARIABLE, new_output_file, output_folder
from tests.support.secrets import leaks

_NODE = "tests/support/leak_search.py::no secret stands in any output or log of this run"


def pytest_configure(config: pytest.Config) -> None:
    """Open the run's output folder, before any worker starts and inherits its name."""
    if not hasattr(config, "workerinput"):
        temporary = not os.environ.get(VARIABLE)
        config.pluginmanager.register(LeakSearch(config, temporary=temporary), "leak-search")


class LeakSearch:
    """The search of one run; lives in the process that collects the workers' reports."""

    def __init__(self, config: pytest.Config, *, temporary: bool) -> None:
        self._config = config
        self._temporary = temporary
        self._folder = output_folder()
        self._captured = new_output_file("captured", ".txt")

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was captured while a test ran."""
        if report.sections:
            with self._captured.open("a", encoding="utf-8", errors="replace") as file:
                for title, text in report.sections:
                    file.write(f"== {report.nodeid}: {title}\n{text}\n")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Search; all workers have ended."""
        found = leaks(self._files())
        if found:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self._config.hook.pytest_runtest_logreport(report=_failure("\n".join(found)))

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell where the outputs of a failed run are kept, if there is more than pytest shows itself."""
        failed = terminalreporter.stats.get("failed") or terminalreporter.stats.get("error")
        if failed and any(path.stat().st_size for path in self._folder.iterdir() if path != self._captured):
            terminalreporter.write_line(f"what the processes of this run printed: {self._folder}")
            self._temporary = False

    @pytest.hookimpl
    def pytest_unconfigure(self) -> None:
        """Leave nothing behind of a good run."""
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.environ.pop(VARIABLE, None)

    def _files(self) -> Iterator[Path]:
        yield from _below(self._folder)
        temporary: Path = self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined] # has no public name
        yield from (path for path in _below(temporary) if path.name == "log" or ".log" in path.name)


def _below(folder: Path) -> Iterator[Path]:
    """Every file below `folder`; what vanishes meanwhile is passed over."""
    for parent, _, names in os.walk(folder):
        paths = (Path(parent) / name for name in sorted(names))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _failure(text: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=_NODE,
        location=("tests/support/leak_search.py", 0, "no secret stands in any output or log of this run"),
        keywords={},
        outcome="failed",
        longrepr=text,
        when="call",
    )
