"""`gepp-audit crontab`: the crontab lines of this machine, printed, put into this user's crontab, or taken out of it.

Only what stands between our two markers is ever changed. Needs neither database nor provider.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.options import json_option
from gepp_audit.cli.render import Result, error_text
from gepp_audit.errors import OperatorError
from gepp_audit.settings import Settings, Source

if TYPE_CHECKING:
    from gepp_audit.crontabs.block import Command

_EVERY: Final = {"60s": 60, "30s": 30}
#: as the README, crontab.example and scripts/logrotate.conf have it
USUAL_LOG_FILE: Final = "/var/log/gepp-audit/audit.log"


@click.command("crontab")
@click.option("--install", "put", is_flag=True, help="Put the block into this user's crontab, or renew it there.")
@click.option("--remove", "take", is_flag=True, help="Take the block out of this user's crontab.")
@click.option(
    "--every", type=click.Choice(list(_EVERY)), default="60s", show_default=True, help="How often the queue is started."
)
@json_option
@click.pass_obj
def crontab(app: App, put: bool, take: bool, every: str) -> Result:
    """Print the crontab lines that start the queue on this machine, with the env file and log file in force.

    --install and --remove change the block between the markers of gepp-audit in the crontab of the user who runs this,
    and nothing else in it.

    \b
    Exit codes: 0 done (also: nothing to change) · 1 cron refused, or no env file · 2 wrong usage
    """
    if put and take:
        raise click.UsageError("--install and --remove exclude each other.")
    if take:
        return _remove()
    from gepp_audit.crontabs.block import write

    settings = app.load(to_file=False)
    command = _command(settings)
    block = write(command, _EVERY[every])
    notes = _notes(settings, command)
    if put:
        return _install(block, command, notes)
    if not app.as_json:  # stdout is for "crontab -"
        for note in notes:
            error_text(f"Note: {note}")
    return Result(data={"block": block, "notes": notes}, text=[block.rstrip("\n")])


def _command(settings: Settings) -> Command:
    from gepp_audit.crontabs.block import Command

    if settings.env_file is None:
        raise OperatorError(
            f"there is no env file, and cron gives a job no environment to take settings from. Looked at "
            f"{' and '.join(settings.searched)}.",
            fix="Write the settings into a file (see .env.example) and name it: gepp-audit --env-file PATH crontab.",
            code="no_env_file",
        )
    return Command(
        program=_program(),
        env_file=str(settings.env_file),
        log_file=None if settings.log_file is None else str(settings.log_file),
        user=_user(),
        host=settings.host or socket.gethostname(),
    )


def _program() -> tuple[str, ...]:
    """This installation, by absolute paths. A virtual environment's interpreter is a link that must not be resolved."""
    script = Path(sys.executable).with_name("gepp-audit")
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-m", "gepp_audit")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in /etc/passwd, as in containers
        return str(os.geteuid())


def _notes(settings: Settings, command: Command) -> list[str]:
    """What the block cannot mend by itself."""
    notes = []
    if command.log_file is None:
        notes.append(
            "No log file is set, so nothing will tell afterwards what cron's runs did. Name one with --log-file PATH "
            f"before crontab, or set GEPP_AUDIT_LOG_FILE={USUAL_LOG_FILE} in {command.env_file}."
        )
    only_here = [
        variable
        for name, variable in settings.variables().items()
        if settings.origin(name).source is Source.ENVIRONMENT and name != "log_file"
    ]
    if only_here:
        notes.append(
            f"cron does not see {', '.join(only_here)}, which this shell has set. What cron's runs need of it must "
            f"stand in {command.env_file}."
        )
    if os.geteuid() == 0:
        notes.append(
            "This is root's crontab, and the queue needs no root. Better give it to a user of its own: sudo -u "
            f"gepp-audit {' '.join(command.program)} --env-file {command.env_file} crontab --install"
        )
    return notes


def _install(block: str, command: Command, notes: list[str]) -> Result:
    from gepp_audit.crontabs import block as blocks
    from gepp_audit.crontabs import program

    before = program.read(exactly=True)
    after = blocks.install(before, block)
    if after != before:
        program.write(after)
    told = [
        f"The crontab of {command.user} starts the queue "
        + ("as it did before: nothing was changed." if after == before else f"from now on:\n{block.rstrip()}")
    ]
    return _done(after, changed=after != before, told=told, notes=notes)


def _remove() -> Result:
    from gepp_audit.crontabs import block as blocks
    from gepp_audit.crontabs import program

    before = program.read(exactly=True)
    after = blocks.remove(before)
    if after != before:
        program.write(after)
        return _done(
            after, changed=True, told=[f"The crontab of {_user()} does not hold the block any more."], notes=[]
        )
    return _done(after, changed=False, told=[f"The crontab of {_user()} holds no such block."], notes=[])


def _done(text: str, *, changed: bool, told: list[str], notes: list[str]) -> Result:
    """What became of the crontab. Lines of ours outside of the block are named: they are left to whoever wrote them."""
    from gepp_audit.crontabs import block as blocks

    others = [start.job for start in blocks.others(text)]
    told += [
        f"Line {job.number} ({job.schedule} …) starts the queue too, outside of the block.\n"
        '  → Remove it with "crontab -e" unless it is meant so.'
        for job in others  # not what it says: a secret may stand in it
    ]
    data = {
        "changed": changed,
        "block": blocks.find(text),
        "other_lines": [{"line": job.number, "schedule": job.schedule} for job in others],
        "notes": notes,
    }
    return Result(data=data, text=[*told, *notes])
