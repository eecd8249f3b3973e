"""The processes of `nest` that fork the tests' programs: one with the libraries of the commands, one with the SDK."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.support.nest import Forked
from tests.support.outputs import new_output_file

ROOT: Final = Path(__file__).parents[2]
#: set, each program is started by a Python of its own
COLD: Final = "GEPP_TEST_COLD_STARTS"
#: what commands import of the libraries
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
#: what the provider's process does
_SDK: Final = ("openai", "httpx2")
#: what is run so, of all that `python -m` may be told
_MODULES: Final = ("gepp_audit", "tests.support.launcher")
#: what a process reads only once, when it starts or imports a library
_READ_ONCE: Final = ("FORCE_COLOR", "LANG", "LC_", "LD_", "MALLOC", "NO_COLOR", "OPENAI_LOG", "PYTHON", "TZ")
#: one message must hold them
_MOST_LETTERS: Final = 30_000


class Nest:
    """One such process."""

    def __init__(self, libraries: Sequence[str], providers: Nest | None = None) -> None:
        """`providers`: the one of which the programs have the provider's process forked."""
        out = new_output_file("nest", ".out")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked, out.open("wb") as file:
            asked.bind("")  # Linux finds a free name
            asked.listen(128)
            self.address: bytes = asked.getsockname()
            command = [sys.executable, "-P", str(Path(__file__).with_name("nest.py")), str(asked.fileno())]
            # its standard input, and thereby it, ends with this process, however that ends
            self._process = subprocess.Popen(
                [*command, providers.address.hex() if providers else "", *libraries],
                # what the product sets for the provider's process, before pydantic is imported
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYDANTIC_DISABLE_PLUGINS": "__all__"},
                cwd="/", stdin=subprocess.PIPE, stdout=file, stderr=file, pass_fds=[asked.fileno()],
            )  # fmt: skip

    def fork(
        self, args: Sequence[str], *, environ: Mapping[str, str], cwd: Path, umask: int, stdout: int, stderr: int
    ) -> Forked:
        """Run what `args` say, as Python's own command line would: -m MODULE ARG… or SCRIPT ARG…"""
        what = {"module": args[2], "args": args[3:]} if args[1] == "-m" else {"script": args[1], "args": args[2:]}
        wanted = {
            **what, "environ": dict(environ), "cwd": str(cwd), "umask": umask,
            "descriptors": [1, 2], "path": None, "session": False,
        }  # fmt: skip
        return Forked(args, self.address, wanted, [stdout, stderr])

    def close(self) -> None:
        """End it, which ends no program."""
        self._process.communicate()


def can_fork() -> bool:
    """Whether this system can do it, and nobody has forbidden it."""
    return hasattr(os, "pidfd_open") and not os.environ.get(COLD)


def forkable(args: Sequence[str | Path], environ: Mapping[str, str]) -> bool:
    """Whether a fork is as good as a start: it is one of our programs, and nothing shapes its interpreter."""
    return (
        can_fork()
        and len(args) > 2
        and (args[0], args[1]) == (sys.executable, "-m")
        and args[2] in _MODULES
        and environ.get("PYTHONPATH") == str(ROOT)
        and not any(name.startswith(_READ_ONCE) for name in environ if name != "PYTHONPATH")
        and sum(map(len, map(str, (*args, *environ, *environ.values())))) < _MOST_LETTERS
    )


_nests: list[Nest] = []


def nest() -> Nest:
    """The one of this process that forks programs; made when it is first asked for."""
    if not _nests:
        _nests.append(Nest(_SDK))
        _nests.append(Nest(_LIBRARIES, _nests[0]))
    return _nests[1]


def nest_of_providers() -> Nest:
    """The one of this process that has the SDK."""
    nest()
    return _nests[0]


def close_nests() -> None:
    """End them, if there are any."""
    while _nests:
        _nests.pop().close()
