"""`gepp-audit stuck`: which batches do not move, why, and what to do; with --requeue or --fail it does it.

Also a monitoring plugin: exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and its first line says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from gepp_audit import logs
from gepp_audit.cli.app import READING_PATIENCE, App
from gepp_audit.cli.calling import result_as_called
from gepp_audit.cli.confirming import confirm, require_answer
from gepp_audit.cli.options import DURATION, ID, json_option
from gepp_audit.cli.render import Result, Table, error_text
from gepp_audit.errors import OperatorError

if TYPE_CHECKING:
    from gepp_audit.database.engine import Database
    from gepp_audit.queue.inspecting import Question, Report
    from gepp_audit.queue.mending import GivenUp, Requeued

_ENGINE: Final = "openai"
_FORMATS: Final = ("table", "json", "prometheus")
_FILE_ERROR: Final = "metrics_file"


@click.command("stuck")
@click.argument("batches", type=ID, nargs=-1, metavar="[ID]...")
@click.option(
    "--older-than",
    type=DURATION,
    metavar="TIME",
    default="1h",
    show_default=True,
    help="Batches that have been open for so long: 90s, 30m, 1h, 2d.",
)
@click.option("--format", "format_", type=click.Choice(_FORMATS), help="How to print it; default: table.")
@click.option(
    "--output",
    "file",
    metavar="FILE",
    help="With --format prometheus: write FILE, by a rename, for the textfile collector of node_exporter.",
)
@click.option("--requeue", is_flag=True, help="Let the batches of these IDs go on at once.")
@click.option("--fail", "give_up", is_flag=True, help="End the batches of these IDs: what has no verdict is failed.")
@click.option("--yes", is_flag=True, help="Do not ask before --requeue or --fail.")
@json_option
@click.pass_obj
def stuck(
    app: App,
    batches: tuple[int, ...],
    older_than: int,
    format_: str | None,
    file: str | None,
    requeue: bool,
    give_up: bool,
    yes: bool,
) -> Result:
    """Say which open batches do not move, why, and what to do.

    Without IDs: those that have been open for long; with IDs: these, of any age. Changes nothing unless --requeue or
    --fail is given. Every 'slow', 'retrying', 'limited' and 'paused' is a WARNING, every other cause is CRITICAL. So is
    a WARNING what is queued in no open batch, that another program settled batches of ours lately, and that batches
    wait in a status that no run takes.

    \b
    Exit codes: 0 OK · 1 WARNING · 2 CRITICAL · 3 UNKNOWN (also: wrong usage, no database)
    """
    format_ = _format(app, format_)
    wanted = _Wanted(
        ids=tuple(dict.fromkeys(batches)),
        older_than=older_than,
        format=format_,
        file=file,
        requeue=requeue,
        give_up=give_up,
        yes=yes,
    )
    _check(wanted)
    try:
        return _answer(app, wanted)
    except OperatorError as error:
        if requeue or give_up or error.code == _FILE_ERROR:
            raise
        return _unknown(error, wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """The command line."""

    ids: tuple[int, ...]
    older_than: int
    format: str
    file: str | None
    requeue: bool
    give_up: bool
    yes: bool

    @property
    def doing(self) -> str | None:
        """The flag that changes something."""
        return "--requeue" if self.requeue else "--fail" if self.give_up else None


def _format(app: App, format_: str | None) -> str:
    """The format in force: --json is --format json."""
    if app.as_json and format_ not in (None, "json"):
        raise click.UsageError(f"--json and --format {format_} exclude each other.")
    if format_ == "json":
        app.as_json = True
    return "json" if app.as_json else format_ or "table"


def _check(wanted: _Wanted) -> None:
    if wanted.requeue and wanted.give_up:
        raise click.UsageError("--requeue and --fail exclude each other.")
    if wanted.file is not None and wanted.format != "prometheus":
        raise click.UsageError("--output goes with --format prometheus.")
    what = wanted.doing
    if what is None:
        if wanted.yes:
            raise click.UsageError("--yes goes with --requeue or --fail.")
        return
    if not wanted.ids:
        raise click.UsageError(f"{what} needs the IDs of the batches.")
    if wanted.format == "prometheus":
        raise click.UsageError(f"{what} and --format prometheus exclude each other.")
    require_answer(what, wanted.yes)


def _answer(app: App, wanted: _Wanted) -> Result:
    from gepp_audit.queue.configured import question as question_of
    from gepp_audit.queue.inspecting import inspect

    question = question_of(app.settings, older_than=wanted.older_than, ids=wanted.ids)
    database = app.open_database(patience=READING_PATIENCE)
    try:
        report = inspect(database, question)
        if wanted.requeue:
            return result_as_called(_requeue(database, report, question, wanted.yes), env_file=app.env_file)
        if wanted.give_up:
            return result_as_called(_give_up(database, report, question, wanted.yes), env_file=app.env_file)
    finally:
        database.close()
    return result_as_called(_result(report, wanted), env_file=app.env_file)


def _result(report: Report, wanted: _Wanted) -> Result:
    from gepp_audit.cli import stuck_formats

    data = report.as_json()
    if report.ended:
        data["ended"] = [
            {"audit_history_id": one.audit_history_id, "status": one.status, "completed_at": one.completed_at}
            for one in report.ended
        ]
    if wanted.format == "prometheus":
        from gepp_audit.queue.exposition import of_report

        told = _metrics(of_report(report), wanted.file)
    else:
        told = stuck_formats.as_table(report)
    return Result(data=data, text=told, exit_code=report.status.exit_code)


def _metrics(text: str, file: str | None) -> list[str | Table]:
    """What is left to print of the metrics: nothing where they go into a file."""
    if file is None:
        return [text]
    from pathlib import Path

    from gepp_audit.heard.textfile import replace_file

    try:
        replace_file(Path(file), f"{text}\n")
    except OSError as error:
        raise OperatorError(
            f"the metrics cannot be written to {file}: {error.strerror}.",
            fix="Name a file in a folder that exists, that this user may write to, and that has room.",
            code=_FILE_ERROR,
        ) from error
    return []


def _unknown(error: OperatorError, wanted: _Wanted) -> Result:
    """A monitor wants to read on stdout that nothing could be looked at, and why."""
    from gepp_audit.cli import stuck_formats
    from gepp_audit.queue.causes.names import Status

    logs.event(logging.ERROR, "command_failed", error=error, file_only=True, code=error.code, message=error.message)
    message, fix = logs.redacted(error.message), logs.redacted(error.fix)
    if wanted.format != "table":  # where a person would not see it
        error_text(f"Error: {message}\n{fix}")
    told: list[str | Table] = list(stuck_formats.unknown_line(OperatorError(message, fix=fix, code=error.code)))
    if wanted.format == "prometheus":
        from gepp_audit.queue.exposition import of_unknown

        told = _metrics(of_unknown(), wanted.file)
    return Result(
        data={
            "status": Status.UNKNOWN.value,
            "older_than_seconds": 0 if wanted.ids else wanted.older_than,
            "stuck": [],
            "orphans": None,
            "rivals": None,
            "untaken": None,
            "error": {"code": error.code, "message": message, "fix": fix},
        },
        text=told,
        exit_code=Status.UNKNOWN.exit_code,
    )


# -- doing something about it ------------------------------------------------------------------------------------------


def _refuse_ended(report: Report) -> None:
    from gepp_audit.queue.wording import listed

    if not report.ended:
        return
    if report.untaken.batches:
        raise OperatorError(
            f"{report.untaken.seen}; so nothing was changed.",
            fix=report.untaken.fix,
            code="batch_not_taken",
            exit_code=2,
        )
    ids = tuple(one.audit_history_id for one in report.ended)
    many = len(ids) > 1
    raise OperatorError(
        f"batch{'es' if many else ''} {listed(ids)} {'are' if many else 'is'} not open, so nothing was changed.",
        fix=f"Leave {'them' if many else 'it'} out; “gepp-audit show {ids[0]}” tells how it ended.",
        code="batch_not_open",
        exit_code=2,
    )


def _named(report: Report) -> str:
    from gepp_audit.queue.wording import listed

    ids = tuple(one.batch.audit_history_id for one in report.stuck)
    return f"batch{'es' if len(ids) > 1 else ''} {listed(ids)}"


def _requeue(database: Database, report: Report, question: Question, yes: bool) -> Result:
    from gepp_audit.queue.mending import requeue

    _refuse_ended(report)
    confirm(f"Let {_named(report)} go on at once?", yes)
    done = requeue(database, [one.batch.audit_history_id for one in report.stuck], question.host)
    return Result(data=done.as_json(), text=_say_requeued(done, report))


def _say_requeued(done: Requeued, report: Report) -> list[str]:
    from gepp_audit.queue.wording import capital, counted

    told = [f"{capital(_named(report))}: {counted(done.made_due, 'waiting transaction')} may be asked now."]
    if not done.made_due:
        told = [f"{capital(_named(report))}: all that waits may be asked already."]
    if done.freed:
        told.append(f"{counted(done.freed, 'call')} of runs that are gone may be made again.")
    if done.gate_hastened:
        told.append("The provider is tried again at once.")
    if done.paused:
        told.append('The queue is paused: run "gepp-audit resume" too.')
    told.append('The next run goes on with it: cron starts it, or "gepp-audit process-queue".')
    return told


def _give_up(database: Database, report: Report, question: Question, yes: bool) -> Result:
    from gepp_audit.queue.mending import give_up
    from gepp_audit.queue.wording import counted

    _refuse_ended(report)
    left = sum(one.batch.left for one in report.stuck)
    calling = sum(one.batch.calling for one in report.stuck)
    warning = f" {counted(calling, 'call')} under way will have been paid for nothing." if calling else ""
    confirm(
        f"End {_named(report)}? {counted(left, 'transaction')} without a verdict will be failed, existing verdicts "
        f"are kept.{warning}",
        yes,
    )
    done = give_up(database, [one.batch for one in report.stuck], question.batch_statuses, _ENGINE)
    return Result(data={"given_up": [one.as_json() for one in done]}, text=[_say_given_up(one) for one in done])


def _say_given_up(done: GivenUp) -> str:
    from gepp_audit.queue.wording import counted

    head = f"Batch {done.audit_history_id}: {counted(done.given_up, 'transaction')} given up; "
    if done.outcome is None:
        return f"{head}the platform holds some of its rows at this moment, the next run writes them back and closes it."
    return f"{head}it ended as {done.outcome.value}."
