"""This machine as the checks see it: its users, processes and files. Reads only.

Everything below `root` is looked at, so a folder can stand for a machine.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gepp_audit.crontabs import program
from gepp_audit.errors import OperatorError

_SPOOLS: Final = ("var/spool/cron/crontabs", "var/spool/cron", "var/cron/tabs")
#: names that Debian's cron takes in /etc/cron.d, as run-parts(8) does
_CRON_D_NAME: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_READ, _WRITE, _EXECUTE = 4, 2, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A running process."""

    pid: int
    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrontabFile:
    """One crontab."""

    #: for a person: `the crontab of gepp`, `/etc/cron.d/gepp-audit`
    place: str
    text: str
    #: whose it is; None: its lines name a user each
    user: str | None
    #: why cron does not read it
    ignored: str | None = None


def _own_processes() -> tuple[Process, ...] | None:
    import psutil

    found = [
        Process(pid=one.pid, name=one.info["name"] or "", command=tuple(one.info["cmdline"] or ()))
        for one in psutil.process_iter(["name", "cmdline"])
    ]
    # where others' processes are hidden (hidepid, a container of another kind) not even the first one is seen
    return tuple(found) if any(one.pid == 1 for one in found) else None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine below `root`."""

    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    host: str = field(default_factory=socket.gethostname)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    #: whom system files belong to
    system_uid: int = 0
    #: None: look
    running: tuple[Process, ...] | None = None

    @property
    def user(self) -> str:
        """Who runs this."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:  # as in containers
            return str(self.uid)

    @property
    def is_itself(self) -> bool:
        """It is the machine that this process runs on, not a folder."""
        return self.root == Path("/")

    @property
    def in_kubernetes(self) -> bool:
        """A pod: the cluster starts the queue, not a cron of this machine."""
        return "KUBERNETES_SERVICE_HOST" in self.environ

    def path(self, name: str) -> Path:
        """A file of this machine by its absolute name."""
        return self.root / name.lstrip("/")

    def name_of(self, path: Path) -> str:
        """The absolute name of a file of this machine."""
        return "/" + str(path.relative_to(self.root)).removeprefix(".")

    def processes(self) -> tuple[Process, ...] | None:
        """What runs; None: other users' processes cannot be seen."""
        return _own_processes() if self.running is None else self.running

    def account(self, name: str) -> Account | None:
        """The user of that name, or None."""
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            return None
        return Account(name=name, uid=found.pw_uid, groups=frozenset(os.getgrouplist(name, found.pw_gid)))

    # -- crontabs --------------------------------------------------------------------------------------------------

    def crontabs(self) -> list[CrontabFile]:
        """Every crontab that this user may read: the own one, all users' for root, and the system's."""
        own = self._own_crontab()
        others = [one for one in self._spooled() if own is None or one.user != own.user]
        return [*([] if own is None else [own]), *others, *self._system()]

    def _own_crontab(self) -> CrontabFile | None:
        if not self.is_itself:
            return None
        try:
            text = program.read()
        except OperatorError:  # no cron here, or none for this user: the spool is tried
            return None
        return CrontabFile(place=f"the crontab of {self.user}", text=text, user=self.user) if text else None

    def _spooled(self) -> Iterator[CrontabFile]:
        for spool in _SPOOLS:
            for path in _files(self.path(spool)):
                text = _text(path)
                if text is not None:
                    yield CrontabFile(place=f"the crontab of {path.name}", text=text, user=path.name)

    def _system(self) -> Iterator[CrontabFile]:
        paths = [self.path("/etc/crontab"), *_files(self.path("/etc/cron.d"))]
        for path in paths:
            text = _text(path) if path.is_file() else None
            if text is not None:
                ignored = _ignored(path, self.system_uid)
                yield CrontabFile(place=self.name_of(path), text=text, user=None, ignored=ignored)

    # -- systemd ---------------------------------------------------------------------------------------------------

    def timers(self) -> list[str]:
        """The systemd timers that are enabled and start the queue."""
        wanted = self.path("/etc/systemd/system/timers.target.wants")
        found = []
        for path in _files(wanted, links=True):
            service = path.with_suffix(".service").name
            units = [self.path(f"{folder}/{service}") for folder in ("/etc/systemd/system", "/usr/lib/systemd/system")]
            texts = [_text(unit) or "" for unit in units if unit.is_file()]
            if path.suffix == ".timer" and any("process-queue" in text for text in texts):
                found.append(path.name)
        return found

    # -- what a user may do ----------------------------------------------------------------------------------------

    def why_not(self, account: Account, name: str, need: str) -> str | None:
        """Why `account` may not read (`r`), execute (`x`) or append to (`w`) the file of this name; None: it may.

        Judged by owner, group and mode of the file and of the folders above it; access lists are not looked at. A file
        to be written need not exist if its folder lets the user create it.
        """
        path = self.path(name)
        above = [folder for folder in reversed(path.parents) if folder.is_relative_to(self.root)]
        for folder in above:
            try:
                if not _may(account, folder, _EXECUTE):
                    return f"{account.name} may not enter {self.name_of(folder)}"
            except FileNotFoundError:
                return f"there is no folder {self.name_of(folder)}"
        if not path.exists():
            if need != "w":
                return f"there is no file {name}"
            may_create = _may(account, path.parent, _WRITE)
            return None if may_create else f"{account.name} may not create a file in {self.name_of(path.parent)}"
        if path.is_dir():
            return f"{name} is a folder"
        bit, verb = {"r": (_READ, "read"), "w": (_WRITE, "write"), "x": (_EXECUTE, "execute")}[need]
        return None if _may(account, path, bit) else f"{account.name} may not {verb} {name}"


def _files(folder: Path, *, links: bool = False) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() or (links and path.is_symlink()))
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None


def _ignored(path: Path, system_uid: int) -> str | None:
    """Why Debian's cron leaves out a file of /etc/cron.d or /etc/crontab (cron(8)), or None."""
    if path.parent.name == "cron.d" and not _CRON_D_NAME.fullmatch(path.name):
        return f"its name {path.name} holds something beside letters, digits, _ and -"
    status = path.stat()
    if status.st_uid != system_uid:
        return "it does not belong to root"
    if status.st_mode & 0o022:
        return "others than root may write it"
    return None


def _may(account: Account, path: Path, bit: int) -> bool:
    status = path.stat()
    if account.uid == 0:
        return bit != _EXECUTE or path.is_dir() or bool(status.st_mode & 0o111)
    if status.st_uid == account.uid:
        return bool(status.st_mode >> 6 & bit)
    if status.st_gid in account.groups:
        return bool(status.st_mode >> 3 & bit)
    return bool(status.st_mode & bit)
