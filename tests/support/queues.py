"""A platform's queue filled from the bundled sample by plain SQL, and what must have become of it.

The sample's transactions are copied under new ids, as often as a test needs them; what is expected of each copy is what
`samples/expected.json` says of its original, so nothing of the product takes part in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import cycle, islice
from typing import Any, Final

from tests.support.platforms import Platform
from tests.support.processes import ROOT, Process, Programs, Simulator
from tests.support.waiting import wait_until

ORGANIZATIONS: Final = (1, 2, 3)
#: originals of organization 1 that keep every rule
CLEAN: Final = (1001, 1003)
#: an original of organization 1 that breaks a rejecting rule
BROKEN: Final = 1005
OURS: Final = (
    "gepp_audit_batches", "gepp_audit_items", "gepp_audit_calls", "gepp_audit_runs", "gepp_audit_limits",
    "gepp_audit_usage_daily", "gepp_audit_spend",
)  # fmt: skip
#: what a scenario does to a call that must not end before the test does
HANG: Final = {"extra_latency_ms": 300_000}
_MOMENTS: Final = ("transaction_date", "arrival_date")
_REJECTING: Final = frozenset({"reject", "auto-reject"})


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an audit of one transaction must say."""

    organization: int
    status: str
    #: every rule's outcome
    rules: Mapping[str, str]
    rejected_by: frozenset[str]
    warned_by: frozenset[str]


@cache
def _sample() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "samples" / "sample.json").read_text(encoding="utf-8"))
    return found


@cache
def expectations() -> dict[int, Expected]:
    """By the ids of the sample's transactions."""
    told = json.loads((ROOT / "samples" / "expected.json").read_text(encoding="utf-8"))
    return {int(id_): _expected(one) for id_, one in told.items()}


def _expected(told: Mapping[str, Any]) -> Expected:
    organization = told["organization_id"]
    rules = {rule["rule_id"]: "pass" for rule in _sample()["audit_rules"] if _applies(rule, organization)}
    rules |= dict.fromkeys(told["fail"], "fail") | dict.fromkeys(told["cannot_tell"], "cannot_tell")
    rejected_by = frozenset(told["fail"]) & _rejecting()
    return Expected(
        organization=organization,
        status=told["status"],
        rules=rules,
        rejected_by=rejected_by,
        warned_by=frozenset(told["fail"] + told["cannot_tell"]) - rejected_by,
    )


def _applies(rule: Mapping[str, Any], organization: int) -> bool:
    return bool(rule["is_active"]) and (rule["is_global"] or rule["organization_id"] == organization)


@cache
def _rejecting() -> frozenset[str]:
    return frozenset(
        rule["rule_id"]
        for rule in _sample()["audit_rules"]
        for action in rule["actions"]
        if action["type"] == "system_action" and action["action"].lower() in _REJECTING
    )


def _rows(rows: Iterable[Mapping[str, Any]], **defaults: Any) -> list[dict[str, Any]]:
    """Rows that all have the same columns, which one statement needs."""
    found = list(rows)
    columns = dict.fromkeys(name for row in found for name in row)
    return [{**defaults, **{name: row.get(name, defaults.get(name)) for name in columns}} for row in found]


