"""Asking again: what failed, what is undecided, what a rule decided, what is named; and orphans are freed."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from gepp_audit.database import retrying as pages
from gepp_audit.errors import OperatorError
from gepp_audit.model import ErrorCode
from gepp_audit.queue.retrying import Retried, RetryRequest, as_dry_run, find_orphans, free_orphans, plan, retry
from tests.support import steps
from tests.support.platforms import Platform

STATUSES = ("in_progress", "pending")


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


def again(platform: Platform, **what: Any) -> Retried:
    request = RetryRequest(**what)
    return retry(platform.database, request, plan(platform.database, request))


def asked_again(done: Retried) -> list[int]:
    return [id_ for batch in done.batches for id_ in batch.transaction_ids]


def audited(platform: Platform, organization: int, *outcomes: str) -> tuple[int, list[int]]:
    """A closed batch whose transactions have these outcomes, `failed` among them."""
    ids = platform.transactions(organization, len(outcomes))
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    settled = []
    for claimed, outcome in zip(steps.claim(platform), outcomes, strict=True):
        told = steps.verdict(platform, claimed, outcome)
        # a failure that is remembered: unchanged, it would be refused
        settled.append(steps.failure(claimed, input_digest=told.input_digest) if outcome == "failed" else told)
    steps.settle_all(platform, settled)
    steps.write_back(platform)
    steps.close_all(platform)
    return batch, ids


def test_what_failed_in_a_batch_is_asked_again_though_it_did_not_change(platform: Platform, organization: int) -> None:
    batch, ids = audited(platform, organization, "failed", "approved", "failed", "no_action")
    audited(platform, organization, "failed")
    done = again(platform, batch=batch)
    assert (asked_again(done), done.batches[0].organization_id) == ([ids[0], ids[2]], organization)
    row = platform.history(done.batches[0].audit_history_id)
    assert (row["transactions"], row["total_transactions"], row["status"]) == ([ids[0], ids[2]], 2, "in_progress")
    [fanned_out] = steps.take_up(platform)
    assert (fanned_out.ready, fanned_out.refused) == (2, 0)
    assert [one.transaction_id for one in steps.claim(platform)] == [ids[0], ids[2]]


def test_its_json_names_the_new_batches_and_their_transactions(platform: Platform, organization: int) -> None:
    batch, ids = audited(platform, organization, "failed", "failed", "failed")
    request = RetryRequest(batch=batch, failed=True, batch_size=2)
    planned = plan(platform.database, request)
    told = as_dry_run(planned, request).as_json()
    assert (told["queued_count"], told["audit_history_ids"], told["dry_run"]) == (3, [], True)
    assert platform.labels(ids) == dict.fromkeys(ids, platform.failed_label)
    first, second = (done := retry(platform.database, request, planned)).batches
    assert done.as_json() == {
        "queued_count": 3,
        "audit_history_ids": [first.audit_history_id, second.audit_history_id],
        "batches": [
            {"audit_history_id": one.audit_history_id, "organization_id": organization,
             "queued_count": len(part), "transaction_ids": part}
            for one, part in ((first, ids[:2]), (second, ids[2:]))
        ],
        "left_out_count": 0,
        "left_out": [],
    }  # fmt: skip


def test_what_failed_in_any_batch_becomes_a_batch_for_each_organization(platform: Platform, organization: int) -> None:
    other = platform.organization()
    _, mine = audited(platform, organization, "failed", "rejected")
    _, theirs = audited(platform, other, "approved", "failed")
    done = again(platform, failed=True)
    assert [(one.organization_id, one.transaction_ids) for one in done.batches] == [
        (organization, (mine[0],)),
        (other, (theirs[1],)),
    ]


@pytest.mark.parametrize("named", ["batch", "organization", "both"])
def test_what_belongs_to_another_organization_by_now_is_not_asked_for_the_old_one(
    platform: Platform, organization: int, named: str
) -> None:
    """Whoever asks again must neither change nor spend what is another one's."""
    other = platform.organization()
    batch, [moved, kept] = audited(platform, organization, "failed", "failed")
    platform.execute("UPDATE transactions SET organization_id = :other WHERE id = :id", other=other, id=moved)
    batches = {} if named == "organization" else {"batch": batch}
    organizations = {} if named == "batch" else {"organizations": (organization,)}
    done = again(platform, failed=True, **batches, **organizations)
    assert [(one.organization_id, one.transaction_ids) for one in done.batches] == [(organization, (kept,))]
    assert platform.labels([moved]) == {moved: platform.failed_label}


