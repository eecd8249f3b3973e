"""How `stuck` looks: a monitoring plugin's line with a table under it.

The line is `STATUS - text | perfdata` (Monitoring Plugins Development Guidelines, "Plugin Output for Nagios").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from gepp_audit.cli.render import Table
from gepp_audit.plain_text import printable
from gepp_audit.queue.causes.names import Status
from gepp_audit.queue.wording import capital, counted, listed, moment_in_words, span

if TYPE_CHECKING:
    from gepp_audit.errors import OperatorError
    from gepp_audit.queue.diagnosing import Stuck
    from gepp_audit.queue.inspecting import Report

_COLUMNS: Final = ("BATCH", "ORG", "AGE", "CAUSE", "READY", "CALLING", "DONE", "FAILED", "SKIPPED")


def as_table(report: Report) -> list[str | Table]:
    """What a person reads, and a monitor the first line of."""
    blocks: list[str | Table] = [_plugin_line(report)]
    if report.stuck:
        blocks.append(Table(columns=_COLUMNS, rows=[_row(stuck) for stuck in report.stuck]))
    blocks += [line for group in _alike(report.stuck) for line in _told(group)]
    blocks += _whole_queue(report)
    for ended in report.ended:
        if ended.status in report.untaken.by_status and not ended.deleted:
            blocks.append(f"Batch {ended.audit_history_id} is one of them.")
            continue
        how = "was deleted" if ended.deleted else f"is not open: its status is {ended.status or 'empty'}"
        blocks.append(f"Batch {ended.audit_history_id} {how}, so it is not stuck.")
    return blocks


def _whole_queue(report: Report) -> Iterator[str]:
    """What is wrong beside the open batches."""
    from gepp_audit.queue.inspecting import FREE_ORPHANS, RIVAL_FIX

    if report.orphans.count:
        yield f"{_orphans(report)}: nothing would ever ask {'it' if report.orphans.count == 1 else 'them'}."
        yield f"  → {FREE_ORPHANS}"
    if report.rivals.batches:
        last = report.rivals.last_at
        when = "" if last is None else f", the last one at {moment_in_words(last)}"
        settled = counted(report.rivals.batches, "batch", "batches")
        yield f"Another program settled {settled} of ours within the last hour{when}."
        yield f"  → {RIVAL_FIX}"
    if report.untaken.batches:
        yield f"{capital(report.untaken.seen)}."
        yield f"  → {report.untaken.fix}"


def _orphans(report: Report) -> str:
    orphans = report.orphans
    are = "is" if orphans.count == 1 else "are"
    least = "" if orphans.complete else "at least "
    return f"{least}{counted(orphans.count, 'transaction')} {are} queued in no open batch"


def _plugin_line(report: Report) -> str:
    number = len(report.stuck)
    older = "" if report.older_than == 0 else f" for more than {span(timedelta(seconds=report.older_than))}"
    if not number:
        opened = counted(report.open_batches, "batch", "batches")
        text = f"no batch is open{older}" if not report.ended else _none_of_these(report)
        text += f" ({opened} open in all)"
    else:
        causes = ", ".join(
            f"{count} {cause}{f' ({reason})' if reason else ''}"
            for (cause, reason), count in report.causes.most_common()
        )
        text = f"{counted(number, 'batch is', 'batches are')} open{older}: {causes}"
    if report.orphans.count:
        text += f"; {_orphans(report)}"
    if report.rivals.batches:
        text += f"; another program settled {counted(report.rivals.batches, 'batch', 'batches')} of ours"
    if report.untaken.batches:
        text += f"; {report.untaken.seen}"
    return _one_line(f"{report.status.value.upper()} - {text}", _perfdata(report))


def _none_of_these(report: Report) -> str:
    return "runs take none of these batches" if report.untaken.batches else "none of these batches is open"


def _perfdata(report: Report) -> str:
    """`label=value[unit];warn;crit;min`: nothing is stuck where it should be."""
    oldest = max((stuck.age for stuck in report.stuck), default=0)
    values = {"stuck": f"{len(report.stuck)};0", "oldest": f"{oldest}s;", "open": f"{report.open_batches};"}
    values |= {"orphans": f"{report.orphans.count};0", "rivals": f"{report.rivals.batches};0"}
    values |= {"untaken": f"{report.untaken.batches};0"}
    return " ".join(f"{label}={value};;0" for label, value in values.items())


def _one_line(text: str, perfdata: str) -> str:
    """The bar ends the text of a plugin's line, so there is none in it."""
    return f"{printable(text, one_line=True).replace('|', '/')} | {perfdata}"


def _row(stuck: Stuck) -> tuple[Any, ...]:
    batch = stuck.batch
    return (
        batch.audit_history_id,
        batch.organization_id,
        span(timedelta(seconds=stuck.age)),
        stuck.diagnosis.cause.value,
        *stuck.transactions.values(),
    )


def _alike(stuck: Sequence[Stuck]) -> list[list[Stuck]]:
    """Batches that are told the same, together."""
    groups: dict[tuple[str, str], list[Stuck]] = {}
    for one in stuck:
        groups.setdefault((one.diagnosis.explanation, one.diagnosis.fix), []).append(one)
    return list(groups.values())


def _told(group: Sequence[Stuck]) -> Iterable[str]:
    ids = tuple(one.batch.audit_history_id for one in group)
    diagnosis = group[0].diagnosis
    yield f"Batch{'' if len(ids) == 1 else 'es'} {listed(ids)}: {diagnosis.explanation}"
    yield f"  → {diagnosis.fix_for(*ids)}"


def unknown_line(error: OperatorError) -> list[str]:
    """What a monitor reads where nothing could be looked at."""
    return [f"{Status.UNKNOWN.value.upper()} - {printable(error.message, one_line=True).replace('|', '/')}", error.fix]
