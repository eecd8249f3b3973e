"""The rules as the simulator computes them: their borders, what is missing, and input of any shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gepp_audit.audit.evidence import Sent
from scripts.simulator_lib.answers import answer, judge
from scripts.simulator_lib.facts import Judgement
from scripts.simulator_lib.rules import RULES


def record(id_: int = 1, **changes: Any) -> dict[str, Any]:
    """A record that breaks no rule, but for what is changed."""
    return {
        "record_id": id_,
        "status": "pending",
        "transaction_type": "manual_input",
        "material": "PET bottles / ขวดพลาสติก PET",
        "material_code": "PL-PET",
        "unit": "kg",
        "origin_quantity": "100",
        "origin_weight_kg": "100",
        "origin_price_per_unit": "9.5",
        "total_amount": "950",
        "hazardous_level": 0,
        "treatment_method": "sorting",
        "disposal_method": "recycle",
        "notes": None,
        "images_not_shown": 0,
    } | changes


def transaction(*records: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A transaction that breaks no rule, but for what is changed."""
    return {
        "transaction_id": "7",
        "status": "pending",
        "transaction_method": "origin",
        "weight_kg": "100",
        "total_amount": "950",
        "transaction_date": "2026-11-03T02:00:00Z",
        "arrival_date": None,
        "hazardous_level": 0,
        "treatment_method": "sorting",
        "disposal_method": "recycle",
        "notes": None,
        "images_not_shown": 0,
        "records": list(records) or [record()],
    } | changes


def outcome(rule_id: str, sent: dict[str, Any]) -> str:
    return judge(sent, [rule_id])[rule_id].outcome


def test_a_transaction_in_order_passes_every_rule() -> None:
    assert {one.outcome for one in judge(transaction(), RULES).values()} == {"pass"}


