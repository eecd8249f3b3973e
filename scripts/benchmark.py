"""Measures what the queue costs, as ratios side by side in one run; prints a table and judges nothing.

    scripts/bench            everything, about eight minutes
    scripts/bench --quick    fewer transactions and repetitions, about one minute

It starts its own PostgreSQL and its own simulator on loopback and ends them. "Ideal" is what the server's latency and
the concurrency allow: calls per second = concurrency / latency. Times vary with the machine; read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.bench import BenchDatabase, bench_database  # noqa: E402 - the repository comes first
from tests.support.processes import running_simulator  # noqa: E402

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


def run(command: Sequence[str], environment: dict[str, str]) -> Measured:
    """Run a command to its end, with the operating system's own accounting of it."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{command[-1]} ended with {process.returncode}: {err.read()[-2000:]}")
        peak = usage.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
        return Measured(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, peak_mb=peak, stdout=out.read())


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


def idle_tick(database: BenchDatabase, repetitions: int) -> list[float]:
    """An idle tick against a bare process, in turn; the ratios pair by pair."""
    environment = environment_for(database)
    ratios = []
    for repetition in range(repetitions + 1):
        bare = run([sys.executable, "-c", BARE], environment)
        tick = run([str(PROGRAM), "process-queue"], environment)
        if repetition:  # the first pair warms up
            ratios.append(tick.seconds / bare.seconds)
    return ratios


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer transactions and repetitions")
    quick = parser.parse_args().quick
    sizes = (1_000, 2_000) if quick else (1_000, 20_000)
    rows: list[tuple[str, str, str]] = []
    with bench_database() as database:
        ratios = idle_tick(database, 5 if quick else 20)
        rows.append(("idle tick / bare SELECT", f"{statistics.median(ratios):.2f} ×", "≤ 1.6 ×"))
        for size in sizes:
            _, figures = queue_of(database, size)
            rows += [
                (f"{size} transactions: rate between first and last call", f"{figures['rate']:.1%} of ideal", "≥ 95 %"),
                (f"{size} transactions: whole process", f"{figures['whole']:.3f} × ideal", "≤ 1.12 × at 1,000"),
                (f"{size} transactions: CPU per transaction", f"{figures['cpu_ms']:.1f} ms", "≤ 8 ms"),
                (f"{size} transactions: commits per transaction", f"{figures['commits']:.3f}", "< 0.3"),
                (f"{size} transactions: peak memory", f"{figures['peak_mb']:.0f} MB", "≤ 120 MB, the same"),
            ]
    width = max(len(row[0]) for row in rows)
    print(f"{LATENCY * 1000:.0f} ms an answer, {CONCURRENCY} at the same time, PostgreSQL on this machine")
    for name, value, goal in rows:
        print(f"{name:<{width}}  {value:>16}  goal {goal}")


PROGRAM = Path(sys.executable).parent / "gepp-audit"

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
