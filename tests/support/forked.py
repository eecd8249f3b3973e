"""Programs that a process of `nest` forks for the tests, behind what they use of `subprocess.Popen`."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.support.outputs import new_output_file
from tests.support.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
#: set, each program is started by a Python of its own
COLD: Final = "GEPP_TEST_COLD_STARTS"
#: what is run so, of all that `python -m` may be told
_MODULES: Final = ("gepp_audit", "tests.support.launcher")
#: what a process reads only once, when it starts
_READ_ONCE: Final = ("LANG", "LC_", "LD_", "MALLOC", "PYTHON", "TZ")
#: one message must hold them
_MOST_LETTERS: Final = 30_000


class Forked:
    """A program that was forked: as much of `Popen` as the tests use of it."""

    def __init__(self, args: Sequence[str], reply: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
        self._reply = reply
        self.pid = self._told()

    def _told(self) -> int:
        told = self._reply.recv(64)
        assert told, "the process that forks the programs has ended"
        return int(told)

    def poll(self) -> int | None:
        """Its exit code, minus the signal that killed it; None: it runs."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended; TimeoutExpired after so many seconds."""
        found = self._look(timeout)
        if found is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return found

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._reply], [], [], timeout)[0]:
            self.returncode = self._told()
            self._reply.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP; returns when every thread of it stands still."""
        self.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        wait_until(lambda: all(_state(thread) == "T" for thread in threads.iterdir()), what="the stop")


def _state(thread: Path) -> str:
    return (thread / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


class Nest:
    """The process that forks."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        out = new_output_file("nest", ".out")
        # it ends when this process does, however that ends: then its socket is closed
        with theirs, out.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("nest.py")), str(theirs.fileno())],
                env=_surroundings(), cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip

    def fork(
        self, args: Sequence[str], *, environ: Mapping[str, str], cwd: Path, umask: int, stdout: int, stderr: int
    ) -> Forked:
        """Run a module, told as `args` of Python's own command line: -m NAME ARG…"""
        wanted = {"module": args[2], "args": args[3:], "environ": environ, "cwd": str(cwd), "umask": umask}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._requests, [json.dumps(wanted).encode()], [theirs.fileno(), stdout, stderr])
        return Forked(args, ours)

    def close(self) -> None:
        """End it, which ends no program."""
        self._requests.close()
        self._process.wait()


def _surroundings() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}


def forkable(args: Sequence[str | Path], environ: Mapping[str, str]) -> bool:
    """Whether a fork is as good as a start: it is one of our programs, and nothing shapes its interpreter."""
    return (
        hasattr(os, "pidfd_open")
        and not os.environ.get(COLD)
        and len(args) > 2
        and (args[0], args[1]) == (sys.executable, "-m")
        and args[2] in _MODULES
        and environ.get("PYTHONPATH") == str(ROOT)
        and not any(name.startswith(_READ_ONCE) for name in environ if name != "PYTHONPATH")
        and sum(map(len, map(str, (*args, *environ, *environ.values())))) < _MOST_LETTERS
    )


_nests: list[Nest] = []


def nest() -> Nest:
    """The one of this process; it is made when it is first asked for."""
    if not _nests:
        _nests.append(Nest())
    return _nests[0]


def close_nest() -> None:
    """End it, if there is one."""
    while _nests:
        _nests.pop().close()
