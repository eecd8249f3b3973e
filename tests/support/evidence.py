"""What a checker of the laws may look at: the tables as they stand, read by plain SQL, and the simulator's own log.

Nothing of the product takes part in it, so that what the product believes of itself decides nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, create_engine, inspect, text

from tests.support.platform_schema import snapshot_schema

Row = dict[str, Any]
#: an item is one transaction of one batch
Key = tuple[int, int]

_TRANSACTION: Final = (
    "id", "organization_id", "status", "ai_audit_status", "ai_audit_note", "reject_triggers", "warning_triggers",
    "is_user_audit", "deleted_date", "is_active",
)  # fmt: skip
#: JSON of SQLite is text
_DOCUMENTS: Final = frozenset(
    {
        "ai_audit_note", "reject_triggers", "warning_triggers", "actions", "transactions", "audit_records",
        "audit_info", "audit_notes", "verdict", "rules", "counts",
    }
)  # fmt: skip
_REJECTING: Final = frozenset({"reject", "auto-reject"})
VERDICTS: Final = frozenset({"approved", "rejected", "no_action"})


@dataclass(kw_only=True)
class Told:
    """What only the one who made the trouble knows."""

    #: processes that were killed, frozen, cut off or told to leave, in all
    disruptions: int = 0
    #: calls that each run may have under way
    concurrency: int | None = None
    #: transactions that people acted on: what becomes of them is people's business
    touched: set[int] = field(default_factory=set)
    #: what people decided, by transaction: these columns must still say so
    decided: dict[int, Row] = field(default_factory=dict)
    #: the only transactions that may be parked; None: any may
    killers: set[int] | None = None
    #: the label that an untouched transaction must have in the end
    expected: dict[int, str] = field(default_factory=dict)
    #: `snapshot_schema` before the first run
    schema: Any = None

    @classmethod
    def read(cls, path: Path) -> Told:
        """As `write` left it."""
        told = json.loads(path.read_text(encoding="utf-8"))
        killers = told.get("killers")
        return cls(
            disruptions=told.get("disruptions", 0),
            concurrency=told.get("concurrency"),
            touched=set(told.get("touched", ())),
            decided={int(id_): row for id_, row in told.get("decided", {}).items()},
            killers=None if killers is None else set(killers),
            expected={int(id_): label for id_, label in told.get("expected", {}).items()},
            schema=told.get("schema"),
        )

    def write(self, path: Path) -> None:
        """For another process to read."""
        told = {name: sorted(value) if isinstance(value, set) else value for name, value in vars(self).items()}
        path.write_text(json.dumps(told, default=str), encoding="utf-8")


@dataclass(kw_only=True)
class Evidence:
    """One database at one moment."""

    #: our rows by batch; the platform's rows by id; and so on, each table by its key
    batches: dict[int, Row]
    items: list[Row]
    #: the ledger, in the order of dispatch
    calls: list[Row]
    runs: dict[str, Row]
    history: dict[int, Row]
    transactions: dict[int, Row]
    #: None: this platform has no such table
    audits: dict[int, Row] | None
    rules: list[Row]
    schema: Any
    #: what the simulator saw, in the order of arrival; None: it is not known
    asked: list[Row] | None = None
    told: Told = field(default_factory=Told)

    @cached_property
    def ledger(self) -> dict[Key, list[Row]]:
        """The calls of each item, oldest first."""
        found: defaultdict[Key, list[Row]] = defaultdict(list)
        for call in self.calls:
            found[call["audit_history_id"], call["transaction_id"]].append(call)
        return found

    @cached_property
    def entries(self) -> dict[Key, str]:
        """What the Audit History says of each transaction of each batch that we ended."""
        return {
            (id_, entry["transaction_id"]): entry["status"]
            for id_, batch in self.batches.items()
            if batch["outcome"] in ("completed", "failed") and id_ in self.history
            for entry in (self.history[id_]["audit_info"] or {}).get("audit_results", ())
        }

    @cached_property
    def withdrawn_ids(self) -> set[int]:
        """Transactions listed in a batch that people cancelled, undid or deleted."""
        return {
            id_ for row in self.history.values() if withdrawn(row) for id_ in (row["transactions"] or ())
        } | self.told.touched

    def rules_of(self, organization_id: int) -> dict[str, bool]:
        """The rules that hold for an organization, each with whether a failure rejects."""
        return {
            rule["rule_id"]: _rejects(rule)
            for rule in self.rules
            if rule["is_active"]
            and rule["deleted_date"] is None
            and (rule["is_global"] or rule["organization_id"] == organization_id)
        }


def named(key: Key) -> str:
    """An item, for a sentence."""
    return f"transaction {key[1]} of batch {key[0]}"


def withdrawn(history: Mapping[str, Any]) -> bool:
    """People cancelled, undid or deleted the batch."""
    return history["deleted_date"] is not None or history["status"] in ("cancelled", "undone")


def _rejects(rule: Row) -> bool:
    return any(
        action.get("type") == "system_action" and str(action.get("action")).lower() in _REJECTING
        for action in rule["actions"] or ()
    )


def read_evidence(url: str, *, asked: Iterable[Row] | None = None, told: Told | None = None) -> Evidence:
    """Read the database at `url` in one snapshot, then judge at leisure."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg2://", 1))
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            evidence = _read(connection)
    finally:
        engine.dispose()
    evidence.asked = None if asked is None else list(asked)
    evidence.told = told or Told()
    return evidence


def _read(connection: Connection) -> Evidence:
    inspector = inspect(connection)
    present = {column["name"] for column in inspector.get_columns("transactions")}
    columns = ", ".join(
        "CAST(ai_audit_status AS text) AS ai_audit_status" if name == "ai_audit_status" else name
        for name in _TRANSACTION
        if name in present
    )
    return Evidence(
        batches=_by(connection, "audit_history_id", "SELECT * FROM gepp_audit_batches"),
        items=_rows(connection, "SELECT * FROM gepp_audit_items"),
        calls=_rows(connection, "SELECT * FROM gepp_audit_calls ORDER BY id"),
        runs=_by(connection, "id", "SELECT * FROM gepp_audit_runs"),
        history=_by(connection, "id", "SELECT * FROM transaction_audit_history"),
        transactions=_by(connection, "id", f"SELECT {columns} FROM transactions"),
        audits=_by(connection, "id", "SELECT * FROM transaction_audits WHERE audit_type = 'ai_async'")
        if inspector.has_table("transaction_audits")
        else None,
        rules=_rows(connection, "SELECT * FROM audit_rules"),
        schema=plain_schema(connection),
    )


def plain_schema(connection: Connection) -> Any:
    """The schema that is not ours, in a form that survives JSON."""
    return json.loads(json.dumps(snapshot_schema(connection), default=str))


def _by(connection: Connection, key: str, query: str) -> dict[Any, Row]:
    return {row[key]: row for row in _rows(connection, query)}


def _rows(connection: Connection, query: str) -> list[Row]:
    return [
        {name: _plain(name, value) for name, value in row.items()} for row in connection.execute(text(query)).mappings()
    ]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, str) and name in _DOCUMENTS:
        return json.loads(value)
    return value


def read_log(path: Path) -> list[Row]:
    """The simulator's log: a line of JSON for each call, in the order of arrival. A torn last line is none."""
    calls: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            calls.append(json.loads(line))
        except ValueError:
            continue
    return sorted(calls, key=lambda call: (call["received"], call["number"]))
