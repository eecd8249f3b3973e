"""Which batches get the free slots: pure, so that fairness can be proven.

Round-robin over organizations, oldest batch first within one: the next slot goes to the organization with the fewest
calls under way over all hosts, among equals to the one served longest ago. Example: slots 3, organization 1 with 9
ready items and one call under way, organization 2 with 1 ready item and none: 2 gets one, then 1 gets two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gepp_audit.database.items import OpenBatch


def allocate(
    batches: Sequence[OpenBatch],
    slots: int,
    *,
    in_flight: Mapping[int, int],
    last_served: Mapping[int, int],
) -> list[tuple[int, int]]:
    """How many items to claim of each batch: (batch id, n > 0), n at most its ready ones, all n together at most
    `slots`.

    `batches`: oldest first. `in_flight`: calls under way by organization. `last_served`: a number by organization that
    grows with each of its calls over the run's life; missing: never.
    """
    queues: dict[int, list[list[int]]] = {}
    for batch in batches:
        queues.setdefault(batch.organization_id, []).append([batch.audit_history_id, batch.ready])
    load = {organization: in_flight.get(organization, 0) for organization in queues}
    served = {organization: last_served.get(organization, -1) for organization in queues}
    turn = max(served.values(), default=0) + 1
    taken: dict[int, int] = {}
    while slots > 0 and queues:
        organization = min(queues, key=lambda candidate: (load[candidate], served[candidate], candidate))
        head = queues[organization][0]
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
    all.
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
