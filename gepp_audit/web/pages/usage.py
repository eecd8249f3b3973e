"""Tokens by day for the chart and the table below it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from gepp_audit.queue.usage import UsageReport, UsageRow
from gepp_audit.web.pages import chart
from gepp_audit.web.pages.chart import Chart, Day


@dataclass(frozen=True, kw_only=True, slots=True)
class DayRow:
    """One day of the table."""

    day: date
    audited: int
    input: int
    cached: int
    output: int
    cost: Decimal | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What templates need of a report by day."""

    #: every day of the period, in order
    days: tuple[Day, ...]
    #: days with calls, the newest first
    rows: tuple[DayRow, ...]
    #: a wide one, and one of the last days alone for a narrow screen
    charts: tuple[Chart, Chart]
    #: the day with the most tokens
    most: Day
    total: int
    audited: int
    cost: Decimal | None


def shown(report: UsageReport) -> Usage:
    """What is shown of `report`, whose keys are days."""
    found: dict[date, UsageRow] = {row.key: row for row in report.rows if isinstance(row.key, date)}
    number = (report.period.until - report.period.since).days + 1
    every = [report.period.since + timedelta(days=offset) for offset in range(number)]
    days = tuple(_day(day, found.get(day)) for day in every)
    return Usage(
        days=days,
        rows=tuple(_row(day, found[day]) for day in reversed(every) if day in found),
        charts=(chart.drawn(days), chart.drawn(days[-chart.NARROW_DAYS :], chart.NARROW)),
        most=max(days, key=lambda one: one.total),
        total=sum(day.total for day in days),
        audited=report.total.agreement.audited,
        cost=report.total.cost,
    )


def _day(day: date, row: UsageRow | None) -> Day:
    if row is None:
        return Day(day=day, input=0, output=0)
    return Day(day=day, input=row.used.input_tokens, output=row.used.output_tokens)


def _row(day: date, row: UsageRow) -> DayRow:
    return DayRow(
        day=day,
        audited=row.agreement.audited,
        input=row.used.input_tokens,
        cached=row.used.cached_tokens,
        output=row.used.output_tokens,
        cost=row.cost,
    )
