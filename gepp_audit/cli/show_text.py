"""What `show` tells a person: pure, from the results of `queue.showing` to lines and tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from gepp_audit.cli.figures import short_count, short_money
from gepp_audit.cli.render import Bar, Table
from gepp_audit.database.calls_made import CallMade
from gepp_audit.database.history import BatchFilter, BatchLine, Spent
from gepp_audit.database.verdicts import TransactionLine
from gepp_audit.queue.prompt_again import PromptAgain
from gepp_audit.queue.showing import BatchList, OneBatch, OneTransaction
from gepp_audit.queue.wording import capital, counted, moment_in_words, sentence

_FULL: Final = (
    "BATCH", "ORGANIZATION", "STATUS", "STARTED", "DONE", "APPROVED", "REJECTED", "UNDECIDED", "FAILED", "TOKENS",
    "USD",
)  # fmt: skip
_NARROW: Final = ("BATCH", "ORG", "STATUS", "AGE", "DONE", "OK/REJ/UND/FAIL", "TOKENS", "USD")


def batches(found: BatchList, wanted: BatchFilter) -> list[str | Table]:
    """The list of batches."""
    if not found.batches:
        narrowed = wanted.organizations or wanted.statuses or wanted.since or wanted.before
        return ["There is no such batch." if narrowed else "There is no batch yet."]
    lines = found.batches
    drawn = (
        Table(columns=_FULL, rows=[_row(line, _progress(line)) for line in lines]),
        Table(columns=_NARROW, rows=[_narrow_row(line) for line in lines]),
    )
    told: list[str | Table] = [Table(columns=_FULL, rows=[_row(line, _done(line)) for line in lines], drawn=drawn)]
    if found.more:
        told.append(f"There are older ones: add --after {lines[-1].audit_history_id}, or -n for more at once.")
    return told


def _row(line: BatchLine, done: Any) -> tuple[Any, ...]:
    return (
        line.audit_history_id,
        line.organization_id,
        line.status,
        line.started_at,
        done,
        line.approved,
        line.rejected,
        line.undecided,
        line.failed,
        None if line.spent is None else line.spent.total_tokens,
        None if line.spent is None else line.spent.price,
    )


def _narrow_row(line: BatchLine) -> tuple[Any, ...]:
    counts = (line.approved, line.rejected, line.undecided, line.failed)
    return (
        line.audit_history_id,
        line.organization_id,
        line.status,
        _age(line.started_at),
        _progress(line, width=5),
        "/".join("-" if count is None else str(count) for count in counts),
        None if line.spent is None else short_count(line.spent.total_tokens),
        None if line.spent is None or line.spent.price is None else short_money(line.spent.price),
    )


def _done(line: BatchLine) -> str:
    return f"{line.processed}/{line.total}"


def _progress(line: BatchLine, width: int = 8) -> Bar | str:
    """How far an open batch is, and of one that has ended how much was audited."""
    return Bar(line.processed, line.total, width) if line.total else "-"


def _age(moment: datetime) -> str:
    """`45s`, `12m`, `3h`, `5d`."""
    seconds = max(int((datetime.now(UTC) - moment).total_seconds()), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _short_moment(moment: datetime) -> str:
    return moment_in_words(moment)[5:16]


def one_batch(found: OneBatch, after: int) -> list[str | Table]:
    """One batch and its transactions."""
    told: list[str | Table] = [*_head(found.batch)]
    lines = found.transactions
    if not lines:
        what = " that is asked for" if found.filtered else f" behind {after}" if after else ""
        told.append(f"It holds no transaction{what}.")
        return told
    rows = [(line.transaction_id, _verdict(line), _why(line), line.spent.total_tokens or None) for line in lines]
    told.append(_transactions(rows))
    if found.more:
        told.append(f"There are more: add --after {lines[-1].transaction_id}, or -n for more at once.")
    if found.batch.failed and not found.batch.open:
        told.append(f"“gepp-audit retry {found.batch.audit_history_id}” asks again what failed.")
    return told


def _transactions(rows: Sequence[tuple[Any, ...]]) -> Table:
    """Where there is too little room for all, the reasons have it; tokens of each call tells --transaction."""
    columns = ("TRANSACTION", "VERDICT", "WHY", "TOKENS")
    drawn = (Table(columns=columns, rows=rows), Table(columns=columns[:3], rows=[row[:3] for row in rows]))
    return Table(columns=columns, rows=rows, drawn=drawn)


def _head(batch: BatchLine) -> list[str]:
    status = (
        f"{batch.status}, deleted" if batch.deleted and batch.status not in ("cancelled", "undone") else batch.status
    )
    began = f"started {moment_in_words(batch.started_at)}"
    ended = f", ended {moment_in_words(batch.completed_at)}" if batch.completed_at else ""
    told = [
        f"Batch {batch.audit_history_id} of organization {batch.organization_id}: {status}, {batch.processed} of "
        f"{counted(batch.total, 'transaction')} done; {began}{ended}."
    ]
    counts = [f"{batch.approved} approved", f"{batch.rejected} rejected"]
    more = (("undecided", batch.undecided), ("failed", batch.failed), ("skipped", batch.skipped))
    counts += [f"{count} {name}" for name, count in more if count is not None]
    told.append(f"{', '.join(counts)}{_spent(batch.spent)}.")
    if batch.error:
        told.append(batch.error)
    return told


def _spent(spent: Spent | None) -> str:
    if spent is None or not (spent.total_tokens or spent.calls):
        return ""
    price = "at a price that is not known" if spent.price is None else f"for {spent.price:f} USD"
    return f"; {spent.total_tokens:,} tokens {price}"


def _verdict(line: TransactionLine) -> str:
    if line.verdict == "skipped" and line.skip_reason:
        return f"skipped: {line.skip_reason}"
    return line.verdict or line.status


def _why(line: TransactionLine) -> tuple[str, ...] | None:
    """One line for each rule that it broke or that was not told, or what went wrong."""
    told = [_finding(finding, line) for finding in line.findings]
    named = {finding.get("rule_id") for finding in line.findings}
    told += [f"{rule}: {_outcome(rule, line)}" for rule in (*line.rejected_by, *line.warned_by) if rule not in named]
    if line.error or line.error_code:
        told.append(": ".join(part for part in (line.error_code, line.error) if part))
    if line.next_attempt_at is not None:
        told.append(f"asked again from {moment_in_words(line.next_attempt_at)}")
    return tuple(told) or None


def _outcome(rule_id: str, line: TransactionLine) -> str:
    outcome = line.rules.get(rule_id, "fail" if rule_id in line.rejected_by else "warning")
    return outcome.replace("_", " ")


def _finding(finding: Any, line: TransactionLine) -> str:
    rule_id = str(finding.get("rule_id", ""))
    told = f"{rule_id} {_outcome(rule_id, line)}: {finding.get('reason', '')}"
    evidence = finding.get("evidence")
    quoted = [_quoted(one) for one in evidence if isinstance(one, dict)] if isinstance(evidence, list) else []
    return f"{told} [{'; '.join(quoted)}]" if quoted else told


def _quoted(evidence: dict[str, Any]) -> str:
    record = evidence.get("record_id")
    where = "" if record is None else f"record {record} "
    return f"{where}{evidence.get('field', '')}={evidence.get('value', '')}"


# -- one transaction ---------------------------------------------------------------------------------------------------


def one_transaction(found: OneTransaction) -> list[str | Table]:
    """One transaction, its outcome in each batch, and its calls."""
    now = found.now
    standing = [f"ai_audit_status {now.label}", f"status {now.status}"]
    standing += ["deleted"] if now.deleted else []
    standing += ["decided by a person"] if now.decided else []
    told: list[str | Table] = [
        f"Transaction {now.transaction_id} of organization {now.organization_id}: {', '.join(standing)}."
    ]
    if found.batches:
        rows = [(batch.audit_history_id, batch.status, _verdict(line), _why(line)) for batch, line in found.batches]
        told.append(Table(columns=("BATCH", "STATUS", "VERDICT", "WHY"), rows=rows))
    if not found.calls:
        told.append("No call about it is remembered (calls are kept 90 days).")
        return told
    told.append(f"{counted(len(found.calls), 'call')}:")
    told.append(_calls(found.calls))
    return told


_CALLS: Final = (
    "CALL", "BATCH", "SENT", "OUTCOME", "IN", "CACHED", "OUT", "USD", "MS", "MODEL", "REQUEST", "HOST", "RUN",
)  # fmt: skip
_CALLS_NARROW: Final = ("CALL", "SENT", "OUTCOME", "TOKENS", "USD", "MS", "BY WHOM")


def _calls(calls: Sequence[CallMade]) -> Table:
    rows = [
        (
            call.call_id, call.audit_history_id, call.dispatched_at, _call_outcome(call), call.usage.input_tokens,
            call.usage.cached_tokens, call.usage.output_tokens, call.cost, call.latency_ms,
            call.model_answered or call.model, call.request_id, call.host, call.run_id,
        )
        for call in calls
    ]  # fmt: skip
    narrow = [
        (
            call.call_id, _short_moment(call.dispatched_at), _call_outcome(call), _call_tokens(call),
            None if call.cost is None else short_money(call.cost), call.latency_ms, _by_whom(call),
        )
        for call in calls
    ]  # fmt: skip
    drawn = (Table(columns=_CALLS, rows=rows), Table(columns=_CALLS_NARROW, rows=narrow))
    return Table(columns=_CALLS, rows=rows, drawn=drawn)


def _call_outcome(call: CallMade) -> str:
    outcome = call.outcome or "under way"
    return f"{outcome}: {call.error_code}" if call.error_code else outcome


def _call_tokens(call: CallMade) -> int | None:
    used = (call.usage.input_tokens, call.usage.output_tokens)
    return None if used == (None, None) else sum(count or 0 for count in used)


def _by_whom(call: CallMade) -> tuple[str, ...]:
    parts = (
        call.model_answered or call.model,
        call.host and f"host {call.host}",
        f"run {call.run_id[:12]}",
        call.request_id,
    )
    return tuple(part for part in parts if part)


def about_prompt(prompt: PromptAgain) -> list[str]:
    """What is to be known of a prompt that was built again."""
    rules = {
        "snapshot": "by the rules that its batch is audited by",
        "current": "by the rules of its organization as they stand now",
    }[prompt.rules_from]
    told = [f"The prompt of transaction {prompt.transaction_id}, built again {rules}; the marker is another each time."]
    if prompt.call_id is None:
        return [*told, "No call about it is remembered to compare it with."]
    if prompt.same:
        return [*told, f"Call {prompt.call_id} was shown the same rules and the same transaction."]
    parts = (
        ("the rules", prompt.same_rules),
        ("the transaction", prompt.same_input),
        ("the instructions", prompt.same_prompt_version),
    )
    told += [sentence(capital(f"{name} changed since call {prompt.call_id}")) for name, same in parts if same is False]
    unknown = [name for name, same in parts if same is None]
    if unknown:
        told.append(
            f"Whether {' and '.join(unknown)} changed since call {prompt.call_id} is not known: it brought no answer."
        )
    return told
