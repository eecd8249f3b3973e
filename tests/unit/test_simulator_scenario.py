"""Scenarios of the simulator: what is refused, which calls a rule is about, and what it does to them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.simulator_lib.presets import PRESETS
from scripts.simulator_lib.scenario import Action, Scenario, ScenarioError, read_scenario
from scripts.simulator_lib.spoiling import COMPLETION, NAMES, OBJECT, TEXT


def rule(do: Any, **more: Any) -> Scenario:
    return read_scenario({"rules": [{"do": do, **more}]})


def only_action(do: Any) -> Action:
    return rule(do).rules[0].action


def fired(scenario: Scenario, *calls: tuple[str, int], chance: float = 0.0, model: str = "m") -> list[bool]:
    """Which of these calls (transaction, attempt) something is done to."""
    return [scenario.action(id_, attempt, model, lambda _: chance) is not None for id_, attempt in calls]


def times(scenario: Scenario, count: int) -> list[int]:
    """Which of so many calls about different transactions something is done to, counted from 1."""
    hits = fired(scenario, *((str(number), 1) for number in range(count)))
    return [number for number, hit in enumerate(hits, 1) if hit]


@pytest.mark.parametrize(
    ("scenario", "place"),
    [
        (5, "the scenario must be"),
        ({"rule": []}, "the scenario has rule"),
        ({"rules": {}}, "the scenario must be"),
        ([5], "rules[0] must be an object"),
        ([{}], "rules[0] lacks do"),
        ([{"do": "rate_limited"}, {"do": "no such"}], "rules[1].do is no preset"),
        ([{"do": {}}], "rules[0].do must be"),
        ([{"do": 3}], "rules[0].do must be"),
        ([{"do": {"preset": ["x"]}}], "rules[0].do is no preset"),
        ([{"do": {"statsu": 500}}], "rules[0].do has statsu"),
        ([{"do": {"status": 99}}], "rules[0].do.status must be"),
        ([{"do": {"status": 600}}], "rules[0].do.status must be"),
        ([{"do": {"status": True}}], "rules[0].do.status must be"),
        ([{"do": {"error": {}, "body": ""}}], "rules[0].do has both error and body"),
        ([{"do": {"error": 5}}], "rules[0].do.error must be"),
        ([{"do": {"answer": "all_pas"}}], "rules[0].do.answer must be"),
        ([{"do": {"answer": ["all_pass", 5]}}], "rules[0].do.answer must be"),
        ([{"do": {"answer": "all_pass", "status": 500}}], "rules[0].do has both an answer"),
        ([{"do": {"hang": True, "hang_up": True}}], "rules[0].do may have only one"),
        ([{"do": {"hang": "yes"}}], "rules[0].do.hang must be"),
        ([{"do": {"drip_seconds": -1}}], "rules[0].do.drip_seconds must be"),
        ([{"do": {"extra_latency_ms": float("nan")}}], "rules[0].do.extra_latency_ms must be"),
        ([{"do": {"headers": []}}], "rules[0].do.headers must be"),
        ([{"do": {"headers": {"a": "b\r\nc: d"}}}], "rules[0].do.headers holds"),
        ([{"do": {"headers": {"Content-Length": 5}}}], "rules[0].do.headers may not set"),
        ([{"do": {"content_type": "a\nb", "body": ""}}], "rules[0].do holds"),
        ([{"do": "hang", "match": []}], "rules[0].match must be"),
        ([{"do": "hang", "match": {"firts": 1}}], "rules[0].match has firts"),
        ([{"do": "hang", "match": {"every": 0}}], "rules[0].match.every must be"),
        ([{"do": "hang", "match": {"probability": 1.5}}], "rules[0].match.probability must be"),
        ([{"do": "hang", "match": {"transaction_id": []}}], "rules[0].match.transaction_id must be"),
        ([{"do": "hang", "match": {"transaction_id": 1.5}}], "rules[0].match.transaction_id must be"),
        ([{"do": {"preset": "hang", "match": {"first": 1}}}], "rules[0].do match stands beside do"),
        ([{"do": "hang", "times": 0}], "rules[0].times must be"),
        ([{"do": "hang", "time": 1}], "rules[0] has time"),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_place(scenario: Any, place: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        read_scenario(scenario)
    assert str(caught.value)[: len(place)] == place


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_read(name: str) -> None:
    assert only_action(name).name == name


def test_every_way_to_spoil_an_answer_is_a_preset_at_one_stage() -> None:
    assert len(OBJECT) + len(TEXT) + len(COMPLETION) == len(NAMES)
    assert PRESETS.keys() >= NAMES


def test_a_rule_without_a_match_is_about_every_call() -> None:
    assert times(rule("hang"), 3) == [1, 2, 3]


def test_a_rule_fires_at_most_so_often() -> None:
    assert times(rule("hang", times=2), 5) == [1, 2]


def test_the_first_calls_can_be_chosen() -> None:
    assert times(rule("hang", match={"first": 2}), 5) == [1, 2]


def test_all_but_the_first_calls_can_be_chosen() -> None:
    assert times(rule("hang", match={"after": 3}), 5) == [4, 5]


def test_each_nth_call_can_be_chosen() -> None:
    assert times(rule("hang", match={"every": 3}), 7) == [3, 6]


def test_conditions_hold_together() -> None:
    assert times(rule("hang", match={"every": 2, "after": 2, "first": 6}, times=1), 9) == [4]


def test_a_transaction_can_be_chosen_by_number_or_text() -> None:
    calls = [("7", 1), ("8", 1), ("7", 2), ("9", 1)]
    assert fired(rule("hang", match={"transaction_id": 7}), *calls) == [True, False, True, False]
    assert fired(rule("hang", match={"transaction_id": ["8", 9]}), *calls) == [False, True, False, True]


def test_only_calls_about_the_chosen_transactions_are_counted() -> None:
    scenario = rule("hang", match={"transaction_id": "7", "first": 1})
    assert fired(scenario, ("8", 1), ("7", 1), ("7", 2)) == [False, True, False]


def test_an_attempt_can_be_chosen() -> None:
    assert fired(rule("hang", match={"attempt": 2}), ("7", 1), ("7", 2), ("8", 1)) == [False, True, False]


def test_a_preset_can_bring_a_match_of_its_own() -> None:
    assert fired(rule("wrong_evidence_once"), ("7", 1), ("7", 2), ("8", 1)) == [True, False, True]


def test_a_model_can_be_chosen() -> None:
    scenario = rule("hang", match={"model": "m"})
    assert (fired(scenario, ("7", 1)), fired(scenario, ("7", 1), model="n")) == ([True], [False])


def test_chance_below_the_probability_fires() -> None:
    scenario = rule("hang", match={"probability": 0.25})
    assert (fired(scenario, ("7", 1), chance=0.249), fired(scenario, ("7", 1), chance=0.25)) == ([True], [False])


def test_the_first_rule_that_fires_decides() -> None:
    scenario = read_scenario([{"do": "hang", "times": 1}, {"do": "cut"}])
    names = [scenario.action("7", 1, "m", lambda _: 0.0) for _ in range(2)]
    assert [None if action is None else action.name for action in names] == ["hang", "cut"]


def test_what_stands_beside_a_preset_replaces_and_adds() -> None:
    action = only_action({"preset": "rate_limited", "headers": {"x-a": 1}, "extra_latency_ms": 20})
    assert (action.status, action.extra_latency_ms) == (429, 20.0)
    assert dict(action.headers) == {"Retry-After": "1", "x-a": "1"}


def test_a_body_replaces_the_error_of_a_preset() -> None:
    assert only_action({"preset": "rate_limited", "body": "later"}).body == b"later"


def test_an_error_gets_the_members_that_it_lacks() -> None:
    error = json.loads(only_action({"status": 400, "error": {"code": "x"}}).body)["error"]
    assert error == {"message": "The simulator was told to fail.", "type": None, "param": None, "code": "x"}


def test_a_body_alone_is_a_response_of_200() -> None:
    action = only_action({"body": [1, "ก"]})
    assert (action.status, json.loads(action.body)) == (200, [1, "ก"])
