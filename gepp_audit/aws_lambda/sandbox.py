"""Where an invocation runs: the function, by which people know it, and the sandbox, by which runs know each other.

Lambda starts a function in sandboxes, as many as it wants, and may start them all from one picture: host name, boot id,
pid namespace and pids can be the same in two of them. What surely differs is what we wrote into the sandbox's own /tmp.
It stays there when Lambda ends a process that took too long and starts the next one in the same sandbox, which thereby
sees that the run of the other is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final
from uuid import uuid4

_FILE: Final = ".gepp-audit-sandbox"


def function_name(environ: Mapping[str, str]) -> str:
    """What stands for the host in our tables: one name for all sandboxes of the function."""
    return f"lambda:{environ.get('AWS_LAMBDA_FUNCTION_NAME') or 'gepp-audit'}"


def sandbox() -> str:
    """A name that no other sandbox has. Ask first in an invocation: what was done before may be copied."""
    return _sandbox(Path(tempfile.gettempdir()) / _FILE)


@cache
def _sandbox(path: Path) -> str:
    fresh = uuid4().hex
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(handle, "w", encoding="ascii") as file:
            file.write(fresh)
        return f"sandbox:{fresh}"
    with contextlib.suppress(OSError, ValueError):
        kept = path.read_text(encoding="ascii")
        if re.fullmatch(r"[0-9a-f]{32}", kept):
            return f"sandbox:{kept}"
    return f"sandbox:{fresh}"  # for this process alone, where nothing can be kept
