"""The one clock of a call: the same in the queue that sets `send_before` and in the process that heeds it."""

from __future__ import annotations

import time
from collections.abc import Callable


def _choose() -> Callable[[], float]:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic
    return lambda: time.clock_gettime(boottime)


#: seconds since some fixed moment; goes on while the process is stopped and, on Linux, while the machine sleeps
clock: Callable[[], float] = _choose()
