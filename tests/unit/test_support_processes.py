"""Processes of the tests get exactly what they are given, can be stopped in every way, and leave nothing running.

Each is looked at as a process that was started, and as one that was forked to save the time of a start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gepp_audit import __version__
from gepp_audit.provider.openai_client import OpenAIClient
from tests.support.forked import COLD, forkable, nest_of_providers
from tests.support.nest import Forked, lending
from tests.support.outputs import output_folder
from tests.support.processes import ROOT, Process, Programs, Simulator, start_process
from tests.support.secrets import TEST_API_KEY
from tests.support.waiting import wait_until

COUNTING = "import itertools, time\nfor n in itertools.count():\n    print(n, flush=True)\n    time.sleep(0.01)"
PATIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(60)
"""


#: what a program may find out of its surroundings
PROBE = """
import json, os, signal, sys
os.mkdir("made")
print(json.dumps({
    "environ": dict(os.environ), "arguments": sys.argv, "path": sys.path, "folder": os.getcwd(), "name": __name__,
    "rights": os.stat("made").st_mode, "descriptors": sorted(os.listdir("/proc/self/fd")), "input": sys.stdin.read(),
    "signals": {number: repr(signal.getsignal(number)) for number in signal.valid_signals()},
    "buffered": [sys.stdout.line_buffering, sys.stderr.line_buffering],
    "encodings": [sys.stdout.encoding, sys.stderr.errors, sys.getfilesystemencoding()],
    "of ours": sorted(name for name in sys.modules if name.startswith(("gepp_audit", "tests"))),
}))
print("told", file=sys.stderr)
if "wrong" in sys.argv:
    raise ValueError("as it was told")
"""


