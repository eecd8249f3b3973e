"""`gepp-audit import` as a process: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = {
    "organizations": [{"id": 1, "name": "ก"}],
    "transactions": [{"id": 10, "organization_id": 1, "records": [{"id": 100, "main_material_id": 5}]}],
}


def run(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DATABASE_URL": f"sqlite:///{cwd}/embedded.db",
    }
    return subprocess.run(
        [sys.executable, "-m", "gepp_audit", *args],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an embedded database and a good document."""
    assert run(tmp_path, "init-db").returncode == 0
    (tmp_path / "good.json").write_text(json.dumps(DOCUMENT), encoding="utf-8")
    return tmp_path


def test_what_was_imported_is_told(folder: Path) -> None:
    done = run(folder, "import", "good.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Imported 1 organization, 0 materials, 0 rules, 1 transaction, 1 record.\n"


def test_json_counts_by_table(folder: Path) -> None:
    told = json.loads(run(folder, "import", "--json", "good.json").stdout)
    assert told == {
        "imported": {
            "organizations": 1,
            "main_materials": 0,
            "audit_rules": 0,
            "transactions": 1,
            "transaction_records": 1,
        },
        "kept": {"transactions": 0},
    }


def test_wrong_rows_are_named_on_stderr_and_in_json(folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"type": "organization", "id": 2}\n{"type": "transaction", "id": "x"}\n')
    done = run(folder, "import", "--json", "good.json", "bad.jsonl")
    line = "bad.jsonl line 2: transaction x: id: must be a whole number"
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], line in error["message"], line in done.stderr) == (
        1,
        "import_rows",
        True,
        True,
    )


def test_a_file_that_is_not_there_is_wrong_usage(folder: Path) -> None:
    done = run(folder, "import", "missing.json")
    assert (done.returncode, "cannot read missing.json" in done.stderr) == (2, True)


def test_without_tables_the_fix_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "import", "good.json")
    assert (done.returncode, "gepp-audit init-db" in done.stderr) == (1, True)


def test_a_platforms_database_is_refused(folder: Path) -> None:
    with sqlite3.connect(folder / "embedded.db") as connection:
        connection.execute("DROP TABLE gepp_audit_embedded")
    connection.close()
    done = run(folder, "import", "good.json")
    assert (done.returncode, "import never writes into such a one" in done.stderr) == (1, True)
