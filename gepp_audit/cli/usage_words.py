"""A command line that is wrong, in words: what click found, said without its own terms.

Each of click's errors is told by its class and its attributes; of some versions that lack one, by its message.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

import click

_TOO_MANY: Final = re.compile(r"Got unexpected extra arguments? \((.*)\)", re.DOTALL)
_NO_COMMAND: Final = re.compile(r"No such command '(.*)'\.?", re.DOTALL)


def in_words(error: click.ClickException) -> str:
    """What is wrong, as one sentence that goes on behind “Error: ”."""
    if isinstance(error, click.MissingParameter):
        return f"{_name(error) or 'something'} is missing{_choices(error)}."
    if isinstance(error, click.BadParameter):
        name = _name(error)
        return f"{name}: {error.message}" if name else error.message
    if isinstance(error, click.NoSuchOption):
        return f"there is no option {error.option_name}{_meant(error.possibilities)}."
    if isinstance(error, click.BadOptionUsage):
        needs = "takes no value" if "not take a value" in error.message else "needs a value"
        return f"{error.option_name} {needs}."
    unknown = _NO_COMMAND.match(error.message)
    if unknown is not None:
        return f"there is no command {unknown[1]}{_meant(_similar(error, unknown[1]))}."
    too_many = _TOO_MANY.match(error.message)
    if too_many is not None:
        return f"“{too_many[1]}” is more than this command takes."
    return error.format_message()


def _name(error: click.BadParameter) -> str:
    """The option or argument as one types it."""
    parameter = error.param
    if isinstance(error.param_hint, str):
        return error.param_hint.strip("'")
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    if parameter is None:
        return ""
    return (parameter.metavar or parameter.human_readable_name).strip("[].")


def _choices(error: click.MissingParameter) -> str:
    kind = None if error.param is None else error.param.type
    return f": one of {', '.join(map(str, kind.choices))}" if isinstance(kind, click.Choice) else ""


def _similar(error: click.ClickException, typed: str) -> list[str]:
    """The commands that may have been meant."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None or not isinstance(context.command, click.Group):
        return []
    return difflib.get_close_matches(typed, context.command.list_commands(context), n=2)


def _meant(possibilities: list[str] | None) -> str:
    return f" (did you mean {' or '.join(sorted(possibilities))}?)" if possibilities else ""
