"""Laws on batches and transactions: how they end, what the platform's screens read, and who has the last word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from tests.support.call_laws import is_parked, parked_alone
from tests.support.evidence import VERDICTS, Evidence, Row, named, withdrawn

_OUTCOMES: Final = frozenset({"pass", "fail", "cannot_tell"})
#: as the entries of an ended batch are called, and as its summary counts them
_COUNTED: Final = {"approved": "approved", "rejected": "rejected", "no_action": "undecided"}
_ALL_COUNTED: Final = {**_COUNTED, "failed": "failed", "skipped": "skipped"}


def counters(evidence: Evidence) -> Iterator[str]:
    """The counters of an ended batch are those of its transactions, its audit records and its calls."""
    for id_, batch in evidence.batches.items():
        history = evidence.history.get(id_)
        if batch["outcome"] not in ("completed", "failed") or history is None:
            continue
        info = history["audit_info"] or {}
        summary = info.get("summary")
        if summary is None:
            yield f"batch {id_} ended without a summary."
            continue
        yield from _wrong_sums(id_, batch, history, summary)
        if not info.get("truncated"):
            yield from _wrong_entries(id_, history, info["audit_results"], summary)
        if evidence.audits is not None:
            yield from _wrong_audits(evidence, id_, history, summary)
        yield from _wrong_tokens(evidence, id_, summary)


def _wrong_sums(id_: int, batch: Row, history: Row, summary: Row) -> Iterator[str]:
    parts = ("approved", "rejected", "undecided", "failed", "skipped")
    total = sum(summary[f"{part}_count"] for part in parts)
    if total != summary["total_transactions"]:
        yield f"batch {id_}: total {summary['total_transactions']}, but its parts are {total}."
    if summary["processed_transactions"] != total - summary["skipped_count"]:
        yield f"batch {id_}: processed {summary['processed_transactions']} is not its total without the skipped ones."
    distinct = len(set(history["transactions"] or ()))
    if summary["total_transactions"] != distinct or batch["total"] != distinct:
        yield f"batch {id_} lists {distinct} transactions, but counts {summary['total_transactions']}."
    for name in ("total_transactions", "processed_transactions", "approved_count", "rejected_count"):
        if history[name] != summary[name]:
            yield f"batch {id_}: {name} is {history[name]}, in its summary {summary[name]}."
    for name in ("approved", "rejected"):
        if batch[name] != summary[f"{name}_count"]:
            yield f"batch {id_}: {batch[name]} were published as {name}, but {summary[f'{name}_count']} are counted."


def _wrong_entries(id_: int, history: Row, entries: list[Row], summary: Row) -> Iterator[str]:
    found = Counter(entry["status"] for entry in entries)
    for status, name in _ALL_COUNTED.items():
        if found[status] != summary[f"{name}_count"]:
            yield f"batch {id_}: {found[status]} entries are {status}, but {summary[f'{name}_count']} are counted."
    told = sorted(entry["transaction_id"] for entry in entries)
    if told != sorted(set(history["transactions"] or ())):
        yield f"batch {id_}: its entries are not its transactions, each once."


def _wrong_audits(evidence: Evidence, id_: int, history: Row, summary: Row) -> Iterator[str]:
    audits = [(evidence.audits or {}).get(record) for record in history["audit_records"] or ()]
    found = Counter(audit["ai_audit_status"] for audit in audits if audit is not None)
    for status, name in _COUNTED.items():
        if found[status] != summary[f"{name}_count"]:
            yield f"batch {id_}: {found[status]} audit records are {status}, {summary[f'{name}_count']} are counted."


def _wrong_tokens(evidence: Evidence, id_: int, summary: Row) -> Iterator[str]:
    calls = [call for key, calls in evidence.ledger.items() if key[0] == id_ for call in calls]
    told = summary["token_usage"]
    # an answer may come, and be paid for, after the end of its batch
    complete = all(call["outcome"] not in ("superseded", "expired", "abandoned", None) for call in calls)
    for name, column in (("total_input_tokens", "input_tokens"), ("total_output_tokens", "output_tokens"),
                         ("cached_input_tokens", "cached_tokens")):  # fmt: skip
        spent = sum(call[column] or 0 for call in calls)
        if told[name] > spent or (complete and told[name] != spent):
            yield f"batch {id_}: {name} is {told[name]}, but its calls used {spent}."


def closed_once(evidence: Evidence) -> Iterator[str]:
    """A batch that ended did so once, and the platform's row says how."""
    ended = [id_ for id_, batch in evidence.batches.items() if batch["outcome"] in ("completed", "failed")]
    counted = sum(sum((run["counts"] or {}).get("batches", {}).get(name, 0) for name in ("completed", "failed"))
                  for run in evidence.runs.values())  # fmt: skip
    if counted > len(ended):
        yield f"the runs ended {counted} batches, but there are {len(ended)} that ended."
    for id_ in ended:
        history = evidence.history.get(id_)
        if history is None:
            continue
        if history["completed_at"] is None:
            yield f"batch {id_} ended, but has no completed_at."
        if not withdrawn(history) and history["status"] != evidence.batches[id_]["outcome"]:
            yield f"batch {id_} ended as {evidence.batches[id_]['outcome']}, but its status is {history['status']}."
    for id_, batch in evidence.batches.items():
        if (batch["closed_at"] is None) != (batch["outcome"] is None):
            yield f"batch {id_} has the end {batch['outcome']} at {batch['closed_at']}."


