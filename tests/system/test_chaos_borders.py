"""A run dies at the border of each step of its way, before it and behind it; the next one finishes what it left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from tests.laws import assert_laws
from tests.support.chaos import LAUNCHER, QUICK, settled_log
from tests.support.evidence import Told, plain_schema
from tests.support.launcher import STEPS, starved, trouble
from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect
from tests.support.waiting import wait_until

CONCURRENCY: Final = 3
#: a quarter of all borders on either database, and where a commit decides; `scripts/chaos` draws from all
_BORDERS: Final = [f"{name}{moment}:1" for name in STEPS for moment in ("", ".after")]
_ALWAYS: Final = ("settle.after:1", "claim.after:1", "publish.after:1", "close.after:1")
BORDERS: Final = {
    "sqlite": _BORDERS[0::4],
    "postgresql-new": [*_BORDERS[2::4], *_ALWAYS],
}


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and programs that ask at most 3 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    return SampleQueue(platform)


def die_at(queue: SampleQueue, programs: Programs, points: Sequence[str]) -> int:
    """A batch and a run that dies, for each of these points; returns how many died."""
    deaths = 0
    for point in points:
        queue.queue([*CLEAN, BROKEN])
        run = programs.start_command([*LAUNCHER, "--json"], environ=trouble(point), GEPP_AUDIT_HOST="h1")
        deaths += run.wait(120).exit_code == -9
    return deaths


def check(queue: SampleQueue, programs: Programs, simulator: Simulator, told: Told) -> None:
    """One more run, then every law; each transaction has the verdict that is expected of it."""
    done = programs.run("process-queue", GEPP_AUDIT_HOST="h1")
    assert (done.exit_code, done.stdout) == (0, "")
    queue.assert_all_settled()
    told.concurrency, told.expected, told.killers = CONCURRENCY, dict(queue.statuses), set()
    assert_laws(queue.platform.url, asked=settled_log(simulator), told=told)


@pytest.mark.parametrize("platform", list(BORDERS), indirect=True)
def test_a_run_that_dies_at_any_border_loses_nothing(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    points = BORDERS["postgresql-new" if queue.platform.is_postgresql else "sqlite"]
    told = Told(schema=queue.platform.database.read(plain_schema))
    told.disruptions = die_at(queue, programs, points)
    # `withdraw` and `put_back` have nothing to do here, `bury` only after a death
    assert told.disruptions >= len(points) - 3
    check(queue, programs, simulator, told)


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_a_run_that_dies_before_or_behind_a_statement_or_a_commit_loses_nothing(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    points = ("statement:31", "statement.after:38", "commit:5", "commit.after:5")
    told = Told(schema=queue.platform.database.read(plain_schema))
    told.disruptions = die_at(queue, programs, points)
    assert told.disruptions == len(points)
    check(queue, programs, simulator, told)


@pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
@pytest.mark.parametrize("limit", [{"pages": 2}, {"file_bytes": 300_000}], ids=str)
def test_a_full_disk_ends_a_run_with_1_and_the_next_ones_finish(
    queue: SampleQueue, programs: Programs, simulator: Simulator, limit: dict[str, int]
) -> None:
    # a run that could still note its end leaves what it had under way to the leases
    programs.environ |= QUICK
    queue.queue([*CLEAN, BROKEN] * 20)
    run = programs.start_command([*LAUNCHER, "--json"], environ=starved(**limit), GEPP_AUDIT_HOST="h1").wait(120)
    assert run.exit_code == 1
    assert "SQLITE_FULL" in run.stderr or "SQLITE_IOERR" in run.stderr
    left = "SELECT count(*) FROM gepp_audit_items"
    wait_until(
        lambda: programs.run("process-queue", GEPP_AUDIT_HOST="h1").exit_code == 0 and not queue.platform.value(left),
        60,
        what="the end of the batch",
    )
    check(queue, programs, simulator, Told(disruptions=1, schema=queue.platform.database.read(plain_schema)))