def test_what_failed_and_has_a_verdict_by_now_is_not_asked(platform: Platform, organization: int) -> None:
    batch, [id_] = audited(platform, organization, "failed")
    again(platform, batch=batch)
    steps.take_up(platform)
    steps.settle_all(platform, [steps.verdict(platform, one) for one in steps.claim(platform)])
    steps.write_back(platform)
    steps.close_all(platform)
    assert (asked_again(again(platform, batch=batch)), platform.labels([id_])) == ([], {id_: "approved"})


def test_a_second_time_nothing_is_queued_and_there_is_no_batch(platform: Platform, organization: int) -> None:
    batch, _ = audited(platform, organization, "failed")
    assert again(platform, batch=batch).count == 1
    done = again(platform, batch=batch)
    assert (done.count, done.batches, done.left_out_count) == (0, (), 0)
    assert platform.value("SELECT count(*) FROM transaction_audit_history") == 2


def test_the_undecided_ones_are_asked_again(platform: Platform, organization: int) -> None:
    batch, ids = audited(platform, organization, "no_action", "approved", "failed")
    _, others = audited(platform, platform.organization(), "no_action")
    assert asked_again(again(platform, batch=batch, undecided=True)) == [ids[0]]
    assert asked_again(again(platform, undecided=True, failed=True)) == [ids[2], others[0]]


def test_what_a_rule_rejected_or_could_not_tell_is_asked_again(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 5)
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    for rule_id in ("DC-02", "DC-03"):
        platform.rule(rule_id)
    told: list[dict[str, Any]] = [
        {"status": "rejected", "rules": {"DC-01": "fail", "DC-02": "pass"}, "rejected_by": ["DC-01"]},
        {"status": "no_action", "rules": {"DC-01": "cannot_tell", "DC-02": "pass"}, "warned_by": ["DC-01"]},
        {"status": "approved", "rules": {"DC-01": "pass", "DC-02": "cannot_tell"}, "warned_by": ["DC-02"]},
        {"status": "approved", "rules": {"DC-01": "pass", "DC-02": "fail"}, "warned_by": ["DC-02"]},
        {"status": "rejected", "rules": {"DC-01": "pass", "DC-012": "fail"}, "rejected_by": ["DC-012"]},
    ]
    whole = [{"findings": [], "rejected_by": [], "warned_by": [], **one} for one in told]
    steps.settle_all(
        platform,
        [
            steps.verdict(platform, claimed, verdict["status"], verdict=verdict)
            for claimed, verdict in zip(steps.claim(platform), whole, strict=True)
        ],
    )
    steps.write_back(platform)
    steps.close_all(platform)

    def would_ask(**what: Any) -> list[int]:
        return [id_ for chosen in plan(platform.database, RetryRequest(**what)).chosen.values() for id_ in chosen]

    assert would_ask(rules=("DC-01",)) == ids[:2]
    assert would_ask(rules=("DC-02",), batch=batch) == [ids[2]]
    assert would_ask(rules=("DC-02", "DC-01"), organizations=(organization,)) == ids[:3]
    assert would_ask(rules=("DC-03",)) == []
    with pytest.raises(OperatorError, match=re.escape("the platform has no rule '; -- or \"].")):
        would_ask(rules=("DC-03", "'; --", '"]'))
    # filters narrow each other, values of one add up
    assert would_ask(undecided=True, rules=("DC-01",)) == [ids[1]]
    assert would_ask(undecided=True, failed=True, rules=("DC-01", "DC-02")) == [ids[1]]
    assert would_ask(undecided=True, rules=("DC-02",)) == []
    assert would_ask(failed=True, rules=("DC-01",)) == []
    with pytest.raises(OperatorError, match="is not of the kind that is asked for"):
        would_ask(undecided=True, rules=("DC-02",), transaction_ids=(ids[0],))
    assert asked_again(again(platform, rules=("DC-01",))) == ids[:2]


def test_named_ones_are_asked_again_whatever_the_audit_said(platform: Platform, organization: int) -> None:
    _, ids = audited(platform, organization, "approved", "rejected", "no_action", "failed")
    done = again(platform, transaction_ids=tuple(reversed(ids)))
    assert (asked_again(done), set(platform.labels(ids).values())) == (ids, {"queued"})


