"""Which batches get the free slots: fairness over organizations, order within one, and never more than there is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.database.items import OpenBatch
from gepp_audit.queue.schedule import allocate, eligible

START = datetime(2026, 1, 1, tzinfo=UTC)


def batch(id_: int, organization: int, ready: int) -> OpenBatch:
    return OpenBatch(
        audit_history_id=id_, organization_id=organization, started_at=START + timedelta(seconds=id_), ready=ready
    )


batches = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 20)), max_size=12).map(
    lambda found: [batch(id_, organization, ready) for id_, (organization, ready) in enumerate(found, 1)]
)
loads = st.dictionaries(st.integers(1, 5), st.integers(0, 30))


def test_the_example_of_the_docstring() -> None:
    chosen = allocate([batch(1, 1, 9), batch(2, 2, 1)], 3, in_flight={1: 1}, last_served={})
    assert dict(chosen) == {2: 1, 1: 2}


def test_an_organization_with_many_old_batches_leaves_room_for_a_new_one() -> None:
    chosen = allocate([batch(1, 1, 100), batch(2, 1, 100), batch(3, 2, 100)], 10, in_flight={}, last_served={})
    assert dict(chosen) == {1: 5, 3: 5}


def test_within_an_organization_the_oldest_batch_comes_first() -> None:
    chosen = allocate([batch(1, 1, 3), batch(2, 1, 9)], 5, in_flight={}, last_served={})
    assert chosen == [(1, 3), (2, 2)]


def test_with_one_slot_organizations_take_turns() -> None:
    served: dict[int, int] = {}
    order = []
    for turn in range(6):
        [(chosen, _)] = allocate([batch(id_, id_, 9) for id_ in (1, 2, 3)], 1, in_flight={}, last_served=served)
        served[chosen] = turn
        order.append(chosen)
    assert order == [1, 2, 3, 1, 2, 3]


@given(batches, st.integers(0, 60), loads, loads)
def test_never_more_than_the_slots_nor_than_a_batch_has(
    found: list[OpenBatch], slots: int, in_flight: dict[int, int], served: dict[int, int]
) -> None:
    chosen = dict(allocate(found, slots, in_flight=in_flight, last_served=served))
    ready = {one.audit_history_id: one.ready for one in found}
    assert all(0 < count <= ready[id_] for id_, count in chosen.items())
    assert sum(chosen.values()) == min(slots, sum(ready.values()))


@given(batches, st.integers(1, 60), loads)
def test_no_organization_waits_while_another_one_gets_ahead_of_it(
    found: list[OpenBatch], slots: int, in_flight: dict[int, int]
) -> None:
    chosen = dict(allocate(found, slots, in_flight=in_flight, last_served={}))
    owner = {one.audit_history_id: one.organization_id for one in found}
    given_to: Counter[int] = Counter()
    for id_, count in chosen.items():
        given_to[owner[id_]] += count
    left = Counter({one.organization_id: 0 for one in found})
    for one in found:
        left[one.organization_id] += one.ready - chosen.get(one.audit_history_id, 0)
    load = {organization: in_flight.get(organization, 0) + given_to[organization] for organization in left}
    hungry = [organization for organization in left if left[organization]]
    for organization in hungry:
        assert all(load[other] <= load[organization] + 1 for other in given_to if given_to[other])


def test_max_batches_keeps_those_begun_and_adds_the_oldest() -> None:
    found = [batch(id_, 1, 1) for id_ in (1, 2, 3, 4)]
    assert [one.audit_history_id for one in eligible(found, {3}, 2)] == [1, 3]
    assert eligible(found, set(), None) == found
