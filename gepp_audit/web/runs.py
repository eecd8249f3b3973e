"""Runs of the queue inside the server: each in a thread of its own, for one organization, through `process_queue` like
cron's.

A run claims for a given time and settles what it has paid for, however long that takes: who waits for it may leave
before. It has a database and a provider of its own, so that nothing of it is shared with requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_all
from dataclasses import replace
from typing import Final

from gepp_audit import logs
from gepp_audit.database.engine import open_database
from gepp_audit.errors import OperatorError
from gepp_audit.queue.configured import provider_of, run_options
from gepp_audit.queue.start import process_queue
from gepp_audit.queue.stopping import GRACE_SECONDS, Stop
from gepp_audit.queue.summary import Summary
from gepp_audit.settings import Settings
from gepp_audit.web.failures import Failure, Refusal

#: runs of one server at the same time, each with a process for its calls
MOST_RUNS: Final = 8
#: of one organization: one at work, and one that settles what it paid for
MOST_OF_ONE: Final = 2
#: a run stops claiming so long before its time is up, at most a quarter of it: most of its answers arrive in between
_SETTLE_SECONDS: Final = 5.0
#: beyond the grace for paid calls: settle, hand back, close
_END_SECONDS: Final = 5.0


class BackgroundRun:
    """One run, under way or ended. Read by other threads than its own."""

    def __init__(self, settings: Settings, organization_id: int, seconds: float | None) -> None:
        """`seconds`: for which it works, what it paid for is settled after that too; None: until nothing is due."""
        self.organization_id = organization_id
        self.stop = Stop()
        #: its end: the summary, or what ended it
        self.ended: Future[Summary] = Future()
        self._settings = settings
        self._seconds = seconds
        self._began = time.monotonic()
        self._seen: Summary | None = None

    @property
    def so_far(self) -> Summary | None:
        """What it has done up to now; None: it has not begun to."""
        return self._seen

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._began

    async def wait(self, seconds: float) -> None:
        """Wait for its end, at most `seconds`; it goes on all the same."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: Future[Summary]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody waits
                loop.call_soon_threadsafe(ended.set)

        self.ended.add_done_callback(tell)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)

    def progress(self, summary: Summary, waiting: int, total: int) -> None:
        """Called by the run after each turn."""
        self._seen = summary

    def work(self) -> None:
        """Run to the end. Every error becomes that of `ended`."""
        with logs.bound():
            try:
                self._seen = self._work()
            except BaseException as error:  # who waits is told, and this thread has nobody else
                told = {"code": error.code, "message": error.message} if isinstance(error, OperatorError) else {}
                logs.error("background_run_failed", error=error, organization_id=self.organization_id, **told)
                self.ended.set_exception(error)
            else:
                self.ended.set_result(self._seen)

    def _work(self) -> Summary:
        options = run_options(self._settings, organizations=(self.organization_id,))
        if self._seconds is not None:
            claiming = self._seconds - min(_SETTLE_SECONDS, self._seconds / 4)
            options = replace(options, max_seconds=min(claiming, options.max_seconds or claiming))
        with (
            contextlib.closing(open_database(self._settings.require_database_url())) as database,
            provider_of(self._settings, self.stop, lambda: None) as open_provider,
        ):
            return process_queue(database, options, open_provider, stop=self.stop, listener=self)


class Runs:
    """The runs of one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._under_way: list[BackgroundRun] = []
        self._stopped = False

    def start(self, organization_id: int, seconds: float | None) -> BackgroundRun:
        """Start a run for the organization and return at once. Refusal: too many are under way, or the server ends."""
        run = BackgroundRun(self._settings, organization_id, seconds)
        with self._lock:
            self._refuse_too_many(organization_id)
            self._under_way.append(run)
        try:
            threading.Thread(target=self._keep, args=(run,), name=f"run-{organization_id}", daemon=True).start()
        except RuntimeError:  # the system has no further thread for us
            self._under_way.remove(run)
            raise
        if self._stopped:  # a signal came in between
            run.stop.request()
        return run

    @property
    def under_way(self) -> int:
        """How many there are."""
        return len(self._under_way)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Tell every run to end as a signal does, and let none begin any more. May be called by a signal handler."""
        self._stopped = True
        for run in tuple(self._under_way):
            run.stop.request(number)

    def wait(self) -> bool:
        """After `stop`: wait until the runs have settled or released what was in flight; False: they had no time to."""
        left = [run.ended for run in tuple(self._under_way)]
        return not wait_for_all(left, timeout=GRACE_SECONDS + _END_SECONDS).not_done

    def _refuse_too_many(self, organization_id: int) -> None:
        if self._stopped:
            raise Refusal(Failure(status=503, code="ending", message="The server is being stopped."))
        own = sum(run.organization_id == organization_id for run in self._under_way)
        if own < MOST_OF_ONE and len(self._under_way) < MOST_RUNS:
            return
        whose = "for this organization " if own >= MOST_OF_ONE else ""
        message = f"{own if whose else len(self._under_way)} runs are under way here {whose}already. Try again soon."
        raise Refusal(Failure(status=429, code="too_many", message=message, headers={"Retry-After": "10"}))

    def _keep(self, run: BackgroundRun) -> None:
        try:
            run.work()
        finally:
            with self._lock:
                self._under_way.remove(run)
