"""Measures what the queue costs, as ratios side by side in one run; prints a table and judges nothing.

    scripts/bench                       everything, about fifteen minutes
    scripts/bench --quick               fewer transactions and repetitions, about two minutes
    scripts/bench --only claim,batch    these parts alone, a minute or two each

It starts its own PostgreSQL and its own simulator on loopback and ends them. "Ideal" is what the server's latency and
the concurrency allow: calls per second = concurrency / latency. Times vary with the machine; read the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import bench_scale, bench_web  # noqa: E402 - the repository comes first
from tests.support.bench import BenchDatabase, bench_database  # noqa: E402
from tests.support.bench_scale import Line  # noqa: E402
from tests.support.processes import running_simulator  # noqa: E402
from tests.support.waiting import wait_until  # noqa: E402

LATENCY = 0.5
KEY = "sk-bench-no-real-key"
CONCURRENCY = 50
#: what an idle tick is compared with: the least that any program of this kind does
BARE = """
import os, sqlalchemy
engine = sqlalchemy.create_engine(os.environ["BARE_URL"])
with engine.connect() as connection:
    connection.execute(sqlalchemy.text("SELECT 1")).scalar_one()
"""


@dataclass(frozen=True)
class Measured:
    """One run of a command as a whole process."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    stdout: str


def run(command: Sequence[str], environment: dict[str, str], exit_codes: Sequence[int] = (0,)) -> Measured:
    """Run a command to its end, with the operating system's own accounting of it."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        with sampled_memory(process.pid) as samples:
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode not in exit_codes:
            raise SystemExit(f"{command[-1]} ended with {process.returncode}: {err.read()[-2000:]}")
        largest = usage.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
        return Measured(
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_mb=max([largest, *samples]),
            stdout=out.read(),
        )


@contextmanager
def sampled_memory(pid: int) -> Iterator[list[float]]:
    """While in the block: what the process and those it started hold together, in MB, three times a second.

    A page that several processes share counts in equal parts (PSS) where the system tells it, else once for each.
    """
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.3):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                family = [process, *process.children(recursive=True)]
                samples.append(sum(own_memory(member) for member in family) / 2**20)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield samples
    finally:
        over.set()
        sampler.join()


def own_memory(process: psutil.Process) -> int:
    """Bytes in memory that are this process's."""
    told = process.memory_full_info()
    return int(getattr(told, "pss", told.rss))


def environment_for(database: BenchDatabase, url: str = "") -> dict[str, str]:
    """Nothing of the caller's settings, only what a run needs."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "DATABASE_URL": database.url,
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": url,
        "GEPP_AUDIT_CONCURRENCY": str(CONCURRENCY),
        "BARE_URL": database.url.replace("postgresql://", "postgresql+psycopg2://"),
    }


def queue_of(database: BenchDatabase, transactions: int) -> tuple[Measured, dict[str, float]]:
    """One `process-queue` over a fresh queue; what it cost, and how fast calls left, from the server's own log."""
    with running_simulator(latency_ms=int(LATENCY * 1000), api_key=KEY) as simulator:
        database.queue(transactions)
        commits = database.commits()
        told = run([str(PROGRAM), "process-queue", "--json"], environment_for(database, f"{simulator.url}/v1"))
        commits = database.commits() - commits
        calls = sorted(call["received"] for call in simulator.calls())
    summary = json.loads(told.stdout)
    if summary["calls"] != transactions or len(calls) != transactions:
        raise SystemExit(f"{transactions} transactions took {summary['calls']} calls ({len(calls)} at the server)")
    # the first calls may leave all at once; from then on each leaves when another one has been answered
    rate = (len(calls) - CONCURRENCY) / (calls[-1] - calls[0])
    return told, {
        "rate": rate / (CONCURRENCY / LATENCY),
        "whole": told.seconds / (transactions * LATENCY / CONCURRENCY),
        "cpu_ms": told.cpu_seconds * 1000 / transactions,
        "commits": commits / transactions,
        "peak_mb": told.peak_mb,
    }


