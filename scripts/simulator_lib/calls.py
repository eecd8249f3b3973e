"""What the server remembers of its calls: a line of JSON for each, the rolling minute, and who asked how often.

A line is written when its call has ended, however it ended. The key never stands in it, only a hash of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, TextIO

#: lines kept for `GET /control/calls`; the log file has all
_KEPT: Final = 100_000
_WINDOW: Final = 60.0


@dataclass(slots=True)
class Call:
    """One call, as its line tells it. Times are seconds since the epoch."""

    number: int
    received: float
    #: when its answer was written; None: never, or not yet
    answered: float | None
    #: answered, cut, hung_up, client_gone; pending: still under way
    ending: str
    status: int
    #: the scenario's action, if one was taken
    action: str | None
    request_id: str
    transaction_id: str | None
    #: the how-manieth call about that transaction
    attempt: int
    model: str | None
    safety_identifier: str | None
    #: a hash of the Authorization header's key
    auth: str | None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


@lru_cache(maxsize=256)
def key_hash(key: str) -> str:
    """The first 16 hex digits of the key's SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Book:
    """The calls that were and that are."""

    def __init__(self, log: TextIO | None) -> None:
        self._log = log
        self.reset()

    def reset(self) -> None:
        """Forget all. Calls under way are still logged when they end."""
        #: by number, so in the order of arrival; a call that has ended is its line
        self._calls: dict[int, Call | str] = {}
        self._open: dict[int, Call] = {}
        self._attempts: Counter[str] = Counter()
        self._endings: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()

    def attempt(self, transaction_id: str | None) -> int:
        """The how-manieth call about this transaction the one that asks is."""
        if transaction_id is None:
            return 1
        self._attempts[transaction_id] += 1
        return self._attempts[transaction_id]

    def begin(self, call: Call) -> None:
        """The call has come."""
        self._open[call.number] = self._calls[call.number] = call
        if len(self._calls) > _KEPT:
            del self._calls[next(iter(self._calls))]

    def end(self, call: Call) -> None:
        """The call has ended; its line is written."""
        line = call.line()
        if self._log is not None:
            self._log.write(f"{line}\n")
        if self._open.pop(call.number, None) is not None:
            if call.number in self._calls:
                self._calls[call.number] = line
            self._endings[call.ending] += 1
            self._statuses[call.status] += call.ending == "answered"

    def abandon_all(self) -> None:
        """The server ends: what is under way is logged as it stands."""
        for call in list(self._open.values()):
            self.end(call)

    def summary(self) -> dict[str, Any]:
        """Counts over all calls, also those whose lines are not kept any more."""
        return {
            "count": sum(self._endings.values()) + len(self._open),
            "pending": len(self._open),
            "endings": dict(self._endings),
            "statuses": {str(status): count for status, count in self._statuses.items() if count},
            "transactions": len(self._attempts),
            "most_attempts": max(self._attempts.values(), default=0),
        }

    def as_json(self) -> bytes:
        """The summary with the calls in the order of their arrival."""
        summary = json.dumps(self.summary())
        lines = [call if isinstance(call, str) else call.line() for call in self._calls.values()]
        return f'{summary[:-1]}, "calls": [{",".join(lines)}]}}'.encode("utf-8", "backslashreplace")


class Window:
    """Requests and tokens of the last 60 seconds, exact."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def used(self, now: float) -> tuple[int, int]:
        """Requests and tokens of the 60 seconds before `now`."""
        entries = self._entries
        while entries and entries[0][0] <= now - _WINDOW:
            self._tokens -= entries.popleft()[1]
        return len(entries), self._tokens

    def add(self, now: float, tokens: int) -> None:
        """One more request."""
        self._entries.append((now, tokens))
        self._tokens += tokens

    def frees(self, now: float) -> float:
        """Seconds until the oldest request leaves the window."""
        return max(self._entries[0][0] + _WINDOW - now, 0.0) if self._entries else 0.0