def test_named_ones_that_cannot_be_asked_are_named_and_none_is_queued(platform: Platform, organization: int) -> None:
    batch, [good, failed, deleted] = audited(platform, organization, "rejected", "failed", "failed")
    _, [elsewhere] = audited(platform, organization, "failed")
    [new] = platform.transactions(organization, 1, status="null")
    [queued] = platform.transactions(organization, 1)
    platform.execute("UPDATE transactions SET is_active = false WHERE id = :id", id=deleted)
    with pytest.raises(OperatorError) as caught:
        again(platform, transaction_ids=(good, deleted, new, queued, 999_999))
    assert caught.value.message.splitlines() == [
        "4 transactions cannot be asked again, so none was:",
        f"  {deleted} was deleted",
        f'  {new} was never audited: "gepp-audit enqueue" queues it',
        f"  {queued} is queued already",
        "  999999 is no transaction of the platform",
    ]
    assert (caught.value.code, caught.value.exit_code) == ("not_retryable", 2)
    with pytest.raises(OperatorError, match=f"{elsewhere} is no transaction of batch {batch}"):
        again(platform, batch=batch, transaction_ids=(failed, elsewhere))
    with pytest.raises(OperatorError, match=f"{good} is not of the kind that is asked for .rejected."):
        again(platform, failed=True, transaction_ids=(failed, good))
    with pytest.raises(OperatorError, match=f"{good} is no transaction of this organization"):
        again(platform, organizations=(platform.organization(),), transaction_ids=(good,))
    with pytest.raises(OperatorError, match=f"{failed} is no transaction of batch {batch}"):
        again(platform, batch=batch, organizations=(platform.organization(),), transaction_ids=(failed,))
    assert platform.value("SELECT count(*) FROM transaction_audit_history") == 2


@pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
def test_what_a_person_decided_is_left_alone_and_told_of(platform: Platform, organization: int) -> None:
    batch, [decided, other] = audited(platform, organization, "failed", "failed")
    platform.execute("UPDATE transactions SET is_user_audit = true, status = 'approved' WHERE id = :id", id=decided)
    done = again(platform, batch=batch)
    assert asked_again(done) == [other]
    assert done.as_json()["left_out"] == [{"transaction_id": decided, "why": "was decided by a person"}]
    assert platform.labels([decided]) == {decided: "failed"}


def test_what_was_decided_between_the_question_and_the_answer_is_left_out(
    platform: Platform, organization: int
) -> None:
    batch, [first, second] = audited(platform, organization, "failed", "failed")
    request = RetryRequest(batch=batch)
    planned = plan(platform.database, request)
    platform.execute("UPDATE transactions SET ai_audit_status = 'queued' WHERE id = :id", id=first)
    done = retry(platform.database, request, planned)
    assert (asked_again(done), done.left_out_count) == ([second], 1)
    named = RetryRequest(transaction_ids=(second,))
    with pytest.raises(OperatorError, match="is queued already"):
        plan(platform.database, named)


def test_of_named_ones_all_are_queued_or_none(platform: Platform, organization: int) -> None:
    _, [first, second] = audited(platform, organization, "failed", "failed")
    request = RetryRequest(transaction_ids=(first, second))
    planned = plan(platform.database, request)
    platform.execute("UPDATE transactions SET ai_audit_status = 'queued' WHERE id = :id", id=first)
    with pytest.raises(OperatorError, match=f"{first} was taken or decided at this moment"):
        retry(platform.database, request, planned)
    assert platform.labels([second]) == {second: platform.failed_label}


def test_two_people_at_once_queue_nothing_twice(platform: Platform, organization: int) -> None:
    batch, ids = audited(platform, organization, *["failed"] * 20)
    request = RetryRequest(batch=batch)
    plans = [plan(platform.database, request) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda planned: retry(platform.database, request, planned), plans))
    assert sorted(id_ for one in done for id_ in asked_again(one)) == ids
    assert sum(one.left_out_count for one in done) == 20
    assert sum(one.ready for one in steps.take_up(platform)) == 20


