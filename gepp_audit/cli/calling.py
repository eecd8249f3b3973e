"""How the operator called us, so that a printed command can be typed as it stands.

Texts of the queue name commands as `gepp-audit COMMAND`. Where the program is not found under that name, or was told
which env file to read, what is printed says so.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from gepp_audit.cli.render import Result, Table

_NAME: Final = "gepp-audit"
#: the name where a command line begins with it: behind a quote, `&&` or `sudo -u USER`, before a command or an option;
#: and an env file that it names itself
_COMMAND: Final = re.compile(
    rf'(?P<before>["“]|&& |["“]sudo -u \S+ ){_NAME}(?P<env_file> --env-file (?:\'[^\']*\'|\S+))?(?= [a-z-])'
)


def as_called(text: str, *, env_file: str | None, argv0: str | None = None) -> str:
    """`text` with its commands spelled as this process was called.

    `env_file`: what --env-file named. `argv0`: how the process was started, default: `sys.argv[0]`.
    """
    program = _program(sys.argv[0] if argv0 is None else argv0)
    ours = f" --env-file {shlex.quote(os.path.abspath(env_file))}" if env_file else ""
    return _COMMAND.sub(lambda found: f"{found['before']}{program}{found['env_file'] or ours}", text)


def result_as_called(result: Result, *, env_file: str | None) -> Result:
    """`result` with the commands in its text and its data so; tables stay as they are."""

    def spelled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: spelled(one) for name, one in value.items()}
        if isinstance(value, list):
            return [spelled(one) for one in value]
        return as_called(value, env_file=env_file) if isinstance(value, str) else value

    text = [block if isinstance(block, Table) else spelled(block) for block in result.text]
    return Result(data=spelled(result.data), text=text, exit_code=result.exit_code)


def _program(argv0: str) -> str:
    started = Path(argv0)
    if started.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m gepp_audit"
    if started.name != _NAME:
        return _NAME
    found = shutil.which(_NAME)
    own = started if started.parts[:-1] else shutil.which(argv0)
    if found is None:
        return shlex.quote(os.path.abspath(argv0))
    same = own is None or os.path.realpath(found) == os.path.realpath(own)
    return _NAME if same else shlex.quote(os.path.abspath(argv0))
