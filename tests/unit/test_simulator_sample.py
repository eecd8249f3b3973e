"""The bundled sample: whole in itself, and judged by the simulator as `samples/expected.json` says it must be.

What is expected was derived by hand from the words of the rules; each transaction's `why` tells it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from gepp_audit.audit.answer import parse_answer
from gepp_audit.audit.prompt import RuleSetPrompt, compile_rules, render_transaction
from gepp_audit.audit.rules import parse_actions, rejects
from gepp_audit.audit.transaction import to_payload
from gepp_audit.audit.verdict import judge
from gepp_audit.model import Record, Rule, RuleOutcome, Transaction, Verdict
from scripts.simulator_lib.answers import answer, as_text
from scripts.simulator_lib.requests import read_request
from scripts.simulator_lib.rules import RULES

SAMPLES: Final = Path(__file__).parents[2] / "samples"
DOCUMENT: Final[dict[str, Any]] = json.loads((SAMPLES / "sample.json").read_text(encoding="utf-8"))
EXPECTED: Final[dict[str, dict[str, Any]]] = json.loads((SAMPLES / "expected.json").read_text(encoding="utf-8"))
MATERIALS: Final = {material["id"]: material for material in DOCUMENT["main_materials"]}
TRANSACTIONS: Final = {str(row["id"]): row for row in DOCUMENT["transactions"]}


def decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def record(row: Mapping[str, Any]) -> Record:
    material = MATERIALS.get(row["main_material_id"], {})
    names = [material[name] for name in ("name_en", "name_th") if name in material]
    return Record(
        id=row["id"],
        status=row["status"],
        transaction_type=row["transaction_type"],
        main_material=" / ".join(names) or None,
        main_material_code=material.get("code"),
        unit=row["unit"],
        origin_quantity=decimal(row["origin_quantity"]),
        origin_weight_kg=decimal(row["origin_weight_kg"]),
        origin_price_per_unit=decimal(row["origin_price_per_unit"]),
        total_amount=decimal(row["total_amount"]),
        hazardous_level=row["hazardous_level"],
        treatment_method=row["treatment_method"],
        disposal_method=row["disposal_method"],
        notes=row["notes"],
        image_count=len(row["images"]),
    )


def transaction(row: Mapping[str, Any]) -> Transaction:
    return Transaction(
        id=row["id"],
        organization_id=row["organization_id"],
        status=row["status"],
        transaction_method=row["transaction_method"],
        weight_kg=decimal(row["weight_kg"]),
        total_amount=decimal(row["total_amount"]),
        transaction_date=moment(row["transaction_date"]),
        arrival_date=moment(row["arrival_date"]),
        hazardous_level=row["hazardous_level"],
        treatment_method=row["treatment_method"],
        disposal_method=row["disposal_method"],
        notes=row["notes"],
        image_count=len(row["images"]),
        vehicle_info=row["vehicle_info"],
        driver_info=row["driver_info"],
        records=tuple(record(one) for one in row["records"] if one.get("is_active", True)),
    )


def rules_of(organization_id: int) -> list[Rule]:
    return [
        Rule(
            rule_id=row["rule_id"],
            rule_type=row["rule_type"],
            name=row["rule_name"],
            process=row["process"],
            condition=row["condition"],
            thresholds=row["thresholds"],
            metrics=row["metrics"],
            actions=parse_actions(row["actions"]),
            is_global=row["is_global"],
        )
        for row in DOCUMENT["audit_rules"]
        if row["is_active"] and (row["is_global"] or row["organization_id"] == organization_id)
    ]


PROMPTS: Final[dict[int, RuleSetPrompt]] = {
    row["id"]: compile_rules(rules_of(row["id"])) for row in DOCUMENT["organizations"]
}


def verdict(row: Mapping[str, Any]) -> Verdict:
    """The product's whole way from the transaction to the verdict, with the simulator in the model's place."""
    prompt = PROMPTS[row["organization_id"]]
    payload = to_payload(transaction(row), frozenset())
    body = {
        "model": "any",
        "messages": [
            {"role": "developer", "content": prompt.prefix},
            {"role": "user", "content": render_transaction(payload, "a1b2c3")},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": prompt.schema_name, "strict": True, "schema": prompt.schema},
        },
    }
    asked = read_request(json.dumps(body).encode())
    assert asked.transaction == payload
    text = as_text(answer(asked.transaction, asked.rule_ids))
    told = parse_answer(
        text, transaction_id=row["id"], rules=prompt.rules, payload=payload, evidence_failed_before=False
    )
    return judge(told, prompt.rules)


@pytest.mark.parametrize("id_", sorted(EXPECTED))
def test_each_transaction_is_judged_as_was_reasoned(id_: str) -> None:
    found = verdict(TRANSACTIONS[id_])
    assert {
        "status": found.status.value,
        "fail": sorted(rule for rule, outcome in found.rules.items() if outcome is RuleOutcome.FAIL),
        "cannot_tell": sorted(rule for rule, outcome in found.rules.items() if outcome is RuleOutcome.CANNOT_TELL),
    } == {
        "status": EXPECTED[id_]["status"],
        "fail": sorted(EXPECTED[id_]["fail"]),
        "cannot_tell": sorted(EXPECTED[id_]["cannot_tell"]),
    }


def test_what_is_expected_follows_from_the_rules_that_reject() -> None:
    rejecting = {row["rule_id"] for row in DOCUMENT["audit_rules"] if rejects(RULE_BY_ID[row["rule_id"]])}
    told = {
        id_: "rejected"
        if rejecting & set(one["fail"])
        else "no_action"
        if rejecting & set(one["cannot_tell"])
        else "approved"
        for id_, one in EXPECTED.items()
    }
    assert told == {id_: one["status"] for id_, one in EXPECTED.items()}


def test_every_organization_has_each_verdict() -> None:
    counts = Counter((one["organization_id"], one["status"]) for one in EXPECTED.values())
    assert counts == {
        (1, "approved"): 11,
        (1, "rejected"): 7,
        (1, "no_action"): 3,
        (2, "approved"): 10,
        (2, "rejected"): 7,
        (2, "no_action"): 4,
        (3, "approved"): 10,
        (3, "rejected"): 8,
        (3, "no_action"): 4,
    }


def test_every_transaction_is_expected_and_waits_to_be_queued() -> None:
    assert EXPECTED.keys() == TRANSACTIONS.keys()
    assert {row["ai_audit_status"] for row in TRANSACTIONS.values()} == {"null"}


def test_the_simulator_knows_exactly_the_active_rules() -> None:
    assert RULES.keys() == {row["rule_id"] for row in DOCUMENT["audit_rules"] if row["is_active"]}


def test_every_active_rule_is_broken_or_untold_somewhere() -> None:
    touched = {rule for one in EXPECTED.values() for rule in (*one["fail"], *one["cannot_tell"])}
    assert touched == RULES.keys()


def test_the_platforms_rules_are_seventeen_and_global() -> None:
    assert [row["rule_id"] for row in DOCUMENT["audit_rules"] if row["is_global"]] == [
        f"DC-{number:02}" for number in range(1, 18)
    ]


def test_no_id_stands_twice() -> None:
    for name in ("organizations", "main_materials", "audit_rules", "transactions"):
        ids = [row["id"] for row in DOCUMENT[name]]
        assert len(ids) == len(set(ids))
    records = [one["id"] for row in TRANSACTIONS.values() for one in row["records"]]
    assert len(records) == len(set(records))


@pytest.mark.parametrize("id_", ["1007", "2014", "3019"])
def test_orders_in_the_notes_change_no_outcome(id_: str) -> None:
    row = TRANSACTIONS[id_]
    silent = {**row, "notes": None, "records": [{**one, "notes": None} for one in row["records"]]}
    assert verdict(silent).rules == verdict(row).rules


RULE_BY_ID: Final = {rule.rule_id: rule for organization in (1, 2, 3) for rule in rules_of(organization)} | {
    "HT-02": Rule(rule_id="HT-02", rule_type="improvement", name="retired")
}
