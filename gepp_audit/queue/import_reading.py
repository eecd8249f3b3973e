"""Files of `import` become rows that know where they stand: a JSON document, JSON lines, or CSV.

Nothing is judged here but the form: whether the file is UTF-8, JSON or CSV at all, and what kind of row a part of it
is. Numbers with a fraction become decimals, never floats. Rows are yielded one after the other, so that those of a
large file are not all in memory at once.
"""

from __future__ import annotations

import bisect
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

#: the kinds of rows, named as the platform's tables and the keys of a JSON document
ORGANIZATIONS: Final = "organizations"
MATERIALS: Final = "main_materials"
RULES: Final = "audit_rules"
TRANSACTIONS: Final = "transactions"
RECORDS: Final = "transaction_records"

_KINDS: Final = {
    name: kind
    for kind, names in {
        ORGANIZATIONS: ("organizations", "organization"),
        MATERIALS: ("main_materials", "main_material", "materials", "material"),
        RULES: ("audit_rules", "audit_rule", "rules", "rule"),
        TRANSACTIONS: ("transactions", "transaction"),
        RECORDS: ("transaction_records", "transaction_record", "records", "record"),
    }.items()
    for name in names
}
#: a column that only this kind has; the first that fits decides
_TELLING_HEADERS: Final = (
    ("rule_id", RULES),
    ("created_transaction_id", RECORDS),
    ("organization_id", TRANSACTIONS),
    ("name_en", MATERIALS),
    ("name_th", MATERIALS),
    ("name", ORGANIZATIONS),
)
_NESTED: Final = "records"
_LONGEST_CELL: Final = 16 * 2**20
_BLANK: Final = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that keeps a file from being imported. `line` counts from 1, 0 is the file as a whole."""

    file: str
    line: int
    #: what the words are about: "transaction 5: weight_kg"
    subject: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file} line {self.line}" if self.line else self.file
        return f"{place}: {self.subject}: {self.message}" if self.subject else f"{place}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """One row as the file has it."""

    kind: str
    file: str
    line: int
    #: a cell that is empty in a CSV file is left out
    values: Mapping[str, Any]
    #: the lines of the fields, where they differ from the row's
    lines: Mapping[str, int] = field(default_factory=dict)
    #: a transaction's records that stand inside it; None: the file does not list them
    records: tuple[RawRow, ...] | None = None
    #: all values are text
    from_csv: bool = False

    def line_of(self, name: str) -> int:
        """Where the field `name` stands."""
        return self.lines.get(name, self.line)


class _Broken(Exception):
    """The file ends to be readable here."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_rows(path: Path) -> Iterator[RawRow | Problem]:
    """All rows of the file at `path`, in their order, and what is wrong with its form. OSError is the caller's."""
    name = str(path)
    try:
        text = _decoded(path.read_bytes())
        if path.suffix.lower() == ".csv":
            yield from _csv_rows(name, path.stem, text)
        elif path.suffix.lower() in (".jsonl", ".ndjson") or _looks_like_lines(text):
            yield from _json_lines(name, text)
        else:
            yield from _document(name, text)
    except _Broken as broken:
        yield Problem(file=name, line=broken.line, subject="", message=str(broken))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Broken(raw.count(b"\n", 0, error.start) + 1, "is not UTF-8 text") from error


# -- JSON ----------------------------------------------------------------------------------------------------------


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_DECODER: Final = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)


