"""Each cause made by real processes: `stuck` names it, and what it says to type mends it, typed as it is printed."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any, Final

import psycopg2
import pytest

from gepp_audit.queue import control
from tests.support.platforms import Platform
from tests.support.processes import PROGRAM, Finished, Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, HANG, SampleQueue, connect, finish, ledger, start, wait_for_calls
from tests.support.secrets import TEST_API_KEY
from tests.support.waiting import wait_until

FEW: Final = [*CLEAN, BROKEN]
_PROGRAM: Final = re.escape(" ".join(PROGRAM))
on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, on which the programs of one host work."""
    connect(programs, platform, simulator)
    programs.environ |= {"GEPP_AUDIT_HOST": "h1", "GEPP_AUDIT_CONCURRENCY": "2"}
    return SampleQueue(platform)


def stuck(programs: Programs, batch: int, **environ: str) -> dict[str, Any]:
    """What is told of the batch."""
    told = programs.run("stuck", "--json", str(batch), environ=environ).json()
    [entry] = told["stuck"]
    assert isinstance(entry, dict)
    return entry


def commands(fix: str) -> list[str]:
    """The command lines that a fix names, as this process was called."""
    return re.findall(rf'"({_PROGRAM} [^"]*)"', fix)


def type_(programs: Programs, command: str, **environ: str) -> Finished:
    """Type it at a shell."""
    return programs.start_command(["sh", "-c", command], environ=environ).wait()


def mend(programs: Programs, entry: dict[str, Any], **environ: str) -> None:
    """Type the first command of the fix."""
    done = type_(programs, commands(entry["fix"])[0], **environ)
    assert done.exit_code == 0, f"{entry['fix']}\n{done.stderr}"


def called(entry: dict[str, Any]) -> tuple[str, str | None]:
    return entry["cause"], entry["reason"]


# -- nobody works ------------------------------------------------------------------------------------------------------


@on_sqlite
def test_no_run(queue: SampleQueue, programs: Programs) -> None:
    entry = stuck(programs, queue.queue(FEW))
    assert called(entry) == ("no_run", None)
    assert "No run of gepp-audit has ever reported" in entry["explanation"]
    mend(programs, entry)
    queue.assert_all_settled()


