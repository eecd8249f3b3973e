"""Real processes for the tests: the program as cron would start it, and the bundled simulator.

Each gets a clean environment and no terminal. What it prints goes into files of the run's output folder, where it is
searched for secrets at the end. No process outlives the test that started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from tests.support.forked import can_fork, forkable, nest
from tests.support.nest import Forked
from tests.support.outputs import new_output_file
from tests.support.secrets import TEST_API_KEY
from tests.support.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_UMASK: Final = 0o022
PROGRAM: Final = (sys.executable, "-m", "gepp_audit")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a process ended: its exit code (minus the signal that killed it) and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """What stands on stdout, as the one JSON document that it must be."""
        return json.loads(self.stdout)


@dataclass(kw_only=True)
class Process:
    """A process that was started, and the files that it writes to."""

    popen: subprocess.Popen[bytes] | Forked
    stdout_file: Path
    stderr_file: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """It has not ended (a frozen one runs)."""
        return self.popen.poll() is None

    @property
    def stdout(self) -> str:
        """What it printed so far."""
        return self.stdout_file.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        """What it told on stderr so far."""
        return self.stderr_file.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout: float = 60.0) -> Finished:
        """Wait for its end; AssertionError with what it printed when it takes longer than `timeout` seconds."""
        try:
            exit_code = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            told = f"{self.stdout[-2000:]}\n{self.stderr[-2000:]}"
            raise AssertionError(f"{self.popen.args!r} still runs after {timeout:g} s:\n{told}") from None
        return Finished(exit_code=exit_code, stdout=self.stdout, stderr=self.stderr)

    def terminate(self) -> None:
        """SIGTERM, as a service manager sends it."""
        self.popen.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """SIGINT, as Ctrl-C sends it."""
        self.popen.send_signal(signal.SIGINT)

    def kill(self) -> Finished:
        """SIGKILL: no chance to tidy up. Returns when it is gone."""
        self.popen.kill()
        return self.wait()

    def freeze(self) -> None:
        """SIGSTOP; returns when it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        if isinstance(self.popen, Forked):
            threads = Path(f"/proc/{self.pid}/task")
            wait_until(lambda: all(_state(thread) == "T" for thread in threads.iterdir()), what="the stop")
        else:
            os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """SIGCONT, unless it has ended: its server may have cut it off and it may have gone meanwhile."""
        self.popen.send_signal(signal.SIGCONT)


def _state(thread: Path) -> str:
    return (thread / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def start_process(
    command: Sequence[str | Path], *, environ: Mapping[str, str], cwd: Path, name: str, fork: bool | None = None
) -> Process:
    """Start `command` with exactly this environment. `name`: what its output files are called after.

    `fork`: of a process that has the libraries, and nothing of ours, in memory already; default: where that is as good.
    """
    stdout_file, stderr_file = new_output_file(name, ".out"), new_output_file(name, ".err")
    with stdout_file.open("wb") as stdout, stderr_file.open("wb") as stderr:
        if forkable(command, environ) if fork is None else fork:
            words = [str(word) for word in command]
            popen: subprocess.Popen[bytes] | Forked = nest().fork(
                words, environ=environ, cwd=cwd, umask=_UMASK, stdout=stdout.fileno(), stderr=stderr.fileno()
            )
        else:
            popen = subprocess.Popen(
                command, env=environ, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, umask=_UMASK
            )
    return Process(popen=popen, stdout_file=stdout_file, stderr_file=stderr_file)


@dataclass(kw_only=True)
class Programs:
    """Starts `gepp-audit` with hardly any environment, in the folder `home`, which is $HOME too.

    Its environment is the mapping `environ` and what stands as further keyword arguments: `programs.run("show",
    DATABASE_URL=url)`. The log file is one of the run's output folder unless GEPP_AUDIT_LOG_FILE is given: empty, none.
    """

    home: Path
    #: what each process gets, beside what a single call adds
    environ: dict[str, str] = field(default_factory=dict)
    _started: list[Process] = field(default_factory=list, repr=False)

    def run(
        self,
        *args: str,
        environ: Mapping[str, str] = NOTHING,
        timeout: float = 60.0,
        cwd: Path | None = None,
        **more: str,
    ) -> Finished:
        """Run the program to its end."""
        return self.start(*args, environ={**environ, **more}, cwd=cwd).wait(timeout)

    def start(self, *args: str, environ: Mapping[str, str] = NOTHING, cwd: Path | None = None, **more: str) -> Process:
        """Start the program and return at once."""
        return self.start_command([*PROGRAM, *args], environ={**environ, **more}, cwd=cwd)

    def start_command(
        self,
        command: Sequence[str | Path],
        *,
        environ: Mapping[str, str] = NOTHING,
        cwd: Path | None = None,
        fork: bool | None = None,
        **more: str,
    ) -> Process:
        """Start any other command in the same surroundings. `fork`: as `start_process` has it."""
        clean = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            **self.environ,
            **environ,
            **more,
        }
        if "GEPP_AUDIT_LOG_FILE" not in clean:
            clean["GEPP_AUDIT_LOG_FILE"] = str(new_output_file("gepp-audit", ".log"))
        process = start_process(command, environ=clean, cwd=cwd or self.home, name="gepp-audit", fork=fork)
        self._started.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            if process.running:
                process.kill()


# -- the simulator -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Simulator:
    """A running simulator."""

    url: str
    process: Process
    #: one JSON line per call
    log_file: Path

    @property
    def environ(self) -> dict[str, str]:
        """The settings that send the program's calls here, with the key that is taken."""
        return {"OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_API_KEY": TEST_API_KEY}

    def scenario(self, scenario: Any) -> None:
        """From now on behave as this scenario says."""
        self._control("scenario", scenario)

    def reset(self) -> None:
        """Forget the calls and the scenario."""
        self._control("reset", {})

    def calls(self) -> list[dict[str, Any]]:
        """Every call so far, in the order of their arrival."""
        told = self._control("calls")
        calls: list[dict[str, Any]] = told["calls"] if isinstance(told, dict) else told
        return calls

    def _control(self, route: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/control/{route}", data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            text = response.read()
        return json.loads(text) if text else None


@contextmanager
def running_simulator(*options: str, latency_ms: int = 0, api_key: str = TEST_API_KEY) -> Iterator[Simulator]:
    """`scripts/simulator` for the time of the `with` block; `options` are further ones of its command line."""
    log_file = new_output_file("simulator", ".log")
    command = [sys.executable, str(ROOT / "scripts" / "simulator"), "--port", "0", "--seed", "1", "--exit-with-parent"]
    with ExitStack() as ending:
        process = start_process(
            [*command, "--latency", str(latency_ms), "--log", str(log_file), *options],
            environ={"PATH": "/usr/bin:/bin", "SIMULATOR_API_KEY": api_key},
            cwd=ROOT,
            name="simulator",
            fork=can_fork(),
        )
        ending.callback(process.kill)
        yield Simulator(url=_first_line(process), process=process, log_file=log_file)


def _first_line(process: Process) -> str:
    def told() -> str:
        line, end, _ = process.stdout.partition("\n")
        if not end and not process.running:
            raise AssertionError(f"the simulator did not start:\n{process.stderr[-4000:]}")
        return line if end else ""

    return wait_until(told, what="the simulator's address on its stdout")
