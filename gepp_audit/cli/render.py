"""The only printer: results to stdout, as JSON or for people; errors to stderr.

What a person reads is made of lines of text and tables. At a terminal a table is drawn by rich; into a pipe it is plain
and aligned. Text that came from a database or a provider is data: control characters are spelled, markup is text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TextIO

from gepp_audit.cli.app import is_terminal, wants_colour
from gepp_audit.plain_text import json_escaped, json_value, moment, printable

_GAP: Final = "  "
#: what rich draws between two columns, and beside all of them
_RICH_GAP, _RICH_EDGES = 2, 2
_NUMERIC: Final = (int, float, Decimal, type(None))


@dataclass(frozen=True, slots=True)
class Styled:
    """A cell in a colour, where there is colour: `style` is one of rich."""

    text: str
    style: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Bar:
    """A cell that says how much of `total` is `done`: drawn with its per cent at a terminal, `done/total` in a pipe."""

    done: float
    total: float
    #: in characters, without the per cent
    width: int = 8


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under headings. A cell that is None is shown as a dash, a number is aligned to the right; a tuple is several
    lines at a terminal.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    #: the same for a terminal: the first that fits into its width is drawn instead, or the last
    drawn: Sequence[Table] = ()


@dataclass(frozen=True, kw_only=True)
class Sparkline:
    """A row of values as a line of little bars, for a terminal alone: a pipe has the table."""

    label: str
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command returns."""

    #: the value that `--json` prints; datetimes must be aware
    data: Any
    #: what a person reads, one after the other; nothing at all is a silent command
    text: Sequence[str | Table | Sparkline] = ()
    exit_code: int = 0


def emit(result: Result, as_json: bool) -> None:
    """Print `result` on stdout and flush it. OSError (BrokenPipeError too) is the caller's."""
    if as_json:
        _write(sys.stdout, _json(result.data, sys.stdout))
        return
    for block in result.text:
        if isinstance(block, Table):
            _emit_table(block)
        elif isinstance(block, Sparkline):
            _emit_sparkline(block)
        else:
            _write(sys.stdout, printable(block))


def error_text(text: str) -> None:
    """Print `text` on stderr; where there is none, nowhere."""
    try:
        _write(sys.stderr, printable(text))
    except (OSError, ValueError, AttributeError):
        return


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # closed by whoever started us: nobody reads
        return
    encoding = stream.encoding or "utf-8"
    stream.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _json(value: Any, stream: TextIO | None) -> str:
    """One line for a program, indented for a person; UTF-8, or escapes where the stream cannot take it."""
    if stream is None:
        return ""
    utf8 = (stream.encoding or "utf-8").lower().replace("-", "") == "utf8"
    indent = 2 if is_terminal(stream) else None
    return json_escaped(json.dumps(value, default=json_value, ensure_ascii=not utf8, indent=indent))


# -- tables --------------------------------------------------------------------------------------------------------


def _emit_table(table: Table) -> None:
    if is_terminal(sys.stdout):
        _emit_rich(table)
        return
    cells, right = _laid_out(table, drawn=False)
    widths = [max(map(_width, column)) for column in zip(table.columns, *cells, strict=True)]
    for row in (table.columns, *cells):
        padded = [_pad(text, width, to_right) for text, width, to_right in zip(row, widths, right, strict=True)]
        _write(sys.stdout, _GAP.join(padded).rstrip())


def _laid_out(table: Table, *, drawn: bool) -> tuple[list[list[str]], list[bool]]:
    """Its cells as text, and which columns are aligned to the right."""
    cells = [[_cell(value, drawn=drawn) for value in row] for row in table.rows]
    right = [all(isinstance(value, _NUMERIC) for value in column) for column in zip(*table.rows, strict=True)]
    return cells, right or [False] * len(table.columns)


def _emit_rich(table: Table) -> None:
    import shutil

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    available = shutil.get_terminal_size().columns
    table = next((one for one in table.drawn if _natural_width(one) <= available), (table, *table.drawn)[-1])
    cells, right = _laid_out(table, drawn=True)
    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, to_right in zip(table.columns, right, strict=True):
        # neither a heading nor a number is folded: text gives way
        drawn.add_column(
            Text(heading),
            justify="right" if to_right else "left",
            overflow="fold",
            no_wrap=to_right,
            min_width=_width(heading),
        )
    for row, values in zip(cells, table.rows, strict=True):
        styles = [value.style if isinstance(value, Styled) else "" for value in values]
        drawn.add_row(*(Text(text, style=style) for text, style in zip(row, styles, strict=True)))
    console = Console(file=sys.stdout, no_color=not wants_colour(sys.stdout), highlight=False, width=available)
    console.print(drawn)
    sys.stdout.flush()


def _natural_width(table: Table) -> int:
    """The columns that the table takes at a terminal when nothing in it is folded."""
    cells, _ = _laid_out(table, drawn=True)
    lines = [[max(map(_width, text.split("\n"))) for text in row] for row in (table.columns, *cells)]
    widest: list[int] = [max(column) for column in zip(*lines, strict=True)]
    return sum(widest) + _RICH_GAP * (len(table.columns) - 1) + _RICH_EDGES


def _cell(value: Any, *, drawn: bool = False) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Bar):
        return _bar(value) if drawn else f"{value.done:g}/{value.total:g}"
    if isinstance(value, tuple):
        return ("\n" if drawn else " · ").join(_cell(part) for part in value) or "-"
    return printable(format(value, "f") if isinstance(value, Decimal) else str(value), one_line=True)


def _bar(bar: Bar) -> str:
    """`██████░░  75%`, in ASCII where the terminal has no more; anything begun shows, and only the whole is full."""
    part = min(max(bar.done / bar.total, 0.0), 1.0) if bar.total else 0.0
    full = min(max(round(part * bar.width), int(part > 0)), bar.width - int(part < 1))
    fill, empty = ("█", "░") if _draws_blocks() else ("#", "-")
    return f"{fill * full}{empty * (bar.width - full)} {int(part * 100):3d}%"


def _emit_sparkline(line: Sparkline) -> None:
    """The newest values that fit; the smallest bar is none at all, anything above it shows."""
    import shutil

    if not is_terminal(sys.stdout):
        return
    steps = " ▁▂▃▄▅▆▇█" if _draws_blocks() else " .:-=+*#@"
    label = printable(line.label, one_line=True)
    values = line.values[-max(shutil.get_terminal_size().columns - _width(label) - 2, 1) :]
    most = max(values, default=0.0)
    drawn = (steps[min(max(round(value / most * 8), int(value > 0)), 8)] if most else " " for value in values)
    _write(sys.stdout, f"{label}  {''.join(drawn)}".rstrip())


def _draws_blocks() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


def _pad(text: str, width: int, to_right: bool) -> str:
    missing = " " * (width - _width(text))
    return missing + text if to_right else text + missing


def _width(text: str) -> int:
    """The columns that `text` takes: Thai vowels above and below take none, wide characters two."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.category(one) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )
