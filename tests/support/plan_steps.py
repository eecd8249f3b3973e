"""Every step of the queue, taken once on a big database by the real functions, with a bound on what it may cost.

The steps share one transaction and run in their order, so each finds what the ones before left; nothing is committed.
A bound is about three times what was measured when it was set: room for another version of the database, not for a
plan that reads what the step does not need. `pages` are those that PostgreSQL looks into, `work` is what SQLite's
machine does. Where the work grows with the transactions of a step, the bound is so much for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, text

from gepp_audit.database import (
    batches,
    closing,
    enqueuing,
    failure_memory,
    forecasting,
    history,
    items,
    limits,
    mending,
    publish,
    reports,
    retention,
    retrying,
    runs,
    verdicts,
    whole_queue,
)
from gepp_audit.database.engine import now
from gepp_audit.database.glance import question
from gepp_audit.database.open_batches import open_batches
from gepp_audit.database.platform import Platform, detect, load
from gepp_audit.database.settling import Settlement, settle
from gepp_audit.model import CallOutcome, Claim, ItemState, RunIdentity, Usage
from gepp_audit.queue.claiming import Claimed, Claimer
from tests.support import big_rows
from tests.support.big_rows import ARRIVED, CANCELLED, EACH, FIRST_OPEN, HISTORY, MODEL, OPEN, UNTOUCHED, WAITING
from tests.support.plans import Watched, watching

STATUSES: Final = ("in_progress",)
#: what one turn of a run settles and claims
TURN: Final = 8
_RUN: Final = "r" * 32
_HOST: Final = "h1"


@dataclass(kw_only=True)
class Scene:
    """What the steps hand on to each other."""

    connection: Connection
    platform: Platform
    claimer: Claimer
    claims: list[Claim] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    #: the platform's rows that a step enqueues
    untouched: list[int] = field(default_factory=list)

    def batch(self, place: int) -> int:
        """The open batch at this place."""
        return FIRST_OPEN - 1 + place

    def execute(self, statement: str, **values: Any) -> Any:
        """Something that happens meanwhile."""
        return self.connection.execute(text(statement), values)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, and what it may cost; where that is nothing, it only prepares the next one and is not watched."""

    name: str
    take: Callable[[Scene], object]
    pages: int = 0
    work: int = 0


STEPS: Final[list[Step]] = []
Taken = Callable[[Scene], object]


def _step(pages: int, work: int) -> Callable[[Taken], Taken]:
    def decorate(take: Taken) -> Taken:
        STEPS.append(Step(name=take.__name__, take=take, pages=pages, work=work))
        return take

    return decorate


def _meanwhile(take: Taken) -> Taken:
    STEPS.append(Step(name=take.__name__, take=take))
    return take


def take_all(connection: Connection) -> dict[str, Watched]:
    """Take every step in this transaction; returns what each did, by name."""
    terms = items.CallTerms(run_id=_RUN, engine="openai", model=MODEL, prompt_version="1", lease_seconds=90.0)
    scene = Scene(connection=connection, platform=detect(connection), claimer=Claimer(terms))
    watched: dict[str, Watched] = {}
    for step in STEPS:
        if not step.pages:
            step.take(scene)
            continue
        with watching(connection) as watched[step.name]:
            step.take(scene)
    return watched


# -- a run begins ------------------------------------------------------------------------------------------------------


@_step(pages=100, work=15_000)
def a_tick_sees_that_there_is_work(scene: Scene) -> None:
    assert runs.anything_open(scene.connection, STATUSES)


@_step(pages=100, work=15_000)
def a_glance_sees_that_there_is_work(scene: Scene) -> None:
    mark = "%s" if scene.connection.dialect.name == "postgresql" else "?"
    found = scene.connection.exec_driver_sql(question(mark, STATUSES), (*STATUSES, "another host"))
    assert found.scalar_one()


@_step(pages=100, work=10_000)
def a_run_begins(scene: Scene) -> None:
    limits.lock(scene.connection)
    assert len(runs.unfinished(scene.connection, _HOST)) == 1
    runs.start(scene.connection, _identity())


def _identity() -> RunIdentity:
    return RunIdentity(
        run_id=_RUN, host=_HOST, boot_id="boot", pid_namespace="ns", pid=1, pid_started_at=1.0, version="1"
    )