def published(evidence: Evidence) -> Iterator[str]:
    """What a batch's end says of a transaction is what the platform's row says, unless people acted on it."""
    latest: dict[int, tuple[Any, int, str]] = {}
    for (batch_id, id_), status in evidence.entries.items():
        if status != "skipped":
            closed = (str(evidence.batches[batch_id]["closed_at"]), batch_id, status)
            latest[id_] = max(latest.get(id_, closed), closed)
    rows = evidence.transactions
    for id_, (_, batch_id, status) in latest.items():
        row = rows.get(id_)
        if row is None or row.get("is_user_audit") or id_ in evidence.withdrawn_ids:
            continue
        wanted = {status} if status in VERDICTS else {"failed", "null"}
        if row["ai_audit_status"] not in wanted and row["ai_audit_status"] != "queued":
            yield f"{named((batch_id, id_))} ended as {status}, but the platform's row says {row['ai_audit_status']}."
        elif row["ai_audit_status"] in VERDICTS and (row["ai_audit_note"] or {}).get("status") != status:
            yield f"{named((batch_id, id_))} ended as {status}, but its note says something else."


def audited_once(evidence: Evidence) -> Iterator[str]:
    """A row of transaction_audits belongs to one batch, and says what that batch's end says."""
    if evidence.audits is None:
        return
    audits: dict[Any, Row | None] = dict(evidence.audits)
    owners: defaultdict[int, list[int]] = defaultdict(list)
    for id_, batch in evidence.batches.items():
        if batch["outcome"] in ("completed", "failed") and id_ in evidence.history:
            for record in evidence.history[id_]["audit_records"] or ():
                owners[record].append(id_)
    for item in evidence.items:
        open_batch = evidence.batches.get(item["audit_history_id"], {"closed_at": "unknown"})["closed_at"] is None
        if item["audit_record_id"] is not None and open_batch:
            owners[item["audit_record_id"]].append(item["audit_history_id"])
    for record, batch_ids in owners.items():
        if (audit := audits.get(record)) is None:
            yield f"batch {batch_ids[0]} names the audit record {record}, which does not exist."
        elif len(batch_ids) > 1:
            yield f"the audit record {record} belongs to the batches {batch_ids}."
        elif _entry(evidence, batch_ids[0], audit) != audit["ai_audit_status"]:
            yield f"audit record {record} is {audit['ai_audit_status']}, which its batch {batch_ids[0]} is not."
    for record, orphan in sorted(evidence.audits.items()):
        if record not in owners and orphan["transaction_id"] not in evidence.withdrawn_ids:
            yield f"transaction {orphan['transaction_id']} has the audit record {record} that no batch names."


def _entry(evidence: Evidence, batch_id: int, audit: Row) -> str:
    """What the batch's end says of the audited transaction; a truncated or unfinished one says nothing else."""
    return evidence.entries.get((batch_id, audit["transaction_id"]), str(audit["ai_audit_status"]))


def complete_verdicts(evidence: Evidence) -> Iterator[str]:
    """Every verdict stands on one outcome for each rule of the organization, and follows from them."""
    listed = {id_ for batch_id in evidence.batches if batch_id in evidence.history
              for id_ in evidence.history[batch_id]["transactions"] or ()}  # fmt: skip
    for id_ in sorted(listed & evidence.transactions.keys()):
        row = evidence.transactions[id_]
        if row["ai_audit_status"] in VERDICTS and id_ not in evidence.told.touched and not row.get("is_user_audit"):
            yield from _wrong_verdict(id_, row, evidence.rules_of(row["organization_id"]))
    for audit in (evidence.audits or {}).values():
        wrong = _wrong_rules(audit["audit_notes"], evidence.rules_of(audit["organization_id"]))
        if wrong:
            yield f"audit record {audit['id']} of transaction {audit['transaction_id']}: {wrong}."


