"""Logs: who gets which event, in which form, and that no secret is in it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from gepp_audit import logs
from gepp_audit.errors import OperatorError
from gepp_audit.model import VerdictStatus
from gepp_audit.tracebacks import format_traceback

SECRET = "hush-secret-1"
LEVELS = {"debug": logs.debug, "info": logs.info, "warning": logs.warning, "error": logs.error}


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    yield
    logs.shutdown()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def tell_all() -> None:
    for name, tell in LEVELS.items():
        tell(f"event_{name}")


# -- who gets what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verbosity", "heard"), [(0, ["warning", "error"]), (1, ["debug", "info", "warning", "error"]), (-1, ["error"])]
)
def test_stderr_gets_the_events_of_its_level(
    verbosity: int, heard: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(logs.LogConfig(verbosity=verbosity))
    tell_all()
    told = capsys.readouterr().err
    assert [name for name in LEVELS if f"event_{name}" in told] == heard


@pytest.mark.parametrize(("verbosity", "least"), [(0, "info"), (-1, "info"), (1, "debug")])
def test_the_file_gets_the_ordinary_work_too(verbosity: int, least: str, tmp_path: Path) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log", verbosity=verbosity))
    tell_all()
    names = list(LEVELS)
    assert [line["level"] for line in lines(tmp_path / "log")] == names[names.index(least) :]


def test_an_event_for_the_file_alone_is_not_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log"))
    logs.event(logging.ERROR, "command_failed", file_only=True)
    assert (capsys.readouterr().err, len(lines(tmp_path / "log"))) == ("", 1)


def test_a_warning_of_a_library_becomes_an_event(tmp_path: Path) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log", secrets=(SECRET,)))
    logging.getLogger("some.library").warning("refused %s", SECRET)
    (line,) = lines(tmp_path / "log")
    assert (line["event"], line["library"], line["message"]) == ("library_warning", "some.library", "refused ***")


def test_lines_for_stderr_go_through_the_progress_bar_where_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.LogConfig(verbosity=1))
    above: list[str] = []
    with logs.console_through(above.append):
        logs.info("run_started")
    logs.info("run_finished")
    assert ("run_started" in above[0], len(above)) == (True, 1)
    assert "run_started" not in capsys.readouterr().err


# -- the form --------------------------------------------------------------------------------------------------------


def test_a_line_of_the_file_is_one_json_object_with_the_event_first(tmp_path: Path) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log"))
    with logs.bound(run_id="r1"):
        logs.info(
            "transaction_audited", transaction_id=7, status=VerdictStatus.APPROVED, error=None, cost=Decimal("0.10")
        )
    (line,) = lines(tmp_path / "log")
    assert list(line) == ["timestamp", "level", "event", "run_id", "transaction_id", "status", "cost"]
    assert line["timestamp"].endswith("Z")
    assert (line["status"], line["cost"]) == ("approved", "0.10")


def test_bound_fields_end_with_their_block(tmp_path: Path) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log"))
    with logs.bound(run_id="r1"), logs.bound(batch=2):
        logs.info("inside")
    logs.info("outside")
    assert [(line.get("run_id"), line.get("batch")) for line in lines(tmp_path / "log")] == [("r1", 2), (None, None)]


def test_thai_stays_readable_and_a_newline_does_not_begin_a_line(tmp_path: Path) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log"))
    logs.info("note", text='น้ำหนัก\n{"event": "forged"}')
    raw = (tmp_path / "log").read_text(encoding="utf-8")
    assert ("น้ำหนัก" in raw, raw.count("\n")) == (True, 1)


@pytest.mark.parametrize("form", [None, "console"])
def test_a_control_character_does_not_reach_the_terminal(form: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.LogConfig(verbosity=1, format=form))
    logs.info("note", text="a\x1b[31m\rb")
    told = capsys.readouterr().err
    assert ("\x1b" in told, "\r" in told, "x1b" in told) == (False, False, True)


def test_the_format_can_be_chosen_for_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log", format="json"))
    logs.warning("w")
    assert json.loads(capsys.readouterr().err)["event"] == "w"
    logs.configure(logs.LogConfig(file=tmp_path / "log2", format="console"))
    logs.warning("w")
    assert "[warning" in (tmp_path / "log2").read_text()


def test_colour_is_only_where_it_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for colour in (False, True):
        logs.configure(logs.LogConfig(verbosity=1, colour=colour))
        logs.info("e")
        told.append("\x1b[" in capsys.readouterr().err)
    assert told == [False, True]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_whatever_the_fields_are_the_line_is_json(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("logs") / "log"
    logs.configure(logs.LogConfig(file=path))
    logs.info("any", **{f"f_{name}": value for name, value in fields.items()})
    logs.shutdown()
    assert len(lines(path)) == 1


# -- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_is_masked_wherever_it_stands(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log", format=form, verbosity=1, secrets=(SECRET, "p@ss")))
    with logs.bound(bound=f"x{SECRET}"):
        try:
            local = SECRET
            raise ValueError(f"refused {local}")
        except ValueError as error:
            logs.error(
                f"event {SECRET}",
                error=error,
                text=f"url?p={SECRET}&q=p%40ss",
                nested={SECRET: [{"deep": (SECRET, {SECRET})}]},
                raw=SECRET.encode(),
                thing=Path(SECRET),
                failure=ValueError(SECRET),
            )
    told = (tmp_path / "log").read_text() + capsys.readouterr().err
    assert (SECRET in told, "p%40ss" in told, "***" in told) == (False, False, True)


def test_a_secret_inside_a_longer_one_does_not_uncover_the_rest(tmp_path: Path) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log", secrets=("abc1", "abc1-and-more")))
    logs.info("e", text="abc1-and-more abc1")
    assert lines(tmp_path / "log")[0]["text"] == "*** ***"


@pytest.mark.parametrize("word", ["audit", "gepp_audit", "1234"])
def test_a_secret_that_is_a_word_is_masked_where_a_credential_stands_and_leaves_our_sentences(
    word: str, tmp_path: Path
) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log", secrets=(word,)))
    hidden = (
        f"postgresql://{word}:{word}@db/{word}",
        f"host=db user={word} password={word} dbname={word}",
        f"connect(PASSWORD='{word}')",
        f'{{"api_key": "{word}"}}',
        f"?token={word}&q=1",
        f"Authorization: Bearer {word}",
    )
    said = f'run "gepp-audit stuck {word}" on {word}'
    logs.info("e", hidden=hidden, said=said, password=f"x {word}", nested={"secret": [word]})
    [told] = lines(tmp_path / "log")
    assert told["hidden"] == [
        f"postgresql://{word}:***@db/{word}",
        f"host=db user={word} password=*** dbname={word}",
        "connect(PASSWORD='***')",
        '{"api_key": "***"}',
        "?token=***&q=1",
        "Authorization: Bearer ***",
    ]
    assert (told["said"], told["password"], told["nested"]) == (said, "x ***", {"secret": ["***"]})


@pytest.mark.parametrize("secret", ["audit1", "p@ss", "correct-horse-battery", "123456789", "ab!d"])
def test_any_other_secret_is_masked_in_a_sentence_too(secret: str, tmp_path: Path) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log", secrets=(secret,)))
    logs.info("e", said=f"it is {secret}, they say")
    assert lines(tmp_path / "log")[0]["said"] == "it is ***, they say"


def test_a_traceback_has_no_local_variables(tmp_path: Path) -> None:
    logs.configure(logs.LogConfig(file=tmp_path / "log"))
    try:
        local = "value-of-a-local"
        raise ValueError(len(local))
    except ValueError as error:
        logs.error("failed", error=error)
    told = lines(tmp_path / "log")[0]["exception"]
    assert ("ValueError: 16" in told, "'value-of-a-local'" in told) == (True, False)


def test_stderr_has_the_traceback_only_with_v(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for verbosity in (0, 1):
        logs.configure(logs.LogConfig(verbosity=verbosity))
        logs.error("failed", error=ValueError("x"))
        shown.append("Traceback" in capsys.readouterr().err)
    assert shown == [False, True]


def test_what_a_driver_quotes_is_withheld_from_a_traceback() -> None:
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"SELECT '{'quoted'}-value' FROM nowhere"))
    except SQLAlchemyError as error:
        try:
            raise OperatorError("the database refused", fix="Look.", code="x") from error
        except OperatorError as outer:
            told = format_traceback(outer)
    engine.dispose()
    assert ("quoted-value" in told, "SQLITE_ERROR" in told, "the database refused" in told) == (False, True, True)


def test_a_traceback_tells_the_cause_first() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as error:
        told = format_traceback(error)
    assert told.index("KeyError: 'inner'") < told.index("direct cause") < told.index("ValueError: outer")


# -- the file --------------------------------------------------------------------------------------------------------


def test_a_log_file_that_cannot_be_opened_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="No such file or directory") as caught:
        logs.configure(logs.LogConfig(file=tmp_path / "missing" / "log"))
    assert caught.value.code == "log_file"


def test_after_a_rotation_the_new_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.configure(logs.LogConfig(file=path))
    logs.info("before")
    path.rename(tmp_path / "log.1")
    path.touch()
    logs.info("after")
    assert [line["event"] for line in lines(path)] == ["after"]


def test_a_full_disk_is_told_once_and_does_not_stop_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.LogConfig(file=Path("/dev/full")))
    logs.info("a")
    logs.info("b")
    assert capsys.readouterr().err.count("cannot write the log file /dev/full: No space left on device") == 1


def test_structlog_is_not_imported_before_the_first_event(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from gepp_audit import logs\n"
        "logs.configure(logs.LogConfig(file=Path(sys.argv[1])))\n"
        "logs.debug('nobody_wants_this')\n"
        "with logs.bound(run_id='r'): print('structlog' in sys.modules, 'rich' in sys.modules)\n"
        "logs.info('e'); print('structlog' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        capture_output=True,
        text=True,
        env={**os.environ},
        check=True,
    )
    assert done.stdout.split() == ["False", "False", "True"]