def beside_bare(
    database: BenchDatabase, repetitions: int, *args: str, exit_codes: Sequence[int] = (0,)
) -> tuple[float, float]:
    """A command against a bare process, in turn: the middle one of the ratios pair by pair, and of its seconds."""
    environment = environment_for(database)
    ratios, seconds = [], []
    for repetition in range(repetitions + 1):
        bare = run([sys.executable, "-c", BARE], environment)
        command = run([str(PROGRAM), *args], environment, exit_codes)
        if repetition:  # the first pair warms up
            ratios.append(command.seconds / bare.seconds)
            seconds.append(command.seconds)
    return statistics.median(ratios), statistics.median(seconds)


def shares(database: BenchDatabase) -> list[Line]:
    """Ten organizations with equally long queues, for more than a minute: how evenly the calls were shared."""
    database = database.fresh(10)
    each = 700
    owner = {
        id_: organization for organization in database.organizations for id_ in database.queue_of(organization, each)[1]
    }
    with running_simulator(latency_ms=int(LATENCY * 1000), api_key=KEY) as simulator:
        run([str(PROGRAM), "process-queue", "--json"], environment_for(database, f"{simulator.url}/v1"))
        calls = sorted(simulator.calls(), key=lambda call: float(call["received"]))
    least = bench_scale.least_fair_minute(calls, owner, len(database.organizations))
    return [("10 equal organizations: Jain index of the least fair minute", f"{least:.4f}", "≥ 0.95")]


def latecomers(database: BenchDatabase) -> list[Line]:
    """Twenty transactions alone, and twenty that arrive while a run works on 10,000 of another organization."""
    first, second = database.fresh(2), database.fresh(2)
    with running_simulator(latency_ms=int(LATENCY * 1000), api_key=KEY) as simulator:
        alone, _ = first.queue_of(first.organizations[1], 20)
        run([str(PROGRAM), "process-queue"], environment_for(first, f"{simulator.url}/v1"))
        seconds_alone = bench_scale.wait_for_end(first, alone, 5)
        second.queue_of(second.organizations[0], 10_000)
        simulator.reset()
        with started(second, f"{simulator.url}/v1"):
            wait_until(lambda: len(simulator.calls()) > 500, 60, what="500 calls")
            late, _ = second.queue_of(second.organizations[1], 20)
            seconds_behind = bench_scale.wait_for_end(second, late, 120)
    told = f"{seconds_behind:.1f} s ({seconds_alone:.1f} s alone)"
    return [("20 transactions that arrive behind 10,000 of another organization", told, "≤ 2 × + 60 s (a tick)")]


def limited(database: BenchDatabase) -> list[Line]:
    """Four processes, as four hosts, under one limit of calls per minute: how much of it is used, and never more."""
    database, per_minute = database.fresh(1), 240
    database.queue_of(database.organizations[0], 4 * per_minute)
    run([str(PROGRAM), "limits", "set", "--global", "--calls-per-minute", str(per_minute)], environment_for(database))
    with running_simulator(latency_ms=int(LATENCY * 1000), api_key=KEY) as simulator, ExitStack() as running:
        hosts = [Host(database, f"{simulator.url}/v1", f"host-{number}") for number in range(4)]
        for host in hosts:
            running.callback(host.stop)
        deadline = time.monotonic() + 300
        # the first minute's calls may leave at once; from then on each waits for its place
        while len(simulator.calls()) < 3 * per_minute:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {len(simulator.calls())} calls left in 300 s")
            for host in hosts:
                host.keep_running()
            time.sleep(1)
        moments = bench_scale.received(simulator)
    most = bench_scale.rolling_most(moments)
    used = 2 * per_minute / (moments[3 * per_minute - 1] - moments[per_minute - 1]) * 60 / per_minute
    return [
        (f"4 processes at {per_minute} calls a minute: use of the limit", f"{used:.1%}", "≥ 95 %"),
        (f"4 processes at {per_minute} calls a minute: most in any 60 s", str(most), f"≤ {per_minute}"),
    ]


def held(database: BenchDatabase) -> list[Line]:
    """One of three organizations is told to wait: when the others are done, against a run in which nobody is."""
    seconds = {name: _others_take(database.fresh(3), wait=wait) for name, wait in (("alone", None), ("beside", 8))}
    told = f"{seconds['beside'] / seconds['alone']:.2f} × ({seconds['alone']:.1f} s)"
    return [("two organizations beside one that must wait, time of both", told, "≤ 1.05 ×")]


