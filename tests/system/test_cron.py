"""The line of crontab.example under a real cron, which gives it hardly any environment."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gepp_audit.heard.marks import AGAIN_AFTER
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
    cron.wait_for_jobs(20)
    assert (cron.stdout, cron.stderr, cron.mails) == ("", "", [])
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


# -- a failure that lasts is not a mail a minute -----------------------------------------------------------------------

MARKS = ".local/state/gepp-audit"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failure that an operator makes or mends, and the words of its mail."""

    broken: Callable[[dict[str, str], Path], None]
    code: str
    told: str
    #: it strikes at work, so there must be some for each tick
    at_work: bool = False
    #: how often it has struck, at least
    struck: Callable[[Cron, Simulator], int] = lambda cron, _: cron.exit_codes.count(1)


def no_database(values: dict[str, str], _log_file: Path) -> None:
    values["DATABASE_URL"] += "_that_is_not_there"


def wrong_key(values: dict[str, str], _log_file: Path) -> None:
    values["OPENAI_API_KEY"] = "sk-wrong"


def full_disk(_values: dict[str, str], log_file: Path) -> None:
    log_file.unlink()
    log_file.symlink_to("/dev/full")


def unblocked(platform: Platform) -> bool:
    """Let the provider be tried at once, not after the minute that a refusal lasts, though a late run may meet one."""
    platform.execute("UPDATE gepp_audit_limits SET blocked_until = NULL WHERE blocked_until IS NOT NULL")
    return True


FAILURES = {
    "database down": Failure(broken=no_database, code="database", told="DATABASE_URL"),
    "key wrong": Failure(broken=wrong_key, code="key_rejected", told="OPENAI_API_KEY", at_work=True),
    "disk full for the log": Failure(
        broken=full_disk,
        code="log_file_not_written",
        told="No space left on device",
        at_work=True,
        struck=lambda _, simulator: len(simulator.calls()),
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_makes_one_mail_in_its_first_hour_then_one_an_hour_and_one_when_it_is_over(
    cron: Cron, queue: SampleQueue, env_file: Path, platform: Platform, simulator: Simulator, tmp_path: Path, name: str
) -> None:
    failure = FAILURES[name]
    log_file = tmp_path / "audit.log"
    values = {"DATABASE_URL": platform.url, **simulator.environ}

    def strike(times: int) -> None:
        """Let ticks run into it so often, each with new work where it takes work to meet it."""
        wanted = failure.struck(cron, simulator) + times
        while failure.struck(cron, simulator) < wanted:
            if failure.at_work:
                queue.queue([BROKEN])
            cron.wait_for_jobs(1)

    def mails(number: int) -> list[str]:
        """All mails: so many and, when two more jobs have ended, still no other."""
        wait_until(lambda: len(cron.mails) >= number, 60, what=f"mail {number}")
        cron.wait_for_jobs(2)
        assert len(cron.mails) == number
        return cron.mails

    wait_until(lambda: labels_settled(queue), 60, what="the end of the batch")
    assert cron.mails == []
    broken = dict(values)
    failure.broken(broken, log_file)
    write_env_file(env_file, broken)
    strike(4)
    [mail] = mails(1)
    assert failure.told in mail
    [mark] = (cron.folder / MARKS).rglob("*.*")
    # the hour passes
    hour_ago = time.time() - AGAIN_AFTER
    os.utime(mark, (hour_ago, hour_ago))
    strike(3)
    assert failure.told in mails(2)[1]
    # it is mended
    if log_file.is_symlink():
        log_file.unlink()
    write_env_file(env_file, values)
    queue.queue([BROKEN])
    wait_until(lambda: unblocked(platform) and labels_settled(queue), 60, what="the end of all batches")
    assert re.fullmatch(
        rf"gepp-audit works again: {failure.code}\w* is over, which began at [0-9-]+ [0-9:]+ UTC \(1 h.* ago\)\.\n",
        mails(3)[2],
    )
    assert not list((cron.folder / MARKS).rglob("*.*"))
