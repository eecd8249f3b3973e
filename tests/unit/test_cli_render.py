"""Rendering: the same result as JSON for programs, as text and tables for people, harmless whatever stands in it."""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.cli.render import Result, Table, emit, error_text
from gepp_audit.plain_text import moment


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def printed(result: Result, as_json: bool = False, stream: io.StringIO | None = None) -> str:
    before = sys.stdout
    sys.stdout = stream = stream or io.StringIO()
    try:
        emit(result, as_json)
    finally:
        sys.stdout = before
    return stream.getvalue()


def bytes_printed(result: Result, as_json: bool, encoding: str) -> bytes:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    before, sys.stdout = sys.stdout, stream
    try:
        emit(result, as_json)
    finally:
        sys.stdout = before
    return raw.getvalue()


def test_json_in_a_pipe_is_one_line() -> None:
    assert printed(Result(data={"a": [1, None, "ก"]}, text=["ignored"]), True) == '{"a": [1, null, "ก"]}\n'


def test_json_at_a_terminal_is_indented() -> None:
    assert printed(Result(data={"a": 1}), True, Terminal()) == '{\n  "a": 1\n}\n'


def test_json_has_moments_in_utc_and_decimals_as_numbers() -> None:
    bangkok = datetime(2026, 1, 31, 7, 0, 5, tzinfo=timezone(timedelta(hours=7)))
    assert json.loads(printed(Result(data={"at": bangkok, "usd": Decimal("0.10")}), True)) == {
        "at": "2026-01-31T00:00:05Z",
        "usd": 0.1,
    }


def test_a_naive_moment_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="naive"):
        moment(datetime(2026, 1, 1))


def test_json_is_ascii_where_the_stream_cannot_take_more() -> None:
    assert bytes_printed(Result(data="ก"), True, "latin-1") == b'"\\u0e01"\n'


def test_text_that_the_stream_cannot_take_is_spelled() -> None:
    assert bytes_printed(Result(data=None, text=["é ก"]), False, "ascii") == b"\\xe9 \\u0e01\n"


def test_a_silent_result_prints_nothing() -> None:
    assert printed(Result(data={"a": 1})) == ""


def test_a_table_in_a_pipe_is_plain_and_aligned() -> None:
    table = Table(
        columns=("ID", "NAME", "USD"), rows=[(1, "b", Decimal("0.10")), (200, None, None), (3, "น้ำหนัก", Decimal(12))]
    )
    assert printed(Result(data=None, text=["Two:", table])).splitlines() == [
        "Two:",
        " ID  NAME    USD",
        "  1  b      0.10",
        "200  -         -",
        "  3  น้ำหนัก    12",
    ]


def test_a_table_without_rows_is_its_heading() -> None:
    assert printed(Result(data=None, text=[Table(columns=("A", "B"), rows=[])])) == "A  B\n"


def test_a_table_at_a_terminal_takes_markup_for_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    told = printed(Result(data=None, text=[Table(columns=("A",), rows=[("[red]x[/red]",)])]), stream=Terminal())
    assert ("[red]x[/red]" in told, "\x1b[3" in told) == (True, False)


@pytest.mark.parametrize("at_terminal", [False, True])
@given(text=st.text(max_size=20))
def test_no_cell_moves_the_cursor_or_breaks_its_row(text: str, at_terminal: bool) -> None:
    stream = Terminal() if at_terminal else io.StringIO()
    told = printed(Result(data=None, text=[Table(columns=("A", "B"), rows=[(text, 1)])]), stream=stream)
    for character in "\r\x07\x08\x9b\u2028\u202e":
        assert character not in told
    if not at_terminal:
        assert told.count("\n") == 2


def test_an_error_goes_to_stderr_with_control_characters_spelled(capsys: pytest.CaptureFixture[str]) -> None:
    error_text("Error: \x1b]0;title\x07")
    assert capsys.readouterr().err == "Error: \\x1b]0;title\\x07\n"


def test_a_closed_stderr_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    error_text("Error: unheard")
