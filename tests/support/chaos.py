"""Trouble by a seed: hosts that run the queue and are killed, frozen and thawed, cut off, and set going again.

A `Fleet` is some hosts, each with at most one run at a time, as cron would start it. `Fleet.turn` is one moment of it:
what ended is counted and started again, what was frozen long enough is thawed. `Chaos` makes the trouble until it has
made enough, and then lets the work end in peace. All chances come from one seed; which call a kill meets is the
machine's.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.evidence import Evidence
from tests.support.launcher import STEPS, starved, trouble
from tests.support.people import People
from tests.support.processes import Process, Programs, Simulator
from tests.support.waiting import wait_until

LAUNCHER: Final = (sys.executable, "-m", "tests.support.launcher", "process-queue")
#: whole call timeout and margin, in seconds: short, so that a frozen run soon is frozen past its leases
TIMEOUT: Final = 3
MARGIN: Final = 1
LEASE: Final = TIMEOUT + MARGIN
QUICK: Final[Mapping[str, str]] = {
    "GEPP_AUDIT_CALL_TIMEOUT": str(TIMEOUT),
    "GEPP_AUDIT_LEASE_MARGIN": str(MARGIN),
    "GEPP_AUDIT_BACKOFF_SECONDS": "0.1",
}
#: libraries that shift a process's clock (Debian: libfaketime)
_FAKETIME: Final = "/usr/lib/*/faketime/libfaketime.so.1"


def shifted(seconds: int) -> dict[str, str]:
    """The environment of a host whose clock is so many seconds ahead; the monotonic clock stays true."""
    [library] = sorted(Path("/").glob(_FAKETIME.lstrip("/")))
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def is_stopped(pid: int) -> bool:
    """The process stands still under a SIGSTOP."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


@dataclass(kw_only=True)
class Tally:
    """What was done, and what came of it."""

    kills: int = 0
    stops: int = 0
    #: runs that ended by themselves, by exit code
    ended: dict[int, int] = field(default_factory=dict)
    #: what runs told when they ended with another code than 0
    complaints: list[str] = field(default_factory=list)
    restarts: int = 0
    cuts: int = 0

    @property
    def disruptions(self) -> int:
        """Every one may cost the calls that were under way in one run."""
        failed = sum(number for code, number in self.ended.items() if code)
        return self.kills + self.stops + failed


