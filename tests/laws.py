"""Asserts every law of the queue that can be seen from the tables and from what the provider was asked.

    python tests/laws.py DATABASE_URL [--calls SIMULATOR_LOG] [--told FILE] [--unfinished]

It prints a sentence with ids for each violation, and ends with 1 if there is any. `--calls`: the simulator's log.
`--told`: what only the one who made the trouble knows, as `Told.write` leaves it; not needed where nobody changed a
transaction that was audited. `--unfinished`: the queue is still at work, so what is open may be open.

A law is a function of the evidence that yields violations; `LAWS` lists them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import batch_laws, call_laws
from tests.support.evidence import Evidence, Row, Told, read_evidence, read_log

Law = Callable[[Evidence], Iterator[str]]

LAWS: Final[tuple[Law, ...]] = (
    call_laws.bought_once,
    call_laws.nothing_lost,
    call_laws.superseded_with_reason,
    batch_laws.published,
    batch_laws.audited_once,
    batch_laws.complete_verdicts,
    call_laws.parked_with_reason,
    batch_laws.counters,
    batch_laws.closed_once,
    call_laws.one_live_item,
    call_laws.tokens_and_leases,
    batch_laws.people_win,
    batch_laws.same_schema,
    call_laws.ledger_is_what_was_asked,
    call_laws.one_call_at_a_time,
    call_laws.one_name_per_organization,
    call_laws.repeated_within_bounds,
)


def violations(evidence: Evidence, *, finished: bool = True) -> list[str]:
    """Every violation, as a sentence. `finished`: nothing may be left open."""
    laws = (*LAWS, batch_laws.at_rest) if finished else LAWS
    return [sentence for law in laws for sentence in law(evidence)]


def assert_laws(
    url: str, *, asked: Iterable[Row] | None = None, told: Told | None = None, finished: bool = True
) -> Evidence:
    """AssertionError with every violation in this database; else what was read."""
    evidence = read_evidence(url, asked=asked, told=told)
    found = violations(evidence, finished=finished)
    assert not found, f"{len(found)} violations of the laws:\n" + "\n".join(found[:50])
    return evidence


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", metavar="DATABASE_URL")
    parser.add_argument("--calls", type=Path, metavar="SIMULATOR_LOG")
    parser.add_argument("--told", type=Path, metavar="FILE")
    parser.add_argument("--unfinished", action="store_true")
    given = parser.parse_args()
    asked = None if given.calls is None else read_log(given.calls)
    told = None if given.told is None else Told.read(given.told)
    evidence = read_evidence(given.url, asked=asked, told=told)
    found = violations(evidence, finished=not given.unfinished)
    for sentence in found:
        sys.stdout.write(f"{sentence}\n")
    sys.stderr.write(
        f"{len(evidence.batches)} batches, {len(evidence.transactions)} transactions, {len(evidence.calls)} calls: "
        f"{len(found)} violations\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
