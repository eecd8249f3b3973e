"""The laws of the queue under any interleaving: hypothesis lets several runs, people and time act on a real database.

`tests/support/protocol` holds the actors, a small reference model and the laws. Each committed transaction is judged;
at the end of each example an undisturbed run must be able to finish everything. Below the machine stand the sequences
by which it found a bug, each as a test of its own.

PROTOCOL_EXAMPLES=5000 makes the search long and random; without it, it is short and always the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Final

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.support.platforms import Platform
from tests.support.protocol.runs import Answer, Run
from tests.support.protocol.world import NOBODY, ORGANIZATIONS, World

_LONG: Final = os.environ.get("PROTOCOL_EXAMPLES")
SETTINGS: Final = settings(
    max_examples=int(_LONG or 30),
    stateful_step_count=60 if _LONG else 40,
    derandomize=not _LONG,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

picks = st.integers(0, 7)
#: None: to the end; else it is suspended after so many transactions
stops = st.sampled_from([None, None, None, 0, 1, 2])
good = st.sampled_from([Answer.APPROVED, Answer.REJECTED, Answer.NO_ACTION])
answers = st.lists(st.one_of(good, st.sampled_from(Answer)), max_size=4)
some_ids = st.lists(picks, min_size=1, max_size=5)


class Protocol(RuleBasedStateMachine):
    """What may happen, in any order."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.begin()

    @initialize()
    def a_queue_at_work(self) -> None:
        self._queue(1, self.world.ids[:5])
        run = self.world.start("h0")
        assert run is not None
        self.world.take_up(run)

    def teardown(self) -> None:
        if self.world.sound:
            self.world.finish()
        self.world.stop_all()

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run(self, pick: int) -> Run:
        if not self.world.runs:
            self.world.start(f"h{pick % 2}")
        if not self.world.runs:  # the others of both hosts are busy, but not ours
            self.world.let_pass(61)
            self.world.start("h0")
        return self.world.runs[pick % len(self.world.runs)]

    @rule(
        pick=picks,
        told=answers,
        slots=st.integers(0, 4),
        newest_first=st.booleans(),
        lost_reply=st.sampled_from([False, False, True]),
        stop=stops,
    )
    def a_turn(
        self, pick: int, told: list[Answer], slots: int, newest_first: bool, lost_reply: bool, stop: int | None
    ) -> None:
        run = self._run(pick)
        self.world.turn(run, told, slots, newest_first=newest_first, lost_reply=lost_reply, most=stop)

    @rule(pick=picks, slots=st.integers(1, 6), told=answers)
    def calls_leave_and_come_back(self, pick: int, slots: int, told: list[Answer]) -> None:
        run = self._run(pick)
        self.world.turn(run, [], slots)
        self.world.turn(run, told, 0)

    @rule(pick=picks, stop=stops)
    def a_look_at_the_platform(self, pick: int, stop: int | None) -> None:
        self.world.take_up(self._run(pick), stop)

    @rule(pick=picks, stop=stops, sweep=st.booleans())
    def a_write_back(self, pick: int, stop: int | None, sweep: bool) -> None:
        run = self._run(pick)
        self.world.publish(run, stop)
        if sweep:
            self.world.end_batches(run, stop)

    def _meanwhile(self, pick: int) -> None:
        """The queue goes on while people act, whichever rules hypothesis leaves out of an example."""
        run = self._run(pick)
        if pick % 4 == 1:
            self.world.turn(run, [Answer.APPROVED, Answer.REJECTED], 3)
        elif pick % 4 == 2:
            self.world.publish(run)
            self.world.end_batches(run)
        elif pick % 4 == 3:
            self.world.take_up(run)
            self.world.turn(run, [], 2)

    @precondition(lambda self: self.world.programs)
    @rule(pick=picks, most=st.integers(1, 3))
    def a_suspended_actor_goes_on(self, pick: int, most: int) -> None:
        self.world.go_on(list(self.world.programs)[pick % len(self.world.programs)], most)

    @rule(pick=picks, act=st.sampled_from(["start", "start", "start", "crash", "crash", "leave"]))
    def a_process_comes_or_goes(self, pick: int, act: str) -> None:
        if act == "start" and len(self.world.runs) < 3:
            self.world.start(f"h{pick % 2}")
        elif act == "crash":
            self.world.crash(self._run(pick))
        elif act == "leave":
            self.world.leave(self._run(pick))

    @rule(pick=picks, seconds=st.sampled_from([3, 20, 61, 95, 95, 95, 200]))
    def time_passes(self, pick: int, seconds: int) -> None:
        self.world.let_pass(seconds)
        self._meanwhile(pick)

    # -- the operator --------------------------------------------------------------------------------------------------

    @rule(pick=picks, picked=some_ids, act=st.sampled_from(["enqueue", "force", "requeue", "give up"]), stop=stops)
    def an_operator_acts(self, pick: int, picked: list[int], act: str, stop: int | None) -> None:
        if act == "requeue":
            self.world.requeue([self._batch(pick)])
        elif act == "give up":
            self.world.give_up(self._batch(pick), stop)
        else:
            ids = self._ids(picked)
            mine = [id_ for id_ in ids if id_ in self.world.ids[: ORGANIZATIONS[1]]]
            self.world.enqueue(1, mine or ids[:1], force=act == "force")

    # -- people --------------------------------------------------------------------------------------------------------

    def _ids(self, picked: list[int]) -> list[int]:
        return [self.world.ids[pick] for pick in dict.fromkeys(picked)]

    def _batch(self, pick: int) -> int:
        known = sorted(self.world.now.history)
        return known[pick % len(known)] if known else 0

    def _queue(self, organization: int, ids: list[int], *, status: str = "in_progress", twice: bool = False) -> None:
        self.world.people(*queue(self.world, organization, ids, status=status, twice=twice))

    @rule(
        organization=st.sampled_from([1, 1, 2]),
        picked=some_ids,
        how=st.sampled_from(["once", "once", "twice", "pending", "odd"]),
    )
    def the_button_is_pressed(self, organization: int, picked: list[int], how: str) -> None:
        ids = self._ids(picked)
        if how == "odd":  # ids of anybody and nobody, in any state, one of them twice
            self.world.people(batch_row(self.world, organization, [*ids, ids[0], NOBODY], "in_progress"))
            return
        rows = self.world.now.transactions
        mine = [
            id_
            for id_ in ids
            if id_ in rows and (rows[id_]["organization_id"], rows[id_]["ai_audit_status"]) == (organization, "null")
        ]
        status = "pending" if how == "pending" else "in_progress"
        self._queue(organization, mine, status=status, twice=how == "twice")
        self._meanwhile(len(picked))

    @rule(pick=picks, ending=st.sampled_from(["cancelled", "undone", "deleted", "completed", "gone"]))
    def a_batch_is_ended_by_people(self, pick: int, ending: str) -> None:
        self.world.people(*end_batch(self.world, self._batch(pick), ending))
        self._meanwhile(pick)

    @rule(
        pick=picks,
        act=st.sampled_from(
            ["edit", "edit", "edit_record", "decide", "delete", "deactivate", "restore", "move", "remove"]
        ),
    )
    def a_transaction_is_touched(self, pick: int, act: str) -> None:
        live = sorted({key[1] for key, item in self.world.reference.items.items() if item.live})
        ids = live if live and pick % 4 else self.world.ids
        self.world.people(*touch(self.world, ids[pick % len(ids)], act))
        self._meanwhile(pick)

    @precondition(lambda self: self.world.platform.is_postgresql)
    @rule(pick=picks, what=st.sampled_from(["batch", "transaction", "nothing"]))
    def the_platform_holds_rows(self, pick: int, what: str) -> None:
        if what == "nothing":
            self.world.observer.let_go()
        elif what == "batch":
            self.world.observer.hold(locked("transaction_audit_history", self._batch(pick)))
        else:
            self.world.observer.hold(locked("transactions", self.world.ids[pick]))


