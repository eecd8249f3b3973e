"""What the program tells while it works: events with fields, to stderr and to a log file, without secrets.

stderr stays silent below a warning, under cron and at a terminal, where a progress bar and a summary tell enough; with
-v it gets every event, readable. The log file gets the events. An event is `logs.info("run_started", concurrency=32)`:
a name of a small fixed vocabulary, and fields. Fields that are None are left out. `bound(run_id=…)` adds fields to all
events inside.

structlog is imported with the first event that is written: a run that has nothing to tell does not pay for it. A
registered secret comes out as `***` wherever it stands: in a field, nested, or in an exception's text; `redaction.py`
says how.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from gepp_audit.errors import OperatorError
from gepp_audit.plain_text import json_escaped, printable
from gepp_audit.redaction import Redactor
from gepp_audit.tracebacks import format_traceback

if TYPE_CHECKING:
    from logging.handlers import WatchedFileHandler

_NAMES: Final = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}
_RESERVED: Final = frozenset({"event", "level", "timestamp", "exception"})
_NEVER: Final = 100
#: nested deeper than this is shown as text
_DEEPEST: Final = 6


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How and where events are written."""

    #: above 0: stderr gets every event, debug ones too (-v); below 0: errors alone (-q)
    verbosity: int = 0
    #: `console` or `json` for both; None: stderr readable, the file JSON lines
    format: str | None = None
    file: Path | None = None
    colour: bool = False
    #: texts that are never written
    secrets: tuple[str, ...] = ()

    @property
    def console_level(self) -> int:
        """From which level on stderr gets events."""
        if self.verbosity < 0:
            return logging.ERROR
        if self.verbosity > 0:
            return logging.DEBUG
        return logging.WARNING

    @property
    def file_level(self) -> int:
        """From which level on the log file gets events."""
        if self.file is None:
            return _NEVER
        return logging.DEBUG if self.verbosity > 0 else logging.INFO


class _State:
    """What `configure` has set, and the pipeline built from it when the first event needs it."""

    def __init__(self) -> None:
        self.config = LogConfig()
        self.redactor = Redactor()
        #: below this no output wants an event
        self.least: int = logging.WARNING
        self.logger: Any = None
        self.handler: WatchedFileHandler | None = None
        self.bridge: logging.Handler | None = None
        #: the log file refused a line; told once
        self.file_failed = False
        self.console: Callable[[str], None] | None = None
        self.wanted: Callable[[str, Mapping[str, Any]], bool] | None = None


_state: Final = _State()
_context: Final[ContextVar[Mapping[str, Any]]] = ContextVar("gepp_audit_log_context", default=MappingProxyType({}))


# -- setting up --------------------------------------------------------------------------------------------------------


def configure(config: LogConfig) -> None:
    """Write events as `config` says from now on; may be called again. OperatorError: the log file cannot be opened."""
    if config.file is not None:
        _require_writable(config.file)
    shutdown()
    _state.config = config
    _state.least = min(config.console_level, config.file_level)
    register_secrets(*config.secrets)
    _state.bridge = _Bridge(level=logging.WARNING)
    logging.getLogger().addHandler(_state.bridge)


def register_secrets(*secrets: str) -> None:
    """Never write these texts, nor their form in a URL. They stay registered until the process ends."""
    _state.redactor.register(*secrets)


def shutdown() -> None:
    """Close the log file and go back to what holds before `configure`."""
    if _state.handler is not None:
        _state.handler.close()
    if _state.bridge is not None:
        logging.getLogger().removeHandler(_state.bridge)
    _state.handler = _state.bridge = _state.logger = None
    _state.file_failed = False
    _state.config = LogConfig()
    _state.least = logging.WARNING


@contextlib.contextmanager
def console_through(write: Callable[[str], None]) -> Iterator[None]:
    """Inside, the lines for stderr go to `write` instead: who draws a progress bar there places them above it."""
    before, _state.console = _state.console, write
    try:
        yield
    finally:
        _state.console = before


