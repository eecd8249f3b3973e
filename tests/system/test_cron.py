"""The line of crontab.example under a real cron, which gives it hardly any environment."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cron import PATH, Cron, running_cron
from tests.support.platforms import Platform
from tests.support.processes import ROOT, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, asked, labels_settled
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)


def crontab_line(env_file: Path, log_file: Path) -> str:
    """The example's line with the paths of this machine."""
    lines = (ROOT / "crontab.example").read_text(encoding="utf-8").splitlines()
    [line] = [one for one in lines if one.startswith("* * * * *")]
    replaced = {
        "/opt/gepp-audit/.venv/bin/gepp-audit": Path(sys.executable).with_name("gepp-audit"),
        "/etc/gepp-audit.env": env_file,
        "/var/log/gepp-audit/audit.log": log_file,
    }
    for given, ours in replaced.items():
        assert given in line
        line = line.replace(given, str(ours))
    return line


def write_env_file(path: Path, values: dict[str, Any]) -> None:
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")


@pytest.fixture
def queue(platform: Platform) -> SampleQueue:
    """A queue with one batch in it."""
    queue = SampleQueue(platform)
    queue.queue([*CLEAN, BROKEN])
    return queue


@pytest.fixture
def env_file(platform: Platform, simulator: Simulator, tmp_path: Path) -> Path:
    """All that the program is told."""
    path = tmp_path / "gepp-audit.env"
    write_env_file(path, {"DATABASE_URL": platform.url, **simulator.environ})
    return path


@pytest.fixture
def cron(queue: SampleQueue, env_file: Path, tmp_path: Path) -> Iterator[Cron]:
    """Cron at work on that queue."""
    with running_cron(tmp_path / "home", crontab_line(env_file, tmp_path / "audit.log")) as cron:
        yield cron


def test_cron_processes_the_queue_and_its_ticks_print_nothing(
    cron: Cron, queue: SampleQueue, simulator: Simulator, tmp_path: Path
) -> None:
    wait_until(lambda: labels_settled(queue), 60, what="the end of the batch")
    cron.wait_for_jobs(3)
    # what is queued later is found by a later tick
    queue.queue([BROKEN, *CLEAN])
    wait_until(lambda: labels_settled(queue), 60, what="the end of the second batch")
    cron.wait_for_jobs(3)
    assert (cron.stdout, cron.stderr) == ("", "")
    assert set(cron.exit_codes) == {0}
    assert sorted(asked(simulator)) == sorted(queue.expected)
    queue.assert_all_settled()
    assert (cron.environ["PATH"], cron.environ["HOME"], cron.cwd) == (PATH, str(cron.folder), str(cron.folder))
    assert not {name for name in cron.environ if name.startswith(("LANG", "LC_", "LD_", "PYTHON", "OPENAI", "GEPP"))}
    assert queue.platform.value("SELECT count(*) FROM gepp_audit_runs WHERE outcome = 'idle'") == 1
    assert "วิสาหกิจ" not in (tmp_path / "audit.log").read_text(encoding="utf-8")


def test_what_is_wrong_is_printed_for_crons_mail_with_the_fix(cron: Cron, queue: SampleQueue, env_file: Path) -> None:
    wait_until(lambda: labels_settled(queue), 60, what="the end of the batch")
    write_env_file(env_file, {"OPENAI_API_KEY": "sk-irrelevant"})
    wait_until(lambda: 1 in cron.exit_codes, 60, what="a job that fails")
    wait_until(lambda: "Set DATABASE_URL=" in cron.stderr, what="the fix on stderr")
    assert cron.stdout == ""
    assert str(env_file) in cron.stderr
