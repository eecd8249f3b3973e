"""`scripts/quickstart` as a newcomer types it: a fresh copy, a fresh HOME, no key, no terminal; and once more."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.outputs import new_output_file
from tests.support.processes import ROOT


@pytest.fixture
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would hold: the files that git tracks or would track, as they are in the work tree."""
    target = tmp_path_factory.mktemp("clone") / "gepp-audit"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
            copy.chmod(source.stat().st_mode)
    return target


def quickstart(clone: Path, **environ: str) -> str:
    home = clone.parent / "home"
    home.mkdir(exist_ok=True)
    # pip finds its own configuration where the machine has one; nothing else of this environment is passed on
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    out = new_output_file("quickstart", ".out")
    with out.open("wb") as file:
        done = subprocess.run(
            [clone / "scripts" / "quickstart"],
            env=kept | {"PATH": os.environ["PATH"], "HOME": str(home)} | environ,
            cwd=home, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, timeout=300, check=False,
        )  # fmt: skip
    told = out.read_text(encoding="utf-8")
    assert done.returncode == 0, told[-3000:]
    return told


def test_it_shows_verdicts_of_each_kind_runs_again_and_spends_nothing_unasked(clone: Path) -> None:
    for _ in range(2):
        told = quickstart(clone)
        assert "31 approved, 22 rejected, 11 undecided" in told
        assert "This was answered by the bundled simulator." in told
        assert "no_action" in told
        assert ".venv/bin/gepp-audit stuck" in told
    assert [line for line in _shown_in_the_readme() if not line.search(told)] == []
    # with a key but no terminal it tells the price
    told = quickstart(clone, OPENAI_API_KEY="sk-never-used")
    assert "64 calls to gpt-6-luna would cost about" in told
    assert "there is no terminal to ask" in told
    assert "This was answered by the bundled simulator." in told


def _shown_in_the_readme() -> list[re.Pattern[str]]:
    """What the README shows of it, line by line: figures may differ, and … stands for what was left out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```text\n(2\. What .*?)```", readme, re.DOTALL)
    patterns = []
    for line in filter(None, block.splitlines()):
        # blanks of a table depend on its longest row
        parts = [r" +".join(map(re.escape, part.split())) for part in line.split("…")]
        patterns.append(re.compile(r"^ *" + re.sub(r"\d[\d,]*", r"\\d[\\d,]*", r".*".join(parts)), re.MULTILINE))
    assert len(patterns) >= 10
    return patterns
