"""Which failures are told, and when: once, then once an hour, until they are over."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.heard import ancestors
from gepp_audit.heard.marks import AGAIN_AFTER, Marks, of_command
from tests.support.processes import ROOT


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_failure_that_lasts_is_told_once_in_its_first_hour_and_then_once_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    marks = Marks((tmp_path / "marks",), clock)
    told = []
    for minute in range(200):
        clock.now += 60
        if marks.due("start.database"):
            told.append(minute)
    assert told == [0, 60, 120, 180]


@given(pauses=st.lists(st.floats(0.1, 400), min_size=1, max_size=300))
def test_whatever_the_pace_two_tellings_are_an_hour_apart_and_no_hour_of_failing_is_silent(
    tmp_path_factory: pytest.TempPathFactory, pauses: list[float]
) -> None:
    clock = Clock()
    marks = Marks((tmp_path_factory.mktemp("marks"),), clock)
    told = []
    for pause in pauses:
        clock.now += pause
        if marks.due("work.x"):
            told.append(clock.now)
    gaps = [later - before for before, later in itertools.pairwise(told)]
    # a file system keeps a time to 100 ns or so
    assert all(AGAIN_AFTER - 0.001 <= gap <= AGAIN_AFTER + 400 for gap in gaps)
    assert clock.now - told[-1] <= AGAIN_AFTER


def test_each_failure_has_a_mark_of_its_own(tmp_path: Path) -> None:
    marks = Marks((tmp_path,))
    assert [marks.due(name) for name in ("start.a", "start.b", "start.a")] == [True, True, False]


def test_a_mark_says_when_the_failure_began_and_goes_once(tmp_path: Path) -> None:
    clock = Clock()
    marks = Marks((tmp_path,), clock)
    marks.due("start.a")
    began, clock.now = clock.now, clock.now + 2 * AGAIN_AFTER
    assert marks.due("start.a")
    [mark] = marks.all()
    assert (mark.name, mark.since, mark.told) == ("start.a", began, clock.now)
    assert [marks.remove("start.a"), marks.remove("start.a")] == [True, False]
    assert (marks.all(), marks.due("start.a")) == ([], True)


def test_a_mark_of_the_future_is_no_reason_to_be_silent_until_then(tmp_path: Path) -> None:
    clock = Clock()
    marks = Marks((tmp_path,), clock)
    clock.now += 86_400
    marks.due("start.a")
    clock.now -= 86_400
    assert [marks.due("start.a"), marks.due("start.a")] == [True, False]


def test_of_runs_at_the_same_time_one_tells(tmp_path: Path) -> None:
    for number in range(20):
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda _, name=f"start.{number}": Marks((tmp_path,)).due(name), range(8)))
        assert told.count(True) == 1


def test_what_it_is_called_is_never_a_path(tmp_path: Path) -> None:
    marks = Marks((tmp_path / "marks",))
    assert marks.due("seen/../../x\0y")
    assert [one.name for one in (tmp_path / "marks").iterdir()] == ["seen-..-..-x-y"]


def test_where_the_first_folder_takes_nothing_the_second_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    marks = Marks((tmp_path / "file" / "x", tmp_path / "second"))
    assert [marks.due("start.a"), marks.due("start.a")] == [True, False]
    assert [mark.name for mark in marks.all()] == ["start.a"]


def test_where_no_mark_can_be_kept_everything_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    marks = Marks((tmp_path / "file" / "x",))
    assert [marks.due("start.a"), marks.due("start.a"), marks.all()] == [True, True, []]


def test_a_folder_that_somebody_else_put_there_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").symlink_to(tmp_path / "theirs")
    marks = Marks((tmp_path / "ours",))
    assert [marks.due("start.a"), marks.due("start.a")] == [True, True]
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_disk_that_takes_not_one_byte_takes_a_mark(tmp_path: Path) -> None:
    # no file may grow: what a full disk does to whoever writes
    script = (
        "import sys, pathlib; from gepp_audit.heard.marks import Marks\n"
        "marks = Marks((pathlib.Path(sys.argv[1]) / 'marks',)); print([marks.due('a'), marks.due('a')])\n"
        "try: pathlib.Path(sys.argv[1], 'x').write_text('x')\n"
        "except OSError as error: print(error.strerror)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["[True, False]", "File too large"], done.stderr


FOLDERS: list[tuple[dict[str, str], str]] = [
    ({"XDG_STATE_HOME": "{0}/state", "HOME": "{0}/home"}, "state/gepp-audit"),
    ({"HOME": "{0}/home"}, "home/.local/state/gepp-audit"),
    ({"XDG_STATE_HOME": "relative", "HOME": "{0}/home"}, "home/.local/state/gepp-audit"),
    ({"TMPDIR": "{0}"}, ""),
]


@pytest.mark.parametrize(("environ", "folder"), FOLDERS)
def test_the_marks_lie_in_the_users_state_folder(tmp_path: Path, environ: dict[str, str], folder: str) -> None:
    marks = of_command(("process-queue",), {name: value.format(tmp_path) for name, value in environ.items()})
    marks.due("start.a")
    [found] = tmp_path.rglob("start.a")
    assert str(found.parents[1].relative_to(tmp_path)) == (folder or ".")
    assert (found.parent.stat().st_mode & 0o777, found.stat().st_mode & 0o777) == (0o700, 0o600)


def test_two_lines_of_a_crontab_do_not_share_their_marks(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    told = [of_command((name,), environ).due("start.a") for name in ("one", "two", "one")]
    assert told == [True, True, False]


@pytest.fixture
def named(tmp_path: Path) -> Callable[[str], str]:
    """Runs the question under a shell of that name, and returns its answer."""

    def run(name: str) -> str:
        shell = tmp_path / name
        shell.symlink_to("/bin/sh")
        question = "from gepp_audit.heard.ancestors import is_under_cron; print(is_under_cron())"
        done = subprocess.run(
            [str(shell), "-c", f'/bin/sh -c \'"{sys.executable}" -c "{question}"; true\'; true'],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    return run


@pytest.mark.parametrize(
    ("name", "expected"), [("cron", "True"), ("crond", "True"), ("CRON", "True"), ("bash", "False"), ("a) b", "False")]
)
def test_cron_is_seen_above_the_shell_that_it_starts(named: Callable[[str], str], name: str, expected: str) -> None:
    assert named(name) == expected


def test_without_proc_the_same_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(ancestors._names())
    by_psutil = list(ancestors._names_by_psutil())
    assert by_psutil[: len(names)] == names[: len(by_psutil)]
    assert os.getppid() > 0
