"""What a person may do to the queue as a whole, and what they are told of it; on SQLite and on both platforms."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from gepp_audit.database import limits, runs
from gepp_audit.database.engine import Database
from gepp_audit.errors import OperatorError
from gepp_audit.model import RunIdentity
from gepp_audit.queue import control
from gepp_audit.queue.diagnosing import Stuck
from gepp_audit.queue.inspecting import Question, inspect
from gepp_audit.queue.mending import requeue
from tests.support.limited import MOST_OUTPUT, answer, claimer, organizations, price, set_caps, turn
from tests.support.platforms import Platform


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({}, "no_limit", "--cost-per-day"),
        ({"concurrency": None}, "no_limit", "--concurrency"),
        ({"concurrency": 0}, "limit_value", "--concurrency"),
        ({"calls_per_minute": -3}, "limit_value", "--calls-per-minute"),
        ({"calls_per_minute": 2**31}, "limit_value", "--calls-per-minute"),
        ({"cost_per_day": Decimal("0.001")}, "limit_value", "0.01 USD is the least of --cost-per-day"),
        ({"cost_per_day": Decimal("1e13"), "tokens_per_day": 0}, "limit_value", "--tokens-per-day"),
    ],
)
def test_what_is_no_limit_is_refused_in_words_and_changes_nothing(
    platform: Platform, changes: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(OperatorError) as refused:
        control.set_limits(platform.database, None, changes)
    assert (refused.value.code, refused.value.exit_code) == (code, 2)
    assert words in str(refused.value)
    [everybody] = control.show_limits(platform.database)
    assert not everybody.caps


def test_an_organization_that_does_not_exist_is_refused(platform: Platform) -> None:
    database = platform.database
    for act in (
        lambda: control.set_limits(database, 77, {"concurrency": 3}),
        lambda: control.pause(database, 77, None),
        lambda: control.resume(database, 77),
    ):
        with pytest.raises(OperatorError, match="no organization 77"):
            act()


def test_limits_are_set_one_by_one_shown_with_their_use_and_cleared_with_the_pause_left_alone(
    platform: Platform,
) -> None:
    one, _ = organizations(platform, 5, 5)
    database = platform.database
    control.set_limits(database, one, {"concurrency": 3, "cost_per_day": Decimal("12.509")})
    control.set_limits(database, one, {"calls_per_minute": 4})
    answer(platform, turn(platform, claimer(), 4).claims[:1], read=30, written=5)
    shown = {report.organization_id: report for report in control.show_limits(database)}
    assert list(shown) == [None, one]
    caps = shown[one].caps
    assert (caps.concurrency, caps.calls_per_minute, caps.cost_per_day) == (3, 4, Decimal("12.50"))
    everybody = shown[None].used
    assert (everybody["calls_per_minute"], everybody["concurrency"]) == (4, 3)
    told = shown[one].as_json()
    assert told["scope"] == f"organization:{one}"
    assert told["calls_per_minute"] == {"limit": 4, "in_force": 4, "used": 2}
    assert told["cost_per_day"]["used"] > 0
    control.pause(database, one, "month end")
    cleared = control.clear_limits(database, one)
    assert (bool(cleared.caps), cleared.paused_reason) == (False, "month end")
    control.resume(database, one)
    assert [report.organization_id for report in control.show_limits(database)] == [None]


def test_a_pause_names_what_is_under_way_and_keeps_its_beginning_when_it_is_repeated(platform: Platform) -> None:
    one, other = organizations(platform, 3, 2)
    turn(platform, claimer(), 5)
    first = control.pause(platform.database, one, "month end")
    assert (first.under_way, first.reason) == (3, "month end")
    again = control.pause(platform.database, one, None)
    assert (again.paused_at, again.reason) == (first.paused_at, "month end")
    assert control.pause(platform.database, None, None).under_way == 5
    lifted = control.resume(platform.database, one)
    assert (lifted.was_paused, lifted.all_paused) == (True, True)
    control.pause(platform.database, other, None)
    assert control.resume(platform.database, None).still_paused == (other,)
    assert not control.resume(platform.database, None).was_paused


def stuck(database: Database) -> list[Stuck]:
    identity = RunIdentity(
        run_id="r", host="elsewhere", boot_id="b", pid_namespace="n", pid=1, pid_started_at=1.0, version="1"
    )
    database.write(lambda connection: runs.tick(connection, identity))
    question = Question(older_than=0, batch_statuses=("in_progress",), most_output=MOST_OUTPUT, price=price)
    return list(inspect(database, question).stuck)


def test_stuck_says_which_limit_holds_a_batch_and_what_raises_it(platform: Platform) -> None:
    one, other = organizations(platform, 5, 5)
    set_caps(platform, one, tokens_per_day=100)
    set_caps(platform, None, concurrency=1)
    first, second = (each.diagnosis for each in stuck(platform.database))
    assert (first.cause, first.reason, first.status) == ("limited", "tokens_per_day", "warning")
    assert "lets no call pass at all" in first.explanation
    assert re.search(rf'"gepp-audit limits set --organization {one} --tokens-per-day \d+"', first.fix)
    assert second.cause != "limited"
    turn(platform, claimer(organizations=(other,)), 1)
    _, second = (each.diagnosis for each in stuck(platform.database))
    assert (second.cause, second.reason) == ("limited", "concurrency")
    assert '"gepp-audit limits set --global --concurrency 2"' in second.fix


def test_stuck_says_paused_and_throttled_of_an_organization_alone(platform: Platform) -> None:
    one, other = organizations(platform, 5, 5)
    platform.database.write(lambda connection: limits.throttle(connection, 600, other))
    control.pause(platform.database, one, "month end")
    first, second = (each.diagnosis for each in stuck(platform.database))
    assert (first.cause, second.cause) == ("paused", "retrying")
    assert "The provider asked to be left alone until" in second.explanation
    batches = [each.batch.audit_history_id for each in stuck(platform.database)]
    assert requeue(platform.database, batches, None).gate_hastened
    assert stuck(platform.database)[1].diagnosis.cause != "retrying"


def test_the_reason_of_a_pause_is_one_line(platform: Platform) -> None:
    assert control.pause(platform.database, None, " month end,\n  see\tthe wiki\n").reason == "month end, see the wiki"
    assert control.pause(platform.database, None, "\n").reason == "month end, see the wiki"


def test_limits_are_cleared_one_by_one_or_all_at_once(platform: Platform) -> None:
    control.set_limits(platform.database, None, {"concurrency": 4, "tokens_per_day": 10, "cost_per_day": Decimal(1)})
    left = control.clear_limits(platform.database, None, ["tokens_per_day"])
    assert (left.caps.concurrency, left.caps.tokens_per_day, left.caps.cost_per_day) == (4, None, Decimal(1))
    assert not control.clear_limits(platform.database, None).caps


def test_a_limit_of_money_that_cannot_be_written_is_refused_in_words(platform: Platform) -> None:
    with pytest.raises(OperatorError, match="absurdly large") as raised:
        control.set_limits(platform.database, None, {"cost_per_day": Decimal("1e400")})
    assert raised.value.exit_code == 2
