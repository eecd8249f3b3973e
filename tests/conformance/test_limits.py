"""Limits hold over all runs, exactly, and cost nobody else a slot; on SQLite and on both platforms."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from gepp_audit.database import limits, mending, runs, spending, windows
from gepp_audit.database.engine import now
from gepp_audit.model import CallOutcome, ErrorCode, ItemState, Pace
from gepp_audit.queue.holding import Limit
from tests.support import limited, steps
from tests.support.limited import answer, by_organization, claimer, let_pass, organizations, set_caps, turn
from tests.support.platforms import Platform

# -- the minute --------------------------------------------------------------------------------------------------------


def test_calls_of_a_minute_are_counted_over_all_runs_and_the_next_one_is_due_when_the_first_leaves_the_window(
    platform: Platform,
) -> None:
    organizations(platform, 10)
    set_caps(platform, None, calls_per_minute=3)
    assert len(turn(platform, claimer("run-1"), 2).claims) == 2
    let_pass(platform, 30)
    assert len(turn(platform, claimer("run-2"), 5).claims) == 1
    full = turn(platform, claimer("run-3"), 5)
    assert (full.claims, full.held and full.held.limit) == ([], Limit.CALLS_PER_MINUTE)
    assert full.seconds_to_due == pytest.approx(32, abs=5)
    let_pass(platform, full.seconds_to_due or 0)
    assert len(turn(platform, claimer("run-1"), 5).claims) == 2  # the first two left the window together
    assert turn(platform, claimer("run-1"), 5).claims == []


def test_a_call_counts_for_the_two_seconds_longer_within_which_it_may_leave(platform: Platform) -> None:
    organizations(platform, 2)
    set_caps(platform, None, calls_per_minute=1)
    turn(platform, claimer(), 1)
    let_pass(platform, 60.5)
    assert turn(platform, claimer(), 1).claims == []
    let_pass(platform, 1.5)
    assert len(turn(platform, claimer(), 1).claims) == 1


def test_a_claimed_call_may_leave_for_two_seconds_from_the_moment_that_its_window_counts_from(
    platform: Platform,
) -> None:
    from gepp_audit.provider.clock import clock

    organizations(platform, 1)
    before = clock()
    claimed = turn(platform, claimer(), 1)
    assert before + windows.SEND_WITHIN <= claimed.send_before <= clock() + windows.SEND_WITHIN


def test_a_dead_run_has_no_call_under_way_even_where_its_batch_was_withdrawn(platform: Platform) -> None:
    organizations(platform, 3)
    assert len(turn(platform, claimer("run-1"), 2).claims) == 2
    platform.execute("UPDATE transaction_audit_history SET status = 'cancelled', deleted_date = started_at")
    steps.reconcile(platform)
    platform.database.write(lambda connection: runs.bury(connection, ["run-1"]))
    steps.end_leases(platform)
    steps.claim(platform)
    assert [row["outcome"] for row in platform.rows("SELECT outcome FROM gepp_audit_calls")] == ["expired"] * 2


def test_a_released_call_gives_its_place_and_its_tokens_back(platform: Platform) -> None:
    [one] = organizations(platform, 4)
    set_caps(platform, one, calls_per_minute=1, tokens_per_day=15_000)
    limited.release(platform, turn(platform, claimer(), 4).claims)
    claims = turn(platform, claimer(), 4).claims
    assert len(claims) == 1
    assert turn(platform, claimer(), 4).claims == []
    steps.end_leases(platform)  # its end is unknown: it stays counted
    assert turn(platform, claimer(), 4).claims == []


def test_a_limited_organization_never_costs_another_one_a_slot(platform: Platform) -> None:
    first, second, third = organizations(platform, 10, 10, 10)
    set_caps(platform, first, calls_per_minute=1)
    set_caps(platform, second, concurrency=2)
    assert by_organization(turn(platform, claimer(), 9).claims) == {first: 1, second: 2, third: 6}


def test_calls_under_way_are_counted_over_all_runs_and_make_room_when_they_are_answered(platform: Platform) -> None:
    first, second = organizations(platform, 9, 9)
    set_caps(platform, None, concurrency=4)
    set_caps(platform, first, concurrency=1)
    claims = turn(platform, claimer("run-1"), 9).claims
    assert by_organization(claims) == {first: 1, second: 3}
    held = turn(platform, claimer("run-2"), 9)
    assert (held.claims, held.held and held.held.limit, held.seconds_to_due) == ([], Limit.CONCURRENCY, None)
    answer(platform, [one for one in claims if one.organization_id == second][:2])
    assert by_organization(turn(platform, claimer("run-2"), 9).claims) == {second: 2}


@pytest.mark.parametrize("ending", ["cancelled", "given up"])
def test_a_call_whose_batch_was_taken_from_it_is_under_way_until_it_ends(platform: Platform, ending: str) -> None:
    [one] = organizations(platform, 2)
    set_caps(platform, one, concurrency=2)
    claims = turn(platform, claimer("run-1"), 9).claims
    [batch] = {claim.audit_history_id for claim in claims}
    if ending == "cancelled":
        platform.execute("UPDATE transaction_audit_history SET status = 'cancelled', deleted_date = started_at")
        steps.reconcile(platform)
    else:
        platform.database.write(lambda connection: mending.give_up(connection, batch))
    limited.queue(platform, one, 9)
    held = turn(platform, claimer("run-2"), 9)
    assert (held.claims, held.held and held.held.limit) == ([], Limit.CONCURRENCY)
    answer(platform, claims[:1])
    assert len(turn(platform, claimer("run-2"), 9).claims) == 1
    let_pass(platform, 91)  # nobody answers a call that is older than its lease
    assert len(turn(platform, claimer("run-3"), 9).claims) == 1


def test_tokens_of_a_minute_are_reserved_and_corrected_by_the_answer(platform: Platform) -> None:
    organizations(platform, 9)
    first = claimer()
    [one] = turn(platform, first, 1).claims
    reserved = platform.value("SELECT reserved_tokens FROM gepp_audit_calls")
    assert reserved > limited.MOST_OUTPUT + 1_000  # its input and its whole answer
    set_caps(platform, None, tokens_per_minute=2 * reserved - 1)
    held = turn(platform, claimer("run-2"), 5)
    assert (held.claims, held.held and held.held.limit) == ([], Limit.TOKENS_PER_MINUTE)
    assert held.seconds_to_due == pytest.approx(62, abs=5)
    answer(platform, [one])
    assert platform.value("SELECT reserved_tokens FROM gepp_audit_calls") == 500
    assert len(turn(platform, claimer("run-2"), 5).claims) == 1


# -- the day -----------------------------------------------------------------------------------------------------------


def test_a_budget_stops_before_the_call_that_would_pass_it_and_the_next_day_begins_anew(platform: Platform) -> None:
    one, other = organizations(platform, 40, 4)
    set_caps(platform, one, tokens_per_day=9_000)
    run = claimer()
    claims = turn(platform, run, 8).claims
    assert by_organization(claims) == {one: 1, other: 4}
    while claims:
        answer(platform, claims, read=900, written=100)
        claims = turn(platform, run, 8).claims
    mine = platform.value("SELECT sum(reserved_tokens) FROM gepp_audit_calls WHERE organization_id = :id", id=one)
    assert mine <= 9_000
    held = turn(platform, claimer("run-2", organizations=(one,)), 8)
    assert held.held is not None
    assert (held.claims, held.held.limit, held.held.organization_id) == ([], Limit.TOKENS_PER_DAY, one)
    assert held.seconds_to_due == pytest.approx((spending.day_ends(held.moment) - held.moment).total_seconds())
    let_pass(platform, 86_400)
    assert turn(platform, claimer("run-2", organizations=(one,)), 1).claims != []


def test_money_of_a_day_is_exact_and_counts_what_nobody_answered(platform: Platform) -> None:
    organizations(platform, 9)
    run = claimer()
    claims = turn(platform, run, 3).claims
    [reserved] = {row["reserved_cost"] for row in platform.rows("SELECT reserved_cost FROM gepp_audit_calls")}
    reserved = Decimal(str(reserved))
    assert reserved > 0
    set_caps(platform, None, cost_per_day=Decimal("0.02"))
    answer(platform, claims[:1], read=3, written=4)
    abandoned = {"state": ItemState.READY, "outcome": CallOutcome.ABANDONED, "error_code": None}
    steps.settle_all(platform, [steps.failure(claims[1], **abandoned)])  # type: ignore[arg-type] # as they are
    steps.end_leases(platform)
    moment = platform.database.read(now)
    spent = platform.database.read(lambda connection: spending.today(connection, moment, [None], write=False))[None]
    assert spent.cost == Decimal("0.000007") + 2 * reserved
    while turn(platform, run, 1).claims:
        pass
    assert Decimal("0.02") - reserved < limited.ledger_sums(platform)[1] <= Decimal("0.02")


def test_a_call_of_an_unknown_price_never_leaves_where_money_is_limited(platform: Platform) -> None:
    one, other = organizations(platform, 5, 5)
    set_caps(platform, one, cost_per_day=Decimal(1))
    blind = claimer(price=lambda _read, _written: None)
    claimed = turn(platform, blind, 8)
    assert by_organization(claimed.claims) == {other: 5}
    assert claimed.held is not None
    assert (claimed.held.limit, claimed.held.organization_id) == (Limit.UNPRICED, one)


def test_people_are_told_once_a_day_over_all_runs_that_four_fifths_of_a_budget_are_used(platform: Platform) -> None:
    organizations(platform, 30)
    first, second = claimer("run-1"), claimer("run-2")
    [one] = turn(platform, first, 1).claims
    reserved = platform.value("SELECT reserved_tokens FROM gepp_audit_calls")
    set_caps(platform, None, tokens_per_day=10 * reserved)
    told = [turn(platform, run, 1).budgets for run in (first, second) * 6]
    warned = [budget for budgets in told for budget in budgets]
    assert [(one.limit, one.percent) for one in warned] == [(Limit.TOKENS_PER_DAY, 80)]
    assert told[6] == warned  # with the eighth call
    answer(platform, [one])


def test_people_are_told_of_money_as_of_tokens_and_of_the_limit_that_holds(platform: Platform) -> None:
    [one] = organizations(platform, 9)
    set_caps(platform, one, tokens_per_day=100, cost_per_day=Decimal(100))
    told = turn(platform, claimer(), 1).budgets
    assert [(budget.limit, budget.percent) for budget in told] == [(Limit.TOKENS_PER_DAY, 100)]
    set_caps(platform, one, tokens_per_day=10**9, cost_per_day=Decimal("0.000001"))
    told = turn(platform, claimer(), 1).budgets
    assert [(budget.limit, budget.percent) for budget in told] == [(Limit.COST_PER_DAY, 100)]
    assert turn(platform, claimer(), 1).budgets == []


def test_a_day_that_was_summed_up_piece_by_piece_counts_what_the_ledger_counts(platform: Platform) -> None:
    _, other = organizations(platform, 700, 30)
    set_caps(platform, None, tokens_per_day=10**9, cost_per_day=Decimal(1000))
    set_caps(platform, other, tokens_per_day=10**9)
    run = claimer()
    answer(platform, turn(platform, run, 300).claims)
    [under_way] = turn(platform, run, 1).claims
    answer(platform, turn(platform, run, 300).claims)
    turn(platform, run, 1)
    rows = platform.rows("SELECT * FROM gepp_audit_spend ORDER BY scope")
    assert [row["scope"] for row in rows] == ["global", f"organization:{other}"]
    assert rows[0]["through_call"] == under_way.call_id - 1  # what comes after it may still change
    for settled in ([], [under_way]):
        answer(platform, settled)
        found = platform.database.read(
            lambda connection: spending.today(connection, now(connection), [None], write=False)
        )
        assert (found[None].tokens, found[None].cost) == limited.ledger_sums(platform)


# -- people and the provider -------------------------------------------------------------------------------------------


def test_the_providers_pace_rises_again_when_lower_limits_are_told_no_more(platform: Platform) -> None:
    organizations(platform, 60)
    database = platform.database
    database.write(lambda connection: limits.slow_down(connection, [Pace(calls_per_minute=2)]))
    for _ in range(4):  # minutes of answers that say 30
        let_pass(platform, 61)
        database.write(lambda connection: limits.slow_down(connection, [Pace(calls_per_minute=30)]))
    assert database.read(limits.gate).pace.calls_per_minute == 30
    assert len(turn(platform, claimer(), 8).claims) == 8


def test_larger_calls_do_not_starve_under_everybodys_tokens_per_minute(platform: Platform) -> None:
    large, small = organizations(platform, 3, 200)
    for id_, tokens in ((large, 25_000), (small, 5_000)):
        platform.execute(
            "UPDATE gepp_audit_batches SET prompt_tokens = :tokens WHERE organization_id = :id", tokens=tokens, id=id_
        )
    set_caps(platform, None, tokens_per_minute=100_000)
    run, got = claimer(), dict.fromkeys((large, small), 0)
    platform.database.write(lambda connection: limits.pause(connection, large, "later"))
    for second in range(62 * 4):
        if second == 62:  # the small calls lie all over the minute: one piece becomes free after the other
            platform.database.write(lambda connection: limits.resume(connection, large))
        claims = turn(platform, run, 1).claims
        for id_, count in by_organization(claims).items():
            got[id_] += count
        answer(platform, claims, read=5_000, written=1_000)
        let_pass(platform, 1)
    assert got[large] == 3
    assert got[small] > 30


def test_nothing_leaves_of_what_is_paused_and_the_others_go_on(platform: Platform) -> None:
    one, other = organizations(platform, 5, 9)
    database = platform.database
    database.write(lambda connection: limits.pause(connection, one, "month end"))
    assert by_organization(turn(platform, claimer(), 4).claims) == {other: 4}
    database.write(lambda connection: limits.pause(connection, None, None))
    held = turn(platform, claimer(), 8)
    assert (held.claims, held.held and held.held.limit, held.seconds_to_due) == ([], Limit.PAUSED, None)
    assert database.write(lambda connection: limits.resume(connection, None))
    assert by_organization(turn(platform, claimer(), 8).claims) == {other: 5}
    assert database.write(lambda connection: limits.resume(connection, one))
    assert not database.write(lambda connection: limits.resume(connection, one))
    assert by_organization(turn(platform, claimer(), 8).claims) == {one: 5}
    assert platform.rows("SELECT scope FROM gepp_audit_limits") == [{"scope": "global"}]


def test_a_wish_to_wait_holds_the_refused_organization_and_of_a_second_one_everybody(platform: Platform) -> None:
    first, second, third = organizations(platform, 5, 5, 5)
    database = platform.database
    database.write(lambda connection: limits.throttle(connection, 20, first))
    database.write(lambda connection: limits.throttle(connection, 5, first))  # the longer wish stands
    claimed = turn(platform, claimer(), 8)
    assert by_organization(claimed.claims) == {second: 4, third: 4}
    database.write(lambda connection: limits.throttle(connection, 10, second))
    held = turn(platform, claimer(), 8)
    assert (held.claims, held.held and held.held.limit) == ([], Limit.THROTTLED)
    assert held.seconds_to_due == pytest.approx(10, abs=5)
    let_pass(platform, 10.5)
    assert by_organization(turn(platform, claimer(), 8).claims) == {second: 1, third: 1}
    let_pass(platform, 10)
    assert by_organization(turn(platform, claimer(), 8).claims) == {first: 5}


def test_the_providers_own_limits_lower_the_pace_for_a_while_and_never_raise_it(platform: Platform) -> None:
    organizations(platform, 30)
    database = platform.database
    database.write(lambda connection: limits.slow_down(connection, [Pace(calls_per_minute=2)]))
    database.write(lambda connection: limits.slow_down(connection, [Pace(calls_per_minute=9)]))
    assert len(turn(platform, claimer(), 8).claims) == 2
    set_caps(platform, None, calls_per_minute=1)
    database.write(lambda connection: limits.slow_down(connection, [Pace(calls_per_minute=1_000_000)]))
    let_pass(platform, 63)
    assert len(turn(platform, claimer(), 8).claims) == 1
    set_caps(platform, None, calls_per_minute=None)
    let_pass(platform, 200)  # nothing was told for minutes
    assert len(turn(platform, claimer(), 8).claims) == 8
    database.write(lambda connection: limits.slow_down(connection, [Pace(hold=7.0), Pace(hold=3.0)]))
    assert turn(platform, claimer(), 8).seconds_to_due == pytest.approx(7, abs=5)


def test_a_refusal_is_no_wish_to_wait(platform: Platform) -> None:
    organizations(platform, 3)
    database = platform.database
    database.write(lambda connection: limits.block(connection, ErrorCode.KEY_REJECTED, "status 401"))
    refused = turn(platform, claimer(), 8)
    assert (refused.claims, refused.blocked_reason, refused.held) == ([], ErrorCode.KEY_REJECTED, None)
    assert refused.seconds_to_due == pytest.approx(60, abs=5)
    database.write(lambda connection: limits.throttle(connection, 20))  # over before the refusal may be tried
    assert turn(platform, claimer(), 8).held is None
    database.write(lambda connection: limits.throttle(connection, 90))
    both = turn(platform, claimer(), 8)
    assert (both.blocked_reason, both.held and both.held.limit) == (ErrorCode.KEY_REJECTED, Limit.THROTTLED)
    assert both.seconds_to_due == pytest.approx(90, abs=5)


def test_a_probe_tries_another_transaction_than_the_one_that_was_refused(platform: Platform) -> None:
    organizations(platform, 3, 1)
    database = platform.database
    tried = []
    for _ in range(4):
        database.write(lambda connection: limits.block(connection, ErrorCode.REQUEST_REJECTED, "status 400"))
        let_pass(platform, 61)
        claimed = turn(platform, claimer(), 8, nothing_under_way=True)
        [probe] = claimed.claims
        assert claimed.probe
        tried.append(probe.transaction_id)
        refused = {"state": ItemState.READY, "code": ErrorCode.REQUEST_REJECTED, "outcome": CallOutcome.BLOCK}
        steps.settle_all(platform, [steps.failure(probe, **refused)])  # type: ignore[arg-type] # as they are
        assert turn(platform, claimer(), 8, nothing_under_way=True).claims == []
    assert len(set(tried)) == 4
    let_pass(platform, 61)
    [again] = turn(platform, claimer(), 8, nothing_under_way=True).claims
    assert again.transaction_id == tried[0]  # its refusal is the oldest


def test_a_suspect_is_not_tried_while_its_organization_is_held_back(platform: Platform) -> None:
    one, other = organizations(platform, 1, 1)
    platform.execute("UPDATE gepp_audit_items SET crashes = 2")
    platform.database.write(lambda connection: limits.pause(connection, one, None))
    run = claimer()
    claimed = turn(platform, run, 8, nothing_under_way=True)
    assert (claimed.suspect, by_organization(claimed.claims)) == (True, {other: 1})
    set_caps(platform, one, calls_per_minute=1)
    assert turn(platform, run, 8, nothing_under_way=True).claims == []
    platform.database.write(lambda connection: limits.resume(connection, one))
    assert by_organization(turn(platform, run, 8, nothing_under_way=True).claims) == {one: 1}


# -- fairness ----------------------------------------------------------------------------------------------------------


def test_where_few_calls_may_leave_organizations_take_turns_over_all_runs(platform: Platform) -> None:
    ids = organizations(platform, 5, 5, 5)
    set_caps(platform, None, calls_per_minute=1)
    order = []
    for number in range(6):
        [one] = turn(platform, claimer(f"run-{number}"), 8).claims
        answer(platform, [one])
        order.append(one.organization_id)
        let_pass(platform, 62)
    assert order == ids * 2


def test_max_batches_counts_batches_that_can_be_claimed(platform: Platform) -> None:
    one, other = organizations(platform, 3, 3)
    platform.database.write(lambda connection: limits.pause(connection, one, None))
    run = claimer(max_batches=1)
    assert by_organization(turn(platform, run, 8).claims) == {other: 3}
    platform.database.write(lambda connection: limits.resume(connection, one))
    assert turn(platform, run, 8).claims == []


def test_an_item_that_waits_for_its_time_is_due_before_a_limit_that_lasts_longer(platform: Platform) -> None:
    one, _ = organizations(platform, 2, 1)
    run = claimer()
    set_caps(platform, one, calls_per_minute=1)
    claims = turn(platform, run, 8).claims
    waits = [each for each in claims if each.organization_id != one]
    retry = {"state": ItemState.READY, "code": ErrorCode.TIMEOUT, "outcome": CallOutcome.RETRY, "wait": True}
    steps.settle_all(platform, [steps.failure(waits[0], **retry, delay=9.0)])  # type: ignore[arg-type] # as they are
    due = turn(platform, run, 8).seconds_to_due
    assert due is not None
    assert timedelta(seconds=4) < timedelta(seconds=due) <= timedelta(seconds=9)