@contextlib.contextmanager
def console_where(wanted: Callable[[str, Mapping[str, Any]], bool]) -> Iterator[None]:
    """Inside, an event goes to stderr only where `wanted(name, fields)` says so; the log file gets it all the same."""
    before, _state.wanted = _state.wanted, wanted
    try:
        yield
    finally:
        _state.wanted = before


def file_works() -> bool | None:
    """Whether the log file took what was written since `configure`; None: nothing was."""
    return None if _state.handler is None else not _state.file_failed


def _is_wanted(name: str, fields: Mapping[str, Any]) -> bool:
    return _state.wanted is None or _state.wanted(name, fields)


def _require_writable(path: Path) -> None:
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise OperatorError(
            f"cannot write the log file {path}: {error.strerror or type(error).__name__}.",
            fix="Create its folder, give this user the right to write there, or name another file "
            "(--log-file, GEPP_AUDIT_LOG_FILE).",
            code="log_file",
        ) from error


# -- telling -----------------------------------------------------------------------------------------------------------


def debug(name: str, /, **fields: Any) -> None:
    """An event for who searches for a fault (-v)."""
    event(logging.DEBUG, name, **fields)


def info(name: str, /, **fields: Any) -> None:
    """An event of ordinary work."""
    event(logging.INFO, name, **fields)


def warning(name: str, /, **fields: Any) -> None:
    """Something that a person should know of; cron mails it."""
    event(logging.WARNING, name, **fields)


def error(name: str, /, **fields: Any) -> None:
    """Something that a person must mend."""
    event(logging.ERROR, name, **fields)


def event(
    level: int, name: str, /, *, error: BaseException | str | None = None, file_only: bool = False, **fields: Any
) -> None:
    """Write one event.

    `level`: as in `logging`. `error`: an exception, whose traceback is added, or words, which are a field like others.
    `file_only`: not to stderr, the caller tells it there.
    """
    if level < (_state.config.file_level if file_only else _state.least):
        return
    if isinstance(error, str):
        error, fields["error"] = None, error
    if _state.logger is None:
        _state.logger = _build()
    given = {**_context.get(), **fields}
    told = {f"{key}_" if key in _RESERVED else key: value for key, value in given.items() if value is not None}
    getattr(_state.logger, _NAMES.get(level, "info"))(name, _error=error, _file_only=file_only, **told)


@contextlib.contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Inside, every event of this thread (or task) carries these fields."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def bind(**fields: Any) -> None:
    """From now on every event of this thread (or task) carries these fields."""
    _context.set({**_context.get(), **fields})


def redacted(text: str) -> str:
    """`text` without the registered secrets."""
    return _state.redactor.redacted(text)


# -- the pipeline ------------------------------------------------------------------------------------------------------