def _wrong_verdict(id_: int, row: Row, rules: dict[str, bool]) -> Iterator[str]:
    wrong = _wrong_rules(row["ai_audit_note"], rules)
    if wrong:
        yield f"transaction {id_} is {row['ai_audit_status']}: {wrong}."
    elif row["ai_audit_note"]["status"] != row["ai_audit_status"]:
        yield f"transaction {id_} is {row['ai_audit_status']}, but its note says {row['ai_audit_note']['status']}."


def _wrong_rules(note: Any, rules: dict[str, bool]) -> str | None:
    if not isinstance(note, dict) or not isinstance(note.get("rules"), dict):
        return "no note says why"
    outcomes = note["rules"]
    if outcomes.keys() != rules.keys() or not set(outcomes.values()) <= _OUTCOMES:
        return f"its note does not have one outcome for each rule (differs in {sorted(outcomes.keys() ^ rules.keys())})"
    rejecting = {outcome for rule_id, outcome in outcomes.items() if rules[rule_id]}
    follows = "rejected" if "fail" in rejecting else "no_action" if "cannot_tell" in rejecting else "approved"
    return None if note.get("status") == follows else f"from its rules follows {follows}"


def at_rest(evidence: Evidence) -> Iterator[str]:
    """In the end nothing is left open: no batch, no item, no call, no queued transaction."""
    for id_, history in evidence.history.items():
        batch = evidence.batches.get(id_)
        if not withdrawn(history) and history["status"] in ("in_progress", "pending"):
            yield f"batch {id_} is still {history['status']}."
        if batch is not None and batch["closed_at"] is None:
            yield f"batch {id_} is {history['status']}, but still open for us."
    for item in evidence.items:
        if item["state"] != "failed" or item["published_at"] is None:
            key = (item["audit_history_id"], item["transaction_id"])
            yield f"{named(key)} is still {item['state']}, published at {item['published_at']}."
    for call in evidence.calls:
        run = evidence.runs.get(call["run_id"])
        if call["outcome"] is None and run is not None and run["outcome"] in ("processed", "interrupted", "blocked"):
            yield f"call {call['id']} has no outcome, though its run {call['run_id']} ended in order."
    yield from still_queued(evidence)


def still_queued(evidence: Evidence) -> Iterator[str]:
    """No transaction stays queued in a batch that ended, unless another one lists it."""
    waiting = {
        id_
        for batch_id, row in evidence.history.items()
        if not withdrawn(row) and row["status"] in ("in_progress", "pending")
        for id_ in row["transactions"] or ()
    }
    for batch_id, batch in evidence.batches.items():
        if batch["closed_at"] is None or batch_id not in evidence.history:
            continue
        for id_ in evidence.history[batch_id]["transactions"] or ():
            row = evidence.transactions.get(id_)
            if row is None or row["ai_audit_status"] != "queued" or id_ in waiting:
                continue
            gone = row["deleted_date"] is not None or row["is_active"] in (False, 0) or row.get("is_user_audit")
            if not gone and row["organization_id"] == batch["organization_id"]:
                yield f"{named((batch_id, id_))} is still queued, though the batch ended."


def people_win(evidence: Evidence) -> Iterator[str]:
    """What people decided stands, and what nobody touched is as it must be."""
    for id_, decided in evidence.told.decided.items():
        row = evidence.transactions.get(id_)
        if row is None:
            yield f"transaction {id_}, which a person decided, is gone."
            continue
        changed = {name: row.get(name) for name, value in decided.items() if row.get(name) != value}
        if changed:
            yield f"transaction {id_} was decided by a person as {decided}, but is now {changed}."
    keys = ((item["audit_history_id"], item["transaction_id"]) for item in evidence.items if is_parked(item))
    given_up = {key[1] for key in keys if parked_alone(evidence, key)}
    for id_, label in evidence.told.expected.items():
        found = evidence.transactions.get(id_, {}).get("ai_audit_status")
        if found != label and id_ not in given_up:
            yield f"transaction {id_} must be {label}, but is {found}."


def same_schema(evidence: Evidence) -> Iterator[str]:
    """Nothing of the platform's schema was changed."""
    if evidence.told.schema is None:
        return
    for kind in sorted(evidence.schema.keys() | evidence.told.schema.keys()):
        if evidence.schema.get(kind) != evidence.told.schema.get(kind):
            yield f"the platform's schema was changed: {kind}."