@_meanwhile
def some_runs_have_died(scene: Scene) -> None:
    scene.dead = list(scene.execute("SELECT run_id FROM gepp_audit_calls WHERE outcome IS NULL LIMIT 20").scalars())


@_step(pages=4_000, work=40_000)
def runs_that_died_are_buried(scene: Scene) -> None:
    """Each with a few calls under way."""
    assert runs.bury(scene.connection, scene.dead) >= 20


@_step(pages=4_000, work=40_000)
def new_batches_are_discovered(scene: Scene) -> None:
    """Each of the open ones is looked up among ours."""
    assert batches.undiscovered(scene.connection, STATUSES)
    assert batches.discover(scene.connection, STATUSES) == ARRIVED


@_step(pages=4_000, work=40_000)
def what_is_to_be_taken_up_is_found(scene: Scene) -> None:
    assert len(batches.waiting_for_fan_out(scene.connection)) == ARRIVED
    assert batches.withdrawn(scene.connection) == [scene.batch(CANCELLED)]


@_step(pages=250 * EACH, work=1_500 * EACH)
def a_cancelled_batch_is_let_go(scene: Scene) -> None:
    """For each transaction an item and a row of the platform with all its indexes."""
    assert batches.withdraw(scene.connection, scene.platform, scene.batch(CANCELLED)) == batches.Withdrawn(
        skipped=EACH, closed=True
    )


@_step(pages=120 * EACH, work=2_000 * EACH)
def a_batch_is_fanned_out(scene: Scene) -> None:
    """For each transaction a look at the platform, and an item with its indexes."""
    done = batches.fan_out(scene.connection, scene.platform, HISTORY + 1)
    assert done is not None
    assert done.ready == EACH


@_meanwhile
def some_of_its_transactions_have_failed_before(scene: Scene) -> None:
    scene.execute(
        "UPDATE gepp_audit_items SET transaction_id = transaction_id + :shift"
        " WHERE state = 'failed' AND transaction_id BETWEEN :first AND :last",
        shift=big_rows.QUEUED.start - big_rows.FAILED.start, first=big_rows.FAILED.start,
        last=big_rows.FAILED.start + 99,
    )  # fmt: skip


@_step(pages=20 * EACH, work=1_500 * EACH)
def earlier_failures_are_remembered(scene: Scene) -> None:
    failure_memory.refuse_unchanged(scene.connection, scene.platform, HISTORY + 1, now(scene.connection), model=MODEL)


# -- claim, ask, settle ------------------------------------------------------------------------------------------------


@_step(pages=10_000, work=3_000_000)
def what_waits_is_counted(scene: Scene) -> None:
    """Once a run, for its progress: as many entries of an index as there are ready items."""
    assert items.count_open(scene.connection) > 150_000


@_step(pages=6_000, work=250_000)
def the_first_claim(scene: Scene) -> None:
    """It lets the leases end that have ended, too."""
    scene.claims = _claim(scene).claims


def _claim(scene: Scene, slots: int = TURN, *, alone: bool = False) -> Claimed:
    claimed = scene.claimer.claim(scene.connection, slots, nothing_under_way=alone)
    scene.claimer.note(claimed)
    return claimed


@_step(pages=4_000, work=150_000)
def a_claim(scene: Scene) -> None:
    """A few pages for each open batch, however many items it has."""
    assert len(_claim(scene).claims) == TURN


@_step(pages=400, work=6_000)
def what_was_claimed_is_loaded(scene: Scene) -> None:
    ids = [claim.transaction_id for claim in scene.claims]
    assert len(load(scene.connection, scene.platform, ids)) == TURN
    batches.load_batches(scene.connection, [claim.audit_history_id for claim in scene.claims])


@_step(pages=100 * TURN, work=2_000 * TURN)
def answers_are_settled(scene: Scene) -> None:
    assert len(settle(scene.connection, [_verdict(scene, claim) for claim in scene.claims])) == TURN


def _verdict(scene: Scene, claim: Claim) -> Settlement:
    return Settlement(
        call_id=claim.call_id,
        audit_history_id=claim.audit_history_id,
        transaction_id=claim.transaction_id,
        state=ItemState.DONE,
        outcome=CallOutcome.VERDICT,
        verdict={"status": "approved", "rules": {}, "findings": [], "rejected_by": [], "warned_by": []},
        verdict_status="approved",
        input_digest=big_rows.DIGEST,
        usage=Usage(input_tokens=2000, output_tokens=150),
    )


