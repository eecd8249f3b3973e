"""What the commands load and ask that a machine starts again and again: a tick of cron, and a monitor's look.

Their time is that of their imports, their statements and the collector's walks over both, so these are what is held;
how long they take, `scripts/bench --only tick` tells.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support import steps
from tests.support.platforms import Platform

#: whatever the command
_NEVER: Final = frozenset(
    {"openai", "httpx2", "pydantic", "alembic", "rich", "structlog", "boto3", "botocore", "fastapi", "starlette"}
    | {"uvicorn", "jwt", "jinja2", "gepp_audit.web", "gepp_audit.aws_lambda", "gepp_audit.provider"}
)
#: what diagnoses, where nothing is stuck
_DIAGNOSIS: Final = frozenset(
    {"gepp_audit.queue.diagnosing", "gepp_audit.queue.diagnosis", "gepp_audit.queue.standing"}
    | {"gepp_audit.database.facts", "gepp_audit.database.reports", "gepp_audit.database.items"}
)
_RUN: Final = frozenset(
    {"gepp_audit.queue.run", "gepp_audit.queue.claiming", "gepp_audit.queue.options", "gepp_audit.database.batches"}
)
_DOCTOR: Final = frozenset({"gepp_audit.queue.doctor", "gepp_audit.database.health"})

_COMMAND: Final = """
import gc, json, sys
before = gc.get_stats()[0]["collections"]
import gepp_audit.__main__
from gepp_audit.cli import main
from sqlalchemy import event
from sqlalchemy.engine import Engine
sent = []
event.listen(Engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
try:
    main(sys.argv[1:])
except SystemExit as end:
    exit_code = end.code
walks = gc.get_stats()[0]["collections"] - before
print(json.dumps({"exit_code": exit_code, "loaded": sorted(sys.modules), "sent": sent, "walks": walks}))
"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one command did."""

    exit_code: int
    loaded: list[str]
    sent: list[str]
    #: of the collector, over what is young
    walks: int


def start(platform: Platform, folder: Path, *args: str) -> Seen:
    """Run a command in a process of its own, which tells of itself at its end."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *args],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DATABASE_URL": platform.url,
            "OPENAI_API_KEY": "sk-never-asked",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return Seen(**json.loads(done.stdout.splitlines()[-1]))


def loaded_in_vain(seen: Seen, *unneeded: frozenset[str]) -> list[str]:
    """What of this was loaded, with all that is in it."""
    names = frozenset().union(_NEVER, *unneeded)
    return [name for name in seen.loaded if any(name == one or name.startswith(f"{one}.") for one in names)]


@pytest.fixture
def organization(platform: Platform) -> int:
    platform.rule()
    return platform.organization()


def test_an_idle_tick(platform: Platform, tmp_path: Path) -> None:
    seen = start(platform, tmp_path, "process-queue")
    assert seen.exit_code == 0
    assert loaded_in_vain(seen, _DIAGNOSIS, _DOCTOR, _RUN - {"gepp_audit.queue.options"}) == []
    assert len(seen.sent) <= (8 if platform.is_postgresql else 9), "\n".join(seen.sent)
    assert seen.walks < 5


def test_a_look_that_finds_nothing_stuck(platform: Platform, organization: int, tmp_path: Path) -> None:
    """A batch is open and being worked on, but not for long."""
    platform.batch(organization, platform.transactions(organization, 3))
    steps.take_up(platform)
    steps.claim(platform, 1)
    seen = start(platform, tmp_path, "stuck")
    assert seen.exit_code == 0
    assert loaded_in_vain(seen, _DIAGNOSIS, _DOCTOR, _RUN) == []
    assert len(seen.sent) <= (12 if platform.is_postgresql else 11), "\n".join(seen.sent)
    assert seen.walks < 5


def test_a_look_that_finds_a_stuck_batch(platform: Platform, organization: int, tmp_path: Path) -> None:
    platform.batch(organization, platform.transactions(organization, 3))
    steps.take_up(platform)
    steps.claim(platform, 1)
    seen = start(platform, tmp_path, "stuck", "--older-than", "0s")
    assert seen.exit_code in (1, 2)
    assert loaded_in_vain(seen, _DOCTOR, _RUN) == []
    assert len(seen.sent) <= (21 if platform.is_postgresql else 20), "\n".join(seen.sent)
    assert seen.walks < 5
