"""How the limits stand at one moment: what may leave of whom, who is held back and why, and who is due to be told.

`look` reads it for a claim, behind the mutex, and for whoever asks why a batch does not move, without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import Connection

from gepp_audit.database import items, limits, windows
from gepp_audit.database.items import OpenBatch, Reservation
from gepp_audit.database.limits import Caps, Gate, Scope
from gepp_audit.database.windows import Use
from gepp_audit.queue.holding import Hold, Limit, hold, lasts_until, room
from gepp_audit.queue.schedule import BOUNDLESS, Room

#: tokens of a rule set's prompt where an older version fanned the batch out, and of a transaction where no call of its
#: organization is known; rather too many than too few
_PROMPT_TOKENS: Final = 8_000
_OWN_TOKENS: Final = 1_500
#: how much larger than the largest of late an organization's next call may be
_GROWTH: Final = Decimal("1.1")
#: at so many per cent of a limit of the day people are told
_WARN_AT: Final = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A limit of the day of whose use people are to be told."""

    organization_id: int | None
    limit: Limit
    most: int | Decimal
    used: int | Decimal
    percent: int
    #: what one more call would reserve, where that is what it lacks
    need: int | Decimal | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """See the module. Organizations without anything to claim are left out."""

    moment: datetime
    #: everybody's room
    overall: Room = BOUNDLESS
    rooms: Mapping[int, Room] = field(default_factory=dict)
    #: why the next call of an organization may not leave
    holds: Mapping[int, Hold] = field(default_factory=dict)
    #: what a call of each batch reserves
    needs: Mapping[int, Reservation] = field(default_factory=dict)
    in_flight: Mapping[int, int] = field(default_factory=dict)
    #: by scope, where there is a limit
    caps: Mapping[int | None, Caps] = field(default_factory=dict)
    uses: Mapping[int | None, Use] = field(default_factory=dict)

    @property
    def reserving(self) -> bool:
        """Tokens or money are limited, so that no call may take more than it reserved."""
        return any(caps.of_size for caps in self.caps.values())

    @property
    def clears_at(self) -> datetime | None:
        """When the first hold is over; None: nothing is held, or nobody can say."""
        return min((one.clears_at for one in self.holds.values() if one.clears_at is not None), default=None)

    def budgets(self, reserved: Mapping[int, Reservation]) -> list[Budget]:
        """The limits of the day of which people are to be told, each once a day: nearly used up, or holding calls back
        while none is under way. `reserved`: what the calls just claimed reserve, by organization.
        """
        found: list[Budget] = []
        for scope, caps in self.caps.items():
            if not caps.of_the_day:
                continue
            use = self.uses[scope]
            more = [one for id_, one in reserved.items() if scope in (None, id_)]
            tokens = use.today.tokens + sum(one.tokens for one in more)
            cost = use.today.cost + sum((one.cost or Decimal() for one in more), Decimal())
            held = {one.limit: one for one in self.holds.values() if one.organization_id == scope}
            for limit, most, used, told in (
                (Limit.TOKENS_PER_DAY, caps.tokens_per_day, tokens, use.today.warned_of_tokens),
                (Limit.COST_PER_DAY, caps.cost_per_day, cost, use.today.warned_of_cost),
            ):
                if most is None:
                    continue
                ends_it = held.get(limit) if not use.in_flight and not more else None
                percent = _WARN_AT if ends_it is None else 100
                if percent <= told or (ends_it is None and used * 100 < most * _WARN_AT):
                    continue
                need = None if ends_it is None else ends_it.need
                found.append(
                    Budget(organization_id=scope, limit=limit, most=most, used=used, percent=percent, need=need)
                )
        return found


def reservation(
    batch: OpenBatch, recent: int | None, most_output: int, price: Callable[[int, int], Decimal | None]
) -> Reservation:
    """What a call of `batch` may take at most.

    Its input is what the rules take (known since the fan-out) and a transaction beside them, or a tenth more than the
    largest input of this organization's latest calls (`recent`), whichever is more; its output is its cap. `price`: USD
    of so many tokens of input and output.
    """
    prompt = _PROMPT_TOKENS if batch.prompt_tokens is None else batch.prompt_tokens
    input_tokens = max(prompt + _OWN_TOKENS, int((recent or 0) * _GROWTH) + 1)
    return Reservation(tokens=input_tokens + most_output, cost=price(input_tokens, most_output))


def look(
    connection: Connection,
    gate: Gate,
    moment: datetime,
    batches: Sequence[OpenBatch],
    needs: Mapping[int, Reservation],
    *,
    write: bool = True,
    lease_seconds: float = items.LEASE_SECONDS,
) -> Standing:
    """How the limits stand for the organizations of `batches`, which have something to claim, oldest first.

    `needs`: what a call of each batch reserves. `write`: see `spending.today`.
    `lease_seconds`: how long a call may be under way.
    """
    scopes = limits.of_organizations(connection)
    present = list(dict.fromkeys(batch.organization_id for batch in batches))
    caps: dict[int | None, Caps] = {None: gate.caps_at(moment)}
    caps |= {id_: scopes[id_].caps for id_ in present if id_ in scopes}
    caps = {scope: one for scope, one in caps.items() if one}
    in_flight = items.in_flight(connection, lease_seconds) if caps or len(present) > 1 else {}
    uses = windows.use(connection, moment, caps, in_flight, write=write) if caps else {}
    first: dict[int, Reservation] = {}
    for batch in batches:
        first.setdefault(batch.organization_id, needs[batch.audit_history_id])
    rooms = {scope: room(one, uses[scope]) for scope, one in caps.items()}
    holds = {
        id_: held
        for id_ in present
        if (held := _held(id_, scopes.get(id_, _FREE), caps, uses, first[id_], moment)) is not None
    }
    return Standing(
        moment=moment,
        overall=rooms.get(None, BOUNDLESS),
        rooms={scope: one for scope, one in rooms.items() if scope is not None},
        holds=holds,
        needs=needs,
        in_flight=in_flight,
        caps=caps,
        uses=uses,
    )


_FREE: Final = Scope()


def _held(
    id_: int,
    scope: Scope,
    caps: Mapping[int | None, Caps],
    uses: Mapping[int | None, Use],
    need: Reservation,
    moment: datetime,
) -> Hold | None:
    """What holds an organization back: a person's word, else what lasts longest."""
    if scope.paused_at is not None:
        return Hold(limit=Limit.PAUSED, organization_id=id_, said=scope.paused_reason)
    found = [hold(one, caps[one], uses[one], need, moment) for one in (id_, None) if one in caps]
    if scope.throttled_until is not None and scope.throttled_until > moment:
        found.append(Hold(limit=Limit.THROTTLED, organization_id=id_, clears_at=scope.throttled_until))
    return max((one for one in found if one is not None), key=lasts_until, default=None)
