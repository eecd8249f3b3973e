"""Makes trouble for the queue, prints a table of what came of it, and ends with 1 if a law was broken.

    scripts/chaos --minutes 30                         everything, on all databases
    scripts/chaos --minutes 5 --database sqlite        the storm on one database alone
    scripts/chaos --only takeover,parking --minutes 3  these trials alone

The storm: hosts that run the queue as cron would are killed and frozen, at random moments and at the borders of their
steps, while the database goes away and comes back, connections are cut, disks are full, and the platform's users
cancel, undo, delete, edit, decide and queue twice. In the end every law is checked (tests/laws.py). `--minutes` is
divided among the parts; how much trouble is made follows from it, or from --kills, --stops and --transactions. A storm
can be repeated by its seed, as far as the machine's own timing lets it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import trials  # noqa: E402 - the repository comes first
from tests.support.arenas import KINDS, Arena, Kind, open_arena, restart_only, sample_ids  # noqa: E402
from tests.support.call_laws import is_parked, repeated_calls  # noqa: E402
from tests.support.chaos import LEASE, Plan, figures  # noqa: E402
from tests.support.postgres import PostgresServer, running_server  # noqa: E402

#: what one minute of a storm is good for on two cores
PER_MINUTE = Plan(kills=14, stops=7, outages=2, transactions=700)
PARTS = ("storm", "restarts", "takeover", "other-host", "containers", "sessions", "parking", "innocents")


@dataclass
class Report:
    """The table, and what is wrong."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, value: object, goal: str) -> None:
        """One line; it is printed at once too, since the whole takes long."""
        self.rows.append((what, str(value), goal))
        print(f"{time.strftime('%H:%M:%S')}  {what}: {value}  (goal: {goal})", flush=True)

    def table(self) -> Iterator[str]:
        """All lines, aligned."""
        width = max((len(row[0]) for row in self.rows), default=0)
        for what, value, goal in self.rows:
            yield f"{what:<{width}}  {value:>24}  {goal}"


@dataclass(kw_only=True)
class Suite:
    """One call of the program."""

    server: PostgresServer
    report: Report
    seed: int
    minutes: float
    given: argparse.Namespace
    #: transactions that were given up in storms, because runs died with them
    parked: int = 0

    def arena(self, kind: Kind, work: Callable[[Arena], None], *, latency_ms: int = 200) -> None:
        """Do something in a fresh arena."""
        with (
            tempfile.TemporaryDirectory(prefix="gepp-chaos-") as home,
            open_arena(kind, self.server, Path(home), latency_ms=latency_ms) as arena,
        ):
            work(arena)

    # -- storms ----------------------------------------------------------------------------------------------------

    def storm(self, kind: Kind, minutes: float) -> None:
        """Everything at once, on one database."""
        self._storm(kind, f"storm on {kind}", self._plan(minutes), self.seed)

    def _plan(self, minutes: float) -> Plan:
        given = self.given
        return Plan(
            kills=given.kills if given.kills is not None else round(PER_MINUTE.kills * minutes),
            stops=given.stops if given.stops is not None else round(PER_MINUTE.stops * minutes),
            outages=given.outages if given.outages is not None else round(PER_MINUTE.outages * minutes),
            transactions=given.transactions or max(round(PER_MINUTE.transactions * minutes), 100),
            portion=100,
            seconds=1e9 if given.kills is not None else minutes * 120,
        )

    def _storm(self, kind: Kind, name: str, plan: Plan, seed: int, *, restarts: bool = False) -> None:
        def work(arena: Arena) -> None:
            plan_here = replace(plan, outages=0) if arena.outage is None else plan
            chaos = arena.chaos(plan_here, seed)
            if restarts:
                restart = restart_only(self.server)
                chaos.outage = lambda: restart(chaos.random)
            began = time.monotonic()
            chaos.make_trouble(sample_ids())
            chaos.end_in_peace(600)
            seconds = time.monotonic() - began
            evidence, found = arena.verdict_of_the_laws(chaos)
            tally, told = chaos.fleet.tally, chaos.people.told
            add = self.report.add
            add(f"{name}: transactions / seconds", f"{plan.transactions} / {seconds:.0f}", "")
            add(f"{name}: SIGKILL / SIGSTOP / outages", f"{tally.kills} / {tally.stops} / {chaos.outages}", "")
            add(f"{name}: runs that ended, by exit code", dict(sorted(tally.ended.items())), "")
            for complaint, number in Counter(one.strip().rpartition("\n")[0] for one in tally.complaints).items():
                add(f"{name}: {number} of these told", complaint, "")
            add(f"{name}: what people did", ", ".join(f"{n} {what}" for what, n in chaos.people.done.items()), "")
            add(f"{name}: counts", ", ".join(f"{n} {what}" for what, n in figures(evidence).items()), "")
            most = told.disruptions * plan.concurrency
            add(f"{name}: repeated calls", f"{len(repeated_calls(evidence))} of {most}", "≤ disruptions × concurrency")
            add(f"{name}: violations of the laws", len(found), "0")
            self.report.wrong += [f"{name} (seed {seed}): {sentence}" for sentence in found]
            self.parked += sum(is_parked(item) for item in evidence.items)

        self.arena(kind, work)

    def restarts(self) -> None:
        """PostgreSQL is stopped and started ten times under load, and nothing else happens."""
        plan = Plan(kills=0, stops=0, outages=self.given.outages or 10, transactions=1_000, portion=200, people=0.1,
                    at_borders=0.0)  # fmt: skip
        self._storm("postgresql", "restarts", plan, self.seed, restarts=True)

    def innocents(self, seeds: int) -> None:
        """Short storms by many seeds: no transaction is parked that does no harm."""
        before, self.parked = len(self.report.wrong), 0
        for number in range(seeds):
            plan = Plan(kills=6, stops=0, outages=0, transactions=120, portion=60, people=0.0)
            self._storm("postgresql", f"innocents, seed {self.seed + number}", plan, self.seed + number)
        self.report.add("innocents: violations of the laws", len(self.report.wrong) - before, f"0 in {seeds} storms")
        self.report.add("innocents: parked transactions", self.parked, f"0 in {seeds} storms")
        if self.parked:
            self.report.wrong.append(f"innocents: {self.parked} transactions were parked that do no harm")

    # -- single kinds of trouble -----------------------------------------------------------------------------------

    def takeover(self, trials_each: int) -> None:
        """SIGKILL, then the next run of the same host."""
        for kind in ("postgresql", "sqlite"):

            def work(arena: Arena, kind: str = kind) -> None:
                found = [trials.take_over(arena, next_host="h1", quick=False) for _ in range(trials_each)]
                told = f"{statistics.median(found):.2f} s, most {max(found):.2f} s in {len(found)}"
                self.report.add(f"takeover on {kind}: from SIGKILL to the next call", told, "start of a process")
                if max(found) > 30:
                    self.report.wrong.append(f"takeover on {kind}: a run waited for a lease ({max(found):.0f} s)")

            self.arena(kind, work, latency_ms=0)

    def other_host(self, trials_each: int) -> None:
        """SIGKILL, then a run of another host."""

        def work(arena: Arena) -> None:
            found = [trials.take_over(arena, next_host="h2", quick=True) for _ in range(trials_each)]
            told = f"{statistics.median(found):.2f} s, most {max(found):.2f} s in {len(found)}"
            self.report.add("other host: from SIGKILL to the next call", told, f"≤ {LEASE} s and a look per second")
            if max(found) > LEASE + 2:
                self.report.wrong.append(f"another host waited {max(found):.1f} s for leases of {LEASE} s")

        self.arena("postgresql", work, latency_ms=0)

    def containers(self, trials_each: int) -> None:
        """Two containers with one host name."""

        def work(arena: Arena) -> None:
            taken = sum(trials.share_a_name(arena) for _ in range(trials_each))
            self.report.add(f"containers with one name: calls taken away in {trials_each} trials", taken, "0")
            if taken:
                self.report.wrong.append(f"containers: {taken} live calls were taken away")

        self.arena("postgresql", work, latency_ms=0)

    def sessions(self) -> None:
        """PostgreSQL's sessions while calls run."""

        def work(arena: Arena) -> None:
            seen = trials.idle_in_transaction(arena, 1_000, seconds_of_a_call=40)
            told = f"{seen.held} of {seen.samples}"
            self.report.add(f"samples with a transaction idle for {trials.HELD_SECONDS} s", told, "0 of 1000")
            self.report.add("samples between two statements of a transaction", seen.between_statements, "")
            if seen.held:
                self.report.wrong.append(f"in {told} samples a session held a transaction open")

        self.arena("postgresql", work, latency_ms=0)

    def parking(self) -> None:
        """A transaction that kills its process."""
        for kind in ("postgresql", "sqlite"):

            def work(arena: Arena, kind: str = kind) -> None:
                found = trials.park_a_killer(arena)
                told = f"after {found['deaths']} deaths, {found['completed']} others audited"
                self.report.add(f"parking on {kind}: the killer is parked", told, "3 deaths, 49 others")
                if found != {"deaths": 3, "completed": 49, "innocents": 0}:
                    self.report.wrong.append(f"parking on {kind}: {found}")

            self.arena(kind, work, latency_ms=0)


