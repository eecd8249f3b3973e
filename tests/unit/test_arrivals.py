"""How many results share a turn: those that are there, and the first one's neighbours while they keep coming."""

from __future__ import annotations

from collections import deque

import pytest

from gepp_audit.model import CallRequest, CallResult
from gepp_audit.queue.arrivals import TURN, Arrivals


class Script:
    """A provider that brings what it was told, one portion per `wait`, and notes for how long it was waited."""

    def __init__(self, *portions: int) -> None:
        self.portions = deque(portions)
        self.waits: list[float] = []
        self._ids = iter(range(1, 1000))

    def wait(self, timeout: float) -> list[CallResult]:
        self.waits.append(timeout)
        portion = self.portions.popleft() if self.portions else 0
        return [CallResult(call_id=next(self._ids), sent=True) for _ in range(portion)]

    @property
    def in_flight(self) -> int:
        raise NotImplementedError

    def submit(self, request: CallRequest) -> None:
        raise NotImplementedError

    def ready(self, timeout: float) -> bool:
        raise NotImplementedError

    def abandon(self) -> list[int]:
        raise NotImplementedError


def turn(arrivals: Arrivals, under_way: int = 50, seconds: float = 1.0) -> list[int]:
    return [result.call_id for result in arrivals.turn(under_way, seconds)]


def test_nothing_in_time_is_an_empty_turn() -> None:
    script = Script()
    assert turn(Arrivals(script), seconds=0.25) == []
    assert script.waits[0] == 0.25
    assert sum(script.waits[1:]) == 0.0


def test_the_first_one_waits_for_neighbours_that_keep_coming() -> None:
    script = Script(1, 1, 2, 1)
    assert turn(Arrivals(script)) == [1, 2, 3, 4, 5]
    assert all(0.0 < seconds < 0.05 for seconds in script.waits[1:4])


def test_the_turn_ends_where_none_comes() -> None:
    script = Script(1, 0, 1)
    arrivals = Arrivals(script)
    assert turn(arrivals) == [1]
    assert turn(arrivals) == [2]


def test_enough_are_not_waited_upon_but_more_that_are_there_are_taken() -> None:
    script = Script(6, 3)
    assert turn(Arrivals(script)) == list(range(1, 10))
    assert script.waits[1] == 0.0


@pytest.mark.parametrize(("under_way", "most"), [(50, TURN), (4, 4)])
def test_a_turn_has_a_size_and_leaves_the_rest(under_way: int, most: int) -> None:
    arrivals = Arrivals(Script(TURN + 5))
    assert turn(arrivals, under_way) == list(range(1, most + 1))
    assert arrivals.left
    assert arrivals.waiting()
    assert [result.call_id for result in arrivals.rest()] == list(range(most + 1, TURN + 6))
    assert not arrivals.left


def test_what_a_turn_left_does_not_linger() -> None:
    script = Script(TURN + 1)
    arrivals = Arrivals(script)
    turn(arrivals)
    script.waits.clear()
    assert turn(arrivals) == [TURN + 1]
    assert sum(script.waits) == 0.0


def test_each_is_handed_over_before_the_next_is_waited_for() -> None:
    script = Script(1, 1)
    results = Arrivals(script).turn(50, 1.0)
    assert next(results).call_id == 1
    assert len(script.waits) == 1
