"""Which batches get the free slots: fairness over organizations, order within one, and never more than there is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gepp_audit.database.items import OpenBatch, Reservation
from gepp_audit.queue.schedule import BOUNDLESS, Room, allocate, eligible

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


# -- limits inside the choice ------------------------------------------------------------------------------------------

amounts = st.none() | st.integers(-2, 12)
room = st.builds(
    lambda calls, tokens, cost: Room(calls=calls, tokens=tokens, cost=None if cost is None else Decimal(cost)),
    amounts,
    amounts,
    amounts,
)
needs = st.builds(
    lambda tokens, cost: Reservation(tokens=tokens, cost=None if cost is None else Decimal(cost)),
    st.integers(0, 4),
    st.none() | st.integers(0, 4),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[OpenBatch], int, dict[int, Room], Room, dict[int, Reservation]]:
    found = draw(batches)
    rooms = {id_: draw(room) for id_ in {one.organization_id for one in found}}
    each = {one.audit_history_id: draw(needs) for one in found}
    return found, draw(st.integers(0, 40)), rooms, draw(room), each


def used(counts: dict[int, int], each: dict[int, Reservation]) -> tuple[int, int, Decimal]:
    return (
        sum(counts.values()),
        sum(count * each[id_].tokens for id_, count in counts.items()),
        sum((count * (each[id_].cost or Decimal(0)) for id_, count in counts.items()), Decimal(0)),
    )


def left_of(room: Room, counts: dict[int, int], each: dict[int, Reservation]) -> Room:
    calls, tokens, cost = used(counts, each)
    return Room(
        calls=None if room.calls is None else room.calls - calls,
        tokens=None if room.tokens is None else room.tokens - tokens,
        cost=None if room.cost is None else room.cost - cost,
    )


def stays_within(room: Room, counts: dict[int, int], each: dict[int, Reservation]) -> bool:
    left = left_of(room, counts, each)
    whole = all(value is None or value >= 0 for value in (left.calls, left.tokens, left.cost))
    priced = room.cost is None or all(each[id_].cost is not None for id_ in counts)
    return not counts or (whole and priced)


@given(cases())
def test_never_more_than_any_limit(
    case: tuple[list[OpenBatch], int, dict[int, Room], Room, dict[int, Reservation]],
) -> None:
    found, slots, rooms, overall, each = case
    chosen = dict(allocate(found, slots, in_flight={}, last_served={}, overall=overall, rooms=rooms, needs=each))
    owner = {one.audit_history_id: one.organization_id for one in found}
    assert sum(chosen.values()) <= slots
    assert stays_within(overall, chosen, each)
    for organization, own in rooms.items():
        assert stays_within(own, {id_: n for id_, n in chosen.items() if owner[id_] == organization}, each)


@given(cases())
def test_a_slot_stays_free_only_where_no_organizations_next_call_fits(
    case: tuple[list[OpenBatch], int, dict[int, Room], Room, dict[int, Reservation]],
) -> None:
    found, slots, rooms, overall, each = case
    chosen = dict(allocate(found, slots, in_flight={}, last_served={}, overall=overall, rooms=rooms, needs=each))
    if sum(chosen.values()) == slots:
        return
    rest = left_of(overall, chosen, each)
    for organization, own in rooms.items():
        theirs = [one for one in found if one.organization_id == organization]
        mine = {one.audit_history_id: chosen.get(one.audit_history_id, 0) for one in theirs}
        waiting = [one for one in theirs if mine[one.audit_history_id] < one.ready]
        if waiting:
            need = each[waiting[0].audit_history_id]
            assert not (rest.lets(need) and left_of(own, mine, each).lets(need))


@given(cases())
def test_within_an_organization_a_younger_batch_gets_nothing_before_an_older_one_is_through(
    case: tuple[list[OpenBatch], int, dict[int, Room], Room, dict[int, Reservation]],
) -> None:
    found, slots, rooms, overall, each = case
    chosen = dict(allocate(found, slots, in_flight={}, last_served={}, overall=overall, rooms=rooms, needs=each))
    for younger in found:
        if younger.audit_history_id in chosen:
            older = [
                one
                for one in found
                if one.organization_id == younger.organization_id and one.audit_history_id < younger.audit_history_id
            ]
            assert all(chosen.get(one.audit_history_id, 0) == one.ready for one in older)


@given(st.integers(2, 10), st.integers(0, 100))
def test_equal_organizations_get_equally_much(organizations: int, slots: int) -> None:
    found = [batch(id_, id_, 100) for id_ in range(1, organizations + 1)]
    chosen = dict(allocate(found, slots, in_flight={}, last_served={}))
    counts = [chosen.get(id_, 0) for id_ in range(1, organizations + 1)]
    assert max(counts) - min(counts) <= 1


@given(batches, st.integers(0, 30), st.integers(1, 5))
def test_an_organization_without_room_changes_nothing_for_the_others(
    found: list[OpenBatch], slots: int, limited: int
) -> None:
    others = [one for one in found if one.organization_id != limited]
    with_it = allocate(found, slots, in_flight={}, last_served={}, rooms={limited: Room(calls=0)})
    assert with_it == allocate(others, slots, in_flight={}, last_served={})


def test_without_limits_everything_fits() -> None:
    assert BOUNDLESS.lets(Reservation(tokens=10**12, cost=None))
