"""`doctor` as a process: exit codes, the plugin's line, JSON, the provider asked, and that it changes nothing."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gepp_audit.queue.doctor import CHECKS
from tests.support.platforms import Platform
from tests.support.processes import PROGRAM, ROOT, Finished, Programs, Simulator, running_simulator
from tests.support.queues import OURS, everything, theirs
from tests.support.secrets import TEST_API_KEY

on_new = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
STATUSES = ("ok", "warning", "critical", "unknown")


@pytest.fixture(scope="module")
def provider() -> Iterator[Simulator]:
    """One simulator for all that only ask for its models."""
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture
def programs(programs: Programs, platform: Platform) -> Programs:
    programs.environ |= {"DATABASE_URL": platform.url, "OPENAI_API_KEY": "sk-0123456789abcdefghij"}
    return programs


def checks(done: Finished) -> dict[str, dict[str, str | None]]:
    return {check["name"]: check for check in done.json()["checks"]}


def at_a_terminal(programs: Programs, **environ: str) -> str:
    """What a person sees of it on a screen of 80 columns."""
    leader, follower = pty.openpty()
    whole = {**programs.environ, "PATH": "/usr/bin:/bin", "COLUMNS": "80", "PYTHONPATH": str(ROOT), **environ}
    with subprocess.Popen([*PROGRAM, "doctor"], env=whole, stdin=follower, stdout=follower, cwd=programs.home):
        os.close(follower)
        told = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(leader, 65_536):
                told += part
    os.close(leader)
    return told.decode()


# -- how it looks ------------------------------------------------------------------------------------------------------


def test_the_first_line_is_a_plugins_and_the_exit_code_its_status(platform: Platform, programs: Programs) -> None:
    done = programs.run("doctor")
    first, *rest = done.stdout.splitlines()
    found = re.fullmatch(
        r"(\w+) - (\d+) of (\d+) checks: .+ \| ok=(\d+) warning=(\d+) critical=(\d+) unknown=(\d+)", first
    )
    assert found is not None, first
    assert STATUSES.index(found[1].lower()) == done.exit_code
    assert sum(map(int, found.groups()[3:])) == int(found[3])
    # no run has ever reported on this database
    assert "CRITICAL runs: No run of gepp-audit has ever reported." in rest
    assert (done.exit_code, done.stderr) == (2, "")


@on_new
def test_json_holds_each_check_and_each_setting_with_its_origin_and_no_secret(
    platform: Platform, programs: Programs, tmp_path: Path
) -> None:
    env_file = tmp_path / "e.env"
    env_file.write_text("GEPP_AUDIT_CONCURRENCY=7\n")
    done = programs.run("--env-file", str(env_file), "doctor", "--json")
    told = done.json()
    commands = [
        command
        for check in told["checks"]
        for command in re.findall(r'"([^"]*gepp_audit [^"]*)"', (check["fix"] or "").replace("sudo -u gepp-audit ", ""))
    ]
    assert len(commands) >= 2
    assert [one for one in commands if f" -m gepp_audit --env-file {env_file} " not in one] == []
    assert set(told) == {"status", "checks", "settings"}
    assert {frozenset(check) for check in told["checks"]} == {frozenset({"name", "subject", "status", "seen", "fix"})}
    assert [check["name"] for check in told["checks"]] == [
        spec.name for spec in CHECKS if spec.name not in ("provider", "sqlite-file")
    ]
    assert all((check["fix"] is None) == (check["status"] == "ok") for check in told["checks"])
    settings = {one["name"]: (one["value"], one["origin"]) for one in told["settings"]}
    assert settings["GEPP_AUDIT_CONCURRENCY"] == ("7", f"env file {env_file} line 1")
    assert settings["OPENAI_API_KEY"] == ("***", "environment")
    assert settings["DATABASE_URL"][0].startswith("postgresql://gepp:***@")
    assert settings["GEPP_AUDIT_MODEL"] == ("gpt-6-luna", "default")


@on_new
def test_colour_is_for_a_terminal_alone(platform: Platform, programs: Programs) -> None:
    coloured, plain = (at_a_terminal(programs, TERM="xterm", **more) for more in ({}, {"NO_COLOR": "1"}))
    assert "\x1b[1;31mcritical" in coloured
    assert "\x1b[3" not in plain
    tables = [line for line in plain.replace("\r", "").split("\n") if line.startswith((" database", " runs", " GEPP"))]
    assert tables
    assert all(len(line.rstrip()) <= 80 for line in tables)


# -- what it does not do -----------------------------------------------------------------------------------------------


def test_it_changes_nothing(platform: Platform, programs: Programs, tmp_path: Path) -> None:
    from tests.support import steps

    platform.rule()
    organization = platform.organization()
    platform.batch(organization, platform.transactions(organization, 2))
    steps.take_up(platform)
    tables = (*OURS, *theirs(platform))
    before = everything(platform, *tables)
    files = sorted(path.name for path in tmp_path.iterdir())
    log = tmp_path / "not-yet.log"
    assert programs.run("doctor", GEPP_AUDIT_LOG_FILE=str(log)).exit_code == 2
    assert everything(platform, *tables) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == files


@on_new
@pytest.mark.parametrize(("wrong", "told"), [("+90s", "1 min ahead of"), ("-90s", "1 min behind"), ("+0s", None)])
def test_a_clock_that_differs_from_the_databases_is_told(
    platform: Platform, programs: Programs, wrong: str, told: str | None
) -> None:
    done = programs.run("doctor", "--json", LD_PRELOAD="/usr/$LIB/faketime/libfaketime.so.1", FAKETIME=wrong)
    found = checks(done)["clock"]
    if told is None:
        assert found["status"] == "ok"
    else:
        assert (found["status"], told in str(found["seen"])) == ("warning", True), found


# -- when it cannot look -----------------------------------------------------------------------------------------------


@on_new
@pytest.mark.parametrize("args", [["doctor", "--no-such-option"], ["doctor", "extra"]])
def test_wrong_usage_is_unknown_and_exit_3(platform: Platform, programs: Programs, args: list[str]) -> None:
    assert programs.run(*args).exit_code == 3


@on_new
@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"DATABASE_URL": "postgresql://gepp:x@127.0.0.1:1/gepp"}, "connection refused"),
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "sqlite:////nowhere/p.db"}, "there is no database at /nowhere/p.db"),
        ({"GEPP_AUDIT_CONCURRENCY": "many"}, "must be a whole number"),
        ({"GEPP_AUDIT_ENV_FILE": "/nowhere.env"}, "cannot read the env file"),
    ],
)
def test_without_a_database_or_settings_it_is_unknown_and_says_why_and_what_to_do(
    platform: Platform, programs: Programs, environ: dict[str, str], told: str
) -> None:
    done = programs.run("doctor", environ=environ)
    assert (done.exit_code, done.stderr) == (3, "")
    assert done.stdout.startswith("UNKNOWN - ")
    assert told in done.stdout
    assert "Traceback" not in done.stdout
    # what cannot be looked at for one reason is told once
    [reason] = re.findall(r"(?m)^(?:UNKNOWN|CRITICAL) (?!- ).*schema, platform, .*runs, rival: (.*)", done.stdout)
    _, _, below = done.stdout.rpartition("CHECK ")
    assert len(re.findall(rf"^[A-Z]+ .*{re.escape(reason)}", below, re.MULTILINE)) == 1


@on_new
def test_wrong_settings_are_told_as_json_too(platform: Platform, programs: Programs) -> None:
    done = programs.run("doctor", "--json", GEPP_AUDIT_CONCURRENCY="many")
    found = checks(done)
    assert (done.exit_code, done.json()["status"], found["settings"]["status"]) == (3, "unknown", "critical")
    assert done.json()["settings"] == []


# -- the provider ------------------------------------------------------------------------------------------------------


@on_new
def test_online_asks_for_the_models_and_buys_nothing(
    platform: Platform, programs: Programs, provider: Simulator
) -> None:
    model = "simulator-1"
    done = programs.run("doctor", "--online", "--json", environ=provider.environ, GEPP_AUDIT_MODEL=model)
    found = checks(done)["provider"]
    assert (found["status"], f"and has {model}" in str(found["seen"])) == ("ok", True), found
    assert provider.calls() == []


@on_new
@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OPENAI_API_KEY": "sk-not-this-one"}, "rejected the API key (HTTP 401, invalid_api_key)."),
        ({"GEPP_AUDIT_MODEL": "gpt-9-nothing"}, "has no model gpt-9-nothing"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, "No connection to the provider could be made"),
        ({"OPENAI_BASE_URL": "http://no-such-host.invalid/v1"}, "host name cannot be resolved"),
    ],
)
def test_online_says_what_the_provider_refuses(
    platform: Platform, programs: Programs, provider: Simulator, environ: dict[str, str], told: str
) -> None:
    done = programs.run("doctor", "--online", "--json", environ={**provider.environ, **environ})
    found = checks(done)["provider"]
    assert (found["status"], told in str(found["seen"])) == ("critical", True), found
    assert TEST_API_KEY not in done.stdout


@on_new
def test_a_key_that_is_refused_is_told_once_with_the_setting_that_it_came_from(
    platform: Platform, programs: Programs, provider: Simulator, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("sk-not-this-one-either\n")
    environ = {**provider.environ, "OPENAI_API_KEY": "", "OPENAI_API_KEY_FILE": str(file)}
    found = checks(programs.run("doctor", "--online", "--json", environ=environ))["provider"]
    assert found["fix"] == f"Put a valid key into {file} (OPENAI_API_KEY_FILE)."
    assert str(found["seen"]).count("API key") == 1, found


@on_new
def test_a_server_without_a_list_of_models_leaves_the_key_untried(
    platform: Platform, programs: Programs, provider: Simulator
) -> None:
    environ = {**provider.environ, "OPENAI_BASE_URL": f"{provider.url}/elsewhere"}
    found = checks(programs.run("doctor", "--online", "--json", environ=environ))["provider"]
    assert (found["status"], "keeps no list of models" in str(found["seen"])) == ("unknown", True), found


@on_new
def test_without_online_the_provider_is_not_asked(platform: Platform, programs: Programs) -> None:
    done = programs.run("doctor", "--json", OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    assert "provider" not in checks(done)
