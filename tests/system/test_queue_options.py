"""How much of the queue one run takes, and what it tells of it as JSON."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.support.platforms import Platform
from tests.support.processes import Finished, Programs, Simulator
from tests.support.queues import (
    CLEAN,
    OURS,
    SampleQueue,
    asked,
    connect,
    everything,
    finish,
    items,
    theirs,
)

CONCURRENCY: Final = 4
both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and programs that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    return SampleQueue(platform)


def run(programs: Programs, *options: str) -> Finished:
    return programs.run("process-queue", "--json", *options)


# -- how much of the queue ---------------------------------------------------------------------------------------------


@on_sqlite
def test_organization_takes_the_batches_of_these_organizations_alone(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(18, 6)
    done = run(programs, "--organization", "1", "--organization", "3")
    assert (done.exit_code, done.json()["batches"]) == (0, {"completed": 4, "failed": 0, "in_progress": 0})
    others = [id_ for id_, one in queue.expected.items() if one.organization == 2]
    assert sorted(asked(simulator)) == sorted(queue.expected.keys() - others)
    assert {queue.labels()[id_] for id_ in others} == {"queued"}
    finish(programs, simulator)
    queue.assert_all_settled()


@on_sqlite
def test_max_batches_takes_the_oldest_ones_whole(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    queue.fill(18, 6)
    done = run(programs, "--max-batches", "2")
    assert (done.exit_code, done.json()["batches"]) == (0, {"completed": 2, "failed": 0, "in_progress": 4})
    assert sorted(asked(simulator)) == [*queue.batches[1], *queue.batches[2]]
    finish(programs, simulator)
    queue.assert_all_settled()


@on_sqlite
def test_max_transactions_asks_about_so_many_and_leaves_the_rest(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(18, 3)
    done = run(programs, "--max-transactions", "5")
    assert (done.exit_code, done.json()["calls"]) == (0, 5)
    assert len(simulator.calls()) == 5
    assert sorted(item["state"] for item in items(queue.platform).values()) == ["done"] * 5 + ["ready"] * 13
    finish(programs, simulator)
    assert len(simulator.calls()) == 18
    queue.assert_all_settled()


@both
def test_dry_run_tells_what_there_is_to_do_buys_nothing_and_writes_nothing(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(18, 3)
    platform = queue.platform
    before = everything(platform, *theirs(platform), *OURS)
    done = run(programs, "--dry-run")
    assert (done.exit_code, done.stderr) == (0, "")
    told = done.json()
    assert (told["dry_run"], told["calls"]) == (True, 18)
    assert [(one["audit_history_id"], one["calls"]) for one in told["batches"]] == [(1, 6), (2, 6), (3, 6)]
    assert told["input_tokens"] > 0 < told["output_tokens"]
    assert everything(platform, *theirs(platform), *OURS) == before
    assert asked(simulator) == []


# -- what it tells -----------------------------------------------------------------------------------------------------


def keys(value: Any) -> Any:
    """The names in a JSON document, without its values."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return [keys(one) for one in value[:1]] if isinstance(value, list) else None


@on_sqlite
def test_the_names_that_json_tells_are_frozen(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    queue.queue([*CLEAN])
    names = {
        "run_id": None,
        "outcome": None,
        "batches": dict.fromkeys(("completed", "failed", "in_progress")),
        "transactions": dict.fromkeys(("approved", "rejected", "undecided", "failed", "skipped", "released")),
        "calls": None,
        "retries": None,
        "token_usage": dict.fromkeys(
            ("total_input_tokens", "total_output_tokens", "total_tokens", "cached_input_tokens")
        ),
        "cost_usd": None,
        "seconds": None,
        "held": None,
    }
    batch = ("audit_history_id", "organization_id", "calls", "input_tokens", "output_tokens", "cost_usd")
    dry = run(programs, "--dry-run").json()
    worked = run(programs).json()
    idle = run(programs).json()
    assert (worked["outcome"], idle["outcome"]) == ("processed", "idle")
    assert (keys(worked), keys(idle)) == (names, names)
    assert keys(dry) == {
        "dry_run": None,
        "model": None,
        "batches": [dict.fromkeys(batch)],
        **dict.fromkeys(("calls", "input_tokens", "output_tokens", "cost_usd")),
        "held": [],
    }
