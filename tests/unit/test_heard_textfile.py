"""The metrics file: what stands in it after a run, and after what may happen to it."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.heard import textfile
from gepp_audit.heard.textfile import METRICS, Ended, write
from gepp_audit.queue.summary import Outcome, Summary

SAMPLE = re.compile(r'gepp_audit_[a-z_]+(\{[a-z]+="[a-z_]+"\})? [0-9]+(\.[0-9]+)?')


def ended(outcome: str = "processed", exit_code: int = 0, at: float = 1_800_000_000.0, **counts: Any) -> Ended:
    summary = Summary(run_id="r", **counts).as_json() if outcome != "failed" else {}
    return Ended(outcome=outcome, exit_code=exit_code, seconds=1.5, at=at, summary=summary)


def samples(path: Path) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in (
            line.rsplit(" ", 1) for line in path.read_text().splitlines() if line and not line.startswith("#")
        )
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gepp_audit.prom"


def test_each_metric_has_its_help_its_type_and_its_samples_in_one_block(path: Path) -> None:
    assert write(path, ended(approved=2)) is None
    lines = path.read_text().splitlines()
    for metric in METRICS:
        start = lines.index(f"# HELP {metric.full_name} {metric.help}")
        block = lines[start + 1 : start + 2 + len(metric.values)]
        assert block[0] == f"# TYPE {metric.full_name} {metric.type}"
        assert all(SAMPLE.fullmatch(line) and line.startswith(metric.full_name) for line in block[1:])
    assert len(lines) == sum(2 + len(metric.values) for metric in METRICS)
    assert path.read_text().endswith("\n")


def test_a_run_stands_in_it_with_its_counts(path: Path) -> None:
    run = ended(
        approved=3, rejected=2, undecided=1, failed=1, calls=9, retries=2, input_tokens=100, output_tokens=20,
        cached_tokens=60, batches_completed=1, failed_batches=[7], batches_in_progress=4, exit_code=3,
    )  # fmt: skip
    write(path, run)
    found = samples(path)
    assert found['gepp_audit_transactions_total{result="approved"}'] == 3
    assert found['gepp_audit_batches_total{result="failed"}'] == 1
    assert found['gepp_audit_tokens_total{kind="cached_input"}'] == 60
    assert found["gepp_audit_calls_total"] == 9
    assert found["gepp_audit_batches_in_progress"] == 4
    assert found["gepp_audit_last_run_exit_code"] == 3
    assert found["gepp_audit_last_run_timestamp_seconds"] == 1_800_000_000
    assert found["gepp_audit_last_run_duration_seconds"] == 1.5
    assert found["gepp_audit_last_success_timestamp_seconds"] == 0


def test_counters_grow_over_runs_and_gauges_tell_of_the_last_one(path: Path) -> None:
    write(path, ended(approved=3, calls=3, batches_in_progress=1))
    write(path, ended(approved=4, calls=5, at=1_800_000_060.0))
    write(path, ended("idle", at=1_800_000_120.0))
    found = samples(path)
    assert found['gepp_audit_transactions_total{result="approved"}'] == 7
    assert found["gepp_audit_calls_total"] == 8
    assert [found[f'gepp_audit_runs_total{{outcome="{one}"}}'] for one in ("processed", "idle", "failed")] == [2, 1, 0]
    assert found["gepp_audit_batches_in_progress"] == 0
    assert found["gepp_audit_last_success_timestamp_seconds"] == 1_800_000_120


def test_a_run_that_failed_keeps_the_time_of_the_last_success(path: Path) -> None:
    write(path, ended("idle"))
    write(path, ended("failed", exit_code=1, at=1_800_000_060.0))
    found = samples(path)
    assert found["gepp_audit_last_success_timestamp_seconds"] == 1_800_000_000
    assert found["gepp_audit_last_run_timestamp_seconds"] == 1_800_000_060
    assert found['gepp_audit_runs_total{outcome="failed"}'] == 1


def test_a_run_that_another_one_kept_away_says_nothing_of_the_batches(path: Path) -> None:
    write(path, ended(batches_in_progress=4))
    write(path, ended("busy"))
    assert samples(path)["gepp_audit_batches_in_progress"] == 4


def test_an_unknown_cost_is_counted_and_not_taken_for_nothing(path: Path) -> None:
    write(path, ended(cost=None, calls=1))
    found = samples(path)
    assert (found["gepp_audit_runs_with_unknown_cost_total"], found["gepp_audit_cost_usd_total"]) == (1, 0)


def test_it_knows_each_outcome_and_each_result_of_a_run() -> None:
    by_name = {metric.name: set(metric.values) for metric in METRICS}
    assert by_name["runs_total"] == {outcome.value for outcome in Outcome}
    assert by_name["transactions_total"] == set(Summary(run_id="r").as_json()["transactions"])


@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_whatever_stands_in_the_file_the_next_run_replaces_it(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "x.prom"
    path.write_bytes(content)
    assert write(path, ended(calls=2)) is None
    assert samples(path)["gepp_audit_calls_total"] == 2


def test_runs_at_the_same_time_lose_no_count(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.unit.test_heard_textfile import ended, write\n"
        "for _ in range(25): assert write(Path(sys.argv[1]), ended(calls=1)) is None"
    )
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: subprocess.run([sys.executable, "-c", script, str(path)], check=True), range(4)))
    assert samples(path)["gepp_audit_calls_total"] == 100
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_a_problem_and_no_error(tmp_path: Path) -> None:
    assert write(tmp_path / "missing" / "x.prom", ended()) == "No such file or directory"


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x.prom").mkdir()
    assert write(tmp_path / "x.prom", ended()) == "Is a directory"
    assert [one.name for one in tmp_path.iterdir()] == ["x.prom"]


def test_a_lock_that_is_never_given_back_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "_LOCK_WITHIN", 0.05)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert write(path, ended()) == "Resource temporarily unavailable"
    finally:
        os.close(handle)


def test_every_user_may_read_it(path: Path) -> None:
    before = os.umask(0o022)
    try:
        write(path, ended())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
