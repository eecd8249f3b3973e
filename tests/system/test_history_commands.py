"""`show`, `usage`, `retry` and `cancel` as processes: a whole day of an operator, terminals, pipes, JSON, refusals."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gepp_audit.database.migrate import initialize
from tests.support import steps
from tests.support.platforms import Platform
from tests.support.processes import ROOT, Finished, Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect
from tests.support.terminals import Screen, at_terminal


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Platform]:
    """An embedded database of ours with an ended batch, an open one and one more transaction."""
    url = f"sqlite:///{tmp_path / 'embedded.db'}"
    initialize(url)
    platform = Platform(url, "embedded")
    platform.rule()
    organization = platform.organization()
    platform.batch(organization, platform.transactions(organization, 3))
    steps.take_up(platform)
    first, second, third = steps.claim(platform)
    steps.settle_all(
        platform, [steps.verdict(platform, first), steps.verdict(platform, second, "rejected"), steps.failure(third)]
    )
    steps.write_back(platform)
    steps.close_all(platform)
    platform.batch(organization, platform.transactions(organization, 2))
    yield platform
    platform.close()


class Operator:
    """A person with a shell and the address of the database."""

    def __init__(self, platform: Platform, programs: Programs) -> None:
        self.platform, self.programs = platform, programs
        programs.environ["DATABASE_URL"] = platform.url

    def run(self, *args: str) -> Finished:
        done = self.programs.run(*args)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *args: str) -> Any:
        return self.run(*args, "--json").json()

    def at_terminal(self, *args: str, columns: int = 80, answer: str | None = None, **more: str) -> Screen:
        environ = {"DATABASE_URL": self.platform.url, **more}
        return at_terminal(*args, environ=environ, home=self.programs.home, columns=columns, answer=answer)


@pytest.fixture
def operator(embedded: Platform, programs: Programs) -> Operator:
    return Operator(embedded, programs)


# -- one day, on a platform --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["postgresql-old"], indirect=True)
def test_what_failed_is_shown_priced_asked_again_and_cancelled(
    platform: Platform, programs: Programs, simulator: Simulator
) -> None:
    queue = SampleQueue(platform)
    clean, broken, refused = ids = queue.add([CLEAN[0], BROKEN, CLEAN[1]])
    batch = queue.batch(ids)
    connect(programs, platform, simulator)
    operator = Operator(platform, programs)
    simulator.scenario({"rules": [{"match": {"transaction_id": str(refused)}, "do": "content_filter"}]})
    programs.run("process-queue")

    shown = operator.json("show", str(batch))
    verdicts = {one["transaction_id"]: one for one in shown["transactions"]}
    assert {id_: one["verdict"] for id_, one in verdicts.items()} == {
        clean: "approved", broken: "rejected", refused: "failed",
    }  # fmt: skip
    assert verdicts[broken]["findings"][0]["evidence"]
    assert [one["transaction_id"] for one in operator.json("show", str(batch), "--failed")["transactions"]] == [refused]
    calls = operator.json("show", "--transaction", str(refused))["calls"]
    assert [call["error_code"] for call in calls] == ["content_filter"] * len(calls)
    assert len(calls) == verdicts[refused]["calls"] > 1
    assert calls[0]["host"]

    told = operator.json("usage", "--by", "organization")
    assert told["total"]["calls"] == len(simulator.calls())
    assert told["total"]["failed_calls"] == len(calls)
    assert told["total"]["total_tokens"] == shown["token_usage"]["total_tokens"]
    assert told["total"]["people_agreed"] is None

    simulator.scenario({"rules": []})
    again = operator.json("retry", str(batch), "--yes")
    assert (again["queued_count"], again["batches"][0]["transaction_ids"]) == (1, [refused])
    [new] = again["audit_history_ids"]
    programs.run("process-queue")
    assert operator.json("show", str(new))["transactions"][0]["verdict"] == "approved"
    assert operator.json("retry", str(batch), "--yes")["queued_count"] == 0

    last = operator.json("retry", "--transaction", str(broken), "--yes")["audit_history_ids"][0]
    cancelled = operator.json("cancel", str(last), "--yes")
    assert (cancelled["reverted_count"], platform.history(last)["status"]) == (1, "cancelled")
    assert programs.run("process-queue").exit_code == 0
    assert platform.labels([broken]) == {broken: "null"}


# -- show --------------------------------------------------------------------------------------------------------------


HEADINGS = {
    ("show",): "BATCH  ORG",
    ("show", "1"): "TRANSACTION  VERDICT",
    ("show", "--transaction", "1"): "CALL",
    ("usage",): "DAY",
    ("usage", "--by", "organization"): "ORG",
}


@pytest.mark.parametrize("args", HEADINGS)
def test_at_a_terminal_no_heading_is_folded_and_no_line_is_too_long(operator: Operator, args: tuple[str, ...]) -> None:
    for columns in (60, 80, 140) if args[0] == "usage" else (80, 140):
        screen = operator.at_terminal(*args, columns=columns)
        assert screen.exit_code == 0, screen.text
        [number] = [at for at, line in enumerate(screen.lines) if line.lstrip().startswith(HEADINGS[args])]
        assert set(screen.lines[number + 1].strip()) == {"─"}, screen.text
        table = screen.lines[number:]
        assert max(map(len, table[: table.index("") if "" in table else None])) <= columns


def test_where_there_is_little_room_the_reasons_have_it(operator: Operator) -> None:
    narrow, wide = (operator.at_terminal("show", "1", columns=columns).text for columns in (50, 140))
    assert ("WHY" in narrow, "TOKENS" in narrow) == (True, False)
    assert ("WHY" in wide, "TOKENS" in wide) == (True, True)


def test_a_progress_bar_is_drawn_at_a_terminal_alone(operator: Operator) -> None:
    screen = operator.at_terminal("show", columns=160)
    assert [line for line in screen.lines if "completed" in line and "████████ 100%" in line], screen.text
    assert [line for line in screen.lines if "in_progress" in line and "░░░░░░░░   0%" in line], screen.text
    assert "######## 100%" in operator.at_terminal("show", columns=160, PYTHONIOENCODING="ascii").text
    piped = operator.run("show").stdout
    assert ("3/3" in piped, "█" in piped) == (True, False)


def test_pages_go_on_behind_the_last_one(operator: Operator) -> None:
    assert operator.json("show", "-n", "1")["batches"][0]["audit_history_id"] == 2
    assert [one["audit_history_id"] for one in operator.json("show", "--after", "2")["batches"]] == [1]
    told = operator.run("show", "1", "-n", "2").stdout
    assert "There are more: add --after 2, or -n for more at once." in told
    assert [one["transaction_id"] for one in operator.json("show", "1", "--after", "2")["transactions"]] == [3]


def test_filters_are_told_apart(operator: Operator) -> None:
    assert len(operator.json("show", "--status", "completed", "--since", "1h")["batches"]) == 1
    empty = str(operator.platform.organization())
    assert operator.json("show", "--organization", empty)["batches"] == []
    assert operator.run("show", "--organization", empty).stdout == "There is no such batch.\n"
    told = operator.json("show", "1", "--rule", "DC-01", "--verdict", "rejected")
    assert [one["transaction_id"] for one in told["transactions"]] == [2]


def test_a_rule_that_is_gone_is_known_as_long_as_verdicts_tell_of_it(operator: Operator) -> None:
    operator.platform.execute("DELETE FROM audit_rules")
    for narrowed in (("--after", "2"), ("--verdict", "approved")):
        assert operator.json("show", "1", "--rule", "DC-01", *narrowed)["transactions"] == []
    assert operator.run("show", "2", "--rule", "DC-01").exit_code == 2


def test_the_prompt_alone_stands_on_stdout(operator: Operator) -> None:
    done = operator.run("show", "--transaction", "4", "--prompt")
    assert done.stdout.startswith("You audit transactions of a waste-management platform.")
    assert '"transaction_id":"4"' in done.stdout
    assert "built again by the rules of its organization as they stand now" in done.stderr
    assert operator.json("show", "--transaction", "4", "--prompt")["prompt"]["rules_from"] == "current"


# -- usage -------------------------------------------------------------------------------------------------------------


def test_usage_as_csv_is_exact(operator: Operator) -> None:
    done = operator.run("usage", "--by", "model", "--csv")
    row, other = csv.DictReader(io.StringIO(done.stdout))
    assert (row["model"], row["calls"], row["failed_calls"]) == ("m-1-2026", "2", "0")
    assert (other["model"], other["calls"], other["failed_calls"]) == ("m-1", "1", "1")
    assert Decimal(row["cost_usd"]) == Decimal("0.00025")
    assert "E" not in row["cost_usd"]


def test_usage_of_a_time_without_calls_says_so(operator: Operator) -> None:
    before = (datetime.now(UTC).date() - timedelta(days=400)).isoformat()
    assert operator.run("usage", "--until", before).stdout.startswith("No call was made from ")
    told = operator.json("usage", "--until", before)
    assert (told["rows"], told["total"]["calls"], told["until"]) == ([], 0, before)


# -- retry and cancel --------------------------------------------------------------------------------------------------


def test_a_person_is_asked_before_anything_is_queued_or_cancelled(operator: Operator) -> None:
    no = operator.at_terminal("cancel", "2", answer="n")
    assert (no.exit_code, operator.platform.history(2)["status"]) == (1, "in_progress")
    assert "Cancel batch 2 of organization 1? 2 queued transactions of 2 can be queued again then." in no.text
    yes = operator.at_terminal("cancel", "2", answer="y")
    assert (yes.exit_code, operator.platform.history(2)["status"]) == (0, "cancelled")
    asked = operator.at_terminal("retry", "1", answer="y")
    assert "Ask 1 transaction of 1 organization again?" in asked.text
    assert "Queued 1 transaction of organization 1 again in batch 3." in asked.text


def test_a_dry_run_of_retry_asks_nothing_and_changes_nothing(operator: Operator) -> None:
    told = operator.json("retry", "--failed", "--dry-run")
    assert (told["queued_count"], told["audit_history_ids"], told["dry_run"]) == (1, [], True)
    assert operator.run("retry", "1", "--dry-run").stdout == "Would ask 1 transaction of organization 1 again.\n"
    assert operator.platform.labels([3]) == {3: "failed"}


def test_orphans_are_told_of_and_freed(operator: Operator) -> None:
    operator.platform.execute("UPDATE transaction_audit_history SET deleted_date = started_at WHERE id = 2")
    assert operator.run("retry", "--orphans", "--dry-run").stdout == (
        "Would free 2 transactions that no open batch holds: 4 and 5.\n"
    )
    assert operator.json("retry", "--orphans", "--yes") == {"freed_count": 2, "transaction_ids": [4, 5]}
    assert operator.run("retry", "--orphans", "--yes").stdout == "No transaction is queued without an open batch.\n"


HUGE = str(10**25)
REFUSALS: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("show", "99"), 2, "there is no batch 99."),
    (("show", "1", "--organization", "7"), 2, "there is no batch 1 of organization 7."),
    (("show", "--transaction", "99"), 2, "there is no transaction 99."),
    (("show", "--transaction", "1", "--organization", "7"), 2, "there is no transaction 1 of organization 7."),
    (("show", "2", "--transaction", "1"), 2, "batch 2 holds no transaction 1."),
    (("show", "--organization", "7"), 2, "there is no organization 7."),
    (("show", "--status", "complete"), 2, "no batch has the status complete."),
    (("usage", "--organization", "7", "--organization", "1"), 2, "there is no organization 7."),
    (("retry", "--failed", "--organization", "7", "--yes"), 2, "there is no organization 7."),
    (("retry", "--orphans", "--organization", "7", "--yes"), 2, "there is no organization 7."),
    (("retry", "--rule", "NOPE", "--yes"), 2, "the platform has no rule NOPE."),
    (("retry", "--rule", "DC-01", "--rule", "NOPE", "--yes"), 2, "the platform has no rule NOPE."),
    (("show", "1", "--rule", "DC-01", "--rule", "NOPE"), 2, "the platform has no rule NOPE."),
    (("show", "1", "--rule", "NOPE"), 2, "the platform has no rule NOPE."),
    (("process-queue", "--organization", "7"), 2, "there is no organization 7."),
    (("process-queue", "--organization", "7", "--dry-run"), 2, "there is no organization 7."),
    (("enqueue", "--organization", "7"), 2, "there is no organization 7."),
    (("show", "-n", HUGE), 2, f"-n: '{HUGE}' is no number (a whole number from 1 to 2147483647)."),
    (("usage", "-n", HUGE), 2, "is no number"),
    (("show", HUGE), 2, f"BATCH: '{HUGE}' is no id (a whole number from 1 to 9223372036854775807)."),
    (("show", "--after", HUGE), 2, "--after: "),
    (("cancel", "0", "--yes"), 2, "BATCH: '0' is no id"),
    (("cancel", str(2**63 - 1), "--yes"), 2, f"there is no batch {2**63 - 1}."),
    (("show", str(2**63 - 1)), 2, f"there is no batch {2**63 - 1}."),
    (("retry", str(2**63 - 1), "--yes"), 2, f"there is no batch {2**63 - 1}."),
    (("enqueue", "--organization", "1", "--max-transactions", HUGE), 2, "--max-transactions: "),
    (("enqueue", "--organization", "1", "--transaction", HUGE), 2, "--transaction: "),
    (("process-queue", "--max-batches", HUGE), 2, "--max-batches: "),
    (("process-queue", "--max-transactions", "9" * 5_000), 2, "--max-transactions: "),
    (("process-queue", "--concurrency", "x"), 2, "--concurrency: 'x' is no number"),
    (("process-queue", "--max-seconds", "nan"), 2, "'nan' is no number of seconds above 0 and up to 86400."),
    (("limits", "set", "--global", "--tokens-per-day", HUGE), 2, "is no number of tokens"),
    (("show", "--orgnization", "1"), 2, "there is no option --orgnization (did you mean --organization or "),
    (("show", "1", "2"), 2, "“2” is more than this command takes."),
    (("show", "-n"), 2, "-n needs a value."),
    (("show", "--failed=1"), 2, "--failed takes no value."),
    (("cancel",), 2, "BATCH is missing."),
    (("shw",), 2, "there is no command shw (did you mean show?)."),
    (("stukc",), 2, "there is no command stukc (did you mean stuck?)."),
    (("zzzz",), 2, "there is no command zzzz."),
    (("limits", "clear", "--organization", "7"), 2, "there is no organization 7."),
    (("usage", "--by", "week"), 2, "--by: 'week' is not one of"),
    (("show", "--prompt"), 2, "--prompt needs --transaction"),
    (("show", "--failed"), 2, "give BATCH"),
    (("show", "1", "--status", "completed"), 2, "leave out BATCH"),
    (("show", "--transaction", "1", "--failed"), 2, "--transaction goes with"),
    (("show", "--since", "soon"), 2, "no date such as 2026-01-31"),
    (("usage", "--since", "2026-02-30"), 2, "no date such as 2026-01-31"),
    (("usage", "--since", "2026-01-02", "--until", "2026-01-01"), 2, "before it begins"),
    (("usage", "--csv", "--json"), 2, "exclude each other"),
    (("retry", "--yes"), 2, "say what"),
    (("retry", "1"), 2, "there is no terminal to ask at"),
    (("retry", "99", "--yes"), 2, "there is no batch 99."),
    (("retry", "--orphans", "--failed", "--yes"), 2, "--orphans goes with"),
    (("retry", "--transaction", "4", "--transaction", "99", "--yes"), 2, "2 transactions cannot be asked again"),
    (("cancel", "2"), 2, "there is no terminal to ask at"),
    (("cancel", "1", "--yes"), 2, "batch 1 is not open: it ended as completed on "),
    (("cancel", "99", "--yes"), 2, "there is no batch 99."),
    (("cancel", "99"), 2, "there is no batch 99."),
    (("cancel", "1"), 2, "batch 1 is not open: it ended as completed on "),
    (("retry", "99"), 2, "there is no batch 99."),
)


_ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from gepp_audit.cli import main
told = []
for args in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(args)
        except SystemExit as ending:
            told.append([ending.code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


def test_what_cannot_be_done_is_refused_in_words(embedded: Platform, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ONE_AFTER_THE_OTHER],
        input=json.dumps([args for args, _, _ in REFUSALS]),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "DATABASE_URL": embedded.url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    told = zip(REFUSALS, json.loads(done.stdout), strict=True)
    for (args, exit_code, said), (code, out, err) in told:
        assert (code, bool(out), err.count("Error: ")) == (exit_code, "--json" in args, 1), (args, err)
        assert said in err, args
        assert "Traceback" not in err, args
    assert embedded.history(2)["status"] == "in_progress"


def test_a_refusal_with_json_is_an_object(operator: Operator) -> None:
    done = operator.run("cancel", "1", "--yes", "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["code"] == "batch_not_open"


@pytest.mark.parametrize("args", [("usage",), ("retry", "1", "--yes"), ("cancel", "1", "--yes")])
def test_a_database_that_is_not_there_is_told(programs: Programs, args: tuple[str, ...]) -> None:
    done = programs.run(*args, DATABASE_URL=f"sqlite:///{programs.home}/nothing.db")
    assert (done.exit_code, "there is no database at" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr + done.stdout
