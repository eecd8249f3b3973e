"""The checks of the log file: it can be written, and something rotates it without losing lines."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from gepp_audit.queue.doctor import logrotate
from gepp_audit.queue.doctor.check import Finding, critical, ok, warning
from gepp_audit.queue.doctor.machine import Account, Machine
from gepp_audit.queue.doctor.scheduling import found_lines, log_files_of

if TYPE_CHECKING:
    from gepp_audit.queue.doctor.surroundings import Surroundings

#: less than this is filled by a busy day's log
_LEAST_FREE: Final = 100 * 1024 * 1024
_RULE: Final = "Copy scripts/logrotate.conf to /etc/logrotate.d/gepp-audit and name the file in it"


def log_file(around: Surroundings) -> Finding:
    """The log file can be written by whoever runs the queue, and there is room for it."""
    machine = around.machine
    files = _log_files(around)
    if not files:
        return ok("No log file is set: only warnings and errors are told, on stderr.")
    wrong = [why for name, owner in files for why in [machine.why_not(owner, name, "w")] if why is not None]
    if wrong:
        return critical(
            f"The log file cannot be written: {'; '.join(dict.fromkeys(wrong))}.",
            "Create its folder for that user (install -d -o USER FOLDER), or name another file (--log-file, "
            "GEPP_AUDIT_LOG_FILE).",
        )
    named = ", ".join(dict.fromkeys(name for name, _ in files))
    free = min(shutil.disk_usage(machine.path(name).parent).free for name, _ in files)
    if free < _LEAST_FREE:
        return warning(
            f"{named} can be written, but only {free // 1024**2} MB are free there.", "Free some space on that disk."
        )
    return ok(f"{named} can be written; {free / 1024**3:.1f} GB are free there.")


def log_rotation(around: Surroundings) -> Finding:
    """A rule of logrotate names the log file, and loses no line of it."""
    machine = around.machine
    names = list(dict.fromkeys(name for name, _ in _log_files(around)))
    if not names:
        return ok("No log file is set, so none has to be rotated.")
    rules = logrotate.rules(machine.root)
    rotated = {name: [rule for rule in rules if rule.names(PurePosixPath(name))] for name in names}
    unrotated = [name for name, found in rotated.items() if not found]
    if unrotated:
        return warning(
            f"No rule of logrotate names {', '.join(unrotated)}: it grows until the disk is full.", f"{_RULE}."
        )
    for name, found in rotated.items():
        rule = found[-1]
        place = machine.name_of(rule.file)
        if rule.has("copytruncate"):
            return warning(
                f"{place} rotates {name} with copytruncate: what is written between the copy and the cut is lost.",
                "Use create instead, as scripts/logrotate.conf does: the program goes on in the new file by itself.",
            )
        if rule.has("compress") and not rule.has("delaycompress"):
            return warning(
                f"{place} compresses {name} at once: what a run still writes into the moved file is lost.",
                "Add delaycompress, as scripts/logrotate.conf does.",
            )
    places = ", ".join(dict.fromkeys(machine.name_of(found[-1].file) for found in rotated.values()))
    if shutil.which("logrotate", path=_search_path(machine)) is None:
        return warning(
            f"{places} names {', '.join(names)}, but logrotate is not installed.",
            "Install it (Debian: apt install logrotate).",
        )
    return ok(f"{places} rotates {', '.join(names)}.")


def _search_path(machine: Machine) -> str:
    return ":".join(str(machine.path(folder)) for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"))


def _log_files(around: Surroundings) -> list[tuple[str, Account]]:
    """Every log file that this doctor's settings or a crontab line name, with who writes it."""
    machine = around.machine
    found: list[tuple[str, Account]] = []
    settings = around.settings_or_none
    me = machine.account(machine.user) or Account(name=machine.user, uid=machine.uid, groups=frozenset())
    lines = found_lines(machine)
    if settings is not None and settings.log_file is not None:
        found.append((str(Path(settings.log_file).absolute()), me))
    for line in lines:
        account = machine.account(line.user)
        if account is not None:
            found += [(name, account) for name in log_files_of(line.start) if name.startswith("/")]
    if lines:  # what a line names is written by its user: not by whoever runs this doctor
        theirs = {name for name, owner in found if owner.uid != me.uid}
        found = [(name, owner) for name, owner in found if owner.uid != me.uid or name not in theirs]
    return list(dict.fromkeys(found))
