"""What follows from an answer: pure, `judge(answer, rules) -> Verdict`.

A failed rule that rejects rejects. Otherwise a rejecting rule that could not be told leaves the decision to a person.
Otherwise the transaction is approved, and what else failed or stayed untold is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gepp_audit.audit.rules import rejects
from gepp_audit.model import Answer, Evidence, Finding, Rule, RuleOutcome, Verdict, VerdictStatus


def judge(answer: Answer, rules: Sequence[Rule]) -> Verdict:
    """The verdict that `answer` gives under these rules.

    A rule without an outcome counts as untold, and without any rule there is nothing to approve by: both only as a
    second line of defence, the parser lets neither through.
    """
    outcomes = {rule.rule_id: answer.rules.get(rule.rule_id, RuleOutcome.CANNOT_TELL) for rule in rules}
    gates = {rule.rule_id for rule in rules if rejects(rule)}
    rejected_by = tuple(id_ for id_, outcome in outcomes.items() if outcome is RuleOutcome.FAIL and id_ in gates)
    warned_by = tuple(
        id_ for id_, outcome in outcomes.items() if outcome is not RuleOutcome.PASS and id_ not in rejected_by
    )
    if rejected_by:
        status = VerdictStatus.REJECTED
    elif not outcomes or not gates.isdisjoint(warned_by):
        status = VerdictStatus.NO_ACTION
    else:
        status = VerdictStatus.APPROVED
    return Verdict(
        status=status, rules=outcomes, findings=answer.findings, rejected_by=rejected_by, warned_by=warned_by
    )


def to_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as it is stored and written back; `from_json` reads it."""
    return {
        "status": verdict.status.value,
        "rules": {rule_id: outcome.value for rule_id, outcome in verdict.rules.items()},
        "findings": [
            {
                "rule_id": finding.rule_id,
                "reason": finding.reason,
                "evidence": [
                    {"record_id": entry.record_id, "field": entry.field, "value": entry.value}
                    for entry in finding.evidence
                ],
            }
            for finding in verdict.findings
        ],
        "rejected_by": list(verdict.rejected_by),
        "warned_by": list(verdict.warned_by),
    }


def from_json(data: Mapping[str, Any]) -> Verdict:
    """The verdict that `to_json` stored."""
    return Verdict(
        status=VerdictStatus(data["status"]),
        rules={rule_id: RuleOutcome(outcome) for rule_id, outcome in data["rules"].items()},
        findings=tuple(
            Finding(
                rule_id=finding["rule_id"],
                reason=finding["reason"],
                evidence=tuple(
                    Evidence(record_id=entry["record_id"], field=entry["field"], value=entry["value"])
                    for entry in finding["evidence"]
                ),
            )
            for finding in data["findings"]
        ),
        rejected_by=tuple(data["rejected_by"]),
        warned_by=tuple(data["warned_by"]),
    )
