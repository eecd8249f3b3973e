"""The only printer: results to stdout, as JSON or for people; errors to stderr.

What a person reads is made of lines of text and tables. At a terminal a table is drawn by rich; into a pipe it is plain
and aligned. Text that came from a database or a provider is data: control characters are spelled, markup is text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TextIO

from gepp_audit.cli.app import is_terminal, wants_colour
from gepp_audit.plain_text import json_escaped, printable

_GAP: Final = "  "
_NUMERIC: Final = (int, float, Decimal, type(None))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under headings. A cell that is None is shown as a dash, a number is aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command returns."""

    #: the value that `--json` prints; datetimes must be aware
    data: Any
    #: what a person reads, one after the other; nothing at all is a silent command
    text: Sequence[str | Table] = ()
    exit_code: int = 0


def emit(result: Result, as_json: bool) -> None:
    """Print `result` on stdout and flush it. OSError (BrokenPipeError too) is the caller's."""
    if as_json:
        _write(sys.stdout, _json(result.data, sys.stdout))
        return
    for block in result.text:
        if isinstance(block, Table):
            _emit_table(block)
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
    return json_escaped(json.dumps(value, default=_plain, ensure_ascii=not utf8, indent=indent))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"a {type(value).__name__} cannot stand in JSON")


def moment(value: datetime) -> str:
    """A moment as JSON and tables show it: UTC, seconds, `2026-01-31T12:00:00Z`."""
    if value.tzinfo is None:
        raise ValueError("a naive datetime cannot be shown; give it a time zone")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- tables --------------------------------------------------------------------------------------------------------


def _emit_table(table: Table) -> None:
    cells = [[_cell(value) for value in row] for row in table.rows]
    right = [all(isinstance(value, _NUMERIC) for value in column) for column in zip(*table.rows, strict=True)]
    right = right or [False] * len(table.columns)
    if is_terminal(sys.stdout):
        _emit_rich(table, cells, right)
        return
    widths = [max(map(_width, column)) for column in zip(table.columns, *cells, strict=True)]
    for row in (table.columns, *cells):
        padded = [_pad(text, width, to_right) for text, width, to_right in zip(row, widths, right, strict=True)]
        _write(sys.stdout, _GAP.join(padded).rstrip())


def _emit_rich(table: Table, cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    import shutil

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for heading, to_right in zip(table.columns, right, strict=True):
        drawn.add_column(Text(heading), justify="right" if to_right else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(text) for text in row))
    console = Console(
        file=sys.stdout,
        no_color=not wants_colour(sys.stdout),
        highlight=False,
        width=shutil.get_terminal_size().columns,
    )
    console.print(drawn)
    sys.stdout.flush()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return moment(value)
    return printable(format(value, "f") if isinstance(value, Decimal) else str(value), one_line=True)


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