def run(suite: Suite, parts: list[str], kinds: list[Kind]) -> None:
    """The parts that were asked for."""
    trials_each = max(3, min(50, round(suite.minutes)))
    if "storm" in parts:
        for kind in kinds:
            suite.storm(kind, max(suite.minutes * 0.6 / len(kinds), 0.5))
    single: dict[str, Callable[[], None]] = {
        "restarts": suite.restarts,
        "takeover": lambda: suite.takeover(suite.given.trials or trials_each),
        "other-host": lambda: suite.other_host(suite.given.trials or trials_each),
        "containers": lambda: suite.containers(min(suite.given.trials or trials_each, 10)),
        "sessions": suite.sessions,
        "parking": suite.parking,
        "innocents": lambda: suite.innocents(min(suite.given.trials or trials_each, 20)),
    }
    for name, part in single.items():
        if name in parts:
            part()


def main() -> int:
    """Read the command line, make trouble, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="about so long")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="decides the trouble (a random one)")
    parser.add_argument("--database", choices=[*KINDS, "all"], default="all", help="where the storm rages (all)")
    parser.add_argument("--only", help=f"parts, with commas between them: {', '.join(PARTS)}")
    for name in ("kills", "stops", "outages", "transactions", "trials"):
        parser.add_argument(f"--{name}", type=int, help=f"so many {name}, however long it takes")
    given = parser.parse_args()
    default = "storm" if given.database != "all" else ",".join(PARTS)
    parts = (given.only or default).split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    kinds: list[Kind] = list(KINDS) if given.database == "all" else [given.database]
    report = Report()
    print(f"seed {given.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="gepp-chaos-") as folder,
        running_server(Path(folder) / "postgresql.log") as server,
    ):
        suite = Suite(server=server, report=report, seed=given.seed, minutes=given.minutes, given=given)
        run(suite, parts, kinds)
    print()
    for line in report.table():
        print(line)
    for sentence in report.wrong[:100]:
        print(f"VIOLATION  {sentence}")
    print(f"seed {given.seed}: {len(report.wrong)} violations")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