@_step(pages=150 * TURN, work=2_000 * TURN)
def a_settle_is_repeated(scene: Scene) -> None:
    assert len(settle(scene.connection, [_verdict(scene, claim) for claim in scene.claims])) == TURN


@_step(pages=2_000, work=20_000)
def what_a_lost_commit_claimed_is_released(scene: Scene) -> None:
    assert items.release_unknown(scene.connection, _RUN, []) == TURN


@_step(pages=250 * 48, work=2_500 * 48)
def verdicts_are_published(scene: Scene) -> None:
    """For each a row of the platform with all its indexes, and one of its audits."""
    done = publish.publish(scene.connection, scene.platform, lambda _: big_rows.DIGEST, most=48)
    assert len(done.written) == 48


@_step(pages=100, work=5_000)
def a_run_reports(scene: Scene) -> None:
    runs.report(scene.connection, _RUN, {})
    runs.drain(scene.connection, _RUN)


@_step(pages=3_000, work=50_000)
def finished_batches_are_found(scene: Scene) -> None:
    assert closing.finished(scene.connection) == [scene.batch(place) for place in big_rows.FINISHED]


@_step(pages=100 * EACH, work=1_500 * EACH)
def a_batch_is_closed(scene: Scene) -> None:
    """A fixed number of looks at its items and its part of the ledger."""
    closed = closing.close(scene.connection, scene.platform, scene.batch(big_rows.FINISHED[0]), "openai")
    assert closed is not None
    assert closed.approved == EACH


@_meanwhile
def the_new_batch_is_settled(scene: Scene) -> None:
    """The statistics know nothing of it: it is younger than they are."""
    scene.execute(
        "INSERT INTO gepp_audit_calls (run_id, audit_history_id, transaction_id, organization_id, engine, model,"
        " prompt_version, dispatched_at, answered_at, outcome, input_tokens, output_tokens)"
        " SELECT 'run-1', audit_history_id, transaction_id, organization_id, 'openai', :model, '1', available_at,"
        " available_at, 'verdict', 2000, 150 FROM gepp_audit_items WHERE audit_history_id = :batch",
        model=MODEL, batch=HISTORY + 1,
    )  # fmt: skip
    scene.execute(
        "UPDATE gepp_audit_items SET state = 'done', verdict_status = 'approved', settled_at = available_at,"
        " published_at = available_at, verdict = (SELECT verdict FROM gepp_audit_items WHERE audit_history_id = :like"
        " AND transaction_id = 1) WHERE audit_history_id = :batch",
        batch=HISTORY + 1, like=FIRST_OPEN,
    )  # fmt: skip


@_step(pages=200 * EACH, work=2_000 * EACH)
def a_new_batch_is_closed(scene: Scene) -> None:
    """Its transactions, still queued, are put back, too."""
    closed = closing.close(scene.connection, scene.platform, HISTORY + 1, "openai")
    assert closed is not None
    assert closed.total == EACH


@_step(pages=200, work=5_000)
def a_run_ends(scene: Scene) -> None:
    runs.finish(scene.connection, _RUN, "processed", {})
    batches.count_open(scene.connection)


# -- limits ------------------------------------------------------------------------------------------------------------


@_meanwhile
def everything_is_limited(scene: Scene) -> None:
    caps = {"calls_per_minute": 10_000, "tokens_per_minute": 10**9, "concurrency": 10_000, "tokens_per_day": 10**12}
    for organization in (None, *range(1, big_rows.ORGANIZATIONS + 1)):
        limits.set_caps(scene.connection, organization, caps)
    scene.claimer = Claimer(scene.claimer.terms, most_output=1_000)


@_step(pages=30_000, work=10_000_000)
def the_first_claim_under_limits_of_a_day(scene: Scene) -> None:
    """The day's calls are added up once."""
    assert len(_claim(scene).claims) == TURN


@_step(pages=6_000, work=400_000)
def a_claim_under_limits(scene: Scene) -> None:
    """The last minute and what is new of the day, from the newest end of the ledger."""
    assert len(_claim(scene).claims) == TURN


