"""The geometry of the chart of tokens by day. Pure: numbers in, coordinates out; the template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

WIDE: Final = 900
NARROW: Final = 320
#: days that fit into a narrow one
NARROW_DAYS: Final = 14
HEIGHT: Final = 140
#: room for the figures of the scale, and for the days below
LEFT: Final = 44
BOTTOM: Final = 20
TOP: Final = 8
#: part of a day's room that its bar fills
_FILLED: Final = 0.7
#: room that one day's name takes
_LABEL_ROOM: Final = 70
_LABEL_HALF: Final = 17


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """The tokens of one UTC day."""

    day: date
    input: int
    output: int

    @property
    def total(self) -> int:
        """In and out."""
        return self.input + self.output


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One day's bar: input below, output upon it."""

    of: Day
    x: float
    width: float
    input_y: float
    input_height: float
    output_y: float
    output_height: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of the scale."""

    value: int
    y: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A day that is named below its bar."""

    day: date
    x: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """All that is drawn."""

    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    width: int
    #: about the period that it shows
    days: int
    height: int = HEIGHT
    left: int = LEFT
    floor: int = HEIGHT - BOTTOM


def drawn(days: Sequence[Day], total_width: int = WIDE) -> Chart:
    """The chart of these days, which stand in order."""
    floor, top = HEIGHT - BOTTOM, TOP
    highest = ceiling(max((one.total for one in days), default=0))
    room = (total_width - LEFT) / max(len(days), 1)
    width = room * _FILLED

    def height(value: int) -> float:
        return round((floor - top) * value / highest, 2)

    bars = []
    for index, one in enumerate(days):
        input_height, output_height = height(one.input), height(one.output)
        bars.append(
            Bar(
                of=one,
                x=round(LEFT + index * room + (room - width) / 2, 2),
                width=round(width, 2),
                input_y=round(floor - input_height, 2),
                input_height=input_height,
                output_y=round(floor - input_height - output_height, 2),
                output_height=output_height,
            )
        )
    lines = tuple(Line(value=value, y=round(floor - height(value), 2)) for value in (0, highest // 2, highest))
    step = max(round(len(days) * _LABEL_ROOM / (total_width - LEFT)), 1)
    labels = tuple(
        Label(day=bars[index].of.day, x=round(min(bars[index].x + bars[index].width / 2, total_width - _LABEL_HALF), 2))
        for index in range(len(days) - 1, -1, -step)
        if bars[index].x > LEFT + 12
    )
    return Chart(bars=tuple(bars), lines=lines, labels=labels, width=total_width, days=len(days))


def ceiling(value: int) -> int:
    """The end of the scale: the next 2, 4, 10 times a power of ten, so that its half is a round figure too.

    Example: 0 → 2, 7 → 10, 13 → 20, 345 → 400.
    """
    step = 1
    while True:
        for times in (2, 4, 10):
            if value <= times * step:
                return times * step
        step *= 10
