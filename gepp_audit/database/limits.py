"""The mutex of the claim, and what holds for all hosts: the provider's block and its wish that we wait.

While the provider refuses us for good (a rejected key, no money), `blocked_until` lets one probe call a minute through
over all hosts; the first call that is answered again lifts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Select, func, or_, select, update
from sqlalchemy.engine import Row

from gepp_audit.database.engine import now
from gepp_audit.database.rows import kept
from gepp_audit.database.tables import GLOBAL_SCOPE, limits
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import ErrorCode

#: seconds between two probe calls while the provider refuses us
PROBE_SECONDS: Final = 60.0
_GLOBAL: Final = limits.c.scope == GLOBAL_SCOPE


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What the global row says to a claim."""

    blocked_until: datetime | None
    blocked_reason: ErrorCode | None
    blocked_detail: str | None
    blocked_at: datetime | None
    throttled_until: datetime | None
    paused_at: datetime | None
    paused_reason: str | None

    def closed_until(self, moment: datetime) -> datetime | None:
        """Until when no call may leave, seen at `moment`; None: now."""
        waits = [until for until in (self.blocked_until, self.throttled_until) if until is not None and until > moment]
        return max(waits, default=None)


def lock(connection: Connection) -> tuple[Gate, datetime]:
    """Take the mutex of the claim until the transaction ends; returns the gate and the time after the lock was taken.

    The row is locked in a subquery, so that the clock is read behind the lock and not before the wait for it.
    """
    row = connection.execute(_lock(connection)).one()
    return _gate(row), row.moment


@kept
def _lock(_connection: Connection) -> Select[Any]:
    locked = select(limits).where(_GLOBAL).with_for_update().subquery("locked")
    return select(locked, func.clock_timestamp(type_=UtcDateTime()).label("moment"))


def gate(connection: Connection) -> Gate:
    """Read the gate without the mutex: for reports."""
    return _gate(connection.execute(select(limits).where(_GLOBAL)).one())


def _reason(stored: str) -> ErrorCode:
    """The reason of a block; one that only a newer version knows is some refusal all the same."""
    return ErrorCode(stored) if stored in {code.value for code in ErrorCode} else ErrorCode.REQUEST_REJECTED


def _gate(row: Row[Any]) -> Gate:
    return Gate(
        blocked_until=row.blocked_until,
        blocked_reason=None if row.blocked_reason is None else _reason(row.blocked_reason),
        blocked_detail=row.blocked_detail,
        blocked_at=row.blocked_at,
        throttled_until=row.throttled_until,
        paused_at=row.paused_at,
        paused_reason=row.paused_reason,
    )


def block(connection: Connection, reason: ErrorCode, detail: str) -> None:
    """Let no call leave for a minute, and only one a minute after that, until one is answered."""
    moment = now(connection)
    connection.execute(
        update(limits)
        .where(_GLOBAL)
        .values(
            blocked_until=moment + timedelta(seconds=PROBE_SECONDS),
            blocked_reason=reason.value,
            blocked_detail=detail,
            blocked_at=func.coalesce(limits.c.blocked_at, moment),
        )
    )


def let_one_through(connection: Connection, moment: datetime) -> None:
    """Note that a probe leaves now: the next one may leave a minute later."""
    connection.execute(update(limits).where(_GLOBAL).values(blocked_until=moment + timedelta(seconds=PROBE_SECONDS)))


def unblock(connection: Connection) -> bool:
    """The provider answers again: lift the block. True: there was one."""
    lifted = connection.execute(
        update(limits)
        .where(_GLOBAL, limits.c.blocked_reason.is_not(None))
        .values(blocked_until=None, blocked_reason=None, blocked_detail=None, blocked_at=None)
    )
    return lifted.rowcount > 0


def throttle(connection: Connection, seconds: float) -> None:
    """The provider asked all of us to wait; a longer wish that stands already is kept."""
    until = now(connection) + timedelta(seconds=seconds)
    sooner = or_(limits.c.throttled_until.is_(None), limits.c.throttled_until < until)
    connection.execute(update(limits).where(_GLOBAL, sooner).values(throttled_until=until))
