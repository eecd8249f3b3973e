"""What the model must answer and what its answer is worth: `answer_schema` and `parse_answer`. Pure.

An answer is hostile input. `parse_answer` returns an `Answer` in which every rule that was asked has its outcome and
every failure a finding whose evidence stands in what was sent, or it raises `BadAnswer`; nothing in between, and
nothing else. It never repairs an answer towards `pass`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from gepp_audit.audit.evidence import Sent
from gepp_audit.audit.texts import storable
from gepp_audit.model import Answer, ErrorCode, Evidence, Finding, Rule, RuleOutcome

#: the longest answer that is looked at, in characters; an honest one has some thousands
LONGEST_ANSWER: Final = 200_000
#: characters kept of a reason, of a quoted value, of a field's name
LONGEST_REASON: Final = 1_000
LONGEST_VALUE: Final = 500
_LONGEST_FIELD: Final = 100
#: findings kept of one rule, quotes kept of one finding; all of them are checked
_MOST_FINDINGS: Final = 5
_MOST_EVIDENCE: Final = 20

_OUTCOMES: Final = {outcome.value: outcome for outcome in RuleOutcome}


class BadAnswer(Exception):
    """An answer that is no answer. The message is in our words: it quotes neither the answer nor the transaction."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Told:
    """A finding as the answer tells it, with its quotes sorted by whether they stand."""

    finding: Finding
    #: something was quoted, right or wrong
    quotes: bool
    #: something was quoted that does not stand in what was sent
    misquotes: bool


def answer_schema(rules: Sequence[Rule]) -> dict[str, Any]:
    """The JSON schema of the answer to these rules, as OpenAI's strict mode takes it.

    Every property is required and no other allowed. The findings come before the outcomes, so that a model weighs
    before it decides.
    Source: OpenAI, guide "Structured model outputs", supported schemas.
    """
    ids = [rule.rule_id for rule in rules]
    quote = _object(record_id={"type": ["integer", "null"]}, field={"type": "string"}, value={"type": "string"})
    finding = _object(
        rule_id={"type": "string", "enum": ids},
        evidence={"type": "array", "items": quote},
        reason={"type": "string"},
    )
    outcome = {"type": "string", "enum": list(_OUTCOMES)}
    return _object(
        transaction_id={"type": "string"},
        findings={"type": "array", "items": finding},
        rules=_object(**dict.fromkeys(ids, outcome)),
    )


def parse_answer(
    text: str,
    *,
    transaction_id: int,
    rules: Sequence[Rule],
    payload: Mapping[str, Any],
    evidence_failed_before: bool,
) -> Answer:
    """Read the answer to `rules` about the transaction that was sent as `payload`.

    `evidence_failed_before`: the last answer about it was bad for its evidence alone. If this one is too, the rules
    concerned become `cannot_tell` and their findings lose what does not stand.

    Raises BadAnswer, with the code
    - UNREADABLE: not the JSON object of the schema;
    - INCOMPLETE: a part, an outcome, a finding or a reason is missing, or it contradicts itself;
    - WRONG_TRANSACTION, UNKNOWN_RULE: it speaks of what was not asked;
    - EVIDENCE: a failure without evidence, or evidence that does not stand in `payload`.
    """
    data = _load(text)
    if any(key not in data for key in ("transaction_id", "findings", "rules")):
        _bad(ErrorCode.INCOMPLETE, "The answer lacks one of its parts.")
    _check_transaction(data["transaction_id"], transaction_id)
    asked = [rule.rule_id for rule in rules]
    outcomes = _outcomes(data["rules"], asked)
    told = _findings(data["findings"], outcomes, Sent(payload))
    unproven = _unproven(told, outcomes)
    if unproven and not evidence_failed_before:
        _bad(
            ErrorCode.EVIDENCE,
            f"The answer's evidence for {len(unproven)} of {len(asked)} rules does not stand in what was sent.",
        )
    for rule_id in unproven:
        outcomes[rule_id] = RuleOutcome.CANNOT_TELL
    findings = [one.finding for rule_id in asked for one in told.get(rule_id, ())[:_MOST_FINDINGS]]
    return Answer(transaction_id=transaction_id, rules=outcomes, findings=tuple(findings))


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _load(text: str) -> dict[str, Any]:
    if len(text) > LONGEST_ANSWER:
        _bad(ErrorCode.UNREADABLE, "The answer is far too long.")
    try:
        # parse_float=str: a number of the answer is only ever compared with what was sent, exactly
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=str)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        _bad(ErrorCode.UNREADABLE, "The answer is not one plain JSON object.")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        # which of two values counts is a matter of taste, and taste must not approve
        raise ValueError("a key stands twice")
    return result


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON")


