"""What the commands of one process share: the global options, the settings, the logs, the database."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from gepp_audit import logs
from gepp_audit.cli.mail import COMMAND, Mail
from gepp_audit.settings import Settings, load

if TYPE_CHECKING:
    from gepp_audit.database.engine import Database
    from gepp_audit.database.glance import Glance


#: seconds for which commands that only read try a database that is out of reach: a monitor cuts its plugin off after
#: ten, and a person at a terminal wants to know
READING_PATIENCE: Final = 3.0


class App:
    """One invocation of the program; commands get it with `@click.pass_obj`."""

    def __init__(self, *, as_json: bool = False, verbosity: int = 0, monitoring: bool = False) -> None:
        #: --json was given: the result, and an error too, is JSON on stdout
        self.as_json = as_json
        #: -q is -1, each -v adds one
        self.verbosity = verbosity
        #: the command is a monitoring plugin: where it cannot work it exits with 3
        self.monitoring = monitoring
        #: what of it cron's mail gets
        self.mail = Mail((), applies=False)
        self._flags: dict[str, Any] = {}
        self._settings: Settings | None = None

    @classmethod
    def of_command_line(cls, args: Sequence[str] | None, *, monitoring: frozenset[str]) -> App:
        """What must be known of a command line that may turn out to be wrong.

        `monitoring`: the names of the commands that are monitoring plugins.
        """
        given = list(sys.argv[1:] if args is None else args)
        if "--" in given:
            given = given[: given.index("--")]
        app = cls(as_json="--json" in given, monitoring=any(word in monitoring for word in given))
        app.mail = Mail(given, applies=COMMAND in given)
        return app

    def take_global_options(self, flags: dict[str, Any], *, verbosity: int) -> None:
        """Keep the options that stand before the command; None is one that was not given."""
        self._flags = flags
        self.verbosity = verbosity
        self.mail.verbose = verbosity > 0

    def load(self, *, to_file: bool = True, **flags: Any) -> Settings:
        """The settings with a command's own flags (by field name, None: not given); sets the logs up by them.

        `to_file`: False leaves the log file alone, so that it is neither created nor missed.

        OperatorError: wrong settings, an unreadable env file, a log file that cannot be written.
        """
        settings = load({**self._flags, **flags}, os.environ, Path.cwd())
        logs.configure(
            logs.LogConfig(
                verbosity=self.verbosity,
                format=settings.log_format,
                file=settings.log_file if to_file else None,
                colour=wants_colour(sys.stderr),
                secrets=settings.secrets(),
            )
        )
        if is_terminal(sys.stderr) and settings.unknown:
            logs.warning("unknown_settings", names=list(settings.unknown))
        self._settings = settings
        return settings

    @property
    def env_file(self) -> str | None:
        """What --env-file named."""
        named: str | None = self._flags.get("env_file")
        return named

    @property
    def settings(self) -> Settings:
        """The settings, for commands without such flags."""
        return self._settings if self._settings is not None else self.load()

    def open_database(self, *, patience: float | None = None, seen: Glance | None = None) -> Database:
        """The database of the settings, its schema checked; the caller closes it. `patience`: seconds for which one
        that is out of reach is tried again. `seen`: who glanced at it.

        OperatorError: no address, no database, not reachable, or a schema of another version.
        """
        from gepp_audit.queue.configured import database_of

        return database_of(self.settings, patience=patience, seen=seen)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees what is written to `stream`, now."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def wants_colour(stream: TextIO | None) -> bool:
    """Colour is for terminals that can do more than print, and for those who did not set NO_COLOR
    (https://no-color.org: any non-empty value).
    """
    return is_terminal(stream) and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
