"""What `scripts/bench` measures of size and of fairness: claims among a million items, one batch of 100,000, shares.

Each part starts from fresh databases on the server that it is given; a line of the table is what, how much, the goal.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from sqlalchemy import Connection, text

from gepp_audit.database import closing, items
from gepp_audit.database.engine import Database
from gepp_audit.database.platform import detect
from gepp_audit.queue.arrivals import TURN
from gepp_audit.queue.claiming import Claimer
from tests.support.bench import BenchDatabase
from tests.support.big_database import refill
from tests.support.big_rows import FIRST_OPEN
from tests.support.processes import Simulator
from tests.support.waiting import wait_until

Line = tuple[str, str, str]
BATCHES = 200
ORGANIZATIONS = 40


# -- claims ------------------------------------------------------------------------------------------------------------


def claim_time(small: BenchDatabase, large: BenchDatabase, size: int, repetitions: int) -> list[Line]:
    """Claims of TURN items each among 1,000 items and ledger rows and among `size` of each, in turn; the ratio."""
    seconds: dict[str, list[float]] = {"small": [], "large": []}
    claimers = {"small": _claimer(), "large": _claimer()}
    databases = {"small": small, "large": large}
    for name, count in (("small", 1_000), ("large", size)):
        _fill_queue(databases[name], count)
    for repetition in range(repetitions + 5):
        for name, database in databases.items():
            took = _claim(database.database, claimers[name])
            if repetition >= 5:  # the first ones compile the statements
                seconds[name].append(took)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    told = f"{middle['large'] / middle['small']:.2f} × ({middle['large'] * 1000:.1f} ms)"
    return [(f"a claim of {TURN} at {size} items and ledger rows / at 1,000", told, "≤ 1.5 ×")]


def _claimer() -> Claimer:
    terms = items.CallTerms(run_id="r" * 32, engine="openai", model="m", prompt_version="1", lease_seconds=90.0)
    return Claimer(terms)


def _claim(database: Database, claimer: Claimer) -> float:
    began = time.perf_counter()
    claimed = database.write(lambda connection: claimer.claim(connection, TURN, nothing_under_way=False))
    took = time.perf_counter() - began
    claimer.note(claimed)
    if len(claimed.claims) != TURN:
        raise SystemExit(f"a claim of {TURN} brought {len(claimed.claims)}")
    return took


def _fill_queue(database: BenchDatabase, size: int) -> None:
    """`size` ready items in BATCHES batches of ORGANIZATIONS organizations, and as many old calls over 89 days."""
    numbers, each = f"generate_series(1, {size}) AS n (i)", size // BATCHES
    batch = f"1 + (i - 1) / {each}"
    refill(
        database.platform,
        {
            "gepp_audit_batches": "INSERT INTO gepp_audit_batches (audit_history_id, organization_id, started_at,"
            " discovered_at, fanned_out_at, total, rules_digest, rules) SELECT i, 1 + i % "
            f"{ORGANIZATIONS}, now() + i * interval '1 ms', now(), now(), {each}, 'd', '[]'"
            f" FROM generate_series(1, {BATCHES}) AS n (i)",
            "gepp_audit_items": "INSERT INTO gepp_audit_items (audit_history_id, transaction_id, organization_id,"
            f" state, available_at) SELECT {batch}, i, 1 + ({batch}) % {ORGANIZATIONS}, 'ready', now() FROM {numbers}",
            "gepp_audit_calls": "INSERT INTO gepp_audit_calls (run_id, audit_history_id, transaction_id,"
            " organization_id, engine, model, prompt_version, dispatched_at, answered_at, outcome, input_tokens,"
            " output_tokens)"
            f" SELECT 'run', -i, i, 1 + i % {ORGANIZATIONS}, 'openai', 'm', '1', at, at, 'verdict', 2000, 150 FROM"
            f" (SELECT i, now() - ({size} - i) * interval '7689600 s' / {size} AS at FROM {numbers}) AS n",
        },
    )


# -- a monitor's look --------------------------------------------------------------------------------------------------


def let_be_stuck(old: BenchDatabase, count: int) -> None:
    """So many of an old database's open batches have been open for a day longer; the others were started just now."""
    old.platform.execute(
        "UPDATE gepp_audit_batches SET started_at = now() - CASE WHEN audit_history_id < :first THEN interval '1 day'"
        " ELSE interval '0' END WHERE closed_at IS NULL",
        first=FIRST_OPEN + count,
    )
    old.platform.execute("UPDATE transaction_audit_history SET started_at = now() WHERE status = 'in_progress'")
    with old.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


# -- one big batch -----------------------------------------------------------------------------------------------------


def queue_big_batch(database: BenchDatabase, size: int) -> int:
    """One batch of `size` transactions of one organization, as the platform writes it; returns its id."""
    [organization, *_] = database.organizations
    numbers = f"generate_series(1, {size}) AS n (i)"
    refill(
        database.platform,
        {
            "transactions": "INSERT INTO transactions (id, organization_id, status, ai_audit_status, weight_kg, notes)"
            f" SELECT i, {organization}, 'pending', 'queued', 6.25, 'paper ' || i FROM {numbers}",
            "transaction_records": "INSERT INTO transaction_records (id, created_transaction_id, main_material_id,"
            " category_id, unit, origin_quantity, origin_weight_kg, total_amount, created_by_id)"
            f" SELECT i, i, 1, 1, 'kg', 6.25, 6.25, 12.5, 1 FROM {numbers}",
        },
    )
    return database.platform.batch(organization, range(1, size + 1))


