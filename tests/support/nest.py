"""Starts Python programs as forks of this process, which has imported the libraries: a start costs a fifth of the time.

    python -P nest.py FD PROVIDERS LIBRARY…

Each connection to the socket FD asks for one program: which script to run, or which module as `python -m` would, with
which arguments, environment, folder and descriptors. Over it the process id is told, and in the end the exit code.
PROVIDERS is the address of a process like this one that has the SDK, of which the programs have their provider's
process forked; empty: they start it themselves. When standard input ends, this does too.

Nothing of gepp_audit and nothing of the tests is imported here: each program loads its own code itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

#: above those that a program is given
_HIGH: Final = 200
_MOST_BYTES: Final = 1 << 20


# -- who asks ----------------------------------------------------------------------------------------------------------


class Forked:
    """A program that was forked: as much of `Popen` as is used of it."""

    def __init__(self, args: Sequence[str], nest: bytes, wanted: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """`wanted`: what `_become` reads; `descriptors`: those that will have the numbers in its `descriptors`."""
        self.args = args
        self.returncode: int | None = None
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._told.connect(nest)
            socket.send_fds(self._told, [json.dumps(wanted).encode()], descriptors)
            self.pid = self._number()
        except BaseException:
            self._told.close()
            raise

    def _number(self) -> int:
        told = self._told.recv(64)
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
        if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
            self.returncode = self._number()
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it, unless the program has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now, and the nest waits for its forks
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def lending(nest: bytes) -> Callable[..., Any]:
    """A `subprocess.Popen` that has each provider's process forked by that nest."""
    start = subprocess.Popen
    path = list(sys.path)

    def popen(args: Any, *more: Any, **how: Any) -> Any:
        own = isinstance(args, list) and args[:3] == [sys.executable, "-m", "gepp_audit.provider"] and len(args) == 4
        # another path may lead to another SDK
        if not own or sys.path != path or how["env"].get("LD_PRELOAD"):
            return start(args, *more, **how)
        [channel] = how["pass_fds"]
        wanted = {
            "module": args[2], "args": args[3:], "environ": how["env"], "cwd": os.getcwd(), "umask": None,
            "descriptors": [channel], "path": how["env"]["PYTHONPATH"].split(os.pathsep), "session": True,
        }  # fmt: skip
        return Forked(args, nest, wanted, [channel])

    return popen


# -- who forks ---------------------------------------------------------------------------------------------------------


def _brood(asked: socket.socket) -> dict[str, Any] | None:
    """Fork for each connection until standard input ends; returns in each child what it is to become, else None."""
    living: dict[int, tuple[int, socket.socket]] = {}
    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    waiting.register(asked, select.POLLIN)
    while True:
        for ready, _ in waiting.poll():
            if ready == 0:
                return None
            if ready != asked.fileno():
                pid, told = living.pop(ready)
                waiting.unregister(ready)
                os.close(ready)
                with told:
                    _tell(told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            told, _ = asked.accept()
            message, descriptors, _, _ = socket.recv_fds(told, _MOST_BYTES, 4)
            wanted: dict[str, Any] = json.loads(message)
            pid = os.fork()
            if pid == 0:
                for one in (asked, told, *(other for _, other in living.values())):
                    one.detach()
                _hold(descriptors, wanted["descriptors"])
                return wanted
            for descriptor in descriptors:
                os.close(descriptor)
            _tell(told, pid)
            ended = os.pidfd_open(pid)
            living[ended] = (pid, told)
            waiting.register(ended, select.POLLIN)


def _tell(told: socket.socket, number: int) -> None:
    try:
        told.send(b"%d" % number)
    except OSError:
        return  # who asked has ended


def _hold(given: Sequence[int], numbers: Sequence[int]) -> None:
    """Have what was given under these numbers, /dev/null for what is missing of the standard streams, and no more."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _HIGH) for descriptor in given]
    nowhere = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD, _HIGH)
    held = {0: nowhere, 1: nowhere, 2: nowhere} | dict(zip(numbers, high, strict=True))
    free = 0
    for number in sorted(held):
        if free < number:
            os.closerange(free, number)
        os.dup2(held[number], number)
        free = number + 1
    os.closerange(free, os.sysconf("SC_OPEN_MAX"))


def _become(wanted: Mapping[str, Any], providers: bytes) -> None:
    """Be what `python` starts."""
    if wanted["session"]:
        os.setsid()
    if wanted["umask"] is not None:
        os.umask(wanted["umask"])
    os.chdir(wanted["cwd"])
    coerced = {"LC_CTYPE": os.environ["LC_CTYPE"]} if "LC_CTYPE" in os.environ else {}
    os.environ.clear()
    os.environ.update(coerced | wanted["environ"])
    if script := wanted.get("script"):
        sys.argv = [script, *wanted["args"]]
        sys.path.insert(0, os.path.dirname(script))
        runpy.run_path(script, run_name="__main__")
        return
    sys.argv = ["-m", *wanted["args"]]
    sys.path[:] = wanted["path"] or [os.getcwd(), *sys.path]
    if providers:
        subprocess.Popen = lending(providers)  # type: ignore[assignment,misc] # as much of it as anybody calls
    runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    """Import, then fork as often as somebody asks."""
    for name in sys.argv[3:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    providers = bytes.fromhex(sys.argv[2])
    try:
        wanted = _brood(socket.socket(fileno=int(sys.argv[1])))
    except KeyboardInterrupt:
        return  # the tests have heard it too
    if wanted is None:
        return
    _become(wanted, providers)


if __name__ == "__main__":
    main()