def _others_take(database: BenchDatabase, wait: int | None) -> float:
    """Seconds from the first call to the last answer of two organizations with 600 transactions each."""
    waiting, *others = database.organizations
    refused = {str(id_) for id_ in database.queue_of(waiting, 600)[1]}
    for organization in others:
        database.queue_of(organization, 600)
    with running_simulator(latency_ms=int(LATENCY * 1000), api_key=KEY) as simulator:
        if wait is not None:
            told_to_wait = {"preset": "rate_limited", "headers": {"Retry-After": str(wait)}}
            match = {"transaction_id": sorted(refused), "first": 1}
            simulator.scenario({"rules": [{"match": match, "do": told_to_wait}]})
        run([str(PROGRAM), "process-queue", "--json"], environment_for(database, f"{simulator.url}/v1"))
        calls = simulator.calls()
    theirs = [call for call in calls if call["transaction_id"] not in refused]
    return float(max(call["answered"] for call in theirs) - min(call["received"] for call in calls))


def claims(database: BenchDatabase, size: int) -> list[Line]:
    """Claims in a short queue and in a long one."""
    return bench_scale.claim_time(database.fresh(1), database.fresh(1), size, 60)


def big_batch(database: BenchDatabase, size: int) -> list[Line]:
    """One batch of so many transactions: a run that takes it up, and, with all but 1,000 settled, one that ends it."""
    database = database.fresh(1)
    batch = bench_scale.queue_big_batch(database, size)
    with running_simulator(api_key=KEY) as simulator:
        environment = environment_for(database, f"{simulator.url}/v1")
        begun = run([str(PROGRAM), "process-queue", "--max-transactions", "1000"], environment)
        bench_scale.settle_most(database, 1_000)
        seconds = bench_scale.seconds_to_close(database, batch)
        ended = run([str(PROGRAM), "process-queue"], environment)
    bench_scale.wait_for_end(database, batch, 5)
    return [
        (f"a batch of {size}: peak memory", f"{max(begun.peak_mb, ended.peak_mb):.0f} MB", "≤ 120 MB"),
        (f"a batch of {size}: seconds to close", f"{seconds:.1f} s", "≤ 10 s"),
    ]


def readers(database: BenchDatabase, size: int) -> list[Line]:
    """A queue of so many transactions alone, and with many people who look at the Audit History meanwhile."""
    alone, beside = database.fresh(3), database.fresh(3)
    for organization in beside.organizations:  # the page that they read is full
        for _ in range(20):
            beside.platform.batch(organization, [], status="completed")
    _, quiet = queue_of(alone, size)
    with (
        tempfile.TemporaryDirectory(prefix="gepp-audit-bench-") as home,
        bench_web.server_of(environment_for(beside), Path(home)) as url,
        bench_web.reading(url, beside.organizations, _READERS) as met,
    ):
        _, busy = queue_of(beside, size)
    told = f"{_READERS} readers beside {size} transactions"
    if met.errors:
        print(f"  first error: {met.errors[0]}", file=sys.stderr)
    return [
        (f"{told}: rate, of that without them", f"{busy['rate'] / quiet['rate']:.1%}", "≥ 95 %"),
        (f"{told}: reads that failed", f"{len(met.errors)} of {len(met.seconds)}", "0"),
        (f"{told}: 95 % of answers within", f"{met.p95 * 1000:.0f} ms", "is told"),
    ]


