"""`import` into embedded databases of both kinds: all or nothing, exact, repeatable, and never into a platform's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, func, insert, select, text, update

from gepp_audit.database import platform_tables as tables
from gepp_audit.database.engine import Database, open_database
from gepp_audit.database.migrate import initialize
from gepp_audit.errors import OperatorError
from gepp_audit.queue.importing import Imported, import_files

Write = Callable[[Any], Path]


@pytest.fixture(params=["sqlite", "postgresql"])
def embedded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An embedded database with nothing in it."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/embedded.db" if sqlite else request.getfixturevalue("empty_postgresql_url")
    initialize(url)
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a JSON document and returns its path; each call writes the same file."""

    def to_file(document: Any) -> Path:
        path = tmp_path / "import.json"
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
        return path

    return to_file


def document(**more: Any) -> dict[str, Any]:
    """One organization with one transaction of two records, and what `more` adds or replaces."""
    return {
        "organizations": [{"id": 1, "name": "บริษัท ก", "allow_ai_audit": True}],
        "main_materials": [{"id": 5, "name_en": "Plastic", "name_th": "พลาสติก"}],
        "audit_rules": [
            {
                "id": 1,
                "rule_id": "DC-01",
                "rule_type": "accuracy",
                "rule_name": "น้ำหนัก",
                "is_global": True,
                "actions": [{"type": "system_action", "action": "reject"}],
            }
        ],
        "transactions": [transaction(10)],
        **more,
    }


def transaction(id_: int, **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "organization_id": 1,
        "weight_kg": "6.250",
        "notes": "ทดสอบ",
        "vehicle_info": {"plate": "กข 1", "axles": [2, 2.5]},
        "transaction_date": "2026-01-31T07:00:00+07:00",
        "records": [record(id_ * 10), record(id_ * 10 + 1, origin_weight_kg="0.1000")],
        **more,
    }


def record(id_: int, **more: Any) -> dict[str, Any]:
    return {"id": id_, "main_material_id": 5, "unit": "kg", **more}


def do(database: Database, *paths: Path) -> Imported:
    return import_files(database, paths)


def refused(database: Database, *paths: Path) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        import_files(database, paths)
    return caught.value


def count(database: Database, table: Table) -> int:
    return database.read(lambda connection: connection.execute(select(func.count()).select_from(table)).scalar_one())


def row(database: Database, table: Table, id_: int) -> Any:
    return database.read(lambda connection: connection.execute(select(table).where(table.c.id == id_)).one_or_none())


def change(database: Database, statement: Any) -> None:
    database.write(lambda connection: connection.execute(statement) and None)


# -- what is written -------------------------------------------------------------------------------------------------


def test_a_document_is_written_exactly(embedded: Database, write: Write) -> None:
    done = do(embedded, write(document()))
    assert done.as_json() == {
        "imported": {
            "organizations": 1,
            "main_materials": 1,
            "audit_rules": 1,
            "transactions": 1,
            "transaction_records": 2,
        },
        "kept": {"transactions": 0},
    }
    found = row(embedded, tables.transactions, 10)
    assert (found.weight_kg, found.notes, found.vehicle_info) == (
        Decimal("6.250"),
        "ทดสอบ",
        {"plate": "กข 1", "axles": [2, 2.5]},
    )
    assert (found.transaction_date.isoformat(), found.ai_audit_status) == ("2026-01-31T00:00:00+00:00", "null")
    assert (found.vehicle_info, found.driver_info, found.total_amount) == (found.vehicle_info, None, None)
    assert row(embedded, tables.transaction_records, 101).origin_weight_kg == Decimal("0.1")
    assert row(embedded, tables.audit_rules, 1).actions == [{"type": "system_action", "action": "reject"}]


def test_the_order_of_lists_and_files_does_not_matter(embedded: Database, tmp_path: Path) -> None:
    parts = document()
    for name in ("transactions", "audit_rules", "main_materials", "organizations"):
        (tmp_path / f"{name}.json").write_text(json.dumps({name: parts[name]}), encoding="utf-8")
    done = do(
        embedded,
        tmp_path / "transactions.json",
        *(tmp_path / f"{name}.json" for name in parts if name != "transactions"),
    )
    assert sum(done.imported.values()) == 6


def test_csv_and_json_lines_give_the_same_rows(embedded: Database, tmp_path: Path) -> None:
    (tmp_path / "organizations.csv").write_text("id,name\n1,บริษัท\n", encoding="utf-8-sig")
    (tmp_path / "transactions.csv").write_text(
        'id,organization_id,weight_kg,notes\n10,1,6.25,"a\nb"\n', encoding="utf-8"
    )
    (tmp_path / "records.jsonl").write_text(
        '{"type": "record", "id": 100, "created_transaction_id": 10, "main_material_id": 9, "total_amount": 1.10}\n'
    )
    do(embedded, *(tmp_path / name for name in ("records.jsonl", "transactions.csv", "organizations.csv")))
    found = row(embedded, tables.transactions, 10)
    assert (found.weight_kg, found.notes) == (Decimal("6.25"), "a\nb")
    assert row(embedded, tables.transaction_records, 100).total_amount == Decimal("1.10")


def test_more_rows_than_one_statement_takes_are_written(embedded: Database, write: Write) -> None:
    done = do(embedded, write(document(transactions=[transaction(id_) for id_ in range(1, 1202)])))
    assert (done.imported["transactions"], done.imported["transaction_records"]) == (1201, 2402)
    assert count(embedded, tables.transaction_records) == 2402


# -- again -----------------------------------------------------------------------------------------------------------


