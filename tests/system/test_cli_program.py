"""The program as a process: global options, help, exit codes, what cron and a pipe see."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gepp_audit import __version__
from gepp_audit.cli import COMMANDS

KEY = "sk-hush-key-of-a-test"


def run(
    *args: str, cwd: Path, environ: dict[str, str] | None = None, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    """The program as cron starts it: hardly any environment, no terminal."""
    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), **(environ or {})}
    return subprocess.run(
        [sys.executable, "-m", "gepp_audit", *args],
        cwd=cwd,
        env=bare,
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        check=False,
        **kwargs,
    )


def embedded(tmp_path: Path) -> dict[str, str]:
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/embedded.db", "OPENAI_API_KEY": KEY}
    assert run("init-db", cwd=tmp_path, environ=environ).returncode == 0
    return environ


def test_the_version_is_told(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == f"gepp-audit {__version__}\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_help_and_stands_in_the_list(name: str, tmp_path: Path) -> None:
    listed, own = run("--help", cwd=tmp_path), run(name, "--help", cwd=tmp_path)
    assert (listed.returncode, own.returncode, f"\n  {name} " in listed.stdout) == (0, 0, True)
    assert own.stdout.startswith(f"Usage: gepp-audit {name} [OPTIONS]")


def test_the_list_of_commands_imports_none_of_them(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom gepp_audit.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'sqlalchemy', 'openai', 'rich', 'structlog', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("args", "exit_code"),
    [
        (["--no-such-option"], 2),
        (["no-such-command"], 2),
        (["-v", "-q", "show"], 2),
        (["enqueue"], 2),
        (["import"], 2),
        (["--env-file", "missing", "show"], 2),
        (["show"], 1),
        (["stuck", "--no-such-option"], 3),
        (["--no-such-option", "stuck"], 3),
    ],
)
def test_what_cannot_work_has_its_exit_code_and_a_message(args: list[str], exit_code: int, tmp_path: Path) -> None:
    done = run(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_database_the_places_are_named_and_nothing_is_created(tmp_path: Path) -> None:
    done = run("process-queue", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert f"Looked at the environment and {tmp_path}/.env (no such file)." in done.stderr


def test_an_error_with_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    done = run("show", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["error"]["code"] == "no_database_url"
    assert json.loads(run("show", "--json", "--bogus", cwd=tmp_path).stdout)["error"]["code"] == "usage"


def test_an_idle_tick_of_cron_is_silent_and_logs_nothing(tmp_path: Path) -> None:
    environ = embedded(tmp_path)
    done = run("--log-file", "audit.log", "process-queue", "--max-seconds", "55", cwd=tmp_path, environ=environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "audit.log").read_text() == ""


def test_an_idle_tick_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    environ = embedded(tmp_path)
    script = (
        "import sys\nfrom gepp_audit.cli import main\n"
        "try: main(['process-queue'])\nexcept SystemExit as end: print(end.code)\n"
        "before = set(sys.modules)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'openai', 'alembic', 'rich', 'structlog', 'asyncio', 'httpx2', 'pydantic', 'boto3', 'botocore', 'fastapi',"
        " 'starlette', 'uvicorn', 'jwt', 'jinja2'}))\n"
        "print([name for name in sys.modules if name.startswith(('gepp_audit.aws_lambda', 'gepp_audit.web'))])\n"
        "import gepp_audit.aws_lambda\n"
        "print(sorted({'openai', 'alembic', 'boto3', 'botocore', 'click', 'rich'} & set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    exit_code, imported, function, more_of_the_function = done.stdout.splitlines()
    assert (exit_code, function, more_of_the_function) == ("0", "[]", "[]")
    # SQLAlchemy itself imports asyncio
    assert imported in ("[]", "['asyncio']")


def test_an_env_file_is_found_by_flag_by_variable_and_in_the_working_directory(tmp_path: Path) -> None:
    environ = embedded(tmp_path)
    content = "".join(f"{name}={value}\n" for name, value in environ.items())
    (tmp_path / "conf").write_text(content)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".env").write_text(content)
    codes = [
        run("--env-file", str(tmp_path / "conf"), "show", cwd=tmp_path).returncode,
        run("show", cwd=tmp_path, environ={"GEPP_AUDIT_ENV_FILE": "conf"}).returncode,
        run("show", cwd=elsewhere).returncode,
        run("show", cwd=tmp_path).returncode,
    ]
    assert codes == [0, 0, 0, 1]


def test_all_wrong_settings_are_named_at_once_without_a_secret(tmp_path: Path) -> None:
    environ = {"DATABASE_URL": "mysql://u:hush@h/d", "GEPP_AUDIT_CALL_TIMEOUT": "soon", "OPENAI_API_KEY": KEY + " x"}
    done = run("-v", "show", "--json", cwd=tmp_path, environ=environ)
    assert done.stderr.count("(environment) must be ") >= 3
    assert "hush" not in done.stderr + done.stdout


def test_a_log_file_that_cannot_be_written_stops_the_command_first(tmp_path: Path) -> None:
    done = run("--log-file", "/proc/nowhere/log", "process-queue", cwd=tmp_path, environ=embedded(tmp_path))
    assert (done.returncode, done.stderr.startswith("Error: cannot write the log file /proc/nowhere/log")) == (1, True)


@pytest.mark.parametrize(("command", "exit_code"), [("show", 1), ("stuck", 3)])
def test_an_unreachable_database_is_told_without_its_password(tmp_path: Path, command: str, exit_code: int) -> None:
    environ = {"DATABASE_URL": "postgresql://gepp:hush-password@127.0.0.1:1/gepp"}
    done = run("-v", "--log-file", "log", command, "--json", cwd=tmp_path, environ=environ)
    assert done.returncode == exit_code
    assert "hush" not in done.stdout + done.stderr + (tmp_path / "log").read_text()


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    environ = embedded(tmp_path)
    command = f"{sys.executable} -m gepp_audit init-db --sql; echo $? >&2"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", **environ},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == "0\n"


def test_a_full_disk_under_stdout_is_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gepp_audit", "init-db", "--sql"],
            cwd=Path(__file__).parents[2],
            env={"PATH": "/usr/bin:/bin", **embedded(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, "No space left on device" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colour_is_for_terminals_that_want_it(environ: dict[str, str], coloured: bool, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom gepp_audit import logs\nfrom gepp_audit.cli.app import App\n"
        "app = App(); app.load(); logs.warning('told')"
    )
    main, side = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", **environ},
        stderr=side,
        check=True,
    )
    os.close(side)
    told = os.read(main, 10_000).decode()
    os.close(main)
    assert ("told" in told, "\x1b[" in told) == (True, coloured)


def test_a_terminal_that_can_only_print_is_told_what_was_done(tmp_path: Path) -> None:
    environ = embedded(tmp_path)
    main, side = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "gepp_audit", "process-queue"],
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"], **environ, "TERM": "dumb"},
        stdout=side,
        stderr=side,
        check=True,
    )
    os.close(side)
    told = os.read(main, 10_000).decode()
    os.close(main)
    assert told.splitlines() == ["Nothing to do."]


def test_an_interrupt_while_the_program_loads_is_no_traceback(tmp_path: Path) -> None:
    # it arrives when the first module of ours is looked for behind the entry point
    script = (
        "import os, runpy, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'gepp_audit.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.argv = ['gepp-audit', '--version']\n"
        "runpy.run_module('gepp_audit', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