@pytest.fixture(autouse=True)
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forking itself is tested where all else is started cold, too."""
    monkeypatch.delenv(COLD, raising=False)


either = pytest.mark.parametrize("fork", [False, True], ids=["started", "forked"])


def python(programs: Programs, script: str, *args: str, fork: bool = False, **environ: str) -> Process:
    (programs.home / "script.py").write_text(script, encoding="utf-8")
    return programs.start_command([sys.executable, "-m", "script", *args], environ=environ, fork=fork)


def test_the_program_is_forked_and_finds_what_it_would_if_it_were_started(programs: Programs) -> None:
    assert isinstance(programs.start("--version").popen, Forked)
    found = []
    for fork in (False, True):
        done = python(programs, PROBE, "wrong", fork=fork, GEPP_AUDIT_LOG_FILE="x", OF_THIS="ขยะ").wait()
        told = done.stderr.splitlines()
        found.append((done.exit_code, done.json(), told[0], told[-1]))
        (programs.home / "made").rmdir()
    assert found[0] == found[1]
    assert found[0][0] == 1
    assert found[0][2:] == ("told", "ValueError: as it was told")
    assert (found[0][1]["descriptors"], found[0][1]["of ours"]) == (["0", "1", "2", "3"], [])


def test_a_script_is_forked_as_it_would_be_started(tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "beside.py").write_text("FOUND = 'beside it'")
    (folder / "tool").write_text("import beside, os, sys; print([beside.FOUND, sys.argv, __name__, os.getcwd()])")
    found = [
        start_process([sys.executable, folder / "tool", "-x"], environ={}, cwd=tmp_path, name="tool", fork=fork).wait()
        for fork in (False, True)
    ]
    assert found[0] == found[1]
    assert (found[0].exit_code, "beside it" in found[0].stdout) == (0, True)


def test_a_providers_process_is_forked_and_whatever_else_is_started(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = lending(nest_of_providers().address)
    monkeypatch.setattr(subprocess, "Popen", popen)
    assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout == b"1\n"
    client = OpenAIClient(api_key=TEST_API_KEY, base_url=f"{simulator.url}/v1", call_timeout=20, concurrency=1)
    assert client.ready(30)
    process = client._process
    assert isinstance(process, Forked)
    assert os.getsid(process.pid) == process.pid
    client.close()
    assert process.poll() in (0, -signal.SIGKILL)  # the end of the channel may have ended it before


@pytest.mark.parametrize(
    ("environ", "possible"),
    [
        ({}, True),
        ({"PYTHONPATH": ""}, False),
        ({"PYTHONUTF8": "1"}, False),
        ({"LD_PRELOAD": "x.so"}, False),
        ({"LC_ALL": "C"}, False),
        ({"TZ": "Asia/Bangkok"}, False),
        ({"NO_COLOR": "1"}, False),
    ],
)
def test_nothing_is_forked_that_its_environment_would_shape_as_it_starts(
    environ: dict[str, str], possible: bool
) -> None:
    whole = {"PYTHONPATH": str(ROOT), **environ}
    assert forkable([sys.executable, "-m", "gepp_audit", "show"], whole) == possible
    assert not forkable([sys.executable, "-c", "pass"], whole)


def test_the_program_is_run_and_its_output_kept_in_the_runs_folder(programs: Programs) -> None:
    process = programs.start("--version")
    done = process.wait()
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"gepp-audit {__version__}\n", "")
    assert process.stdout_file.parent == output_folder()


def test_the_environment_is_what_was_given_and_little_more(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///of-a-developer.db")
    script = "import json, os; print(json.dumps([sorted(os.environ), os.environ['HOME'], os.getcwd()]))"
    names, home, folder = python(programs, script, GEPP_AUDIT_MODEL="m", LC_CTYPE="C.UTF-8").wait().json()
    assert names == ["GEPP_AUDIT_LOG_FILE", "GEPP_AUDIT_MODEL", "HOME", "LC_CTYPE", "PATH", "PYTHONPATH"]
    assert (home, Path(folder).resolve()) == (str(programs.home), programs.home.resolve())


@either
def test_a_frozen_process_stands_still_until_it_is_thawed(programs: Programs, fork: bool) -> None:
    process = python(programs, COUNTING, fork=fork)
    wait_until(lambda: process.stdout)
    process.freeze()
    still = process.stdout
    assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    assert (process.running, process.stdout) == (True, still)
    process.thaw()
    wait_until(lambda: len(process.stdout) > len(still))


@either
def test_a_terminated_process_may_tidy_up_and_a_killed_one_may_not(programs: Programs, fork: bool) -> None:
    processes = [python(programs, PATIENT, fork=fork) for _ in range(2)]
    for process in processes:
        wait_until(lambda process=process: process.stdout == "ready\n")  # type: ignore[misc] # bound now
    processes[0].terminate()
    assert (processes[0].wait().exit_code, processes[1].kill().exit_code) == (7, -signal.SIGKILL)


@either
def test_an_interrupt_is_a_keyboard_interrupt(programs: Programs, fork: bool) -> None:
    process = python(programs, COUNTING, fork=fork)
    wait_until(lambda: process.stdout)
    process.interrupt()
    assert (process.wait().exit_code, "KeyboardInterrupt" in process.stderr) == (-signal.SIGINT, True)


@either
def test_nothing_runs_after_the_test_not_even_what_is_frozen(tmp_path: Path, fork: bool) -> None:
    with Programs(home=tmp_path) as programs:
        processes = [python(programs, COUNTING, fork=fork) for _ in range(2)]
        wait_until(lambda: processes[1].stdout)
        processes[1].freeze()
    assert [process.running for process in processes] == [False, False]


@either
def test_a_process_that_takes_too_long_is_told_with_its_output(programs: Programs, fork: bool) -> None:
    process = python(programs, PATIENT, fork=fork)
    wait_until(lambda: process.stdout)
    with pytest.raises(AssertionError, match=r"still runs after 0\.01 s:\nready"):
        process.wait(0.01)


def test_waiting_returns_what_was_waited_for_or_tells_what_did_not_come() -> None:
    began = time.monotonic()
    assert wait_until(lambda: time.monotonic() > began + 0.02 and "come") == "come"
    with pytest.raises(AssertionError, match=r"the bus did not come true within 0\.01 s \(last: 0\)"):
        wait_until(lambda: 0, 0.01, what="the bus")


def test_the_simulator_takes_the_tests_key_and_tells_its_calls(simulator: Simulator) -> None:
    assert simulator.url.startswith("http://127.0.0.1:")
    assert simulator.calls() == []
    assert simulator.environ["OPENAI_BASE_URL"] == simulator.url + "/v1"


def test_a_program_that_does_not_start_is_no_endless_wait(tmp_path: Path) -> None:
    process = start_process(["/bin/sh", "-c", "echo no >&2; exit 3"], environ={}, cwd=tmp_path, name="broken")
    done = process.wait()
    assert (done.exit_code, done.stderr, done.stdout) == (3, "no\n", "")
    with pytest.raises(json.JSONDecodeError):
        done.json()
