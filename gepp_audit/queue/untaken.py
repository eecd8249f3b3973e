"""Open batches in a status that no run takes, since GEPP_AUDIT_BATCH_STATUSES does not name it: how `stuck` and
`doctor` tell of them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gepp_audit.queue.wording import counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Untaken:
    """How many such batches there are, by status; none of them ever moves."""

    by_status: Mapping[str, int] = field(default_factory=dict)
    #: the statuses that runs take
    taken: tuple[str, ...] = ()

    @property
    def batches(self) -> int:
        """How many in all."""
        return sum(self.by_status.values())

    @property
    def seen(self) -> str:
        """What is wrong, as the middle of a sentence without a full stop."""
        named = ", ".join(f"{counted(count, 'batch', 'batches')} {status}" for status, count in self.by_status.items())
        return f"nobody takes {named}: GEPP_AUDIT_BATCH_STATUSES is {','.join(self.taken)}"

    @property
    def fix(self) -> str:
        """What mends it."""
        wanted = ",".join(dict.fromkeys([*self.taken, *self.by_status]))
        return f"Set GEPP_AUDIT_BATCH_STATUSES={wanted}, unless another program does those."

    def as_json(self) -> dict[str, Any]:
        """Its entry in `stuck --json`."""
        return {
            "batches": self.batches,
            "by_status": dict(self.by_status),
            "fix": self.fix if self.batches else None,
        }


def untaken(open_by_status: Mapping[str, int], taken: Sequence[str]) -> Untaken:
    """Those of the platform's open batches whose status is none of `taken`."""
    left = {status: count for status, count in open_by_status.items() if status not in taken}
    return Untaken(by_status=left, taken=tuple(taken))