def test_more_than_a_page_of_failed_ones_is_found_and_bounded(
    platform: Platform, organization: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, ids = audited(platform, organization, *["failed"] * 7)
    monkeypatch.setattr(pages, "PAGE", 3)
    assert plan(platform.database, RetryRequest(batch=batch)).chosen == {organization: ids}
    assert plan(platform.database, RetryRequest(failed=True, max_transactions=4)).chosen == {organization: ids[:4]}


def test_a_batch_without_rules_can_be_asked_again_once_there_are_some(platform: Platform) -> None:
    organization = platform.organization()
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    steps.close_all(platform)
    assert platform.history(batch)["status"] == "failed"
    platform.rule()
    assert asked_again(again(platform, batch=batch)) == ids
    assert [one.ready for one in steps.take_up(platform)] == [2]


def test_what_was_given_up_or_crashed_is_asked_again(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    codes = (ErrorCode.GIVEN_UP, ErrorCode.CRASHED)
    claims = steps.claim(platform)
    steps.settle_all(platform, [steps.failure(one, code=code) for one, code in zip(claims, codes, strict=True)])
    steps.write_back(platform)
    assert asked_again(again(platform, batch=batch)) == ids  # though the batch is still open


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_a_user_that_the_platform_does_not_know_is_refused(platform: Platform, organization: int) -> None:
    batch, ids = audited(platform, organization, "failed")
    with pytest.raises(OperatorError, match="the platform has no user 77"):
        again(platform, batch=batch, triggered_by=77)
    assert platform.labels(ids) == {ids[0]: "failed"}


def test_an_unknown_batch_is_refused(platform: Platform) -> None:
    with pytest.raises(OperatorError, match="there is no batch 99"):
        again(platform, batch=99)


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_what_the_platform_holds_is_not_waited_for(platform: Platform, organization: int) -> None:
    batch, [held, free] = audited(platform, organization, "failed", "failed")
    with platform.database.engine.connect() as theirs:
        theirs.execute(text("UPDATE transactions SET notes = 'held' WHERE id = :id"), {"id": held})
        done = again(platform, batch=batch)
        theirs.rollback()
    assert (asked_again(done), done.as_json()["left_out"][0]["transaction_id"]) == ([free], held)


# -- orphans -----------------------------------------------------------------------------------------------------------


def orphans(platform: Platform, *organizations: int) -> tuple[int, ...]:
    return find_orphans(platform.database, STATUSES, organizations)


def test_what_is_queued_in_no_open_batch_is_found_and_freed(platform: Platform, organization: int) -> None:
    orphaned = platform.transactions(organization, 2)
    other = platform.transactions(platform.organization(), 1)
    new = platform.batch(organization, platform.transactions(organization, 1), status="pending")
    platform.batch(organization, platform.transactions(organization, 2))
    steps.take_up(platform)
    platform.execute(
        "UPDATE transaction_audit_history SET status = 'cancelled' WHERE id <> :id AND status <> 'in_progress'", id=new
    )
    assert orphans(platform) == (*orphaned, *other)
    assert orphans(platform, organization) == tuple(orphaned)
    freed = free_orphans(platform.database, orphans(platform, organization), STATUSES)
    assert freed.as_json() == {"freed_count": 2, "transaction_ids": orphaned}
    assert platform.labels([*orphaned, *other]) == dict.fromkeys(orphaned, "null") | {other[0]: "queued"}
    assert orphans(platform) == tuple(other)


def test_what_an_ended_batch_left_queued_is_an_orphan(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 2)
    platform.batch(organization, ids, status="failed")
    assert orphans(platform) == tuple(ids)


def test_an_orphan_that_is_queued_anew_meanwhile_is_left_alone(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 2)
    found = orphans(platform)
    platform.batch(organization, ids[:1])
    assert free_orphans(platform.database, found, STATUSES).transaction_ids == (ids[1],)
    assert platform.labels(ids) == {ids[0]: "queued", ids[1]: "null"}


def test_what_people_decided_or_deleted_is_no_orphan(platform: Platform, organization: int) -> None:
    platform.transactions(organization, 1, is_active=False)
    if platform.is_new:
        platform.transactions(organization, 1, is_user_audit=True)
    assert orphans(platform) == ()


def test_more_than_a_page_of_orphans_is_found_and_freed(
    platform: Platform, organization: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = platform.transactions(organization, 7)
    monkeypatch.setattr(pages, "PAGE", 3)
    assert free_orphans(platform.database, orphans(platform), STATUSES).transaction_ids == tuple(ids)


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
@pytest.mark.parametrize("table", ["transactions", "transaction_audit_history"])
def test_a_database_without_a_table_of_the_platform_is_no_platform_with_nothing_to_ask(
    platform: Platform, table: str
) -> None:
    platform.execute(f"DROP TABLE {table} CASCADE")
    with pytest.raises(OperatorError, match="a table or column is missing"):
        plan(platform.database, RetryRequest(failed=True))
