"""The platform's rules: which of them reject, in what order they stand, and their snapshot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.audit.rules import from_snapshot, ordered, parse_actions, rejects, rules_digest, to_snapshot
from gepp_audit.model import Rule, RuleAction

REJECT = {"type": "system_action", "action": "reject", "message": "no"}

texts = st.text(max_size=20)
rules = st.builds(
    Rule,
    rule_id=st.text(min_size=1, max_size=20),
    rule_type=texts,
    name=texts,
    process=st.none() | texts,
    condition=st.none() | texts,
    thresholds=st.none() | texts,
    metrics=st.none() | texts,
    actions=st.lists(st.builds(RuleAction, type=texts, action=texts, message=st.none() | texts), max_size=3).map(tuple),
    is_global=st.booleans(),
)
rule_sets = st.lists(rules, max_size=5, unique_by=lambda rule: rule.rule_id)


def rule(raw_actions: Any, rule_id: str = "DC-01") -> Rule:
    return Rule(rule_id=rule_id, rule_type="accuracy", name="a rule", actions=parse_actions(raw_actions))


@pytest.mark.parametrize(
    "action",
    ["reject", "Reject", " REJECT ", "Auto-Reject", "auto-reject", "AUTO REJECT", "auto_reject", "Auto - Reject"],
)
@pytest.mark.parametrize("type_", ["system_action", "System_Action", "SYSTEM ACTION", "system-action"])
def test_a_system_action_that_rejects_is_known_in_any_spelling(type_: str, action: str) -> None:
    assert rejects(rule([{"type": type_, "action": action, "message": "m"}]))


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "system_action", "action": "Flag for Auditor Review"},
        {"type": "system_action", "action": "rejected before"},
        {"type": "human_action", "action": "reject"},
        {"type": "recommendation", "action": "Auto-Reject"},
    ],
)
def test_what_only_warns_or_informs_does_not_reject(entry: dict[str, str]) -> None:
    assert not rejects(rule([entry]))


def test_one_rejecting_action_among_others_rejects() -> None:
    assert rejects(rule([{"type": "human_action", "action": "call"}, REJECT]))


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps([REJECT]),
        json.dumps(json.dumps([REJECT])),
        REJECT,
        [[REJECT]],
        [None, 7, "note", REJECT],
        [{"Type": "System_Action", "ACTION": "Reject"}],
        [{"type": "system_action", "action": ["notify", "reject"]}],
        [{"action": "reject"}],
        [{"type": None, "action": "Auto-Reject"}],
        [{"type": "", "action": "reject"}],
        [{"type": ["system_action"], "action": "reject"}],
        [{"type": "system_action", "action": "reject", "message": {"th": "ไม่ผ่าน"}}],
        {"system_action": "reject"},
        {"system_action": ["flag", "Auto-Reject"]},
        "reject",
        "Auto-Reject",
        ["reject"],
    ],
)
def test_a_malformed_action_that_can_be_recognised_still_rejects(raw: Any) -> None:
    assert rejects(rule(raw))


@pytest.mark.parametrize(
    "raw", [None, [], "", "  ", 0, True, {}, [{}], [[]], "[", "{nonsense", [{"type": "system_action"}]]
)
def test_what_holds_no_action_gives_none_that_rejects(raw: Any) -> None:
    assert not rejects(rule(raw))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["type", "action"]), inner),
        max_leaves=10,
    )
)
def test_any_json_as_actions_is_read_without_an_error(raw: Any) -> None:
    for action in parse_actions(raw):
        assert isinstance(action.type, str)
        assert isinstance(action.action, str)


def test_a_well_formed_action_is_taken_as_it_is() -> None:
    raw = [REJECT, {"type": "human_action", "action": "Call the origin", "message": None}]

    assert parse_actions(raw) == (
        RuleAction(type="system_action", action="reject", message="no"),
        RuleAction(type="human_action", action="Call the origin"),
    )


def test_rules_are_ordered_by_the_numbers_in_their_ids() -> None:
    ids = ["DC-10", "DC-2", "dc-3", "AB-1", "DC-02", "10", "DC", "DC-" + "9" * 5000]

    in_order = [one.rule_id for one in ordered(rule([], id_) for id_ in ids)]

    assert in_order == ["10", "AB-1", "DC", "DC-02", "DC-2", "dc-3", "DC-10", "DC-" + "9" * 5000]


@given(rule_sets, st.randoms(use_true_random=False))
def test_order_and_digest_do_not_depend_on_how_the_rules_came(some: list[Rule], random: Any) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)

    assert ordered(shuffled) == ordered(some)
    assert rules_digest(shuffled) == rules_digest(some)


@given(rule_sets)
def test_a_snapshot_comes_back_from_json_as_it_was(some: list[Rule]) -> None:
    read = from_snapshot(json.loads(json.dumps(to_snapshot(some))))

    assert read == ordered(some)
    assert rules_digest(read) == rules_digest(some)


def test_a_snapshot_of_a_newer_or_older_version_can_be_read() -> None:
    entry = {"rule_id": "DC-01", "rule_type": "accuracy", "name": "n", "added_later": 1}

    assert from_snapshot([entry]) == (Rule(rule_id="DC-01", rule_type="accuracy", name="n"),)


@pytest.mark.parametrize(
    "changes", [{"name": "x"}, {"condition": "x"}, {"rule_type": "x"}, {"actions": [REJECT]}, {"is_global": True}]
)
def test_the_digest_notices_an_edit_of_a_rule(changes: dict[str, Any]) -> None:
    before = to_snapshot([rule([])])

    assert rules_digest(from_snapshot([before[0] | changes])) != rules_digest(from_snapshot(before))