def _looks_like_lines(text: str) -> bool:
    first = text.lstrip().partition("\n")[0]
    try:
        value = _DECODER.decode(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "type" in value


def _json_lines(name: str, text: str) -> Iterator[RawRow | Problem]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            scanner = _Scanner(line, first_line=number)
            values = scanner.located(scanner.start())
            scanner.require_end()
        except _Broken as broken:
            yield Problem(file=name, line=broken.line, subject="", message=str(broken))
            continue
        kind = _KINDS.get(str(values.pop("type", None)))
        if kind is None:
            known = ", ".join(name for name in _KINDS if not name.endswith("s"))
            yield Problem(file=name, line=number, subject="type", message=f"must be one of {known}")
            continue
        yield _row(kind, name, values)


def _document(name: str, text: str) -> Iterator[RawRow | Problem]:
    scanner = _Scanner(text)
    position = scanner.start()
    if text[position : position + 1] != "{":
        raise _Broken(scanner.line(position), "must be a JSON object with lists such as transactions")
    for key, key_at, value_at in scanner.members(position):
        kind = _KINDS.get(key)
        if kind is None:
            scanner.skip(value_at)
            known = ", ".join(dict.fromkeys(_KINDS.values()))
            yield Problem(
                file=name, line=scanner.line(key_at), subject=key, message=f"is none of the known lists: {known}"
            )
        elif text[value_at : value_at + 1] != "[":
            scanner.skip(value_at)
            yield Problem(file=name, line=scanner.line(value_at), subject=key, message="must be a list")
        else:
            yield from _section(name, kind, scanner, value_at)
    scanner.require_end()


def _section(name: str, kind: str, scanner: _Scanner, position: int) -> Iterator[RawRow | Problem]:
    for at in scanner.elements(position):
        if scanner.text[at : at + 1] == "{":
            yield _row(kind, name, scanner.located(at))
        else:
            scanner.skip(at)
            yield Problem(file=name, line=scanner.line(at), subject=kind, message="must hold objects")


class _Located(dict[str, Any]):
    """A JSON object that knows its line and the lines of its members."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


def _row(kind: str, name: str, values: _Located) -> RawRow:
    nested = values.get(_NESTED)
    records = None
    if kind == TRANSACTIONS and isinstance(nested, list) and all(isinstance(one, _Located) for one in nested):
        records = tuple(_row(RECORDS, name, one) for one in values.pop(_NESTED))
    return RawRow(kind=kind, file=name, line=values.line, values=values, lines=values.lines, records=records)


class _Scanner:
    """Walks JSON text member by member, knowing the line of each. json itself decodes what is below a row's fields.

    `at` is where the walk has come to. `members` and `elements` yield a position; before the next step the caller must
    have walked over the value there, with `located` or `skip`.
    """

    def __init__(self, text: str, first_line: int = 1) -> None:
        self.text = text
        self.at = 0
        self._first_line = first_line
        self._newlines = [match.start() for match in re.finditer("\n", text)]

    def line(self, position: int) -> int:
        return self._first_line + bisect.bisect_left(self._newlines, position)

    def start(self) -> int:
        return self._blank(0)

    def skip(self, position: int) -> Any:
        """Decode the value at `position`, and walk over it."""
        try:
            value, self.at = _DECODER.raw_decode(self.text, position)
        except json.JSONDecodeError as error:
            raise self._broken(error.pos, error.msg) from error
        except (ValueError, RecursionError) as error:
            raise self._broken(position, "a number or a nesting is too large") from error
        return value

    def located(self, position: int) -> _Located:
        """The object at `position` with the lines of its members; objects in its list of records are located too."""
        if self.text[position : position + 1] != "{":
            raise self._broken(position, "expecting an object")
        found = _Located(self.line(position))
        for key, key_at, value_at in self.members(position):
            if key in found:
                raise self._broken(key_at, f"{key} stands there twice")
            found.lines[key] = self.line(value_at)
            if key == _NESTED and self.text[value_at : value_at + 1] == "[":
                found[key] = [
                    self.located(at) if self.text[at : at + 1] == "{" else self.skip(at)
                    for at in self.elements(value_at)
                ]
            else:
                found[key] = self.skip(value_at)
        return found

    def members(self, position: int) -> Iterator[tuple[str, int, int]]:
        """Key, its position, the value's position: of each member of the object at `position`."""
        for at in self._parts(position, "}"):
            if self.text[at : at + 1] != '"':
                raise self._broken(at, "expecting a name in double quotes")
            key = self.skip(at)
            colon = self._blank(self.at)
            if self.text[colon : colon + 1] != ":":
                raise self._broken(colon, "expecting a colon")
            yield key, at, self._blank(colon + 1)

    def elements(self, position: int) -> Iterator[int]:
        """The position of each element of the list at `position`."""
        return self._parts(position, "]")

    def require_end(self) -> None:
        """Nothing may follow."""
        end = self._blank(self.at)
        if end < len(self.text):
            raise self._broken(end, "something follows the end")

    def _parts(self, position: int, closing: str) -> Iterator[int]:
        at = self._blank(position + 1)
        if self.text[at : at + 1] == closing:
            self.at = at + 1
            return
        while True:
            yield at
            comma = self._blank(self.at)
            sign = self.text[comma : comma + 1]
            if sign == closing:
                self.at = comma + 1
                return
            if sign != ",":
                raise self._broken(comma, f"expecting a comma or {closing}")
            at = self._blank(comma + 1)

    def _blank(self, position: int) -> int:
        if self.text[position : position + 1] > " ":
            return position
        match = _BLANK.match(self.text, position)
        return match.end() if match else position

    def _broken(self, position: int, message: str) -> _Broken:
        return _Broken(self.line(position), f"is not JSON: {message[:1].lower()}{message[1:]}")


# -- CSV -----------------------------------------------------------------------------------------------------------


def _csv_rows(name: str, stem: str, text: str) -> Iterator[RawRow | Problem]:
    csv.field_size_limit(_LONGEST_CELL)
    first = text.partition("\n")[0]
    delimiter = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        kind = _kind_of_csv(stem, header)
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                filled = {key: cell for key, cell in zip(header, cells, strict=True) if cell != ""}
                yield RawRow(kind=kind, file=name, line=line, values=filled, from_csv=True)
            elif cells:
                message = f"has {len(cells)} cells where the heading has {len(header)}"
                yield Problem(file=name, line=line, subject="", message=message)
            line = reader.line_num + 1
    except csv.Error as error:
        raise _Broken(reader.line_num, f"is not CSV: {error}") from error


def _kind_of_csv(stem: str, header: list[str]) -> str:
    if len(set(header)) < len(header):
        raise _Broken(1, "has a heading twice")
    by_name = _KINDS.get(stem.lower())
    if by_name is not None:
        return by_name
    for telling, kind in _TELLING_HEADERS:
        if telling in header:
            return kind
    raise _Broken(1, "has a heading that fits no kind of row; name the file transactions.csv or the like")
