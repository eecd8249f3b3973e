"""The package that others install: the wheel alone holds all that the program needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from gepp_audit import __version__
from tests.support.processes import ROOT, Programs

SOURCES = ROOT / "gepp_audit"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, since a build leaves folders in its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copied = folder / "sources"
    shutil.copytree(SOURCES, copied / "gepp_audit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copied)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(copied)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    pages = SOURCES / "web" / "pages"
    files = [*SOURCES.rglob("*.py"), *(pages / "static").iterdir(), *(pages / "templates").iterdir()]
    assert packed == {str(path.relative_to(ROOT)) for path in files}


def test_the_wheel_alone_makes_a_database(wheel: Path, programs: Programs, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    surroundings = {"PYTHONPATH": str(installed), "DATABASE_URL": f"sqlite:///{tmp_path}/new.db"}
    where = programs.start_command(
        [sys.executable, "-c", "import gepp_audit; print(gepp_audit.__file__)"], environ=surroundings
    )
    assert where.wait().stdout == f"{installed / 'gepp_audit' / '__init__.py'}\n"
    done = [programs.start(command, environ=surroundings).wait() for command in ("init-db", "show")]
    assert [one.exit_code for one in done] == [0, 0]


def test_the_wheel_is_named_after_the_version(wheel: Path) -> None:
    assert wheel.name == f"gepp_audit-{__version__}-py3-none-any.whl"


def test_the_command_that_is_installed_can_be_called() -> None:
    [command] = entry_points(group="console_scripts", name="gepp-audit")
    assert callable(command.load())


def test_every_dependency_has_a_lower_bound() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].strip().splitlines()
    assert [line for line in wanted if ">=" not in line] == []
