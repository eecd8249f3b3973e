"""cron's own program `crontab`, which reads and writes the crontab of the user who runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Final

from gepp_audit.errors import OperatorError

_PLACES: Final = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin"
_SECONDS: Final = 20.0
#: how crontab programs say that there is none: Debian's and cronie's, busybox's
_NONE: Final = ("no crontab for", "no such file or directory")
_LONGEST_QUOTE: Final = 500
_OURS: Final = {"LC_ALL": "C", "EDITOR": "cat", "VISUAL": "cat"}
#: what may stand for a control character
_SPELLED: Final = re.compile(rb"\\\w")
#: no setting of ours is: those hold secrets
_PASSED_ON: Final = ("HOME", "LOGNAME", "USER", "TMPDIR")


def read(*, exactly: bool = False) -> str:
    r"""The crontab of this user; empty where there is none. OperatorError: cron does not let us, in its words.

    Bytes that are not UTF-8 are kept as surrogate escapes, for `write` to turn back.

    `exactly`: for who writes it back. Debian's `crontab -l` spells some control characters (a carriage return as
    `\r`, in two letters); where that may be so, the crontab is what its `-e` hands to an editor, here cat(1).
    """
    done = _run("-l")
    if done.returncode == 0:
        if exactly and _SPELLED.search(done.stdout):
            return _edited(done.stdout.count(b"\n"))
        return done.stdout.decode("utf-8", "surrogateescape")
    said = _said(done)
    if any(sign in said.lower() for sign in _NONE):
        return ""
    raise _unreadable(said)


def _edited(lines: int) -> str:
    done = _run("-e")
    if done.returncode != 0:
        raise _unreadable(_said(done))
    if done.stdout.count(b"\n") != lines:
        raise _unreadable("two different crontabs, one with -l and one with -e")
    return done.stdout.decode("utf-8", "surrogateescape")


def _unreadable(said: str) -> OperatorError:
    return OperatorError(
        f"cron does not show this user's crontab; it says: {said}",
        fix="Mend what it says (who may use cron stands in /etc/cron.allow and /etc/cron.deny), then try again.",
        code="crontab_unreadable",
    )


def write(text: str) -> None:
    """Make `text` the crontab of this user. OperatorError: cron refuses it, in its words; the old one is in force."""
    done = _run("-", stdin=text)
    if done.returncode != 0:
        raise OperatorError(
            f"cron refused the new crontab, and the old one is still in force; it says: {_said(done)}",
            fix='Mend the line that it names with "crontab -e", then run this again.',
            code="crontab_refused",
        )


def _run(argument: str, *, stdin: str | None = None) -> subprocess.CompletedProcess[bytes]:
    path = f"{os.environ.get('PATH', '')}:{_PLACES}"
    program = shutil.which("crontab", path=path)
    if program is None:
        raise OperatorError(
            "there is no program crontab on this machine.",
            fix="Install cron (Debian: apt install cron), or use the systemd timer in scripts/systemd.",
            code="no_crontab_program",
        )
    try:
        return subprocess.run(
            [program, argument],
            input=b"" if stdin is None else stdin.encode("utf-8", "surrogateescape"),
            capture_output=True,
            env={**{name: os.environ[name] for name in _PASSED_ON if name in os.environ}, **_OURS, "PATH": path},
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or f"no end after {_SECONDS:g} s"
        raise OperatorError(
            f"the program {program} could not be run: {why}.",
            fix=f'Look what "{program} -l" says.',
            code="crontab_program",
        ) from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    told = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return told[:_LONGEST_QUOTE] or f"nothing (exit {done.returncode})"