# -- the platform's own statements -------------------------------------------------------------------------------------


def locked(table: str, id_: int) -> str:
    return f"SELECT id FROM {table} WHERE id = {id_} FOR UPDATE"


def listed(ids: list[int]) -> str:
    return ", ".join(str(id_) for id_ in ids) or "NULL"


def batch_row(world: World, organization: int, ids: list[int], status: str) -> str:
    plain = ", ".join(str(id_) for id_ in ids)
    array = f"'{{{plain}}}'" if world.platform.is_postgresql else f"'[{plain}]'"
    moment = "now()" if world.platform.is_postgresql else "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    return (
        "INSERT INTO transaction_audit_history (organization_id, transactions, total_transactions, status, started_at)"
        f" VALUES ({organization}, {array}, {len(ids)}, '{status}', {moment})"
    )


def queue(
    world: World, organization: int, ids: list[int], *, status: str = "in_progress", twice: bool = False
) -> list[str]:
    """The platform's button; `twice`: a double click."""
    marked = f"UPDATE transactions SET ai_audit_status = 'queued' WHERE id IN ({listed(ids)})"
    return [marked, *[batch_row(world, organization, ids, status)] * (1 + twice)]


def end_batch(world: World, batch: int, ending: str) -> list[str]:
    """How people end a batch: cancel only what is open, undo anything, in the platform's own order."""
    ids, is_open = listed(world.now.listed(batch)), world.now.is_open(batch, "in_progress", "pending")
    row = f"UPDATE transaction_audit_history SET {{}} WHERE id = {batch}"
    now = "CURRENT_TIMESTAMP"
    if ending == "cancelled":
        back = f"UPDATE transactions SET ai_audit_status = 'null' WHERE id IN ({ids}) AND ai_audit_status = 'queued'"
        return [back, row.format(f"status = 'cancelled', deleted_date = {now}")] if is_open else []
    if ending == "undone":
        back = f"UPDATE transactions SET ai_audit_status = 'null', ai_audit_note = NULL WHERE id IN ({ids})"
        return [row.format("status = 'undone'"), back]
    if ending == "deleted":
        return [row.format(f"deleted_date = {now}")]
    if ending == "completed":
        return [row.format("status = 'completed'")] if is_open else []
    if not world.platform.is_postgresql and batch == max(world.now.history, default=batch):
        return []  # SQLite would give its id to the next batch
    return [f"DELETE FROM transaction_audit_history WHERE id = {batch}"]


