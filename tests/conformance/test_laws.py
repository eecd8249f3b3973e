"""The checker of the laws itself: a good database passes, and each way of corrupting it makes the checker speak."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.laws import violations
from tests.support.evidence import Row, Told, plain_schema, read_evidence
from tests.support.platforms import Platform
from tests.support.processes import ROOT
from tests.support.steps import claim, close_all, failure, settle_all, take_up, verdict, write_back

both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
APPROVED, REJECTED, FAILED = 1, 2, 3


@dataclass
class Good:
    """A database in which one batch of three ended, what the provider was asked, and what its maker told."""

    platform: Platform
    asked: list[Row]
    told: Told = field(default_factory=Told)

    def execute(self, statement: str, **values: Any) -> None:
        self.platform.execute(statement, **values)

    def change_json(self, table: str, column: str, id_: int, change: Callable[[Any], None]) -> None:
        """Change a document of one row in place."""
        document = self.platform.value(f"SELECT {column} FROM {table} WHERE id = :id", id=id_)
        change(document)
        place = "CAST(:new AS jsonb)" if self.platform.is_postgresql else ":new"
        self.execute(f"UPDATE {table} SET {column} = {place} WHERE id = :id", new=json.dumps(document), id=id_)

    def copy(self, table: str, where: str, **changes: str) -> None:
        """One more row, like that one except for these columns; without its id, which the table gives."""
        row = self.platform.one(f"SELECT * FROM {table} WHERE {where}")
        columns = [name for name in row if name != "id"]
        selected = ", ".join(changes.get(name, name) for name in columns)
        self.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {selected} FROM {table} WHERE {where}")

    def item(self, state: str, *, batch: int = 1, transaction: int = APPROVED, **columns: str) -> None:
        """One more item of ours."""
        values = {"audit_history_id": str(batch), "transaction_id": str(transaction), "organization_id": "1",
                  "state": f"'{state}'", "available_at": "'2026-01-01 00:00:00.000000'", **columns}  # fmt: skip
        self.execute(f"INSERT INTO gepp_audit_items ({', '.join(values)}) VALUES ({', '.join(values.values())})")

    def run_ended(self, outcome: str, completed: int, id_: str = "run-1") -> None:
        """A run of ours."""
        counts = json.dumps({"batches": {"completed": completed, "failed": 0}})
        at = "'2026-01-01 00:00:00.000000'"
        place = "CAST(:counts AS jsonb)" if self.platform.is_postgresql else ":counts"
        self.execute(
            "INSERT INTO gepp_audit_runs (id, host, boot_id, pid_namespace, pid, pid_started_at, version, started_at, "
            f"reported_at, finished_at, outcome, counts) "
            f"VALUES (:id, 'h', 'b', 'n', 1, 1, '1', {at}, {at}, {at}, :outcome, {place})",
            id=id_, outcome=outcome, counts=counts,
        )  # fmt: skip

    def violations(self, *, finished: bool = True) -> list[str]:
        return violations(read_evidence(self.platform.url, asked=self.asked, told=self.told), finished=finished)


@pytest.fixture
def good(platform: Platform) -> Good:
    """An approved, a rejected and a failed transaction."""
    organization = platform.organization(allow_ai_audit=False)
    platform.rule()
    schema = platform.database.read(plain_schema)
    platform.batch(organization, platform.transactions(organization, 3))
    take_up(platform)
    claims = sorted(claim(platform), key=lambda one: one.transaction_id)
    settle_all(
        platform,
        [
            verdict(platform, claims[0], "approved", request_id="req-1"),
            verdict(platform, claims[1], "rejected", request_id="req-2"),
            failure(claims[2], request_id="req-3"),
        ],
    )
    write_back(platform)
    close_all(platform)
    asked = [
        {
            "number": number, "request_id": f"req-{number}", "transaction_id": str(number), "action": None,
            "safety_identifier": "one", "received": float(number), "answered": number + 0.5, "ending": "answered",
            "prompt_tokens": 100, "cached_tokens": 64, "completion_tokens": 20, "status": 200,
        }
        for number in (1, 2, 3)
    ]  # fmt: skip
    return Good(platform, asked, Told(concurrency=4, schema=schema, expected={APPROVED: "approved"}))


def bought_twice(good: Good) -> None:
    good.copy("gepp_audit_calls", f"transaction_id = {APPROVED}", request_id="NULL")


def asked_after_a_final_failure(good: Good) -> None:
    good.copy("gepp_audit_calls", f"transaction_id = {FAILED}", request_id="NULL", outcome="'retry'")


def verdict_without_a_call(good: Good) -> None:
    good.execute(f"UPDATE gepp_audit_calls SET outcome = 'answer' WHERE transaction_id = {APPROVED}")


def settled_and_lost(good: Good) -> None:
    def change(info: Any) -> None:
        info["audit_results"][0]["status"] = "skipped"

    good.change_json("transaction_audit_history", "audit_info", 1, change)


def thrown_away(good: Good) -> None:
    good.execute(f"UPDATE gepp_audit_calls SET outcome = 'superseded' WHERE transaction_id = {APPROVED}")


def never_published(good: Good) -> None:
    label = "CAST('null' AS ai_audit_status_enum)" if good.platform.is_postgresql else "'null'"
    good.execute(f"UPDATE transactions SET ai_audit_status = {label} WHERE id = {REJECTED}")


def audited_twice(good: Good) -> None:
    good.copy("transaction_audits", f"transaction_id = {APPROVED}")


def approved_without_a_note(good: Good) -> None:
    good.execute(f"UPDATE transactions SET ai_audit_note = NULL WHERE id = {APPROVED}")


def approved_with_a_rule_missing(good: Good) -> None:
    good.change_json("transactions", "ai_audit_note", APPROVED, lambda note: note["rules"].clear())


def approved_against_a_rule(good: Good) -> None:
    good.change_json("transactions", "ai_audit_note", APPROVED, lambda note: note["rules"].update({"DC-01": "fail"}))


def parked_too_soon(good: Good) -> None:
    good.execute(f"UPDATE gepp_audit_items SET error_code = 'crashed' WHERE transaction_id = {FAILED}")


def innocent_parked(good: Good) -> None:
    parked_too_soon(good)
    good.told.killers = set()


def wrong_counter(good: Good) -> None:
    good.execute("UPDATE transaction_audit_history SET approved_count = 2 WHERE id = 1")


def wrong_sum(good: Good) -> None:
    def change(info: Any) -> None:
        info["summary"]["failed_count"] = 0

    good.change_json("transaction_audit_history", "audit_info", 1, change)


def wrong_tokens(good: Good) -> None:
    def change(info: Any) -> None:
        info["summary"]["token_usage"]["total_input_tokens"] += 1

    good.change_json("transaction_audit_history", "audit_info", 1, change)


def counted_but_not_published(good: Good) -> None:
    good.execute("UPDATE gepp_audit_batches SET rejected = 2")


def closed_twice(good: Good) -> None:
    good.run_ended("processed", 1)
    good.run_ended("processed", 1, "run-2")


def ended_otherwise(good: Good) -> None:
    good.execute("UPDATE transaction_audit_history SET status = 'failed'")


def two_live_items(good: Good) -> None:
    good.execute("DROP INDEX uq_gepp_audit_items_live")
    good.item("ready", batch=8)
    good.item("ready", batch=9)


def called_without_a_lease(good: Good) -> None:
    good.item("calling", call_id="1")


def done_without_a_verdict_of_its_call(good: Good) -> None:
    good.item("done", call_id=str(FAILED), verdict="'{}'", verdict_status="'approved'")


def left_open(good: Good) -> None:
    good.execute("UPDATE transaction_audit_history SET status = 'in_progress'")


def left_calling(good: Good) -> None:
    good.item("calling", call_id="1", lease_until="'2026-01-01 00:00:00.000000'")


def left_unpublished(good: Good) -> None:
    good.execute("UPDATE gepp_audit_items SET published_at = NULL")


def fate_unknown_of_a_run_in_order(good: Good) -> None:
    good.run_ended("processed", 1)
    good.copy("gepp_audit_calls", f"transaction_id = {FAILED}", request_id="NULL", outcome="NULL")
    good.execute(f"DELETE FROM gepp_audit_calls WHERE transaction_id = {FAILED} AND outcome IS NOT NULL")


def left_queued(good: Good) -> None:
    label = "CAST('queued' AS ai_audit_status_enum)" if good.platform.is_postgresql else "'queued'"
    good.execute(f"UPDATE transactions SET ai_audit_status = {label} WHERE id = {FAILED}")


def person_overruled(good: Good) -> None:
    good.told.decided[REJECTED] = {"ai_audit_status": "approved", "status": "approved"}


def not_as_it_must_be(good: Good) -> None:
    good.told.expected[REJECTED] = "approved"


def schema_changed(good: Good) -> None:
    good.execute("CREATE INDEX ours_on_theirs ON transactions (weight_kg)")


def asked_behind_the_ledger(good: Good) -> None:
    good.asked.append({**good.asked[0], "request_id": "req-9", "received": 9.0, "answered": 9.5})


def answer_that_nobody_gave(good: Good) -> None:
    good.execute(f"UPDATE gepp_audit_calls SET request_id = 'req-x' WHERE transaction_id = {APPROVED}")


def answer_about_another(good: Good) -> None:
    good.asked[0]["transaction_id"], good.asked[1]["transaction_id"] = "2", "1"


def request_in_two_rows(good: Good) -> None:
    good.execute(f"UPDATE gepp_audit_calls SET request_id = 'req-1' WHERE transaction_id = {REJECTED}")


def tokens_that_nobody_counted(good: Good) -> None:
    good.asked[0]["prompt_tokens"] = 99


def two_calls_at_once(good: Good) -> None:
    good.copy("gepp_audit_calls", f"transaction_id = {APPROVED}", request_id="'req-9'", outcome="'answer'")
    good.asked.append({**good.asked[0], "request_id": "req-9", "received": 1.2, "answered": 1.8})


def organization_with_two_names(good: Good) -> None:
    good.asked[0]["safety_identifier"] = "another"


def organizations_with_one_name(good: Good) -> None:
    good.execute(f"UPDATE gepp_audit_calls SET organization_id = 2 WHERE transaction_id = {APPROVED}")


def repeated_too_often(good: Good) -> None:
    good.copy("gepp_audit_calls", f"transaction_id = {APPROVED}", request_id="NULL", outcome="'expired'")


#: each corruption, and a part of what must be said of it
CORRUPTIONS: Final[tuple[tuple[Callable[[Good], None], str], ...]] = (
    (bought_twice, "transaction 1 of batch 1 was bought twice"),
    (asked_after_a_final_failure, "transaction 3 of batch 1 was asked again"),
    (verdict_without_a_call, "transaction 1 of batch 1 is approved, but no call in the ledger brought a verdict"),
    (settled_and_lost, "transaction 1 of batch 1 was settled by call 1, but its batch ended with it skipped"),
    (thrown_away, "the paid verdict of call 1 was thrown away"),
    (never_published, "transaction 2 of batch 1 ended as rejected, but the platform's row says null"),
    (audited_twice, "transaction 1 has the audit record 3 that no batch names"),
    (approved_without_a_note, "transaction 1 is approved: no note says why"),
    (approved_with_a_rule_missing, "transaction 1 is approved: its note does not have one outcome for each rule"),
    (approved_against_a_rule, "transaction 1 is approved: from its rules follows rejected"),
    (parked_too_soon, "transaction 3 of batch 1 is parked after 0 calls"),
    (innocent_parked, "transaction 3 of batch 1 is parked, but it never did any harm"),
    (wrong_counter, "batch 1: approved_count is 2, in its summary 1"),
    (wrong_sum, "batch 1: total 3, but its parts are 2"),
    (wrong_tokens, "batch 1: total_input_tokens is 201, but its calls used 200"),
    (counted_but_not_published, "batch 1: 2 were published as rejected, but 1 are counted"),
    (closed_twice, "the runs ended 2 batches, but there are 1 that ended"),
    (ended_otherwise, "batch 1 ended as completed, but its status is failed"),
    (two_live_items, "transaction 1 has live items in the batches [8, 9]"),
    (called_without_a_lease, "transaction 1 of batch 1 is being asked without a call or without a lease"),
    (done_without_a_verdict_of_its_call, "transaction 1 of batch 1 has a verdict that its call 3 did not bring"),
    (left_open, "batch 1 is still in_progress"),
    (left_calling, "transaction 1 of batch 1 is still calling"),
    (left_unpublished, "transaction 3 of batch 1 is still failed"),
    (fate_unknown_of_a_run_in_order, "call 4 has no outcome, though its run run-1 ended in order"),
    (left_queued, "transaction 3 of batch 1 is still queued, though the batch ended"),
    (person_overruled, "transaction 2 was decided by a person"),
    (not_as_it_must_be, "transaction 2 must be approved, but is rejected"),
    (schema_changed, "the platform's schema was changed"),
    (asked_behind_the_ledger, "transaction 1: the provider was asked 1 times without a row in the ledger"),
    (answer_that_nobody_gave, "call 1 names the request req-x, which the provider never saw"),
    (answer_about_another, "call 1 is about transaction 1, its request about another one"),
    (request_in_two_rows, "the provider's request req-1 stands 2 times in the ledger"),
    (tokens_that_nobody_counted, "call 1 has (100, 64, 20) tokens, the provider counted (99, 64, 20)"),
    (two_calls_at_once, "transaction 1 was asked by req-9 while req-1 was under way"),
    (organization_with_two_names, "organization 1 has 2 names at the provider"),
    (organizations_with_one_name, "the organizations [1, 2] share the name one"),
    (repeated_too_often, "1 calls were repeated, but at most 0 were under way at 0 disruptions"),
)


@both
def test_nothing_is_said_of_a_good_database(good: Good) -> None:
    good.run_ended("processed", 1)
    assert good.violations() == []


#: those that do not hide one another
TOGETHER: Final = (
    bought_twice, audited_twice, approved_with_a_rule_missing, wrong_counter, counted_but_not_published, closed_twice,
    two_live_items, left_queued, schema_changed, tokens_that_nobody_counted, organization_with_two_names,
)  # fmt: skip


@on_postgresql
def test_many_corruptions_at_once_are_all_named(good: Good) -> None:
    for corrupt in TOGETHER:
        corrupt(good)
    found = "\n".join(good.violations())
    assert [said for corrupt, said in CORRUPTIONS if corrupt in TOGETHER and said not in found] == []


@on_sqlite
@pytest.mark.parametrize(("corrupt", "said"), CORRUPTIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_corruption_is_named_with_its_ids(good: Good, corrupt: Callable[[Good], None], said: str) -> None:
    corrupt(good)
    found = good.violations()
    assert any(said in sentence for sentence in found), found


@both
def test_what_is_still_at_work_may_be_open(good: Good) -> None:
    left_calling(good)
    assert good.violations(finished=False) == []


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The checker as a program of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "laws.py"), *arguments], capture_output=True, text=True, check=False
    )


@on_sqlite
def test_the_program_prints_a_line_per_violation_and_ends_with_1(good: Good, tmp_path: Path) -> None:
    log, told = tmp_path / "calls.jsonl", tmp_path / "told.json"
    log.write_text("".join(f"{json.dumps(call)}\n" for call in good.asked) + '{"torn', encoding="utf-8")
    good.told.write(told)
    well = program(good.platform.url, "--calls", str(log), "--told", str(told))
    assert (well.returncode, well.stdout) == (0, "")
    assert "1 batches, 3 transactions, 3 calls: 0 violations" in well.stderr
    never_published(good)
    ill = program(good.platform.url, "--calls", str(log), "--told", str(told))
    assert ill.returncode == 1
    assert "the platform's row says null" in ill.stdout
