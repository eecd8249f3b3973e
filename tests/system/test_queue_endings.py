"""How batches end when people come between, and what becomes of ids that are not to be audited."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.laws import assert_laws
from tests.support.chaos import settled_log
from tests.support.evidence import Told
from tests.support.platforms import Platform
from tests.support.processes import Finished, Process, Programs, Simulator
from tests.support.queues import (
    BROKEN,
    CLEAN,
    SampleQueue,
    asked,
    connect,
    finish,
    ledger,
    start,
    wait_for_calls,
)

CONCURRENCY: Final = 4
#: long enough to change something while a call runs
SLOW: Final = {"extra_latency_ms": 2_000}
both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
on_all_versions = pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and programs that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    return SampleQueue(platform)


def run(programs: Programs, *options: str) -> Finished:
    return programs.run("process-queue", "--json", *options)


def start_slowly(programs: Programs, simulator: Simulator, calls: int = CONCURRENCY) -> Process:
    """A run whose first calls are under way, and will be for a while."""
    simulator.scenario({"rules": [{"match": {"first": calls}, "do": SLOW}]})
    process = start(programs)
    wait_for_calls(simulator, calls)
    return process


# -- people win --------------------------------------------------------------------------------------------------------

_NOW: Final = "'2026-01-02 03:04:05.000000'"
#: what the platform does, in its own order
WITHDRAWALS: Final = {
    "cancelled": (
        "UPDATE transactions SET ai_audit_status = 'null' WHERE ai_audit_status = 'queued'",
        f"UPDATE transaction_audit_history SET status = 'cancelled', deleted_date = {_NOW} WHERE id = 1",
    ),
    "undone": (
        "UPDATE transaction_audit_history SET status = 'undone' WHERE id = 1",
        "UPDATE transactions SET ai_audit_status = 'null', ai_audit_note = NULL",
    ),
    "deleted": (f"UPDATE transaction_audit_history SET deleted_date = {_NOW} WHERE id = 1",),
}


@pytest.mark.parametrize(
    ("platform", "withdrawal"),
    [*(("postgresql-new", withdrawal) for withdrawal in WITHDRAWALS), ("sqlite", "deleted")],
    indirect=["platform"],
)
def test_a_batch_withdrawn_while_its_calls_run_stays_as_people_left_it(
    queue: SampleQueue, programs: Programs, simulator: Simulator, withdrawal: str
) -> None:
    platform = queue.platform
    batch = queue.queue([*CLEAN, BROKEN, *CLEAN, BROKEN])
    process = start_slowly(programs, simulator)
    for statement in WITHDRAWALS[withdrawal]:
        platform.execute(statement)
    left = stamped(platform.history(batch))
    done = process.wait()

    assert (done.exit_code, done.stderr) == (0, "")
    assert set(queue.labels().values()) == {"null"}
    assert stamped(platform.history(batch)) == left
    assert verdicts_written(platform) == 0
    assert sorted(ledger(platform, "verdict") + ledger(platform, "superseded")) == sorted(asked(simulator))
    # and they can be queued again
    again = queue.batch(list(queue.expected))
    platform.execute("UPDATE transactions SET ai_audit_status = 'queued'")
    del queue.batches[batch]
    finish(programs, simulator)
    assert platform.history(again)["status"] == "completed"
    assert queue.labels() == queue.statuses
    assert_laws(platform.url, asked=settled_log(simulator), told=Told(expected=queue.statuses))


def stamped(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "updated_date"}


def verdicts_written(platform: Platform) -> int:
    notes = int(platform.value("SELECT count(*) FROM transactions WHERE ai_audit_note IS NOT NULL"))
    audits = int(platform.value("SELECT count(*) FROM transaction_audits")) if platform.is_new else 0
    return notes + audits


@both
def test_a_transaction_edited_while_its_call_runs_is_asked_again_and_judged_as_it_is_now(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([*CLEAN])
    process = start_slowly(programs, simulator, 2)
    queue.platform.execute("UPDATE transactions SET weight_kg = 999 WHERE id = 1")
    done = process.wait()
    assert (done.exit_code, done.json()["calls"]) == (0, 3)
    assert sorted(asked(simulator)) == [1, 1, 2]
    assert queue.labels() == {1: "rejected", 2: "approved"}
    assert "DC-01" in queue.platform.value("SELECT reject_triggers FROM transactions WHERE id = 1")
    assert queue.platform.history(1)["rejected_count"] == 1
    assert_laws(queue.platform.url, asked=settled_log(simulator), told=Told(expected=queue.labels()))


@both
def test_a_record_edited_while_the_call_runs_counts_as_an_edit_of_its_transaction(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([*CLEAN])
    process = start_slowly(programs, simulator, 2)
    queue.platform.execute("UPDATE transaction_records SET origin_weight_kg = 999 WHERE created_transaction_id = 2")
    assert process.wait().exit_code == 0
    assert sorted(asked(simulator)) == [1, 2, 2]
    assert queue.labels() == {1: "approved", 2: "rejected"}
    assert_laws(queue.platform.url, asked=settled_log(simulator))


@on_all_versions
def test_a_person_who_decides_while_the_call_runs_has_the_last_word(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    platform = queue.platform
    batch = queue.queue([*CLEAN, BROKEN])
    process = start_slowly(programs, simulator, 3)
    by_a_person = ", is_user_audit = true" if platform.is_new else ""
    platform.execute(
        f"UPDATE transactions SET ai_audit_status = 'approved', status = 'approved'{by_a_person} WHERE id = 3"
    )
    [decided] = platform.rows("SELECT * FROM transactions WHERE id = 3")
    done = process.wait()
    assert (done.exit_code, done.json()["transactions"]["skipped"]) == (0, 1)
    assert platform.rows("SELECT * FROM transactions WHERE id = 3") == [decided]
    history = platform.history(batch)
    assert (history["status"], history["approved_count"], history["rejected_count"]) == ("completed", 2, 0)
    assert history["audit_info"]["summary"]["skipped_count"] == 1
    assert (sorted(ledger(platform, "verdict")), ledger(platform, "superseded")) == ([1, 2], [3])
    people = Told(touched={3}, decided={3: {"ai_audit_status": "approved", "status": "approved"}})
    assert_laws(platform.url, asked=settled_log(simulator), told=people)


# -- ids that are not audited ------------------------------------------------------------------------------------------


@both
def test_the_same_ids_in_two_batches_are_asked_once_and_both_batches_end(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    first = queue.queue([*CLEAN, BROKEN])
    second = queue.platform.batch(1, queue.batches[first])
    done = run(programs)
    assert (done.exit_code, done.json()["batches"]["completed"]) == (0, 2)
    assert sorted(asked(simulator)) == [1, 2, 3]
    queue.assert_all_settled()
    history = queue.platform.history(second)
    assert (history["status"], history["total_transactions"], history["processed_transactions"]) == ("completed", 3, 0)
    assert {entry["status"] for entry in history["audit_info"]["audit_results"]} == {"skipped"}
    assert_laws(queue.platform.url, asked=settled_log(simulator), told=Told(expected=queue.statuses))


@on_all_versions
def test_ids_that_are_foreign_deleted_unqueued_unknown_or_listed_twice_are_not_audited(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    platform = queue.platform
    good, foreign, deleted, unqueued = queue.add([CLEAN[0]] * 4)
    platform.execute("UPDATE transactions SET organization_id = 2 WHERE id = :id", id=foreign)
    platform.execute(f"UPDATE transactions SET deleted_date = {_NOW} WHERE id = :id", id=deleted)
    platform.execute("UPDATE transactions SET ai_audit_status = 'null' WHERE id = :id", id=unqueued)
    before = platform.rows("SELECT * FROM transactions WHERE id <> :id ORDER BY id", id=good)
    batch = platform.batch(1, [good, foreign, deleted, unqueued, 99_999, good])
    assert run(programs).exit_code == 0
    assert asked(simulator) == [good]
    assert platform.rows("SELECT * FROM transactions WHERE id <> :id ORDER BY id", id=good) == before
    summary = platform.history(batch)["audit_info"]["summary"]
    assert (summary["total_transactions"], summary["approved_count"], summary["skipped_count"]) == (5, 1, 4)
    assert_laws(platform.url, asked=settled_log(simulator))


@on_all_versions
def test_a_batch_of_an_organization_without_rules_fails_says_so_and_frees_its_transactions(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    batch = queue.queue([*CLEAN])
    queue.platform.execute("UPDATE audit_rules SET is_active = false")
    done = programs.run("process-queue")
    assert done.exit_code == 3
    assert "no active audit rule" in done.stderr
    history = queue.platform.history(batch)
    assert history["status"] == "failed"
    assert history["error_message"] == "There is no active audit rule for this organization, so nothing was audited."
    assert set(queue.labels().values()) == {"null"}
    assert asked(simulator) == []


@both
def test_an_empty_batch_completes_with_nothing_in_it(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    batch = queue.batch([])
    done = run(programs)
    assert (done.exit_code, done.json()["batches"]["completed"], done.json()["calls"]) == (0, 1, 0)
    history = queue.platform.history(batch)
    assert (history["status"], history["total_transactions"], history["error_message"]) == ("completed", 0, None)
    assert history["audit_info"]["audit_results"] == []
