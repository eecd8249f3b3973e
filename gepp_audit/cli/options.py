"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gepp_audit.cli.app import App

F = TypeVar("F", bound=Callable[..., Any])

_DURATION: Final = re.compile(r"([0-9]{1,9})\s*([smhd]?)", re.ASCII)
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_LARGEST_ID: Final = 2**63 - 1


if TYPE_CHECKING:
    _IntType = click.ParamType[int]
else:  # older versions of click have no generic one
    _IntType = click.ParamType


class Duration(_IntType):
    """`90`, `90s`, `30m`, `1h`, `2d` → seconds, as int."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of seconds."""
        match = _DURATION.fullmatch(str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is no duration such as 90s, 30m, 1h or 2d.", param, ctx)
        return int(match.group(1)) * _UNITS[match.group(2)]


DURATION: Final = Duration()
#: an id of the platform
ID: Final = click.IntRange(1, _LARGEST_ID)
#: a number of things, at least one
COUNT: Final = click.IntRange(1)
#: a number of seconds
SECONDS: Final = click.FloatRange(0, 86_400, min_open=True)


def json_option(command: F) -> F:
    """`--json`: the result, or the error, as one JSON value on stdout. The command itself does not see it."""

    def remember(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
        app = context.find_object(App)
        if app is not None:
            app.as_json = value
        return value

    option = click.option(
        "--json", "as_json", is_flag=True, is_eager=True, expose_value=False, callback=remember, help="Print JSON."
    )
    return option(command)


def organizations_option(command: F) -> F:
    """`--organization ID`, as often as wanted: `organizations`, a tuple of ids."""
    return click.option(
        "--organization", "organizations", type=ID, metavar="ID", multiple=True, help="Only this one; may be repeated."
    )(command)
