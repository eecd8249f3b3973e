"""Step 4 of the data's way: under the mutex row, let leases end, see how the limits stand, ask the schedule, claim
exactly as many items as slots are free.

`Claimer.claim` runs inside a transaction that may be repeated, so it changes nothing but the database; what it learned
is kept by `Claimer.note` after the commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from sqlalchemy import Connection

from gepp_audit.database import items, limits, spending, windows
from gepp_audit.database.items import OpenBatch, Reservation
from gepp_audit.database.limits import Gate
from gepp_audit.database.windows import SEND_WITHIN, Recent
from gepp_audit.model import Claim, ErrorCode
from gepp_audit.provider.clock import clock
from gepp_audit.queue import schedule
from gepp_audit.queue.holding import Hold, Limit, lasts_until
from gepp_audit.queue.standing import Budget, Standing, look, reservation

#: seconds between two looks for leases that have ended
_EXPIRE_EVERY: Final = 1.0
#: seconds between two looks at the newest calls, where no limit asks for a newer one
_RECENT_EVERY: Final = 30.0
#: a suspect waits until nothing else is to be claimed; where that does not come for so long, a run begins with it
_LONG_DUE: Final = timedelta(minutes=10)


def _unpriced(_input_tokens: int, _output_tokens: int) -> Decimal | None:
    """Where no price is known."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """What one turn of claiming brought."""

    claims: list[Claim] = field(default_factory=list)
    moment: datetime
    #: leases that had ended were looked for
    looked: bool = False
    #: after this (`provider.clock`) what was claimed must not leave any more
    send_before: float = 0.0
    #: seconds until the next waiting item may be claimed; None: none waits, or nobody can say
    seconds_to_due: float | None = None
    #: set: the provider refuses us, and at most a probe may leave
    blocked_reason: ErrorCode | None = None
    blocked_detail: str | None = None
    #: the one claim is of a suspect: nothing else may be under way with it
    suspect: bool = False
    #: the one claim is the probe of a blocked provider
    probe: bool = False
    #: what holds back something that could be claimed else; of several the one that is over first
    held: Hold | None = None
    #: tokens or money are limited: no call may take more than was reserved for it
    reserving: bool = False
    #: people are to be told of these
    budgets: list[Budget] = field(default_factory=list)


class Claimer:
    """What a run wants, and what it remembers of its turns."""

    def __init__(
        self,
        terms: items.CallTerms,
        organizations: tuple[int, ...] = (),
        max_batches: int | None = None,
        *,
        most_output: int = 0,
        price: Callable[[int, int], Decimal | None] = _unpriced,
    ) -> None:
        """`most_output`: the cap of an answer, in tokens. `price`: USD of so many tokens of input and output."""
        self.terms = terms
        self.organizations = organizations
        self.max_batches = max_batches
        self.most_output = most_output
        self.price = price
        #: the provider refused us when last looked: the next answer lifts that
        self.blocked = False
        self.alone_call: int | None = None
        #: what held something back when last looked
        self.held: Hold | None = None
        #: when last looked, tokens or money were limited
        self.reserving = False
        self._begun: set[int] = set()
        self._claimed_some = False
        #: what the newest calls over all hosts told, and when they were looked at
        self._recent: dict[int, Recent] = {}
        self._recent_until = 0.0
        #: the newest call of this run, by organization
        self._last_served: dict[int, int] = {}
        self._expire_at = 0.0
        self._clock = (datetime.now(UTC), time.monotonic())

    def claim(self, connection: Connection, slots: int, *, nothing_under_way: bool, expire: bool = True) -> Claimed:
        """Claim up to `slots` items; to be run in a write transaction, whose commit sends them off.

        `expire`: let leases end; not while this run holds answers that it has not settled yet.
        """
        gate, moment = limits.lock(connection)
        send_before = clock() + SEND_WITHIN
        looked = expire and time.monotonic() >= self._expire_at
        if looked:
            items.expire(connection, moment)
        closed_until = gate.closed_until(moment)
        if closed_until is not None or gate.paused_at is not None:
            return _closed(gate, moment, closed_until, looked=looked)
        probe = gate.blocked_reason is not None
        if probe and not nothing_under_way:
            return Claimed(moment=moment, looked=looked, seconds_to_due=0.0)
        found = items.open_batches(connection, moment, slots, self.organizations)
        self._look_back(connection, overall=bool(gate.caps_at(moment)))
        needs = {batch.audit_history_id: self._reservation(batch) for batch in found}
        standing = self._look(connection, gate, moment, found, needs)
        claims, standing, suspect = self._next(
            connection, gate, found, standing, slots, probe=probe, nothing_under_way=nothing_under_way
        )
        if probe and claims:
            limits.let_one_through(connection, moment)
        held = min(standing.holds.values(), key=lasts_until, default=None)
        wanting = held is not None and len(claims) < slots
        return Claimed(
            claims=claims,
            moment=moment,
            looked=looked,
            send_before=send_before,
            seconds_to_due=self._seconds_to_due(connection, standing) if wanting or suspect or not claims else None,
            suspect=suspect,
            probe=probe and bool(claims),
            held=held,
            reserving=standing.reserving,
            budgets=_tell_of_budgets(connection, standing, claims),
        )

    def _next(
        self,
        connection: Connection,
        gate: Gate,
        found: Sequence[OpenBatch],
        standing: Standing,
        slots: int,
        *,
        probe: bool,
        nothing_under_way: bool,
    ) -> tuple[list[Claim], Standing, bool]:
        """What is claimed, how the limits stand for it, and whether it is a suspect."""
        if nothing_under_way and not probe and not self._claimed_some:
            claims, own = self._suspect(connection, gate, standing, standing.moment - _LONG_DUE)
            if claims:
                return claims, own, True
        claims = self._choose(connection, found, standing, slots, probe=probe)
        if claims or not nothing_under_way:
            return claims, standing, False
        claims, standing = self._suspect(connection, gate, standing, standing.moment)
        return claims, standing, bool(claims)

    def _choose(
        self, connection: Connection, found: Sequence[OpenBatch], standing: Standing, slots: int, *, probe: bool
    ) -> list[Claim]:
        free = [batch for batch in found if batch.organization_id not in standing.holds]
        free = schedule.eligible(free, self._begun, self.max_batches)
        if not free:
            return []
        waiting = {id_ for id_, held in standing.holds.items() if held.of_everybodys_minute}
        only = self._only()
        next_too = [
            one for one in found if one.organization_id in waiting and (only is None or one.audit_history_id in only)
        ]
        if probe:
            need = max((standing.needs[batch.audit_history_id] for batch in free), key=lambda one: one.tokens)
            ids = [batch.audit_history_id for batch in free]
            return items.claim_probe(connection, ids, self.terms, standing.moment, need)
        chosen = schedule.allocate(
            [*free, *next_too],
            slots,
            in_flight=standing.in_flight,
            last_served={id_: one.last_call for id_, one in self._recent.items()} | self._last_served,
            overall=standing.overall,
            rooms=standing.rooms,
            needs=standing.needs,
            waiting=waiting,
        )
        return items.claim(connection, chosen, self.terms, standing.moment, standing.needs)

    def _suspect(
        self, connection: Connection, gate: Gate, standing: Standing, due: datetime
    ) -> tuple[list[Claim], Standing]:
        """Claim the next suspect that was `due` then, of an organization that the limits do not hold back; returns how
        they stand, too.
        """
        held = dict(standing.holds)
        while (suspect := items.next_suspect(connection, due, self.organizations, self._only(), held)) is not None:
            need = self._reservation(suspect.batch)
            needs = {suspect.batch.audit_history_id: need}
            own = self._look(connection, gate, standing.moment, [suspect.batch], needs)
            if own.holds:
                held |= own.holds
                continue
            claims = items.claim_suspect(connection, suspect, self.terms, standing.moment, need)
            return claims, own if claims else standing
        return [], replace(standing, holds=held)

    def _look(
        self,
        connection: Connection,
        gate: Gate,
        moment: datetime,
        found: Sequence[OpenBatch],
        needs: Mapping[int, Reservation],
    ) -> Standing:
        return look(connection, gate, moment, found, needs, lease_seconds=self.terms.lease_seconds)

    def _look_back(self, connection: Connection, *, overall: bool) -> None:
        """Look at the newest calls over all hosts: at each claim where few may leave in all, since another run may have
        served an organization meanwhile; else now and then.
        """
        if overall or time.monotonic() >= self._recent_until:
            self._recent = windows.recent(connection)
            self._recent_until = time.monotonic() + _RECENT_EVERY

    def _reservation(self, batch: OpenBatch) -> Reservation:
        recent = self._recent.get(batch.organization_id)
        return reservation(batch, None if recent is None else recent.input_tokens, self.most_output, self.price)

    def _seconds_to_due(self, connection: Connection, standing: Standing) -> float | None:
        """Until the next item may be claimed: exactly when the first limit lets one pass, or its backoff is over."""
        waits = [
            standing.clears_at,
            items.next_due(connection, self.organizations, self._only(), without=standing.holds),
        ]
        due = min((moment for moment in waits if moment is not None), default=None)
        return None if due is None else max((due - standing.moment).total_seconds(), 0.0)

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
        self._claimed_some = self._claimed_some or bool(claimed.claims)
        self.held, self.reserving = claimed.held, claimed.reserving
        self.alone_call = claimed.claims[0].call_id if claimed.suspect or claimed.probe else self.alone_call
        for claim in claimed.claims:
            self._last_served[claim.organization_id] = claim.call_id
            if self.max_batches is not None:
                self._begun.add(claim.audit_history_id)

    def expire_soon(self) -> None:
        """Leases have just been ended: the next claim looks for them, whenever the last look was."""
        self._expire_at = 0.0

    def moment(self) -> datetime:
        """The database's time now, by the last reading of its clock."""
        read, at = self._clock
        return read + timedelta(seconds=time.monotonic() - at)


