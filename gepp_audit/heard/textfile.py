"""The metrics of process-queue as a file for Prometheus: node_exporter's textfile collector reads it.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, 0.0.4); how the collector wants it:
https://github.com/prometheus/node_exporter#textfile-collector. Counters grow over all runs of this host: each run adds
to what stands in the file, under a lock on its folder, and replaces the file by a rename, so that nobody reads half of
it. A file that is gone or unreadable starts them at 0, which Prometheus takes for a restart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

_PREFIX: Final = "gepp_audit"
#: larger than any file of ours
_LARGEST: Final = 100_000
#: runs of one host write one after the other; each needs a millisecond
_LOCK_WITHIN: Final = 1.0


class Metric(NamedTuple):
    """One metric: a gauge, or a counter (its name ends in `_total`)."""

    name: str
    help: str
    #: the name of its one label and the values that are always there
    label: str | None = None
    values: tuple[str, ...] = ("",)

    @property
    def full_name(self) -> str:
        """As it stands in the file."""
        return f"{_PREFIX}_{self.name}"

    @property
    def type(self) -> str:
        """`counter` or `gauge`."""
        return "counter" if self.name.endswith("_total") else "gauge"


_OUTCOMES: Final = ("idle", "busy", "processed", "interrupted", "blocked", "failed")
_RESULTS: Final = ("approved", "rejected", "undecided", "failed", "skipped", "released")

METRICS: Final = (
    Metric("last_run_timestamp_seconds", "When process-queue last ended, well or not."),
    Metric("last_success_timestamp_seconds", "When it last ended well (exit code 0, also with nothing to do)."),
    Metric("last_run_exit_code", "Exit code of the last run."),
    Metric("last_run_duration_seconds", "How long the last run took."),
    Metric("batches_in_progress", "Batches that the last run at work left open."),
    Metric("runs_total", "Runs by how they ended; failed: an error ended it.", "outcome", _OUTCOMES),
    Metric("batches_total", "Batches that ended.", "result", ("completed", "failed")),
    Metric("transactions_total", "Transactions by what became of them.", "result", _RESULTS),
    Metric("calls_total", "Calls that were sent to the provider."),
    Metric("retries_total", "Calls that have to be repeated."),
    Metric(
        "tokens_total", "Tokens by kind; cached input is a part of input.", "kind", ("input", "output", "cached_input")
    ),
    Metric("cost_usd_total", "Money that calls with a known price cost, in USD."),
    Metric("runs_with_unknown_cost_total", "Runs in which the price of at least one call was unknown."),
)
_Samples = dict[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that ended."""

    outcome: str
    exit_code: int
    #: how long it took
    seconds: float
    #: seconds since the epoch
    at: float
    #: what `process-queue --json` tells, or {} where an error ended it
    summary: Mapping[str, Any]

    @property
    def well(self) -> bool:
        """It did what there was to do, or stopped cleanly when it was told to."""
        return self.exit_code in (0, 129, 130, 143)


def write(path: Path, ended: Ended) -> str | None:
    """Add this run to the file; returns why that could not be done (a part of a sentence), or None."""
    try:
        with _locked(path.parent):
            replace_file(path, _text(_after(_read(path), ended)))
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _after(before: _Samples, ended: Ended) -> _Samples:
    """The samples after this run, from those before it."""
    counted = {
        (metric.name, value): before.get((metric.name, value), 0.0) for metric in METRICS for value in metric.values
    }
    counted["last_run_timestamp_seconds", ""] = round(ended.at, 3)
    counted["last_run_exit_code", ""] = ended.exit_code
    counted["last_run_duration_seconds", ""] = round(ended.seconds, 3)
    counted["runs_total", ended.outcome] = counted.get(("runs_total", ended.outcome), 0.0) + 1
    if ended.well:
        counted["last_success_timestamp_seconds", ""] = round(ended.at, 3)
    if ended.summary and ended.outcome != "busy":
        _add(counted, ended.summary)
    return counted


def _add(counted: _Samples, summary: Mapping[str, Any]) -> None:
    batches, tokens, cost = summary["batches"], summary["token_usage"], summary["cost_usd"]
    counted["batches_in_progress", ""] = batches["in_progress"]
    more: _Samples = {("batches_total", result): batches[result] for result in ("completed", "failed")}
    more |= {("transactions_total", result): summary["transactions"][result] for result in _RESULTS}
    more |= {("tokens_total", kind): tokens[f"total_{kind}_tokens"] for kind in ("input", "output")}
    more["tokens_total", "cached_input"] = tokens["cached_input_tokens"]
    more |= {("calls_total", ""): summary["calls"], ("retries_total", ""): summary["retries"]}
    more |= {("cost_usd_total", ""): cost or 0.0, ("runs_with_unknown_cost_total", ""): float(cost is None)}
    for key, value in more.items():
        counted[key] += value


# -- the file ----------------------------------------------------------------------------------------------------------


def _text(samples: _Samples) -> str:
    lines = []
    for metric in METRICS:
        lines += [f"# HELP {metric.full_name} {metric.help}", f"# TYPE {metric.full_name} {metric.type}"]
        for value in metric.values:
            labels = f'{{{metric.label}="{value}"}}' if metric.label else ""
            lines.append(f"{metric.full_name}{labels} {_number(samples[metric.name, value])}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(round(value, 9))


def _read(path: Path) -> _Samples:
    """The samples of the file as it is; what is not ours in it is left out."""
    known = {
        (metric.full_name, metric.label, value): (metric.name, value) for metric in METRICS for value in metric.values
    }
    found: _Samples = {}
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST).decode("ascii", "replace")
    except FileNotFoundError:
        return found
    for line in text.splitlines():
        match = re.fullmatch(r'([a-z_]+)(?:\{([a-z]+)="([a-z_]*)"\})? ([0-9]+(?:\.[0-9]+)?)', line)
        key = match and known.get((match[1], match[2], match[3] or ""))
        if match and key:
            found[key] = float(match[4])
    return found


def replace_file(path: Path, text: str) -> None:
    """Put `text` in the place of the file by a rename, so that nobody reads half of it. OSError: it stays as it was."""
    # the collector reads names that end in .prom, so it does not see this one; every user may read the result
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, so that no other run of this host reads and writes in between."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_WITHIN
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)
