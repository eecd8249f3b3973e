"""`crontab` as a process, with cron's own program, and its line under a real cron."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gepp_audit.crontabs import block
from gepp_audit.database.migrate import initialize
from tests.support.cron import running_cron
from tests.support.crontab import Spool, new_spool
from tests.support.platforms import Platform
from tests.support.processes import Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, labels_settled
from tests.support.waiting import wait_until

FOREIGN = (
    "MAILTO=ops@example.com\n"
    "# nightly: not ours\n"
    "\n"
    "0 3 * * *\t/usr/bin/backup --to 'a b' >/dev/null 2>&1\n"
    "*/5 * * * * date +\\%s > /tmp/now # ขยะ\n"
)
BEGIN = "# BEGIN gepp-audit "


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return new_spool(tmp_path)


@pytest.fixture
def env_file(tmp_path: Path) -> str:
    path = tmp_path / "gepp audit 100%.env"
    path.write_text("DATABASE_URL=sqlite:////nowhere.db\n")
    return str(path)


def test_it_prints_the_block_for_this_machine_and_installs_nothing(spool: Spool, env_file: str) -> None:
    done = spool.run("--env-file", env_file, "--log-file", "log.txt", "crontab", "--every", "30s")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    program = Path(sys.executable).with_name("gepp-audit")
    options = f"--env-file {block.quoted(env_file)} --log-file {spool.folder}/log.txt process-queue --max-seconds 25"
    assert lines[0].startswith(BEGIN)
    assert lines[2:] == [
        f"* * * * * {program} {options}",
        f"* * * * * sleep 30 && {program} {options}",
        "# END gepp-audit",
    ]
    assert not spool.file.exists()
    assert not (spool.folder / "log.txt").exists()


def test_installing_where_there_is_no_crontab_yet_makes_one(spool: Spool, env_file: str) -> None:
    done = spool.run("--env-file", env_file, "crontab", "--install", "--json")
    assert (done.exit_code, done.json()["changed"]) == (0, True)
    assert any(note.startswith("No log file is set") for note in done.json()["notes"])
    assert spool.text == done.json()["block"]
    assert spool.text.startswith(BEGIN)
    assert spool.text.endswith("# END gepp-audit\n")


def test_installing_twice_changes_nothing_the_second_time(spool: Spool, env_file: str) -> None:
    spool.run("--env-file", env_file, "crontab", "--install")
    before = spool.file.stat()
    done = spool.run("--env-file", env_file, "crontab", "--install")
    assert (done.exit_code, "nothing was changed" in done.stdout) == (0, True)
    assert spool.file.stat().st_mtime_ns == before.st_mtime_ns


def test_what_others_wrote_stays_byte_for_byte(spool: Spool, env_file: str) -> None:
    spool.write(FOREIGN)
    assert spool.run("--env-file", env_file, "crontab", "--install").exit_code == 0
    assert spool.text.startswith(FOREIGN + BEGIN)
    assert spool.run("--env-file", env_file, "crontab", "--install", "--every", "30s").exit_code == 0
    assert spool.text.startswith(FOREIGN + BEGIN)
    assert spool.text.count("\n* * * * * ") == 2
    assert spool.run("crontab", "--remove").exit_code == 0
    assert spool.text == FOREIGN


def test_removing_where_nothing_is_says_so(spool: Spool) -> None:
    done = spool.run("crontab", "--remove", "--json")
    assert (done.exit_code, done.json()["changed"], spool.file.exists()) == (0, False, False)


def test_a_crontab_that_cron_refuses_is_told_in_crons_words_and_the_old_one_stays(spool: Spool, env_file: str) -> None:
    broken = "99 * * * * true\n"
    spool.write(broken)
    done = spool.run("--env-file", env_file, "crontab", "--install")
    assert done.exit_code == 1
    assert "the old one is still in force" in done.stderr
    assert "bad minute" in done.stderr
    assert spool.text == broken


def test_another_line_of_ours_is_named_by_its_number_and_left_alone(spool: Spool, env_file: str) -> None:
    spool.write("# mine\n*/2 * * * * OPENAI_API_KEY=sk-hidden /opt/gepp-audit process-queue\n")
    done = spool.run("--env-file", env_file, "crontab", "--install")
    assert "Line 2 (*/2 * * * * …) starts the queue too" in done.stdout
    assert "sk-hidden" not in done.stdout + done.stderr
    assert "*/2 * * * *" in spool.text


def test_without_an_env_file_it_says_why_cron_needs_one(spool: Spool) -> None:
    done = spool.run("crontab", DATABASE_URL="sqlite:////nowhere.db")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cron gives a job no environment" in done.stderr


def test_settings_that_only_this_shell_has_are_named(spool: Spool, env_file: str) -> None:
    done = spool.run("--env-file", env_file, "crontab", OPENAI_API_KEY="sk-only-here", GEPP_AUDIT_LOG_FILE="/var/log/x")
    assert "cron does not see OPENAI_API_KEY, which this shell has set" in done.stderr
    assert "--log-file /var/log/x" in done.stdout
    assert "No log file is set" not in done.stderr


def test_install_and_remove_exclude_each_other(spool: Spool) -> None:
    assert spool.run("crontab", "--install", "--remove").exit_code == 2


def test_carriage_returns_and_backslashes_of_others_survive_what_crons_program_shows(
    spool: Spool, env_file: str
) -> None:
    foreign = "# dos\r\n7 7 * * * true\r\n# \\r is two letters, \x08 is one\n7 7 * * * printf 'a\\nb'\n"
    spool.write(foreign)
    assert spool.run("--env-file", env_file, "crontab", "--install").exit_code == 0
    assert spool.text.startswith(foreign + BEGIN)
    assert spool.run("crontab", "--remove").exit_code == 0
    assert spool.text == foreign


@settings(max_examples=5)
@given(
    lines=st.lists(
        st.sampled_from(["# ", "A=", "7 7 7 7 7 "]).flatmap(
            lambda begin: st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=20).map(
                lambda rest: f"{begin}x{rest}"
            )
        ),
        min_size=1,
    )
)
def test_crons_program_gives_back_foreign_lines_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    spool = new_spool(tmp_path_factory.mktemp("spool"))
    foreign = "".join(f"{line}\n" for line in lines)
    spool.write(foreign)
    (spool.folder / ".env").write_text("DATABASE_URL=sqlite:////nowhere.db\n")
    done = spool.run("crontab", "--install")
    assert done.exit_code == 0, done.stderr
    assert spool.text.startswith(foreign + BEGIN)
    assert spool.run("crontab", "--remove").exit_code == 0
    assert spool.text == foreign


def test_the_printed_line_processes_the_queue_under_a_real_cron_and_the_doctor_sees_both(
    spool: Spool, tmp_path: Path, simulator: Simulator
) -> None:
    url = f"sqlite:///{tmp_path / 'platform.db'}"
    initialize(url)
    platform = Platform(url, "embedded")
    queue = SampleQueue(platform)
    queue.queue([*CLEAN, BROKEN])
    env_file = tmp_path / "it's 100% ours.env"
    env_file.touch(mode=0o600)
    values = {"DATABASE_URL": url, "GEPP_AUDIT_LOG_FILE": str(tmp_path / "a log.log"), **simulator.environ}
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    block = spool.run("--env-file", str(env_file), "crontab").stdout
    [line] = [one for one in block.splitlines() if one.startswith("* * * * *")]
    with running_cron(tmp_path / "home", line) as cron:
        wait_until(lambda: labels_settled(queue), 60, what="the end of the batch")
        cron.wait_for_jobs(2)
        assert (cron.stdout, cron.stderr, set(cron.exit_codes)) == ("", "", {0})
        spool.run("--env-file", str(env_file), "crontab", "--install")
        done = spool.run("--env-file", str(env_file), "doctor", "--json")
    platform.close()
    checks = {check["name"]: check for check in done.json()["checks"]}
    assert checks["crontab"]["status"] == "ok", checks["crontab"]
    assert {checks[name]["status"] for name in ("settings", "env-file", "log-file", "runs")} == {"ok"}, checks


def test_a_real_cron_runs_the_quoted_words_as_they_were(tmp_path: Path) -> None:
    words = ["100%", "%", "a b", "it's", "back\\slash", "\\%", "\\\\%", "$HOME", "`x`", "ขยะ", '"', "#x", "*"]
    out = tmp_path / "out"
    line = " ".join(block.quoted(word) for word in ["printf", "%s\\0", *words])
    with running_cron(tmp_path / "home", f"* * * * * {line} > {shlex.quote(str(out))}") as cron:
        cron.wait_for_jobs(1)
        assert out.read_bytes().decode() == "".join(f"{word}\0" for word in words)
