"""A printed command can be typed as it stands, however the program was called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gepp_audit.cli.calling import as_called

FIX = 'Mend it, then run "gepp-audit stuck --requeue 12 --yes && gepp-audit process-queue".'


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of our name, in a folder that is the whole PATH."""
    program = tmp_path / "bin" / "gepp-audit"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def test_on_the_path_it_is_its_name(installed: Path) -> None:
    assert as_called(FIX, env_file=None, argv0=str(installed)) == FIX
    assert as_called(FIX, env_file=None, argv0="gepp-audit") == FIX


def test_off_the_path_it_is_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = as_called(FIX, env_file=None, argv0="/opt/our tools/bin/gepp-audit")
    assert told == FIX.replace("gepp-audit", "'/opt/our tools/bin/gepp-audit'")


def test_another_one_on_the_path_is_not_meant(installed: Path) -> None:
    told = as_called('Run "gepp-audit resume".', env_file=None, argv0="/opt/new/bin/gepp-audit")
    assert told == 'Run "/opt/new/bin/gepp-audit resume".'


def test_a_link_on_the_path_to_it_is_it(installed: Path, tmp_path: Path) -> None:
    real = tmp_path / "venv" / "gepp-audit"
    real.parent.mkdir()
    installed.rename(real)
    installed.symlink_to(real)
    assert as_called(FIX, env_file=None, argv0=str(real)) == FIX


def test_as_a_module_it_is_its_interpreter() -> None:
    told = as_called('Run "gepp-audit resume".', env_file=None, argv0="/x/gepp_audit/__main__.py")
    assert told == f'Run "{sys.executable} -m gepp_audit resume".'


def test_the_env_file_that_was_named_is_named_again_from_anywhere(installed: Path) -> None:
    told = as_called(FIX, env_file="my .env", argv0=str(installed))
    called = f"gepp-audit --env-file '{Path('my .env').absolute()}'"
    assert told == FIX.replace("gepp-audit", called)


def test_a_command_that_names_an_env_file_keeps_it_and_one_for_another_user_gets_it(installed: Path) -> None:
    theirs = "Run \"gepp-audit --env-file '/etc/our own.env' doctor\"."
    assert as_called(theirs, env_file="x", argv0=str(installed)) == theirs
    told = as_called('Or "sudo -u gepp-audit gepp-audit doctor".', env_file="/x", argv0=str(installed))
    assert told == 'Or "sudo -u gepp-audit gepp-audit --env-file /x doctor".'


def test_what_is_no_command_stays(installed: Path) -> None:
    text = 'No run of gepp-audit has reported; the file "gepp-audit.log" and the program gepp-audit itself.'
    assert as_called(text, env_file="x", argv0=str(installed)) == text


def test_a_program_of_another_name_that_uses_this_command_line_changes_nothing() -> None:
    assert as_called(FIX, env_file=None, argv0="/usr/bin/pytest") == FIX
