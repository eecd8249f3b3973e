"""Debian's cron itself, 120 times as fast, on spool folders of its own: a line for every minute fires twice a second.

A private mount namespace keeps the machine's crontabs out of it. Where that is not allowed (it takes root), a loop in
the shell starts the line with the surroundings that cron gives it.

What a job printed, its exit code, environment and folder are written down by the shell that the crontab names.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.outputs import new_output_file
from tests.support.processes import PROGRAM, Finished, Process, Programs, start_process
from tests.support.waiting import wait_until

PATH: Final = "/usr/bin:/bin"
#: the loader puts the machine's folder of libraries in
_FASTER: Final = {"LD_PRELOAD": "/usr/$LIB/faketime/libfaketime.so.1", "FAKETIME": "+0 x120"}
_SHELL: Final = """#!/bin/sh
env > '{folder}/environ'
pwd > '{folder}/cwd'
echo >> '{folder}/started'
told='{folder}'/job-$$
/bin/sh "$@" > "$told.out" 2> "$told.err"
code=$?
cat "$told.out" >> '{stdout}'
cat "$told.err" >> '{stderr}'
[ ! -s "$told.out" ] && [ ! -s "$told.err" ] || cat "$told.out" "$told.err" > '{folder}/mails/'$$
rm -f "$told.out" "$told.err"
echo $code >> '{folder}/ended'
"""
_PRIVATE: Final = """
mount --bind '{folder}/crontabs' /var/spool/cron/crontabs &&
mount --bind '{folder}/empty' /etc/cron.d &&
mount --bind '{folder}/crontab' /etc/crontab &&
mount --bind '{folder}/run' /run &&
exec env {faster} {cron} -f
"""
_LOOP: Final = "while :; do env -i {environ} '{folder}/shell' -c {command}; sleep 0.5; done"


@dataclass(frozen=True, kw_only=True)
class Cron:
    """A running cron with one line."""

    folder: Path
    process: Process
    stdout_file: Path
    stderr_file: Path

    @property
    def exit_codes(self) -> list[int]:
        """Of the jobs that have ended."""
        return [int(line) for line in _lines(self.folder / "ended")]

    @property
    def stdout(self) -> str:
        """What all jobs printed."""
        return self.stdout_file.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What all jobs told on stderr."""
        return self.stderr_file.read_text(encoding="utf-8")

    @property
    def mails(self) -> list[str]:
        """What cron would have mailed, the oldest first: it mails a job's output where there is any."""
        files = sorted((self.folder / "mails").iterdir(), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_text(encoding="utf-8") for file in files]

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the latest job."""
        return dict(line.split("=", 1) for line in _lines(self.folder / "environ") if "=" in line)

    @property
    def cwd(self) -> str:
        """The folder in which the latest job ran."""
        return (self.folder / "cwd").read_text(encoding="utf-8").rstrip("\n")

    def wait_for_jobs(self, number: int) -> None:
        """Until so many more jobs have ended."""
        wanted = len(self.exit_codes) + number
        wait_until(lambda: len(self.exit_codes) >= wanted, 60, what=f"the end of {number} more jobs of cron")


@contextmanager
def running_cron(folder: Path, line: str) -> Iterator[Cron]:
    """Cron with this line (`* * * * * command`) for the time of the `with` block; `folder`: a new one, its $HOME."""
    for name in ("crontabs", "empty", "run", "mails"):
        (folder / name).mkdir(parents=True)
    (folder / "crontab").touch()
    stdout, stderr = new_output_file("cron-job", ".out"), new_output_file("cron-job", ".err")
    shell = folder / "shell"
    shell.write_text(_SHELL.format(folder=folder, stdout=stdout, stderr=stderr))
    shell.chmod(0o755)
    spool = folder / "crontabs" / pwd.getpwuid(os.geteuid()).pw_name
    spool.write_text(f"SHELL={shell}\nHOME={folder}\n{line}\n")
    spool.chmod(stat.S_IRUSR | stat.S_IWUSR)
    process = start_process(
        _command(folder, line), environ={"PATH": f"{PATH}:/usr/sbin:/sbin"}, cwd=folder, name="cron"
    )
    cron = Cron(folder=folder, process=process, stdout_file=stdout, stderr_file=stderr)
    try:
        yield cron
        assert process.running, process.stderr
    finally:
        process.kill()
        wait_until(lambda: len(_lines(folder / "started")) == len(cron.exit_codes), 60, what="the end of cron's jobs")


def under_cron(programs: Programs, *args: str, **environ: str) -> Finished:
    """Run the program once as a job of cron: below a process of that name, which is all that tells."""
    named = programs.home / "cron"
    if not named.exists():
        named.symlink_to("/bin/sh")
    # the shell stays above the program, since it has something left to do
    command: list[str | Path] = [named, "-c", '"$@"; exit $?', "cron", *PROGRAM, *args]
    return programs.start_command(command, environ=environ).wait()


def _command(folder: Path, line: str) -> list[str]:
    cron = shutil.which("cron", path=f"{PATH}:/usr/sbin:/sbin")
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    if cron is not None and allowed:
        faster = " ".join(shlex.quote(f"{name}={value}") for name, value in _FASTER.items())
        return ["unshare", "--mount", "/bin/sh", "-c", _PRIVATE.format(folder=folder, faster=faster, cron=cron)]
    environ = shlex.join([f"HOME={folder}", f"PATH={PATH}", "SHELL=/bin/sh", "LOGNAME=nobody"])
    command = line.split(None, 5)[5].replace("\\%", "%")
    # the program looks at its ancestors' names
    named = folder / "cron"
    named.symlink_to("/bin/sh")
    return [str(named), "-c", _LOOP.format(environ=environ, folder=folder, command=shlex.quote(command))]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
