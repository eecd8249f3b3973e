"""The command line: `gepp-audit [global options] COMMAND`.

A command parses, calls, and returns a `render.Result`; it prints nothing itself. Its module is imported only when it is
invoked, since a tick of cron pays for every import. Each command stands once in `COMMANDS`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import click

from gepp_audit import __version__
from gepp_audit.cli.app import App
from gepp_audit.cli.ending import run_to_exit_code

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Entry(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    module: str
    attribute: str
    help: str
    #: a monitoring plugin: it says "unknown" (3) where another command would exit with 1 or 2
    monitoring: bool = False


COMMANDS: Final = {
    "init-db": Entry(
        module="gepp_audit.cli.init_db", attribute="init_db", help="Create or upgrade the tables of gepp-audit."
    ),
    "enqueue": Entry(
        module="gepp_audit.cli.enqueue", attribute="enqueue", help="Put an organization's transactions into the queue."
    ),
    "process-queue": Entry(
        module="gepp_audit.cli.process_queue",
        attribute="process_queue",
        help="Audit what is queued; safe to start every minute.",
    ),
    "stuck": Entry(
        module="gepp_audit.cli.stuck",
        attribute="stuck",
        help="Say which batches do not move, why, and what to do.",
        monitoring=True,
    ),
    "show": Entry(module="gepp_audit.cli.show", attribute="show", help="List batches, or one with its verdicts."),
    "usage": Entry(module="gepp_audit.cli.usage", attribute="usage", help="Say what audits used and cost."),
    "retry": Entry(
        module="gepp_audit.cli.retry", attribute="retry", help="Ask failed or undecided transactions again."
    ),
    "cancel": Entry(module="gepp_audit.cli.cancel", attribute="cancel", help="End an open batch as the platform does."),
    "pause": Entry(module="gepp_audit.cli.pause", attribute="pause", help="Let no further call leave."),
    "resume": Entry(module="gepp_audit.cli.pause", attribute="resume", help="Let calls leave again."),
    "limits": Entry(
        module="gepp_audit.cli.limits", attribute="limits", help="Limit calls, tokens and money: show, set, clear."
    ),
    "doctor": Entry(
        module="gepp_audit.cli.doctor",
        attribute="doctor",
        help="Check settings, database, provider and machine; changes nothing.",
        monitoring=True,
    ),
    "crontab": Entry(
        module="gepp_audit.cli.crontab", attribute="crontab", help="Print or install the crontab lines of this machine."
    ),
    "import": Entry(
        module="gepp_audit.cli.import_",
        attribute="import_",
        help="Read organizations, rules and transactions into an embedded database.",
    ),
    "serve": Entry(
        module="gepp_audit.cli.serve",
        attribute="serve",
        help="Serve the platform's HTTP routes and the Audit History page.",
    ),
    "completion": Entry(
        module="gepp_audit.cli.completion",
        attribute="completion",
        help="Print the script for completion in bash, zsh or fish.",
    ),
    "man": Entry(module="gepp_audit.cli.man", attribute="man", help="Print the manual page."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when that command is asked for, and ends with our exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which an operator meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; from here on it is known whether the command is a monitoring plugin."""
        name, command, rest = super().resolve_command(ctx, args)
        app = ctx.find_object(App)
        if app is not None and name is not None:
            app.monitoring = COMMANDS[name].monitoring
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone: nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of commands, from the table alone, and options of the program itself."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=entry.help) for name, entry in COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line `args` (default: this process's) and leave with its exit code (SystemExit)."""
        extra.pop("standalone_mode", None)
        given = list(args) if args is not None else None
        app = App.of_command_line(given, monitoring=frozenset(n for n, entry in COMMANDS.items() if entry.monitoring))

        def invoke() -> Any:
            return click.Group.main(self, given, prog_name or "gepp-audit", standalone_mode=False, obj=app, **extra)

        raise SystemExit(run_to_exit_code(app, invoke))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--env-file",
    type=click.Path(),
    metavar="PATH",
    help="Read settings from PATH instead of .env.  [GEPP_AUDIT_ENV_FILE]",
)
@click.option("--log-file", type=click.Path(), metavar="PATH", help="Write the log to PATH too.  [GEPP_AUDIT_LOG_FILE]")
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    help="Write both logs so; default: stderr readable, the file JSON lines.  [GEPP_AUDIT_LOG_FORMAT]",
)
@click.option("-v", "--verbose", count=True, help="Tell more, with tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Tell only errors.")
@click.version_option(__version__, prog_name="gepp-audit", message="%(prog)s %(version)s")
@click.pass_obj
def main(
    app: App, env_file: str | None, log_file: str | None, log_format: str | None, verbose: int, quiet: bool
) -> None:
    """Audit the queued transactions of a GEPP platform, one call of a language model each.

    \b
    Exit codes: 0 done (also: nothing to do) · 1 could not work · 2 wrong usage
    3 worked, but a batch ended failed · 130, 143 stopped by a signal
    stuck, doctor: 0 OK · 1 WARNING · 2 CRITICAL · 3 UNKNOWN
    """
    if verbose and quiet:
        raise click.UsageError("-v and -q exclude each other.")
    app.take_global_options(
        {"env_file": env_file, "log_file": log_file, "log_format": log_format}, verbosity=-1 if quiet else verbose
    )


def run() -> NoReturn:
    """The program `gepp-audit`: run the command line, and leave without taking the interpreter apart.

    Unloading the modules of a run costs a quarter of a second, and an idle tick an eighth of its time; nothing depends
    on it, since every file, connection and thread has been closed by then.
    """
    exit_code = 1
    try:
        main(prog_name="gepp-audit")
    except SystemExit as ending:
        exit_code = ending.code if isinstance(ending.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(exit_code)


__all__ = ["COMMANDS", "LazyGroup", "main", "run"]
