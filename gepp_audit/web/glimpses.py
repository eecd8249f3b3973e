"""Answers of the API that many people read at the same moment, made once for all of them: a frontend that shows
progress asks again and again, and the queue needs the database for its work. Our own pages are made for one visitor
each, and are not among them.

An answer is at most a second old. Whoever does something through this server sees it in the next answer: `forget` is
called with each action.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final

_FRESH_SECONDS: Final = 1.0
#: so many are kept, and none that is larger
_MOST: Final = 200
_LARGEST: Final = 250_000


class _Glimpse:
    """One answer. Its lock is held while it is made, so that it is made once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made_at = float("-inf")
        self.body = b""


class Glimpses:
    """The answers of one server. Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Hashable, _Glimpse] = {}
        #: actions of each organization, so that an answer that was begun before one is not kept after it
        self._actions: dict[int, int] = {}

    def of(self, organization_id: int, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The answer `key` for this organization: one that is fresh, or what `make` returns. What it raises is not
        kept.
        """
        with self._lock:
            actions = self._actions.get(organization_id, 0)
            whole = (organization_id, actions, key)
            glimpse = self._kept.get(whole)
            if glimpse is None:
                if len(self._kept) >= _MOST:
                    self._kept.clear()
                glimpse = self._kept[whole] = _Glimpse()
        with glimpse.lock:
            if time.monotonic() - glimpse.made_at < _FRESH_SECONDS:
                return glimpse.body
            began = time.monotonic()
            body = make()
            if len(body) <= _LARGEST:
                glimpse.made_at, glimpse.body = began, body
            return body

    def forget(self, organization_id: int) -> None:
        """Something was done for this organization: the next answer is made anew."""
        with self._lock:
            self._actions[organization_id] = self._actions.get(organization_id, 0) + 1
