"""One invocation: the queue's run, fitted into the time that Lambda gives and ended before Lambda ends it.

    0 ............ claims ............ | one call's timeout | settle, publish, close | Lambda's deadline
                                       ^ one call's timeout and SETTLE_SECONDS before the deadline

A call that is claimed last is still answered, settled and published. What has no answer `ABANDON_SECONDS` before the
deadline (a frozen provider process) is let go, and the database is not waited for after `GIVE_UP_SECONDS` before it: an
error in words is worth more than being killed in silence, though a kill loses nothing but the calls under way either.

When the invocation returns, its connection is closed and its provider's process has ended: a frozen sandbox holds
nothing. Only what was fetched of the settings stays, in memory.
"""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from gepp_audit import logs
from gepp_audit.aws_lambda import references
from gepp_audit.aws_lambda.pings import Pings
from gepp_audit.aws_lambda.sandbox import function_name, sandbox
from gepp_audit.errors import OperatorError
from gepp_audit.model import ErrorCode
from gepp_audit.queue.configured import database_of, provider_of, run_options
from gepp_audit.queue.remedies import refusal
from gepp_audit.queue.start import process_queue
from gepp_audit.queue.stopping import Stop
from gepp_audit.queue.summary import Outcome, Summary
from gepp_audit.queue.wording import sentence
from gepp_audit.settings import Settings, load

#: seconds between the last answer and the deadline
SETTLE_SECONDS: Final = 15.0
ABANDON_SECONDS: Final = 10.0
GIVE_UP_SECONDS: Final = 5.0
#: a run that could claim for less than this is not worth its start
LEAST_CLAIM_SECONDS: Final = 3.0
#: what Lambda puts into the environment to sign requests with
_CREDENTIALS: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN")


class Context(Protocol):
    """What we need of Lambda's context object."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the process."""


class InvocationFailed(Exception):
    """The work could not be done: in our words, what happened, why, and what to do. Holds no secret."""


def invoke(context: Context) -> dict[str, Any]:
    """See `gepp_audit.aws_lambda.handler`."""
    deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000
    try:
        with logs.bound(request_id=context.aws_request_id):
            try:
                return _work(os.environ, deadline)
            except Exception as error:
                told = _in_words(error)
                logs.error("invocation_failed", error=error, code=told.code, message=told.message)
    finally:
        logs.shutdown()
    # outside of the handler above, so that nothing of the error hangs on it
    raise InvocationFailed(logs.redacted(f"{told.message} {told.fix}"))


def _work(environ: Mapping[str, str], deadline: float) -> dict[str, Any]:
    whole = deadline - time.monotonic()
    settings = _settings(environ)
    least = _least(settings)
    if whole < least:
        raise OperatorError(
            f"the function has {int(whole)} s, and one call may take {settings.call_timeout:g} s and "
            f"{SETTLE_SECONDS:g} s to be written back, so nothing was claimed.",
            fix=f"Set the function's timeout to at least {least:.0f} s, or lower GEPP_AUDIT_CALL_TIMEOUT.",
            code="function_timeout",
        )
    pings = Pings(settings.ping_url, deadline)
    try:
        summary = _run_with_fresh_settings(environ, settings, deadline, pings)
        if summary.block_reason is not None:
            if summary.block_reason is ErrorCode.KEY_REJECTED:
                references.forget()
            message, fix = refusal(summary)
            raise OperatorError(sentence(message), fix=fix, code=summary.block_reason.value)
    except Exception as error:
        told = _in_words(error)
        pings.end(well=False, body=f"Error: {told.message}\n{told.fix}")
        raise
    result = _result(summary)
    pings.end(well=not summary.failed_batches, body=f"{result}")
    return result


def _least(settings: Settings) -> float:
    """Seconds in which a run can claim a call, wait for its answer and write it back."""
    return settings.call_timeout + SETTLE_SECONDS + LEAST_CLAIM_SECONDS


def _settings(environ: Mapping[str, str]) -> Settings:
    logs.register_secrets(*(environ[name] for name in _CREDENTIALS if environ.get(name)))
    settings = load({}, references.resolved(environ), Path.cwd())
    # all events: whatever is written to stderr is the function's log
    logs.configure(
        logs.LogConfig(
            verbosity=1, format=settings.log_format or "json", file=settings.log_file, secrets=settings.secrets()
        )
    )
    return settings


def _run_with_fresh_settings(environ: Mapping[str, str], settings: Settings, deadline: float, pings: Pings) -> Summary:
    """Run; where the database lets us in no more, with what its address and password are by now."""
    try:
        return _run(settings, environ, deadline, pings)
    except OperatorError as error:
        if error.code != "database_unreachable":
            raise
        references.forget()
        if deadline - time.monotonic() < _least(settings):
            raise
        fresh = _settings(environ)
        if fresh.database_url == settings.database_url:
            raise
        logs.warning("settings_fetched_again", reason=error.message)
        return _run(fresh, environ, deadline, pings)


def _run(settings: Settings, environ: Mapping[str, str], deadline: float, pings: Pings) -> Summary:
    options = run_options(settings)
    database = database_of(settings)
    try:
        database.give_up_at = deadline - GIVE_UP_SECONDS
        stop = Stop(patience_ends=deadline - ABANDON_SECONDS)
        claiming = deadline - settings.call_timeout - SETTLE_SECONDS - time.monotonic()
        options = dataclasses.replace(
            options,
            host=settings.host or function_name(environ),
            sandbox=sandbox(),
            max_seconds=claiming if options.max_seconds is None else min(options.max_seconds, claiming),
        )
        with provider_of(settings, stop, pings.at_work) as open_provider:
            return process_queue(database, options, open_provider, stop=stop)
    finally:
        database.close()


def _result(summary: Summary) -> dict[str, Any]:
    """What was done, and what is left; of a queue that another run works on, nothing is known."""
    left = {"batches": summary.batches_in_progress, "transactions": summary.left}
    return {
        **summary.as_json(),
        "failed_batches": list(summary.failed_batches),
        "pending": None if summary.outcome is Outcome.BUSY else left,
    }


def _in_words(error: Exception) -> OperatorError:
    """An error as an operator reads it; the message of one that nobody thought of may quote anything."""
    if isinstance(error, OperatorError):
        return error
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "gepp_audit" in Path(frame.filename).parts
    ]
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return OperatorError(
        f"something happened that gepp-audit was not prepared for: {type(error).__name__}{place}.",
        fix="The function's log has the traceback of this request; report it.",
        code="unexpected",
    )
