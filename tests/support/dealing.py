"""The order of the tests where several processes run them: long files first, so that none is left for the end.

pytest-xdist hands each process an equal part of the list, and what is stolen from a busy one is the end of its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, islice
from typing import Final, TypeVar

import pytest

T = TypeVar("T")
#: the files that take longest; the rest of tests/system comes next, then what takes milliseconds
_LONG: Final = (
    "system/test_plans.py",
    "system/test_api_schema.py",
    "system/test_cron.py",
    "system/test_quickstart.py",
    "system/test_pages_browser.py",
    "system/test_lambda.py",
    "system/test_queue_hosts.py",
    "system/test_api_runs.py",
    "system/test_operations.py",
    "system/test_lambda_deployment.py",
    "conformance/test_protocol_model.py",
    "system/test_chaos_borders.py",
    "system/test_stuck_causes.py",
    "system/test_json_schemas.py",
    "system/test_",
)


def in_order(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """The same tests for so many processes; those of one long file stay together."""
    files = [list(group) for _, group in groupby(items, key=lambda item: item.path)]
    long = sorted((file for file in files if _rank(file) < len(_LONG)), key=_rank)
    short = [item for file in files if _rank(file) == len(_LONG) for item in file]
    return deal(long, short, workers)


def _rank(file: Sequence[pytest.Item]) -> int:
    found = (number for number, part in enumerate(_LONG) if f"tests/{part}" in file[0].path.as_posix())
    return next(found, len(_LONG))


def deal(long: Sequence[Sequence[T]], short: Sequence[T], parts: int) -> list[T]:
    """Parts as equal as pytest-xdist makes them, one after the other: first groups of `long` in turn, then `short`."""
    left = sum(map(len, long)) + len(short)
    rest = iter(short)
    dealt: list[T] = []
    for part in range(parts):
        size = left // (parts - part)
        left -= size
        own = [one for group in long[part::parts] for one in group]
        dealt += [*own, *islice(rest, max(size - len(own), 0))]
    return [*dealt, *rest]
