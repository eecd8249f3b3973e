"""Whether cron started this process: then whatever it prints is mailed.

cron says so in no variable, so the processes above this one are looked at: cron starts a shell, the shell starts us.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: the daemons of Debian, macOS, the BSDs (cron), of cronie, busybox and dcron (crond), and the others that send mail
_DAEMONS: Final = frozenset({"cron", "crond", "fcron", "anacron", "bcron-exec"})
#: so many processes lie between cron and its job at most
_FARTHEST: Final = 12


def is_under_cron() -> bool:
    """Whether one of the processes above this one is cron; False where that cannot be seen."""
    return any(name.lower() in _DAEMONS for name in _names())


def _names() -> Iterator[str]:
    """The names of the processes above this one, the nearest first."""
    pid = os.getppid()
    if not Path("/proc/self/stat").exists():
        yield from _names_by_psutil()
        return
    for _ in range(_FARTHEST):
        try:
            told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        # "PID (NAME) STATE PPID …", and the name may hold brackets: proc(5)
        before, _, after = told.rpartition(")")
        yield before.partition("(")[2]
        pid = int(after.split()[1])
        if pid < 1:
            return


def _names_by_psutil() -> Iterator[str]:
    import psutil

    try:
        for process in psutil.Process().parents()[:_FARTHEST]:
            yield process.name()
    except psutil.Error:
        return
