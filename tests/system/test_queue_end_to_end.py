"""The main job, end to end: batches that the platform wrote become verdicts, with one call per transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.laws import assert_laws
from tests.support.chaos import settled_log
from tests.support.evidence import Told
from tests.support.platform_schema import snapshot_schema
from tests.support.platforms import Platform
from tests.support.processes import ROOT, Programs, Simulator
from tests.support.queues import SampleQueue, as_moment, asked, connect, everything, expectations, theirs

PRICES = {"simulator-1": {"input": "1", "cached_input": "0.1", "output": "2"}}
WRITTEN = {
    "ai_audit_status", "ai_audit_note", "reject_triggers", "warning_triggers", "ai_audit_date", "audit_tokens",
    "status", "updated_date",
}  # fmt: skip
#: organizations of the sample whose verdicts decide the transaction's status too
DECIDING = (1, 3)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """300 transactions in 6 batches of 3 organizations; sessions and programs live in another time zone than UTC."""
    connect(programs, platform, simulator)
    programs.environ |= {"PGTZ": "Asia/Bangkok", "TZ": "Asia/Bangkok", "GEPP_AUDIT_PRICES": json.dumps(PRICES)}
    queue = SampleQueue(platform)
    queue.fill(300, 6)
    return queue


def test_300_transactions_end_as_the_platforms_screens_read_them_after_one_run(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    platform = queue.platform
    schema = platform.database.read(snapshot_schema)
    before = everything(platform, *theirs(platform))
    began = datetime.now(UTC)
    done = programs.run("process-queue", "--json", timeout=180)
    ended = datetime.now(UTC)

    assert (done.exit_code, done.stderr) == (0, "")
    assert sorted(asked(simulator)) == sorted(queue.expected)
    queue.assert_all_settled()
    calls = {int(call["transaction_id"]): call for call in simulator.calls()}
    check_summary(done.json(), queue, calls)
    check_transactions(queue, calls, began, ended)
    if platform.is_new:
        check_audits(queue)
    check_history(queue, calls, began, ended)
    check_nothing_else_was_touched(queue, before)
    assert platform.database.read(snapshot_schema) == schema
    told = Told(concurrency=1, expected=queue.statuses)
    assert_laws(platform.url, asked=settled_log(simulator), told=told)

    again = programs.run("process-queue")
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "")
    assert len(simulator.calls()) == 300


def tokens(call: Mapping[str, Any]) -> dict[str, int]:
    """As a transaction keeps what its call used."""
    return {
        "input_tokens": call["prompt_tokens"],
        "output_tokens": call["completion_tokens"],
        "total_tokens": call["prompt_tokens"] + call["completion_tokens"],
        "cached_input_tokens": call["cached_tokens"],
    }


def token_usage(calls: list[Mapping[str, Any]]) -> dict[str, int]:
    """As a batch and a run keep what their calls used."""
    each = [tokens(call) for call in calls]
    return {
        "total_input_tokens": sum(one["input_tokens"] for one in each),
        "total_output_tokens": sum(one["output_tokens"] for one in each),
        "total_tokens": sum(one["total_tokens"] for one in each),
        "cached_input_tokens": sum(one["cached_input_tokens"] for one in each),
    }


def cost(calls: list[Mapping[str, Any]]) -> float:
    price = {name: Decimal(value) / 1_000_000 for name, value in PRICES["simulator-1"].items()}
    return float(
        sum(
            (call["prompt_tokens"] - call["cached_tokens"]) * price["input"]
            + call["cached_tokens"] * price["cached_input"]
            + call["completion_tokens"] * price["output"]
            for call in calls
        )
    )


def check_summary(told: dict[str, Any], queue: SampleQueue, calls: Mapping[int, Mapping[str, Any]]) -> None:
    statuses = list(queue.statuses.values())
    assert told["outcome"] == "processed"
    assert told["batches"] == {"completed": 6, "failed": 0, "in_progress": 0}
    assert told["transactions"] == {
        "approved": statuses.count("approved"), "rejected": statuses.count("rejected"),
        "undecided": statuses.count("no_action"), "failed": 0, "skipped": 0, "released": 0,
    }  # fmt: skip
    assert (told["calls"], told["retries"]) == (300, 0)
    assert told["token_usage"] == token_usage(list(calls.values()))
    assert told["cost_usd"] == cost(list(calls.values()))


def check_transactions(
    queue: SampleQueue, calls: Mapping[int, Mapping[str, Any]], began: datetime, ended: datetime
) -> None:
    for row in queue.platform.rows("SELECT * FROM transactions"):
        expected, note = queue.expected[row["id"]], row["ai_audit_note"]
        decided = expected.organization in DECIDING and expected.status != "no_action"
        assert row["status"] == (expected.status if decided else "pending")
        assert (note["status"], note["rules"]) == (expected.status, dict(expected.rules))
        assert set(row["reject_triggers"]) == set(note["rejected_by"]) == expected.rejected_by
        assert set(row["warning_triggers"]) == set(note["warned_by"]) == expected.warned_by
        failed = {rule for rule, outcome in expected.rules.items() if outcome == "fail"}
        assert failed <= {finding["rule_id"] for finding in note["findings"] if finding["reason"]}
        if queue.platform.is_new:
            assert began <= as_moment(row["ai_audit_date"]) <= ended
            assert read_json(row["audit_tokens"]) == tokens(calls[row["id"]])


def check_audits(queue: SampleQueue) -> None:
    transactions = {row["id"]: row for row in queue.platform.rows("SELECT * FROM transactions")}
    for row in queue.platform.rows("SELECT * FROM transaction_audits"):
        transaction = transactions[row["transaction_id"]]
        assert row["organization_id"] == transaction["organization_id"]
        assert row["audit_notes"] == transaction["ai_audit_note"]
        assert (row["audit_status"], row["ai_audit_status"]) == (transaction["status"], transaction["ai_audit_status"])
        assert (row["audit_type"], row["model_version"]) == ("ai_async", "simulator-1")
        assert (bool(row["by_human"]), bool(row["is_active"]), row["auditor_id"]) == (False, True, None)
        assert read_json(row["token_usage"]) == read_json(transaction["audit_tokens"])
        assert row["processing_time_ms"] >= 0
        assert None not in (row["created_date"], row["updated_date"])
        assert row["deleted_date"] is None


def check_history(queue: SampleQueue, calls: Mapping[int, Mapping[str, Any]], began: datetime, ended: datetime) -> None:
    for batch, ids in queue.batches.items():
        row, counts = queue.platform.history(batch), queue.counts(batch)
        theirs = [calls[id_] for id_ in ids]
        assert (row["error_message"], row["deleted_date"]) == (None, None)
        assert began <= as_moment(row["completed_at"]) <= ended
        info = row["audit_info"]
        assert info["summary"] == {
            "total_transactions": 50, "processed_transactions": 50,
            "approved_count": counts["approved"], "rejected_count": counts["rejected"],
            "undecided_count": counts["no_action"], "failed_count": 0, "skipped_count": 0,
            "token_usage": token_usage(theirs), "cost_usd": cost(theirs), "model": "simulator-1", "engine": "openai",
        }  # fmt: skip
        assert set(info) == {"audit_results", "summary"}
        assert {entry["transaction_id"]: entry_of(entry) for entry in info["audit_results"]} == {
            id_: (one.status, one.rejected_by, one.warned_by, tokens(calls[id_])["total_tokens"])
            for id_, one in queue.expected.items()
            if id_ in ids
        }
        assert len(info["audit_results"]) == len(ids)
        if queue.platform.is_new:
            audits = queue.platform.rows("SELECT id, transaction_id FROM transaction_audits")
            assert sorted(row["audit_records"]) == sorted(a["id"] for a in audits if a["transaction_id"] in ids)


def entry_of(entry: Mapping[str, Any]) -> tuple[str, frozenset[str], frozenset[str], int]:
    assert set(entry) == {"transaction_id", "status", "rejected_by", "warned_by", "tokens"}
    return entry["status"], frozenset(entry["rejected_by"]), frozenset(entry["warned_by"]), entry["tokens"]


def check_nothing_else_was_touched(queue: SampleQueue, before: dict[str, list[dict[str, Any]]]) -> None:
    after = everything(queue.platform, *theirs(queue.platform))
    for table in ("organizations", "main_materials", "audit_rules", "transaction_records"):
        assert after[table] == before[table]
    assert unwritten(after["transactions"]) == unwritten(before["transactions"])


def unwritten(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [{name: value for name, value in row.items() if name not in WRITTEN} for row in rows]
    return sorted(kept, key=lambda row: int(row["id"]))


def read_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def test_the_sample_goes_from_its_file_to_the_screen_on_an_embedded_database(
    programs: Programs, simulator: Simulator, tmp_path: Path
) -> None:
    programs.environ |= {"DATABASE_URL": f"sqlite:///{tmp_path / 'sample.db'}", **simulator.environ}
    assert programs.run("init-db").exit_code == 0
    assert programs.run("import", str(ROOT / "samples" / "sample.json")).exit_code == 0
    told = [programs.run("enqueue", "--organization", str(id_), "--json").json() for id_ in (1, 2, 3)]
    assert programs.run("process-queue").exit_code == 0

    shown: dict[int, dict[str, Any]] = {}
    for enqueued in told:
        batch = programs.run("show", str(enqueued["audit_history_id"]), "-n", "100", "--json").json()
        assert (batch["status"], batch["total_transactions"]) == ("completed", enqueued["queued_count"])
        shown |= {one["transaction_id"]: one for one in batch["transactions"]}
    assert {id_: (one["status"], set(one["rejected_by"]), set(one["warned_by"])) for id_, one in shown.items()} == {
        id_: (one.status, set(one.rejected_by), set(one.warned_by)) for id_, one in expectations().items()
    }
    assert sorted(asked(simulator)) == sorted(expectations())
