"""What an answer is worth: a complete one is read, everything else is a bad answer and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gepp_audit.audit.answer import (
    LONGEST_ANSWER,
    LONGEST_REASON,
    LONGEST_VALUE,
    BadAnswer,
    answer_schema,
    parse_answer,
)
from gepp_audit.audit.verdict import judge, to_json
from gepp_audit.model import Answer, ErrorCode, Evidence, Finding, Rule, RuleAction, RuleOutcome, VerdictStatus

GATE = (RuleAction(type="system_action", action="reject"),)
RULES = (
    Rule(rule_id="DC-01", rule_type="accuracy", name="n", actions=GATE),
    Rule(rule_id="DC-02", rule_type="accuracy", name="n"),
)
PAYLOAD: dict[str, Any] = {
    "transaction_id": "123",
    "weight_kg": "6.25",
    "arrival_date": None,
    "hazardous_level": 0,
    "notes": "รับจาก  โรงงาน A\nช่วงเช้า",
    "images_not_shown": 2,
    "vehicle_info": {"plate": "กข 1234", "axles": 3, "load": [1.5, None], "covered": True, "note": 'the "old" one'},
    "records": [
        {"record_id": 12, "material": "PET", "notes": "", "origin_weight_kg": "6.25", "disposal_method": None},
        {"record_id": 13, "material": "Steel", "notes": "x", "origin_weight_kg": "1500", "disposal_method": "bury"},
    ],
}


def quote(record_id: Any = 12, field: Any = "origin_weight_kg", value: Any = "6.25") -> dict[str, Any]:
    return {"record_id": record_id, "field": field, "value": value}


def finding(rule_id: Any = "DC-01", evidence: Any = None, reason: Any = "Too heavy.") -> dict[str, Any]:
    return {"rule_id": rule_id, "evidence": [quote()] if evidence is None else evidence, "reason": reason}


def told(**changes: Any) -> dict[str, Any]:
    whole = {"transaction_id": "123", "findings": [finding()], "rules": {"DC-01": "fail", "DC-02": "pass"}}
    return whole | changes


def read(answer: Any, *, failed_before: bool = False, rules: tuple[Rule, ...] = RULES) -> Answer:
    return parse_answer(
        answer if isinstance(answer, str) else json.dumps(answer),
        transaction_id=123,
        rules=rules,
        payload=PAYLOAD,
        evidence_failed_before=failed_before,
    )


def code_of(answer: Any, **options: Any) -> ErrorCode:
    with pytest.raises(BadAnswer) as caught:
        read(answer, **options)
    assert str(caught.value)
    return caught.value.code


def test_a_complete_answer_is_read() -> None:
    assert read(told()) == Answer(
        transaction_id=123,
        rules={"DC-01": RuleOutcome.FAIL, "DC-02": RuleOutcome.PASS},
        findings=(
            Finding(
                rule_id="DC-01",
                reason="Too heavy.",
                evidence=(Evidence(record_id=12, field="origin_weight_kg", value="6.25"),),
            ),
        ),
    )


def test_findings_and_outcomes_come_in_the_order_of_the_rules() -> None:
    answer = read(
        told(
            findings=[finding("DC-02"), finding("DC-01"), finding("DC-02", reason="Again.")],
            rules={"DC-02": "fail", "DC-01": "fail"},
        )
    )

    assert list(answer.rules) == ["DC-01", "DC-02"]
    assert [one.rule_id for one in answer.findings] == ["DC-01", "DC-02", "DC-02"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "approved",
        "null",
        "[]",
        '"pass"',
        json.dumps(told())[:-1],
        json.dumps(told()) + "{}",
        "```json\n" + json.dumps(told()) + "\n```",
        '{"transaction_id": NaN}',
        '{"transaction_id": -Infinity}',
        '{"transaction_id": ' + "9" * 10_000 + "}",
        "[" * 100_000,
        '{"a":' * 100_000,
        " " * (LONGEST_ANSWER + 1),
        json.dumps(told(findings={})),
        json.dumps(told(findings=["DC-01"])),
        json.dumps(told(findings=[finding(evidence={})])),
        json.dumps(told(findings=[finding(evidence=["weight"])])),
        json.dumps(told(findings=[finding(evidence=[quote(record_id="12")])])),
        json.dumps(told(findings=[finding(evidence=[quote(record_id=True)])])),
        json.dumps(told(findings=[finding(evidence=[quote(record_id=12.0)])])),
        json.dumps(told(findings=[finding(evidence=[quote(field=None)])])),
        json.dumps(told(findings=[finding(evidence=[quote(value=["6.25"])])])),
        json.dumps(told(findings=[finding(reason=None)])),
        json.dumps(told(findings=[finding(rule_id=1)])),
        json.dumps(told(rules=[])),
        json.dumps(told(rules="pass")),
        json.dumps(told(transaction_id=None)),
        json.dumps(told(transaction_id=True)),
    ],
)
def test_what_is_not_the_object_that_was_asked_for_is_unreadable(text: str) -> None:
    assert code_of(text) is ErrorCode.UNREADABLE


@pytest.mark.parametrize(
    "text",
    [
        '{"transaction_id":"123","findings":[],"rules":{"DC-01":"fail","DC-01":"pass","DC-02":"pass"}}',
        '{"transaction_id":"9","transaction_id":"123","findings":[],"rules":{"DC-01":"pass","DC-02":"pass"}}',
    ],
)
def test_a_key_that_stands_twice_is_unreadable_and_never_a_choice(text: str) -> None:
    assert code_of(text) is ErrorCode.UNREADABLE


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"transaction_id": "123", "findings": []},
        {"transaction_id": "123", "rules": {"DC-01": "pass", "DC-02": "pass"}},
        {"findings": [], "rules": {"DC-01": "pass", "DC-02": "pass"}},
        told(findings=[], rules={}),
        told(findings=[], rules={"DC-01": "pass"}),
        told(findings=[], rules={"DC-01": "pass", "DC-02": None}),
        told(findings=[], rules={"DC-01": "pass", "DC-02": "PASS"}),
        told(findings=[], rules={"DC-01": "pass", "DC-02": "approved"}),
        told(findings=[], rules={"DC-01": "pass", "DC-02": ["pass"]}),
        told(findings=[]),
        told(rules={"DC-01": "pass", "DC-02": "pass"}),
        told(findings=[finding(reason=" \n ")]),
        told(findings=[finding(reason="\x00")]),
    ],
)
def test_an_answer_that_lacks_something_or_contradicts_itself_is_incomplete(answer: dict[str, Any]) -> None:
    assert code_of(answer) is ErrorCode.INCOMPLETE


def test_an_answer_to_no_rule_is_incomplete() -> None:
    assert code_of(told(findings=[], rules={}), rules=()) is ErrorCode.INCOMPLETE


@pytest.mark.parametrize("other", ["124", "0123", "", "123\u0000", 124, -123])
def test_an_answer_about_another_transaction_is_wrong(other: Any) -> None:
    assert code_of(told(transaction_id=other)) is ErrorCode.WRONG_TRANSACTION


def test_a_transaction_id_may_come_as_a_number() -> None:
    assert read(told(transaction_id=123)) == read(told())


@pytest.mark.parametrize(
    "answer",
    [
        told(rules={"DC-01": "fail", "DC-02": "pass", "DC-03": "pass"}),
        told(rules={"DC-01": "fail", "DC-02": "pass", "dc-02": "pass"}),
        told(findings=[finding(), finding("DC-03")]),
    ],
)
def test_a_rule_that_was_not_asked_makes_a_bad_answer(answer: dict[str, Any]) -> None:
    assert code_of(answer) is ErrorCode.UNKNOWN_RULE


STANDING = [
    quote(12, "origin_weight_kg", "6.250"),
    quote(13, "origin_weight_kg", "1,500.0"),
    quote(13, "origin_weight_kg", " 1500 "),
    quote(None, "weight_kg", "6.25"),
    quote(None, "transaction_id", "123"),
    quote(12, "record_id", "12"),
    quote(12, "record_id", 12),
    quote(None, "images_not_shown", "2"),
    quote(None, "hazardous_level", "0"),
    quote(None, "arrival_date", "null"),
    quote(None, "arrival_date", None),
    quote(12, "disposal_method", "NULL"),
    quote(12, "disposal_method", ""),
    quote(12, "notes", ""),
    quote(None, "notes", "โรงงาน A ช่วงเช้า"),
    quote(None, "notes", "รับจากโรงงาน A".replace("จาก", "จาก\u200b ")),
    quote(None, "notes", "ช\u0e48วงเช\u0e49า"),
    quote(13, "material", "Steel"),
    quote(13, "records[1].material", "Steel"),
    quote(None, "vehicle_info", "กข 1234"),
    quote(None, "vehicle_info.plate", "1234"),
    quote(None, "vehicle_info", "3"),
    quote(None, "vehicle_info", "1.5"),
    quote(None, "vehicle_info", 'the "old" one'),
    quote(None, "vehicle_info", "true"),
    quote(None, "vehicle_info", '{"plate":"กข 1234","axles":3'),
    quote(None, "records", "2"),
]

NOT_STANDING = [
    quote(12, "origin_weight_kg", "6.26"),
    quote(12, "origin_weight_kg", "6"),
    quote(12, "origin_weight_kg", "6.25 kg"),
    quote(12, "origin_weight_kg", "0"),
    quote(12, "origin_weight_kg", "NaN"),
    quote(12, "origin_weight_kg", "sNaN"),
    quote(12, "origin_weight_kg", "6.25" + "0" * 100),
    quote(12, "origin_weight_kg", "null"),
    quote(13, "origin_weight_kg", "6.25"),
    quote(13, "origin_weight_kg", "1,50,0"),
    quote(13, "notes", ""),
    quote(13, "notes", " "),
    quote(13, "disposal_method", "null"),
    quote(14, "origin_weight_kg", "6.25"),
    quote(10**30, "origin_weight_kg", "6.25"),
    quote(None, "origin_weight_kg", "6.25"),
    quote(12, "weight_kg", "6.25"),
    quote(12, "no_such_field", "6.25"),
    quote(12, "", ""),
    quote(None, "arrival_date", "0"),
    quote(None, "hazardous_level", "null"),
    quote(None, "transaction_id", "12"),
    quote(None, "notes", "โรงงาน B"),
    quote(None, "notes", ""),
    quote(None, "notes", "\ud800"),
    quote(None, "records", "3"),
    quote(None, "records", "[]"),
    quote(None, "vehicle_info", ""),
    quote(None, "vehicle_info", "false"),
    quote(None, "driver_info", "null"),
]


@pytest.mark.parametrize("evidence", STANDING, ids=lambda one: f"{one['field']}={one['value']!r}")
def test_evidence_that_stands_in_what_was_sent_is_taken(evidence: dict[str, Any]) -> None:
    answer = read(told(findings=[finding(evidence=[evidence])]))

    assert answer.rules["DC-01"] is RuleOutcome.FAIL
    assert len(answer.findings[0].evidence) == 1


@pytest.mark.parametrize("evidence", NOT_STANDING, ids=lambda one: f"{one['field']}={one['value']!r}")
def test_evidence_that_does_not_stand_there_makes_a_bad_answer(evidence: dict[str, Any]) -> None:
    assert code_of(told(findings=[finding(evidence=[quote(), evidence])])) is ErrorCode.EVIDENCE


def test_a_transaction_without_records_can_be_quoted() -> None:
    answer = parse_answer(
        json.dumps(told(findings=[finding(evidence=[quote(None, "records", "[]")])])),
        transaction_id=123,
        rules=RULES,
        payload=PAYLOAD | {"records": []},
        evidence_failed_before=False,
    )

    assert answer.rules["DC-01"] is RuleOutcome.FAIL


def test_a_failure_without_evidence_makes_a_bad_answer() -> None:
    assert code_of(told(findings=[finding(evidence=[])])) is ErrorCode.EVIDENCE


def test_an_untold_rule_needs_neither_finding_nor_evidence() -> None:
    for findings in ([], [finding(evidence=[])]):
        answer = read(told(findings=findings, rules={"DC-01": "cannot_tell", "DC-02": "pass"}))

        assert answer.rules["DC-01"] is RuleOutcome.CANNOT_TELL


@pytest.mark.parametrize("evidence", [[], [quote(value="7")], [quote(), quote(14)]])
def test_evidence_that_fails_twice_makes_the_rule_untold_and_keeps_what_stands(evidence: list[dict[str, Any]]) -> None:
    answer = read(told(findings=[finding(evidence=evidence)]), failed_before=True)

    assert answer.rules == {"DC-01": RuleOutcome.CANNOT_TELL, "DC-02": RuleOutcome.PASS}
    assert answer.findings[0].reason == "Too heavy."
    assert [one.record_id for one in answer.findings[0].evidence] == [12] * (len(evidence) - 1)
    assert judge(answer, RULES).status is VerdictStatus.NO_ACTION


def test_a_rule_whose_evidence_stands_keeps_its_failure_beside_one_whose_does_not() -> None:
    answer = read(
        told(findings=[finding(), finding("DC-02", [quote(value="7")])], rules={"DC-01": "fail", "DC-02": "fail"}),
        failed_before=True,
    )

    assert answer.rules == {"DC-01": RuleOutcome.FAIL, "DC-02": RuleOutcome.CANNOT_TELL}


def test_other_faults_are_not_forgiven_the_second_time() -> None:
    assert code_of(told(findings=[]), failed_before=True) is ErrorCode.INCOMPLETE


def test_what_is_kept_can_be_stored_anywhere() -> None:
    text = json.dumps(told(findings=[finding(reason="a\x00b\ud800c\x1b[31m" + "d" * 100_000)]))

    reason = read(text).findings[0].reason

    assert reason.startswith("ab\ufffdc[31m")
    assert len(reason) == LONGEST_REASON
    assert "\x00" not in reason
    reason.encode()


def test_what_is_kept_of_a_flood_is_bounded() -> None:
    long_note = "n" * 600
    answer = parse_answer(
        json.dumps(told(findings=[finding(evidence=[quote(None, "notes", long_note)] * 30)] * 8)),
        transaction_id=123,
        rules=RULES,
        payload=PAYLOAD | {"notes": long_note},
        evidence_failed_before=False,
    )

    assert len(answer.findings) <= 5
    assert all(len(one.evidence) <= 20 for one in answer.findings)
    assert len(answer.findings[0].evidence[0].value) == LONGEST_VALUE


def test_a_bad_answer_tells_neither_the_answer_nor_the_transaction() -> None:
    secret = "กข 1234"
    for answer in (
        secret,
        told(transaction_id=secret),
        told(rules={secret: "pass"}),
        told(findings=[finding(secret)]),
        told(findings=[finding(evidence=[quote(value=secret)])]),
        told(rules={"DC-01": secret, "DC-02": secret}),
    ):
        with pytest.raises(BadAnswer) as caught:
            read(answer)
        assert secret not in str(caught.value)


def approves(text: str) -> bool:
    try:
        answer = read(text)
    except BadAnswer:
        return False
    return judge(answer, RULES).status is VerdictStatus.APPROVED


@given(st.text())
def test_no_text_approves_or_raises_anything_else(text: str) -> None:
    assert not approves(text)


keys = ["transaction_id", "findings", "rules", "rule_id", "evidence", "reason", "record_id", "field", "value"]
values = ["123", "DC-01", "DC-02", "DC-03", "fail", "cannot_tell", "weight_kg", "6.25", "null", "\x00", "\ud800", ""]
words = st.sampled_from([*keys, *values])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)


@settings(max_examples=300)
@given(anything)
def test_no_json_approves_or_raises_anything_else(data: Any) -> None:
    assert not approves(json.dumps(data))


def replaced(path: list[Any], value: Any) -> dict[str, Any]:
    """A good answer, approving but for DC-02's warning, with `value` at `path`."""
    whole = told(findings=[finding("DC-02")], rules={"DC-01": "pass", "DC-02": "fail"})
    place: Any = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return whole


