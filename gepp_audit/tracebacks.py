"""Tracebacks that may be shown: no local variables, and no message of a library that quotes values or keys."""

from __future__ import annotations

import traceback
from typing import Final

#: packages whose messages quote rows, statements, addresses or keys
_QUOTING: Final = frozenset(
    (
        "sqlalchemy",
        "psycopg2",
        "sqlite3",
        "alembic",
        "openai",
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "pydantic_core",
    )
)
#: a chain longer than this is a loop of a library's making
_LONGEST_CHAIN: Final = 20


def format_traceback(error: BaseException) -> str:
    """The traceback of `error` and of what caused it, oldest first, as Python prints it."""
    chain: list[tuple[BaseException, str]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < _LONGEST_CHAIN and all(current is not seen for seen, _ in chain):
        cause, context = current.__cause__, current.__context__
        hidden = cause is None and current.__suppress_context__
        joint = "" if cause is None and (context is None or hidden) else _joint(cause is not None)
        chain.append((current, joint))
        current = cause if cause is not None else None if hidden else context
    return "".join(f"{joint}{_one(one)}" for one, joint in reversed(chain)).rstrip("\n")


def _joint(caused: bool) -> str:
    if caused:
        return "\nThe above exception was the direct cause of the following exception:\n\n"
    return "\nDuring handling of the above exception, another exception occurred:\n\n"


def _one(error: BaseException) -> str:
    lines = ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__)]
    lines.append(f"{describe(error)}\n")
    if isinstance(error, BaseExceptionGroup):
        for number, inner in enumerate(error.exceptions, 1):
            told = format_traceback(inner).replace("\n", "\n    ")
            lines.append(f"  {number} of {len(error.exceptions)}:\n    {told}\n")
    return "".join(lines)


def describe(error: BaseException) -> str:
    """The last line of a traceback: the kind of `error`, and its message unless that may quote secrets."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.partition(".")[0] in _QUOTING:
        state = getattr(error, "pgcode", None) or getattr(error, "sqlite_errorname", None)
        return f"{name} ({state}; message withheld)" if isinstance(state, str) else f"{name} (message withheld)"
    try:
        message = str(error)
    except Exception:
        message = "(message unreadable)"
    return f"{name}: {message}" if message else name
