"""What those hear of a run who are not there: the dead man's switch and the metrics file, with real processes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ping_service import PingService, running_ping_service
from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect, start, wait_for_calls
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
PATH = "/ping/token-of-the-check"


@pytest.fixture
def service() -> Iterator[PingService]:
    with running_ping_service() as service:
        yield service


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator, service: PingService) -> SampleQueue:
    """An empty queue whose runs ping the service."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_PING_URL"] = service.url
    return SampleQueue(platform)


def metrics(path: Path) -> dict[str, float]:
    found = (line.rsplit(" ", 1) for line in path.read_text().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in found}


def test_a_run_is_heard_from_its_start_to_its_end_with_its_summary(
    queue: SampleQueue, programs: Programs, service: PingService
) -> None:
    queue.queue([*CLEAN, BROKEN])
    done = programs.run("process-queue")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert service.paths == [f"{PATH}/start", PATH]
    assert service.pings[1].body.startswith("2 approved, 1 rejected, 0 undecided, 0 failed, 0 skipped.\n3 calls (")


def test_an_idle_tick_says_that_all_is_well_and_nothing_else(
    queue: SampleQueue, programs: Programs, service: PingService
) -> None:
    assert programs.run("process-queue").exit_code == 0
    assert [(ping.path, ping.body) for ping in service.pings] == [(PATH, "Nothing to do.")]


def test_a_refusing_provider_is_a_failure_with_the_reason(
    queue: SampleQueue, programs: Programs, service: PingService
) -> None:
    queue.queue(CLEAN)
    assert programs.run("process-queue", OPENAI_API_KEY="sk-wrong-key").exit_code == 1
    assert service.paths == [f"{PATH}/start", f"{PATH}/fail"]
    assert service.pings[1].body.startswith("Error: the provider refuses all calls (key_rejected)")
    assert "sk-wrong-key" not in service.pings[1].body


def test_a_batch_that_ends_failed_is_a_failure(queue: SampleQueue, programs: Programs, service: PingService) -> None:
    queue.platform.execute("UPDATE audit_rules SET is_active = false")
    batch = queue.queue(CLEAN)
    assert programs.run("process-queue").exit_code == 3
    assert service.pings[-1].path == f"{PATH}/fail"
    assert service.pings[-1].body.startswith(f"Batch {batch} ended failed")


def test_a_database_out_of_reach_is_a_failure_and_its_password_is_not_told(
    queue: SampleQueue, programs: Programs, service: PingService, tmp_path: Path
) -> None:
    missing = f"sqlite:///{tmp_path}/missing/x.db"
    assert programs.run("process-queue", DATABASE_URL=missing).exit_code == 1
    [ping] = service.pings
    assert (ping.path, ping.body.startswith("Error: ")) == (f"{PATH}/fail", True)


def test_a_dry_run_is_not_heard(queue: SampleQueue, programs: Programs, service: PingService, tmp_path: Path) -> None:
    queue.queue(CLEAN)
    assert programs.run("process-queue", "--dry-run", GEPP_AUDIT_METRICS_FILE=str(tmp_path / "x.prom")).exit_code == 0
    assert (service.pings, (tmp_path / "x.prom").exists()) == ([], False)


def test_a_run_that_is_told_to_stop_ends_well(
    queue: SampleQueue, programs: Programs, simulator: Simulator, service: PingService
) -> None:
    simulator.scenario({"rules": [{"do": {"extra_latency_ms": 800}}]})
    queue.queue(CLEAN)
    run = start(programs)
    wait_for_calls(simulator, 2)
    wait_until(lambda: service.pings, what="the ping of the start")
    run.terminate()
    assert run.wait().exit_code == 143
    assert service.paths == [f"{PATH}/start", PATH]
    assert "Stopped by a signal" in service.pings[1].body


def test_a_ping_that_fails_is_a_warning_without_the_address_and_the_work_is_done(
    queue: SampleQueue, programs: Programs, service: PingService, tmp_path: Path
) -> None:
    service.status = 404
    queue.queue(CLEAN)
    log_file = tmp_path / "audit.log"
    done = programs.run("process-queue", "--json", GEPP_AUDIT_LOG_FILE=str(log_file))
    assert (done.exit_code, done.json()["transactions"]["approved"]) == (0, 2)
    assert "ping_failed" in done.stderr
    assert "it answered with status 404" in done.stderr
    [told] = [json.loads(line) for line in log_file.read_text().splitlines() if "ping_failed" in line]
    assert (told["level"], told["reason"]) == ("warning", "it answered with status 404")
    assert "token-of-the-check" not in done.stderr + log_file.read_text()


def test_a_service_that_does_not_answer_holds_nothing_up_but_the_end(
    queue: SampleQueue, programs: Programs, service: PingService
) -> None:
    service.answers.clear()
    queue.queue([*CLEAN, BROKEN])
    run = programs.start("process-queue")
    # everything is written while both pings hang
    wait_until(lambda: queue.labels() == queue.statuses, 30, what="the verdicts")
    done = run.wait()
    assert (done.exit_code, "no answer within 5 s" in done.stderr) == (0, True)
    queue.assert_all_settled()


def test_the_metrics_of_runs_and_idle_ticks_and_failures_stand_in_the_file(
    queue: SampleQueue, programs: Programs, tmp_path: Path
) -> None:
    path = tmp_path / "gepp_audit.prom"
    programs.environ["GEPP_AUDIT_METRICS_FILE"] = path.name  # in the working directory
    queue.queue([*CLEAN, BROKEN])
    run = programs.run("process-queue", "--json").json()
    programs.run("process-queue")
    after_idle = metrics(path)
    programs.run("process-queue", DATABASE_URL=f"sqlite:///{tmp_path}/missing.db")
    found = metrics(path)
    outcomes = {name: value for name, value in found.items() if name.startswith("gepp_audit_runs_total")}
    assert {re.findall('"(.*)"', name)[0] for name, value in outcomes.items() if value == 1} == {
        "processed", "idle", "failed",
    }  # fmt: skip
    assert found['gepp_audit_transactions_total{result="approved"}'] == 2
    assert found['gepp_audit_tokens_total{kind="input"}'] == run["token_usage"]["total_input_tokens"]
    assert found["gepp_audit_last_run_exit_code"] == 1
    last_well = "gepp_audit_last_success_timestamp_seconds"
    assert found[last_well] == after_idle[last_well] < found["gepp_audit_last_run_timestamp_seconds"]


def test_metrics_that_cannot_be_written_are_a_warning_and_the_work_is_done(
    queue: SampleQueue, programs: Programs, tmp_path: Path
) -> None:
    queue.queue(CLEAN)
    done = programs.run("process-queue", GEPP_AUDIT_METRICS_FILE=str(tmp_path / "missing" / "x.prom"))
    assert (done.exit_code, "metrics_not_written" in done.stderr) == (0, True)
    assert "No such file or directory" in done.stderr
    assert queue.labels() == queue.statuses


def test_outside_of_cron_a_failure_is_told_each_time(queue: SampleQueue, programs: Programs, tmp_path: Path) -> None:
    gone = f"sqlite:///{tmp_path}/missing.db"
    told = [programs.run("process-queue", DATABASE_URL=gone).stderr for _ in range(2)]
    assert told[0] == told[1] != ""
    assert not (tmp_path / ".local").exists()