@pytest.mark.parametrize(
    ("rule_id", "sent", "expected"),
    [
        ("DC-01", transaction(record(origin_weight_kg="99")), "pass"),
        ("DC-01", transaction(record(origin_weight_kg="98.9999")), "fail"),
        ("DC-01", transaction(record(origin_weight_kg="101")), "pass"),
        ("DC-01", transaction(weight_kg="101.0102"), "fail"),
        ("DC-01", transaction(weight_kg="0"), "fail"),
        ("DC-01", transaction(weight_kg=None), "cannot_tell"),
        ("DC-01", transaction(record(origin_weight_kg=None)), "cannot_tell"),
        ("DC-01", transaction(weight_kg="5", records=[]), "pass"),
        ("DC-02", transaction(record(total_amount="950.01")), "pass"),
        ("DC-02", transaction(record(total_amount="950.0101")), "fail"),
        ("DC-02", transaction(record(), record(2, total_amount="1")), "fail"),
        ("DC-02", transaction(record(origin_price_per_unit=None)), "cannot_tell"),
        ("DC-02", transaction(record(origin_price_per_unit=None), record(2, total_amount="1")), "fail"),
        ("DC-03", transaction(total_amount="951"), "pass"),
        ("DC-03", transaction(total_amount="951.01"), "fail"),
        ("DC-03", transaction(total_amount=None), "cannot_tell"),
        ("DC-03", transaction(total_amount="5", records=[]), "pass"),
        ("DC-04", transaction(record(material=None)), "fail"),
        ("DC-05", transaction(records=[]), "fail"),
        ("DC-06", transaction(record(origin_quantity="0")), "fail"),
        ("DC-06", transaction(record(origin_weight_kg="-1")), "fail"),
        ("DC-06", transaction(record(origin_weight_kg="0.0001")), "pass"),
        ("DC-07", transaction(transaction_date="2569-11-03T02:00:00Z"), "fail"),
        ("DC-07", transaction(transaction_date="2014-12-31T23:59:59Z"), "fail"),
        ("DC-07", transaction(transaction_date="2015-01-01T00:00:00Z"), "pass"),
        ("DC-07", transaction(transaction_date=None), "fail"),
        ("DC-08", transaction(arrival_date="2026-11-03T01:59:59Z"), "fail"),
        ("DC-08", transaction(arrival_date="2026-11-03T02:00:00Z"), "pass"),
        ("DC-08", transaction(arrival_date="2026-11-03T01:59:59Z", transaction_date=None), "cannot_tell"),
        ("DC-09", transaction(arrival_date="2026-11-06T02:00:00Z"), "pass"),
        ("DC-09", transaction(arrival_date="2026-11-06T02:00:01Z"), "fail"),
        ("DC-09", transaction(arrival_date="2026-11-06T02:00:01Z", transaction_date=None), "cannot_tell"),
        ("DC-10", transaction(record(hazardous_level=1)), "fail"),
        ("DC-10", transaction(record(hazardous_level=1), hazardous_level=1), "pass"),
        ("DC-10", transaction(record(hazardous_level=None)), "cannot_tell"),
        ("DC-10", transaction(record(hazardous_level=None), record(2, hazardous_level=1)), "fail"),
        ("DC-10", transaction(hazardous_level=None), "cannot_tell"),
        ("DC-11", transaction(record(hazardous_level=3)), "fail"),
        ("DC-11", transaction(record(hazardous_level=2)), "pass"),
        ("DC-11", transaction(record(hazardous_level=5, disposal_method="secure_landfill")), "pass"),
        ("DC-11", transaction(record(hazardous_level=3, disposal_method=None)), "cannot_tell"),
        ("DC-11", transaction(record(hazardous_level=None, disposal_method="landfill")), "cannot_tell"),
        ("DC-11", transaction(record(hazardous_level=None, disposal_method="licensed_recycler")), "pass"),
        ("DC-12", transaction(weight_kg="1000"), "pass"),
        ("DC-12", transaction(weight_kg="1000.001"), "fail"),
        ("DC-12", transaction(weight_kg="1000.001", images_not_shown=1), "cannot_tell"),
        ("DC-12", transaction(record(images_not_shown=2), weight_kg="1000.001"), "cannot_tell"),
        ("DC-12", transaction(weight_kg=None), "cannot_tell"),
        ("DC-13", transaction(record(), record(2)), "fail"),
        ("DC-13", transaction(record(), record(2, origin_quantity="100.0")), "fail"),
        ("DC-13", transaction(record(), record(2, origin_price_per_unit="9.6")), "pass"),
        ("DC-13", transaction(record(material=None), record(2, material=None)), "pass"),
        ("DC-14", transaction(record(origin_price_per_unit="400")), "pass"),
        ("DC-14", transaction(record(origin_price_per_unit="400.01")), "fail"),
        ("DC-15", transaction(record(origin_weight_kg="100.01")), "pass"),
        ("DC-15", transaction(record(origin_weight_kg="100.02")), "fail"),
        ("DC-15", transaction(record(unit="กก.", origin_weight_kg="90")), "fail"),
        ("DC-15", transaction(record(unit="litre", origin_weight_kg="90")), "pass"),
        ("DC-15", transaction(record(unit=None, origin_weight_kg="90")), "cannot_tell"),
        ("DC-16", transaction(record(disposal_method="landfill")), "fail"),
        ("DC-16", transaction(record(disposal_method="landfill", material_code="GW-GEN")), "pass"),
        ("DC-16", transaction(record(disposal_method="landfill", material_code=None)), "cannot_tell"),
        ("DC-17", transaction(transaction_method="transport"), "cannot_tell"),
        ("DC-17", transaction(transaction_method="transport", vehicle_info={"license_plate": "1กก 1"}), "pass"),
        ("DC-17", transaction(transaction_method="transport", vehicle_info={"type": "truck"}), "fail"),
        ("DC-17", transaction(transaction_method="transport", vehicle_info=None), "fail"),
        ("HT-01", transaction(record(material_code="FW-ORG", origin_weight_kg="300")), "pass"),
        ("HT-01", transaction(record(material_code="FW-ORG", origin_weight_kg="300.1")), "fail"),
        ("HT-01", transaction(record(material_code=None)), "cannot_tell"),
        (
            "HT-01",
            transaction(record(material_code=None), record(2, material_code="FW-ORG", origin_weight_kg="301")),
            "fail",
        ),
        ("EL-01", transaction(record(hazardous_level=3, notes="ใบกำกับ MF-261103")), "pass"),
        ("EL-01", transaction(record(hazardous_level=3, notes="MF-2611031")), "fail"),
        ("EL-01", transaction(record(hazardous_level=3)), "fail"),
        ("EL-01", transaction(record(hazardous_level=2)), "pass"),
        ("EL-01", transaction(record(hazardous_level=None)), "cannot_tell"),
    ],
)
def test_a_rule_breaks_exactly_at_its_border(rule_id: str, sent: dict[str, Any], expected: str) -> None:
    assert outcome(rule_id, sent) == expected


