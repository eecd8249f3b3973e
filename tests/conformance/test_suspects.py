"""Transactions that crash their run are found out and parked; those that were only in flight beside them are not."""

from __future__ import annotations

import random
from collections.abc import Set

import pytest

from gepp_audit.audit.instructions import PROMPT_VERSION
from gepp_audit.database import items, runs
from gepp_audit.model import Claim, RunIdentity
from gepp_audit.queue.claiming import Claimed, Claimer
from tests.support import steps
from tests.support.platforms import Platform

CONCURRENCY = 32
SEEDS = range(4)


class Life:
    """One run as the queue's loop leads it: settle what has arrived, claim what is free; some claims kill it."""

    def __init__(self, platform: Platform, number: str, deadly: Set[int], chance: random.Random) -> None:
        self.platform = platform
        self.deadly = deadly
        self.chance = chance
        self.run = RunIdentity(
            run_id=number, host="h", boot_id="b", pid_namespace="n", pid=1, pid_started_at=1.0, version="1"
        )
        self.claimer = Claimer(
            items.CallTerms(
                run_id=number, engine="openai", model="m-1", prompt_version=PROMPT_VERSION, lease_seconds=900.0
            )
        )
        self.asked: dict[int, Claim] = {}
        #: each claim of a suspect, with the calls that were under way beside it
        self.company: list[int] = []

    def live(self) -> bool:
        """Until nothing is left to claim: True; or until it dies: False."""
        self.platform.database.write(lambda connection: runs.start(connection, self.run))
        while True:
            claimed = self._claim()
            self.asked |= {claim.call_id: claim for claim in claimed.claims}
            self._watch()
            if any(claim.transaction_id in self.deadly for claim in self.asked.values()):
                # whoever answered before the blow had been settled
                self._settle(self.chance.randint(0, len(self.asked) // 2), spare=self.deadly)
                self.platform.database.write(lambda connection: runs.bury(connection, [self.run.run_id]))
                return False
            if not self.asked:
                return True
            self._settle(self.chance.randint(1, len(self.asked)))

    def _claim(self) -> Claimed:
        slots = CONCURRENCY - len(self.asked)
        if self.claimer.alone_call in self.asked or not slots:
            return Claimed(moment=self.claimer.moment())
        claimed = self.platform.database.write(
            lambda connection: self.claimer.claim(connection, slots, nothing_under_way=not self.asked)
        )
        self.claimer.note(claimed)
        return claimed

    def _watch(self) -> None:
        suspects = [claim for claim in self.asked.values() if claim.crashes >= items.SUSPECT_AFTER]
        self.company += [len(self.asked) - 1 for _ in suspects]

    def _settle(self, number: int, spare: Set[int] = frozenset()) -> None:
        answered = [claim for claim in self.asked.values() if claim.transaction_id not in spare]
        self.chance.shuffle(answered)
        steps.settle_all(self.platform, [steps.verdict(self.platform, claim) for claim in answered[:number]])
        for claim in answered[:number]:
            del self.asked[claim.call_id]


def lead_to_the_end(platform: Platform, deadly: Set[int], chance: random.Random) -> tuple[int, list[int]]:
    """Start one run after the other until one ends by itself; returns the deaths, and who was beside the suspects."""
    deaths, company = 0, []
    while True:
        life = Life(platform, f"{chance.getrandbits(64):x}", deadly, chance)
        ended = life.live()
        company += life.company
        if ended:
            return deaths, company
        deaths += 1
        assert deaths <= items.PARKED_AT * len(deadly) + items.PARKED_AT, "it never ends"


@pytest.mark.parametrize("deadly_ones", [1, 2])
def test_no_innocent_is_parked_for_a_deadly_neighbour(platform: Platform, deadly_ones: int) -> None:
    platform.rule()
    for seed in SEEDS:
        chance = random.Random(seed)
        organization = platform.organization()
        ids = platform.transactions(organization, 40)
        platform.batch(organization, ids)
        deadly = set(chance.sample(ids, deadly_ones))
        steps.take_up(platform)
        deaths, company = lead_to_the_end(platform, deadly, chance)
        assert steps.states(platform) == {id_: "failed" if id_ in deadly else "done" for id_ in ids}
        failed = platform.rows("SELECT transaction_id, error_code FROM gepp_audit_items WHERE state = 'failed'")
        assert {row["transaction_id"]: row["error_code"] for row in failed} == dict.fromkeys(deadly, "crashed")
        assert deaths <= items.PARKED_AT * deadly_ones
        assert set(company) <= {0}, "a suspect was not alone"
        steps.write_back(platform)
        [closed] = steps.close_all(platform)
        assert (closed.outcome, closed.approved, closed.failed) == ("completed", 40 - deadly_ones, deadly_ones)
        platform.execute("DELETE FROM gepp_audit_items")


def test_innocents_that_were_twice_in_flight_are_asked_one_by_one_and_pass(platform: Platform) -> None:
    platform.rule()
    ids = platform.transactions(platform.organization(), 6)
    platform.batch(1, ids)
    steps.take_up(platform)
    for _ in range(2):
        assert len(steps.claim(platform)) == 6
        steps.end_leases(platform)
    life = Life(platform, "r", set(), random.Random(0))
    assert life.live()
    assert (life.company, set(steps.states(platform).values())) == ([0] * 6, {"done"})


def test_a_suspect_that_waited_long_comes_first_in_a_run_however_much_else_there_is(platform: Platform) -> None:
    platform.rule()
    ids = platform.transactions(platform.organization(), 8)
    platform.batch(1, ids)
    steps.take_up(platform)
    long_ago = "2020-01-01 00:00:00.000000" + ("+00" if platform.is_postgresql else "")
    platform.execute("UPDATE gepp_audit_items SET crashes = 2 WHERE transaction_id IN (:a, :b)", a=ids[5], b=ids[6])
    assert [claim.crashes for claim in _first(platform, "run-1")] == [0, 0], "it was due just now"
    platform.execute("UPDATE gepp_audit_items SET available_at = :at WHERE crashes = 2", at=long_ago)
    assert [claim.crashes for claim in _first(platform, "run-2", "run-2")] == [2, 0, 0]


def _first(platform: Platform, *runs_of: str) -> list[Claim]:
    """What a run claims in its first turns, with two slots, each turn's calls answered before the next."""
    life = Life(platform, runs_of[0], set(), random.Random(0))
    found: list[Claim] = []
    for _ in runs_of:
        claimed = platform.database.write(lambda connection: life.claimer.claim(connection, 2, nothing_under_way=True))
        life.claimer.note(claimed)
        found += claimed.claims
        steps.settle_all(platform, [steps.verdict(platform, claim) for claim in claimed.claims])
    return found
