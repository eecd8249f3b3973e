"""Limits, pauses and the provider's wish to wait hold over real processes; the simulator's own log of calls tells."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Final

import pytest

from tests.support.limited import let_pass
from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator
from tests.support.queues import ORGANIZATIONS, SampleQueue, asked, connect, finish, ledger, start

on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
#: what the simulator's model costs
PRICES: Final = json.dumps({name: {"input": "1.00", "output": "2.00"} for name in ("simulator-1", "gpt-6-luna")})


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue."""
    connect(programs, platform, simulator)
    return SampleQueue(platform)


def set_limits(programs: Programs, *options: str) -> None:
    done = programs.run("limits", "set", *options)
    assert (done.exit_code, done.stderr) == (0, "")


@on_postgresql
def test_four_hosts_together_make_as_many_calls_as_the_minute_allows(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(24, 3)
    set_limits(programs, "--global", "--calls-per-minute", "9")
    runs = [start(programs, f"h{number}") for number in range(4)]
    assert [run.wait().exit_code for run in runs] == [0, 0, 0, 0]
    assert len(asked(simulator)) == 9
    assert len(ledger(queue.platform, "verdict")) == 9
    told = programs.run("stuck", "--older-than", "0s", "--json").json()
    assert {(one["cause"], one["reason"]) for one in told["stuck"]} == {("limited", "calls_per_minute")}
    let_pass(queue.platform, 62)
    assert start(programs, "h1").wait().exit_code == 0
    assert len(asked(simulator)) == 18


@on_postgresql
def test_a_run_whose_time_is_bounded_waits_for_the_minute_and_goes_on_at_once(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(6, 3)
    set_limits(programs, "--global", "--calls-per-minute", "3")
    assert start(programs, "h1").wait().exit_code == 0
    let_pass(queue.platform, 58)
    done = programs.run("process-queue", "--json", "--max-seconds", "50").json()
    assert (done["calls"], done["batches"]["in_progress"]) == (3, 0)
    times = sorted(call["received"] for call in simulator.calls())
    assert times[3] - times[2] + 58 >= 60  # as if 58 seconds more had passed between them
    queue.assert_all_settled()


@on_postgresql
def test_of_an_organization_that_was_told_to_wait_no_call_leaves_and_the_others_go_on(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(36, 3)
    [batch] = [id_ for id_, ids in queue.batches.items() if queue.expected[ids[0]].organization == ORGANIZATIONS[0]]
    theirs = queue.batches[batch]
    throttled = {"preset": "rate_limited", "headers": {"Retry-After": "4"}}
    simulator.scenario(
        {"rules": [{"match": {"transaction_id": [str(id_) for id_ in theirs], "first": 1}, "do": throttled}]}
    )
    runs = [start(programs, f"h{number}", GEPP_AUDIT_CONCURRENCY="1") for number in range(2)]
    assert [run.wait().exit_code for run in runs] == [0, 0]
    calls = simulator.calls()
    [refused] = [call for call in calls if call["status"] == 429]
    own = [call for call in calls if int(call["transaction_id"]) in theirs]
    # a call of theirs may have left while the refusal was on its way
    later = [call["received"] for call in own if call["received"] > refused["answered"] + 0.5]
    assert min(later) >= refused["answered"] + 4
    others = [call for call in calls if int(call["transaction_id"]) not in theirs]
    assert [call for call in others if call["received"] >= refused["answered"] + 4] == []
    assert len(others) == 24
    queue.assert_all_settled()


@on_sqlite
def test_a_paused_queue_is_quiet_and_asks_nothing_until_it_is_resumed(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(6, 3)
    paused = programs.run("pause", "--reason", "month end", "--json")
    assert (paused.exit_code, paused.json()["reason"], paused.json()["paused"]) == (0, "month end", True)
    done = programs.run("process-queue", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert (done.json()["outcome"], done.json()["batches"]["in_progress"]) == ("processed", 3)
    held = {
        "reason": "paused",
        "organization_id": None,
        "clears_at": None,
        "message": "The queue is paused: month end.",
    }
    assert done.json()["held"] == held
    dry_run = programs.run("process-queue", "--dry-run", "--json").json()
    assert (dry_run["calls"], dry_run["held"]) == (6, [held])
    assert asked(simulator) == []
    told = programs.run("stuck", "--older-than", "0s", "--json")
    assert (told.exit_code, {one["cause"] for one in told.json()["stuck"]}) == (1, {"paused"})

    assert programs.run("pause", "--organization", "2").exit_code == 0
    resumed = programs.run("resume", "--json").json()
    assert (resumed["was_paused"], resumed["still_paused"]) == (True, [2])
    assert "\nOrganization 2 is paused.\n" in programs.run("process-queue", "--dry-run").stdout
    assert programs.run("process-queue").exit_code == 0
    assert {queue.expected[id_].organization for id_ in asked(simulator)} == {1, 3}
    assert programs.run("resume", "--organization", "2").exit_code == 0
    finish(programs, simulator)
    queue.assert_all_settled()


@on_sqlite
def test_a_budget_of_money_is_never_passed_and_people_are_told(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(30, 3)
    programs.environ["GEPP_AUDIT_PRICES"] = PRICES
    set_limits(programs, "--global", "--cost-per-day", "0.06")
    [early] = programs.run("process-queue", "--dry-run", "--json").json()["held"]
    assert (early["reason"], early["organization_id"]) == ("cost_per_day", None)
    assert early["message"].startswith("The limit of 0.06 USD per day for all organizations leaves 0.06 USD for today")
    runs = [start(programs, f"h{number}", GEPP_AUDIT_CONCURRENCY="4") for number in range(2)]
    ended = [run.wait() for run in runs]
    assert [one.exit_code for one in ended] == [0, 0]
    spent = sum(
        (Decimal(str(row["cost"])) for row in queue.platform.rows("SELECT cost FROM gepp_audit_calls")), Decimal()
    )
    assert Decimal("0.03") < spent <= Decimal("0.06")
    reached = [line for one in ended for line in one.stderr.splitlines() if "daily_limit_reached" in line]
    assert len(reached) == 1, [one.stderr for one in ended]
    # the limit is not used up: what is left is less than a call may take
    assert "one_call_may_take=0.01" in reached[0]
    again = programs.run("process-queue", "--json")
    assert (again.exit_code, again.json()["calls"], again.stderr) == (0, 0, "")
    assert again.json()["held"]["reason"] == "cost_per_day"
    assert "is reached: 0.0" in again.json()["held"]["message"]
    [now] = programs.run("process-queue", "--dry-run", "--json").json()["held"]
    assert now == again.json()["held"]
    [everybody] = programs.run("limits", "show", "--json").json()["limits"]
    assert everybody["cost_per_day"]["used"] == pytest.approx(float(spent))
    told = programs.run("stuck", "--older-than", "0s", "--json").json()
    assert {(one["cause"], one["reason"]) for one in told["stuck"]} == {("limited", "cost_per_day")}


@on_sqlite
def test_money_is_not_spent_blindly_where_the_price_is_unknown(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(3, 3)
    set_limits(programs, "--global", "--cost-per-day", "5")
    refused = programs.run("process-queue", GEPP_AUDIT_MODEL="home-made-1")
    assert (refused.exit_code, asked(simulator)) == (1, [])
    told = programs.run("limits", "show", "--json", GEPP_AUDIT_MODEL="home-made-1").json()["notes"]
    assert [one.partition(",")[0] for one in told] == ["Money is limited for all organizations"]
    assert programs.run("limits", "show", "--json", GEPP_AUDIT_PRICES=PRICES).json()["notes"] == []
    [obstacle] = programs.run("process-queue", "--dry-run", "--json", GEPP_AUDIT_MODEL="home-made-1").json()["held"]
    assert obstacle["reason"] == "unpriced_model"
    assert "home-made-1 is not known" in refused.stderr
    assert "GEPP_AUDIT_PRICES" in refused.stderr


@on_sqlite
def test_the_providers_headers_lower_the_pace(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    queue.fill(12, 3)
    headers = {"x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": "3"}
    simulator.scenario({"rules": [{"do": {"answer": "all_pass", "headers": headers}}]})
    assert programs.run("process-queue", GEPP_AUDIT_CONCURRENCY="1").exit_code == 0
    assert len(asked(simulator)) == 5
    [everybody] = programs.run("limits", "show", "--json").json()["limits"]
    assert everybody["calls_per_minute"] == {"limit": None, "in_force": 5, "used": 5}


@on_sqlite
def test_a_transaction_larger_than_what_was_reserved_does_not_pass_the_limit(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.fill(3, 1)
    queue.platform.execute("UPDATE transactions SET notes = :text WHERE id = 1", text="ถุงพลาสติกปนขยะอินทรีย์ " * 2_000)
    set_limits(programs, "--global", "--tokens-per-day", "30000")
    done = programs.run("process-queue", "--json")
    assert done.exit_code == 0
    assert sorted(asked(simulator)) == [2, 3]
    assert done.json()["transactions"]["released"] >= 1
    [left] = queue.platform.rows("SELECT * FROM gepp_audit_items WHERE state = 'ready'")
    assert (left["transaction_id"], left["waits"], left["error_code"]) == (1, 1, "call_too_large_for_limit")
    assert left["error"].startswith("The limit of 30,000 tokens per day for all organizations lets no call pass at all")
    assert "call_too_large_for_limit" in done.stderr
    set_limits(programs, "--global", "--tokens-per-day", "300000")
    queue.platform.execute(
        "UPDATE gepp_audit_items SET available_at = '2020-01-01 00:00:00.000000' WHERE state = 'ready'"
    )
    assert programs.run("process-queue").exit_code == 0
    assert sorted(asked(simulator)) == [1, 2, 3]


@on_sqlite
def test_wrong_limits_are_refused_in_words(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    wrong = {
        ("limits", "set", "--global", "--organization", "1", "--concurrency", "3"): "--global or --organization",
        ("limits", "set", "--global", "--cost-per-day", "nan"): "cost-per-day",
        ("pause", "--organization", "77"): "no organization 77",
    }
    for arguments, words in wrong.items():
        refused = programs.run(*arguments, "--json")
        assert (refused.exit_code, "error" in refused.json()) == (2, True)
        assert words in refused.stderr
    before = programs.run("limits", "show", "--json").json()
    assert [one["scope"] for one in before["limits"]] == ["global"]
    set_limits(programs, "--organization", "2", "--cost-per-day", "12.5", "--concurrency", "2")
    shown = programs.run("limits", "show")
    assert "organization 2" in shown.stdout
    assert "12.50" in shown.stdout
    one = programs.run("limits", "clear", "--organization", "2", "--cost-per-day", "--json").json()
    assert (one["cost_per_day"]["limit"], one["concurrency"]["limit"]) == (None, 2)
    cleared = programs.run("limits", "clear", "--organization", "2", "--json").json()
    assert cleared["cost_per_day"] == {"limit": None, "in_force": None, "used": 0}
    assert programs.run("limits", "show", "--json").json() == before
