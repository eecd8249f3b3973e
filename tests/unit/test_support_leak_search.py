"""The search for leaked secrets: a run of pytest in which one is printed must fail, whoever printed it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.secrets import TEST_API_KEY, TEST_DB_PASSWORD, leaks

PLUGIN = 'pytest_plugins = ["tests.support.leak_search"]\n'
#: secrets are put together while the inner tests run, so that no source file or command line holds one
CLEAN = "def test_that_passes() -> None: print('nothing to see')\n"
PRINTED = "from tests.support.secrets import TEST_API_KEY as key\ndef test_that_prints() -> None: print(key)\n"
LOGGED = """
from tests.support.secrets import TEST_DB_PASSWORD as password
def test_that_logs(tmp_path) -> None: (tmp_path / "audit.log").write_text("said " + password)
"""
BY_A_PROCESS = """
from tests.support.outputs import new_output_file
from tests.support.secrets import TEST_API_KEY as key
def test_whose_process_tells() -> None: new_output_file("program", ".err").write_text("x" * 99 + key)
"""


def run(folder: Path, *files: str, workers: int = 0) -> subprocess.CompletedProcess[str]:
    """Run pytest over test files of this content."""
    (folder / "conftest.py").write_text(PLUGIN)
    for number, content in enumerate(files):
        (folder / f"test_{number}.py").write_text(content)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "/dev/null",
        f"--rootdir={folder}",
        "-p",
        "no:cacheprovider",
        "-rf",
        *(["-p", "xdist", f"-n{workers}"] if workers else []),
    ]
    # the plugins that happen to be installed have no part in it, and importing them is half of the time
    environ = {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*command, f"--basetemp={folder / 'base'}", str(folder)],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    # what the inner tests leaked on purpose must not fail the outer run
    shutil.rmtree(folder / "base", ignore_errors=True)
    return done


def test_a_run_without_a_leak_passes_and_leaves_no_folder(tmp_path: Path) -> None:
    done = run(tmp_path, CLEAN)
    assert (done.returncode, " 1 passed" in done.stdout) == (0, True)
    assert list(tmp_path.glob("gepp-test-output-*")) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("leaking", "what"), [(PRINTED, "API key"), (LOGGED, "database password"), (BY_A_PROCESS, "API key")]
)
def test_a_leak_is_one_more_failure_of_the_run(leaking: str, what: str, workers: int, tmp_path: Path) -> None:
    done = run(tmp_path, CLEAN, leaking, workers=workers)
    assert (done.returncode, " 1 failed, 2 passed" in done.stdout) == (1, True)
    assert f"the {what} stands in " in done.stdout
    assert TEST_API_KEY not in done.stdout
    assert TEST_DB_PASSWORD not in done.stdout


def test_a_secret_that_lies_across_two_chunks_is_found(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * ((1 << 20) - 5) + TEST_DB_PASSWORD.encode() + b"x" * 100)
    assert leaks([path]) == [f"the database password stands in {path}"]


def test_a_part_of_a_secret_is_no_leak(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_text(TEST_API_KEY[:-1] + " " + TEST_DB_PASSWORD[1:])
    assert leaks([path]) == []
