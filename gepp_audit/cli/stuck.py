"""`gepp-audit stuck`: which batches do not move, why, and what to do; with --requeue or --fail it does it.

Also a monitoring plugin: exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and its first line says so.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

import click

from gepp_audit import logs
from gepp_audit.cli.app import App, is_terminal
from gepp_audit.cli.options import DURATION, ID, json_option
from gepp_audit.cli.render import Result, error_text
from gepp_audit.errors import OperatorError

if TYPE_CHECKING:
    from gepp_audit.database.engine import Database
    from gepp_audit.queue.inspecting import Question, Report
    from gepp_audit.queue.mending import GivenUp, Requeued

_ENGINE: Final = "openai"
_FORMATS: Final = ("table", "json", "prometheus")


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
@click.option("--format", "output", type=click.Choice(_FORMATS), help="How to print it; default: table.")
@click.option("--requeue", is_flag=True, help="Let the batches of these IDs go on at once.")
@click.option("--fail", "give_up", is_flag=True, help="End the batches of these IDs: what has no verdict is failed.")
@click.option("--yes", is_flag=True, help="Do not ask before --requeue or --fail.")
@json_option
@click.pass_obj
def stuck(
    app: App, batches: tuple[int, ...], older_than: int, output: str | None, requeue: bool, give_up: bool, yes: bool
) -> Result:
    """Say which open batches do not move, why, and what to do.

    Without IDs: those that have been open for long; with IDs: these, of any age. Changes nothing unless --requeue or
    --fail is given. Every 'slow', 'retrying' and 'paused' is a WARNING, every other cause is CRITICAL.

    \b
    Exit codes: 0 OK · 1 WARNING · 2 CRITICAL · 3 UNKNOWN (also: wrong usage, no database)
    """
    output = _output(app, output)
    _check(batches, output, requeue=requeue, give_up=give_up, yes=yes)
    ids = tuple(dict.fromkeys(batches))
    try:
        return _answer(app, ids, older_than, output, requeue=requeue, give_up=give_up, yes=yes)
    except OperatorError as error:
        if requeue or give_up:
            raise
        return _unknown(error, 0 if ids else older_than, output)


def _output(app: App, output: str | None) -> str:
    """The format in force: --json is --format json."""
    if app.as_json and output not in (None, "json"):
        raise click.UsageError(f"--json and --format {output} exclude each other.")
    if output == "json":
        app.as_json = True
    return "json" if app.as_json else output or "table"


def _check(batches: tuple[int, ...], output: str, *, requeue: bool, give_up: bool, yes: bool) -> None:
    if requeue and give_up:
        raise click.UsageError("--requeue and --fail exclude each other.")
    if not requeue and not give_up:
        if yes:
            raise click.UsageError("--yes goes with --requeue or --fail.")
        return
    what = "--requeue" if requeue else "--fail"
    if not batches:
        raise click.UsageError(f"{what} needs the IDs of the batches.")
    if output == "prometheus":
        raise click.UsageError(f"{what} and --format prometheus exclude each other.")
    if not yes and not _can_ask():
        raise click.UsageError(f"{what} asks first, and there is no terminal to ask at; add --yes if you are sure.")


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and is_terminal(sys.stderr)


def _answer(
    app: App, ids: tuple[int, ...], older_than: int, output: str, *, requeue: bool, give_up: bool, yes: bool
) -> Result:
    from gepp_audit.queue.inspecting import Question, inspect

    settings = app.settings
    question = Question(older_than=older_than, batch_statuses=settings.batch_statuses, ids=ids, host=settings.host)
    database = app.open_database()
    try:
        report = inspect(database, question)
        if requeue:
            return _requeue(database, report, question, yes)
        if give_up:
            return _give_up(database, report, question, yes)
    finally:
        database.close()
    return _result(report, output)


def _result(report: Report, output: str) -> Result:
    from gepp_audit.cli import stuck_formats

    told = (stuck_formats.as_prometheus(report),) if output == "prometheus" else stuck_formats.as_table(report)
    data = report.as_json()
    if report.ended:
        data["ended"] = [
            {"audit_history_id": one.audit_history_id, "status": one.status, "completed_at": one.completed_at}
            for one in report.ended
        ]
    return Result(data=data, text=told, exit_code=report.status.exit_code)


def _unknown(error: OperatorError, older_than: int, output: str) -> Result:
    """A monitor wants to read on stdout that nothing could be looked at, and why."""
    from gepp_audit.cli import stuck_formats
    from gepp_audit.queue.diagnosis import Status

    logs.event(logging.ERROR, "command_failed", error=error, file_only=True, code=error.code, message=error.message)
    message, fix = logs.redacted(error.message), logs.redacted(error.fix)
    if output != "table":  # where a person would not see it
        error_text(f"Error: {message}\n{fix}")
    shown = OperatorError(message, fix=fix, code=error.code)
    return Result(
        data={
            "status": Status.UNKNOWN.value,
            "older_than_seconds": older_than,
            "stuck": [],
            "error": {"code": error.code, "message": message, "fix": fix},
        },
        text=(stuck_formats.unknown_prometheus(),) if output == "prometheus" else stuck_formats.unknown_line(shown),
        exit_code=Status.UNKNOWN.exit_code,
    )


# -- doing something about it ------------------------------------------------------------------------------------------


def _refuse_ended(report: Report) -> None:
    from gepp_audit.queue.wording import listed

    if not report.ended:
        return
    ids = tuple(one.audit_history_id for one in report.ended)
    many = len(ids) > 1
    raise OperatorError(
        f"batch{'es' if many else ''} {listed(ids)} {'are' if many else 'is'} not open, so nothing was changed.",
        fix=f"Leave {'them' if many else 'it'} out; “gepp-audit show {ids[0]}” tells how it ended.",
        code="batch_not_open",
        exit_code=2,
    )


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)


def _named(report: Report) -> str:
    from gepp_audit.queue.wording import listed

    ids = tuple(one.batch.audit_history_id for one in report.stuck)
    return f"batch{'es' if len(ids) > 1 else ''} {listed(ids)}"


def _requeue(database: Database, report: Report, question: Question, yes: bool) -> Result:
    from gepp_audit.queue.mending import requeue

    _refuse_ended(report)
    _confirm(f"Let {_named(report)} go on at once?", yes)
    done = requeue(database, [one.batch.audit_history_id for one in report.stuck], question.host)
    return Result(data=done.as_json(), text=_say_requeued(done, report))


def _say_requeued(done: Requeued, report: Report) -> list[str]:
    from gepp_audit.queue.wording import capital, counted

    told = [f"{capital(_named(report))}: {counted(done.made_due, 'waiting transaction')} may be asked now."]
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
    _confirm(
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
