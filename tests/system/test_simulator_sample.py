"""The bundled sample through the whole program, with the simulator in OpenAI's place."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, Programs, Simulator

SAMPLES = ROOT / "samples"
EXPECTED: dict[str, dict[str, Any]] = json.loads((SAMPLES / "expected.json").read_text(encoding="utf-8"))


def statuses(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        return {str(id_): status for id_, status in connection.execute("SELECT id, ai_audit_status FROM transactions")}


@pytest.fixture
def imported(programs: Programs, simulator: Simulator, tmp_path: Path) -> Path:
    """An embedded database with the sample in it, which the program works on."""
    path = tmp_path / "sample.db"
    programs.environ |= {"DATABASE_URL": f"sqlite:///{path}", **simulator.environ}
    assert programs.run("init-db").exit_code == 0
    assert programs.run("import", str(SAMPLES / "sample.json")).exit_code == 0
    return path


def test_the_sample_ends_as_was_reasoned(programs: Programs, simulator: Simulator, imported: Path) -> None:
    for organization in ("1", "2", "3"):
        assert programs.run("enqueue", "--organization", organization).exit_code == 0
    done = programs.run("process-queue", "--json", timeout=120)
    assert done.exit_code == 0
    counts = Counter(one["status"] for one in EXPECTED.values())
    told = done.json()
    assert {name: told["transactions"][name] for name in ("approved", "rejected", "undecided", "failed")} == {
        "approved": counts["approved"],
        "rejected": counts["rejected"],
        "undecided": counts["no_action"],
        "failed": 0,
    }
    assert statuses(imported) == {id_: one["status"] for id_, one in EXPECTED.items()}
    assert sorted(call["transaction_id"] for call in simulator.calls()) == sorted(EXPECTED)


def test_the_sample_in_csv_can_be_imported_beside_it(programs: Programs, imported: Path) -> None:
    files = [str(SAMPLES / "csv" / name) for name in ("transactions.csv", "transaction_records.csv")]
    done = programs.run("import", "--json", *files)
    assert done.exit_code == 0
    told = done.json()["imported"]
    assert (told["transactions"], told["transaction_records"]) == (3, 4)
    assert len(statuses(imported)) == len(EXPECTED) + 3
