"""The names of the causes, and what a monitor makes of them all (a contract); what mends one that is told twice."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

SWITCH_OFF: Final = (
    "Switch off the platform's own cron (cron_process_audit_queue) and whoever calls its route process_queue, on every "
    'host; "gepp-audit doctor" looks for them on this one'
)


class Cause(StrEnum):
    """Why a batch does not move; the values are a contract."""

    BLOCKED = "blocked"
    PAUSED = "paused"
    LIMITED = "limited"
    RUN_DIED = "run_died"
    NO_RUN = "no_run"
    PLATFORM_LOCK = "platform_lock"
    RIVAL = "rival"
    RETRYING = "retrying"
    SLOW = "slow"
    UNKNOWN = "unknown"


class Status(StrEnum):
    """What a monitor makes of it; the exit code of `stuck` is the place in this list."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """The monitoring plugins' code."""
        return list(Status).index(self)
