"""The doctor's checks of configuration, provider and machine, on folders that stand for machines; and its report."""

from __future__ import annotations

import os
import pwd
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.audit import pricing
from gepp_audit.errors import OperatorError
from gepp_audit.provider import models
from gepp_audit.queue.diagnosis import Status
from gepp_audit.queue.doctor import CHECKS, Check, Report, Surroundings, examine
from gepp_audit.queue.doctor.check import Subject
from gepp_audit.queue.doctor.logrotate import rules
from gepp_audit.queue.doctor.machine import Account, Machine, Process
from gepp_audit.settings import load

#: who owns what the tests write, and somebody else
ME = pwd.getpwuid(os.geteuid()).pw_name
OTHER = "nobody"
CRON = Process(pid=7, name="cron", command=("/usr/sbin/cron", "-f"))
KEY = "sk-0123456789abcdefghijk"


class Box:
    """A machine below a folder, filled file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings: dict[str, str] = {"OPENAI_API_KEY": KEY}
        self.processes: tuple[Process, ...] = (CRON,)
        self.uid = 12345
        self.environ: dict[str, str] = {}
        root.chmod(0o755)

    def write(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def examine(self) -> dict[str, Check]:
        machine = Machine(
            root=self.root,
            uid=self.uid,
            host="worker-1",
            environ=self.environ,
            running=self.processes,
            system_uid=os.geteuid(),
        )
        around = Surroundings(load({}, self.settings, self.root), machine)
        return {check.name: check for check in examine(around).checks}

    def check(self, name: str) -> Check:
        return self.examine()[name]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def installed(box: Box) -> Box:
    """A machine on which everything is as the README has it: a line of cron.d, its program, its files."""
    box.write("opt/bin/python", "ELF", 0o755)
    box.write("opt/bin/gepp-audit", "#!/opt/bin/python\n", 0o755)
    box.write("etc/gepp-audit.env", "", 0o600)
    box.write("var/log/gepp-audit/audit.log", "", 0o600)
    line(
        box, "/opt/bin/gepp-audit --env-file /etc/gepp-audit.env --log-file /var/log/gepp-audit/audit.log process-queue"
    )
    return box


def line(box: Box, command: str, *, user: str = ME, name: str = "gepp-audit", end: str = "\n") -> None:
    box.write(f"etc/cron.d/{name}", f"* * * * * {user} {command}{end}")


# -- configuration -----------------------------------------------------------------------------------------------------


def test_a_name_in_the_env_file_that_is_spelled_wrong_is_told_with_what_was_meant(box: Box) -> None:
    box.write(".env", "GEPP_AUDIT_CONCURENCY=4\n", 0o600)
    found = box.check("settings")
    assert (found.status, "did you mean GEPP_AUDIT_CONCURRENCY?" in found.seen) == (Status.WARNING, True)


@pytest.mark.parametrize(
    ("mode", "status"),
    [
        (0o600, Status.OK),
        (0o400, Status.OK),
        (0o640, Status.WARNING),
        (0o604, Status.WARNING),
        (0o666, Status.CRITICAL),
    ],
)
def test_an_env_file_that_others_may_read_or_write_is_told(box: Box, mode: int, status: Status) -> None:
    path = box.write(".env", "", mode)
    found = box.check("env-file")
    assert found.status is status
    assert found.fix == (None if status is Status.OK else f"chmod 600 {path}")


def test_several_wrong_settings_are_told_in_one_line(tmp_path: Path) -> None:
    error = OperatorError("2 settings are wrong:\n  X is bad\n  Y is bad", fix="Correct them.", code="wrong_settings")
    report = examine(Surroundings(error, Machine(root=tmp_path, uid=1, environ={}, running=())))
    assert not [check.name for check in report.checks if "\n" in check.seen]
    [settings] = [check for check in report.checks if check.name == "settings"]
    assert settings.seen == "2 settings are wrong: X is bad; Y is bad"


def test_wrong_settings_are_a_finding_and_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    error = OperatorError("a setting is wrong: X.", fix="Correct it.", code="wrong_settings")
    report = examine(Surroundings(error, Machine(root=tmp_path, uid=1, environ={}, running=(CRON,))))
    checks = {check.name: check for check in report.checks}
    assert (checks["settings"].status, checks["settings"].seen) == (Status.CRITICAL, "a setting is wrong: X.")
    assert (checks["cron-daemon"].status, checks["database"].status) == (Status.OK, Status.UNKNOWN)
    assert (report.status, report.settings) == (Status.UNKNOWN, ())


# -- provider ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "url", "status"),
    [
        ("", "", Status.CRITICAL),
        (KEY, "", Status.OK),
        ("pk-0123456789abcdefghijk", "", Status.WARNING),
        ("sk-short", "", Status.WARNING),
        ("anything", "http://gateway/v1", Status.OK),
    ],
)
def test_a_key_is_set_and_looks_like_one_and_is_not_shown(box: Box, key: str, url: str, status: Status) -> None:
    box.settings = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": url}
    found = box.check("key")
    assert found.status is status
    assert not key or key not in found.seen + (found.fix or "")


def test_a_model_that_is_not_known_is_a_warning_at_openai_alone(box: Box) -> None:
    box.settings["GEPP_AUDIT_MODEL"] = "llama-9"
    assert box.check("model").status is Status.WARNING
    box.settings["OPENAI_BASE_URL"] = "http://gateway/v1"
    assert box.check("model").status is Status.OK


def test_a_shutdown_is_told_60_days_before_and_is_critical_from_that_day_on(box: Box) -> None:
    today = datetime.now(UTC).date()
    for day, names in models._SHUTDOWN.items():
        box.settings["GEPP_AUDIT_MODEL"] = names[0]
        left = (day - today).days
        expected = Status.CRITICAL if left <= 0 else Status.WARNING if left <= 60 else Status.OK
        found = box.check("model-shutdown")
        assert (found.status, str(day) in found.seen) == (expected, True), names[0]
    box.settings["OPENAI_BASE_URL"] = "http://gateway/v1"
    assert "model-shutdown" not in box.examine()


def test_the_price_of_a_model_is_told_with_its_date_or_what_sets_it(box: Box) -> None:
    found = box.check("price")
    assert "gpt-6-luna costs 0.1 USD for 1,000,000 tokens in, 0.01 from the cache, 0.5 out" in found.seen
    assert str(pricing.PRICES_READ) in found.seen
    box.settings["GEPP_AUDIT_MODEL"] = "llama-9"
    assert (box.check("price").status, "GEPP_AUDIT_PRICES=" in (box.check("price").fix or "")) == (Status.WARNING, True)
    box.settings["GEPP_AUDIT_PRICES"] = '{"llama-9": {"input": "0.5", "output": "2"}}'
    assert (
        "costs 0.5 USD for 1,000,000 tokens in, 0.5 from the cache, 2 out (GEPP_AUDIT_PRICES)"
        in box.check("price").seen
    )


# -- cron --------------------------------------------------------------------------------------------------------------


def test_a_line_whose_program_and_files_are_real_is_ok(installed: Box) -> None:
    found = installed.check("crontab")
    assert (found.status, found.seen) == (
        Status.OK,
        "Line 1 of /etc/cron.d/gepp-audit starts the queue; all paths are real.",
    )


def test_no_line_and_no_timer_is_a_warning(box: Box) -> None:
    assert box.check("crontab").status is Status.WARNING


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ({"program": "/opt/gone/gepp-audit"}, "there is no folder"),
        ({"program": "/opt/gepp-audit"}, "its program cannot be started: there is no file /opt/gepp-audit"),
        ({"program": "gepp-audit"}, "gepp-audit is not in the PATH that cron gives (/usr/bin:/bin)"),
        ({"env_file": "/etc/gone.env"}, "its env file is of no use: there is no file"),
        ({"env_file": "gepp.env"}, "its env file gepp.env is not an absolute path"),
        ({"log_file": "/var/gone/audit.log"}, "its log file is of no use: there is no folder"),
        ({"more": "; date +%s"}, "a % in it ends the command for cron"),
        ({"end": ""}, "it has no newline at its end, so cron leaves it out"),
        ({"user": "no-such-user"}, "there is no user no-such-user"),
        ({"name": "gepp.audit"}, "cron does not read the file, since its name gepp.audit holds something beside"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(installed: Box, change: dict[str, str], trouble: str) -> None:
    (installed.root / "etc/cron.d/gepp-audit").unlink()
    program = change.get("program", "/opt/bin/gepp-audit")
    env_file = change.get("env_file", "/etc/gepp-audit.env")
    log_file = change.get("log_file", "/var/log/gepp-audit/audit.log")
    line(
        installed,
        f"{program} --env-file {env_file} --log-file {log_file} process-queue{change.get('more', '')}",
        user=change.get("user", ME),
        name=change.get("name", "gepp-audit"),
        end=change.get("end", "\n"),
    )
    found = installed.check("crontab")
    assert (found.status, trouble in found.seen) == (Status.CRITICAL, True), found.seen
    assert 'Run "gepp-audit crontab --install"' in (found.fix or "")


def test_a_script_whose_interpreter_is_gone_is_seen(installed: Box) -> None:
    (installed.root / "opt/bin/python").unlink()
    assert "the interpreter of" in installed.check("crontab").seen


def test_files_of_cron_d_that_others_may_write_are_not_read_by_cron(installed: Box) -> None:
    (installed.root / "etc/cron.d/gepp-audit").chmod(0o666)
    assert "cron does not read the file" in installed.check("crontab").seen


def test_a_line_without_an_env_file_has_no_settings(installed: Box) -> None:
    line(installed, "/opt/bin/gepp-audit process-queue")
    assert "it names no env file" in installed.check("crontab").seen
    line(installed, "GEPP_AUDIT_ENV_FILE=/etc/gepp-audit.env /opt/bin/gepp-audit process-queue")
    assert installed.check("crontab").status is Status.OK


def test_a_program_without_a_slash_is_looked_for_in_the_crontabs_own_path(installed: Box) -> None:
    text = f"PATH=/opt/bin:/bin\n* * * * * {ME} gepp-audit --env-file /etc/gepp-audit.env process-queue\n"
    installed.write("etc/cron.d/gepp-audit", text)
    assert installed.check("crontab").status is Status.OK


def test_a_line_with_other_settings_than_the_doctors_is_told(installed: Box) -> None:
    installed.write(".env", "", 0o600)
    found = installed.check("crontab")
    assert (found.status, "takes its settings from /etc/gepp-audit.env" in found.seen) == (Status.WARNING, True)
    assert (found.fix or "").startswith('Run "gepp-audit --env-file /etc/gepp-audit.env doctor"')


def test_the_crontabs_of_users_are_read_from_the_spool(installed: Box) -> None:
    (installed.root / "etc/cron.d/gepp-audit").unlink()
    text = "* * * * * /opt/bin/gepp-audit --env-file /etc/gepp-audit.env process-queue\n"
    installed.write(f"var/spool/cron/crontabs/{ME}", text, 0o600)
    assert f"Line 1 of the crontab of {ME} starts the queue" in installed.check("crontab").seen


@pytest.mark.parametrize("name", ["cron", "crond"])
def test_a_cron_that_runs_is_ok_and_none_is_critical(box: Box, name: str) -> None:
    box.processes = (Process(pid=1, name="init", command=()), Process(pid=9, name=name, command=()))
    assert box.check("cron-daemon").seen == f"{name} runs (process 9)."
    box.processes = (Process(pid=1, name="init", command=()),)
    assert box.check("cron-daemon").status is Status.CRITICAL


def test_a_systemd_timer_stands_for_cron(box: Box) -> None:
    box.processes = (Process(pid=1, name="init", command=()),)
    timer = box.write("etc/systemd/system/gepp-audit.timer")
    box.write("etc/systemd/system/gepp-audit.service", "[Service]\nExecStart=/opt/bin/gepp-audit process-queue\n")
    wanted = box.root / "etc/systemd/system/timers.target.wants"
    wanted.mkdir()
    (wanted / timer.name).symlink_to(timer)
    assert {box.check(name).status for name in ("cron-daemon", "crontab")} == {Status.OK}


def test_a_timer_and_a_line_are_one_too_many(installed: Box) -> None:
    timer = installed.write("etc/systemd/system/gepp-audit.timer")
    installed.write("etc/systemd/system/gepp-audit.service", "[Service]\nExecStart=/x process-queue\n")
    (installed.root / "etc/systemd/system/timers.target.wants").mkdir()
    (installed.root / "etc/systemd/system/timers.target.wants" / timer.name).symlink_to(timer)
    found = installed.check("crontab")
    assert (found.status, found.fix) == (Status.WARNING, "Keep one of the two.")


def test_in_a_cluster_no_cron_is_needed(box: Box) -> None:
    box.environ["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"
    box.processes = (Process(pid=1, name="gepp-audit", command=()),)
    assert {box.check(name).status for name in ("cron-daemon", "crontab", "user")} == {Status.OK}


def test_root_is_told_to_run_it_as_somebody_else(installed: Box) -> None:
    line(installed, "/opt/bin/gepp-audit --env-file /etc/gepp-audit.env process-queue", user="root")
    found = installed.check("user")
    assert (found.status, "line 1 of /etc/cron.d/gepp-audit runs the queue as root" in found.seen.lower()) == (
        Status.WARNING,
        True,
    )
    (installed.root / "etc/cron.d/gepp-audit").unlink()
    assert installed.check("user").status is Status.OK
    installed.uid = 0
    assert (installed.check("user").fix or "").endswith('"sudo -u gepp-audit gepp-audit doctor".')
    env_file = installed.write(".env", "", 0o600)
    found = installed.check("user")
    assert found.status is Status.WARNING
    # sudo hands on no environment that could name the file
    assert f'"sudo -u gepp-audit gepp-audit --env-file {env_file} doctor"' in (found.fix or "")


# -- rivals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "python /srv/cron_process_audit_queue.py",
        "curl -XPOST http://x/api/transaction_audit/process_queue -H 'B: secret'",
    ],
)
def test_the_platforms_own_cron_is_seen_in_a_crontab_and_not_quoted(box: Box, command: str) -> None:
    box.write("etc/crontab", f"SHELL=/bin/sh\n* * * * * root {command}\n")
    found = box.check("rival")
    assert (found.status, "line 2 of /etc/crontab" in found.seen) == (Status.CRITICAL, True)
    assert "secret" not in found.seen


def test_the_platforms_own_cron_is_seen_among_the_processes(box: Box) -> None:
    box.processes = (CRON, Process(pid=99, name="python", command=("python", "-m", "cron_process_audit_queue")))
    assert "process 99" in box.check("rival").seen


# -- log files ---------------------------------------------------------------------------------------------------------

ROTATE = "/var/log/gepp-audit/*.log {\n  daily\n  rotate 14\n  create 0640 gepp adm\n  compress\n  delaycompress\n}\n"


@pytest.fixture
def rotated(installed: Box) -> Box:
    installed.write("etc/logrotate.conf", "weekly\ninclude /etc/logrotate.d\n")
    installed.write("etc/logrotate.d/gepp-audit", ROTATE)
    installed.write("usr/sbin/logrotate", "", 0o755)
    return installed


def test_a_log_file_that_can_be_written_and_is_rotated_is_ok(rotated: Box) -> None:
    checks = rotated.examine()
    assert (checks["log-file"].status, checks["log-rotation"].status) == (Status.OK, Status.OK)
    assert "/etc/logrotate.d/gepp-audit rotates /var/log/gepp-audit/audit.log" in checks["log-rotation"].seen


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("gepp-audit", ROTATE.replace("audit/", "other/"), "No rule of logrotate names"),
        ("gepp-audit", ROTATE.replace("create 0640 gepp adm", "copytruncate"), "copytruncate"),
        ("gepp-audit", ROTATE.replace("  delaycompress\n", ""), "compresses"),
        ("gepp-audit.dpkg-old", ROTATE, "No rule of logrotate names"),
    ],
)
def test_a_rotation_that_is_missing_or_loses_lines_is_told(rotated: Box, name: str, text: str, told: str) -> None:
    (rotated.root / "etc/logrotate.d/gepp-audit").unlink()
    rotated.write(f"etc/logrotate.d/{name}", text)
    found = rotated.check("log-rotation")
    assert (found.status, told in found.seen) == (Status.WARNING, True), found


def test_a_directive_for_all_counts_and_a_rules_own_word_is_the_last(rotated: Box) -> None:
    rotated.write("etc/logrotate.conf", "copytruncate\ninclude /etc/logrotate.d\n")
    assert "copytruncate" in rotated.check("log-rotation").seen
    rotated.write("etc/logrotate.d/gepp-audit", ROTATE.replace("daily", "nocopytruncate"))
    assert rotated.check("log-rotation").status is Status.OK


def test_logrotate_itself_is_missed(rotated: Box) -> None:
    (rotated.root / "usr/sbin/logrotate").unlink()
    assert "logrotate is not installed" in rotated.check("log-rotation").seen


def test_rules_with_scripts_several_names_and_quotes_are_read(box: Box) -> None:
    script = "  postrotate\n    if x; then { y } fi\n  endscript\n"
    text = f'compress\n"/a b.log" /c.log\n/d.log {{\n{script}  nocompress\n}}\n/e {{\n}}\n'
    box.write("etc/logrotate.conf", text)
    first, second = rules(box.root)
    assert (first.patterns, first.has("compress")) == (("/a b.log", "/c.log", "/d.log"), False)
    assert (second.patterns, second.has("compress")) == (("/e",), True)


@given(text=st.text())
def test_any_configuration_of_logrotate_is_read_without_an_error(tmp_path_factory: Any, text: str) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "etc").mkdir()
    (root / "etc/logrotate.conf").write_text(text.replace("include", "exclude"), encoding="utf-8", errors="replace")
    rules(root)


def test_a_log_file_in_a_folder_that_is_not_there_is_critical(box: Box) -> None:
    box.settings["GEPP_AUDIT_LOG_FILE"] = "/gone/audit.log"
    found = box.check("log-file")
    assert (found.status, "there is no folder" in found.seen) == (Status.CRITICAL, True)


def test_the_doctor_creates_no_log_file(box: Box) -> None:
    box.settings["GEPP_AUDIT_LOG_FILE"] = str(box.root / "audit.log")
    box.examine()
    assert not (box.root / "audit.log").exists()


# -- what a user may do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "need", "uid", "groups", "allowed"),
    [
        (0o600, "r", 1, (), True),
        (0o600, "r", 2, (1,), False),
        (0o640, "r", 2, (1,), True),
        (0o640, "w", 2, (1,), False),
        (0o604, "r", 2, (1,), False),
        (0o604, "r", 3, (), True),
        (0o755, "x", 3, (), True),
        (0o644, "x", 0, (), False),
        (0o000, "r", 0, (), True),
    ],
)
def test_owner_group_and_mode_say_who_may(
    tmp_path: Path, mode: int, need: str, uid: int, groups: tuple[int, ...], allowed: bool
) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    status = path.stat()
    # 1 stands for the owner and his group, whoever runs the tests
    real = {1: status.st_uid, 2: status.st_uid + 1, 3: status.st_uid + 2, 0: 0}
    if status.st_uid == 0 and uid == 1 and not allowed:
        return  # root may read whatever the mode
    tmp_path.chmod(0o755)
    account = Account(name="a", uid=real[uid], groups=frozenset({status.st_gid} if groups else ()))
    assert (Machine(root=tmp_path).why_not(account, "/file", need) is None) is allowed


# -- the report --------------------------------------------------------------------------------------------------------


def checks_of(*statuses: Status, name: str = "x") -> tuple[Check, ...]:
    return tuple(Check(name=name, subject=Subject.MACHINE, status=one, seen="", fix=None) for one in statuses)


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [
        ((Status.OK,), Status.OK),
        ((Status.OK, Status.UNKNOWN), Status.UNKNOWN),
        ((Status.UNKNOWN, Status.WARNING), Status.WARNING),
        ((Status.WARNING, Status.CRITICAL, Status.UNKNOWN), Status.CRITICAL),
        ((), Status.UNKNOWN),
    ],
)
def test_the_worst_check_decides_and_unknown_is_less_than_a_warning(
    statuses: tuple[Status, ...], whole: Status
) -> None:
    assert Report(checks=checks_of(*statuses)).status is whole


def test_a_database_out_of_reach_makes_the_whole_report_unknown() -> None:
    database = checks_of(Status.UNKNOWN, name="database")
    assert Report(checks=(*database, *checks_of(Status.CRITICAL))).status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OperatorError("the cat is on it.", fix="Feed it.", code="cat"), "the cat is on it."),
        (PermissionError(13, "Permission denied", "/etc/x"), "Permission denied (/etc/x)"),
        (ZeroDivisionError("secret"), "ZeroDivisionError"),
    ],
)
def test_a_check_that_raises_is_unknown_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, box: Box, error: Exception, told: str
) -> None:
    from dataclasses import replace

    from gepp_audit.queue.doctor import examination

    def fail(_: Surroundings) -> None:
        raise error

    broken = replace(CHECKS[0], look=fail)
    monkeypatch.setattr(examination, "CHECKS", (broken, *CHECKS[1:]))
    checks = box.examine()
    assert (checks["settings"].status, told in checks["settings"].seen) == (Status.UNKNOWN, True)
    assert "secret" not in checks["settings"].seen
    assert checks["cron-daemon"].status is Status.OK


def test_every_check_has_a_name_a_meaning_and_a_fix_in_words() -> None:
    names = [spec.name for spec in CHECKS]
    assert len(set(names)) == len(names)
    for spec in CHECKS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", spec.name)
        assert spec.meaning.endswith(".")
        assert spec.fix.endswith((".", ")"))
        assert spec.look.__doc__


def test_the_notice_of_a_shutdown_is_two_months() -> None:
    from gepp_audit.queue.doctor import provider

    assert timedelta(days=60) == provider._NOTICE
