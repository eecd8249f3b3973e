"""`gepp-audit usage`: what audits used and cost, and how often people decided otherwise."""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from gepp_audit.cli.app import READING_PATIENCE, App
from gepp_audit.cli.figures import short_count, short_money
from gepp_audit.cli.moments import DAY
from gepp_audit.cli.options import COUNT, json_option, organizations_option
from gepp_audit.cli.render import Bar, Result, Sparkline, Table

if TYPE_CHECKING:
    from gepp_audit.queue.usage import UsageReport, UsageRow

_BY: Final = ("day", "organization", "model")


@click.command("usage")
@click.option("--by", type=click.Choice(_BY), default="day", show_default=True, help="What to sum by.")
@click.option(
    "--since", type=DAY, metavar="DATE", help="From this UTC day on: 2026-01-31, yesterday, 7d; default: 30 days."
)
@click.option("--until", type=DAY, metavar="DATE", help="Up to this UTC day; default: today.")
@organizations_option
@click.option("-n", "most", type=COUNT, metavar="N", help="Show N rows: the newest days, or the costliest.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, all figures exact.")
@json_option
@click.pass_obj
def usage(
    app: App,
    by: str,
    since: date | None,
    until: date | None,
    organizations: tuple[int, ...],
    most: int | None,
    as_csv: bool,
) -> Result:
    """Say what audits used and cost: calls, tokens, cache hits, money, and how often people decided otherwise.

    Each call that left counts, also one that failed, came too late or was cancelled. Days are UTC. People are compared
    with on the transactions that got a verdict in the period; older platforms do not tell how often people agreed.
    """
    if as_csv and app.as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    from gepp_audit.database.usage import By
    from gepp_audit.queue.usage import usage as sum_up

    database = app.open_database(patience=READING_PATIENCE)
    try:
        report = sum_up(database, By(by), since=since, until=until, organizations=organizations)
    finally:
        database.close()
    rows = _newest(report, most)
    data = report.as_json()
    data["rows"] = data["rows"][-most:] if most and by == "day" else data["rows"][:most]
    return Result(data=data, text=(_csv(report, rows),) if as_csv else _told(report, rows))


def _newest(report: UsageReport, most: int | None) -> tuple[UsageRow, ...]:
    """The newest days, or the costliest of what else there is."""
    if most is None:
        return report.rows
    return report.rows[-most:] if report.by == "day" else report.rows[:most]


# -- for people --------------------------------------------------------------------------------------------------------


def _told(report: UsageReport, rows: tuple[UsageRow, ...]) -> list[str | Table | Sparkline]:
    from gepp_audit.queue.wording import counted

    period = f"{report.period.since} to {report.period.until} (UTC)"
    if not report.rows:
        return [f"No call was made from {period}."]
    told: list[str | Table | Sparkline] = [f"From {period}:", _table(report, rows)]
    if len(rows) < len(report.rows):
        told.append(
            f"{len(rows)} of {counted(len(report.rows), 'row')} shown, all of them in the total; -n shows more."
        )
    if report.by == "day" and len(report.rows) > 1:
        told.append(_sparkline(report))
    total = report.total
    if total.used.unpriced_calls:
        told.append(
            f"The price of {counted(total.used.unpriced_calls, 'call')} is not known, so it cost more than is told; "
            "set GEPP_AUDIT_PRICES for the next ones."
        )
    if total.used.open_calls:
        told.append(f"{counted(total.used.open_calls, 'call')} under way or lost: what they used is not known yet.")
    return [*told, *_people(total)]


def _table(report: UsageReport, rows: tuple[UsageRow, ...]) -> Table:
    shown = (*rows, report.total)
    head = {"day": "DAY", "organization": "ORGANIZATION", "model": "MODEL"}[report.by]
    columns = [head, "CALLS", "FAILED", "IN", "CACHED", "HIT %", "OUT", "USD", "AUDITED", "OVERRULED"]
    narrow = ["ORG" if report.by == "organization" else head, "CALLS", "FAILED", "TOKENS", "HIT %", "USD", "OVERRULED"]
    whole, short = [_row(row) for row in shown], [_narrow_row(row) for row in shown]
    if report.total.used.unpriced_calls:
        columns, narrow = [*columns, "UNPRICED"], [*narrow, "UNPRICED"]
        whole = [(*cells, row.used.unpriced_calls) for cells, row in zip(whole, shown, strict=True)]
        short = [(*cells, row.used.unpriced_calls) for cells, row in zip(short, shown, strict=True)]
    plain = Table(columns=columns, rows=whole)
    smallest = Table(columns=(narrow[0], "CALLS", "TOKENS", "USD"), rows=[_narrowest_row(row) for row in shown])
    drawn: tuple[Table, ...] = (plain, Table(columns=narrow, rows=short), smallest)
    cost = report.total.used.cost
    if report.by != "day" and cost and len(rows) > 1:
        pictured = [(*cells, _share(row, cost)) for cells, row in zip(whole, shown, strict=True)]
        drawn = (Table(columns=(*columns, "SHARE"), rows=pictured), *drawn)
    return Table(columns=columns, rows=whole, drawn=drawn)


