"""Whether another run's process is gone: said only where it is certain, with real processes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gepp_audit.model import RunIdentity
from gepp_audit.queue.liveness import identify, is_gone, same_process

IDENTIFY = """
from gepp_audit.queue.liveness import identify
me = identify("h")
print(me.pid, me.pid_started_at, flush=True)
input()
"""

#: as another user, to whom /proc shows nothing: the first process, and one that cannot be
LOOK = """
import dataclasses, os, pathlib, pwd
from gepp_audit.queue import liveness
me = liveness.identify("h")
liveness._PROC = pathlib.Path("/proc/none")
if os.geteuid() == 0:
    os.setuid(pwd.getpwnam("nobody").pw_uid)
for pid in (1, 2**22):
    print(liveness.is_gone(dataclasses.replace(me, pid=pid), me))
"""


@pytest.fixture
def here() -> RunIdentity:
    return identify("h")


@pytest.fixture
def other(here: RunIdentity) -> Iterator[tuple[subprocess.Popen[str], RunIdentity]]:
    """Another live process of this host, and its identity as it told it."""
    with subprocess.Popen(
        [sys.executable, "-c", IDENTIFY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid, started_at = process.stdout.readline().split()
        yield process, dataclasses.replace(here, run_id="other", pid=int(pid), pid_started_at=float(started_at))
        process.kill()


def test_a_run_does_not_take_itself_for_dead(here: RunIdentity) -> None:
    assert not is_gone(here, here)


def test_a_live_process_is_not_gone(here: RunIdentity, other: tuple[subprocess.Popen[str], RunIdentity]) -> None:
    assert not is_gone(other[1], here)


def test_a_killed_process_is_gone_even_before_its_parent_has_looked(
    here: RunIdentity, other: tuple[subprocess.Popen[str], RunIdentity]
) -> None:
    process, identity = other
    process.kill()
    assert process.stdout is not None
    process.stdout.read()  # its end of the pipe is closed: it has ended, and is a zombie or gone
    while not is_gone(identity, here):
        pass
    process.wait()
    assert is_gone(identity, here)


def test_another_process_with_the_same_pid_is_not_the_run(here: RunIdentity) -> None:
    assert is_gone(dataclasses.replace(here, pid_started_at=here.pid_started_at - 1), here)


def test_of_another_user_s_process_that_is_hidden_nothing_is_said() -> None:
    looked = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert looked.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("field", ["host", "boot_id", "pid_namespace"])
def test_of_a_process_somewhere_else_nothing_is_said(here: RunIdentity, field: str) -> None:
    elsewhere = dataclasses.replace(here, pid=2**22, **{field: "elsewhere"})  # type: ignore[arg-type] # all three are text
    assert not is_gone(elsewhere, here)


def test_of_a_process_in_another_sandbox_nothing_is_said_though_all_else_is_alike(here: RunIdentity) -> None:
    mine, other = identify("h", "sandbox:1"), identify("h", "sandbox:2")
    gone = dataclasses.replace(other, pid=2**22)
    assert [is_gone(gone, mine), is_gone(gone, here), is_gone(gone, other)] == [False, False, True]
    assert [same_process(other, mine), same_process(here, mine)] == [False, False]
    assert same_process(identify("h", "sandbox:1"), mine)
