"""What follows from an answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.audit.verdict import from_json, judge, to_json
from gepp_audit.model import Answer, Evidence, Finding, Rule, RuleAction, RuleOutcome, VerdictStatus

PASS, FAIL, CANNOT_TELL = RuleOutcome.PASS, RuleOutcome.FAIL, RuleOutcome.CANNOT_TELL
GATE = (RuleAction(type="system_action", action="Auto-Reject"),)
FLAG = (RuleAction(type="system_action", action="Flag for Auditor Review"),)


def rule(rule_id: str, *, gate: bool) -> Rule:
    return Rule(rule_id=rule_id, rule_type="accuracy", name="n", actions=GATE if gate else FLAG)


RULES = (rule("G1", gate=True), rule("G2", gate=True), rule("W1", gate=False), rule("W2", gate=False))


def answer(*outcomes: RuleOutcome) -> Answer:
    return Answer(transaction_id=1, rules=dict(zip(("G1", "G2", "W1", "W2"), outcomes, strict=False)))


@pytest.mark.parametrize(
    ("outcomes", "status", "rejected_by", "warned_by"),
    [
        ((PASS, PASS, PASS, PASS), VerdictStatus.APPROVED, (), ()),
        ((PASS, PASS, FAIL, CANNOT_TELL), VerdictStatus.APPROVED, (), ("W1", "W2")),
        ((FAIL, PASS, PASS, PASS), VerdictStatus.REJECTED, ("G1",), ()),
        ((FAIL, FAIL, FAIL, PASS), VerdictStatus.REJECTED, ("G1", "G2"), ("W1",)),
        ((FAIL, CANNOT_TELL, PASS, CANNOT_TELL), VerdictStatus.REJECTED, ("G1",), ("G2", "W2")),
        ((CANNOT_TELL, PASS, PASS, PASS), VerdictStatus.NO_ACTION, (), ("G1",)),
        ((CANNOT_TELL, PASS, FAIL, PASS), VerdictStatus.NO_ACTION, (), ("G1", "W1")),
    ],
)
def test_the_outcomes_decide(
    outcomes: tuple[RuleOutcome, ...], status: VerdictStatus, rejected_by: tuple[str, ...], warned_by: tuple[str, ...]
) -> None:
    verdict = judge(answer(*outcomes), RULES)

    assert (verdict.status, verdict.rejected_by, verdict.warned_by) == (status, rejected_by, warned_by)


def test_a_rule_without_an_outcome_counts_as_untold() -> None:
    assert judge(answer(PASS), RULES[:2]).status is VerdictStatus.NO_ACTION


def test_nothing_is_approved_without_a_rule() -> None:
    assert judge(Answer(transaction_id=1, rules={}), ()).status is VerdictStatus.NO_ACTION


outcome = st.sampled_from(RuleOutcome)
judged = st.lists(st.tuples(st.booleans(), outcome), min_size=1, max_size=8)
#: how much an outcome of a gate may allow
GRADE = {VerdictStatus.REJECTED: 0, VerdictStatus.NO_ACTION: 1, VerdictStatus.APPROVED: 2}
STEPS = {PASS: (CANNOT_TELL, FAIL), CANNOT_TELL: (FAIL,), FAIL: ()}


def status_of(case: list[tuple[bool, RuleOutcome]]) -> VerdictStatus:
    rules = [rule(str(index), gate=gate) for index, (gate, _) in enumerate(case)]
    told = Answer(transaction_id=1, rules={str(index): result for index, (_, result) in enumerate(case)})
    return judge(told, rules).status


@given(judged)
def test_nothing_is_approved_that_a_rejecting_rule_does_not_pass(case: list[tuple[bool, RuleOutcome]]) -> None:
    guarded = [result for gate, result in case if gate]

    expected = (
        VerdictStatus.REJECTED
        if FAIL in guarded
        else VerdictStatus.NO_ACTION
        if CANNOT_TELL in guarded
        else VerdictStatus.APPROVED
    )
    assert status_of(case) is expected


@given(judged, st.data())
def test_a_worse_outcome_never_gives_a_better_verdict(
    case: list[tuple[bool, RuleOutcome]], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(case) - 1))
    gate, before = case[index]
    for worse in STEPS[before]:
        changed = [*case[:index], (gate, worse), *case[index + 1 :]]
        assert GRADE[status_of(changed)] <= GRADE[status_of(case)]


def test_a_verdict_comes_back_from_json_as_it_was() -> None:
    finding = Finding(
        rule_id="G1", reason="หนักเกิน", evidence=(Evidence(record_id=12, field="origin_weight_kg", value="6.25"),)
    )
    verdict = judge(Answer(transaction_id=1, rules={"G1": FAIL, "W1": PASS}, findings=(finding,)), RULES)

    stored = to_json(verdict)

    assert from_json(json.loads(json.dumps(stored))) == verdict
    assert stored == {
        "status": "rejected",
        "rules": {"G1": "fail", "G2": "cannot_tell", "W1": "pass", "W2": "cannot_tell"},
        "findings": [
            {
                "rule_id": "G1",
                "reason": "หนักเกิน",
                "evidence": [{"record_id": 12, "field": "origin_weight_kg", "value": "6.25"}],
            }
        ],
        "rejected_by": ["G1"],
        "warned_by": ["G2", "W2"],
    }