@_meanwhile
def most_organizations_reach_their_limit(scene: Scene) -> None:
    for organization in range(1, big_rows.ORGANIZATIONS):
        limits.set_caps(scene.connection, organization, {"concurrency": 0, "tokens_per_day": None})


@_step(pages=8_000, work=400_000)
def a_claim_where_most_may_not(scene: Scene) -> None:
    _claim(scene)


@_step(pages=3_000, work=30_000)
def the_next_moment_is_looked_for(scene: Scene) -> None:
    """The first entry of each open batch."""
    assert items.next_due(scene.connection) is not None


@_step(pages=300, work=5_000)
def a_suspect_is_claimed(scene: Scene) -> None:
    moment = now(scene.connection)
    found = items.next_suspect(scene.connection, moment)
    assert found is not None
    assert len(items.claim_suspect(scene.connection, found, scene.claimer.terms, moment)) == 1


# -- what people ask ---------------------------------------------------------------------------------------------------


@_step(pages=30_000, work=50_000_000)
def stuck_looks_at_everything_open(scene: Scene) -> None:
    """Each item of an open batch, and the last quarter of an hour of the ledger."""
    opened = open_batches(scene.connection, STATUSES)
    assert len(reports.collect(scene.connection, opened, opened.rows.keys()).batches) > OPEN


@_step(pages=22_000, work=13_000_000)
def stuck_looks_at_the_oldest_of_each_organization(scene: Scene) -> None:
    """Each of its items, and one or two of those of most batches behind it."""
    opened = open_batches(scene.connection, STATUSES)
    newest_first = sorted(opened.rows, key=lambda id_: opened.rows[id_].started_at, reverse=True)
    oldest = {opened.rows[id_].organization_id: id_ for id_ in newest_first}
    found = {batch.audit_history_id for batch in reports.collect(scene.connection, opened, oldest.values()).batches}
    assert found >= set(oldest.values())
    assert len(found) < OPEN / 2


@_step(pages=50_000, work=700_000)
def stuck_looks_for_orphans(scene: Scene) -> None:
    """A fixed number of queued transactions, each with a look for its live item."""
    count, complete = retrying.count_orphans(scene.connection, scene.platform, STATUSES, 5_000)
    assert (count, complete) == (0, False)


@_step(pages=3_000, work=60_000)
def stuck_looks_for_a_rival(scene: Scene) -> None:
    """The open batches, and those that ended within the last hour."""
    assert whole_queue.settled_by_others(scene.connection, timedelta(hours=1))[1] == 0


@_step(pages=500, work=5_000)
def stuck_looks_for_statuses_that_no_run_takes(scene: Scene) -> None:
    """The open batches by their status, beside a long history."""
    assert sum(whole_queue.open_by_status(scene.connection).values()) > OPEN


@_step(pages=1_500, work=700_000)
def show_lists_the_newest(scene: Scene) -> None:
    assert len(history.newest(scene.connection, 20)) == 20


@_step(pages=2_500, work=350_000)
def show_tells_of_one_batch(scene: Scene) -> None:
    assert history.one(scene.connection, FIRST_OPEN) is not None
    assert len(verdicts.transactions_of(scene.connection, scene.platform, FIRST_OPEN, 50)) == 50


@_step(pages=300_000, work=6_000_000)
def a_dry_run_counts(scene: Scene) -> None:
    """Two looks at each open batch."""
    assert len(forecasting.waiting(scene.connection, scene.platform, STATUSES, (), 20)) >= OPEN - 2


@_step(pages=1_000, work=700_000)
def a_dry_run_asks_for_a_model_that_was_never_asked(scene: Scene) -> None:
    assert forecasting.usual_output_tokens(scene.connection, "unknown") is None


