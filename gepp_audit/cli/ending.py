"""How an invocation ends: its result is rendered, its error told, and both become an exit code.

0 done · 1 could not work · 2 wrong usage · 3 worked, but a batch ended failed · 130 interrupted. A monitoring
plugin that cannot work says 3 (unknown). An error is a sentence on stderr, with `--json` also an object on stdout; its
traceback, without local variables, comes with -v and in the log file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from gepp_audit import logs
from gepp_audit.cli import render, usage_words
from gepp_audit.cli.app import App
from gepp_audit.errors import OperatorError
from gepp_audit.tracebacks import format_traceback

_UNKNOWN: Final = 3
_INTERRUPTED: Final = 130


#: a write that names no file went to stdout or stderr
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_to_exit_code(app: App, invoke: Callable[[], Any]) -> int:
    """Run `invoke`, render what it returns (a Result, or an exit code of click), and return the exit code."""
    try:
        with logs.bound(), logs.console_where(app.mail.wants_event):
            return _guarded(app, invoke)
    finally:
        logs.shutdown()


def _guarded(app: App, invoke: Callable[[], Any]) -> int:
    try:
        returned = invoke()
        if not isinstance(returned, render.Result):
            return returned if isinstance(returned, int) else 0
        try:
            render.emit(returned, app.as_json)
        except BrokenPipeError:  # who read our output has seen enough; the work is done all the same
            _close_stdout()
        return returned.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        render.error_text(error.ctx.get_help() if error.ctx is not None else error.format_message())
        return error.exit_code
    except click.ClickException as error:
        return _told_usage(app, error)
    except click.Abort as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            return _INTERRUPTED
        return _told(app, OperatorError("not confirmed, nothing was done.", fix="", code="not_confirmed"), error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OperatorError as error:
        return _told(app, error, error)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        return _told(app, in_words(error), error)


def _told(app: App, told: OperatorError, error: BaseException) -> int:
    exit_code = _UNKNOWN if app.monitoring else told.exit_code
    with contextlib.suppress(Exception):
        logs.event(40, "command_failed", error=error, file_only=True, code=told.code, message=told.message)
    if app.verbosity > 0:
        render.error_text(logs.redacted(format_traceback(error)))
    message, fix = logs.redacted(told.message), logs.redacted(told.fix)
    if app.mail.wants_error(told.code):
        render.error_text(f"Error: {message}" + (f"\n{fix}" if fix else ""))
    _emit_error(app, told.code, message, fix)
    return exit_code


def _told_usage(app: App, error: click.ClickException) -> int:
    message = logs.redacted(usage_words.in_words(error))
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "gepp-audit"
    fix = f'See "{path} --help".'
    usage = f"{context.get_usage()}\n" if context is not None else ""
    if app.mail.wants_error("usage"):
        render.error_text(f"{usage}Error: {message}\n{fix}")
    _emit_error(app, "usage" if isinstance(error, click.UsageError) else "error", message, fix)
    return _UNKNOWN if app.monitoring else error.exit_code


def _emit_error(app: App, code: str, message: str, fix: str) -> None:
    if not app.as_json:
        return
    try:
        render.emit(render.Result(data={"error": {"code": code, "message": message, "fix": fix}}), True)
    except OSError:
        _close_stdout()


def in_words(error: Exception) -> OperatorError:
    """An error as an operator reads it. One that nobody thought of may quote anything, so its message is not shown."""
    if isinstance(error, OperatorError):
        return error
    if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
        return OperatorError(
            f"the output could not be written: {error.strerror}.",
            fix="Free some space where it goes, then run the command again.",
            code="output",
        )
    if isinstance(error, OSError) and error.strerror:
        return OperatorError(
            f"the system refused something: {error.strerror}.",
            fix="Look whether the disk is full or a file's rights are missing; with -v the place is shown.",
            code="system",
        )
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "gepp_audit" in Path(frame.filename).parts
    ]
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return OperatorError(
        f"something happened that gepp-audit was not prepared for: {type(error).__name__}{place}.",
        fix="Run the command again with -v (it stands before the command) to see where, and report it.",
        code="unexpected",
    )


def _close_stdout() -> None:
    """Let the interpreter's last flush of a broken stdout go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