def test_the_same_import_again_changes_nothing(embedded: Database, write: Write) -> None:
    path = write(document())
    first = do(embedded, path)
    before = row(embedded, tables.transactions, 10)
    assert do(embedded, path) == first
    assert row(embedded, tables.transactions, 10) == before
    assert count(embedded, tables.transaction_records) == 2


def test_an_id_that_is_there_is_replaced_and_absent_fields_go_back_to_their_defaults(
    embedded: Database, write: Write
) -> None:
    do(embedded, write(document()))
    do(embedded, write({"transactions": [{"id": 10, "organization_id": 1, "weight_kg": 7}]}))
    found = row(embedded, tables.transactions, 10)
    assert (found.weight_kg, found.notes, found.vehicle_info) == (Decimal(7), None, None)
    assert count(embedded, tables.transaction_records) == 2


def test_a_transaction_gets_exactly_the_records_that_its_file_lists(embedded: Database, write: Write) -> None:
    do(embedded, write(document()))
    do(embedded, write({"transactions": [transaction(10, records=[record(101), record(102)])]}))
    present = [row(embedded, tables.transaction_records, id_) is not None for id_ in (100, 101, 102)]
    assert present == [False, True, True]


@pytest.mark.parametrize(
    "touch", [{"ai_audit_status": "queued"}, {"ai_audit_status": "approved"}, {"is_user_audit": True}]
)
def test_a_transaction_that_was_touched_is_kept_with_its_records(
    touch: dict[str, Any], embedded: Database, write: Write, tmp_path: Path
) -> None:
    do(embedded, write(document()))
    change(embedded, update(tables.transactions).values(**touch))
    loose = tmp_path / "records.csv"
    loose.write_text("id,created_transaction_id,main_material_id,unit\n100,10,5,g\n")
    done = do(embedded, write({"transactions": [transaction(10, notes="new", records=[])]}), loose)
    assert (done.imported["transactions"], done.imported["transaction_records"], done.kept) == (0, 0, 1)
    assert row(embedded, tables.transactions, 10).notes == "ทดสอบ"
    assert row(embedded, tables.transaction_records, 100).unit == "kg"


# -- refusals --------------------------------------------------------------------------------------------------------


def test_one_wrong_row_keeps_everything_out(embedded: Database, write: Write) -> None:
    wrong = document(transactions=[transaction(10), transaction(11, weight_kg="-1"), transaction(12, notes=7)])
    told = refused(embedded, write(wrong))
    assert (told.code, told.exit_code) == ("import_rows", 1)
    assert told.message.startswith("2 fields cannot be imported, so nothing was:\n")
    assert "transaction 11: weight_kg: must not be negative" in told.message
    assert [count(embedded, table) for table in (tables.organizations, tables.transactions)] == [0, 0]


def test_all_wrong_rows_are_counted_and_fifty_are_shown(embedded: Database, write: Write) -> None:
    told = refused(embedded, write(document(transactions=[transaction(id_, weight_kg="x") for id_ in range(1, 121)])))
    lines = told.message.splitlines()
    assert (lines[0], len(lines), lines[-1]) == (
        "120 fields cannot be imported, so nothing was:",
        52,
        "  and 70 more",
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"transactions": [transaction(10), transaction(10, records=[])]}, "transaction 10: id: stands in "),
        ({"transactions": [transaction(10), transaction(11, records=[record(100)])]}, "record 100: id: stands in "),
        ({"transactions": [transaction(10, organization_id=9)]}, "organization_id: there is no organization 9"),
        (
            {
                "audit_rules": [
                    {"id": n, "rule_id": "A", "rule_type": "accuracy", "rule_name": "r", "is_global": True}
                    for n in (1, 2)
                ]
            },
            "rule 2: rule_id: A is the name of rule 1 already",
        ),
    ],
)
def test_rows_that_contradict_each_other_are_named(
    more: dict[str, Any], message: str, embedded: Database, write: Write
) -> None:
    assert message in refused(embedded, write(document(**more))).message


def test_a_loose_record_needs_its_transaction(embedded: Database, write: Write, tmp_path: Path) -> None:
    do(embedded, write(document()))
    loose = tmp_path / "records.csv"
    loose.write_text("id,created_transaction_id,main_material_id\n200,10,5\n201,77,5\n")
    assert (
        f"{loose} line 3: record 201: created_transaction_id: there is no transaction 77"
        in refused(embedded, loose).message
    )
    loose.write_text("id,created_transaction_id,main_material_id\n200,10,5\n")
    assert do(embedded, loose).imported["transaction_records"] == 1


def test_a_record_does_not_move_to_another_transaction(embedded: Database, write: Write) -> None:
    do(embedded, write(document(transactions=[transaction(10), transaction(11)])))
    told = refused(embedded, write({"transactions": [transaction(11, notes="new", records=[record(100)])]}))
    assert "record 100: id: is a record of transaction 10 already" in told.message
    assert row(embedded, tables.transactions, 11).notes == "ทดสอบ"


def test_a_rules_name_that_is_taken_in_the_database_is_refused(embedded: Database, write: Write) -> None:
    do(embedded, write(document()))
    other = document()["audit_rules"][0] | {"id": 2}
    assert "rule 2: rule_id: DC-01 is the name of rule 1" in refused(embedded, write({"audit_rules": [other]})).message


def test_a_file_that_is_not_there_is_wrong_usage(embedded: Database, tmp_path: Path) -> None:
    told = refused(embedded, tmp_path / "missing.json")
    assert (told.code, told.exit_code) == ("import_file", 2)


def test_a_platforms_database_is_never_written_to(embedded: Database, write: Write) -> None:
    change(embedded, text("DROP TABLE gepp_audit_embedded"))
    change(embedded, insert(tables.organizations).values(id=7, name="theirs"))
    assert refused(embedded, write(document())).code == "not_embedded"
    assert count(embedded, tables.organizations) == 1
