"""The order of the tests: none is left out, and each process begins with what takes long."""

from __future__ import annotations

import pytest

from tests.support.dealing import deal


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("short", [0, 1, 40, 41, 42])
def test_each_is_dealt_once(parts: int, short: int) -> None:
    long = [[("long", group, one) for one in range(group)] for group in range(6)]
    rest = [("short", 0, one) for one in range(short)]
    assert sorted(deal(long, rest, parts)) == sorted([*(one for group in long for one in group), *rest])


def test_each_part_begins_with_groups_of_its_own() -> None:
    dealt = deal([["a", "a"], ["b"], ["c", "c"]], ["1", "2", "3", "4", "5", "6"], 2)
    assert dealt == ["a", "a", "c", "c", "1", "b", "2", "3", "4", "5", "6"]
