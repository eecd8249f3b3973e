"""`gepp-audit process-queue`: the line in the crontab, and the same by hand."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from gepp_audit import logs
from gepp_audit.cli.app import App, is_terminal, wants_colour
from gepp_audit.cli.options import COUNT, SECONDS, json_option, organizations_option
from gepp_audit.cli.render import Result, Table, error_text

if TYPE_CHECKING:
    from gepp_audit.cli.heard import Tick
    from gepp_audit.queue.forecast import Forecast
    from gepp_audit.queue.options import Listener, RunOptions
    from gepp_audit.queue.stopping import Stop
    from gepp_audit.queue.summary import Summary


@click.command("process-queue")
@click.option("--max-batches", type=COUNT, metavar="N", help="Work on at most N batches, oldest first.")
@click.option("--max-transactions", type=COUNT, metavar="N", help="Ask about at most N transactions.")
@click.option("--max-seconds", type=SECONDS, metavar="S", help="Take no more work after S seconds.")
@click.option("--concurrency", type=COUNT, metavar="N", help="Calls under way at the same time.")
@organizations_option
@click.option("--model", metavar="M", help="Ask this model.")
@click.option("--dry-run", is_flag=True, help="Show what there is to do and what it would cost; buy nothing.")
@click.option("--progress/--no-progress", default=None, help="Draw a progress bar; default: at a terminal.")
@json_option
@click.pass_obj
def process_queue(
    app: App,
    max_batches: int | None,
    max_transactions: int | None,
    max_seconds: float | None,
    concurrency: int | None,
    organizations: tuple[int, ...],
    model: str | None,
    dry_run: bool,
    progress: bool | None,
) -> Result:
    """Audit what is queued, write the verdicts back, and close the batches.

    Safe to start at any time and on any number of hosts; silent where there is nothing to do.
    """
    from gepp_audit.queue.configured import run_options

    settings = app.load(max_seconds=max_seconds, concurrency=concurrency, model=model)
    options = run_options(
        settings, organizations=organizations, max_batches=max_batches, max_transactions=max_transactions
    )
    if dry_run:
        return _dry_run(app, options)
    from gepp_audit.cli.heard import heard

    wanted = wants_colour(sys.stderr) and app.verbosity >= 0 if progress is None else progress
    with heard(app, settings) as tick:
        summary, stop = _run(app, options, wanted, tick)
        result = _result(app, summary, stop, quiet=not is_terminal(sys.stderr) or app.verbosity < 0)
        tick.ended(summary, result.exit_code, _for_who_was_not_there(summary))
    return result


def _dry_run(app: App, options: RunOptions) -> Result:
    from gepp_audit.queue.forecast import forecast

    database = app.open_database()
    try:
        return _forecast_result(forecast(database, options))
    finally:
        database.close()


def _run(app: App, options: RunOptions, progress: bool, tick: Tick) -> tuple[Summary, Stop]:
    from gepp_audit.queue.configured import glance_of, provider_of
    from gepp_audit.queue.stopping import GRACE_SECONDS, Stop

    stop = Stop()
    with (
        contextlib.closing(glance_of(app.settings, options)) as seen,
        provider_of(app.settings, stop, tick.at_work, expected=seen.work) as open_provider,
        contextlib.closing(app.open_database(seen=seen)) as database,
        _listener(progress) as listener,
    ):
        from gepp_audit.queue.start import process_queue as run_queue

        stop.tells(partial(database.give_up_within, GRACE_SECONDS))
        stop.install()
        return run_queue(database, options, open_provider, stop=stop, listener=listener), stop


@contextlib.contextmanager
def _listener(progress: bool) -> Iterator[Listener | None]:
    if not progress:
        yield None
        return
    from gepp_audit.cli.progress import progress_bar

    with progress_bar() as listener:
        yield listener


def _result(app: App, summary: Summary, stop: Stop, *, quiet: bool) -> Result:
    if summary.block_reason is not None:
        return _blocked(app, summary)
    code = stop.exit_code if stop.requested else 3 if summary.failed_batches else 0
    if quiet:
        said = (_failed_batches(tuple(summary.failed_batches)),) if summary.failed_batches else ()
        return Result(data=summary.as_json(), text=said, exit_code=code)
    return Result(data=summary.as_json(), text=_say(summary), exit_code=code)


def _failed_batches(ids: tuple[int, ...]) -> str:
    """What cron mails of them, beside the reason that each had."""
    from gepp_audit.queue.wording import listed

    if len(ids) == 1:
        return f"Batch {ids[0]} ended failed; see “gepp-audit show {ids[0]}”."
    return f"{len(ids)} batches ended failed ({listed(ids)}); see “gepp-audit show BATCH”."


def _blocked(app: App, summary: Summary) -> Result:
    """The provider refuses us: what was done until then, and on stderr what to do."""
    from gepp_audit.queue.remedies import refusal

    message, fix = refusal(summary)
    if app.mail.wants_error(str(summary.block_reason)):
        error_text(logs.redacted(f"Error: {message}\n{fix}"))
    logs.event(40, "run_blocked", file_only=True, reason=summary.block_reason, message=message)
    error = {"code": summary.block_reason, "message": logs.redacted(message), "fix": fix}
    return Result(data=summary.as_json() | {"error": error}, exit_code=1)


def _for_who_was_not_there(summary: Summary) -> list[str]:
    """The run in words, what went wrong first."""
    said = [line for line in _say(summary) if isinstance(line, str)]
    if summary.failed_batches:
        said.insert(0, _failed_batches(tuple(summary.failed_batches)))
    if summary.block_reason is not None:
        from gepp_audit.queue.remedies import refusal

        message, fix = refusal(summary)
        said[:0] = [f"Error: {message}", fix]
    return said


def _say(summary: Summary) -> list[str | Table]:
    if summary.outcome == "idle":
        return ["Nothing to do."]
    if summary.outcome == "busy":
        return [f"Another run of this host is at work ({summary.busy_run}); it does what there is to do."]
    from gepp_audit.queue.wording import counted

    cost = "unknown" if summary.cost is None else f"{summary.cost:.4f} USD"
    tokens = summary.input_tokens + summary.output_tokens
    lines: list[str | Table] = [
        f"{summary.approved} approved, {summary.rejected} rejected, {summary.undecided} undecided, "
        f"{summary.failed} failed, {summary.skipped} skipped.",
        f"{counted(summary.calls, 'call')} ({summary.retries} to be repeated), {counted(tokens, 'token')} "
        f"({summary.cached_tokens} from the prompt cache), cost {cost}, {summary.seconds:.1f} s.",
        f"Batches: {summary.batches_completed} completed, {len(summary.failed_batches)} failed, "
        f"{summary.batches_in_progress} still in progress.",
    ]
    if summary.obstacle is not None:
        lines.append(summary.obstacle.message)
    if summary.outcome == "interrupted":
        lines.append(f"Stopped by a signal; {counted(summary.released, 'call')} released.")
    return lines


def _forecast_result(expected: Forecast) -> Result:
    rows = [
        (
            batch.audit_history_id,
            batch.organization_id,
            batch.calls,
            batch.input_tokens,
            batch.output_tokens,
            batch.cost,
        )
        for batch in expected.batches
    ]
    if not rows:
        return Result(data=expected.as_json(), text=("Nothing to do.",))
    told = expected.as_json()
    cost = "an unknown sum" if expected.cost is None else f"about {expected.cost:.4f} USD"
    return Result(
        data=told,
        text=(
            Table(columns=("BATCH", "ORGANIZATION", "CALLS", "INPUT TOKENS", "OUTPUT TOKENS", "USD"), rows=rows),
            f"{told['calls']} calls to {expected.model} would cost {cost} without the prompt cache, with it less. "
            "Nothing was bought.",
            *(obstacle.message for obstacle in expected.held),
        ),
    )