def test_a_rule_that_is_not_known_cannot_be_told() -> None:
    assert outcome("XX-01", transaction()) == "cannot_tell"


def test_products_are_compared_with_all_their_digits() -> None:
    sent = record(
        origin_quantity="99999999999.9999",
        origin_price_per_unit="99999999999.9999",
        total_amount="9999999999999980000000.01000001",  # 0.01 more than the product
    )
    assert outcome("DC-02", transaction(sent)) == "pass"


def test_findings_are_told_for_what_does_not_pass_and_only_for_that() -> None:
    told = answer(transaction(weight_kg=None, total_amount="1"), ["DC-01", "DC-02", "DC-03"])
    assert told["transaction_id"] == "7"
    assert told["rules"] == {"DC-01": "cannot_tell", "DC-02": "pass", "DC-03": "fail"}
    assert [finding["rule_id"] for finding in told["findings"]] == ["DC-01", "DC-03"]


# -- whatever is sent ------------------------------------------------------------------------------------------------

numbers = st.none() | st.decimals(0, 5000, places=2).map(lambda value: format(value, "f"))
levels = st.none() | st.integers(0, 5)
words = st.none() | st.sampled_from(
    ["kg", "landfill", "recycle", "secure_landfill", "transport", "MF-123456", "FW-1", ""]
)
moments = st.none() | st.datetimes().map(lambda value: f"{value.isoformat()}Z")
records = st.fixed_dictionaries(
    {
        **dict.fromkeys(("material", "material_code", "unit", "treatment_method", "disposal_method", "notes"), words),
        **dict.fromkeys(("origin_quantity", "origin_weight_kg", "origin_price_per_unit", "total_amount"), numbers),
        "hazardous_level": levels,
        "images_not_shown": st.integers(0, 3),
    }
)
transactions = st.fixed_dictionaries(
    {
        **dict.fromkeys(("transaction_method", "treatment_method", "disposal_method", "notes"), words),
        **dict.fromkeys(("weight_kg", "total_amount"), numbers),
        **dict.fromkeys(("transaction_date", "arrival_date"), moments),
        "hazardous_level": levels,
        "images_not_shown": st.integers(0, 3),
        "records": st.lists(records, max_size=4).map(
            lambda rows: [{"record_id": index, **row} for index, row in enumerate(rows, 1)]
        ),
    },
    optional={"vehicle_info": st.none() | st.dictionaries(st.sampled_from(["license_plate", "type"]), words)},
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.from_regex(r"\d{1,50}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(transactions)
def test_what_fails_quotes_what_was_sent(sent: dict[str, Any]) -> None:
    told = Sent(sent)
    for id_, one in judge(sent, RULES).items():
        assert bool(one.reason) == (one.outcome != "pass"), id_
        assert one.outcome != "fail" or one.evidence, id_
        assert all(told.holds(piece["record_id"], piece["field"], piece["value"]) for piece in one.evidence), id_


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(transaction())), anything),
    st.lists(st.dictionaries(st.sampled_from(sorted(record())), anything)),
)
def test_input_of_any_shape_gets_an_outcome(broken: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    for sent in ({**transaction(), **broken}, {**transaction(), "records": rows}):
        assert all(isinstance(one, Judgement) for one in judge(sent, RULES).values())
