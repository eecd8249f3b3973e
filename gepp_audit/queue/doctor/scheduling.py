"""The checks of what starts the queue on this machine: the user, cron, its lines."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gepp_audit.crontabs import lines
from gepp_audit.crontabs.lines import Start
from gepp_audit.queue.doctor.check import Finding, critical, ok, unknown, warning
from gepp_audit.queue.doctor.machine import Account, CrontabFile, Machine
from gepp_audit.queue.wording import capital

if TYPE_CHECKING:
    from gepp_audit.queue.doctor.surroundings import Surroundings

_DAEMONS: Final = frozenset({"cron", "crond", "fcron", "dcron"})
_SHEBANG: Final = re.compile(r"#!\s*(\S+)(?:\s+(\S+))?")
_INSTALL: Final = 'Run "gepp-audit crontab --install" as the user that the queue shall run as.'


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of this machine that starts the queue."""

    start: Start
    crontab: CrontabFile

    @property
    def place(self) -> str:
        """For a person."""
        return f"line {self.start.job.number} of {self.crontab.place}"

    @property
    def user(self) -> str:
        """Who runs it."""
        return self.crontab.user or self.start.job.user or "root"


def found_lines(machine: Machine) -> list[Line]:
    """Every crontab line of this machine that starts the queue, as far as they may be read."""
    return [
        Line(start=start, crontab=crontab)
        for crontab in machine.crontabs()
        for start in lines.starts(lines.jobs(crontab.text, system=crontab.user is None))
    ]


def user(around: Surroundings) -> Finding:
    """The queue does not run as root: neither this doctor, nor a line of a crontab."""
    machine = around.machine
    by_root = [line.place for line in found_lines(machine) if line.user == "root"]
    if by_root:
        return warning(
            f"{capital(by_root[0])} runs the queue as root, which it does not need.",
            "Run it as a user of its own: useradd --system --create-home gepp-audit, and install the line there.",
        )
    if machine.uid == 0 and not machine.in_kubernetes:
        return warning(
            "This doctor runs as root, which may read and write everything: what the queue's own user may not do is "
            "not seen.",
            f'Run it as the user that the queue runs as: "sudo -u gepp-audit gepp-audit{_named(around)} doctor".',
        )
    if machine.uid == 0:
        return warning("The container runs as root.", "Set runAsNonRoot: true and runAsUser in its securityContext.")
    return ok(f"This runs as {machine.user}.")


def _named(around: Surroundings) -> str:
    """The env file that this doctor read, as a flag: sudo hands on no environment that could name it."""
    settings = around.settings_or_none
    return "" if settings is None or settings.env_file is None else f" --env-file {shlex.quote(str(settings.env_file))}"


def cron_daemon(around: Surroundings) -> Finding:
    """cron runs, unless a systemd timer or a cluster starts the queue."""
    other = _other_starter(around.machine)
    if other is not None:
        return ok(f"{other}; cron is not needed.")
    found = around.machine.processes()
    if found is None:
        return unknown(
            "Other users' processes cannot be seen from here, so nobody can tell whether cron runs.",
            "Look with systemctl status cron (or crond).",
        )
    daemon = next((one for one in found if one.name in _DAEMONS), None)
    if daemon is None:
        return critical(
            "No cron runs on this machine, so no line of a crontab is started.",
            "Start it: systemctl enable --now cron (crond on Red Hat, Alpine and Arch).",
        )
    return ok(f"{daemon.name} runs (process {daemon.pid}).")


def crontab(around: Surroundings) -> Finding:
    """A line that cron takes starts the queue, and its program, env file and log file are real."""
    machine = around.machine
    found = found_lines(machine)
    other = _other_starter(machine)
    if not found:
        if other is not None:
            return ok(f"{other}.")
        everybody = "" if machine.uid == 0 else " that may be read from here (those of other users may not)"
        return warning(
            f"No crontab of this machine{everybody} starts the queue, and no systemd timer does.",
            f"{_INSTALL} If this host is not meant to run it, look at the check runs instead.",
        )
    wrong = [f"{line.place}: {trouble}" for line in found for trouble in _troubles(line, machine)]
    if wrong:
        return critical(f"{capital('; '.join(wrong))}.", f"Mend the line. {_INSTALL}")
    if other is not None:
        return warning(
            f"{capital(found[0].place)} starts the queue, and so does something else: {other}.",
            "Keep one of the two.",
        )
    differing = _differing_env_file(found, around)
    if differing is not None:
        return differing
    places = ", ".join(line.place for line in found)
    return ok(f"{capital(places)} {'starts' if len(found) == 1 else 'start'} the queue; all paths are real.")