def _closed(gate: Gate, moment: datetime, until: datetime | None, *, looked: bool) -> Claimed:
    """Nothing may leave: the queue is paused, the provider refuses us or asked to wait."""
    held = None  # a refusal is no hold: it is told with its reason
    if gate.paused_at is not None:
        held = Hold(limit=Limit.PAUSED, said=gate.paused_reason)
    elif until is not None and until == gate.throttled_until:
        held = Hold(limit=Limit.THROTTLED, clears_at=until)
    return Claimed(
        moment=moment,
        looked=looked,
        seconds_to_due=None if until is None else (until - moment).total_seconds(),
        blocked_reason=gate.blocked_reason,
        blocked_detail=gate.blocked_detail,
        held=held,
    )


def _tell_of_budgets(connection: Connection, standing: Standing, claims: Sequence[Claim]) -> list[Budget]:
    """The limits of the day of which people must be told now; from then on this is noted for all hosts."""
    if not any(caps.of_the_day for caps in standing.caps.values()):
        return []
    reserved: dict[int, Reservation] = {}
    for claim in claims:
        need = standing.needs[claim.audit_history_id]
        before = reserved.get(claim.organization_id, Reservation())
        reserved[claim.organization_id] = Reservation(
            tokens=before.tokens + need.tokens, cost=(before.cost or Decimal()) + (need.cost or Decimal())
        )
    budgets = standing.budgets(reserved)
    for one in budgets:
        of_cost = one.limit is Limit.COST_PER_DAY
        spending.note_warned(connection, one.organization_id, standing.moment, one.percent, of_cost=of_cost)
    return budgets
