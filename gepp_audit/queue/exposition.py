"""The state of the queue as metrics, for whoever shows them: the command `stuck` and the server.

Prometheus' text exposition format, 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gepp_audit.queue.causes.names import Cause, Status

if TYPE_CHECKING:
    from gepp_audit.queue.diagnosing import Stuck
    from gepp_audit.queue.inspecting import Report

#: labels and a value
Sample = tuple[Mapping[str, str], float]
_PREFIX: Final = "gepp_audit_stuck"
_STATUS: Final = "0 ok, 1 warning, 2 critical, 3 unknown."


def of_report(report: Report, *, each_batch: bool = True) -> str:
    """What `stuck` says. `each_batch`: with those that are about one batch, which name it and its organization."""
    known = dict.fromkeys((cause.value for cause in Cause), 0)
    for (cause, _), count in report.causes.items():
        known[cause] += count
    return "\n".join(
        [
            *_gauge("status", _STATUS, [({}, report.status.exit_code)]),
            *_gauge("open_batches", "Batches that are open, of any age.", [({}, report.open_batches)]),
            *_gauge("older_than_seconds", "The age from which an open batch is stuck.", [({}, report.older_than)]),
            *_gauge("batches", "Stuck batches by cause.", [({"cause": name}, count) for name, count in known.items()]),
            *(_of_each(report.stuck) if each_batch else ()),
            *_gauge(
                "orphans",
                "Transactions that are queued in no open batch, as far as looked at.",
                [({}, report.orphans.count)],
            ),
            *_gauge(
                "rival_batches",
                "Batches of ours that another program settled within the last hour.",
                [({}, report.rivals.batches)],
            ),
            *_gauge(
                "untaken_batches",
                "Open batches in a status that no run takes.",
                [({}, report.untaken.batches)],
            ),
        ]
    )


def of_unknown() -> str:
    """The same where nothing could be looked at."""
    return "\n".join(_gauge("status", _STATUS, [({}, Status.UNKNOWN.exit_code)]))


def metric(name: str, kind: str, what: str, samples: Iterable[Sample]) -> list[str]:
    """One metric in lines; `kind`: `gauge` or `counter`."""
    head = [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
    return head + [f"{name}{_in_braces(labels)} {value}" for labels, value in samples]


def _of_each(found: Sequence[Stuck]) -> Iterator[str]:
    batches = [(_labels(stuck), stuck) for stuck in found]
    yield from _gauge("batch_age_seconds", "Age of a stuck batch.", [(labels, stuck.age) for labels, stuck in batches])
    yield from _gauge(
        "batch_transactions",
        "Transactions of a stuck batch by state.",
        [
            ({**labels, "state": state}, count)
            for labels, stuck in batches
            for state, count in stuck.transactions.items()
        ],
    )
    yield from _gauge(
        "batch_rate_per_minute",
        "Transactions settled a minute in a batch that is slow.",
        [(labels, round(stuck.diagnosis.rate, 3)) for labels, stuck in batches if stuck.diagnosis.rate is not None],
    )
    yield from _gauge(
        "batch_eta_timestamp_seconds",
        "When a batch that is slow will be through, at its rate.",
        _moments((labels, stuck.diagnosis.eta) for labels, stuck in batches),
    )
    yield from _gauge(
        "batch_clears_timestamp_seconds",
        "When what holds a batch back is over by itself: a limit, a wait for the next attempt.",
        _moments((labels, stuck.diagnosis.clears_at) for labels, stuck in batches),
    )


def _moments(found: Iterable[tuple[dict[str, str], datetime | None]]) -> list[Sample]:
    return [(labels, int(moment.timestamp())) for labels, moment in found if moment is not None]


def _labels(stuck: Stuck) -> dict[str, str]:
    batch, diagnosis = stuck.batch, stuck.diagnosis
    return {
        "audit_history_id": str(batch.audit_history_id),
        "organization_id": str(batch.organization_id),
        "cause": diagnosis.cause.value,
        "reason": diagnosis.reason or "",
    }


def _gauge(name: str, what: str, samples: Iterable[Sample]) -> list[str]:
    return metric(f"{_PREFIX}_{name}", "gauge", what, samples)


def _in_braces(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
