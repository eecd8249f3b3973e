"""The program at a terminal: a person who sees a screen of a given width, and may type an answer."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.outputs import new_output_file
from tests.support.processes import PROGRAM, ROOT

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, kw_only=True)
class Screen:
    """How a command ended, and what stood on the screen, without colours."""

    exit_code: int
    lines: list[str]
    coloured: bool

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines)


def at_terminal(
    *args: str, environ: Mapping[str, str], home: Path, columns: int = 80, answer: str | None = None
) -> Screen:
    """Run the program to its end at a terminal; `answer` is typed in advance."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    surroundings = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    surroundings |= {"LANG": "C.UTF-8", "GEPP_AUDIT_LOG_FILE": str(new_output_file("gepp-audit", ".log")), **environ}
    process = subprocess.Popen(
        [*PROGRAM, *args], env=surroundings, cwd=home, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    try:
        if answer is not None:
            os.write(leader, f"{answer}\n".encode())
        shown = _read_to_the_end(leader)
        exit_code = process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(leader)
    new_output_file("terminal", ".out").write_text(shown, encoding="utf-8")
    lines = [line.rstrip() for line in _ESCAPES.sub("", shown).splitlines()]
    return Screen(exit_code=exit_code, lines=lines, coloured="\x1b[3" in shown)


def _read_to_the_end(leader: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:  # nobody holds the other end any more
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace").replace("\r\n", "\n")
