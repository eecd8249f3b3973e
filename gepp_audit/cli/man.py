"""`gepp-audit man`: the manual page, made of the same texts as `--help`, so that the two cannot differ.

It is written in the classic macros for manual pages (man(7)).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Final

import click

from gepp_audit import __version__
from gepp_audit.cli.options import json_option
from gepp_audit.cli.render import Result
from gepp_audit.cli.setting_words import WORDS

_WHAT: Final = "audit the queued transactions of a GEPP platform"
_EXIT_STATUS: Final = (
    ("0", "Done; also: nothing to do, or another run of this host is at work."),
    ("1", "Could not work: the message says what, why, and what to do."),
    ("2", "Wrong usage."),
    ("3", "Worked, but a batch ended failed."),
    ("130, 143", "Stopped by a signal, after the answers that were paid for."),
)
_MONITORS: Final = (
    "stuck and doctor have the codes of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (also: wrong "
    "usage, no database)."
)
_FILES: Final = (
    (".env", "The env file where none is named, in the working directory."),
    (
        "$XDG_STATE_HOME/gepp-audit, else ~/.local/state/gepp-audit",
        "Which failures cron has mailed, as empty files: one that lasts is a mail an hour, not a mail a minute.",
    ),
)
_EXAMPLES: Final = (
    ("Do what is due, once:", "gepp-audit process-queue"),
    ("Show what a run would cost, and buy nothing:", "gepp-audit process-queue --dry-run"),
    ("Why does batch 42 not move?", "gepp-audit stuck 42"),
    ("Let cron start the queue every minute:", "gepp-audit --env-file /etc/gepp-audit.env crontab --install"),
)


@click.command("man")
@json_option
@click.pass_context
def man(context: click.Context) -> Result:
    """Print the manual page.

    \b
    Read it:    gepp-audit man | man -l -
    Install it: gepp-audit man > /usr/local/share/man/man1/gepp-audit.1
    """
    text = page(context.find_root())
    return Result(data={"page": text}, text=[text.rstrip("\n")])


def page(root: click.Context) -> str:
    """The manual page of the program whose root context this is."""
    return "\n".join(_page(root)) + "\n"


def _page(root: click.Context) -> Iterator[str]:
    group = root.command
    assert isinstance(group, click.Group)
    yield f'.TH GEPP\\-AUDIT 1 "" "gepp\\-audit {_text(__version__)}" "User Commands"'
    yield from (".SH NAME", f"gepp\\-audit \\- {_text(_WHAT)}")
    yield from (".SH SYNOPSIS", ".B gepp\\-audit", _text("[OPTIONS] COMMAND [ARGS]..."))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(group.help or "")
    yield ".SH OPTIONS"
    yield from _options(group, root)
    yield ".SH COMMANDS"
    for name in group.list_commands(root):
        yield from _command(group, name, root)
    yield ".SH EXIT STATUS"
    yield from _list(_EXIT_STATUS)
    yield from (".PP", *_filled(_MONITORS))
    yield from (".SH ENVIRONMENT", "Each of these can stand in the env file too; a flag is stronger.")
    yield from _list(tuple(WORDS.items()))
    yield ".SH FILES"
    yield from _list(_FILES)
    yield ".SH EXAMPLES"
    for what, command in _EXAMPLES:
        yield from (".TP", _text(what), f".B {_text(command)}")
    yield from (".SH SEE ALSO", ".BR crontab (5),", ".BR logrotate (8)")


def _command(group: click.Group, name: str, above: click.Context) -> Iterator[str]:
    command = group.get_command(above, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=above)
    yield f".SS {_text(context.command_path)}"
    yield from (".B " + _text(context.command_path), _text(" ".join(command.collect_usage_pieces(context))), ".PP")
    yield from _paragraphs(command.help or "")
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            yield from _command(command, below, context)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [one.get_help_record(context) for one in command.get_params(context)]
    yield from _list(tuple(record for record in records if record is not None))


def _list(entries: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, meaning in entries:
        yield from (".TP", f".B {_text(term)}", *_filled(meaning))


def _paragraphs(text: str) -> Iterator[str]:
    r"""The paragraphs of a help text; one after click's `\b` keeps its lines."""
    for number, paragraph in enumerate(part for part in re.split(r"\n[ \t]*\n", text.strip("\n"))):
        lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
        if number:
            yield ".PP"
        if lines and lines[0] == "\b":
            for line in lines[1:]:
                yield from (_text(line), ".br")
        elif lines:
            yield from _filled(" ".join(lines))


def _filled(text: str) -> Iterator[str]:
    """A paragraph as lines of a size that a person can read in an editor."""
    return (_text(line) for line in textwrap.wrap(text, 76, break_long_words=False, break_on_hyphens=False))


def _text(text: str) -> str:
    """Text of ours as the macros take it: on one line, backslashes, hyphens and whatever is not ASCII spelled."""
    one_line = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    spelled = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found.group()):04X}]", one_line)
    return f"\\&{spelled}" if spelled.startswith((".", "'")) else spelled