@dataclass
class SampleQueue:
    """A platform with the sample's organizations, materials and rules, and copies of its transactions."""

    platform: Platform
    #: by the copy's id
    expected: dict[int, Expected] = field(default_factory=dict)
    #: the ids of each batch
    batches: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write what all transactions share."""
        sample, new = _sample(), self.platform.version == "new"
        organizations = [
            {**row, **({"public_form_key": f"form-{row['id']}"} if new else {})} for row in sample["organizations"]
        ]
        self.platform.insert("organizations", organizations)
        self.platform.insert("main_materials", _rows(sample["main_materials"]))
        self.platform.insert("audit_rules", _rows(sample["audit_rules"]))

    def add(self, originals: Iterable[int], *, status: str = "queued") -> list[int]:
        """Copies of these transactions of the sample; returns their ids, in that order."""
        by_id = {row["id"]: row for row in _sample()["transactions"]}
        rows: list[dict[str, Any]] = []
        records: list[dict[str, Any]] = []
        first = len(self.expected) + 1
        for id_, original in enumerate(originals, first):
            row = by_id[original]
            moments = {name: datetime.fromisoformat(row[name]) if row.get(name) else None for name in _MOMENTS}
            rows.append({**row, **moments, "id": id_, "ai_audit_status": status})
            del rows[-1]["records"]
            self.expected[id_] = expectations()[original]
            records += [
                {**record, "id": id_ * 100 + number, "created_transaction_id": id_}
                for number, record in enumerate(row["records"])
            ]
        only_theirs = {"category_id": 1, "created_by_id": 1} if self.platform.is_postgresql else {}
        self.platform.insert("transactions", _rows(rows))
        self.platform.insert(
            "transaction_records", _rows([{**record, **only_theirs} for record in records], is_active=True, images=[])
        )
        return [row["id"] for row in rows]

    def batch(self, ids: Sequence[int], *, organization: int = 1, status: str = "in_progress") -> int:
        """The row that the platform's button writes."""
        batch = self.platform.batch(organization, ids, status=status)
        self.batches[batch] = list(ids)
        return batch

    def queue(self, originals: Iterable[int], *, organization: int = 1) -> int:
        """Copies of these transactions in one batch."""
        return self.batch(self.add(originals), organization=organization)

    def fill(self, transactions: int, batches: int) -> None:
        """So many transactions in so many batches, both split evenly over the three organizations."""
        each = transactions // batches
        for organization in islice(cycle(ORGANIZATIONS), batches):
            theirs = [id_ for id_, one in expectations().items() if one.organization == organization]
            self.queue(islice(cycle(theirs), each), organization=organization)

    # -- what must be ----------------------------------------------------------------------------------------------

    @property
    def statuses(self) -> dict[int, str]:
        """The verdict that is expected of each transaction."""
        return {id_: one.status for id_, one in self.expected.items()}

    def labels(self) -> dict[int, str]:
        """The ai_audit_status of each transaction, as it stands."""
        return self.platform.labels(self.expected)

    def counts(self, batch: int) -> dict[str, int]:
        """How many verdicts of each kind are expected in a batch."""
        found = [self.expected[id_].status for id_ in self.batches[batch]]
        return {status: found.count(status) for status in ("approved", "rejected", "no_action")}

    def assert_all_settled(self) -> None:
        """Every transaction has the verdict that is expected of it, once, and every batch is closed with its counts."""
        assert self.labels() == self.statuses
        histories = {batch: self.platform.history(batch) for batch in self.batches}
        told = {
            batch: (row["status"], row["total_transactions"], row["processed_transactions"], row["approved_count"],
                    row["rejected_count"], row["audit_info"]["summary"]["undecided_count"])
            for batch, row in histories.items()
        }  # fmt: skip
        assert told == {batch: self._history(batch) for batch in self.batches}
        if self.platform.is_new:
            audits = self.platform.rows("SELECT transaction_id, ai_audit_status FROM transaction_audits")
            assert sorted((row["transaction_id"], row["ai_audit_status"]) for row in audits) == sorted(
                self.statuses.items()
            )
        assert self.platform.rows("SELECT * FROM gepp_audit_items") == []

    def _history(self, batch: int) -> tuple[str, int, int, int, int, int]:
        total, counts = len(self.batches[batch]), self.counts(batch)
        return ("completed", total, total, counts["approved"], counts["rejected"], counts["no_action"])


def connect(programs: Programs, platform: Platform, simulator: Simulator) -> None:
    """Let every program of the test work on this database and ask this simulator, and fail fast where it waits."""
    programs.environ |= {"DATABASE_URL": platform.url, "GEPP_AUDIT_BACKOFF_SECONDS": "0.1", **simulator.environ}


def start(programs: Programs, host: str = "h1", **environ: str) -> Process:
    """A run of this host, which tells at its end what it did."""
    return programs.start("process-queue", "--json", environ={**environ, "GEPP_AUDIT_HOST": host})


def finish(programs: Programs, simulator: Simulator, host: str = "h1") -> None:
    """Let the simulator answer again, and one more run do what is left."""
    simulator.scenario({"rules": []})
    done = programs.run("process-queue", GEPP_AUDIT_HOST=host)
    assert (done.exit_code, done.stdout) == (0, "")


def asked(simulator: Simulator) -> list[int]:
    """The transaction of each call, in the order of arrival."""
    return [int(call["transaction_id"]) for call in simulator.calls()]


def wait_for_calls(simulator: Simulator, number: int) -> None:
    """Until so many calls have arrived, answered or not."""
    wait_until(lambda: len(simulator.calls()) >= number, 60, what=f"the arrival of {number} calls")


def labels_settled(queue: SampleQueue) -> bool:
    """Every verdict is written and every batch closed."""
    left = queue.platform.value("SELECT count(*) FROM transaction_audit_history WHERE completed_at IS NULL")
    return left == 0 and queue.labels() == queue.statuses


def ledger(platform: Platform, outcome: str | None) -> list[int]:
    """The transactions of the ledger's calls with this outcome; None: their fate is unknown."""
    condition = "outcome IS NULL" if outcome is None else "outcome = :outcome"
    values = {} if outcome is None else {"outcome": outcome}
    found = platform.rows(f"SELECT transaction_id FROM gepp_audit_calls WHERE {condition} ORDER BY id", **values)
    return [row["transaction_id"] for row in found]


def items(platform: Platform) -> dict[int, dict[str, Any]]:
    """The items by transaction."""
    return {row["transaction_id"]: row for row in platform.rows("SELECT * FROM gepp_audit_items")}


def everything(platform: Platform, *tables: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of these tables, sorted: to be compared before and after."""
    return {table: sorted(platform.rows(f"SELECT * FROM {table}"), key=repr) for table in tables}


def theirs(platform: Platform) -> tuple[str, ...]:
    """The platform's tables."""
    more = ("transaction_audits",) if platform.is_new else ()
    shared = ("organizations", "main_materials", "audit_rules", "transactions", "transaction_records")
    return (*shared, "transaction_audit_history", *more)


def as_moment(value: Any) -> datetime:
    """A time as either database gives it; one without a zone is UTC."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
