"""Single kinds of trouble, tried again and again: each trial returns what it measured, and raises where a law broke."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg2

from tests.support.arenas import Arena
from tests.support.chaos import LAUNCHER, QUICK
from tests.support.launcher import trouble
from tests.support.processes import PROGRAM
from tests.support.queues import CLEAN, HANG, wait_for_calls
from tests.support.waiting import wait_until

CONCURRENCY: Final = 4
#: a transaction that is idle for so long waits for something, and calls here take many times as long
HELD_SECONDS: Final = 0.5
#: as a container with a process namespace of its own
CONTAINER: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def _prepare(arena: Arena, **environ: str) -> None:
    arena.programs.environ |= {"GEPP_AUDIT_CONCURRENCY": str(CONCURRENCY), **environ}


def _queue(arena: Arena, count: int = CONCURRENCY) -> list[int]:
    originals = [CLEAN[number % len(CLEAN)] for number in range(count)]
    return arena.queue.batches[arena.queue.queue(originals)]


def _asked_about(arena: Arena, ids: Sequence[int]) -> list[dict[str, Any]]:
    wanted = {str(id_) for id_ in ids}
    return [call for call in arena.simulator.calls() if call["transaction_id"] in wanted]


def take_over(arena: Arena, *, next_host: str, quick: bool) -> float:
    """SIGKILL of a run on h1 with all its calls under way, then a run on `next_host` at once.

    Returns the seconds from the kill until that run asks again. `quick`: with the short leases of `QUICK`, else with
    those of the defaults. AssertionError: something was lost or bought twice too often.
    """
    _prepare(arena, **(QUICK if quick else {}))
    ids = _queue(arena)
    arena.simulator.scenario({"rules": [{"match": {"attempt": 1}, "do": HANG}]})
    run = arena.programs.start("process-queue", GEPP_AUDIT_HOST="h1")
    wait_until(lambda: len(_asked_about(arena, ids)) == CONCURRENCY, 60, what="the calls")
    run.kill()
    killed = time.time()

    def tick() -> bool:
        done = arena.programs.run("process-queue", "--json", GEPP_AUDIT_HOST=next_host)
        assert done.exit_code == 0, done.stderr
        asked = Counter(call["transaction_id"] for call in _asked_about(arena, ids))
        assert next_host != "h1" or min(asked.values()) >= 2, "the first tick of the same host did not take all up"
        return set(arena.platform.labels(ids).values()) == {"approved"}

    wait_until(tick, 60, what="the end of the batch")  # ticks come until the leases have ended
    calls = _asked_about(arena, ids)
    # a slow machine may let one time out and be asked a third time
    assert min(Counter(call["transaction_id"] for call in calls).values()) >= 2
    assert set(arena.platform.labels(ids).values()) == {"approved"}
    return float(min(call["received"] for call in calls if call["attempt"] == 2)) - killed


def share_a_name(arena: Arena) -> int:
    """Two containers with one host name: the second begins while the first, which drains, still has calls under way.

    Returns how many calls of the first one the second took away, which must be none.
    """
    _prepare(arena)
    ids = _queue(arena)
    slow = {"match": {"transaction_id": [str(id_) for id_ in ids]}, "do": {"extra_latency_ms": 3_500}}
    arena.simulator.scenario({"rules": [slow]})
    first = arena.programs.start_command(
        [*CONTAINER, *PROGRAM, "process-queue", "--json", "--max-transactions", str(CONCURRENCY)],
        GEPP_AUDIT_HOST="one-name",
    )
    wait_until(lambda: len(_asked_about(arena, ids)) == CONCURRENCY, 60, what="the first one's calls")
    draining = "SELECT count(*) FROM gepp_audit_runs WHERE finished_at IS NULL AND draining_at IS NOT NULL"
    wait_until(lambda: arena.platform.value(draining), 60, what="the draining of the first one")
    others = _queue(arena)
    second = arena.programs.start_command([*CONTAINER, *PROGRAM, "process-queue", "--json"], GEPP_AUDIT_HOST="one-name")
    told = [run.wait() for run in (second, first)]
    assert [one.exit_code for one in told] == [0, 0], [one.stderr for one in told]
    assert first_is_alive_where_second_looked(arena), "the first one was taken for dead"
    assert set(arena.platform.labels([*ids, *others]).values()) == {"approved"}
    return len(_asked_about(arena, ids)) - CONCURRENCY


def first_is_alive_where_second_looked(arena: Arena) -> bool:
    """No run was buried."""
    return not arena.platform.value("SELECT count(*) FROM gepp_audit_runs WHERE outcome = 'died'")


def park_a_killer(arena: Arena, batch_size: int = 50) -> dict[str, int]:
    """One transaction of a batch kills each process that builds its prompt; ticks go on until the batch has ended.

    Returns how many runs it killed, how many of the others were audited, and how many innocents were parked.
    """
    _prepare(arena, **QUICK)
    arena.simulator.scenario({"rules": []})
    ids = _queue(arena, batch_size)
    killer = ids[len(ids) // 2]
    batch = max(arena.queue.batches)
    deaths = 0
    while arena.platform.history(batch)["completed_at"] is None:
        run = arena.programs.start_command(LAUNCHER, environ=trouble(f"prompt:{killer}"), GEPP_AUDIT_HOST="h1")
        deaths += run.wait().exit_code == -9
        assert deaths <= 10, "the killer is never parked"
    labels = Counter(label for id_, label in arena.platform.labels(ids).items() if id_ != killer)
    parked = arena.platform.rows("SELECT transaction_id FROM gepp_audit_items WHERE error_code = 'crashed'")
    mine = [row["transaction_id"] for row in parked if row["transaction_id"] in ids]
    assert arena.platform.labels([killer])[killer] == arena.platform.failed_label
    return {"deaths": deaths, "completed": labels["approved"], "innocents": len(set(mine) - {killer})}


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """What was seen of our sessions in PostgreSQL while calls ran."""

    samples: int
    #: samples with a session between two statements of a transaction, however shortly
    between_statements: int
    #: samples with a session that had been idle in its transaction for `HELD_SECONDS`: one that waits for something
    held: int


def idle_in_transaction(arena: Arena, samples: int, *, seconds_of_a_call: float) -> Sessions:
    """Look at PostgreSQL's sessions while all slots of a run are taken by calls of `seconds_of_a_call`."""
    _prepare(arena)
    _queue(arena, CONCURRENCY)
    before = len(arena.simulator.calls())
    arena.simulator.scenario({"rules": [{"do": {"extra_latency_ms": int(seconds_of_a_call * 1000)}}]})
    run = arena.programs.start("process-queue", GEPP_AUDIT_HOST="h1", GEPP_AUDIT_CALL_TIMEOUT="120")
    wait_for_calls(arena.simulator, before + CONCURRENCY)
    connection = psycopg2.connect(arena.platform.url)
    connection.autocommit = True
    between = held = taken = 0
    try:
        with connection.cursor() as cursor:
            while taken < samples and run.running:
                cursor.execute(_IDLE, (HELD_SECONDS,))
                some, long = cursor.fetchone() or (0, 0)
                between, held, taken = between + (some > 0), held + (long > 0), taken + 1
                time.sleep(0.8 * seconds_of_a_call / samples)
    finally:
        connection.close()
    arena.simulator.scenario({"rules": []})
    assert run.wait(120).exit_code == 0
    return Sessions(samples=taken, between_statements=between, held=held)


_IDLE: Final = """
SELECT count(*), count(*) FILTER (WHERE clock_timestamp() - state_change > make_interval(secs => %s))
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'gepp-audit' AND state LIKE 'idle in transaction%%'
"""
