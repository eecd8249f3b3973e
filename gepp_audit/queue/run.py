"""One run of the queue, from the first look to the last batch it can end: the eight steps of the data's way.

    discover → fan out → reconcile → claim → ask → settle → publish → close

`intake` does the first three, `writeback` the last two; between them a loop settles what has arrived and claims as many
items as slots are free (one transaction: its commit frees the slots and takes them again), and asks those at once.
`start.process_queue` begins a run.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from gepp_audit import logs
from gepp_audit.audit import pricing
from gepp_audit.audit.prompt import PROMPT_VERSION
from gepp_audit.database import batches, items, limits, runs, windows
from gepp_audit.database.engine import Database
from gepp_audit.database.platform import Platform, detect
from gepp_audit.database.settling import Settlement, settle
from gepp_audit.errors import OperatorError
from gepp_audit.model import CallResult, Claim, ErrorCode, ItemState, Pace
from gepp_audit.queue import asking, budgeting, gatekeeping, intake, judging, writeback
from gepp_audit.queue.arrivals import TURN, Arrivals
from gepp_audit.queue.claiming import Claimed, Claimer
from gepp_audit.queue.handing_back import hand_back
from gepp_audit.queue.housekeeping import Housekeeper
from gepp_audit.queue.options import Listener, Provider, RunOptions
from gepp_audit.queue.stopping import Stop
from gepp_audit.queue.summary import Outcome, Summary

#: a run goes on while something is due within so many seconds
_DUE_WITHIN: Final = 10.0
#: verdicts are published in small slices, since the answers that arrive meanwhile wait
_PUBLISH_AT: Final = 48
_PUBLISH_EVERY: Final = 1.0
_SWEEP_EVERY: Final = 5.0
_REPORT_EVERY: Final = 10.0
#: seconds for old rows after a look at the platform, where no answer can arrive meanwhile and where one can
_TIDY_QUIET: Final = 0.5
_TIDY_BUSY: Final = 0.05
#: seconds in which the provider's SDK is imported, on the slowest machine
_READY_WITHIN: Final = 30.0
#: where the last claim found less than it wanted, the next look comes after so many seconds
_LOOK_AGAIN: Final = 0.5
#: a paid answer is held in memory for so long while the database is out of reach
_PATIENCE: Final = 120.0


_TOO_SLOW: Final = (
    f"from its claim to its sending a call may take {windows.SEND_WITHIN:g} s, and each took longer: the database is "
    "too far away, or this machine is overloaded"
)


class Run:
    """One run at work: the state that its steps share."""

    def __init__(
        self,
        database: Database,
        options: RunOptions,
        provider: Provider,
        summary: Summary,
        stop: Stop,
        listener: Listener,
        began: float,
    ) -> None:
        self.database = database
        self.options = options
        self.provider = provider
        self.summary = summary
        self.stop = stop
        self.listener = listener
        self.began = began
        self.platform: Platform = database.read(detect)
        terms = items.CallTerms(
            run_id=summary.run_id,
            engine=options.engine,
            model=options.model,
            prompt_version=PROMPT_VERSION,
            lease_seconds=options.call_timeout + options.lease_margin,
        )
        self.prompts = asking.Prompts()
        #: the calls under way, by call id
        self.asked: dict[int, asking.Asked] = {}
        #: results that wait for their turn
        self.arrivals = Arrivals(provider)
        #: settlements that need no answer, for the next transaction
        self.unasked: list[Settlement] = []
        #: what has been judged and is not written yet
        self.unsettled: list[Settlement] = []
        #: calls that were under way when the provider's process died, for the next transaction
        self.crashed: list[int] = []
        self.claimer = Claimer(
            terms,
            options.organizations,
            options.max_batches,
            most_output=options.max_completion_tokens,
            price=lambda read, written: pricing.most(options.model, read, written, options.price_overrides),
        )
        budgeting.refuse_unpriced(database.read(limits.gate).caps, self.claimer.price, options)
        #: the provider's limits, as the answers that are not settled yet tell them
        self.paces: list[Pace] = []
        self.housekeeper = Housekeeper(database, options.batch_statuses)
        self.seen: set[int] = set()
        self.draining = False
        #: where the last claim found all slots' worth, 0; else when to look again (monotonic)
        self.look_at = 0.0
        #: the last claim found something: a run ends only after one that found nothing
        self.found_some = False
        #: when the next waiting item may be claimed (monotonic), None: none waits
        self.due_at: float | None = began
        #: items that this run settled since it last published; those that others left are published at the end
        self.unpublished = 1
        #: after this a claimed call must not leave any more (provider's clock)
        self.send_before = 0.0
        self.last = dict.fromkeys(("publish", "sweep", "report"), time.monotonic())

    def work(self) -> None:
        """Go on until nothing is due, a stop was asked for, the time is up, or the provider refuses us."""
        self.database.patience = _PATIENCE
        logs.info("run_started", model=self.options.model, concurrency=self.options.concurrency)
        intake.take_up(self.database, self.platform, self.options, self.summary)
        self.summary.taken_up += self.database.read(
            lambda connection: items.count_open(connection, self.options.organizations)
        )
        self.provider.ready(_READY_WITHIN)  # a claimed call leaves now, not when the SDK has been imported
        while True:
            settlements = self.arrived()
            self.notice_stop()
            self.ask(self.settle_and_claim(settlements))
            self.write_back()
            self.listener.progress(self.summary, len(self.asked), self.summary.taken_up)
            if not self.asked and not self.unasked and not self.crashed and not self.more_to_do():
                break
        self.write_back(at_last=True)

    # -- settle and claim ----------------------------------------------------------------------------------------------

    def arrived(self) -> list[Settlement]:
        """Wait for answers, and judge them as they come."""
        settlements, self.unasked = self.unasked, []
        self.unsettled = settlements
        if self.asked:
            for result in self.arrivals.turn(len(self.asked), self._seconds_to_wait()):
                settlements += self._judged(result)
        return settlements

    def _judged(self, result: CallResult) -> list[Settlement]:
        """What the result does to its item; nothing where the provider's process died with the call."""
        self.summary.count(result)
        asked = self.asked.pop(result.call_id)
        if result.pace is not None:
            self.paces.append(result.pace)
        if result.failure is not None and result.failure.code is ErrorCode.CRASHED:
            self.crashed.append(result.call_id)
            return []
        moment, blocked = self.claimer.moment(), self.claimer.blocked
        return [judging.settlement(result, asked, self.options, moment=moment, chance=random.random(), blocked=blocked)]

    def settle_and_claim(self, settlements: Sequence[Settlement]) -> list[Claim]:
        """Steps 6 and 4 in one transaction: what has arrived is settled, and as many items as slots are free are
        claimed.
        """
        if settlements and self.claimer.held is not None:
            self.look_at = 0.0  # what they give back may be what was lacking
        slots = self._free_slots()
        report = self._due("report", _REPORT_EVERY)
        if not settlements and not slots and not report and not self.crashed:
            return []

        tries = 0

        def turn(connection: Connection) -> tuple[set[int], Claimed | None]:
            nonlocal tries
            tries += 1
            taken = settle(connection, settlements)
            if self.crashed:  # they count as crashes, and are ready again, with the claim that comes now
                runs.end_leases(connection, self.crashed)
                self.claimer.expire_soon()
            if tries > 1:  # the first try may have been committed, and only its reply lost
                known = {*self.asked, *self.crashed, *(settlement.call_id for settlement in settlements)}
                items.release_unknown(connection, self.summary.run_id, known)
            gatekeeping.tell(connection, settlements, self.paces, blocked=self.claimer.blocked)
            if report:
                runs.report(connection, self.summary.run_id, self.summary.as_stored())
            claimed = self._claim(connection, slots) if slots else None
            return taken, claimed

        taken, claimed = self.database.write(turn)
        if self.crashed:
            logs.warning("provider_process_died", calls_in_flight=len(self.crashed))
            self.crashed = []
            self._expect_in(0.0)
        self.paces, self.unsettled = [], []
        self.claimer.blocked = self.claimer.blocked and not gatekeeping.answers_again(settlements)
        for settlement in settlements:
            self._tell(settlement, settlement.call_id in taken)
            if settlement.state is ItemState.READY:
                self._expect_in(settlement.delay)
        if claimed is None:
            return []
        self._note_claim(claimed, slots)
        return claimed.claims

    def _claim(self, connection: Connection, slots: int) -> Claimed:
        return self.claimer.claim(connection, slots, nothing_under_way=not self.asked, expire=not self.arrivals.left)

    def _free_slots(self) -> int:
        if self._stopping() or self.claimer.alone_call in self.asked or time.monotonic() < self.look_at:
            return 0
        free = self.options.concurrency - len(self.asked)
        if self.options.max_transactions is not None:
            free = min(free, self.options.max_transactions - len(self.seen))
        return min(free, TURN)

    def _note_claim(self, claimed: Claimed, slots: int) -> None:
        now = time.monotonic()
        self.claimer.note(claimed)
        if self.options.max_transactions is not None:
            self.seen.update(claim.transaction_id for claim in claimed.claims)
        found_blocked = claimed.blocked_reason is not None and not claimed.claims
        if found_blocked and self.summary.block_reason is None:  # a refusal of its own is told first
            self.summary.block_reason, self.summary.block_detail = claimed.blocked_reason, claimed.blocked_detail
            self.summary.block_wait = claimed.seconds_to_due
        self.send_before = claimed.send_before
        self.summary.held = claimed.held if not claimed.claims else None
        for budget in claimed.budgets:
            budgeting.tell(budget)
        self.found_some = bool(claimed.claims)
        self.look_at = 0.0 if len(claimed.claims) == slots else now + _LOOK_AGAIN
        if claimed.held is not None and claimed.seconds_to_due:  # known exactly, so nobody need poll
            self.look_at = min(self.look_at, now + claimed.seconds_to_due)
        self.due_at = None if claimed.seconds_to_due is None else now + claimed.seconds_to_due

    def _expect_in(self, seconds: float) -> None:
        """Something becomes claimable so many seconds from now."""
        due_at = time.monotonic() + seconds
        self.due_at = due_at if self.due_at is None else min(self.due_at, due_at)
        self.look_at = min(self.look_at, due_at)

    # -- ask -----------------------------------------------------------------------------------------------------------

    def ask(self, claims: Sequence[Claim]) -> None:
        """Step 5: load what was claimed, build its prompts, and send them; no transaction is open."""
        if not claims:
            return
        requests, unasked = asking.prepare(
            self.database, self.platform, self.prompts, claims, self.options, self.send_before
        )
        if self.claimer.reserving:
            requests, too_large = budgeting.fit(self.database, requests, self.claimer.price)
            unasked += too_large
        self.unasked += unasked
        for request, asked in requests:
            self.asked[request.call_id] = asked
            self.provider.submit(request)

    # -- publish and close ---------------------------------------------------------------------------------------------

    def write_back(self, *, at_last: bool = False) -> None:
        """Steps 7 and 8, and a new look at the platform, each when it is time."""
        quiet = not self.asked
        if at_last or (quiet and self.unpublished):
            again = writeback.publish_settled(self.database, self.platform, self.summary)
            self.unpublished = 0
        elif self._time_to_publish():
            again = writeback.publish_slice(
                self.database, self.platform, self.summary, max(self.unpublished, _PUBLISH_AT)
            )
            self.unpublished = 0
        else:
            again = False
        if again:
            self._expect_in(0.0)
        if at_last or quiet or self._due("sweep", _SWEEP_EVERY):
            self.sweep()
            if not self.stop.requested:
                self.housekeeper.tidy(_TIDY_QUIET if quiet else _TIDY_BUSY)

    def _time_to_publish(self) -> bool:
        """Enough has been settled, or some of it long ago, and no answer waits; or far too much."""
        if self.unpublished < _PUBLISH_AT and not (self.unpublished and self._due("publish", _PUBLISH_EVERY)):
            return False
        return not self.arrivals.waiting() or self.unpublished >= 3 * _PUBLISH_AT

    def sweep(self) -> bool:
        """Close what is finished and take up what is new; True: there is something new."""
        writeback.close_finished(self.database, self.platform, self.options, self.summary)
        if self._stopping() or not intake.take_up(self.database, self.platform, self.options, self.summary):
            return False
        self._expect_in(0.0)
        return True

    # -- when to stop --------------------------------------------------------------------------------------------------

    def notice_stop(self) -> None:
        """Drain when a signal came or the time is up; give up what is in flight when the grace is over."""
        enough = self.options.max_transactions is not None and len(self.seen) >= self.options.max_transactions
        if (enough or self._seconds_left() <= 0 or self.stop.requested) and not self.draining:
            self.draining = True
            self.database.write(lambda connection: runs.drain(connection, self.summary.run_id))
        if self.stop.out_of_patience and self.asked:
            # what has been answered stays here: `wait` hands it over
            self.unasked += [judging.abandoned(self.asked.pop(id_).claim) for id_ in self.provider.abandon()]

    def more_to_do(self) -> bool:
        """Nothing is in flight: whether to go on, after waiting for what is due soon."""
        if self._stopping():
            return False
        if self.found_some:
            self._expect_in(0.0)
        if self.due_at is None:
            return self.sweep()
        wait = max(self.due_at, self.look_at) - time.monotonic()
        if wait > (self._seconds_left() if self._paced() else _DUE_WITHIN):
            return self.sweep()
        self.stop.sleep(max(min(wait, self._seconds_left(), _SWEEP_EVERY), 0.0))
        return True

    def _paced(self) -> bool:
        """A limit of the minute holds calls back: a run whose time is bounded waits for the rest of the minute, since
        the next one would come too late for it.
        """
        held = self.claimer.held
        return held is not None and held.limit.of_the_minute and self.options.max_seconds is not None

    def _stopping(self) -> bool:
        return self.draining or self.stop.requested or self.summary.block_reason is not None

    def hand_back(self, error: BaseException) -> None:
        """`error` ends this run: keep the answers that have arrived, and let go what is in flight."""
        settlements = self.unsettled + self.unasked
        settlements += [judging.abandoned(self.asked.pop(id_).claim) for id_ in self.provider.abandon()]
        for result in self.arrivals.rest():
            with contextlib.suppress(Exception):  # an answer that nobody was prepared for counts as a crash
                settlements += self._judged(result)
        unreachable = isinstance(error, OperatorError) and error.code == "database_unreachable"
        taken = hand_back(
            self.database, self.summary.run_id, settlements, keep=[*self.asked, *self.crashed] if unreachable else None
        )
        for settlement in settlements:
            if settlement.call_id in taken:
                self._tell(settlement, taken[settlement.call_id])

    def end(self, outcome: Outcome | None = None) -> None:
        """Note how it ended. `outcome`: where an error ended it."""
        summary = self.summary
        summary.seconds = time.monotonic() - self.began
        summary.outcome = outcome or self._outcome()

        def finish(connection: Connection) -> tuple[int, int]:
            runs.finish(connection, summary.run_id, summary.outcome.value, summary.as_stored())
            open_batches = batches.count_open(connection, self.options.organizations)
            return open_batches, items.count_open(connection, self.options.organizations) if open_batches else 0

        summary.batches_in_progress, summary.left = self.database.write(finish)
        if summary.retries and not summary.ended and summary.outcome is Outcome.PROCESSED:
            logs.warning("no_call_got_through", tries=summary.retries, reason=summary.last_failure)
        if summary.released and not summary.calls and summary.outcome is Outcome.PROCESSED:
            logs.warning("no_call_left_in_time", claimed=summary.released, reason=_TOO_SLOW)
        told = summary.as_json() | {"held": None if summary.held is None else summary.held.limit.value}
        logs.info("run_finished", **{name: value for name, value in told.items() if name != "run_id"})

    def _outcome(self) -> Outcome:
        if self.summary.block_reason is not None:
            return Outcome.BLOCKED
        return Outcome.INTERRUPTED if self.stop.requested else Outcome.PROCESSED

    # -- small ones ----------------------------------------------------------------------------------------------------

    def _seconds_left(self) -> float:
        """Until `max_seconds` are over."""
        most = self.options.max_seconds
        return math.inf if most is None else self.began + most - time.monotonic()

    def _seconds_to_wait(self) -> float:
        if self.found_some and self._free_slots():
            return 0.0
        wait = 1.0
        if self.due_at is not None and len(self.asked) < self.options.concurrency and not self._stopping():
            wait = min(wait, max(self.due_at, self.look_at) - time.monotonic())
        return max(wait, 0.0)

    def _due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now - self.last[what] < every:
            return False
        self.last[what] = now
        return True

    def _tell(self, settlement: Settlement, taken: bool) -> None:
        """One canonical line per settled call, and the counts that follow from it."""
        self.summary.note(settlement, taken)
        self.unpublished += settlement.state is not ItemState.READY
        judging.tell(settlement, taken)
