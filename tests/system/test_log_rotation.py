"""logrotate itself, with scripts/logrotate.conf, while four processes write: no line is lost, none is cut."""

from __future__ import annotations

import gzip
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.support.processes import ROOT, Programs
from tests.support.waiting import wait_until

WRITERS = 4
#: lines of each writer, and how often the log is rotated while they write
LINES, ROTATIONS = 6_000, 12
# each goes on until it has written its lines and the last rotation is over
WRITER = """
import sys, pathlib
from gepp_audit import logs
log, over, name, lines = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
logs.configure(logs.LogConfig(verbosity=-1, file=log))
number = 0
while number < lines or not over.exists():
    logs.info("line", writer=name, number=number, filling="x" * 100)
    number += 1
logs.shutdown()
print(number)
"""


def rotate(config: Path, state: Path) -> None:
    program = shutil.which("logrotate", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert program is not None
    done = subprocess.run(
        [program, "--force", "--state", str(state), str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def configuration(folder: Path, log: Path) -> Path:
    """The file of the repository for this log and user, which keeps every rotated file."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True).stdout.strip()
    text = (ROOT / "scripts" / "logrotate.conf").read_text(encoding="utf-8")
    text = text.replace("/var/log/gepp-audit/audit.log", str(log)).replace("gepp-audit adm", f"{user} {group}")
    path = folder / "rotate.conf"
    path.write_text(text.replace("rotate 14", "rotate 99"), encoding="utf-8")
    path.chmod(0o644)
    return path


def lines_of(folder: Path) -> list[str]:
    found: list[str] = []
    for path in folder.iterdir():
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert raw == b"" or raw.endswith(b"\n")
        found += raw.decode("utf-8").splitlines()
    return found


def grown(log: Path) -> bool:
    """Rotations are a day apart, not an instant: no writer may still be at its last line in the file before."""
    if not log.exists() or log.stat().st_size <= 200_000:
        return False
    whole_lines = log.read_text(encoding="utf-8").splitlines()[:-1]
    return len({json.loads(line)["writer"] for line in whole_lines}) == WRITERS


def test_no_line_of_four_writers_is_lost_while_logrotate_rotates(programs: Programs, tmp_path: Path) -> None:
    folder, over = tmp_path / "log", tmp_path / "over"
    folder.mkdir(mode=0o755)
    log = folder / "audit.log"
    config = configuration(tmp_path, log)
    writers = [
        programs.start_command([sys.executable, "-c", WRITER, str(log), str(over), str(name), str(LINES)])
        for name in range(WRITERS)
    ]
    for _ in range(ROTATIONS):
        wait_until(lambda: grown(log), what="some lines of each writer in the new file")
        rotate(config, tmp_path / "state")
    over.touch()
    expected = {str(name): int(writer.wait().stdout) for name, writer in enumerate(writers)}
    told = [json.loads(line) for line in lines_of(folder)]
    assert Counter(line["writer"] for line in told) == expected
    assert len({(line["writer"], line["number"]) for line in told}) == len(told)
    assert len(list(folder.glob("*.gz"))) == ROTATIONS - 1