def settle_most(database: BenchDatabase, left: int) -> None:
    """All but `left` of the ready items get the verdict, the call and the written row that a run would give them."""
    execute = database.platform.execute
    chosen = "SELECT transaction_id FROM gepp_audit_items WHERE state = 'ready' ORDER BY transaction_id OFFSET :left"
    execute(
        "INSERT INTO gepp_audit_calls (run_id, audit_history_id, transaction_id, organization_id, engine, model,"
        " model_answered, prompt_version, dispatched_at, answered_at, outcome, input_tokens, cached_tokens,"
        " output_tokens, cost, latency_ms) SELECT 'run', audit_history_id, transaction_id, organization_id, 'openai',"
        " 'gpt-6-luna', 'simulator-1', '1', now(), now(), 'verdict', 2000, 1500, 150, 0.000125, 500"
        f" FROM gepp_audit_items WHERE state = 'ready' AND transaction_id IN ({chosen})",
        left=left,
    )
    verdict = json.dumps(
        {"status": "approved", "rules": {f"DC-{n:02}": "pass" for n in range(1, 18)}, "findings": [], "rejected_by": [],
         "warned_by": []}
    )  # fmt: skip
    execute(
        "UPDATE gepp_audit_items i SET state = 'done', call_id = c.id, verdict_status = CASE WHEN i.transaction_id % 10"
        " = 0 THEN 'rejected' ELSE 'approved' END, verdict = CAST(:verdict AS jsonb), input_digest = 'd',"
        " settled_at = now(), published_at = now() FROM gepp_audit_calls c"
        " WHERE c.run_id = 'run' AND c.transaction_id = i.transaction_id AND i.state = 'ready'",
        verdict=verdict,
    )
    execute(
        "UPDATE transactions t SET ai_audit_status = 'approved' FROM gepp_audit_items i"
        " WHERE i.transaction_id = t.id AND i.published_at IS NOT NULL"
    )
    execute(
        "UPDATE gepp_audit_batches"
        " SET processed = (SELECT count(*) FROM gepp_audit_items WHERE published_at IS NOT NULL)"
    )


def seconds_to_close(database: BenchDatabase, batch: int) -> float:
    """How long the last transaction of a batch takes in which everything is settled; it is rolled back."""
    work = partial(_close, batch=batch)
    connection = database.database.engine.connect()
    with connection, connection.begin() as transaction:
        connection.exec_driver_sql(
            "UPDATE gepp_audit_items SET state = 'skipped', skip_reason = 'not_queued' WHERE state = 'ready'"
        )
        began = time.perf_counter()
        closed = work(connection)
        took = time.perf_counter() - began
        transaction.rollback()
    if closed is None:
        raise SystemExit(f"batch {batch} could not be closed")
    return took


def _close(connection: Connection, batch: int) -> closing.Closed | None:
    return closing.close(connection, detect(connection), batch, "openai")


# -- shares ------------------------------------------------------------------------------------------------------------


def jain(shares: Iterable[float]) -> float:
    """Jain's index of fairness: 1 where all shares are equal, 1/n where one has all. (Jain, Chiu, Hawe, 1984.)"""
    each = list(shares)
    return sum(each) ** 2 / (len(each) * sum(share**2 for share in each))


def least_fair_minute(calls: Sequence[Mapping[str, float]], owner: Mapping[int, int], everybody: int) -> float:
    """The lowest Jain index of the minutes, one after another, in which every organization had something to ask."""
    left = Counter(owner.values())
    begin, minutes = calls[0]["received"], [Counter[int]()]
    for call in calls:
        while call["received"] >= begin + 60 * len(minutes):
            minutes.append(Counter())
        organization = owner[int(call["transaction_id"])]
        minutes[-1][organization] += 1
        left[organization] -= 1
        if left[organization] == 0:
            break  # from now on one organization has nothing to ask
    whole = minutes[:-1]
    if not whole:
        raise SystemExit("the calls took less than a minute")
    return min(jain([minute[id_] for id_ in range(1, everybody + 1)]) for minute in whole)


def rolling_most(moments: Sequence[float], seconds: float = 60.0) -> int:
    """The most calls in any so many seconds."""
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def received(simulator: Simulator) -> list[float]:
    """When each call arrived, in order."""
    return sorted(float(call["received"]) for call in simulator.calls())


def wait_for_end(database: BenchDatabase, batch: int, seconds: float) -> float:
    """Until the batch has ended; returns how long after its start, on the database's clock."""
    ended = "SELECT extract(epoch FROM completed_at - started_at) AS took FROM transaction_audit_history WHERE id = :id"
    wait_until(lambda: database.platform.value(ended, id=batch) is not None, seconds, what=f"the end of batch {batch}")
    return float(database.platform.value(ended, id=batch))