def touch(world: World, id_: int, act: str) -> list[str]:
    """What people do to one transaction."""
    row = f"UPDATE transactions SET {{}} WHERE id = {id_}"
    stamp = f"{world.passed}/{world.started}/{len(world.now.calls)}"
    now = "CURRENT_TIMESTAMP"
    decided = ", is_user_audit = TRUE" if world.platform.is_new else ""
    back = ", is_user_audit = FALSE" if world.platform.is_new else ""
    acts = {
        "edit": [row.format(f"notes = notes || '{stamp}'")],
        "edit_record": [f"UPDATE transaction_records SET notes = '{stamp}' WHERE created_transaction_id = {id_}"],
        "decide": [row.format(f"ai_audit_status = 'approved', status = 'approved'{decided}")],
        "delete": [row.format(f"deleted_date = {now}")],
        "deactivate": [row.format("is_active = FALSE")],
        "restore": [row.format(f"deleted_date = NULL, is_active = TRUE{back}")],
        "move": [row.format("organization_id = 3 - organization_id")],
    }
    if act == "remove":
        if world.platform.is_new and world.observer.rows(
            f"SELECT 1 AS one FROM transaction_audits WHERE transaction_id = {id_}"
        ):
            return []
        records = f"DELETE FROM transaction_records WHERE created_transaction_id = {id_}"
        return [records, f"DELETE FROM transactions WHERE id = {id_}"]
    return acts[act]


def test_the_laws_hold_whatever_happens(platform: Platform) -> None:
    world = World(platform)
    try:
        run_state_machine_as_test(partial(Protocol, world), settings=SETTINGS)  # type: ignore[arg-type] # any factory
    finally:
        world.close()


# -- what it found -----------------------------------------------------------------------------------------------------


@pytest.fixture
def world(platform: Platform) -> Iterator[World]:
    world = World(platform)
    yield world
    world.close()


def at_work(world: World, host: str = "h0") -> Run:
    run = world.start(host)
    assert run is not None
    return run


def test_a_run_that_holds_two_calls_of_one_item_settles_the_live_one_alone(world: World) -> None:
    run, other = at_work(world), at_work(world, "h1")
    world.people(*queue(world, 1, world.ids[:1]))
    world.take_up(run)
    world.turn(run, [], 1)
    world.let_pass(95)
    world.turn(other, [], 0)
    world.turn(run, [], 1)
    assert len(run.asked) == 2
    world.turn(run, [Answer.APPROVED, Answer.REJECTED], 0, newest_first=True)
    world.publish(run)
    assert world.platform.labels(world.ids[:1]) == {world.ids[0]: "approved"}
    fates = [(row["outcome"], row["verdict"] is None) for row in world.now.calls.values()]
    assert sorted(fates) == [("superseded", False), ("verdict", True)]
    world.finish()


def test_what_a_batch_queued_that_no_run_ever_saw_is_not_of_an_earlier_one(world: World) -> None:
    run = at_work(world)
    for _ in range(2):
        world.people(*queue(world, 1, world.ids[:2]))
        if len(world.now.batches) == 0:
            world.take_up(run)
        world.people(*end_batch(world, max(world.now.history), "deleted"))
        world.take_up(run)
    assert set(world.platform.labels(world.ids[:2]).values()) == {"queued"}
    world.finish()


def test_a_batch_that_is_deleted_before_its_fan_out_leaves_nothing_queued(world: World) -> None:
    run = at_work(world)
    world.people(*queue(world, 1, world.ids[:2]))
    world.take_up(run, most=2)
    assert [row["fanned_out_at"] for row in world.now.batches.values()] == [None]
    world.crash(run)
    world.people(*end_batch(world, max(world.now.history), "deleted"))
    world.take_up(at_work(world))
    assert world.platform.labels(world.ids[:2]) == dict.fromkeys(world.ids[:2], "null")
    world.finish()


