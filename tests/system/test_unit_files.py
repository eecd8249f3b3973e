"""The files under scripts/ that start and rotate, each checked by the tool that reads it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gepp_audit.cli import main
from gepp_audit.crontabs import lines
from gepp_audit.queue.doctor.logrotate import rules
from tests.support.processes import ROOT

SYSTEMD = ROOT / "scripts" / "systemd"
CRONJOB = ROOT / "scripts" / "kubernetes" / "cronjob.yaml"
PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
#: of 10 (100 in the tool's own count): 0 would be a service that may do nothing at all
MOST_EXPOSED = 20


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={"PATH": PATH, "HOME": "/", "SYSTEMD_PAGER": "", "SYSTEMD_LOG_LEVEL": "info"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


# -- systemd -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The units with this machine's program: the timer, its service, the server."""
    program = Path(sys.executable).with_name("gepp-audit")
    for unit in SYSTEMD.iterdir():
        text = unit.read_text(encoding="utf-8")
        (tmp_path / unit.name).write_text(text.replace("/opt/gepp-audit/.venv/bin/gepp-audit", str(program)))
    return tmp_path / "gepp-audit.timer", tmp_path / "gepp-audit.service", tmp_path / "gepp-audit-web.service"


def test_systemd_takes_the_units_without_a_word(units: tuple[Path, Path, Path]) -> None:
    done = run("systemd-analyze", "verify", "--man=no", *units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_mistake_in_a_unit_is_found(units: tuple[Path, Path, Path]) -> None:
    timer, service, _ = units
    service.write_text(service.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    assert "'NoNewPrivilege'" in run("systemd-analyze", "verify", "--man=no", timer, service).stderr


def test_the_services_are_shut_in(units: tuple[Path, Path, Path]) -> None:
    for unit in units[1:]:
        done = run("systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", unit)
        assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", ["gepp-audit.service", "gepp-audit-web.service"])
def test_a_service_is_not_roots_and_reads_the_env_file_itself(name: str) -> None:
    text = (SYSTEMD / name).read_text(encoding="utf-8")
    assert re.search(r"^User=(?!root$)\S+$", text, re.MULTILINE)
    assert "--env-file /etc/gepp-audit.env" in text
    assert not re.search(r"^Environment", text, re.MULTILINE)


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def cronjob() -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(CRONJOB.read_text(encoding="utf-8"))
    return loaded


def test_the_cronjob_is_what_kubernetes_schema_says_without_an_unknown_field() -> None:
    import kubernetes_validate

    kubernetes_validate.validate(cronjob(), "1.37", strict=True)
    broken = cronjob()
    broken["spec"]["concurrencyPolice"] = broken["spec"].pop("concurrencyPolicy")
    with pytest.raises(kubernetes_validate.ValidationError, match="concurrencyPolice"):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_the_pod_may_do_nothing_that_it_need_not() -> None:
    job = cronjob()["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"]) == (True, False)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} == set(container["resources"])
    assert [list(source) for source in container["envFrom"]] == [["secretRef"]]
    assert "--max-seconds" in container["args"]
    assert job["activeDeadlineSeconds"] > 55 + 60


def test_its_arguments_are_ones_that_the_program_takes() -> None:
    [container] = cronjob()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    given = container["args"]
    place = given.index("process-queue")
    context = main.make_context("gepp-audit", [*given[:place], "--help"], resilient_parsing=True)
    command = main.get_command(context, "process-queue")
    assert command is not None
    assert command.make_context("process-queue", given[place + 1 :]).params["max_seconds"] == 55


# -- logrotate ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rotation(tmp_path: Path) -> tuple[Path, Path]:
    """The configuration for a log of this machine and user, and that log."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    log = tmp_path / "audit.log"
    log.write_text("one line\n")
    text = (ROOT / "scripts" / "logrotate.conf").read_text(encoding="utf-8")
    text = text.replace("/var/log/gepp-audit/audit.log", str(log))
    group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True).stdout.strip()
    text = text.replace("gepp-audit adm", f"{user} {group}")
    path = tmp_path / "rotate.conf"
    path.write_text(text)
    path.chmod(0o644)
    return path, log


def test_logrotate_takes_the_file_without_an_error(rotation: tuple[Path, Path], tmp_path: Path) -> None:
    path, log = rotation
    done = run("logrotate", "--debug", "--state", tmp_path / "state", path)
    assert done.returncode == 0
    assert "error" not in done.stderr.lower()
    assert f"considering log {log}" in done.stderr


def test_the_doctor_reads_that_file_as_logrotate_does(tmp_path: Path) -> None:
    (tmp_path / "etc/logrotate.d").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "logrotate.conf", tmp_path / "etc/logrotate.d/gepp-audit")
    [rule] = rules(tmp_path)
    assert rule.patterns == ("/var/log/gepp-audit/audit.log",)
    assert (rule.has("copytruncate"), rule.has("compress"), rule.has("delaycompress")) == (False, True, True)


# -- crontab.example ---------------------------------------------------------------------------------------------------


def test_the_doctor_finds_the_line_of_crontab_example() -> None:
    text = (ROOT / "crontab.example").read_text(encoding="utf-8")
    [start] = lines.starts(lines.jobs(text))
    assert start.program == ("/opt/gepp-audit/.venv/bin/gepp-audit",)
    assert start.before_command("--env-file") == "/etc/gepp-audit.env"
    assert start.before_command("--log-file") == "/var/log/gepp-audit/audit.log"
