"""Step 4 of the data's way: under the mutex row, let leases end, ask the schedule, claim exactly as many items as slots
are free.

`Claimer.claim` runs inside a transaction that may be repeated, so it changes nothing but the database; what it learned
is kept by `Claimer.note` after the commit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from gepp_audit.database import items, limits
from gepp_audit.model import Claim, ErrorCode
from gepp_audit.queue import schedule

#: seconds between two looks for leases that have ended
_EXPIRE_EVERY: Final = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """What one turn of claiming brought."""

    claims: list[Claim] = field(default_factory=list)
    moment: datetime
    #: leases that had ended were looked for
    looked: bool = False
    #: seconds until the next waiting item may be claimed; None: none waits
    seconds_to_due: float | None = None
    #: set: the provider refuses us, and at most a probe may leave
    blocked_reason: ErrorCode | None = None
    blocked_detail: str | None = None
    #: the one claim is of a suspect: nothing else may be under way with it
    suspect: bool = False
    #: the one claim is the probe of a blocked provider
    probe: bool = False


class Claimer:
    """What a run wants, and what it remembers of its turns."""

    def __init__(
        self, terms: items.CallTerms, organizations: tuple[int, ...] = (), max_batches: int | None = None
    ) -> None:
        self.terms = terms
        self.organizations = organizations
        self.max_batches = max_batches
        #: the provider refused us when last looked: the next answer lifts that
        self.blocked = False
        self.alone_call: int | None = None
        self._begun: set[int] = set()
        self._last_served: dict[int, int] = {}
        self._turn = 0
        self._expire_at = 0.0
        self._clock = (datetime.now(UTC), time.monotonic())

    def claim(self, connection: Connection, slots: int, *, nothing_under_way: bool, expire: bool = True) -> Claimed:
        """Claim up to `slots` items; to be run in a write transaction, whose commit sends them off.

        `expire`: let leases end; not while this run holds answers that it has not settled yet.
        """
        gate, moment = limits.lock(connection)
        looked = expire and time.monotonic() >= self._expire_at
        if looked:
            items.expire(connection, moment)
        closed_until = gate.closed_until(moment)
        if closed_until is not None or gate.paused_at is not None:
            return Claimed(
                moment=moment,
                looked=looked,
                seconds_to_due=None if closed_until is None else (closed_until - moment).total_seconds(),
                blocked_reason=gate.blocked_reason,
                blocked_detail=gate.blocked_detail,
            )
        probe = gate.blocked_reason is not None
        if probe and not nothing_under_way:
            return Claimed(moment=moment, looked=looked, seconds_to_due=0.0)
        claims = self._choose(connection, 1 if probe else slots, moment)
        suspect = not claims and nothing_under_way
        if suspect:
            claims = items.claim_suspect(connection, self.terms, moment, self.organizations, self._only())
        if probe and claims:
            limits.let_one_through(connection, moment)
        return Claimed(
            claims=claims,
            moment=moment,
            looked=looked,
            seconds_to_due=None if claims and not suspect else self._seconds_to_due(connection, moment),
            suspect=suspect and bool(claims),
            probe=probe and bool(claims),
        )

    def _choose(self, connection: Connection, slots: int, moment: datetime) -> list[Claim]:
        found = items.open_batches(connection, moment, slots, self.organizations)
        found = schedule.eligible(found, self._begun, self.max_batches)
        if not found:
            return []
        alone = len({batch.organization_id for batch in found}) == 1
        in_flight = {} if alone else items.in_flight(connection)
        chosen = schedule.allocate(found, slots, in_flight=in_flight, last_served=self._last_served)
        return items.claim(connection, chosen, self.terms, moment)

    def _seconds_to_due(self, connection: Connection, moment: datetime) -> float | None:
        due = items.next_due(connection, self.organizations, self._only())
        return None if due is None else max((due - moment).total_seconds(), 0.0)

    def _only(self) -> set[int] | None:
        """The batches to which this run keeps, once it has begun `max_batches` of them; None: any."""
        return self._begun if self.max_batches is not None and len(self._begun) >= self.max_batches else None

    def note(self, claimed: Claimed) -> None:
        """Remember a turn whose transaction was committed."""
        now = time.monotonic()
        self._clock = (claimed.moment, now)
        if claimed.looked:
            self._expire_at = now + _EXPIRE_EVERY
        self.blocked = self.blocked or claimed.probe
        self.alone_call = claimed.claims[0].call_id if claimed.suspect or claimed.probe else self.alone_call
        for claim in claimed.claims:
            self._turn += 1
            self._last_served[claim.organization_id] = self._turn
            if self.max_batches is not None:
                self._begun.add(claim.audit_history_id)

    def expire_soon(self) -> None:
        """Let leases end in the next claim: some have just been ended."""
        self._expire_at = 0.0

    def moment(self) -> datetime:
        """The database's time now, by the last reading of its clock."""
        read, at = self._clock
        return read + timedelta(seconds=time.monotonic() - at)