def _check_transaction(told: Any, transaction_id: int) -> None:
    if isinstance(told, bool) or not isinstance(told, str | int):
        _bad(ErrorCode.UNREADABLE, "The answer's transaction_id is not text.")
    if (told.strip() if isinstance(told, str) else str(told)) != str(transaction_id):
        _bad(ErrorCode.WRONG_TRANSACTION, "The answer speaks of another transaction.")


def _outcomes(told: Any, asked: Sequence[str]) -> dict[str, RuleOutcome]:
    if not isinstance(told, dict):
        _bad(ErrorCode.UNREADABLE, "The answer's outcomes are not an object.")
    if not told.keys() <= set(asked):
        _bad(ErrorCode.UNKNOWN_RULE, "The answer judges a rule that was not asked.")
    outcomes = {}
    for rule_id in asked:
        value = told.get(rule_id)
        if isinstance(value, str) and value in _OUTCOMES:
            outcomes[rule_id] = _OUTCOMES[value]
    if len(outcomes) < len(asked) or not asked:
        _bad(ErrorCode.INCOMPLETE, f"The answer gives an outcome for {len(outcomes)} of {len(asked)} rules.")
    return outcomes


def _findings(told: Any, outcomes: Mapping[str, RuleOutcome], sent: Sent) -> dict[str, list[_Told]]:
    if not isinstance(told, list):
        _bad(ErrorCode.UNREADABLE, "The answer's findings are not a list.")
    findings: dict[str, list[_Told]] = {}
    for entry in told:
        one = _finding(entry, outcomes, sent)
        findings.setdefault(one.finding.rule_id, []).append(one)
    for rule_id, outcome in outcomes.items():
        if outcome is RuleOutcome.FAIL and rule_id not in findings:
            _bad(ErrorCode.INCOMPLETE, "The answer fails a rule without a finding.")
        if outcome is RuleOutcome.PASS and rule_id in findings:
            _bad(ErrorCode.INCOMPLETE, "The answer passes a rule against its own finding.")
    return findings


def _finding(told: Any, outcomes: Mapping[str, RuleOutcome], sent: Sent) -> _Told:
    if not isinstance(told, dict):
        _bad(ErrorCode.UNREADABLE, "A finding of the answer is not an object.")
    rule_id, reason, quotes = told.get("rule_id"), told.get("reason"), told.get("evidence")
    if not isinstance(rule_id, str) or not isinstance(reason, str) or not isinstance(quotes, list):
        _bad(ErrorCode.UNREADABLE, "A finding of the answer does not have the form that was asked for.")
    if rule_id not in outcomes:
        _bad(ErrorCode.UNKNOWN_RULE, "A finding of the answer names a rule that was not asked.")
    kept_reason = storable(reason, LONGEST_REASON)
    if not kept_reason:
        _bad(ErrorCode.INCOMPLETE, "A finding of the answer gives no reason.")
    standing: list[Evidence] = []
    misquotes = False
    for quote in quotes:
        read = _quote(quote)
        if sent.holds(read.record_id, read.field, read.value):
            standing.append(read)
        else:
            misquotes = True
    evidence = tuple(
        Evidence(
            record_id=one.record_id,
            field=storable(one.field, _LONGEST_FIELD),
            value=storable(one.value, LONGEST_VALUE),
        )
        for one in standing[:_MOST_EVIDENCE]
    )
    finding = Finding(rule_id=rule_id, reason=kept_reason, evidence=evidence)
    return _Told(finding, quotes=bool(quotes), misquotes=misquotes)


def _quote(told: Any) -> Evidence:
    record_id, field, value = (
        (told.get("record_id"), told.get("field"), told.get("value")) if isinstance(told, dict) else (None, None, None)
    )
    if record_id is not None and (isinstance(record_id, bool) or not isinstance(record_id, int)):
        _bad(ErrorCode.UNREADABLE, "A record_id of the answer is neither a number nor null.")
    if isinstance(told, dict) and "value" in told and (value is None or type(value) is int):
        # servers without strict schemas answer with the JSON value instead of its text
        value = "null" if value is None else str(value)
    if not isinstance(field, str) or not isinstance(value, str):
        _bad(ErrorCode.UNREADABLE, "A piece of evidence does not have the form that was asked for.")
    return Evidence(record_id=record_id, field=field, value=value)


def _unproven(told: Mapping[str, Sequence[_Told]], outcomes: Mapping[str, RuleOutcome]) -> list[str]:
    """The rules whose findings misquote, or that fail with nothing quoted at all."""
    return [
        rule_id
        for rule_id, findings in told.items()
        if any(one.misquotes for one in findings)
        or (outcomes[rule_id] is RuleOutcome.FAIL and not any(one.quotes for one in findings))
    ]


def _bad(code: ErrorCode, message: str) -> NoReturn:
    raise BadAnswer(code, message)
