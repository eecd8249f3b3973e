"""Waiting for a condition instead of sleeping for a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 20.0, *, what: str = "the condition") -> T:
    """Call `condition` until it returns something truthy, and return that; AssertionError after `timeout` seconds.

    `what`: the end of the sentence "… did not come true", for the message.
    """
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout:g} s (last: {found!r})")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
