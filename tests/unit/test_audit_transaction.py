"""What is sent of a transaction, and what its digest notices."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.audit.transaction import EXTRA_FIELDS, input_digest, plain_decimal, to_payload
from gepp_audit.model import Record, Transaction

NOTHING_EXTRA: frozenset[str] = frozenset()


def record(id_: int = 12, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "status": None,
        "transaction_type": "manual_input",
        "main_material": "PET",
        "main_material_code": "PL-01",
        "unit": "kg",
        "origin_quantity": Decimal("6.2500"),
        "origin_weight_kg": Decimal("6.2500"),
        "origin_price_per_unit": Decimal("1.0000"),
        "total_amount": Decimal("6.2500"),
        "hazardous_level": None,
        "treatment_method": None,
        "disposal_method": None,
        "notes": None,
        "image_count": 0,
    }
    return Record(id=id_, **(values | changes))


def transaction(**changes: Any) -> Transaction:
    values: dict[str, Any] = {
        "id": 123,
        "organization_id": 7,
        "status": "pending",
        "transaction_method": "origin",
        "weight_kg": Decimal("6.250"),
        "total_amount": None,
        "transaction_date": datetime(2026, 11, 3, 4, 5, tzinfo=UTC),
        "arrival_date": None,
        "hazardous_level": 0,
        "treatment_method": None,
        "disposal_method": None,
        "notes": "เช้า",
        "image_count": 2,
        "records": (record(12), record(13)),
    }
    return Transaction(**(values | changes))


def test_the_payload_is_the_closed_list_of_fields_in_its_order() -> None:
    payload = to_payload(transaction(records=(record(),)), NOTHING_EXTRA)

    assert payload == {
        "transaction_id": "123",
        "transaction_method": "origin",
        "weight_kg": "6.25",
        "total_amount": None,
        "transaction_date": "2026-11-03T04:05:00Z",
        "arrival_date": None,
        "hazardous_level": 0,
        "treatment_method": None,
        "disposal_method": None,
        "notes": "เช้า",
        "images_not_shown": 2,
        "records": [
            {
                "record_id": 12,
                "status": None,
                "transaction_type": "manual_input",
                "material": "PET",
                "material_code": "PL-01",
                "unit": "kg",
                "origin_quantity": "6.25",
                "origin_weight_kg": "6.25",
                "origin_price_per_unit": "1",
                "total_amount": "6.25",
                "hazardous_level": None,
                "treatment_method": None,
                "disposal_method": None,
                "notes": None,
                "images_not_shown": 0,
            }
        ],
    }
    assert list(payload)[-1] == "records"


def test_extra_fields_are_sent_only_where_they_are_named() -> None:
    whole = transaction(vehicle_info={"plate": "กข 1234"}, driver_info={"name": "x"})

    payload = to_payload(whole, frozenset({"vehicle_info"}))

    assert payload["vehicle_info"] == {"plate": "กข 1234"}
    assert set(payload) & set(EXTRA_FIELDS) == {"vehicle_info"}


def test_no_setting_widens_the_list_of_fields() -> None:
    payload = to_payload(transaction(), frozenset({"organization_id", "id", "records"}))

    assert payload == to_payload(transaction(), NOTHING_EXTRA)


def test_a_moment_is_sent_in_utc_whatever_zone_it_came_in() -> None:
    bangkok = datetime(2026, 11, 3, 11, 5, 0, 250_000, tzinfo=timezone(timedelta(hours=7)))

    assert to_payload(transaction(arrival_date=bangkok), NOTHING_EXTRA)["arrival_date"] == "2026-11-03T04:05:00.250000Z"


def test_a_naive_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        to_payload(transaction(arrival_date=datetime(2026, 11, 3)), NOTHING_EXTRA)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("6.250", "6.25"),
        ("1500.000", "1500"),
        ("1.5E+3", "1500"),
        ("0.000", "0"),
        ("-0.00", "0"),
        ("1E-7", "0.0000001"),
        ("100", "100"),
        ("-2.50", "-2.5"),
    ],
)
def test_a_decimal_is_sent_plainly(value: str, sent: str) -> None:
    assert plain_decimal(Decimal(value)) == sent


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**15), max_value=10**15))
def test_a_decimal_is_sent_exactly(value: Decimal) -> None:
    sent = plain_decimal(value)

    assert sent is not None
    assert Decimal(sent) == value
    assert "E" not in sent.upper()
    assert "." not in sent or not sent.endswith("0")


def test_a_missing_value_is_null_and_not_zero() -> None:
    missing = to_payload(transaction(weight_kg=None), NOTHING_EXTRA)["weight_kg"]
    zero = to_payload(transaction(weight_kg=Decimal(0)), NOTHING_EXTRA)["weight_kg"]

    assert (missing, zero) == (None, "0")


def deeply_nested(levels: int) -> Any:
    value: Any = "core"
    for _ in range(levels):
        value = [value]
    return value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800") | st.just("a\x00b"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_any_free_form_json_can_be_sent_and_digested(value: Any) -> None:
    whole = transaction(vehicle_info=value)

    sent = json.dumps(to_payload(whole, frozenset({"vehicle_info"})), ensure_ascii=False, allow_nan=False)

    assert json.loads(sent.encode())
    assert len(input_digest(whole)) == 64


def test_free_form_json_without_end_is_cut_instead_of_followed() -> None:
    whole = transaction(vehicle_info=deeply_nested(50_000))

    assert "nested too deeply" in json.dumps(to_payload(whole, frozenset({"vehicle_info"})))
    assert len(input_digest(whole)) == 64


def test_the_digest_is_the_same_for_equal_numbers_and_any_order_of_records() -> None:
    other = transaction(weight_kg=Decimal("6.25"), records=(record(13), record(12, origin_quantity=Decimal("6.25"))))

    assert input_digest(other) == input_digest(transaction())


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if value is None:
        return "1"
    if isinstance(value, datetime):
        return value + timedelta(seconds=1)
    return value + "x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Record)])
def test_the_digest_notices_an_edit_of_any_field_of_a_record(name: str) -> None:
    before = record()
    value = changed(getattr(before, name))
    if name.startswith(("origin_", "total_")):
        value = Decimal("0.0001")
    after = dataclasses.replace(before, **{name: value})

    assert input_digest(transaction(records=(after,))) != input_digest(transaction(records=(before,)))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Transaction) if field.name != "records"])
def test_the_digest_notices_an_edit_of_any_field_of_a_transaction(name: str) -> None:
    before = transaction()
    value: Any = changed(getattr(before, name))
    if name == "total_amount":
        value = Decimal(0)
    if name == "arrival_date":
        value = datetime(2026, 1, 1, tzinfo=UTC)

    assert input_digest(dataclasses.replace(before, **{name: value})) != input_digest(before)


def test_the_digest_notices_a_record_that_came_or_went() -> None:
    assert input_digest(transaction(records=(record(12),))) != input_digest(transaction())
