"""Everything at once, in short: kills, freezes, outages and people, until every law is checked.

`scripts/chaos` does the same for as long as one wishes. A storm is decided by its seed, which a failure names.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.arenas import KINDS, Kind, open_arena, sample_ids
from tests.support.chaos import Plan
from tests.support.postgres import PostgresServer

SEED = 20_261_124
PLAN = Plan(kills=3, stops=2, outages=1, transactions=60, portion=30, seconds=60.0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_law_is_broken_in_a_storm(
    kind: Kind, cluster: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with open_arena(kind, cluster, tmp_path_factory.mktemp(kind), latency_ms=100) as arena:
        # on SQLite a frozen writer keeps all others waiting, and there is no server that could be out
        plan = replace(PLAN, stops=1, outages=0) if kind == "sqlite" else PLAN
        chaos = arena.chaos(plan, SEED)
        chaos.make_trouble(sample_ids())
        chaos.end_in_peace()
        evidence, violations = arena.verdict_of_the_laws(chaos)
    assert not violations, f"seed {SEED} on {kind}:\n" + "\n".join(violations)
    assert chaos.fleet.tally.kills >= PLAN.kills
    assert chaos.fleet.tally.stops >= plan.stops
    assert len([call for call in evidence.calls if call["outcome"] == "verdict"]) >= PLAN.transactions - len(
        chaos.people.told.touched
    )
