"""Which batches get the free slots: pure, so that fairness and the limits can be proven.

Round-robin over organizations, oldest batch first within one: the next slot goes to the organization with the fewest
calls under way over all hosts, among equals to the one served longest ago. Example: slots 3, organization 1 with 9
ready items and one call under way, organization 2 with 1 ready item and none: 2 gets one, then 1 gets two.

The limits are part of the choice: an organization whose next call does not fit is passed over, so that it never costs
another one a slot, and a slot stays free only where no organization's next call fits. One that waits for everybody's
minute is not passed over when it is next in turn: smaller calls would use up whatever becomes free, and it would never
have room.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from gepp_audit.database.items import OpenBatch, Reservation

_NOTHING: Final[Mapping[int, Reservation]] = {}
_NO_ROOMS: Final[Mapping[int, Room]] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What may still leave of one scope; None: without limit."""

    calls: int | None = None
    tokens: int | None = None
    #: USD
    cost: Decimal | None = None

    def lets(self, need: Reservation) -> bool:
        """Whether one more call fits. A call of an unknown price never fits where money is limited."""
        if self.calls is not None and self.calls < 1:
            return False
        if self.tokens is not None and self.tokens < need.tokens:
            return False
        return self.cost is None or (need.cost is not None and need.cost <= self.cost)

    def less(self, need: Reservation) -> Room:
        """What is left when that call has left."""
        return Room(
            calls=None if self.calls is None else self.calls - 1,
            tokens=None if self.tokens is None else self.tokens - need.tokens,
            cost=None if self.cost is None else self.cost - (need.cost or 0),
        )


#: no limit at all
BOUNDLESS: Final = Room()
_FREE: Final = Reservation()


def allocate(
    batches: Sequence[OpenBatch],
    slots: int,
    *,
    in_flight: Mapping[int, int],
    last_served: Mapping[int, int],
    overall: Room = BOUNDLESS,
    rooms: Mapping[int, Room] = _NO_ROOMS,
    needs: Mapping[int, Reservation] = _NOTHING,
    waiting: Collection[int] = (),
) -> list[tuple[int, int]]:
    """How many items to claim of each batch: (batch id, n > 0), n at most its ready ones, all n together at most
    `slots`, and within the limits.

    `batches`: oldest first. `in_flight`: calls under way by organization. `last_served`: a number by organization that
    grows with each of its calls; missing: never. `overall`, `rooms`: what may still leave of everybody, and by
    organization. `needs`: what a call of each batch reserves. `waiting`: organizations for which everybody's room was
    too small before this turn, and will be large enough.
    """
    queues: dict[int, list[list[int]]] = {}
    for batch in batches:
        queues.setdefault(batch.organization_id, []).append([batch.audit_history_id, batch.ready])
    load = {organization: in_flight.get(organization, 0) for organization in queues}
    served = {organization: last_served.get(organization, -1) for organization in queues}
    left = {organization: rooms.get(organization, BOUNDLESS) for organization in queues}
    turn = max(served.values(), default=0) + 1
    taken: dict[int, int] = {}
    while slots > 0 and queues:
        organization = min(queues, key=lambda candidate: (load[candidate], served[candidate], candidate))
        head = queues[organization][0]
        need = needs.get(head[0], _FREE)
        fits = overall.lets(need)
        if not fits and organization in waiting and left[organization].lets(need):
            break
        if not (fits and left[organization].lets(need)):
            del queues[organization]  # what is left only shrinks: it cannot fit later in this turn
            continue
        overall, left[organization] = overall.less(need), left[organization].less(need)
        taken[head[0]] = taken.get(head[0], 0) + 1
        head[1] -= 1
        load[organization] += 1
        served[organization] = turn
        turn += 1
        slots -= 1
        if head[1] == 0:
            queues[organization].pop(0)
            if not queues[organization]:
                del queues[organization]
    return list(taken.items())


def eligible(batches: Sequence[OpenBatch], begun: Collection[int], most: int | None) -> list[OpenBatch]:
    """`batches` under `--max-batches`: those already begun by this run, and new ones, oldest first, up to `most` in
    all. To be given what can be claimed: a batch that the limits hold back does not count.
    """
    if most is None:
        return list(batches)
    room = most - len(begun)
    chosen: list[OpenBatch] = []
    for batch in batches:
        if batch.audit_history_id in begun:
            chosen.append(batch)
        elif room > 0:
            chosen.append(batch)
            room -= 1
    return chosen
