"""Whatever stands in the way of a batch, several things at once too: `stuck` names what a person must know first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from gepp_audit.queue.diagnosis import Cause
from gepp_audit.queue.inspecting import Question, inspect
from tests.support import steps
from tests.support.platforms import Platform
from tests.support.postgres import PostgresServer
from tests.support.situations import BATCH, HOST, ORGANIZATION, Situation, arrange

SEEDS: Final = range(300)
QUESTION: Final = Question(
    older_than=0, batch_statuses=steps.STATUSES, ids=(BATCH,), host=HOST, most_output=1_000,
    price=lambda read, written: Decimal(read + written) / 1_000_000,
)  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def arena(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Platform]:
    """A database for one situation after the other."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("embedded_template")
        path = tmp_path / "platform.db"
        path.write_bytes(template.read_bytes())
        platform = Platform(f"sqlite:///{path}", "embedded")
        _fill(platform)
        yield platform
        platform.close()
        return
    cluster: PostgresServer = request.getfixturevalue("cluster")
    platform = Platform(cluster.create("situations", "ready_new"), "new")
    _fill(platform)
    yield platform
    platform.close()
    cluster.drop("situations")


def _fill(platform: Platform) -> None:
    for _ in range(ORGANIZATION):
        platform.organization()


def test_no_wrong_cause_is_named_in_300_random_situations(arena: Platform) -> None:
    wrong = []
    for seed in SEEDS:
        situation = Situation.drawn(seed)
        arrange(arena, situation)
        [stuck] = inspect(arena.database, QUESTION).stuck
        cause, reason = situation.expected
        named = stuck.diagnosis.cause.value, stuck.diagnosis.reason
        if named[0] != cause or reason not in (None, named[1]):
            wrong.append(f"{situation}\n  expected {cause, reason}, named {named}: {stuck.diagnosis.explanation}")
    assert not wrong, f"{len(wrong)} of {len(SEEDS)}:\n" + "\n".join(wrong[:10])


def test_every_cause_is_drawn_often_enough_to_be_proven() -> None:
    drawn = Counter(Situation.drawn(seed).expected[0] for seed in SEEDS)
    assert set(drawn) == {cause.value for cause in Cause} - {"unknown"}
    assert min(drawn.values()) >= 8, drawn
