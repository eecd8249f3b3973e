"""Bars, sparklines, tables that fit and points in time: what a person sees and types."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.cli.figures import short_count, used_bar
from gepp_audit.cli.moments import DAY, MOMENT
from gepp_audit.cli.render import Bar, Result, Sparkline, Table, emit


class Terminal(io.StringIO):
    """A terminal of a given encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def printed(*blocks: Any, stream: io.StringIO | None = None) -> list[str]:
    before, sys.stdout = sys.stdout, stream or io.StringIO()
    written = sys.stdout
    try:
        emit(Result(data=None, text=blocks), False)
    finally:
        sys.stdout = before
    assert isinstance(written, io.StringIO)
    plain = written.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
    return [line.rstrip() for line in plain.splitlines()]


def shown(*blocks: Any, encoding: str = "utf-8") -> list[str]:
    return printed(*blocks, stream=Terminal(encoding))


@pytest.mark.parametrize(
    ("done", "total", "drawn"),
    [
        (0, 10, "░░░░░░░░   0%"),
        (1, 1000, "█░░░░░░░   0%"),
        (5, 10, "████░░░░  50%"),
        (999, 1000, "███████░  99%"),
        (10, 10, "████████ 100%"),
        (11, 10, "████████ 100%"),
        (0, 0, "░░░░░░░░   0%"),
    ],
)
def test_a_bar_is_full_only_when_all_is_done_and_begun_as_soon_as_anything_is(
    done: int, total: int, drawn: str
) -> None:
    table = Table(columns=("DONE",), rows=[(Bar(done, total),)])
    assert shown(table)[3].strip() == drawn
    assert printed(table) == ["DONE", f"{done}/{total}"]


def test_a_bar_is_drawn_with_what_the_terminal_has() -> None:
    assert shown(Table(columns=("DONE",), rows=[(Bar(1, 2, 4),)]), encoding="ascii")[3].strip(" |") == "##--  50%"


def test_what_is_used_of_a_limit_keeps_its_room_however_far_beyond_it_is() -> None:
    told = [used_bar(used, 100) for used in (0, 40, 100, 999, 1_000, 10**9)]
    assert [one[:10].count("█") for one in told] == [0, 4, 10, 10, 10, 10]
    assert [one[10:] for one in told] == ["   0 %", "  40 %", " 100 %", " 999 %", " >999 %", " >999 %"]
    assert [short_count(count) for count in (999, 12_345, 4_500_000)] == ["999", "12.3k", "4.5M"]


def test_a_sparkline_shows_the_newest_values_and_stands_at_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Sparkline(label="USD", values=[0, 0.01, 4, 8])
    assert (shown(line), printed(line)) == (["USD   ▁▄█"], [])
    assert shown(line, encoding="ascii") == ["USD   .=@"]
    monkeypatch.setenv("COLUMNS", "8")
    assert shown(Sparkline(label="USD", values=[1, 2, 4, 8])) == ["USD  ▂▄█"]
    assert shown(Sparkline(label="USD", values=[0, 0])) == ["USD"]


def test_the_first_table_that_fits_is_drawn_and_a_pipe_has_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Table(columns=("IDENTIFIER", "STATUS"), rows=[(1, "in_progress")])
    narrow = Table(columns=("ID", "STATUS"), rows=[(1, "in_progress")])
    table = Table(columns=wide.columns, rows=wide.rows, drawn=(wide, narrow))
    assert printed(table)[0] == "IDENTIFIER  STATUS"
    headings = []
    for columns in ("25", "24", "5"):
        monkeypatch.setenv("COLUMNS", columns)
        headings.append(shown(table)[1].split()[0])
    assert headings == ["IDENTIFIER", "ID", "ID"]


def test_a_cell_of_several_lines_is_one_line_in_a_pipe() -> None:
    table = Table(columns=("ID", "WHY"), rows=[(1, ("one", "t\nwo")), (2, ())])
    assert printed(table) == ["ID  WHY", " 1  one · t\\nwo", " 2  -"]
    assert [line.strip() for line in shown(table)[3:6]] == ["1  one", "t\\nwo", "2  -"]


def test_text_gives_way_before_a_number_or_a_heading_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    table = Table(columns=("TRANSACTION", "WHY", "TOKENS"), rows=[(1, "word " * 20, Decimal("1234567.25"))])
    told = shown(table)
    assert told[1].split() == ["TRANSACTION", "WHY", "TOKENS"]
    assert "1234567.25" in told[3]
    assert max(map(len, told)) <= 33


@given(values=st.lists(st.floats(0, 1e12), max_size=100))
def test_no_value_breaks_a_sparkline(values: list[float]) -> None:
    os.environ["COLUMNS"] = "40"
    told = shown(Sparkline(label="x", values=values))
    assert all(len(line) <= 40 for line in told)


# -- points in time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31t12:30:00+07:00", datetime(2026, 1, 31, 5, 30, tzinfo=UTC)),
    ],
)
def test_a_date_or_moment_is_utc_unless_it_says_otherwise(typed: str, meant: datetime) -> None:
    assert MOMENT.convert(typed, None, None) == meant
    assert DAY.convert(typed, None, None) == meant.date()


@pytest.mark.parametrize(
    ("typed", "ago"),
    [("90m", timedelta(minutes=90)), ("12h", timedelta(hours=12)), ("7d", timedelta(days=7)), ("2 W", timedelta(14))],
)
def test_how_long_ago_is_counted_from_now(typed: str, ago: timedelta) -> None:
    before = datetime.now(UTC) - ago
    assert before <= MOMENT.convert(typed, None, None) <= datetime.now(UTC) - ago


def test_today_and_yesterday_begin_at_midnight_utc() -> None:
    today, yesterday = (MOMENT.convert(word, None, None) for word in ("today", "yesterday"))
    assert (today.hour, today.minute, today.tzinfo) == (0, 0, UTC)
    assert today - yesterday == timedelta(days=1)
    assert DAY.convert(date(2026, 1, 1), None, None) == date(2026, 1, 1)


@given(typed=st.one_of(st.text(max_size=12), st.from_regex(r"[0-9]{1,8} ?[smhdwx]", fullmatch=True)))
def test_whatever_is_typed_is_a_moment_or_wrong_usage(typed: str) -> None:
    with contextlib.suppress(click.UsageError):
        assert MOMENT.convert(typed, None, None).tzinfo is not None
