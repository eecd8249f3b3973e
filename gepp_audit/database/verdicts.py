"""What a batch said of each of its transactions, from the best source that is left.

While a batch is open, its items tell. Afterwards, in this order: the failed items (90 days), the rows that the batch
wrote into `transaction_audits` (newer platforms), and `audit_info`; where that has only the outcome, the reasons come
from the transaction's own `ai_audit_note`, if that still says the same, so that a later audit's words are not taken for
this one's. Only transactions of the batch's organization are told of, whatever ids it lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Text, cast, select

from gepp_audit.database.history import Spent, document, spent_columns, spent_from
from gepp_audit.database.platform import Platform
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.platform_tables import transaction_audits, transactions
from gepp_audit.database.rows import among
from gepp_audit.database.tables import calls, items
from gepp_audit.model import ItemState, VerdictStatus

#: transactions that are looked at in one turn
_PAGE: Final = 500
#: what a label of the platform says of an audit's outcome
_OUTCOMES: Final = frozenset({*(status.value for status in VerdictStatus), "failed"})


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionLine:
    """One transaction of a batch with what the batch said of it."""

    transaction_id: int
    #: the platform's label now, or why it was not audited
    status: str
    #: what the batch said: approved, rejected, no_action, failed, skipped, or how far it is: waiting, calling
    #: None: nothing that is left tells
    verdict: str | None = None
    #: each rule's outcome
    rules: Mapping[str, str] = field(default_factory=dict)
    rejected_by: tuple[str, ...] = ()
    warned_by: tuple[str, ...] = ()
    #: `{"rule_id", "reason", "evidence": [{"record_id", "field", "value"}…]}` of each failed or untold rule
    findings: tuple[Mapping[str, Any], ...] = ()
    skip_reason: str | None = None
    error_code: str | None = None
    error: str | None = None
    #: it waits, and not before this moment
    next_attempt_at: datetime | None = None
    settled_at: datetime | None = None
    #: what tells of it: `queue`, `transaction_audits`, `transaction`, or `audit_info`, which has no reasons
    source: str | None = None
    #: over all its calls in this batch
    spent: Spent = field(default_factory=Spent)

    @property
    def concerned(self) -> frozenset[str]:
        """The rules that it broke or that could not be told."""
        return frozenset((*self.rejected_by, *self.warned_by))


Wanted = Callable[[TransactionLine], bool]


def transactions_of(
    connection: Connection,
    platform: Platform,
    audit_history_id: int,
    most: int,
    *,
    after: int = 0,
    wanted: Wanted | None = None,
    only: Sequence[int] = (),
) -> list[TransactionLine]:
    """Transactions of the batch by id, at most `most` of those behind the id `after` that are `wanted`.

    `only`: out of these.
    """
    batch = _batch(connection, platform, audit_history_id)
    if batch is None:
        return []
    ids = [id_ for id_ in batch.ids if id_ > after and (not only or id_ in only)]
    found: list[TransactionLine] = []
    size = min(_PAGE, most) if wanted is None else _PAGE
    for first in range(0, len(ids), size):
        for line in _lines(connection, platform, batch, ids[first : first + size]):
            if wanted is None or wanted(line):
                found.append(line)
                if len(found) == most:
                    return found
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    audit_history_id: int
    organization_id: int
    #: distinct, in order
    ids: list[int]
    #: what its audit_info says, by transaction
    results: Mapping[int, dict[str, Any]]
    #: its rows in transaction_audits
    audits: frozenset[int]


def _batch(connection: Connection, platform: Platform, audit_history_id: int) -> _Batch | None:
    columns: list[Any] = [history.c.organization_id, history.c.transactions, history.c.audit_info]
    if "audit_records" in platform.history_columns:
        columns.append(history.c.audit_records)
    row = connection.execute(select(*columns).where(history.c.id == audit_history_id)).one_or_none()
    if row is None:
        return None
    entries = document(row.audit_info).get("audit_results")
    results = {
        entry["transaction_id"]: entry
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("transaction_id"), int)
    }
    return _Batch(
        audit_history_id=audit_history_id,
        organization_id=row.organization_id,
        ids=sorted(set(row.transactions or ())),
        results=results,
        audits=frozenset(getattr(row, "audit_records", None) or ()),
    )


def _lines(connection: Connection, platform: Platform, batch: _Batch, ids: Sequence[int]) -> Iterator[TransactionLine]:
    present = _transactions(connection, batch, ids)
    ours = _items(connection, batch, ids)
    audits = _audits(connection, batch, ids) if platform.has_audits and batch.audits else {}
    spent = _spent(connection, batch, ids)
    for id_ in ids:
        item, row = ours.get(id_), present.get(id_)
        told = _of_item(item) if item is not None else _afterwards(batch.results.get(id_), audits.get(id_), row)
        status = told.get("skip_reason") or (row.label if row is not None else "not_found")
        yield TransactionLine(transaction_id=id_, status=status, spent=spent.get(id_, Spent()), **told)


def _transactions(connection: Connection, batch: _Batch, ids: Sequence[int]) -> dict[int, Any]:
    statement = select(
        transactions.c.id,
        cast(transactions.c.ai_audit_status, Text).label("label"),
        transactions.c.ai_audit_note,
    ).where(among(connection, transactions.c.id, ids), transactions.c.organization_id == batch.organization_id)
    return {row.id: row for row in connection.execute(statement)}


def _items(connection: Connection, batch: _Batch, ids: Sequence[int]) -> dict[int, Any]:
    statement = select(items).where(
        items.c.audit_history_id == batch.audit_history_id, among(connection, items.c.transaction_id, ids)
    )
    return {row.transaction_id: row for row in connection.execute(statement)}


def _audits(connection: Connection, batch: _Batch, ids: Sequence[int]) -> dict[int, Any]:
    """The rows that this batch wrote: found by transaction, which has an index, and kept if the batch lists them."""
    statement = select(
        transaction_audits.c.id,
        transaction_audits.c.transaction_id,
        transaction_audits.c.audit_notes,
        transaction_audits.c.ai_audit_status,
        transaction_audits.c.created_date,
    ).where(
        among(connection, transaction_audits.c.transaction_id, ids),
        transaction_audits.c.organization_id == batch.organization_id,
        transaction_audits.c.by_human.is_(False),
    )
    found = connection.execute(statement.order_by(transaction_audits.c.id))
    return {row.transaction_id: row for row in found if row.id in batch.audits}


def _spent(connection: Connection, batch: _Batch, ids: Sequence[int]) -> dict[int, Spent]:
    found = connection.execute(
        select(calls.c.transaction_id.label("id"), *spent_columns(connection))
        .where(calls.c.audit_history_id == batch.audit_history_id, among(connection, calls.c.transaction_id, ids))
        .group_by(calls.c.transaction_id)
    )
    return {row.id: spent_from(row) for row in found}


# -- sources -----------------------------------------------------------------------------------------------------------

_STATES: Final = {
    ItemState.READY.value: "waiting",
    ItemState.CALLING.value: "calling",
    ItemState.SUBMITTED.value: "calling",
    ItemState.FAILED.value: "failed",
    ItemState.SKIPPED.value: "skipped",
}


def _of_item(item: Any) -> dict[str, Any]:
    if item.state == ItemState.DONE.value:
        return _verdict(document(item.verdict), item.verdict_status, "queue") | {"settled_at": item.settled_at}
    waits = item.state == ItemState.READY.value and item.attempts + item.waits + item.crashes + item.edits > 0
    return {
        "verdict": _STATES[item.state],
        "skip_reason": item.skip_reason,
        "error_code": item.error_code,
        "error": item.error,
        "next_attempt_at": item.available_at if waits else None,
        "settled_at": item.settled_at,
        "source": "queue",
    }


def _afterwards(entry: dict[str, Any] | None, audit: Any, row: Any) -> dict[str, Any]:
    """What is left of a transaction whose item has gone."""
    if audit is not None:
        notes = document(audit.audit_notes)
        status = audit.ai_audit_status or notes.get("status")
        return _verdict(notes, status, "transaction_audits") | {"settled_at": audit.created_date}
    note = document(row.ai_audit_note) if row is not None else {}
    if entry is None:
        return _of_note(note, row)
    told = _verdict(entry, entry.get("status"), "audit_info")
    if told["verdict"] in _OUTCOMES and _same(told, _verdict(note, note.get("status"), "transaction")):
        return _verdict(note, note.get("status"), "transaction") | _failure(note)
    return told


def _of_note(note: dict[str, Any], row: Any) -> dict[str, Any]:
    """Nothing of the batch tells of it: it waits for a run, or the transaction itself is all there is."""
    if row is not None and row.label == "queued":
        return {"verdict": "waiting"}
    status = note.get("status")
    if row is None or status not in _OUTCOMES or row.label not in (status, "null"):
        return {}
    return _verdict(note, status, "transaction") | _failure(note)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("verdict", "rejected_by", "warned_by"))


def _verdict(told: Mapping[str, Any], status: Any, source: str) -> dict[str, Any]:
    """The parts of a stored verdict, whoever stored it: a part of another form is left out."""
    rules, findings = told.get("rules"), told.get("findings")
    return {
        "verdict": status if isinstance(status, str) else None,
        "rules": {str(id_): str(outcome) for id_, outcome in rules.items()} if isinstance(rules, dict) else {},
        "rejected_by": _ids(told.get("rejected_by")),
        "warned_by": _ids(told.get("warned_by")),
        "findings": tuple(one for one in findings if isinstance(one, dict)) if isinstance(findings, list) else (),
        "source": source,
    }


def _ids(value: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list) else ()


def _failure(note: Mapping[str, Any]) -> dict[str, Any]:
    code, error = note.get("error_code"), note.get("error")
    return {
        "error_code": code if isinstance(code, str) else None,
        "error": error if isinstance(error, str) else None,
    }
