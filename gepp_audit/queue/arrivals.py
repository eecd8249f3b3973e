"""Between asking and settling: the results that wait for their turn, and how many share one.

Each turn is a commit and a claim, so that results should share it; but a slot is empty from its answer to the next
claim. Calls that left together come back together: the first one's neighbours are waited for, no others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from gepp_audit.model import CallResult
from gepp_audit.queue.options import Provider

#: so many results share a turn at most, and so many are claimed in one: the first of a wave need not wait for the last
TURN: Final = 10
#: for so many the first one waits, for so many seconds, and while they arrive this close together
_ENOUGH: Final = 5
_LINGER: Final = 0.008
_QUIET: Final = 0.0025


class Arrivals:
    """What the provider has brought and nobody has judged yet."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._results: deque[CallResult] = deque()

    def waiting(self) -> bool:
        """Whether some result waits at this moment."""
        self._results.extend(self._provider.wait(0.0))
        return bool(self._results)

    @property
    def left(self) -> bool:
        """Whether the last turn left some."""
        return bool(self._results)

    def turn(self, under_way: int, seconds: float) -> Iterator[CallResult]:
        """The results of one turn, each as soon as it is there, the first within `seconds` if there is none yet.
        `under_way`: how many can come at all.
        """
        fresh = not self._results
        if fresh:
            self._results.extend(self._provider.wait(seconds))
        linger_until = time.monotonic() + _LINGER if fresh else 0.0
        for number in range(min(TURN, under_way)):
            if not self._results:
                lingers = 0 < number < _ENOUGH and time.monotonic() < linger_until
                self._results.extend(self._provider.wait(_QUIET if lingers else 0.0))
            if not self._results:
                return
            yield self._results.popleft()

    def rest(self) -> Iterator[CallResult]:
        """All that have arrived, without waiting."""
        while self.waiting():
            yield self._results.popleft()
