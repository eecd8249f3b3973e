"""The checks of the settings and of the file that holds them."""

from __future__ import annotations

import stat
from collections import Counter
from typing import TYPE_CHECKING

from gepp_audit.errors import OperatorError
from gepp_audit.queue.doctor.check import Finding, critical, ok, warning
from gepp_audit.queue.wording import capital

if TYPE_CHECKING:
    from gepp_audit.queue.doctor.surroundings import Surroundings


def settings(around: Surroundings) -> Finding:
    """All values are well formed, and every name in the env file is one of ours."""
    try:
        found = around.settings
    except OperatorError as error:
        return critical(error.message, error.fix)
    origins = Counter(found.origin(name).source.value for name in found.variables())
    counted = ", ".join(f"{count} by {source}" for source, count in origins.most_common())
    where = "no env file" if found.env_file is None else f"the env file is {found.env_file}"
    if not found.unknown:
        return ok(f"Every setting is well formed ({counted}); {where}.")
    names = ", ".join(_with_guess(name, found.variables().values()) for name in found.unknown)
    return warning(
        f"{found.env_file} sets what is no setting of gepp-audit: {names}. It has no effect.",
        "Correct the name or remove the line; .env.example lists every setting.",
    )


def _with_guess(name: str, known: object) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1)  # type: ignore[call-overload]
    return f"{name} (did you mean {close[0]}?)" if close else name


def env_file(around: Surroundings) -> Finding | None:
    """The file with the secrets is for one user alone. Does not apply where there is none."""
    path = around.settings.env_file
    if path is None:
        return None
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    readers = [who for bit, who in ((0o040, "its group"), (0o004, "everybody")) if mode & bit]
    writers = [who for bit, who in ((0o020, "its group"), (0o002, "everybody")) if mode & bit]
    if writers:
        return critical(
            f"{capital(' and '.join(writers))} may change {path} (mode {mode:o}), so they may send the queue "
            "to a database and a provider of their own.",
            f"chmod 600 {path}",
        )
    if readers:
        return warning(
            f"{capital(' and '.join(readers))} may read {path} (mode {mode:o}), and passwords and keys stand in it.",
            f"chmod 600 {path}",
        )
    return ok(f"{path} is for its owner alone (mode {mode:o}).")
