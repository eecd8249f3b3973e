"""How an invocation ends: exit codes, messages, and what is never in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import create_engine, text

from gepp_audit import logs
from gepp_audit.cli.app import App
from gepp_audit.cli.ending import run_to_exit_code
from gepp_audit.cli.render import Result
from gepp_audit.errors import OperatorError


@pytest.fixture(autouse=True)
def _no_secrets_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    logs.shutdown()


def raising(error: BaseException) -> Callable[[], Any]:
    def invoke() -> Any:
        raise error

    return invoke


#: put together here, so that no source line in a traceback holds it
ROW_VALUE = "-".join(("row", "value"))


def operator_error(exit_code: int = 1) -> OperatorError:
    return OperatorError("the thing broke.", fix="Mend it.", code="thing", exit_code=exit_code)


def driver_error() -> Exception:
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT :value FROM nowhere"), {"value": ROW_VALUE})
    except Exception as error:
        return error
    finally:
        engine.dispose()
    raise AssertionError("the statement was taken")


def test_a_result_is_printed_and_gives_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(App(), lambda: Result(data=None, text=["done"], exit_code=3)) == 3
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize("exit_code", [1, 2, 3])
def test_an_operators_error_is_told_with_its_fix(exit_code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(App(), raising(operator_error(exit_code))) == exit_code
    assert capsys.readouterr() == ("", "Error: the thing broke.\nMend it.\n")


def test_with_json_an_error_is_an_object_on_stdout_too(capsys: pytest.CaptureFixture[str]) -> None:
    run_to_exit_code(App(as_json=True), raising(operator_error()))
    told = capsys.readouterr()
    assert json.loads(told.out) == {"error": {"code": "thing", "message": "the thing broke.", "fix": "Mend it."}}
    assert told.err.startswith("Error: the thing broke.")


@pytest.mark.parametrize(
    "error",
    [
        operator_error(1),
        operator_error(2),
        click.UsageError("no such option"),
        ValueError("x"),
        OSError(28, "No space"),
    ],
)
def test_a_monitoring_plugin_that_cannot_work_says_unknown(error: Exception) -> None:
    assert run_to_exit_code(App(monitoring=True), raising(error)) == 3


def test_wrong_usage_is_2_and_says_where_help_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(App(as_json=True), raising(click.UsageError("no such option"))) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["code"] == "usage"
    assert told.err.endswith('Error: no such option\nSee "gepp-audit --help".\n')


@pytest.mark.parametrize("error", [ValueError(ROW_VALUE), driver_error(), KeyError(ROW_VALUE)])
def test_an_unexpected_error_is_a_sentence_without_what_it_quotes(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_to_exit_code(App(as_json=True), raising(error)) == 1
    told = capsys.readouterr()
    assert (type(error).__name__ in told.err, ROW_VALUE in told.err + told.out) == (True, False)
    assert ("Traceback" in told.err, "-v" in told.err) == (False, True)


def test_with_v_an_error_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run_to_exit_code(App(verbosity=1), raising(driver_error()))
    told = capsys.readouterr().err
    assert ("Traceback (most recent call last)" in told, ROW_VALUE in told) == (True, False)


def test_a_full_disk_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(App(), raising(OSError(28, "No space left on device", "/x"))) == 1
    assert capsys.readouterr().err.startswith("Error: the system refused something: No space left on device.")


def test_output_that_finds_no_room_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(App(), raising(OSError(28, "No space left on device"))) == 1
    assert capsys.readouterr().err.startswith("Error: the output could not be written: No space left on device.")


def test_an_interrupt_is_130() -> None:
    aborted = click.Abort()
    aborted.__cause__ = KeyboardInterrupt()
    assert run_to_exit_code(App(), raising(KeyboardInterrupt())) == 130
    assert run_to_exit_code(App(), raising(aborted)) == 130


def test_a_question_that_was_not_confirmed_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(App(), raising(click.Abort())) == 1
    assert capsys.readouterr().err == "Error: not confirmed, nothing was done.\n"


def test_an_error_stands_in_the_log_file_with_its_traceback(tmp_path: Path) -> None:
    def invoke() -> None:
        logs.configure(logs.LogConfig(file=tmp_path / "log"))
        raise operator_error()

    run_to_exit_code(App(), invoke)
    line = json.loads((tmp_path / "log").read_text())
    assert (line["event"], line["code"], "Traceback" in line["exception"]) == ("command_failed", "thing", True)


def test_a_registered_secret_is_in_no_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.register_secrets("hush-secret-2")
    error = OperatorError("refused hush-secret-2.", fix="Change hush-secret-2.", code="x")
    run_to_exit_code(App(as_json=True, verbosity=1), raising(error))
    told = capsys.readouterr()
    assert "hush" not in told.out + told.err


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return False

        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def fileno(self) -> int:
            raise OSError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert run_to_exit_code(App(), lambda: Result(data=None, text=["much"], exit_code=3)) == 3