@dataclass(kw_only=True)
class Fleet:
    """Hosts that run the queue."""

    programs: Programs
    #: the environment of each host by its name
    hosts: Mapping[str, Mapping[str, str]]
    tally: Tally = field(default_factory=Tally)
    runs: dict[str, Process] = field(default_factory=dict)
    #: when to thaw a frozen run (monotonic), by host
    thaw_at: dict[str, float] = field(default_factory=dict)
    #: hosts whose whole process group is frozen, not the run alone
    frozen_groups: set[str] = field(default_factory=set)
    #: those who were killed by us: their end is counted already
    _killed: set[int] = field(default_factory=set)

    def start(self, host: str, trouble: Mapping[str, str] | None = None) -> Process:
        """A run on this host."""
        environ = {**QUICK, **self.hosts[host], **(trouble or {}), "GEPP_AUDIT_HOST": host}
        self.runs[host] = self.programs.start_command([*LAUNCHER, "--json"], environ=environ)
        return self.runs[host]

    def turn(self, freeze_seconds: Callable[[], float]) -> list[str]:
        """Count what has ended, thaw what was frozen long enough; returns the hosts on which nothing runs."""
        now = time.monotonic()
        for host, run in list(self.runs.items()):
            if not run.running:
                self._note_end(run)
                del self.runs[host]
                self.thaw_at.pop(host, None)
            elif host not in self.thaw_at and is_stopped(run.pid):
                self.tally.stops += 1  # at a point that it was told beforehand
                self.thaw_at[host] = now + freeze_seconds()
            elif self.thaw_at.get(host, now + 1) <= now:
                self.thaw(host)
        return [host for host in self.hosts if host not in self.runs]

    def _note_end(self, run: Process) -> None:
        code = run.wait().exit_code
        if code == -signal.SIGKILL:
            self.tally.kills += run.pid not in self._killed
            return
        self.tally.ended[code] = self.tally.ended.get(code, 0) + 1
        if code:
            self.tally.complaints.append(run.stderr[-2000:])

    def kill(self, host: str) -> None:
        """SIGKILL of the run alone."""
        run = self.runs.pop(host)
        self.thaw_at.pop(host, None)
        self._killed.add(run.pid)
        if run.kill().exit_code == -signal.SIGKILL:
            self.tally.kills += 1

    def freeze(self, host: str, seconds: float, *, group: bool = False) -> None:
        """SIGSTOP of the run alone, or of all its processes, for so long."""
        run = self.runs[host]
        if not run.running:
            return
        try:
            if group and os.getpgid(run.pid) == run.pid:
                os.killpg(run.pid, signal.SIGSTOP)
                self.frozen_groups.add(host)
            else:
                os.kill(run.pid, signal.SIGSTOP)
        except ProcessLookupError:  # it has ended just now
            return
        self.tally.stops += 1
        self.thaw_at[host] = time.monotonic() + seconds

    def thaw(self, host: str) -> None:
        """SIGCONT."""
        self.thaw_at.pop(host, None)
        run = self.runs[host]
        if host in self.frozen_groups:
            self.frozen_groups.discard(host)
            with contextlib.suppress(ProcessLookupError):  # the others may have ended it meanwhile
                os.killpg(run.pid, signal.SIGCONT)
        else:
            run.thaw()

    def awake(self) -> list[str]:
        """The hosts with a run that is not frozen."""
        return [host for host, run in self.runs.items() if host not in self.thaw_at and run.running]

    def rest(self, timeout: float = 120.0) -> None:
        """Thaw all, and wait for their end."""
        for host in list(self.thaw_at):
            self.thaw(host)

        def ended() -> bool:
            self.turn(lambda: 0.0)
            return not self.runs

        wait_until(ended, timeout, what="the end of all runs")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much trouble is made, at least."""

    kills: int = 0
    stops: int = 0
    #: turns in which the database itself is disturbed
    outages: int = 0
    #: transactions in all, brought in portions
    transactions: int = 100
    portion: int = 50
    #: of 1: the share of runs that meet their trouble at a step's border
    at_borders: float = 0.5
    #: of 1: how probable an action of the platform's users is in each turn
    people: float = 0.3
    concurrency: int = 6
    #: seconds after which no further trouble is made
    seconds: float = 600.0


class Chaos:
    """Makes trouble as planned, then lets the work end."""

    def __init__(self, fleet: Fleet, people: People, simulator: Simulator, plan: Plan, seed: int) -> None:
        self.fleet = fleet
        self.people = people
        self.simulator = simulator
        self.plan = plan
        self.random = random.Random(seed)
        #: disturbs the database once
        self.outage: Callable[[], None] | None = None
        #: some runs find their disk full (SQLite)
        self.starve = False
        self.outages = 0
        #: of 1: what of the work is done; the trouble is spread over it
        self.progress = 0.0
        people.meanwhile = lambda: fleet.turn(self._freeze_seconds)
        self.fleet.programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(plan.concurrency)

    def make_trouble(self, originals: Sequence[int]) -> None:
        """Until the plan is fulfilled or its time is over; `originals`: transactions of the sample to be copied."""
        began = time.monotonic()
        left = [originals[number % len(originals)] for number in range(self.plan.transactions)]
        waiting: list[int] = []
        for start in range(0, len(left), 500):
            waiting += self.people.bring(left[start : start + 500])
        while time.monotonic() - began < self.plan.seconds and not (self._enough() and not waiting):
            still_open = self._open()
            self.progress = 1 - (len(waiting) + still_open) / self.plan.transactions
            if waiting and still_open < 2 * self.plan.portion:
                portion, waiting = waiting[: self.plan.portion], waiting[self.plan.portion :]
                self.people.enqueue(portion, size=max(self.plan.portion // 2, 1))
            elif not waiting and still_open == 0:
                self._find_work()
            for host in self.fleet.turn(self._freeze_seconds):
                self.fleet.start(host, self._border())
            self._strike()
            if self.random.random() < self.plan.people:
                self.people.do_something()
            time.sleep(self.random.uniform(0.02, 0.25))
        if waiting:
            self.people.enqueue(waiting)

    def _find_work(self) -> None:
        """All is done before there was trouble enough: users undo an ended batch, and queue it again."""
        if not self.people.enqueue():
            self.people.undo()
            self.people.enqueue()

    def _open(self) -> int:
        """How many transactions still wait for the queue."""

        def work(cursor: object) -> int:
            found = self.people.run(cursor, "SELECT count(*) FROM transactions WHERE ai_audit_status = 'queued'")
            return int(found.fetchone()[0])

        return int(self.people.act(work))

    def _enough(self) -> bool:
        tally, plan = self.fleet.tally, self.plan
        return tally.kills >= plan.kills and tally.stops >= plan.stops and self.outages >= plan.outages

    def _due(self, made: int, planned: int) -> bool:
        """The next piece of trouble of one kind is due."""
        return made < planned and made <= planned * self.progress

    def _freeze_seconds(self) -> float:
        """Mostly longer than a lease."""
        return self.random.uniform(0.5, 1.6) * LEASE

    def _border(self) -> dict[str, str]:
        """Trouble at the n-th pass of a step, or none."""
        tally, plan = self.fleet.tally, self.plan
        if self.starve and self.random.random() < 0.05:
            return starved(pages=self.random.randint(0, 12))
        kill, stop = self._due(tally.kills, plan.kills), self._due(tally.stops, plan.stops)
        if self.random.random() >= plan.at_borders or not (kill or stop):
            return {}
        stop = stop and (not kill or self.random.random() < 0.2)
        kind = self.random.choice(("step", "step", "statement", "commit"))
        name, most = (self.random.choice(list(STEPS)), 8) if kind == "step" else (kind, 120 if kind != "commit" else 40)
        after = self.random.choice(("", ".after"))
        return trouble(f"{name}{after}:{self.random.randint(1, most)}", do="stop" if stop else "kill")

    def _strike(self) -> None:
        """Kill, freeze, or disturb the database, by chance."""
        tally, plan, awake = self.fleet.tally, self.plan, self.fleet.awake()
        chance = self.random.random()
        if self.outage is not None and self._due(self.outages, plan.outages) and chance < 0.1:
            self.outages += 1
            self.outage()
        elif awake and self._due(tally.kills, plan.kills) and chance < 0.4:
            self.fleet.kill(self.random.choice(awake))
        elif len(awake) > 1 and self._due(tally.stops, plan.stops) and chance < 0.8:
            host = self.random.choice(awake)
            self.fleet.freeze(host, self._freeze_seconds(), group=self.random.random() < 0.3)

    def end_in_peace(self, timeout: float = 300.0) -> None:
        """No more trouble: what is free is queued again, and runs go on until nothing is left."""
        self.simulator.scenario({"rules": []})
        self.fleet.rest(timeout)
        deadline = time.monotonic() + timeout
        hosts = list(self.fleet.hosts)
        while True:
            self.people.enqueue()
            done = self.fleet.programs.run(
                "process-queue",
                environ={**QUICK, **self.fleet.hosts[hosts[0]], "GEPP_AUDIT_HOST": hosts[0]},
                timeout=timeout,
            )
            assert done.exit_code in (0, 3), done.stderr
            if self._is_at_rest():
                return
            assert time.monotonic() < deadline, "the queue does not come to its end"

    def _is_at_rest(self) -> bool:
        def work(cursor: object) -> int:
            found = self.people.run(
                cursor,
                "SELECT (SELECT count(*) FROM gepp_audit_batches WHERE closed_at IS NULL) + "
                "(SELECT count(*) FROM transaction_audit_history "
                "WHERE status = 'in_progress' AND deleted_date IS NULL)",
            )
            return int(found.fetchone()[0])

        return int(self.people.act(work)) == 0

    def tell(self) -> None:
        """Put down for the checker what only we know."""
        told = self.people.told
        told.disruptions = self.fleet.tally.disruptions + self.outages * len(self.fleet.hosts)
        told.concurrency = self.plan.concurrency
        told.killers = set()


def settled_log(simulator: Simulator) -> list[dict[str, Any]]:
    """Every call of the simulator, when all runs have ended; one whose run was killed may stand as pending for long."""
    return simulator.calls()


def figures(evidence: Evidence) -> dict[str, int]:
    """The counts of one database."""
    outcomes = [call["outcome"] for call in evidence.calls]
    return {
        "batches": len(evidence.batches),
        "calls in the ledger": len(outcomes),
        "verdicts": outcomes.count("verdict"),
        "without an outcome": outcomes.count("expired") + outcomes.count(None),
        "superseded": outcomes.count("superseded"),
    }
