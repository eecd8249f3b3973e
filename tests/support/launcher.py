"""Starts the program in a process that dies, stops or starves at a chosen point; the program knows nothing of it.

    python -m tests.support.launcher process-queue …          with GEPP_TEST_TROUBLE='{"at": "statement:120"}'

`at` is what is counted, and at the how-manieth pass the trouble comes:
    NAME:N          before the N-th pass of a step of `STEPS`, such as `settle:3`
    NAME.after:N    after it, when its work is done (inside a transaction: not yet committed)
    statement:N     before the N-th statement that is sent to the database, `statement.after:N` behind it
    commit:N        before the N-th commit, `commit.after:N` when it has succeeded
    prompt:ID       when the prompt of the transaction with this id is built, at each pass

`do`: `kill` (SIGKILL of this process alone, the default), `kill_group`, or `stop` (SIGSTOP of this process alone).
`pages`: SQLite may not grow by more than so many pages: the disk is full, as far as it can see.
`file_bytes`: no file may grow beyond this size (RLIMIT_FSIZE).
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, SupportsIndex

VARIABLE: Final = "GEPP_TEST_TROUBLE"
#: the borders of the way of the data: a function or method of the product by its name here
STEPS: Final[Mapping[str, str]] = {
    "begin": "gepp_audit.database.runs:start",
    "bury": "gepp_audit.database.runs:bury",
    "discover": "gepp_audit.database.batches:discover",
    "fan_out": "gepp_audit.database.batches:fan_out",
    "withdraw": "gepp_audit.database.batches:withdraw",
    "expire": "gepp_audit.database.items:expire",
    "claim": "gepp_audit.database.items:claim",
    "turn": "gepp_audit.queue.run:Run.settle_and_claim",
    "prepare": "gepp_audit.queue.asking:prepare",
    "ask": "gepp_audit.queue.run:Run.ask",
    "settle": "gepp_audit.database.settling:settle",
    "publish": "gepp_audit.database.publish:publish",
    "write_back": "gepp_audit.queue.run:Run.write_back",
    "put_back": "gepp_audit.database.unqueue:put_back",
    "close": "gepp_audit.database.closing:close",
    "sweep": "gepp_audit.queue.run:Run.sweep",
    "finish": "gepp_audit.database.runs:finish",
}


def trouble(at: str, *, do: str = "kill", **more: Any) -> dict[str, str]:
    """The environment in which the launcher makes this trouble."""
    return {VARIABLE: json.dumps({"at": at, "do": do, **more})}


def starved(**limits: int) -> dict[str, str]:
    """The environment in which the launcher lets the database's file grow no further."""
    return {VARIABLE: json.dumps(limits)}


class Trouble:
    """Comes at the n-th pass of one point."""

    def __init__(self, do: str, passes: int) -> None:
        self._do = do
        self._left = passes

    def passed(self) -> None:
        """One more pass."""
        self._left -= 1
        if self._left == 0:
            strike(self._do)


def strike(do: str) -> None:
    """End or stop this process, with no chance to tidy up."""
    if do == "kill_group":
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP if do == "stop" else signal.SIGKILL)


def wrap(target: str, *, before: Callable[..., None] | None = None, after: Callable[[], None] | None = None) -> None:
    """Put a function before or after `module:name` or `module:Class.name`, wherever the product has imported it."""
    module_name, _, path = target.partition(":")
    holder: Any = importlib.import_module(module_name)
    *owners, name = path.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    original = getattr(holder, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        result = original(*args, **kwargs)
        if after is not None:
            after()
        return result

    setattr(holder, name, wrapped)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("gepp_audit") and getattr(module, name, None) is original:
            setattr(module, name, wrapped)


def _arm(at: str, do: str) -> None:
    point, _, number = at.rpartition(":")
    if point == "prompt":
        wanted = number

        def look(payload: Mapping[str, Any], *_: Any) -> None:
            if str(payload["transaction_id"]) == wanted:
                strike(do)

        wrap("gepp_audit.audit.prompt:render_transaction", before=look)
        return
    passed = Trouble(do, int(number)).passed
    name, _, moment = point.partition(".")
    if name in ("statement", "commit"):
        _arm_database(name, passed, after=moment == "after")
    elif moment == "after":
        wrap(STEPS[name], after=passed)
    else:
        wrap(STEPS[name], before=lambda *_, **__: passed())


def _arm_database(name: str, passed: Callable[[], None], *, after: bool) -> None:
    if name == "commit":
        from sqlalchemy.engine.default import DefaultDialect

        # for both kinds of database; "before" and "after" are the two sides of the driver's own commit
        original: Any = DefaultDialect.do_commit

        def commit(dialect: Any, connection: Any) -> None:
            if not after:
                passed()
            original(dialect, connection)
            if after:
                passed()

        DefaultDialect.do_commit = commit  # type: ignore[method-assign]
        return
    from sqlalchemy import Engine, event

    event.listen(Engine, "after_cursor_execute" if after else "before_cursor_execute", lambda *_: passed())


def _starve(pages: int | None, file_bytes: int | None) -> None:
    if pages is not None:
        from sqlalchemy import Engine, event

        def limit(connection: Any, _record: Any) -> None:
            used = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {used + pages}")

        event.listen(Engine, "connect", limit)
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def _sleep(seconds: SupportsIndex | float) -> None:
    """As `time.sleep`, without clock_nanosleep(2), which libfaketime answers with EINVAL."""
    select.select([], [], [], max(float(seconds), 0.0))


def main() -> None:
    """Arm, then be the program."""
    if "FAKETIME" in os.environ:
        time.sleep = _sleep
    os.setpgid(0, 0)  # so that the whole group can be struck, and nobody else
    wanted = json.loads(os.environ.pop(VARIABLE, "{}"))
    if "at" in wanted:
        _arm(wanted["at"], wanted.get("do", "kill"))
    _starve(wanted.get("pages"), wanted.get("file_bytes"))
    from gepp_audit.cli import run

    sys.argv[0] = "gepp-audit"
    run()


if __name__ == "__main__":
    main()
