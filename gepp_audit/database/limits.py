"""The mutex of the claim, and what people and the provider allow: limits, pauses, blocks and waits, for all hosts.

One row per scope: `global`, which is the mutex too, and `organization:ID` where something holds for one alone. Whoever
writes a row takes the mutex first, so that a claim, which reads them behind it, misses none. `block` and `unblock` need
no step of their own for that: each is one update of the global row, whose row lock is that same mutex.

While the provider refuses us for good (a rejected key, no money), `blocked_until` lets one probe call a minute through
over all hosts; the first call that is answered again lifts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, case, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Row

from gepp_audit.database.engine import now
from gepp_audit.database.rows import among, kept
from gepp_audit.database.tables import GLOBAL_SCOPE, batches, limits
from gepp_audit.database.types import UtcDateTime
from gepp_audit.model import ErrorCode, Pace

#: seconds between two probe calls while the provider refuses us
PROBE_SECONDS: Final = 60.0
#: for so many seconds the provider's own limits stay in force after an answer told them
_PACE_SECONDS: Final = 120.0
_GLOBAL: Final = limits.c.scope == GLOBAL_SCOPE
_ORGANIZATION: Final = "organization:"
_NO_PACE: Final = Pace()


def scope_of(organization_id: int | None) -> str:
    """The name of an organization's scope; None: of everybody's."""
    return GLOBAL_SCOPE if organization_id is None else f"{_ORGANIZATION}{organization_id}"


def _organization_of(scope: str) -> int | None:
    _, found, id_ = scope.partition(_ORGANIZATION)
    return int(id_) if found and id_.isascii() and id_.isdigit() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Caps:
    """What one scope allows; None: without limit. The names are those of the columns and of the options."""

    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    #: USD
    cost_per_day: Decimal | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in CAPS)

    @property
    def of_the_minute(self) -> bool:
        """Some limit counts the last minute."""
        return self.calls_per_minute is not None or self.tokens_per_minute is not None

    @property
    def of_the_day(self) -> bool:
        """Some limit counts the UTC day."""
        return self.tokens_per_day is not None or self.cost_per_day is not None

    @property
    def of_size(self) -> bool:
        """Some limit counts tokens or money, of which a call must reserve what it may take."""
        return self.tokens_per_minute is not None or self.of_the_day


CAPS: Final = tuple(field.name for field in fields(Caps))


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """One row: what holds for everybody, or for one organization."""

    organization_id: int | None = None
    caps: Caps = Caps()
    throttled_until: datetime | None = None
    paused_at: datetime | None = None
    paused_reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate(Scope):
    """What the global row says to a claim."""

    blocked_until: datetime | None = None
    blocked_reason: ErrorCode | None = None
    blocked_detail: str | None = None
    blocked_at: datetime | None = None
    pace: Pace = _NO_PACE
    pace_until: datetime | None = None

    def closed_until(self, moment: datetime) -> datetime | None:
        """Until when no call may leave, seen at `moment`; None: now."""
        waits = [until for until in (self.blocked_until, self.throttled_until) if until is not None and until > moment]
        return max(waits, default=None)

    def caps_at(self, moment: datetime) -> Caps:
        """The limits in force: people's, lowered by the provider's own while an answer has told them lately."""
        if self.pace_until is None or self.pace_until <= moment:
            return self.caps
        return replace(
            self.caps,
            calls_per_minute=_lower(self.caps.calls_per_minute, self.pace.calls_per_minute),
            tokens_per_minute=_lower(self.caps.tokens_per_minute, self.pace.tokens_per_minute),
        )


def _lower(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


# -- reading -----------------------------------------------------------------------------------------------------------


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


def of_organizations(connection: Connection) -> dict[int, Scope]:
    """The rows of organizations, by id. A claim reads them behind the mutex, in a statement of its own: one that had
    waited for the lock would still see what stood before it.
    """
    found = [(_organization_of(row.scope), row) for row in connection.execute(_NARROWER)]
    return {id_: Scope(**_scope(row) | {"organization_id": id_}) for id_, row in found if id_ is not None}


_NARROWER: Final = select(limits).where(limits.c.scope != GLOBAL_SCOPE)


def _reason(stored: str) -> ErrorCode:
    """The reason of a block; one that only a newer version knows is some refusal all the same."""
    return ErrorCode(stored) if stored in {code.value for code in ErrorCode} else ErrorCode.REQUEST_REJECTED


def _scope(row: Row[Any]) -> dict[str, Any]:
    return {
        "caps": Caps(**{name: getattr(row, name) for name in CAPS}),
        "throttled_until": row.throttled_until,
        "paused_at": row.paused_at,
        "paused_reason": row.paused_reason,
    }


def _gate(row: Row[Any]) -> Gate:
    return Gate(
        **_scope(row),
        blocked_until=row.blocked_until,
        blocked_reason=None if row.blocked_reason is None else _reason(row.blocked_reason),
        blocked_detail=row.blocked_detail,
        blocked_at=row.blocked_at,
        pace=Pace(calls_per_minute=row.pace_calls_per_minute, tokens_per_minute=row.pace_tokens_per_minute),
        pace_until=row.pace_until,
    )


# -- what the provider said --------------------------------------------------------------------------------------------


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


def throttle(connection: Connection, seconds: float, organization_id: int | None = None) -> None:
    """The provider asked to wait so long; a longer wish that stands already is kept.

    `organization_id`: whose call was refused. It alone waits at first; where another one is refused while the first
    still waits, the wish is about the key, and everybody waits. None: everybody at once.
    """
    _, moment = lock(connection)
    until = moment + timedelta(seconds=seconds)
    if organization_id is None:
        _hold(connection, GLOBAL_SCOPE, until)
        return
    own = scope_of(organization_id)
    another = select(func.count()).where(limits.c.scope.not_in((GLOBAL_SCOPE, own)), limits.c.throttled_until > moment)
    _hold(connection, own, until)
    if connection.execute(another).scalar_one():
        _hold(connection, GLOBAL_SCOPE, until)


def _hold(connection: Connection, scope: str, until: datetime) -> None:
    sooner = or_(limits.c.throttled_until.is_(None), limits.c.throttled_until < until)
    _put(
        connection,
        scope,
        {"throttled_until": until},
        {"throttled_until": case((sooner, until), else_=limits.c.throttled_until)},
    )


def slow_down(connection: Connection, paces: Sequence[Pace]) -> None:
    """Heed what answers tell of the provider's own limits: hold everybody where one says that nothing more would pass,
    and note the limits for some minutes, of what was told lately the lower one, never more.
    """
    gate, moment = lock(connection)
    pauses = [pace.hold for pace in paces if pace.hold is not None]
    if pauses:
        _hold(connection, GLOBAL_SCOPE, moment + timedelta(seconds=max(pauses)))
    standing = gate.pace if gate.pace_until is not None and gate.pace_until > moment else _NO_PACE
    told = Pace(
        calls_per_minute=_lower(*(pace.calls_per_minute for pace in paces)),
        tokens_per_minute=_lower(*(pace.tokens_per_minute for pace in paces)),
    )
    lower = Pace(
        calls_per_minute=_lower(standing.calls_per_minute, told.calls_per_minute),
        tokens_per_minute=_lower(standing.tokens_per_minute, told.tokens_per_minute),
    )
    fresh = gate.pace_until is not None and gate.pace_until > moment + timedelta(seconds=_PACE_SECONDS / 2)
    # what is told no more, since higher limits are told now, runs out: it would else hold as long as anything is told
    if lower == standing and (
        fresh
        or lower == _NO_PACE
        or told != Pace(calls_per_minute=standing.calls_per_minute, tokens_per_minute=standing.tokens_per_minute)
    ):
        return
    connection.execute(
        update(limits)
        .where(_GLOBAL)
        .values(
            pace_until=moment + timedelta(seconds=_PACE_SECONDS),
            pace_calls_per_minute=lower.calls_per_minute,
            pace_tokens_per_minute=lower.tokens_per_minute,
        )
    )


# -- what people said --------------------------------------------------------------------------------------------------


def set_caps(connection: Connection, organization_id: int | None, changes: Mapping[str, Any]) -> None:
    """Set these limits (by their names in `Caps`; None takes one away) of a scope; the others stay."""
    lock(connection)
    _put(connection, scope_of(organization_id), changes, changes)
    _tidy(connection)


def pause(connection: Connection, organization_id: int | None, reason: str | None) -> datetime:
    """Let no call of the scope leave until it is resumed; returns since when it is paused. A newer reason replaces an
    older one, the moment stays.
    """
    _, moment = lock(connection)
    kept_since = func.coalesce(limits.c.paused_at, moment)
    told = limits.c.paused_reason if reason is None else reason
    _put(
        connection,
        scope_of(organization_id),
        {"paused_at": moment, "paused_reason": reason},
        {"paused_at": kept_since, "paused_reason": told},
    )
    since: datetime = connection.execute(
        select(limits.c.paused_at).where(limits.c.scope == scope_of(organization_id))
    ).scalar_one()
    return since


def resume(connection: Connection, organization_id: int | None) -> bool:
    """Lift the pause of a scope. True: there was one."""
    lock(connection)
    lifted = connection.execute(
        update(limits)
        .where(limits.c.scope == scope_of(organization_id), limits.c.paused_at.is_not(None))
        .values(paused_at=None, paused_reason=None)
    )
    _tidy(connection)
    return lifted.rowcount > 0


def forget_waits(connection: Connection, audit_history_ids: Sequence[int]) -> bool:
    """Forget that the provider asked the organizations of these batches to wait. True: it had."""
    moment = now(connection)
    theirs = select(batches.c.organization_id).where(among(connection, batches.c.audit_history_id, audit_history_ids))
    scopes = [scope_of(id_) for id_ in connection.execute(theirs.distinct()).scalars()]
    forgotten = connection.execute(
        update(limits).where(limits.c.scope.in_(scopes), limits.c.throttled_until > moment).values(throttled_until=None)
    )
    return forgotten.rowcount > 0


def _put(connection: Connection, scope: str, new: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Write the row of a scope: `new` where there is none, else `changed`."""
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(limits).values(scope=scope, **new)
    connection.execute(statement.on_conflict_do_update(index_elements=[limits.c.scope], set_=dict(changed)))


def _tidy(connection: Connection) -> None:
    """Remove the rows of organizations for which nothing holds any more."""
    empty: list[ColumnElement[bool]] = [limits.c[name].is_(None) for name in (*CAPS, "paused_at", "throttled_until")]
    connection.execute(delete(limits).where(limits.c.scope != GLOBAL_SCOPE, *empty))