class Host:
    """A host on which a run is started whenever the last one has ended, as by a very busy crontab."""

    def __init__(self, database: BenchDatabase, url: str, name: str) -> None:
        self.environment = environment_for(database, url) | {"GEPP_AUDIT_HOST": name}
        self.process: subprocess.Popen[bytes] | None = None

    def keep_running(self) -> None:
        """Start a run if there is none."""
        if self.process is None or self.process.poll() is not None:
            nothing = subprocess.DEVNULL
            self.process = subprocess.Popen(
                [str(PROGRAM), "process-queue"], env=self.environment, stdin=nothing, stdout=nothing, stderr=nothing
            )

    def stop(self) -> None:
        """Tell the run to stop, and wait for it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)


@contextmanager
def started(database: BenchDatabase, url: str) -> Iterator[None]:
    """A run that is told to stop at the end of the block."""
    host = Host(database, url, "host")
    host.keep_running()
    try:
        yield
    finally:
        host.stop()


def ticks(database: BenchDatabase, repetitions: int) -> list[Line]:
    """What a machine starts again and again: an idle tick, and a monitor's look at a database with a long history."""
    tick, seconds = beside_bare(database, repetitions, "process-queue")
    rows = [("idle tick / bare SELECT", f"{tick:.2f} × ({seconds * 1000:.0f} ms)", "≤ 1.6 ×")]
    old = database.old()
    for stuck, goal in ((0, "≤ 1.6 ×"), (_STUCK, "≤ 2 ×")):
        bench_scale.let_be_stuck(old, stuck)
        # some are queued in no open batch, a warning; batches that are stuck are worse
        ratio, seconds = beside_bare(old, repetitions, "stuck", exit_codes=(0, 1, 2))
        told = f"{ratio:.2f} × ({seconds * 1000:.0f} ms)"
        rows.append((f"stuck, {stuck} of 205 open batches, 1,000,000 history rows / bare SELECT", told, goal))
    return rows


def rates(database: BenchDatabase, sizes: Sequence[int]) -> list[Line]:
    """Whole runs over so many transactions."""
    rows: list[Line] = []
    for size in sizes:
        _, figures = queue_of(database, size)
        rows += [
            (f"{size} transactions: rate between first and last call", f"{figures['rate']:.1%} of ideal", "≥ 95 %"),
            (f"{size} transactions: whole process", f"{figures['whole']:.3f} × ideal", "≤ 1.12 × at 1,000"),
            (f"{size} transactions: CPU per transaction", f"{figures['cpu_ms']:.1f} ms", "≤ 8 ms"),
            (f"{size} transactions: commits per transaction", f"{figures['commits']:.3f}", "< 0.3"),
            (f"{size} transactions: peak memory", f"{figures['peak_mb']:.0f} MB", "≤ 120 MB, the same"),
        ]
    return rows


def parts(quick: bool) -> dict[str, Callable[[BenchDatabase], list[Line]]]:
    """What can be measured, by the names of --only, in the order of the table."""
    return {
        "tick": partial(ticks, repetitions=5 if quick else 20),
        "rate": partial(rates, sizes=(1_000, 2_000) if quick else (1_000, 20_000)),
        "claim": partial(claims, size=200_000 if quick else 1_000_000),
        "batch": partial(big_batch, size=20_000 if quick else 100_000),
        "shares": shares,
        "latecomers": latecomers,
        "held": held,
        "limit": limited,
        "web": partial(readers, size=2_000 if quick else 5_000),
    }


def chosen_parts(only: str | None, quick: bool) -> dict[str, Callable[[BenchDatabase], list[Line]]]:
    """Those that --only names; all but the long ones for --quick, else all."""
    known = parts(quick)
    names = only.split(",") if only else [name for name in known if not quick or name not in _LONG]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no such part: {', '.join(unknown)}; there are {', '.join(known)}")
    return {name: known[name] for name in names}


#: what takes more than a minute each
_LONG = ("shares", "latecomers", "held", "limit", "web")
#: batches that a monitor is told of
_STUCK = 17
#: who look at the Audit History at the same time, once a second each
_READERS = 50


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer transactions and repetitions")
    parser.add_argument("--only", metavar="PART,…", help=f"these parts alone: {', '.join(parts(False))}")
    options = parser.parse_args()
    chosen = chosen_parts(options.only, options.quick)
    rows: list[Line] = []
    with bench_database() as database:
        for name, measure in chosen.items():
            print(f"{name} …", file=sys.stderr)
            rows += measure(database)
    width = max(len(row[0]) for row in rows)
    print(f"{LATENCY * 1000:.0f} ms an answer, {CONCURRENCY} at the same time, PostgreSQL on this machine")
    for what, value, goal in rows:
        print(f"{what:<{width}}  {value:>24}  goal {goal}")


PROGRAM = Path(sys.executable).parent / "gepp-audit"

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
