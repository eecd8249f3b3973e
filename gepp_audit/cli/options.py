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
_LARGEST_COUNT: Final = 2**31 - 1
_LONGEST_RUN: Final = 86_400
_DIGITS: Final = re.compile(r"\+?[0-9]{1,30}", re.ASCII)


if TYPE_CHECKING:
    _IntType = click.ParamType[int]
    _FloatType = click.ParamType[float]
else:  # older versions of click have no generic one
    _IntType = _FloatType = click.ParamType


class WholeNumber(_IntType):
    """A whole number from `least` to `most`; `what` says what it is a number of, for whoever types another."""

    name = "integer"

    def __init__(self, what: str, most: int, least: int = 1) -> None:
        self.what, self.least, self.most = what, least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        text = str(value).strip()
        number = int(text) if _DIGITS.fullmatch(text) else None
        if number is None or not self.least <= number <= self.most:
            self.fail(f"{text[:40]!r} is no {self.what} (a whole number from {self.least} to {self.most}).", param, ctx)
        return number


class Seconds(_FloatType):
    """A time above 0, at most a day: `55`, `0.5`."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of seconds."""
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= _LONGEST_RUN:  # nan neither
            shown = str(value).strip()[:40]
            self.fail(f"{shown!r} is no number of seconds above 0 and up to {_LONGEST_RUN}.", param, ctx)
        return number


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
ID: Final = WholeNumber("id", _LARGEST_ID)
#: a number of things, at least one
COUNT: Final = WholeNumber("number", _LARGEST_COUNT)
#: a number of tokens, of which a day takes many
TOKENS: Final = WholeNumber("number of tokens", _LARGEST_ID)
#: a number of seconds
SECONDS: Final = Seconds()


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
