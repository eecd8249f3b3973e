"""`stuck` as a process: exit codes, the plugin's line, JSON, metrics, and what it asks before it changes something."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gepp_audit.database import limits, runs
from gepp_audit.database.migrate import initialize
from gepp_audit.model import ErrorCode, ItemState
from gepp_audit.queue import liveness
from tests.support import steps
from tests.support.platforms import Platform

ROOT = Path(__file__).parents[2]
#: how the command is called here, and so what it prints
CALLED = f"{sys.executable} -m gepp_audit"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """An embedded database of ours: what is tested here does not depend on the database."""
    url = f"sqlite:///{tmp_path / 'platform.db'}"
    initialize(url)
    platform = Platform(url, "embedded")
    platform.rule()
    yield platform
    platform.close()


@pytest.fixture
def batch(platform: Platform) -> int:
    """A batch that a run has taken up, with three transactions."""
    id_ = platform.batch(platform.organization(), platform.transactions(1, 3))
    steps.take_up(platform)
    return id_


def environ(platform: Platform) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "DATABASE_URL": platform.url}


def stuck(platform: Platform, *args: str) -> subprocess.CompletedProcess[str]:
    """The command as a monitor starts it."""
    return subprocess.run(
        [sys.executable, "-m", "gepp_audit", "stuck", *args],
        cwd=ROOT / "tests",
        env=environ(platform),
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        check=False,
    )


def stuck_at_a_terminal(platform: Platform, answer: str, *args: str) -> tuple[int, str]:
    """The command with a person at the keyboard; returns the exit code and what the screen shows."""
    leader, follower = pty.openpty()
    os.write(leader, f"{answer}\n".encode())
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gepp_audit", "stuck", *args],
            cwd=ROOT / "tests",
            env={**environ(platform), "TERM": "xterm"},
            stdin=follower,
            stderr=follower,
            stdout=subprocess.PIPE,
            check=False,
        )
        screen = os.read(leader, 100_000).decode()
    finally:
        os.close(follower)
        os.close(leader)
    return done.returncode, screen + done.stdout.decode()


def block(platform: Platform) -> None:
    platform.database.write(lambda connection: runs.tick(connection, liveness.identify("worker-1")))
    platform.database.write(lambda connection: limits.block(connection, ErrorCode.KEY_REJECTED, "status 401"))


# -- looking -----------------------------------------------------------------------------------------------------------


def test_nothing_stuck_is_ok_and_exit_0(platform: Platform) -> None:
    done = stuck(platform)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "OK - no batch is open for more than 1 h (0 batches open in all) | "
        "stuck=0;0;;0 oldest=0s;;;0 open=0;;;0 orphans=0;0;;0 rivals=0;0;;0 untaken=0;0;;0\n"
    )


def test_a_young_batch_is_not_stuck(platform: Platform, batch: int) -> None:
    assert stuck(platform).returncode == 0


def test_no_run_is_critical_and_exit_2_with_the_next_command_to_type(platform: Platform, batch: int) -> None:
    done = stuck(platform, "--older-than", "0s")
    first, *_ = done.stdout.splitlines()
    assert done.returncode == 2
    assert re.fullmatch(r"CRITICAL - 1 batch is open: 1 no_run \| stuck=1;0;;0 oldest=\d+s;;;0 open=1;;;0 .*", first)
    assert f"Batch {batch}: No run of gepp-audit has ever reported" in done.stdout
    assert f'→ Run "{CALLED} process-queue" once by hand;' in done.stdout


def test_a_batch_that_waits_for_another_attempt_is_a_warning_and_exit_1(platform: Platform, batch: int) -> None:
    platform.database.write(lambda connection: runs.tick(connection, liveness.identify("worker-1")))
    for claim in steps.claim(platform):
        late = steps.failure(
            claim, state=ItemState.READY, code=ErrorCode.TIMEOUT, error="no answer | in time", delay=60, wait=True
        )
        steps.settle_all(platform, [late])
    done = stuck(platform, str(batch))
    assert done.returncode == 1
    assert done.stdout.startswith("WARNING - 1 batch is open: 1 retrying (timeout) | stuck=1")


def test_json_is_one_object_by_either_option(platform: Platform, batch: int) -> None:
    block(platform)
    told = [stuck(platform, str(batch), *args) for args in (["--json"], ["--format", "json"])]
    first, second = (json.loads(one.stdout) for one in told)
    assert [one.returncode for one in told] == [2, 2]
    assert (first["status"], first["older_than_seconds"], first["stuck"][0]["reason"]) == (
        "critical",
        0,
        "key_rejected",
    )
    assert (second["status"], second["stuck"][0]["fix"]) == ("critical", first["stuck"][0]["fix"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["stuck"][0]["started_at"])


def test_metrics_are_prometheus_text_with_every_cause(platform: Platform, batch: int) -> None:
    block(platform)
    done = stuck(platform, "--older-than", "0s", "--format", "prometheus")
    lines = done.stdout.splitlines()
    sample = re.compile(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.]+')
    assert done.returncode == 2
    assert all(line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line) for line in lines)
    assert "gepp_audit_stuck_status 2" in lines
    assert 'gepp_audit_stuck_batches{cause="blocked"} 1' in lines
    assert 'gepp_audit_stuck_batches{cause="slow"} 0' in lines
    assert "gepp_audit_stuck_untaken_batches 0" in lines
    assert (
        f'gepp_audit_stuck_batch_transactions{{audit_history_id="{batch}",organization_id="1",cause="blocked",'
        'reason="key_rejected",state="ready"} 3'
    ) in lines


def test_metrics_in_a_file_replace_it_whole_and_print_nothing(platform: Platform, batch: int, tmp_path: Path) -> None:
    block(platform)
    file = tmp_path / "stuck.prom"
    file.write_text("what stood there\n", encoding="utf-8")
    before = file.stat().st_ino
    done = stuck(platform, "--older-than", "0s", "--format", "prometheus", "--output", str(file))
    printed = stuck(platform, "--older-than", "0s", "--format", "prometheus").stdout
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert file.stat().st_ino != before
    assert re.sub(r" \d+\n", " n\n", file.read_text(encoding="utf-8")) == re.sub(r" \d+\n", " n\n", printed)
    assert [path.name for path in tmp_path.glob("*prom*")] == ["stuck.prom"]


def test_metrics_that_cannot_be_written_are_unknown_and_say_where(platform: Platform, tmp_path: Path) -> None:
    done = stuck(platform, "--format", "prometheus", "--output", str(tmp_path / "missing" / "stuck.prom"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "the metrics cannot be written to" in done.stderr
    assert "No such file or directory" in done.stderr


def test_a_file_of_metrics_says_that_the_database_is_gone(tmp_path: Path) -> None:
    nowhere, file = Platform(f"sqlite:///{tmp_path / 'missing.db'}", "embedded"), tmp_path / "stuck.prom"
    done = stuck(nowhere, "--format", "prometheus", "--output", str(file))
    assert (done.returncode, done.stdout) == (3, "")
    assert "gepp_audit_stuck_status 3" in file.read_text(encoding="utf-8").splitlines()


def test_a_metric_of_what_clears_by_itself_says_when(platform: Platform, batch: int) -> None:
    platform.database.write(lambda connection: runs.tick(connection, liveness.identify("worker-1")))
    platform.database.write(lambda connection: limits.throttle(connection, 600.0))
    done = stuck(platform, str(batch), "--format", "prometheus")
    [when] = [line for line in done.stdout.splitlines() if line.startswith("gepp_audit_stuck_batch_clears_timestamp")]
    assert 'cause="retrying",reason="rate_limited"' in when
    assert abs(int(when.rpartition(" ")[2]) - time.time() - 600) < 120


def test_batches_that_are_told_the_same_are_told_together(platform: Platform, batch: int) -> None:
    block(platform)
    other = platform.batch(1, platform.transactions(1, 1))
    done = stuck(platform, "--older-than", "0s")
    assert f"Batches {batch} and {other}: The provider refuses every call" in done.stdout
    assert f'"{CALLED} stuck --requeue {batch} {other} --yes && {CALLED} process-queue"' in done.stdout


def test_a_named_batch_that_has_ended_is_said_to_be_no_trouble(platform: Platform) -> None:
    id_ = platform.batch(platform.organization(), [], status="completed")
    done = stuck(platform, str(id_))
    assert done.returncode == 0
    assert f"Batch {id_} is not open: its status is completed, so it is not stuck." in done.stdout


def test_a_batch_that_no_run_takes_is_a_warning_in_every_format_and_cannot_be_made_to_go_on(
    platform: Platform,
) -> None:
    id_ = platform.batch(platform.organization(), [], status="pending")
    seen = "obody takes 1 batch pending: GEPP_AUDIT_BATCH_STATUSES is in_progress"
    done = stuck(platform)
    first, told, fix = done.stdout.splitlines()
    assert (done.returncode, first.partition(" | ")[0]) == (
        1,
        f"WARNING - no batch is open for more than 1 h (0 batches open in all); n{seen}",
    )
    assert first.endswith(" untaken=1;0;;0")
    assert (told, fix.strip()) == (
        f"N{seen}.",
        "→ Set GEPP_AUDIT_BATCH_STATUSES=in_progress,pending, unless another program does those.",
    )
    metrics = stuck(platform, "--format", "prometheus")
    assert (metrics.returncode, "gepp_audit_stuck_untaken_batches 1" in metrics.stdout.splitlines()) == (1, True)
    refused = stuck(platform, "--requeue", "--yes", str(id_))
    assert (refused.returncode, f"n{seen}; so nothing was changed." in refused.stderr) == (3, True)
    assert f"Batch {id_} is one of them." in stuck(platform, str(id_)).stdout


# -- what a monitor must not misread -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--no-such-option"],
        ["--older-than", "soon"],
        ["twelve"],
        ["--json", "--format", "prometheus"],
        ["--requeue", "--fail", "1"],
        ["--requeue"],
        ["--fail", "--yes"],
        ["--yes", "1"],
        ["--fail", "--format", "prometheus", "--yes", "1"],
        ["--output", "stuck.prom"],
        ["424242"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_unknown_and_exit_3(platform: Platform, args: list[str]) -> None:
    assert stuck(platform, *args).returncode == 3


def test_an_unreachable_database_is_unknown_in_every_format(tmp_path: Path) -> None:
    nowhere = Platform(f"sqlite:///{tmp_path / 'missing.db'}", "embedded")
    table, as_json, metrics = (stuck(nowhere, "--format", name) for name in ("table", "json", "prometheus"))
    told = json.loads(as_json.stdout)
    assert [one.returncode for one in (table, as_json, metrics)] == [3, 3, 3]
    assert table.stdout.startswith("UNKNOWN - there is no database at")
    assert (told["status"], told["stuck"], told["error"]["code"]) == ("unknown", [], "database_missing")
    assert "gepp_audit_stuck_status 3" in metrics.stdout.splitlines()
    assert "there is no database at" in metrics.stderr


# -- doing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--requeue", "--fail"])
def test_nobody_to_ask_and_no_yes_changes_nothing(platform: Platform, batch: int, flag: str) -> None:
    before = platform.rows("SELECT * FROM gepp_audit_items")
    done = stuck(platform, flag, str(batch))
    assert (done.returncode, "add --yes if you are sure" in done.stderr) == (3, True)
    assert platform.rows("SELECT * FROM gepp_audit_items") == before


def test_a_no_at_the_terminal_changes_nothing(platform: Platform, batch: int) -> None:
    code, screen = stuck_at_a_terminal(platform, "n", "--fail", str(batch))
    assert (code, "3 transactions without a verdict will be failed" in screen) == (3, True)
    assert platform.history(batch)["status"] == "in_progress"


def test_a_yes_at_the_terminal_ends_the_batch(platform: Platform, batch: int) -> None:
    code, screen = stuck_at_a_terminal(platform, "y", "--fail", str(batch))
    assert (code, f"Batch {batch}: 3 transactions given up; it ended as failed." in screen) == (0, True)
    assert platform.history(batch)["status"] == "failed"


def test_one_ended_batch_among_the_named_refuses_all(platform: Platform, batch: int) -> None:
    ended = platform.batch(1, [], status="completed")
    done = stuck(platform, "--fail", "--yes", str(batch), str(ended))
    assert (done.returncode, f"batch {ended} is not open, so nothing was changed." in done.stderr) == (3, True)
    assert platform.history(batch)["status"] == "in_progress"


def test_requeue_tells_what_it_did_as_json(platform: Platform, batch: int) -> None:
    block(platform)
    done = stuck(platform, "--requeue", "--yes", "--json", str(batch))
    assert (done.returncode, json.loads(done.stdout)) == (
        0,
        {"requeued": [batch], "made_due": 0, "leases_freed": 0, "gate_hastened": True, "paused": False},
    )


def test_a_killed_run_is_seen_as_died_and_its_batch_goes_on_after_requeue(platform: Platform, batch: int) -> None:
    script = """
import sys, time
from gepp_audit.database.engine import open_database
from gepp_audit.database import runs
from gepp_audit.queue import liveness
from tests.support import steps
from tests.support.platforms import Platform
platform = Platform(sys.argv[1], "embedded")
identity = liveness.identify(None)
platform.database.write(lambda connection: runs.start(connection, identity))
steps.claim(platform, 2, run_id=identity.run_id)
print("claimed", flush=True)
time.sleep(600)
"""
    worker = subprocess.Popen(
        [sys.executable, "-c", script, platform.url], env=environ(platform), stdout=subprocess.PIPE, text=True
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "claimed\n"
        alive = json.loads(stuck(platform, str(batch), "--json").stdout)["stuck"][0]
    finally:
        worker.kill()
        worker.communicate()
    dead = json.loads(stuck(platform, str(batch), "--json").stdout)["stuck"][0]
    assert (alive["cause"], dead["cause"]) == ("slow", "run_died")
    assert stuck(platform, "--requeue", "--yes", str(batch)).returncode == 0
    assert steps.states(platform) == dict.fromkeys(steps.states(platform), "ready")
