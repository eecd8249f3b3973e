"""Starts Python programs as forks of this process, which has imported the libraries: a start costs a fifth of the time.

    python -P nest.py FD

Each message on the socket FD names a module to run as `python -m` would, with its arguments, environment and folder;
with it come a socket, on which the process id and later the exit code are told, and the descriptors for stdout and
stderr. Nothing of gepp_audit and nothing of the tests is imported here: each program loads its own code itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

#: what commands import of the libraries, apart from the SDK: that is loaded by a process of its own
_LIBRARIES: Final = (
    "alembic.command",
    "alembic.operations",
    "alembic.runtime.migration",
    "click.shell_completion",
    "dotenv",
    "fastapi.responses",
    "jinja2",
    "jwt",
    "psutil",
    "psycopg2.extras",
    "rich.progress",
    "rich.table",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "sqlite3",
    "structlog",
    "uvicorn.main",
)


def brood(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request until nobody can make one; returns in each child what it is to become, else None."""
    sockets: dict[int, tuple[int, socket.socket]] = {}
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    while True:
        for ready, _ in waiting.poll():
            if ready != requests.fileno():
                pid, reply = sockets.pop(ready)
                waiting.unregister(ready)
                os.close(ready)
                with reply:
                    _tell(reply, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 3)
            if not message:
                return None
            pid = os.fork()
            if pid == 0:
                for _, reply in sockets.values():
                    reply.detach()
                _settle(descriptors[1:])
                wanted: dict[str, Any] = json.loads(message)
                return wanted
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            reply = socket.socket(fileno=descriptors[0])
            _tell(reply, pid)
            ended = os.pidfd_open(pid)
            sockets[ended] = (pid, reply)
            waiting.register(ended, select.POLLIN)


def _tell(reply: socket.socket, number: int) -> None:
    try:
        reply.send(b"%d" % number)
    except OSError:
        return  # nobody waits for it any more


def _settle(outputs: Sequence[int]) -> None:
    """The three standard streams, and no other descriptor."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, descriptor in enumerate(outputs, 1):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def become(wanted: dict[str, Any]) -> None:
    """Be what `python -m` starts."""
    os.umask(wanted["umask"])
    os.chdir(wanted["cwd"])
    coerced = {"LC_CTYPE": os.environ["LC_CTYPE"]} if "LC_CTYPE" in os.environ else {}
    os.environ.clear()
    os.environ.update(coerced | wanted["environ"])
    sys.argv = ["-m", *wanted["args"]]
    sys.path.insert(0, os.getcwd())
    runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)


def main() -> None:
    """Import, then fork until the socket is closed."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    requests = socket.socket(fileno=int(sys.argv[1]))
    try:
        wanted = brood(requests)
    except KeyboardInterrupt:
        return  # the tests have heard it too
    if wanted is not None:
        requests.detach()
        become(wanted)


if __name__ == "__main__":
    main()
