"""How a run is told to stop: by a signal, its own or that of the server it works in, by its time, or by a refusing
provider.

The first SIGTERM, SIGINT or SIGHUP stops the claiming; what is paid for is waited for, at most `GRACE_SECONDS`. The
second one leaves at once: whatever was in flight is seen to be gone by the next run of this host, or ends with its
lease.

Where something outside ends the process at a known moment, `patience_ends` is set: from then on nothing is waited for.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

GRACE_SECONDS: Final = 20.0


class Stop:
    """Whether, and since when, a run is to stop."""

    def __init__(self, *, patience_ends: float | None = None) -> None:
        """`patience_ends`: when (monotonic) calls in flight are given up, whatever else holds; None: never."""
        self.signal: int | None = None
        self._patience_ends = patience_ends
        self._since = 0.0
        #: a queue and no event: its `put` may be called in a signal handler while `sleep` waits
        self._arrived: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._told: list[Callable[[], None]] = []

    def install(self) -> None:
        """Let SIGTERM, SIGINT and SIGHUP of this process arrive here; what nohup ignores stays ignored."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if (
            signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        ):  # a terminal that is closed is no reason to lose calls
            signal.signal(signal.SIGHUP, self._on_signal)

    def request(self, number: int = signal.SIGTERM) -> None:
        """Stop as for the signal `number`, which somebody else received. For other threads and for signal handlers."""
        if self.signal is not None:
            return
        self._since = time.monotonic()
        self.signal = number
        self._arrived.put(None)
        for tell in self._told:
            tell()

    def tells(self, whom: Callable[[], None]) -> None:
        """Whom to call, in a signal handler or another thread, when a stop is asked for: what the run waits for."""
        self._told.append(whom)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            _tell("Left at once; the calls under way will be asked again.")
            os._exit(128 + number)
        _tell(
            f"Stopping: answers that are paid for are waited for, {GRACE_SECONDS:.0f} s at most; again leaves at once."
        )
        self.request(number)

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until a signal arrives."""
        with contextlib.suppress(queue.Empty):
            self._arrived.get(timeout=max(seconds, 0.0))

    @property
    def requested(self) -> bool:
        """A signal has arrived."""
        return self.signal is not None

    @property
    def out_of_patience(self) -> bool:
        """The grace for calls in flight is over."""
        if self._patience_ends is not None and time.monotonic() > self._patience_ends:
            return True
        return self.signal is not None and time.monotonic() - self._since > GRACE_SECONDS

    @property
    def exit_code(self) -> int:
        """129, 130 or 143, as a shell expects after a signal."""
        return 128 + (self.signal or 0)


def _tell(sentence: str) -> None:
    """A line for the person at the terminal, written as a signal handler may; cron's log stays as it is."""
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, f"\n{sentence}\n".encode())
