"""Enqueue: what waits becomes a batch, what cannot be queued is named, and nothing is queued by halves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gepp_audit.database.engine import open_database
from gepp_audit.errors import OperatorError
from gepp_audit.queue.enqueue import Enqueued, EnqueueRequest, enqueue
from tests.support import steps
from tests.support.platforms import Platform


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


def put(platform: Platform, organization: int, **what: Any) -> Enqueued:
    return enqueue(platform.database, EnqueueRequest(organization_id=organization, **what))


def test_all_that_waits_becomes_one_batch(platform: Platform, organization: int) -> None:
    waiting = platform.transactions(organization, 3, status="null")
    platform.transactions(organization, 2, status="approved")
    platform.transactions(platform.organization(), 2, status="null")
    done = put(platform, organization)
    assert (done.transaction_ids, len(done.audit_history_ids)) == (tuple(waiting), 1)
    row = platform.history(done.audit_history_ids[0])
    assert (row["transactions"], row["total_transactions"], row["status"]) == (waiting, 3, "in_progress")
    assert platform.labels(waiting) == dict.fromkeys(waiting, "queued")


def test_its_answer_is_the_platforms_own(platform: Platform, organization: int) -> None:
    [waiting] = platform.transactions(organization, 1, status="null")
    done = put(platform, organization)
    assert done.as_json() == {
        "queued_count": 1,
        "organization_id": organization,
        "audit_history_id": done.audit_history_ids[0],
        "transaction_ids": [waiting],
    }


def test_a_second_time_there_is_nothing_to_queue_and_no_batch(platform: Platform, organization: int) -> None:
    platform.transactions(organization, 2, status="null")
    put(platform, organization)
    done = put(platform, organization)
    assert (done.transaction_ids, done.audit_history_ids) == ((), ())
    assert platform.value("SELECT count(*) FROM transaction_audit_history") == 1


def test_ids_that_cannot_be_queued_are_named_and_nothing_is_queued(platform: Platform, organization: int) -> None:
    [good] = platform.transactions(organization, 1, status="null")
    [foreign] = platform.transactions(platform.organization(), 1, status="null")
    [queued] = platform.transactions(organization, 1, status="queued")
    [deleted] = platform.transactions(organization, 1, status="null")
    platform.execute("UPDATE transactions SET is_active = FALSE WHERE id = :id", id=deleted)
    with pytest.raises(OperatorError) as refused:
        put(platform, organization, transaction_ids=(good, foreign, queued, deleted, 77_777))
    told = str(refused.value)
    assert f"{foreign} is no transaction of organization" in told
    assert f"{queued} is queued already" in told
    assert f"{deleted} was deleted" in told
    assert "77777 is no transaction" in told
    assert (refused.value.exit_code, refused.value.code) == (2, "not_queueable")
    assert platform.labels([good]) == {good: "null"}
    assert platform.value("SELECT count(*) FROM transaction_audit_history") == 0


def test_a_batch_size_splits_into_batches(platform: Platform, organization: int) -> None:
    waiting = platform.transactions(organization, 5, status="null")
    done = put(platform, organization, batch_size=2, max_transactions=5)
    assert [platform.history(id_)["transactions"] for id_ in done.audit_history_ids] == [
        waiting[:2], waiting[2:4], waiting[4:],
    ]  # fmt: skip
    assert done.as_json()["audit_history_ids"] == list(done.audit_history_ids)


def test_a_dry_run_changes_nothing(platform: Platform, organization: int) -> None:
    waiting = platform.transactions(organization, 2, status="null")
    done = put(platform, organization, dry_run=True)
    assert (done.transaction_ids, done.audit_history_ids) == (tuple(waiting), ())
    assert platform.labels(waiting) == dict.fromkeys(waiting, "null")


def test_an_unknown_organization_is_refused(platform: Platform) -> None:
    with pytest.raises(OperatorError, match="no organization 4711"):
        put(platform, 4711)


def test_forced_batches_are_known_as_such(platform: Platform, organization: int) -> None:
    platform.transactions(organization, 1, status="null")
    put(platform, organization, force=True)
    assert platform.value("SELECT forced FROM gepp_audit_batches")
    assert len(steps.take_up(platform)) == 1


def test_two_at_the_same_moment_queue_each_transaction_once(platform: Platform, organization: int) -> None:
    waiting = platform.transactions(organization, 40, status="null")

    def press(_: int) -> Enqueued:
        database = open_database(platform.url)
        try:
            return enqueue(database, EnqueueRequest(organization_id=organization))
        finally:
            database.close()

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(press, range(4)))
    assert sorted(id_ for one in done for id_ in one.transaction_ids) == waiting
    listed = platform.rows("SELECT transactions FROM transaction_audit_history")
    assert sorted(id_ for row in listed for id_ in row["transactions"]) == waiting


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_an_unknown_user_is_refused_by_name(platform: Platform, organization: int) -> None:
    platform.transactions(organization, 1, status="null")
    with pytest.raises(OperatorError, match="no user 99"):
        put(platform, organization, triggered_by=99)
    with pytest.raises(OperatorError, match="has no user 2147483648"):
        put(platform, organization, triggered_by=2**31)
    assert platform.value("SELECT count(*) FROM transaction_audit_history") == 0