def _build() -> Any:
    import structlog

    config = _state.config
    renderers: dict[str, Callable[[dict[str, Any]], str]] = {"json": _json_line}
    if "console" in (config.format or "console"):
        plain = structlog.dev.ConsoleRenderer(
            colors=config.colour, sort_keys=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
        renderers["console"] = lambda told: str(plain(None, "", _for_people(told)))
    return structlog.wrap_logger(
        _Outputs(renderers[config.format or "console"], renderers[config.format or "json"]),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_traceback,
            _plain_and_redacted,
            lambda _logger, _method, told: ((told,), {}),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )


class _Outputs:
    """The end of the pipeline: each event goes to stderr and to the file as far as their levels let it."""

    def __init__(self, for_console: Callable[[dict[str, Any]], str], for_file: Callable[[dict[str, Any]], str]) -> None:
        self._for_console = for_console
        self._for_file = for_file

    def debug(self, told: dict[str, Any]) -> None:
        self._deliver(logging.DEBUG, told)

    def info(self, told: dict[str, Any]) -> None:
        self._deliver(logging.INFO, told)

    def warning(self, told: dict[str, Any]) -> None:
        self._deliver(logging.WARNING, told)

    def error(self, told: dict[str, Any]) -> None:
        self._deliver(logging.ERROR, told)

    def _deliver(self, level: int, told: dict[str, Any]) -> None:
        file_only = told.pop("_file_only", False)
        if level >= _state.config.file_level:
            _write_file(self._for_file(told))
        if level >= _state.config.console_level and not file_only and _is_wanted(told["event"], told):
            _write_console(self._for_console(_without_traceback(told)))


def _add_traceback(_logger: Any, _method: str, told: MutableMapping[str, Any]) -> Mapping[str, Any]:
    failure = told.pop("_error", None)
    if failure is not None:
        told["exception"] = format_traceback(failure)
    return told


def _plain_and_redacted(_logger: Any, _method: str, told: MutableMapping[str, Any]) -> Mapping[str, Any]:
    first = {"timestamp": told.pop("timestamp"), "level": told.pop("level")}
    first["event"] = redacted(str(told.pop("event")))
    return first | {key: _plain(value, 0, key) for key, value in told.items()}


def _plain(value: Any, depth: int, field: str) -> Any:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str):
        return _state.redactor.redacted(str(value.value) if isinstance(value, Enum) else value, field=field)
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return {redacted(str(key)): _plain(inner, depth + 1, str(key)) for key, inner in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray) and depth < _DEEPEST:
        return [_plain(inner, depth + 1, field) for inner in value]
    if isinstance(value, date):
        return value.isoformat()
    return _state.redactor.redacted(format(value, "f") if isinstance(value, Decimal) else str(value), field=field)


def _json_line(told: dict[str, Any]) -> str:
    return json_escaped(json.dumps(told, ensure_ascii=False, separators=(",", ":")))


def _without_traceback(told: dict[str, Any]) -> dict[str, Any]:
    if _state.config.verbosity > 0:
        return told
    return {key: value for key, value in told.items() if key != "exception"}


def _for_people(told: dict[str, Any]) -> dict[str, Any]:
    shown = {
        key: printable(value, one_line=key != "exception") if isinstance(value, str) else value
        for key, value in told.items()
    }
    shown["timestamp"] = f"{shown['timestamp'][:19]}Z"
    return shown


# -- writing -----------------------------------------------------------------------------------------------------------


def _write_console(line: str) -> None:
    if _state.console is not None:
        _state.console(line)
        return
    # a closed stderr is no reason to stop working
    with contextlib.suppress(OSError, ValueError, AttributeError):
        encoding = sys.stderr.encoding or "utf-8"
        sys.stderr.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
        sys.stderr.flush()


def _write_file(line: str) -> None:
    if _state.handler is None:
        _state.handler = _open_file(_state.config.file or Path())
    _state.handler.handle(logging.makeLogRecord({"msg": line}))


def _open_file(path: Path) -> WatchedFileHandler:
    from logging.handlers import WatchedFileHandler

    class LogFile(WatchedFileHandler):
        """A file that may be rotated under us, and that may fail without stopping the work."""

        def emit(self, record: logging.LogRecord) -> None:
            try:
                super().emit(record)
            except OSError:  # from the look whether the file was rotated
                self.handleError(record)

        def close(self) -> None:
            with contextlib.suppress(OSError):
                super().close()

        def handleError(self, record: logging.LogRecord) -> None:
            if not _state.file_failed:
                _state.file_failed = True
                failure = sys.exception()
                why = getattr(failure, "strerror", None) or type(failure).__name__
                if not _is_wanted("log_file_not_written", {}):
                    return
                _write_console(f"gepp-audit: cannot write the log file {path}: {why}. The work goes on without it.")

    return LogFile(path, encoding="utf-8", errors="backslashreplace", delay=True)


class _Bridge(logging.Handler):
    """What a library logs from a warning on becomes an event: redacted, and silent where ours are."""

    def emit(self, record: logging.LogRecord) -> None:
        failure = record.exc_info[1] if record.exc_info else None
        level = logging.ERROR if record.levelno >= logging.ERROR else logging.WARNING
        event(level, "library_warning", error=failure, library=record.name, message=record.getMessage())