@_step(pages=20 * EACH, work=200 * EACH)
def what_can_be_enqueued_is_found(scene: Scene) -> None:
    organization = 1 + ((UNTOUCHED.start - 1) // EACH) % big_rows.ORGANIZATIONS
    scene.untouched = enqueuing.candidates(scene.connection, scene.platform, organization, None)
    assert len(scene.untouched) == EACH
    assert enqueuing.refusals(scene.connection, scene.platform, organization, scene.untouched) == []


@_step(pages=150 * EACH, work=400 * EACH)
def transactions_are_enqueued(scene: Scene) -> None:
    """For each a row of the platform with all its indexes."""
    marked = enqueuing.mark_queued(scene.connection, scene.platform, scene.untouched)
    assert marked == scene.untouched
    enqueuing.insert_batch(scene.connection, 1, marked, status="in_progress", triggered_by=None, forced=False)


@_step(pages=60 * EACH, work=400 * EACH)
def a_stuck_batch_is_made_due(scene: Scene) -> None:
    assert mending.make_due(scene.connection, [scene.batch(WAITING[0])]) == EACH


@_step(pages=60 * EACH, work=500 * EACH)
def a_stuck_batch_is_given_up(scene: Scene) -> None:
    assert mending.give_up(scene.connection, scene.batch(WAITING[0])) == EACH


# -- an outage ---------------------------------------------------------------------------------------------------------


@_meanwhile
def the_provider_is_down_and_all_wait(scene: Scene) -> None:
    later = now(scene.connection) + timedelta(minutes=10)
    value = later if scene.connection.dialect.name == "postgresql" else later.strftime("%Y-%m-%d %H:%M:%S.%f")
    scene.execute("UPDATE gepp_audit_items SET available_at = :later WHERE state = 'ready'", later=value)
    scene.claimer = Claimer(scene.claimer.terms)


@_step(pages=40_000, work=150_000)
def a_claim_where_all_wait(scene: Scene) -> None:
    """No item that is not due is read, but for the entries of an index that are not cleared away yet."""
    assert _claim(scene, alone=True).claims == []


# -- nothing to do -----------------------------------------------------------------------------------------------------


@_meanwhile
def all_batches_end(scene: Scene) -> None:
    scene.execute("UPDATE gepp_audit_batches SET closed_at = started_at WHERE closed_at IS NULL")
    scene.execute("UPDATE transaction_audit_history SET status = 'completed' WHERE status = 'in_progress'")


@_step(pages=2_000, work=10_000)
def an_idle_tick(scene: Scene) -> None:
    """It finds nothing open and nothing old; the pages are those of rows that have just been closed."""
    assert not runs.anything_open(scene.connection, STATUSES)
    assert not retention.due(scene.connection, STATUSES)
    runs.tick(scene.connection, _identity())


@_meanwhile
def nothing_is_queued_any_more(scene: Scene) -> None:
    scene.execute("UPDATE transactions SET ai_audit_status = 'approved' WHERE ai_audit_status = 'queued' AND id > 100")


@_step(pages=20_000, work=300_000)
def stuck_finds_nothing(scene: Scene) -> None:
    """What a monitor asks again and again; the pages are those of rows that have just been changed."""
    assert not open_batches(scene.connection, STATUSES).rows
    retrying.count_orphans(scene.connection, scene.platform, STATUSES, 5_000)
    whole_queue.settled_by_others(scene.connection, timedelta(hours=1))
    whole_queue.open_by_status(scene.connection)


@_meanwhile
def days_go_by(scene: Scene) -> None:
    shifted = (
        ("gepp_audit_calls", "dispatched_at", "id <= 1000"),
        (
            "gepp_audit_batches",
            "closed_at",
            f"audit_history_id BETWEEN {big_rows.FIRST_CLOSED} AND {big_rows.FIRST_CLOSED + 999}",
        ),
    )
    for table, column, rows in shifted:
        moment = (
            f"{column} - interval '20 days'"
            if scene.connection.dialect.name == "postgresql"
            else f"datetime({column}, '-20 days') || '.000000'"
        )
        scene.execute(f"UPDATE {table} SET {column} = {moment} WHERE {rows}")


@_step(pages=100 * retention.SLICE, work=600 * retention.SLICE)
def old_calls_are_pruned(scene: Scene) -> None:
    assert retention.due(scene.connection, STATUSES)
    assert retention.prune(scene.connection, STATUSES).calls == retention.SLICE
    assert retention.prune(scene.connection, STATUSES).calls == retention.SLICE


@_step(pages=60 * retention.SLICE, work=600 * retention.SLICE)
def old_batches_are_pruned(scene: Scene) -> None:
    assert retention.prune(scene.connection, STATUSES).rows > 0