def _other_starter(machine: Machine) -> str | None:
    timers = machine.timers()
    if timers:
        return f"The systemd timer {timers[0]} starts the queue"
    return "The cluster starts the queue" if machine.in_kubernetes else None


def _differing_env_file(found: list[Line], around: Surroundings) -> Finding | None:
    settings = around.settings_or_none
    ours = None if settings is None else settings.env_file
    for line in found:
        theirs = _env_file(line.start)
        if ours is not None and theirs is not None and Path(theirs).resolve() != ours.resolve():
            return warning(
                f"{capital(line.place)} takes its settings from {theirs}, this doctor looked at {ours}.",
                f'Run "gepp-audit --env-file {shlex.quote(theirs)} doctor" to look at what cron\'s runs use.',
            )
    return None


def _env_file(start: Start) -> str | None:
    return start.before_command("--env-file") or start.environ.get("GEPP_AUDIT_ENV_FILE")


# -- what is wrong with a line -----------------------------------------------------------------------------------------


def _troubles(line: Line, machine: Machine) -> Iterator[str]:
    """What keeps cron, or the shell that it starts, from running the line as it is meant."""
    text, job = line.crontab.text, line.start.job
    if line.crontab.ignored is not None:
        yield f"cron does not read the file, since {line.crontab.ignored}"
    if job.number == text.count("\n") + 1 and not text.endswith("\n"):
        yield "it has no newline at its end, so cron leaves it out"
    if job.is_cut:
        yield "a % in it ends the command for cron (write \\%)"
    account = machine.account(line.user)
    if account is None:
        yield f"there is no user {line.user}"
        return
    yield from _program_troubles(line.start, account, machine)
    env_file = _env_file(line.start)
    if env_file is None:
        if "DATABASE_URL" not in line.start.environ:
            yield "it names no env file, and cron gives it no settings (add --env-file PATH before process-queue)"
    else:
        yield from _file_troubles(env_file, account, machine, "r", "env file")
    for log in log_files_of(line.start):
        yield from _file_troubles(log, account, machine, "w", "log file")


def log_files_of(start: Start) -> list[str]:
    """The files that a line writes its log or its output to."""
    named = (start.before_command("--log-file"), start.environ.get("GEPP_AUDIT_LOG_FILE"))
    return [name for name in (*named, *start.redirected_to) if name and name != "/dev/null"]


def _file_troubles(name: str, account: Account, machine: Machine, need: str, what: str) -> Iterator[str]:
    if not name.startswith("/"):
        yield f"its {what} {name} is not an absolute path, and cron starts in the user's home"
        return
    why = machine.why_not(account, name, need)
    if why is not None:
        yield f"its {what} is of no use: {why}"


def _program_troubles(start: Start, account: Account, machine: Machine) -> Iterator[str]:
    name = start.program[0]
    if "/" not in name:
        folders = [str(machine.path(folder)) for folder in start.search_path.split(":")]
        found = shutil.which(name, path=":".join(folders))
        if found is None:
            yield f"{name} is not in the PATH that cron gives ({start.search_path}); write its absolute path"
            return
        name = machine.name_of(Path(found))
    elif not name.startswith("/"):
        return  # behind a cd: what it is relative to cannot be told
    why = machine.why_not(account, name, "x")
    if why is not None:
        yield f"its program cannot be started: {why}"
        return
    interpreter = _interpreter(machine.path(name))
    why = None if interpreter is None else machine.why_not(account, interpreter, "x")
    if why is not None:
        yield f"the interpreter of {name} cannot be started: {why}"


def _interpreter(path: Path) -> str | None:
    """What runs a script, by its first line; None: it is no script, or found by env(1)."""
    try:
        with path.open("rb") as file:
            first = file.readline(1_000).decode("utf-8", "replace")
    except OSError:
        return None
    match = _SHEBANG.match(first)
    return None if match is None or match[1].endswith("/env") else match[1]