@on_sqlite
def test_runs_that_leave_the_organization_out(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(FEW)
    assert programs.run("process-queue", "--organization", "2", "--organization", "3").exit_code == 0
    entry = stuck(programs, batch)
    assert called(entry) == ("no_run", "organization")
    assert "for other organizations alone (2 and 3), not for organization 1." in entry["explanation"]
    mend(programs, entry)
    queue.assert_all_settled()


@on_sqlite
def test_runs_that_do_not_look_for_the_batchs_status(queue: SampleQueue, programs: Programs) -> None:
    both = {"GEPP_AUDIT_BATCH_STATUSES": "in_progress,pending"}
    batch = queue.batch(queue.add(FEW), status="pending")
    queue.platform.execute("UPDATE transaction_audit_history SET started_at = '2026-01-01 00:00:00.000000'")
    assert programs.run("process-queue").exit_code == 0
    entry = stuck(programs, batch, **both)
    assert called(entry) == ("no_run", "batch_status")
    assert "GEPP_AUDIT_BATCH_STATUSES" in entry["fix"]
    mend(programs, entry, **both)
    queue.assert_all_settled()


@on_sqlite
def test_run_died(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    simulator.scenario({"rules": [{"match": {}, "do": HANG}]})
    batch = queue.queue(FEW)
    run = start(programs)
    wait_for_calls(simulator, 2)
    run.kill()
    entry = stuck(programs, batch)
    assert called(entry) == ("run_died", None)
    assert f"(process {run.pid}) died while it had 2 calls of this batch under way" in entry["explanation"]
    simulator.scenario({"rules": []})
    mend(programs, entry)
    queue.assert_all_settled()


# -- the provider ------------------------------------------------------------------------------------------------------


@on_sqlite
def test_a_rejected_key(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(FEW)
    assert programs.run("process-queue", OPENAI_API_KEY="sk-wrong").exit_code == 1
    entry = stuck(programs, batch, OPENAI_API_KEY="sk-wrong")
    assert called(entry) == ("blocked", "key_rejected")
    assert entry["fix"].startswith("Put a valid key into OPENAI_API_KEY")
    mend(programs, entry)
    queue.assert_all_settled()


@on_sqlite
def test_a_missing_key(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(FEW)
    assert programs.run("process-queue", OPENAI_API_KEY="").exit_code == 1
    entry = stuck(programs, batch, OPENAI_API_KEY="")
    assert called(entry) == ("blocked", "key_rejected")
    assert "Runs on h1 cannot begin" in entry["explanation"]
    assert "OPENAI_API_KEY is not set" in entry["explanation"]
    assert entry["fix"].startswith("Set OPENAI_API_KEY, or OPENAI_API_KEY_FILE")
    mend(programs, entry, OPENAI_API_KEY=TEST_API_KEY)
    queue.assert_all_settled()


@on_sqlite
def test_retrying(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    simulator.scenario({"rules": [{"match": {}, "do": "server_error"}]})
    batch = queue.queue(FEW)
    programs.run("process-queue", "--max-seconds", "20", GEPP_AUDIT_BACKOFF_SECONDS="3000")
    entry = stuck(programs, batch)
    assert called(entry) == ("retrying", "server_error")
    assert "had a failed call and will be asked again. The next one is due at" in entry["explanation"]
    simulator.scenario({"rules": []})
    mend(programs, entry)
    queue.assert_all_settled()


@on_sqlite
def test_slow_with_a_rate_and_an_end(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    batch = queue.queue([*CLEAN, *CLEAN])
    simulator.scenario({"rules": [{"match": {"transaction_id": str(id_)}, "do": HANG} for id_ in (3, 4)]})
    run = start(programs)
    wait_until(lambda: len(ledger(queue.platform, "verdict")) == 2, what="the settling of two verdicts")
    entry = stuck(programs, batch)
    assert called(entry) == ("slow", None)
    assert (
        "It moves: 2.0 transactions a minute lately, 2 left; at this rate it will be through at"
        in (entry["explanation"])
    )
    shown = type_(programs, commands(entry["fix"])[0]).stdout.splitlines()
    assert [line.split()[0] for line in shown if line.split()[2:3] == ["in_progress"]] == [str(batch)]
    run.kill()
    simulator.scenario({"rules": []})
    finish(programs, simulator)
    queue.assert_all_settled()


# -- people ------------------------------------------------------------------------------------------------------------


@on_sqlite
def test_paused(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(FEW)
    control.pause(queue.platform.database, None, "month end")
    control.pause(queue.platform.database, 1, None)
    programs.run("process-queue")
    entry = stuck(programs, batch)
    assert called(entry) == ("paused", None)
    assert "month end." in entry["explanation"]
    mend(programs, entry)
    assert programs.run("process-queue").exit_code == 0
    queue.assert_all_settled()


@on_sqlite
def test_limited(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(CLEAN)
    control.set_limits(queue.platform.database, 1, {"calls_per_minute": 1})
    programs.run("process-queue")
    entry = stuck(programs, batch)
    assert called(entry) == ("limited", "calls_per_minute")
    assert (
        "The limit of 1 calls per minute for organization 1 is reached: 1 used. The next call may leave at"
        in (entry["explanation"])
    )
    mend(programs, entry)
    assert programs.run("process-queue").exit_code == 0
    queue.assert_all_settled()


# -- the platform ------------------------------------------------------------------------------------------------------


@on_postgresql
def test_platform_lock(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(FEW)
    with closing(psycopg2.connect(queue.platform.url, application_name="uwsgi")) as held:
        with held.cursor() as cursor:
            cursor.execute("SELECT id FROM transactions WHERE id = 1 FOR NO KEY UPDATE")
        assert programs.run("process-queue").exit_code == 0
        pid = held.info.backend_pid

        def seen() -> dict[str, Any] | None:
            entry = stuck(programs, batch)
            assert called(entry) == ("platform_lock", None)
            assert "1 transaction could not be written back yet" in entry["explanation"]
            return entry if f"session {pid}" in entry["explanation"] else None

        entry = wait_until(seen, what=f"the naming of session {pid}")
        assert entry is not None
        assert "(uwsgi) on transactions, idle in transaction" in entry["explanation"]
        assert f"SELECT pg_terminate_backend({pid})" in entry["fix"]
        queue.platform.execute(f"SELECT pg_terminate_backend({pid})")
    mend(programs, entry)
    queue.assert_all_settled()


@on_postgresql
def test_a_closing_that_waits_for_the_batchs_row(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(FEW)
    with closing(psycopg2.connect(queue.platform.url)) as held:
        with held.cursor() as cursor:
            cursor.execute("SELECT id FROM transaction_audit_history WHERE id = %s FOR NO KEY UPDATE", (batch,))
        assert programs.run("process-queue").exit_code == 0
        early = stuck(programs, batch)
        assert called(early) == ("slow", None)
        assert early["explanation"] == "Everything is audited; the next run closes it."
        queue.platform.execute("UPDATE gepp_audit_items SET settled_at = settled_at - interval '5 minutes'")
        entry = stuck(programs, batch)
        assert called(entry) == ("platform_lock", None)
        assert "the batch could not be closed" in entry["explanation"]
        held.rollback()
    mend(programs, entry)
    queue.assert_all_settled()


@on_sqlite
def test_a_rival_that_settles_the_batch(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    simulator.scenario({"rules": [{"match": {}, "do": HANG}]})
    batch = queue.queue(FEW)
    run = start(programs)
    wait_for_calls(simulator, 2)
    queue.platform.execute("UPDATE transactions SET ai_audit_status = 'approved'")
    queue.platform.execute("UPDATE transaction_audit_history SET status = 'completed'")
    run.kill()
    entry = stuck(programs, batch)
    assert called(entry) == ("rival", "settled")
    assert "Another program has set this batch to completed" in entry["explanation"]
    [look, go_on] = commands(entry["fix"])
    assert type_(programs, look).exit_code in (0, 1, 2)
    assert type_(programs, go_on).exit_code == 0
    told = programs.run("stuck", "--older-than", "0s")
    assert (told.exit_code, told.stdout.partition("|")[0]) == (
        1,
        "WARNING - no batch is open (0 batches open in all); another program settled 1 batch of ours ",
    )
    assert set(queue.labels().values()) == {"approved"}


@on_sqlite
def test_a_rival_that_works_on_the_same_batch(queue: SampleQueue, programs: Programs, simulator: Simulator) -> None:
    """It sets a transaction that a run has taken up and is about to ask."""
    batch = queue.queue([*CLEAN, *CLEAN])
    simulator.scenario({"rules": [{"match": {"transaction_id": "4"}, "do": HANG}]})
    control.pause(queue.platform.database, None, None)
    programs.run("process-queue")
    queue.platform.execute("UPDATE transactions SET ai_audit_status = 'approved' WHERE id = 1")
    control.resume(queue.platform.database, None)
    run = start(programs)
    wait_until(lambda: queue.platform.rows("SELECT 1 FROM gepp_audit_items WHERE skip_reason = 'not_queued'"))
    entry = stuck(programs, batch)
    run.kill()
    assert called(entry) == ("rival", "at_work")
    assert "1 transaction of this batch was set by somebody else within the last 15 minutes" in entry["explanation"]
    simulator.scenario({"rules": []})
    assert type_(programs, commands(entry["fix"])[-1]).exit_code == 0
    assert queue.platform.history(batch)["status"] == "completed"


@on_sqlite
def test_orphans_are_counted_and_freed_by_what_is_printed(queue: SampleQueue, programs: Programs) -> None:
    ids = queue.add(FEW)
    told = programs.run("stuck")
    assert told.exit_code == 1
    assert "3 transactions are queued in no open batch: nothing would ever ask them." in told.stdout
    [command] = commands(told.stdout)
    assert type_(programs, f"{command} --yes").exit_code == 0
    assert programs.run("stuck").exit_code == 0
    assert queue.platform.labels(ids) == dict.fromkeys(ids, "null")


@on_sqlite
def test_a_fix_names_the_env_file_that_was_named(queue: SampleQueue, programs: Programs) -> None:
    batch = queue.queue(FEW)
    env_file = programs.home / "production .env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in programs.environ.items()), encoding="utf-8")
    programs.environ.clear()
    told = programs.run("--env-file", env_file.name, "stuck", "--json", str(batch)).json()
    [entry] = told["stuck"]
    [command, *_] = commands(entry["fix"])
    assert command == f"{' '.join(PROGRAM)} --env-file '{env_file}' process-queue"
    assert type_(programs, command).exit_code == 0
    queue.assert_all_settled()
