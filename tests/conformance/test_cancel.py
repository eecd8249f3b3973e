"""Cancelling a batch as the platform does it: what is queued goes back, verdicts stay, and no run writes into it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from gepp_audit.errors import OperatorError
from gepp_audit.queue.cancelling import cancel, look
from tests.support import steps
from tests.support.platforms import Platform
from tests.support.queues import ledger


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


def is_cancelled(platform: Platform, batch: int) -> bool:
    row = platform.history(batch)
    return row["status"] == "cancelled" and row["deleted_date"] is not None and row["completed_at"] is None


@pytest.mark.parametrize("status", ["in_progress", "pending"])
def test_a_batch_that_no_run_has_seen_goes_back(platform: Platform, organization: int, status: str) -> None:
    ids = platform.transactions(organization, 3)
    batch = platform.batch(organization, ids, status=status)
    assert cancel(platform.database, batch).as_json() == {
        "audit_history_id": batch, "organization_id": organization, "status": "cancelled", "reverted_count": 3,
        "kept_count": 0, "dropped_verdicts": 0, "calls_under_way": 0,
    }  # fmt: skip
    assert platform.labels(ids) == dict.fromkeys(ids, "null")
    assert is_cancelled(platform, batch)
    assert steps.take_up(platform, ("in_progress", "pending")) == []


def test_a_batch_in_work_keeps_its_verdicts_and_loses_the_rest(platform: Platform, organization: int) -> None:
    written, unwritten, asked, waiting = ids = platform.transactions(organization, 4)
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    first, second, third = steps.claim(platform, 3)
    steps.settle_all(platform, [steps.verdict(platform, first, "rejected")])
    steps.write_back(platform)
    steps.settle_all(platform, [steps.verdict(platform, second)])
    done = cancel(platform.database, batch)
    assert (done.reverted, done.kept, done.dropped, done.calling) == (3, 1, 1, 1)
    assert platform.labels(ids) == {written: "rejected", unwritten: "null", asked: "null", waiting: "null"}
    # an answer that comes after all stays in the ledger alone
    assert steps.settle_all(platform, [steps.verdict(platform, third)]) == set()
    steps.write_back(platform)
    assert platform.labels([asked]) == {asked: "null"}
    assert ledger(platform, "superseded") == [unwritten, asked]
    assert (steps.close_all(platform), steps.reconcile(platform), is_cancelled(platform, batch)) == ([], [], True)
    outcome = platform.value("SELECT outcome FROM gepp_audit_batches")
    assert (outcome, steps.states(platform)) == ("withdrawn", {})


def test_what_was_cancelled_can_be_queued_again_at_once(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 2)
    cancel(platform.database, platform.batch(organization, ids))
    platform.execute("UPDATE transactions SET ai_audit_status = 'queued'")
    again = platform.batch(organization, ids)
    assert [(one.audit_history_id, one.ready) for one in steps.take_up(platform)] == [(again, 2)]


def test_what_people_decided_or_deleted_or_others_own_stays_as_it_is(platform: Platform, organization: int) -> None:
    mine, deleted = platform.transactions(organization, 2)
    [foreign] = platform.transactions(platform.organization(), 1)
    ids = [mine, deleted, foreign]
    platform.execute("UPDATE transactions SET deleted_date = :at WHERE id = :id", at=moment(platform), id=deleted)
    if platform.is_new:
        ids += platform.transactions(organization, 1, is_user_audit=True)
    done = cancel(platform.database, platform.batch(organization, ids))
    assert done.reverted == 1
    assert [id_ for id_, label in platform.labels(ids).items() if label == "null"] == [mine]


def moment(platform: Platform) -> object:
    now = datetime.now(UTC)
    return now if platform.is_postgresql else now.strftime("%Y-%m-%d %H:%M:%S.%f")


@pytest.mark.parametrize("fanned_out", [False, True])
def test_what_another_open_batch_holds_stays_queued(platform: Platform, organization: int, fanned_out: bool) -> None:
    shared, mine = platform.transactions(organization, 2)
    other = platform.batch(organization, [shared])
    if fanned_out:
        steps.take_up(platform)
    done = cancel(platform.database, platform.batch(organization, [shared, mine]))
    assert (done.reverted, platform.labels([shared, mine])) == (1, {shared: "queued", mine: "null"})
    assert not is_cancelled(platform, other)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "undone"])
def test_a_batch_that_has_ended_is_refused(platform: Platform, organization: int, status: str) -> None:
    ids = platform.transactions(organization, 1)
    batch = platform.batch(organization, ids, status=status)
    for act in (look, cancel):
        with pytest.raises(OperatorError, match=f"batch {batch} is not open: it ended as {status}") as caught:
            act(platform.database, batch)
        assert (caught.value.code, caught.value.exit_code) == ("batch_not_open", 2)
    assert (platform.history(batch)["status"], platform.labels(ids)) == (status, {ids[0]: "queued"})


def test_an_unknown_batch_is_refused(platform: Platform) -> None:
    with pytest.raises(OperatorError, match="there is no batch 99") as caught:
        cancel(platform.database, 99)
    assert (caught.value.code, caught.value.exit_code) == ("unknown_batch", 2)


def test_looking_changes_nothing(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, ids)
    before = platform.history(batch)
    stood = look(platform.database, batch)
    assert (stood.queued, stood.total, platform.history(batch)) == (2, 2, before)


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_what_the_platform_holds_is_waited_for_and_nothing_is_done_by_halves(
    platform: Platform, organization: int
) -> None:
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, ids)
    with platform.database.engine.connect() as theirs, ThreadPoolExecutor(1) as pool:
        theirs.execute(text("UPDATE transactions SET notes = 'held' WHERE id = :id"), {"id": ids[0]})
        with pytest.raises(OperatorError, match="nothing was changed") as caught:
            cancel(platform.database, batch)
        assert (caught.value.code, set(platform.labels(ids).values())) == ("held_by_platform", {"queued"})
        waiting = pool.submit(cancel, platform.database, batch)
        theirs.rollback()
        assert waiting.result(30).reverted == 2
    assert is_cancelled(platform, batch)