def _row(row: UsageRow) -> tuple[Any, ...]:
    used = row.used
    return (
        _key(row),
        used.calls,
        used.failed_calls,
        used.input_tokens,
        used.cached_tokens,
        _per_cent(row.cache_hit_rate),
        used.output_tokens,
        row.cost,
        row.agreement.audited,
        _overruled(row),
    )


def _narrow_row(row: UsageRow) -> tuple[Any, ...]:
    used = row.used
    tokens = used.input_tokens + used.output_tokens
    return (
        _key(row), used.calls, used.failed_calls, tokens, _per_cent(row.cache_hit_rate), row.cost, _overruled(row)
    )  # fmt: skip


def _narrowest_row(row: UsageRow) -> tuple[Any, ...]:
    tokens = row.used.input_tokens + row.used.output_tokens
    cost = None if row.cost is None else short_money(row.cost)
    return _key(row), short_count(row.used.calls), short_count(tokens), cost


def _key(row: UsageRow) -> str:
    return "total" if row.key is None else str(row.key)


def _per_cent(part: float | None) -> Decimal | None:
    return None if part is None else Decimal(f"{part * 100:.1f}")


def _overruled(row: UsageRow) -> str | None:
    """How often people decided otherwise, and of how many decisions where that is known."""
    people = row.agreement
    if people.agreed is None:
        return str(people.overruled) if people.audited else None
    decided = people.agreed + people.overruled
    return f"{people.overruled} of {decided}" if decided else None


def _share(row: UsageRow, total: Decimal) -> Bar:
    """Its part of the money."""
    return Bar(float(row.used.cost), float(total), 10)


def _sparkline(report: UsageReport) -> Sparkline:
    """Each day of the period that lies between the first and the last with calls, those without any too."""
    by_day = {row.key: row for row in report.rows}
    days = [day for day in by_day if isinstance(day, date)]
    first, last = min(days), max(days)
    whole = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    priced = any(row.used.cost for row in report.rows)
    values = [
        float(row.used.cost if priced else row.used.calls) if (row := by_day.get(day)) is not None else 0.0
        for day in whole
    ]
    return Sparkline(label="USD per day" if priced else "calls per day", values=values)


def _people(total: UsageRow) -> list[str]:
    """How people decided on what was audited, in a sentence."""
    from gepp_audit.queue.wording import counted

    people = total.agreement
    if not people.audited:
        return []
    audited = counted(people.audited, "audited transaction")
    if not people.overruled and not people.undecided_settled and not people.agreed:
        known = "people decided none so far" if people.agreed == 0 else "none shows that people decided otherwise"
        return [f"Of {audited} {known}."]
    told = (
        f"Of {audited} people rejected {people.approvals_overruled} that the audit approved, and approved "
        f"{people.rejections_overruled} that it rejected"
    )
    if people.agreed is None:
        told += "; this platform does not tell how often they agreed"
    elif people.rate is not None:
        told += f"; they agreed with {people.agreed} ({people.rate * 100:.1f} %)"
    if people.undecided_settled:
        told += f"; they decided {people.undecided_settled} that it left to them"
    return [f"{told}."]


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _csv(report: UsageReport, rows: tuple[UsageRow, ...]) -> str:
    """The rows of the JSON as CSV (RFC 4180 but for its line ends), without the total: it is one SUM away."""
    from gepp_audit.queue.usage import key_text

    written = io.StringIO()
    names = [report.key_name, *report.total.as_json()]
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        figures = row.as_json().values()
        writer.writerow([_plain(value) for value in (key_text(row.key), *figures)])
    return written.getvalue().rstrip("\n")


def _plain(value: Any) -> Any:
    """Money without an exponent; a text that a spreadsheet would take for a formula is marked as text."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"
    return format(value, "f") if isinstance(value, Decimal) else value
