r"""The block that is ours in a crontab: what stands in it, and how it gets in and out. Pure.

`install` and `remove` change what stands between our two markers and nothing else, byte for byte. The one exception:
a crontab whose last line has no newline gets one, since cron refuses it otherwise. Markers that do not pair up are
refused, for nobody can tell what belongs to whom there.

The block sets no variables: in a crontab those would hold for every line below it, whoever wrote that.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gepp_audit.crontabs.lines import Start, jobs, starts
from gepp_audit.errors import OperatorError

BEGIN: Final = '# BEGIN gepp-audit ("gepp-audit crontab --remove" takes this block out)'
END: Final = "# END gepp-audit"
#: how the markers begin: what stands behind may differ between versions
_BEGINS: Final = "# BEGIN gepp-audit"
_ENDS: Final = "# END gepp-audit"

#: by seconds between two starts: for how long a run takes work, so that it has ended when the next but one begins
EVERY: Final = {60: 55, 30: 25}


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What cron is to start. Paths are absolute: cron knows neither a PATH of ours nor our folder."""

    #: the script, or an interpreter with `-m gepp_audit`
    program: tuple[str, ...]
    env_file: str
    #: None: no log file is set
    log_file: str | None
    user: str
    host: str


def quoted(word: str) -> str:
    r"""`word` for the shell and, before that, for cron: `it's 5%` → `'it'"'"'s 5\%'`.

    Behind a backslash the quote is closed and opened again, so that no backslash of the word stands before a `%` or
    another backslash: crons differ in what they make of those.
    """
    return shlex.quote(word).replace("\\", "\\''").replace("%", "\\%")


def write(command: Command, every: int) -> str:
    """The block that starts the queue each `every` (a key of EVERY) seconds. OperatorError: a path with a newline."""
    words = [*command.program, "--env-file", command.env_file]
    if command.log_file is not None:
        words += ["--log-file", command.log_file]
    words += ["process-queue", "--max-seconds", str(EVERY[every])]
    if any(not word.isprintable() for word in words):
        raise OperatorError(
            "a path of this machine holds a line break or another control character, which no crontab can hold.",
            fix="Give the env file, the log file and the installation names without such characters.",
            code="crontab_path",
        )
    line = " ".join(quoted(word) for word in words)
    often = "every minute" if every == 60 else f"every {every} seconds"
    return "\n".join(
        [
            BEGIN,
            f"# {often}, as {command.user} on {command.host}; it prints nothing unless something is wrong",
            *(f"* * * * * {f'sleep {delay} && ' if delay else ''}{line}" for delay in range(0, 60, every)),
            END,
            "",
        ]
    )


def install(text: str, block: str) -> str:
    """`text` with `block` in it, where the old one stood or else at its end. OperatorError: markers do not pair up."""
    before, _, after = _split(text)
    if before and not before.endswith("\n"):
        before += "\n"
    return before + block + after


def remove(text: str) -> str:
    """`text` without the block. OperatorError: markers do not pair up."""
    before, _, after = _split(text)
    return before + after


def find(text: str) -> str | None:
    """The block that stands in `text`, or None. OperatorError: markers do not pair up."""
    return _split(text)[1]


def others(text: str) -> list[Start]:
    """What starts the queue in `text` outside of the block; numbered as in `text`."""
    lines = text.split("\n")
    places = _markers(lines)
    if places is not None:
        lines[places[0] : places[1] + 1] = [""] * (places[1] + 1 - places[0])
    return starts(jobs("\n".join(lines)))


def _split(text: str) -> tuple[str, str | None, str]:
    """What stands before the block, the block with the newline behind it, and what stands after it."""
    lines = text.split("\n")
    places = _markers(lines)
    if places is None:
        return text, None, ""
    first, last = places
    before = "".join(f"{line}\n" for line in lines[:first])
    after = "\n".join(lines[last + 1 :])
    block = "\n".join(lines[first : last + 1]) + ("\n" if last + 1 < len(lines) else "")
    return before, block, after


def _markers(lines: Sequence[str]) -> tuple[int, int] | None:
    """The places of the first and the last line of the block."""
    begins = [place for place, line in enumerate(lines) if _is(line, _BEGINS)]
    ends = [place for place, line in enumerate(lines) if _is(line, _ENDS)]
    if not begins and not ends:
        return None
    if len(begins) == len(ends) == 1 and begins[0] < ends[0]:
        return begins[0], ends[0]
    named = ", ".join(str(place + 1) for place in sorted([*begins, *ends]))
    raise OperatorError(
        f"the markers of gepp-audit in the crontab do not pair up (line{'s' if ',' in named else ''} {named}), "
        "so nothing was changed.",
        fix=f'Run "crontab -e" and leave one line "{_BEGINS}" with one "{_ENDS}" below it, or neither.',
        code="crontab_markers",
    )


def _is(line: str, marker: str) -> bool:
    return line == marker or line.startswith(f"{marker} ")
