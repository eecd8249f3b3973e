"""Which failures have been told, and when: a folder with one empty file per failure that lasts.

cron mails whatever a job prints, so a failure that lasts would be a mail a minute. Its mark makes it one, then one an
hour, until it is over. The state is files, not rows, since the failures that matter most are those of the database and
of the settings that name it; and it is empty files, since a full disk still takes those: a mark's name is the failure,
its modification time when it was last told, its access time when it began (nothing reads the file, so nothing else
changes that one). Runs at the same time agree through the file system: who creates, locks or removes a mark tells it.

Where no mark can be kept at all, everything is told: a mail too many is better than silence.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

#: seconds until a failure that lasts is told again
AGAIN_AFTER: Final = 3600.0


class Mark(NamedTuple):
    """A failure that was told."""

    name: str
    #: when it began and when it was last told, seconds since the epoch
    since: float
    told: float


class Marks:
    """The marks in one folder, which is made when the first is needed."""

    def __init__(self, folders: tuple[Path, ...], now: Callable[[], float] = time.time) -> None:
        """`folders`: the first one in which a mark can be kept is used."""
        self._folders = folders
        self._now = now

    def due(self, name: str) -> bool:
        """Whether the failure `name` is to be told now; if so, it counts as told."""
        file = re.sub(r"[^a-z0-9_.-]", "-", name.lower())
        for folder in self._folders:
            with contextlib.suppress(OSError):
                _own(folder)
                return self._note(folder / file)
        return True

    def all(self) -> list[Mark]:
        """The marks that stand, the oldest first."""
        found = []
        for folder in self._folders:
            with contextlib.suppress(OSError):
                for entry in os.scandir(folder):
                    told = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(told.st_mode) and told.st_uid == os.geteuid():
                        found.append(Mark(entry.name, min(told.st_atime, told.st_mtime), told.st_mtime))
        return sorted(found, key=lambda mark: mark.since)

    def remove(self, name: str) -> bool:
        """Take a mark away; False: another process was faster, and tells of it."""
        removed = False
        for folder in self._folders:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
                removed = True
        return removed

    def _note(self, path: Path) -> bool:
        now = self._now()
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return self._again(path)
        try:
            os.utime(handle, (now, now))
        finally:
            os.close(handle)
        return True

    def _again(self, path: Path) -> bool:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another run decides it at this moment
                return False
            found = os.fstat(handle)
            now = self._now()  # read behind the mark: one that was made meanwhile is none of the future
            # a mark of the future is one from before the clock was put right
            if 0 <= now - found.st_mtime < AGAIN_AFTER:
                return False
            os.utime(handle, (min(found.st_atime, now), now))
            return True
        finally:
            os.close(handle)


def of_command(words: tuple[str, ...], environ: Mapping[str, str]) -> Marks:
    """The marks of one line of a crontab, told apart by all that makes it another queue (`words`, no secret in them).

    They lie in the user's state folder (XDG Base Directory Specification: `$XDG_STATE_HOME`, else `~/.local/state`); a
    user without a home, or whose home takes nothing, has them in the folder for temporary files.
    """
    line = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    homes = [environ.get("XDG_STATE_HOME", ""), f"{environ['HOME']}/.local/state" if environ.get("HOME") else ""]
    state = [Path(home) / "gepp-audit" / line for home in homes if home.startswith("/")]
    # not by the module tempfile: it writes a file to try the folder, which a full disk refuses
    shared = Path(environ.get("TMPDIR") or "/tmp")  # noqa: S108 # a folder of somebody else's in it is not used
    return Marks((*state[:1], shared / f"gepp-audit-{os.geteuid()}-{line}"))


def _own(folder: Path) -> None:
    """Make sure that `folder` is there and belongs to nobody else, as it may stand in a folder of all users."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to somebody else")
