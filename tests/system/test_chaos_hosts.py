"""Who takes over whose work: the next run of a host at once, another host with the leases, a namesake never."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import trials
from tests.support.arenas import Arena, open_arena
from tests.support.chaos import LEASE
from tests.support.postgres import PostgresServer


@pytest.fixture
def arena(cluster: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A platform on PostgreSQL, and a simulator that answers at once."""
    with open_arena("postgresql", cluster, tmp_path_factory.mktemp("arena"), latency_ms=0) as arena:
        yield arena


def test_the_next_run_of_a_host_takes_over_at_once_whatever_the_leases(arena: Arena) -> None:
    # the leases last 90 s
    assert trials.take_over(arena, next_host="h1", quick=False) < 30


def test_another_host_takes_over_when_the_leases_have_ended(arena: Arena) -> None:
    waited = trials.take_over(arena, next_host="h2", quick=True)
    assert LEASE - 2 < waited < LEASE + 26


def test_two_containers_with_one_host_name_never_take_each_others_live_work(arena: Arena) -> None:
    assert trials.share_a_name(arena) == 0


def test_no_session_is_idle_in_a_transaction_while_calls_run(arena: Arena) -> None:
    seen = trials.idle_in_transaction(arena, 100, seconds_of_a_call=4)
    assert (seen.held, seen.samples > 10) == (0, True), seen