def test_a_transaction_that_is_restored_before_its_batch_ends_can_be_queued_again(world: World) -> None:
    run = at_work(world)
    world.people(*queue(world, 1, world.ids[:1]), *touch(world, world.ids[0], "delete"))
    world.take_up(run)
    world.people(*touch(world, world.ids[0], "restore"))
    world.end_batches(run)
    assert world.platform.labels(world.ids[:1]) == {world.ids[0]: "null"}
    world.finish()


def test_a_verdict_that_people_made_needless_before_it_was_written_stays_in_the_ledger(world: World) -> None:
    run = at_work(world)
    world.people(*queue(world, 1, world.ids[:1]))
    world.take_up(run)
    world.turn(run, [], 1)
    world.turn(run, [Answer.APPROVED], 0)
    world.people(*touch(world, world.ids[0], "decide"))
    world.publish(run)
    world.end_batches(run)
    [call] = world.now.calls.values()
    assert (call["outcome"], call["verdict"] is None) == ("superseded", False)
    world.finish()


# -- walks that a short search may miss; the laws are judged at each step ----------------------------------------------


def asked(world: World, run: Run, count: int) -> None:
    """A batch of so many transactions, all claimed by `run`."""
    world.people(*queue(world, 1, world.ids[:count]))
    world.take_up(run)
    world.turn(run, [], count)
    assert len(run.asked) == count


def test_a_late_answer_is_taken_and_is_no_crash(world: World) -> None:
    run = at_work(world)
    asked(world, run, 2)
    world.let_pass(95)
    world.requeue([max(world.now.history)])
    assert {row["crashes"] for row in world.now.items.values()} == {1}
    world.turn(run, [Answer.APPROVED, Answer.BAD], 0)
    assert {row["crashes"] for row in world.now.items.values()} == {0}
    world.finish()


def test_a_dead_runs_call_of_a_cancelled_batch_has_an_end_in_the_ledger(world: World) -> None:
    dead, other = at_work(world), at_work(world, "h1")
    asked(world, dead, 2)
    world.people(*end_batch(world, min(world.now.history), "cancelled"))
    world.take_up(other)
    world.crash(dead)
    at_work(world)
    assert "buried orphan" in world.reference.seen
    world.finish()


def test_only_the_leases_of_the_dead_are_taken(world: World) -> None:
    dead, living = at_work(world), at_work(world, "h1")
    asked(world, dead, 2)
    world.people(*queue(world, 1, world.ids[2:4]))
    world.take_up(living)
    world.turn(living, [], 2)
    world.crash(dead)
    world.turn(at_work(world), [], 4)
    world.turn(living, [Answer.APPROVED, Answer.REJECTED], 0)
    assert world.reference.seen >= {"buried", "expired"}
    world.finish()


def test_what_is_edited_under_way_is_asked_again_until_it_is_given_up(world: World) -> None:
    run = at_work(world)
    asked(world, run, 1)
    for act in ("edit", "edit_record", "edit", "edit_record"):
        world.people(*touch(world, world.ids[0], act))
        world.turn(run, [Answer.APPROVED], 0)
        world.publish(run)
        world.turn(run, [], 1)
    assert world.reference.seen >= {"edited, asked again", "edited too often"}
    world.finish()


def test_what_kills_its_runs_is_asked_alone_then_parked_and_the_others_complete(world: World) -> None:
    run = at_work(world)
    asked(world, run, 3)
    for _ in range(3):
        world.crash(run)
        run = at_work(world)
        world.turn(run, [], 3)
    world.turn(run, [Answer.APPROVED], 0)
    assert world.reference.seen >= {"suspect claimed alone", "parked"}
    world.finish()
    assert [item.code for item in world.reference.items.values()] == ["crashed"]


def test_a_refusing_provider_is_probed_and_every_batch_ends(world: World) -> None:
    run = at_work(world)
    asked(world, run, 3)
    world.turn(run, [Answer.BLOCKED, Answer.THROTTLED, Answer.DOWN], 3)
    assert not run.asked
    world.let_pass(61)
    world.turn(run, [], 3)
    assert "probe" in world.reference.seen
    world.turn(run, [Answer.APPROVED], 3)
    world.finish()


@pytest.mark.parametrize("ending", ["cancelled", "undone", "deleted", "completed"])
def test_what_people_end_stays_as_they_left_it_though_an_answer_arrives_later(world: World, ending: str) -> None:
    run = at_work(world)
    asked(world, run, 3)
    world.turn(run, [Answer.APPROVED], 0)
    batch = max(world.now.history)
    world.people(*end_batch(world, batch, ending))
    before = world.now.history[batch]
    world.publish(run)
    world.take_up(run)
    world.turn(run, [Answer.APPROVED, Answer.REJECTED], 3)
    world.publish(run)
    assert world.now.history[batch] == before
    assert set(world.platform.labels(world.ids[:3]).values()) == {"null"}
    world.finish()
