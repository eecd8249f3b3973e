"""What a job of cron prints, hence what cron mails: each failure once an hour, and one line when it is over."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gepp_audit.heard.marks import AGAIN_AFTER
from tests.support.cron import under_cron
from tests.support.ping_service import running_ping_service
from tests.support.platforms import Platform
from tests.support.processes import Finished, Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect

pytestmark = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue."""
    connect(programs, platform, simulator)
    return SampleQueue(platform)


@pytest.fixture
def gone(tmp_path: Path) -> str:
    """The address of a database that is not there."""
    return f"sqlite:///{tmp_path}/gone.db"


def marks(programs: Programs) -> list[str]:
    return sorted(path.name for path in (programs.home / ".local/state/gepp-audit").rglob("*.*"))


def let_an_hour_pass(programs: Programs) -> None:
    for path in (programs.home / ".local/state/gepp-audit").rglob("*.*"):
        then = time.time() - AGAIN_AFTER
        os.utime(path, (then, then))


def test_an_env_file_that_became_wrong_is_told_once_with_its_exit_code_each_time(
    queue: SampleQueue, programs: Programs
) -> None:
    wrong = {"GEPP_AUDIT_CONCURRENCY": "many"}
    done = [under_cron(programs, "process-queue", **wrong) for _ in range(3)]
    assert [one.exit_code for one in done] == [1, 1, 1]
    assert ["a setting is wrong" in one.stderr for one in done] == [True, False, False]
    assert {one.stdout for one in done} == {""}
    over = under_cron(programs, "process-queue")
    assert (over.exit_code, over.stdout) == (0, "")
    assert over.stderr.startswith("gepp-audit works again: wrong_settings is over, which began at ")
    assert (marks(programs), under_cron(programs, "process-queue").stderr) == ([], "")


def test_another_failure_is_another_mail(queue: SampleQueue, programs: Programs) -> None:
    first = under_cron(programs, "process-queue", GEPP_AUDIT_CONCURRENCY="many")
    second = under_cron(programs, "process-queue", GEPP_AUDIT_LOG_FILE="/no/such/folder/audit.log")
    assert "a setting is wrong" in first.stderr
    assert "cannot write the log file" in second.stderr
    assert marks(programs) == ["start.log_file", "start.wrong_settings"]


def test_a_wrong_line_in_the_crontab_is_told_once(queue: SampleQueue, programs: Programs) -> None:
    done = [under_cron(programs, "process-queue", "--no-such-option") for _ in range(2)]
    assert [(one.exit_code, "there is no option" in one.stderr) for one in done] == [(2, True), (2, False)]


def test_after_an_hour_it_is_told_again(queue: SampleQueue, programs: Programs, gone: str) -> None:
    def tell() -> Finished:
        return under_cron(programs, "process-queue", "--max-seconds", "55", DATABASE_URL=gone)

    assert [tell().stderr != "", tell().stderr != ""] == [True, False]
    let_an_hour_pass(programs)
    assert [tell().stderr != "", tell().stderr != ""] == [True, False]


def test_a_refused_key_is_not_over_because_there_is_nothing_to_ask(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(CLEAN)
    wrong = {"OPENAI_API_KEY": "sk-wrong-key"}
    done = [under_cron(programs, "process-queue", **wrong) for _ in range(2)]
    assert [(one.exit_code, "key_rejected" in one.stderr) for one in done] == [(1, True), (1, False)]
    assert programs.run("cancel", str(batch), "--yes").exit_code == 0
    idle = [under_cron(programs, "process-queue", **wrong) for _ in range(2)]
    assert [(one.exit_code, one.stderr) for one in idle] == [(0, ""), (0, "")]
    assert marks(programs) == ["work.key_rejected"]
    programs.run("stuck", "--requeue", str(queue.queue([BROKEN])), "--yes")
    over = under_cron(programs, "process-queue")
    assert (over.exit_code, over.stderr.startswith("gepp-audit works again: key_rejected is over")) == (0, True)


def test_a_missing_key_is_told_once_and_over_with_the_first_answer(queue: SampleQueue, programs: Programs) -> None:
    queue.queue(CLEAN)
    done = [under_cron(programs, "process-queue", OPENAI_API_KEY="") for _ in range(2)]
    assert [(one.exit_code, "OPENAI_API_KEY is not set" in one.stderr) for one in done] == [(1, True), (1, False)]
    assert "no_api_key is over" in under_cron(programs, "process-queue").stderr


def test_a_ping_that_fails_is_told_once_and_over_when_one_arrives(queue: SampleQueue, programs: Programs) -> None:
    with running_ping_service() as service:
        programs.environ["GEPP_AUDIT_PING_URL"] = service.url
        service.status = 500
        told = [under_cron(programs, "process-queue").stderr for _ in range(2)]
        service.status = 200
        over = under_cron(programs, "process-queue").stderr
    assert ["ping_failed" in one for one in told] == [True, False]
    assert over.startswith("gepp-audit works again: ping_failed is over")


def test_each_batch_that_ends_failed_is_told(queue: SampleQueue, programs: Programs) -> None:
    queue.platform.execute("UPDATE audit_rules SET is_active = false")
    for _ in range(2):
        batch = queue.queue([BROKEN])
        done = under_cron(programs, "process-queue")
        assert (done.exit_code, f"Batch {batch} ended failed" in done.stdout) == (3, True)
        [warning] = done.stderr.splitlines()
        assert "batch_closed" in warning


def test_what_is_asked_for_is_told_each_time(queue: SampleQueue, programs: Programs, gone: str) -> None:
    for args in (("-v", "process-queue"), ("show",), ("stuck", "--json")):
        done = [under_cron(programs, *args, DATABASE_URL=gone).stderr for _ in range(2)]
        assert all("there is no database" in one for one in done), args


def test_as_json_the_error_is_on_stdout_each_time(queue: SampleQueue, programs: Programs, gone: str) -> None:
    done = [under_cron(programs, "process-queue", "--json", DATABASE_URL=gone) for _ in range(2)]
    assert [one.json()["error"]["code"] for one in done] == ["database_missing"] * 2
    assert [one.stderr != "" for one in done] == [True, False]


def test_two_queues_of_one_user_do_not_answer_for_each_other(queue: SampleQueue, programs: Programs, gone: str) -> None:
    told = [
        under_cron(programs, "process-queue", **environ).stderr
        for environ in ({"DATABASE_URL": gone}, {}, {"DATABASE_URL": gone}, {})
    ]
    assert [one != "" for one in told] == [True, False, False, False]


def test_a_home_in_which_nothing_can_be_kept_is_no_reason_for_silence_or_failure(
    queue: SampleQueue, programs: Programs, gone: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    nowhere = {"HOME": f"{tmp_path}/file", "TMPDIR": f"{tmp_path}/file", "DATABASE_URL": gone}
    done = [under_cron(programs, "process-queue", **nowhere) for _ in range(2)]
    assert ["there is no database" in one.stderr for one in done] == [True, True]
    elsewhere = {**nowhere, "TMPDIR": str(tmp_path)}
    done = [under_cron(programs, "process-queue", **elsewhere) for _ in range(2)]
    assert ["there is no database" in one.stderr for one in done] == [True, False]
