r"""Crontabs as cron reads them (crontab(5)), and which of their lines start the queue. Pure.

What cron does to a command before a shell sees it: `\%` becomes `%`, and the first bare `%` ends the command (the rest
is its input). How a shell splits what is left is only approximated: enough to find a program, its options and its
redirections in a line that a person wrote.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

_SETTING: Final = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z_]\w*))\s*=\s*(.*?)\s*""", re.ASCII)
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.ASCII | re.DOTALL)
_SEPARATORS: Final = frozenset(";&|()\n")
#: the PATH that cron gives to a job (Debian's cron(8))
DEFAULT_PATH: Final = "/usr/bin:/bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One line that starts something."""

    #: its line, counted from 1
    number: int
    #: five fields, or a word such as @hourly
    schedule: str
    #: who runs it, in a system crontab; None: whose crontab it is
    user: str | None
    #: what stands in the line
    written: str
    #: the settings that stand above it: cron puts them into its environment
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        r"""What the shell gets: up to the first bare `%`, and `\%` undone."""
        return re.split(r"(?<!\\)%", self.written, maxsplit=1)[0].replace("\\%", "%")

    @property
    def is_cut(self) -> bool:
        """A bare `%` ends the command before the line does."""
        return re.search(r"(?<!\\)%", self.written) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A command that runs `gepp-audit process-queue`, taken apart."""

    job: Job
    #: the words that name the program: a script, or an interpreter with `-m gepp_audit`
    program: tuple[str, ...]
    #: what stands behind the program
    arguments: tuple[str, ...]
    #: settings of the crontab, and those before the command
    environ: Mapping[str, str]
    #: files into which the shell puts what it prints
    redirected_to: tuple[str, ...]

    def before_command(self, name: str) -> str | None:
        """The value of a global option, `--name VALUE` or `--name=VALUE`: those stand before `process-queue`."""
        place = self.arguments.index("process-queue")
        found = None
        for word, following in zip(self.arguments[:place], self.arguments[1 : place + 1], strict=True):
            if word == name:
                found = following
            elif word.startswith(f"{name}="):
                found = word.partition("=")[2]
        return found

    @property
    def search_path(self) -> str:
        """Where cron's shell looks for a program without a slash."""
        return self.environ.get("PATH", DEFAULT_PATH)


def jobs(text: str, *, system: bool = False) -> Iterator[Job]:
    """The jobs of a crontab; `system`: of /etc/crontab and /etc/cron.d, whose lines name a user."""
    environ: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        setting = _SETTING.fullmatch(line)
        if setting is not None:
            environ[setting[1] or setting[2] or setting[3]] = _unquoted(setting[4])
            continue
        times = 1 if stripped.startswith("@") else 5
        fields = stripped.split(None, times + (1 if system else 0))
        if len(fields) <= times + (1 if system else 0):
            continue  # cron takes it for an error too
        yield Job(
            number=number,
            schedule=" ".join(fields[:times]),
            user=fields[times] if system else None,
            written=fields[-1],
            environ=dict(environ),
        )


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def starts(jobs: Sequence[Job] | Iterator[Job]) -> list[Start]:
    """Those of the jobs that start the queue."""
    return [start for job in jobs for start in _starts_of(job)]


def _starts_of(job: Job) -> Iterator[Start]:
    for words in _simple_commands(job.command):
        found = _start(job, words)
        if found is not None:
            yield found


def _start(job: Job, words: Sequence[str]) -> Start | None:
    environ = dict(job.environ)
    for place, word in enumerate(words):
        assignment = _ASSIGNMENT.fullmatch(word)
        if assignment is not None:
            environ[assignment[1]] = assignment[2]
            continue
        module = tuple(words[place + 1 : place + 3]) == ("-m", "gepp_audit")
        length = 3 if module else 1
        rest, files = _without_redirections(words[place + length :])
        if (module or PurePosixPath(word).name == "gepp-audit") and "process-queue" in rest:
            return Start(
                job=job,
                program=tuple(words[place : place + length]),
                arguments=rest,
                environ=environ,
                redirected_to=files,
            )
    return None


def _simple_commands(command: str) -> Iterator[list[str]]:
    """The words of each command of a line; one that no shell would take is split at blanks."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t\r"
    lexer.commenters = ""
    try:
        tokens = list(lexer)
    except ValueError:
        tokens = command.split()
    words: list[str] = []
    for token in tokens:
        if token and set(token) <= _SEPARATORS:
            yield words
            words = []
        else:
            words.append(token)
    yield words


def _without_redirections(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The arguments, and the files that `>` and `>>` name."""
    arguments: list[str] = []
    files: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word or not set(word) <= set("<>&|"):
            arguments.append(word)
            continue
        target = left.pop(0) if left else ""
        if arguments and arguments[-1].isdigit():  # the 2 of 2>
            arguments.pop()
        if ">" in word and target and not word.endswith("&"):
            files.append(target)
    return tuple(arguments), tuple(files)
