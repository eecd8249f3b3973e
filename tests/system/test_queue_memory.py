"""The memory of a run does not grow with the queue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from gepp_audit.database.migrate import initialize
from tests.support.platforms import Platform
from tests.support.processes import PROGRAM, Programs, Simulator
from tests.support.queues import SampleQueue, connect

#: runs a command, and tells the largest memory that it ever had resident (kB)
_MEASURE: Final = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(process.pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_memory(programs: Programs, simulator: Simulator, path: Path, transactions: int) -> int:
    """kB at most resident in a run over so many transactions in one batch of each organization."""
    url = f"sqlite:///{path}"
    initialize(url)
    platform = Platform(url, "embedded")
    connect(programs, platform, simulator)
    queue = SampleQueue(platform)
    queue.fill(transactions, 3)
    measured = programs.start_command([sys.executable, "-c", _MEASURE, *PROGRAM, "process-queue"]).wait(180)
    assert (measured.exit_code, measured.stderr) == (0, "")
    assert queue.labels() == queue.statuses
    platform.close()
    return int(measured.stdout)


def test_ten_times_the_transactions_take_the_same_memory(
    programs: Programs, simulator: Simulator, tmp_path: Path
) -> None:
    small = peak_memory(programs, simulator, tmp_path / "small.db", 300)
    large = peak_memory(programs, simulator, tmp_path / "large.db", 3_000)
    assert large < 1.15 * small
