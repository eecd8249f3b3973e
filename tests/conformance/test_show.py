"""Showing: batches with their figures, what a batch said of each transaction, and every call about one of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from gepp_audit.audit.prompt import compile_rules
from gepp_audit.database.history import BatchFilter
from gepp_audit.database.platform import load_rules
from gepp_audit.errors import OperatorError
from gepp_audit.model import ErrorCode, ItemState
from gepp_audit.queue.cancelling import cancel
from gepp_audit.queue.retrying import RetryRequest, plan, retry
from gepp_audit.queue.showing import LineFilter, list_batches, show_batch, show_transaction
from tests.support import steps
from tests.support.platforms import Platform

FINDING = {
    "rule_id": "DC-01",
    "reason": "No weight was given.",
    "evidence": [{"record_id": 12, "field": "origin_weight_kg", "value": "6.25"}],
}
REJECTED = {
    "status": "rejected", "rules": {"DC-01": "fail", "DC-02": "pass"}, "findings": [FINDING], "rejected_by": ["DC-01"],
    "warned_by": [],
}  # fmt: skip


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


def settle(platform: Platform, *outcomes: str, **changes: Any) -> list[int]:
    """Claim what waits and give it these outcomes, one after the other; returns the calls."""
    claims = steps.claim(platform, len(outcomes))
    settled = []
    for claimed, outcome in zip(claims, outcomes, strict=True):
        if outcome == "failed":
            settled.append(steps.failure(claimed, **changes))
        elif outcome == "rejected":
            settled.append(steps.verdict(platform, claimed, "rejected", verdict=REJECTED, **changes))
        else:
            settled.append(steps.verdict(platform, claimed, outcome, **changes))
    steps.settle_all(platform, settled)
    return [claimed.call_id for claimed in claims]


def ended(platform: Platform, organization: int, *outcomes: str, **changes: Any) -> tuple[int, list[int]]:
    ids = platform.transactions(organization, len(outcomes))
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    settle(platform, *outcomes, **changes)
    steps.write_back(platform)
    steps.close_all(platform)
    return batch, ids


def verdicts(platform: Platform, batch: int, **more: Any) -> dict[int, Any]:
    return {one.transaction_id: one.verdict for one in show_batch(platform.database, batch, 100, **more).transactions}


# -- batches -----------------------------------------------------------------------------------------------------------


def test_an_ended_batch_has_its_counts_tokens_and_cost(platform: Platform, organization: int) -> None:
    batch, _ = ended(platform, organization, "approved", "rejected", "no_action", "failed")
    told = list_batches(platform.database, 5).as_json()
    [line] = told["batches"]
    assert told["has_more"] is False
    del line["started_at"], line["completed_at"], line["summary"], line["triggered_by_user_id"]
    assert line == {
        "audit_history_id": batch, "organization_id": organization, "status": "completed", "total_transactions": 4,
        "processed_transactions": 4, "approved_count": 1, "rejected_count": 1, "undecided_count": 1, "failed_count": 1,
        "skipped_count": 0, "cost_usd": Decimal("0.000375"), "deleted": False,
        "error_message": line["error_message"],
        "token_usage": {
            "total_input_tokens": 300, "total_output_tokens": 60, "total_tokens": 360, "cached_input_tokens": 192,
        },
    }  # fmt: skip
    assert "could not be audited" in line["error_message"]


def test_an_open_batch_has_its_figures_so_far(platform: Platform, organization: int) -> None:
    batch = platform.batch(organization, platform.transactions(organization, 5))
    steps.take_up(platform)
    settle(platform, "approved", "no_action", "failed")
    steps.write_back(platform)
    [line] = list_batches(platform.database, 5).batches
    assert (line.audit_history_id, line.open, line.processed, line.total) == (batch, True, 3, 5)
    assert (line.approved, line.rejected, line.undecided, line.failed, line.skipped) == (1, 0, 1, 1, 0)
    assert line.spent is not None
    assert (line.spent.calls, line.spent.total_tokens, line.spent.price) == (3, 240, Decimal("0.00025"))


def test_money_that_is_not_known_is_not_told_as_none(platform: Platform, organization: int) -> None:
    ended(platform, organization, "approved", cost=None)
    platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    settle(platform, "approved", cost=None)
    for line in list_batches(platform.database, 5).batches:
        assert line.spent is not None
        assert (line.spent.total_tokens, line.spent.price) == (120, None)


def test_filters_of_batches_narrow_each_other(platform: Platform, organization: int) -> None:
    other = platform.organization()
    done, _ = ended(platform, organization, "approved")
    theirs, _ = ended(platform, other, "approved")
    open_ = platform.batch(organization, platform.transactions(organization, 1))
    gone = platform.batch(organization, platform.transactions(organization, 1))
    cancel(platform.database, gone)
    old = platform.batch(organization, platform.transactions(organization, 1))
    long_ago = datetime.now(UTC) - timedelta(days=40)
    at = long_ago if platform.is_postgresql else long_ago.strftime("%Y-%m-%d %H:%M:%S.%f")
    platform.execute(
        "UPDATE transaction_audit_history SET created_date = :at, started_at = :at WHERE id = :id", at=at, id=old
    )

    def ids(most: int = 50, **wanted: Any) -> list[int]:
        found = list_batches(platform.database, most, BatchFilter(**wanted))
        return [line.audit_history_id for line in found.batches]

    lately = datetime.now(UTC) - timedelta(days=30)
    deleted = platform.batch(organization, [], status="completed")
    platform.execute("UPDATE transaction_audit_history SET deleted_date = started_at WHERE id = :id", id=deleted)
    assert ids() == [old, gone, open_, theirs, done]
    assert ids(withdrawn=False) == [old, open_, theirs, done]
    assert ids(organizations=(other,)) == [theirs]
    assert ids(statuses=("completed",), organizations=(organization,)) == [done]
    assert ids(statuses=("cancelled", "completed")) == [gone, theirs, done]
    assert ids(since=lately, statuses=("in_progress",)) == [open_]
    assert (ids(2), ids(before=theirs)) == ([old, gone], [done])
    for unknown, said in (({"organizations": (other, 99)}, "organization 99"), ({"statuses": ("complete",)}, "status")):
        with pytest.raises(OperatorError, match=f"no .*{said}") as refused:
            ids(**unknown)
        assert refused.value.exit_code == 2
    platform.execute("UPDATE transaction_audit_history SET status = 'archived' WHERE id = :id", id=done)
    assert ids(statuses=("archived",)) == [done]
    platform.execute("UPDATE transaction_audit_history SET created_date = NULL")
    assert ids(since=lately) == [gone, open_, theirs, done]


def test_a_batch_of_the_platforms_own_program_is_shown_as_far_as_it_tells(
    platform: Platform, organization: int
) -> None:
    ids = platform.transactions(organization, 2, status="approved", ai_audit_note={"status": "approved"})
    batch = platform.batch(organization, ids, status="completed")
    platform.execute(
        "UPDATE transaction_audit_history SET completed_at = started_at, audit_info = :info WHERE id = :id",
        info='{"audit_results": [{"id": 1}, 7, null], "summary": [], "version": "theirs"}', id=batch,
    )  # fmt: skip
    found = show_batch(platform.database, batch, 10)
    assert (found.batch.undecided, found.batch.spent, found.batch.open) == (None, None, False)
    assert [(one.verdict, one.source) for one in found.transactions] == [("approved", "transaction")] * 2


# -- transactions of a batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [False, True])
def test_each_verdict_has_its_rules_reasons_and_evidence(platform: Platform, organization: int, closed: bool) -> None:
    if closed:
        batch, ids = ended(platform, organization, "rejected", "failed")
    else:
        ids = platform.transactions(organization, 2)
        batch = platform.batch(organization, ids)
        steps.take_up(platform)
        settle(platform, "rejected", "failed")
    rejected, failed = show_batch(platform.database, batch, 10).as_json()["transactions"]
    source = "queue" if not closed else "transaction_audits" if platform.is_new else "transaction"
    told = {name: rejected[name] for name in ("verdict", "rules", "rejected_by", "warned_by", "findings", "source")}
    assert told == {
        "verdict": "rejected", "rules": REJECTED["rules"], "rejected_by": ["DC-01"], "warned_by": [],
        "findings": [FINDING], "source": source,
    }  # fmt: skip
    assert (rejected["calls"], rejected["input_tokens"], rejected["cost_usd"]) == (1, 100, Decimal("0.000125"))
    assert (failed["verdict"], failed["error_code"], failed["source"]) == ("failed", "policy_violation", "queue")
    assert failed["error"] == "the provider refused this transaction"
    if closed:
        labels = platform.labels(ids)
        assert (rejected["status"], failed["status"]) == (labels[ids[0]], labels[ids[1]])


def test_a_batch_tells_its_own_verdict_though_a_later_one_gave_another(platform: Platform, organization: int) -> None:
    first, [id_] = ended(platform, organization, "rejected")
    request = RetryRequest(transaction_ids=(id_,))
    second = retry(platform.database, request, plan(platform.database, request)).batches[0].audit_history_id
    steps.take_up(platform)
    settle(platform, "approved")
    steps.write_back(platform)
    steps.close_all(platform)
    assert (verdicts(platform, first), verdicts(platform, second)) == ({id_: "rejected"}, {id_: "approved"})
    [line] = show_batch(platform.database, first, 1).transactions
    # an older platform keeps the last words alone
    assert bool(line.findings) is platform.is_new
    assert line.rejected_by == ("DC-01",)


def test_what_waits_is_asked_or_was_skipped_says_so(platform: Platform, organization: int) -> None:
    asked, failing, waiting, decided = platform.transactions(organization, 4)
    [foreign] = platform.transactions(platform.organization(), 1, notes="theirs")
    platform.execute("UPDATE transactions SET ai_audit_status = 'approved' WHERE id = :id", id=decided)
    batch = platform.batch(organization, [waiting, asked, failing, decided, foreign, 9_999])
    assert set(verdicts(platform, batch).values()) == {"waiting", None}  # no run has seen it
    steps.take_up(platform)
    first, second = steps.claim(platform, 2)
    again = steps.failure(second, state=ItemState.READY, code=ErrorCode.TIMEOUT, wait=True, delay=60.0)
    steps.settle_all(platform, [again])
    assert first.transaction_id == asked
    lines = {one.transaction_id: one for one in show_batch(platform.database, batch, 10).transactions}
    assert {id_: (one.verdict, one.status) for id_, one in lines.items()} == {
        asked: ("calling", "queued"), failing: ("waiting", "queued"), waiting: ("waiting", "queued"),
        decided: ("skipped", "not_queued"), foreign: ("skipped", "foreign"), 9_999: ("skipped", "not_found"),
    }  # fmt: skip
    assert lines[failing].error_code == "timeout"
    assert lines[failing].next_attempt_at is not None
    assert lines[waiting].next_attempt_at is None


def test_another_organizations_transaction_stays_unseen(platform: Platform, organization: int) -> None:
    note = {"status": "rejected", "findings": [FINDING], "rejected_by": ["DC-01"]}
    [foreign] = platform.transactions(platform.organization(), 1, status="rejected", ai_audit_note=note)
    batch = platform.batch(organization, [foreign], status="completed")
    [line] = show_batch(platform.database, batch, 10).transactions
    assert (line.status, line.verdict, line.findings, line.rejected_by) == ("not_found", None, (), ())


def test_filters_of_transactions_narrow_each_other_and_pages_go_on(platform: Platform, organization: int) -> None:
    outcomes = ("approved", "rejected", "failed", "no_action", "rejected")
    batch, ids = ended(platform, organization, *outcomes)

    def shown(most: int = 50, after: int = 0, **wanted: Any) -> tuple[list[int], bool]:
        line_filter = LineFilter(**{name: frozenset(value) for name, value in wanted.items()})
        found = show_batch(platform.database, batch, most, after=after, wanted=line_filter)
        return [one.transaction_id for one in found.transactions], found.more

    assert shown(verdicts=["rejected"]) == ([ids[1], ids[4]], False)
    assert shown(verdicts=["failed", "no_action"]) == ([ids[2], ids[3]], False)
    assert shown(rules=["DC-01"], verdicts=["rejected"]) == ([ids[1], ids[4]], False)
    assert shown(rules=["DC-01"], verdicts=["approved"]) == ([], False)
    assert shown(rules=["DC-09"]) == ([], False)
    assert shown(2) == (ids[:2], True)
    assert shown(2, after=ids[2]) == (ids[3:], False)
    assert shown(1, verdicts=["rejected"]) == ([ids[1]], True)


def test_a_large_batch_whose_results_are_cut_short_is_shown_whole(
    platform: Platform, organization: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gepp_audit.database.closing.TRUNCATE_ABOVE", 2)
    batch, ids = ended(platform, organization, "approved", "rejected", "no_action", "approved")
    assert verdicts(platform, batch) == dict(zip(ids, ("approved", "rejected", "no_action", "approved"), strict=True))


def test_a_batch_of_another_organization_does_not_exist(platform: Platform, organization: int) -> None:
    batch, [id_] = ended(platform, organization, "approved")
    with pytest.raises(OperatorError, match=f"no batch {batch} of organization 99") as caught:
        show_batch(platform.database, batch, 5, organizations=(99,))
    assert (caught.value.code, caught.value.exit_code) == ("unknown_batch", 2)
    with pytest.raises(OperatorError, match=f"no transaction {id_} of organization 99"):
        show_transaction(platform.database, id_, organizations=(99,))
    with pytest.raises(OperatorError, match="there is no batch 99"):
        show_batch(platform.database, 99, 5)


# -- one transaction ---------------------------------------------------------------------------------------------------


def test_a_transaction_has_every_call_about_it(platform: Platform, organization: int) -> None:
    ids = platform.transactions(organization, 2)
    batch = platform.batch(organization, ids)
    steps.take_up(platform)
    first, _ = steps.claim(platform, 2)
    steps.settle_all(platform, [steps.failure(first, state=ItemState.READY, code=ErrorCode.TIMEOUT, wait=True)])
    [second] = steps.claim(platform, 1)
    steps.settle_all(platform, [steps.verdict(platform, second, "rejected", verdict=REJECTED)])
    steps.write_back(platform)
    told = show_transaction(platform.database, ids[0]).as_json()
    assert (told["transaction_id"], told["organization_id"], told["ai_audit_status"]) == (
        ids[0], organization, "rejected",
    )  # fmt: skip
    assert [(one["audit_history_id"], one["verdict"]) for one in told["batches"]] == [(batch, "rejected")]
    assert [one["call_id"] for one in told["calls"]] == [first.call_id, second.call_id]
    call = told["calls"][1]
    assert {name: call[name] for name in ("outcome", "input_tokens", "output_tokens", "cost_usd", "latency_ms")} == {
        "outcome": "verdict", "input_tokens": 100, "output_tokens": 20, "cost_usd": Decimal("0.000125"),
        "latency_ms": 512,
    }  # fmt: skip
    assert (call["request_id"], call["run_id"], call["model_answered"]) == ("req-1", "run-1", "m-1-2026")
    assert (told["calls"][0]["error_code"], told["calls"][0]["cost_usd"]) == ("timeout", None)


def test_its_json_has_these_keys_always(platform: Platform, organization: int) -> None:
    _, [id_] = ended(platform, organization, "approved")
    told = show_transaction(platform.database, id_, prompt_fields=frozenset()).as_json()
    assert set(told) == {
        "transaction_id", "organization_id", "ai_audit_status", "status", "deleted", "decided_by_person", "batches",
        "calls", "prompt",
    }  # fmt: skip
    assert set(told["batches"][0]) == {
        "audit_history_id", "batch_status", "transaction_id", "status", "verdict", "rules", "rejected_by", "warned_by",
        "findings", "skip_reason", "error_code", "error", "next_attempt_at", "settled_at", "source", "calls",
        "input_tokens", "output_tokens", "cached_tokens", "cost_usd",
    }  # fmt: skip
    assert set(told["calls"][0]) == {
        "call_id", "audit_history_id", "run_id", "host", "model", "model_answered", "tier", "prompt_version",
        "rules_digest", "input_digest", "dispatched_at", "answered_at", "outcome", "error_code", "input_tokens",
        "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_usd", "latency_ms",
        "request_id", "verdict",
    }  # fmt: skip
    assert set(told["prompt"]) == {
        "call_id", "rules_from", "same_rules", "same_input", "same_prompt_version", "prefix", "suffix", "schema",
    }  # fmt: skip


def test_a_transaction_is_told_of_in_each_batch_or_in_one(platform: Platform, organization: int) -> None:
    first, [id_] = ended(platform, organization, "failed")
    request = RetryRequest(transaction_ids=(id_,))
    second = retry(platform.database, request, plan(platform.database, request)).batches[0].audit_history_id
    steps.take_up(platform)

    def told(batch: int | None = None) -> list[tuple[int, str]]:
        data = show_transaction(platform.database, id_, batch=batch).as_json()
        assert [call["audit_history_id"] for call in data["calls"]] == ([] if batch == second else [first])
        return [(one["audit_history_id"], one["verdict"]) for one in data["batches"]]

    assert told() == [(second, "waiting"), (first, "failed")]
    assert (told(first), told(second)) == ([(first, "failed")], [(second, "waiting")])
    other = platform.batch(organization, platform.transactions(organization, 1))
    with pytest.raises(OperatorError, match=f"batch {other} holds no transaction {id_}"):
        show_transaction(platform.database, id_, batch=other)
    with pytest.raises(OperatorError, match="there is no transaction 999"):
        show_transaction(platform.database, 999)


# -- the prompt --------------------------------------------------------------------------------------------------------


def prompt(platform: Platform, id_: int) -> Any:
    return show_transaction(platform.database, id_, prompt_fields=frozenset()).prompt


def ask(platform: Platform, organization: int) -> tuple[int, int]:
    """A batch with an answered call that was shown the rules and the transaction as they stand."""
    [id_] = platform.transactions(organization, 1)
    batch = platform.batch(organization, [id_])
    steps.take_up(platform)
    settle(platform, "approved")
    return batch, id_


def test_the_prompt_is_built_again_by_the_rules_of_its_batch(platform: Platform, organization: int) -> None:
    before = platform.database.read(lambda connection: load_rules(connection, organization))
    batch, id_ = ask(platform, organization)
    platform.rule("DC-09", name="A later rule")
    found = prompt(platform, id_)
    assert (found.rules_from, found.prefix) == ("snapshot", compile_rules(before).prefix)
    assert (found.same_rules, found.same_input, found.same_prompt_version, found.same) == (True, True, True, True)
    assert f'"transaction_id":"{id_}"' in found.suffix
    assert show_transaction(platform.database, id_, batch=batch, prompt_fields=frozenset()).prompt == found


def test_the_prompt_of_an_ended_batch_says_whether_rules_or_transaction_changed(
    platform: Platform, organization: int
) -> None:
    _, id_ = ask(platform, organization)
    steps.write_back(platform)
    steps.close_all(platform)
    found = prompt(platform, id_)
    assert (found.rules_from, found.same) == ("current", True)
    # the verdict itself set the status, which changes nothing of what is compared
    assert platform.value("SELECT status FROM transactions WHERE id = :id", id=id_) == "approved"
    [sent] = [json.loads(line) for line in found.suffix.splitlines() if line.startswith("{")]
    assert ("notes" in sent, "status" in sent) == (True, False)
    platform.rule("DC-09", name="A later rule")
    platform.execute("UPDATE transactions SET notes = 'edited' WHERE id = :id", id=id_)
    found = prompt(platform, id_)
    assert (found.same_rules, found.same_input, found.same) == (False, False, False)
    assert ("A later rule" in found.prefix, '"notes":"edited"' in found.suffix) == (True, True)


def test_a_prompt_that_was_never_sent_says_so(platform: Platform, organization: int) -> None:
    [id_] = platform.transactions(organization, 1)
    found = prompt(platform, id_)
    assert (found.call_id, found.rules_from, found.same) == (None, "current", None)


def test_fields_that_are_sent_by_a_setting_alone_are_shown_by_it_alone(platform: Platform, organization: int) -> None:
    [id_] = platform.transactions(organization, 1, vehicle_info={"plate": "1กก-1234"})
    assert "1กก-1234" not in prompt(platform, id_).suffix
    shown = show_transaction(platform.database, id_, prompt_fields=frozenset({"vehicle_info"})).prompt
    assert shown is not None
    assert "1กก-1234" in shown.suffix


def test_without_a_rule_there_is_no_prompt(platform: Platform) -> None:
    [id_] = platform.transactions(platform.organization(), 1)
    with pytest.raises(OperatorError, match="has no active audit rule") as caught:
        prompt(platform, id_)
    assert caught.value.code == "no_rules"
