"""Reading and checking the files of an import: rows know their lines, wrong fields are named, nothing is guessed."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.queue.import_checking import KINDS, CheckedRow, check
from gepp_audit.queue.import_reading import Problem, RawRow, read_rows


def read(tmp_path: Path, text: str | bytes, name: str = "file.json") -> list[RawRow | Problem]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_rows(path))


def rows(tmp_path: Path, text: str, name: str = "file.json") -> list[RawRow]:
    found = read(tmp_path, text, name)
    assert [one for one in found if isinstance(one, Problem)] == []
    return [one for one in found if isinstance(one, RawRow)]


def problem(tmp_path: Path, text: str | bytes, name: str = "file.json") -> tuple[int, str]:
    (found,) = (one for one in read(tmp_path, text, name) if isinstance(one, Problem))
    return found.line, found.message


def checked(kind: str, **values: Any) -> CheckedRow | list[str]:
    """The row, or what is wrong with it, as "field: message"."""
    needed: dict[str, dict[str, Any]] = {
        "organizations": {"id": 1},
        "audit_rules": {"id": 1, "rule_id": "R", "rule_type": "accuracy", "rule_name": "r", "is_global": True},
        "transactions": {"id": 1, "organization_id": 1},
        "transaction_records": {"id": 1, "created_transaction_id": 1, "main_material_id": 1},
    }
    row, wrong = check(RawRow(kind=kind, file="f", line=1, values={**needed[kind], **values}))
    return [f"{one.subject.partition(': ')[2]}: {one.message}" for one in wrong] if row is None else row


def taken(kind: str, name: str, value: Any) -> Any:
    row = checked(kind, **{name: value})
    assert isinstance(row, CheckedRow), row
    return row.values[name]


# -- a JSON document -------------------------------------------------------------------------------------------------

DOCUMENT = """{
  "organizations": [{"id": 1, "name": "ก"}],
  "transactions": [
    {"id": 10,
     "weight_kg": 6.250, "notes": "a\\nb",
     "records": [
       {"id": 100},
       {"id": 101,
        "unit": "kg"}
     ]},
    {"id": 11}
  ]
}
"""


def test_rows_of_a_document_know_their_lines_and_those_of_their_fields(tmp_path: Path) -> None:
    organization, first, second = rows(tmp_path, DOCUMENT)
    assert (organization.kind, organization.line, organization.values["name"]) == ("organizations", 2, "ก")
    assert (first.line, first.line_of("weight_kg"), first.line_of("missing"), second.line) == (4, 5, 4, 11)
    assert [(one.line, one.line_of("unit")) for one in first.records or ()] == [(7, 7), (8, 9)]


def test_a_number_with_a_fraction_is_an_exact_decimal(tmp_path: Path) -> None:
    assert str(rows(tmp_path, DOCUMENT)[1].values["weight_kg"]) == "6.250"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "must be a JSON object with lists such as transactions"),
        ("[]", 1, "must be a JSON object with lists such as transactions"),
        ('{"transactions": [\n{"id": 1,}\n]}', 2, "is not JSON: expecting a name in double quotes"),
        ('{"transactions": [\n{"id": 1}\n{"id": 2}]}', 3, "is not JSON: expecting a comma or ]"),
        ('{"transactions": [\n{"id": NaN}]}', 2, "is not JSON: a number or a nesting is too large"),
        ('{"transactions": [\n{"id": 1, "id": 2}]}', 2, "is not JSON: id stands there twice"),
        ('{"transactions": [\n{"id": "a\nb"}]}', 2, "is not JSON: invalid control character at"),
        ('{"transactions": []}\n}', 2, "is not JSON: something follows the end"),
        ('{"transactions": [', 1, "is not JSON: expecting value"),
        ('{"transactions": {}}', 1, "must be a list"),
        ('{"transactions": [1]}', 1, "must hold objects"),
        ('{"transactionz": [{"id": [1]}]}', 1, "is none of the known lists"),
        ("\n\n\xff".encode("latin-1"), 3, "is not UTF-8 text"),
        ('{"transactions": [{"notes": ' + "[" * 100_000 + "]}", 1, "is not JSON: a number or a nesting is too large"),
        ('{"transactions": [{"id": ' + "9" * 5_000 + "}]}", 1, "is not JSON: a number or a nesting is too large"),
    ],
)
def test_a_broken_document_is_named_with_its_line(text: str | bytes, line: int, message: str, tmp_path: Path) -> None:
    told = problem(tmp_path, text)
    assert (told[0], told[1][: len(message)]) == (line, message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(
    items=st.lists(
        st.dictionaries(st.text(max_size=6).filter(lambda key: key != "records"), JSON, max_size=5), max_size=4
    ),
    indent=st.sampled_from([None, 0, 2]),
)
def test_whatever_json_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, items: list[Any], indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("import") / "x.json"
    path.write_text(json.dumps({"transactions": items}, indent=indent), encoding="utf-8")
    assert [dict(row.values) for row in read_rows(path) if isinstance(row, RawRow)] == items


@given(st.text(alphabet='{}[]":,\\ \n1eatrufnsl.-', max_size=40))
def test_no_text_at_all_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    for name in ("x.json", "x.jsonl", "transactions.csv"):
        path = tmp_path_factory.mktemp("import") / name
        path.write_text('{"transactions": [' + text, encoding="utf-8")
        for one in read_rows(path):
            assert isinstance(one, Problem | RawRow)


# -- JSON lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.json", "x"])
def test_json_lines_name_their_kind(name: str, tmp_path: Path) -> None:
    text = '{"type": "organization", "id": 1}\r\n\n{"type": "record", "id": 2}\n'
    assert [(row.kind, row.line, dict(row.values)) for row in rows(tmp_path, text, name)] == [
        ("organizations", 1, {"id": 1}),
        ("transaction_records", 3, {"id": 2}),
    ]


def test_each_broken_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, '{"id": 1}\n{"type": "rule", "id": 1\n[]\n{"type": "transaction", "id": 1}\n', "x.jsonl")
    assert [(one.line, type(one).__name__) for one in found] == [
        (1, "Problem"),
        (2, "Problem"),
        (3, "Problem"),
        (4, "RawRow"),
    ]


# -- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "heading", "kind"),
    [
        ("transactions.csv", "id,organization_id", "transactions"),
        ("Records.CSV", "id", "transaction_records"),
        ("export.csv", "id,rule_id,organization_id", "audit_rules"),
        ("export.csv", "id,organization_id,notes", "transactions"),
        ("export.csv", "id,created_transaction_id", "transaction_records"),
        ("export.csv", "id;name", "organizations"),
    ],
)
def test_the_kind_of_a_csv_file_follows_from_its_name_or_heading(
    name: str, heading: str, kind: str, tmp_path: Path
) -> None:
    separator = ";" if ";" in heading else ","
    cells = separator.join("1" for _ in heading.split(separator))
    assert [row.kind for row in rows(tmp_path, f"{heading}\n{cells}\n", name)] == [kind]


def test_rows_of_a_csv_file_know_their_lines_also_after_one_with_newlines(tmp_path: Path) -> None:
    text = '\ufeffid,organization_id,notes\r\n1,2,"a\nb"\r\n2,2,\r\n'
    first, second = rows(tmp_path, text, "transactions.csv")
    assert (first.line, first.values["notes"]) == (2, "a\nb")
    assert (second.line, dict(second.values)) == (4, {"id": "2", "organization_id": "2"})


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("id,id\n1,1\n", 1, "has a heading twice"),
        ("foo\n1\n", 1, "has a heading that fits no kind of row"),
        ("id,name\n1\n", 2, "has 1 cells where the heading has 2"),
        ('id,name\n1,"a\n', 2, "is not CSV"),
        ("", 1, "has a heading that fits no kind of row"),
    ],
)
def test_a_broken_csv_file_is_named_with_its_line(text: str, line: int, message: str, tmp_path: Path) -> None:
    told = problem(tmp_path, text, "export.csv")
    assert (told[0], told[1][: len(message)]) == (line, message)


def test_cells_are_read_as_their_column_wants_them(tmp_path: Path) -> None:
    text = 'id,organization_id,weight_kg,is_active,images,hazardous_level\n7,1,6.25,no,"[""a""]",3\n'
    row, wrong = check(rows(tmp_path, text, "transactions.csv")[0])
    assert wrong == []
    assert row is not None
    names = ("id", "weight_kg", "is_active", "images", "hazardous_level", "notes")
    assert [row.values[name] for name in names] == [7, Decimal("6.250"), False, ["a"], 3, None]


# -- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("id", None, "must not be null"),
        ("id", 0, "must be from 1"),
        ("id", True, "must be a whole number"),
        ("id", "1", "must be a whole number"),
        ("id", Decimal("1.5"), "must be a whole number"),
        ("id", 2**63, "must be from 1"),
        ("organization_id", None, "must not be null"),
        ("weight_kg", Decimal("-0.001"), "must not be negative"),
        ("weight_kg", Decimal("6.2501"), "must have at most 3 digits after the point"),
        ("weight_kg", Decimal("1e7"), "must have at most 7 digits before the point"),
        ("weight_kg", Decimal("1e400"), "must have at most 7 digits before the point"),
        ("weight_kg", "six", "must be a number"),
        ("weight_kg", "NaN", "must be a number"),
        ("hazardous_level", 6, "must be from 0 to 5"),
        ("transaction_date", "2026-01-31T12:00:00", "must name its time zone"),
        ("transaction_date", "31.1.2026", "must be a date and time"),
        ("transaction_date", "0001-01-01T00:00:00+14:00", "must be a date and time"),
        ("transaction_date", 5, "must be text such as"),
        ("status", "x" * 51, "must have at most 50 characters, has 51"),
        ("notes", "a\x00b", "holds a character that a database cannot keep"),
        ("notes", "\ud800", "holds a character that a database cannot keep"),
        ("notes", 5, "must be text"),
        ("ai_audit_status", "queued", "must not be queued"),
        ("ai_audit_status", "done", "must be one of null, queued, approved"),
        ("is_active", 1, "must be true or false"),
        ("is_user_audit", None, "must not be null"),
        ("images", {"a": 1}, "must be a list"),
        ("vehicle_info", {"a": ["\x00"]}, "holds a character that a database cannot keep"),
        ("vehicle_info", [Decimal("1e999")], "holds a number that is too large"),
        ("weigth_kg", 1, "is no field of this kind of row; weight_kg perhaps?"),
        ("records", 5, "must be a list of objects"),
    ],
)
def test_a_wrong_field_of_a_transaction_is_named(name: str, wrong: Any, message: str) -> None:
    told = checked("transactions", **{name: wrong})
    assert isinstance(told, list)
    assert [one[: len(name) + 2 + len(message)] for one in told] == [f"{name}: {message}"]


@pytest.mark.parametrize(
    ("kind", "wrong", "name"),
    [
        ("audit_rules", {"rule_type": "opinion"}, "rule_type"),
        ("audit_rules", {"is_global": False}, "is_global"),
        ("audit_rules", {"actions": ["reject"]}, "actions"),
        ("audit_rules", {"actions": [{"type": "system_action"}]}, "actions"),
        ("audit_rules", {"actions": {"type": "system_action", "action": "reject"}}, "actions"),
        ("transaction_records", {"origin_weight_kg": None}, "origin_weight_kg"),
        ("transaction_records", {"main_material_id": None}, "main_material_id"),
        ("organizations", {"name": "x" * 256}, "name"),
    ],
)
def test_a_wrong_field_of_another_row_is_named(kind: str, wrong: dict[str, Any], name: str) -> None:
    told = checked(kind, **wrong)
    assert isinstance(told, list)
    assert [one.partition(":")[0] for one in told] == [name]


def test_all_wrong_fields_of_a_row_are_named() -> None:
    told = checked("transactions", weight_kg=-1, hazardous_level=9, foo=1)
    assert isinstance(told, list)
    assert sorted(one.partition(":")[0] for one in told) == ["foo", "hazardous_level", "weight_kg"]


def test_an_absent_field_gets_the_columns_default() -> None:
    row = checked("transactions")
    assert isinstance(row, CheckedRow)
    names = ("status", "ai_audit_status", "transaction_method", "is_active", "reject_triggers", "weight_kg")
    assert [row.values[name] for name in names] == ["pending", "null", "origin", True, [], None]
    assert row.values.keys() == set(KINDS["transactions"].table.columns.keys())


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("weight_kg", "6.25", "6.250"),
        ("weight_kg", Decimal("6.2500"), "6.250"),
        ("weight_kg", 7, "7.000"),
        ("weight_kg", Decimal("9999999.999"), "9999999.999"),
        ("total_amount", Decimal("1e3"), "1000.00"),
        ("transaction_date", "2026-01-31 07:00:00+07", "2026-01-31 00:00:00+00:00"),
        ("transaction_date", "2026-01-31T00:00:00Z", "2026-01-31 00:00:00+00:00"),
        ("ai_audit_date", "2026-01-31T00:00:00", "2026-01-31 00:00:00+00:00"),
        ("ai_audit_status", None, "null"),
        ("origin_coordinates", {"lat": Decimal("13.75")}, "{'lat': 13.75}"),
    ],
)
def test_a_right_field_is_kept_exactly(name: str, value: Any, kept: str) -> None:
    assert str(taken("transactions", name, value)) == kept


@given(st.decimals(min_value=-(10**11) + 1, max_value=10**11 - 1, places=4))
def test_any_amount_that_fits_is_kept_to_the_last_digit(amount: Decimal) -> None:
    assert taken("transaction_records", "total_amount", str(amount)) == amount


def test_a_record_belongs_to_the_transaction_that_it_stands_in(tmp_path: Path) -> None:
    text = """{"transactions": [{"id": 5, "organization_id": 1, "records": [
        {"id": 1, "main_material_id": 1}, {"id": 2, "main_material_id": 1, "created_transaction_id": 6}]}]}"""
    row, wrong = check(rows(tmp_path, text)[0])
    assert row is None
    assert [str(one).partition("json ")[2] for one in wrong] == [
        "line 2: record 2: created_transaction_id: is not the transaction that it stands in"
    ]


def test_columns_of_the_platform_that_are_not_needed_are_left_out() -> None:
    row = checked("transactions", origin_id=5, transaction_records=[1])
    assert isinstance(row, CheckedRow)
    assert "origin_id" not in row.values


def test_unknown_fields_can_be_ignored() -> None:
    raw = RawRow(kind="organizations", file="f", line=1, values={"id": 1, "colour": "red"})
    assert (len(check(raw)[1]), check(raw, ignore_unknown=True)[1]) == (1, [])