PATHS: list[list[Any]] = [
    ["transaction_id"],
    ["findings"],
    ["rules"],
    ["rules", "DC-01"],
    ["rules", "DC-02"],
    ["findings", 0],
    ["findings", 0, "rule_id"],
    ["findings", 0, "evidence"],
    ["findings", 0, "evidence", 0],
    ["findings", 0, "evidence", 0, "record_id"],
    ["findings", 0, "evidence", 0, "field"],
    ["findings", 0, "evidence", 0, "value"],
    ["findings", 0, "reason"],
]


@settings(max_examples=300)
@given(st.sampled_from(PATHS), anything)
def test_a_good_answer_with_anything_in_one_place_is_read_wholly_or_refused(path: list[Any], value: Any) -> None:
    try:
        answer = read(replaced(path, value))
    except BadAnswer:
        return
    assert list(answer.rules) == ["DC-01", "DC-02"]
    json.dumps(to_json(judge(answer, RULES)), ensure_ascii=False).encode()
    if path == ["rules", "DC-01"]:
        assert answer.rules["DC-01"].value == value
        assert (judge(answer, RULES).status is VerdictStatus.APPROVED) == (value == "pass")


def walk(schema: Any, visit: Callable[[dict[str, Any]], None]) -> None:
    if isinstance(schema, dict):
        visit(schema)
        for inner in schema.values():
            walk(inner, visit)


def test_the_schema_is_one_that_strict_mode_takes() -> None:
    def check(node: dict[str, Any]) -> None:
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
        assert not node.keys() & {"oneOf", "allOf", "not", "if", "patternProperties", "minLength", "default", "$ref"}

    walk(answer_schema(RULES), check)


def test_the_schema_asks_for_each_rule_after_the_findings() -> None:
    schema = answer_schema(RULES)

    assert list(schema["properties"]) == ["transaction_id", "findings", "rules"]
    assert schema["properties"]["rules"]["required"] == ["DC-01", "DC-02"]
    assert schema["properties"]["rules"]["properties"]["DC-02"]["enum"] == ["pass", "fail", "cannot_tell"]
    found = schema["properties"]["findings"]["items"]["properties"]
    assert list(found) == ["rule_id", "evidence", "reason"]
    assert found["rule_id"]["enum"] == ["DC-01", "DC-02"]
    assert found["evidence"]["items"]["properties"]["record_id"] == {"type": ["integer", "null"]}
