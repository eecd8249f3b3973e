"""What `show` and the web page tell: batches, the transactions of one, and one transaction with every call about it.

Reads only. `as_json` of each result is the contract of `show --json`. Whoever may see some organizations alone names
them: the batches and transactions of others do not exist then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit.database import batches, calls_made, history, verdicts
from gepp_audit.database.calls_made import CallMade, TransactionNow
from gepp_audit.database.engine import Database
from gepp_audit.database.history import BatchFilter, BatchLine, Spent, StoredBatch
from gepp_audit.database.platform import detect
from gepp_audit.database.verdicts import TransactionLine
from gepp_audit.errors import OperatorError
from gepp_audit.queue.known import require_organizations, require_statuses
from gepp_audit.queue.prompt_again import PromptAgain, rebuild

#: batches of one transaction that are told of
_BATCHES_OF_ONE: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class LineFilter:
    """Which transactions of a batch are wanted; what is empty is not asked for, the two narrow each other."""

    #: `verdict` of a line: approved, rejected, no_action, failed, skipped, waiting, calling
    verdicts: frozenset[str] = frozenset()
    #: it broke one of these rules, or one could not be told
    rules: frozenset[str] = frozenset()

    def __call__(self, line: TransactionLine) -> bool:
        """Whether the line is wanted."""
        if self.verdicts and line.verdict not in self.verdicts:
            return False
        return not self.rules or not self.rules.isdisjoint(line.concerned)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchList:
    """The newest batches."""

    batches: tuple[BatchLine, ...]
    #: there are older ones
    more: bool

    def as_json(self) -> dict[str, Any]:
        """`show --json`."""
        return {"batches": [batch_json(line) for line in self.batches], "has_more": self.more}


@dataclass(frozen=True, kw_only=True, slots=True)
class OneBatch:
    """One batch with some of its transactions."""

    batch: BatchLine
    transactions: tuple[TransactionLine, ...]
    #: there are further ones that are wanted
    more: bool
    #: not all of its transactions were asked for
    filtered: bool

    def as_json(self) -> dict[str, Any]:
        """`show BATCH --json`."""
        return batch_json(self.batch) | {
            "transactions": [transaction_json(line) for line in self.transactions],
            "has_more": self.more,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class OneTransaction:
    """One transaction: what became of it in each batch, and every call about it."""

    now: TransactionNow
    batches: tuple[tuple[BatchLine, TransactionLine], ...]
    calls: tuple[CallMade, ...]
    prompt: PromptAgain | None = None

    def as_json(self) -> dict[str, Any]:
        """`show --transaction ID --json`."""
        data = {
            "transaction_id": self.now.transaction_id,
            "organization_id": self.now.organization_id,
            "ai_audit_status": self.now.label,
            "status": self.now.status,
            "deleted": self.now.deleted,
            "decided_by_person": self.now.decided,
            "batches": [
                {"audit_history_id": batch.audit_history_id, "batch_status": batch.status} | transaction_json(line)
                for batch, line in self.batches
            ],
            "calls": [call_json(call) for call in self.calls],
        }
        return data | ({} if self.prompt is None else {"prompt": self.prompt.as_json()})


def list_batches(database: Database, most: int, wanted: BatchFilter | None = None) -> BatchList:
    """The newest batches, at most `most`. OperatorError: an organization or a status is wanted that there is not."""

    def read(connection: Connection) -> list[BatchLine]:
        if wanted is not None:
            require_organizations(connection, wanted.organizations)
            require_statuses(connection, wanted.statuses)
        return history.newest(connection, most + 1, wanted)

    found = database.read(read)
    return BatchList(batches=tuple(found[:most]), more=len(found) > most)


def history_page(
    database: Database, organization_id: int, *, page: int, size: int, status: str | None = None
) -> tuple[tuple[StoredBatch, ...], int]:
    """Page `page` (from 1) of the organization's batches, newest first, `size` a page; and how many there are in all.

    `status`: in this one alone; deleted ones only where theirs is asked for.
    """
    statuses = () if status is None else (status,)
    wanted = BatchFilter(organizations=(organization_id,), statuses=statuses, withdrawn=False)
    found, total = database.read(lambda connection: history.page(connection, (page - 1) * size, size, wanted))
    return tuple(found), total


def count_in_work(database: Database, organization_id: int) -> int:
    """How many batches of the organization runs have taken up and not ended."""
    return database.read(lambda connection: batches.count_open(connection, (organization_id,)))


def show_batch(
    database: Database,
    audit_history_id: int,
    most: int,
    *,
    after: int = 0,
    wanted: LineFilter | None = None,
    organizations: Sequence[int] = (),
) -> OneBatch:
    """The batch with at most `most` of its transactions, those behind the id `after`. OperatorError: no such batch.

    `organizations`: of one of these, or it does not exist.
    """
    filtered = wanted is not None and bool(wanted.verdicts or wanted.rules)

    def read(connection: Connection) -> tuple[BatchLine | None, list[TransactionLine]]:
        batch = history.one(connection, audit_history_id, organizations)
        if batch is None:
            return None, []
        return batch, verdicts.transactions_of(
            connection,
            detect(connection),
            audit_history_id,
            most + 1,
            after=after,
            wanted=wanted if filtered else None,
        )

    batch, lines = database.read(read)
    if batch is None:
        raise _no_batch(audit_history_id, organizations)
    return OneBatch(batch=batch, transactions=tuple(lines[:most]), more=len(lines) > most, filtered=filtered)


def show_transaction(
    database: Database,
    transaction_id: int,
    *,
    batch: int | None = None,
    organizations: Sequence[int] = (),
    prompt_fields: frozenset[str] | None = None,
) -> OneTransaction:
    """The transaction with its calls, in one batch or in all that the ledger remembers. OperatorError: no such one.

    `prompt_fields`: rebuild the prompt too, with these further fields (`GEPP_AUDIT_SEND_FIELDS`).
    """
    return database.read(
        lambda connection: _transaction(connection, transaction_id, batch, organizations, prompt_fields)
    )


def _transaction(
    connection: Connection,
    transaction_id: int,
    batch: int | None,
    organizations: Sequence[int],
    prompt_fields: frozenset[str] | None,
) -> OneTransaction:
    platform = detect(connection)
    now = calls_made.transaction_now(connection, platform, transaction_id)
    if now is None or (organizations and now.organization_id not in organizations):
        raise _no_transaction(transaction_id, organizations)
    organization = now.organization_id or 0
    if batch is None:
        ids = calls_made.batches_of(connection, transaction_id, organization)[:_BATCHES_OF_ONE]
    else:
        ids = [batch]
    found: list[tuple[BatchLine, TransactionLine]] = []
    for id_ in ids:
        line = history.one(connection, id_, (organization,))
        lines = verdicts.transactions_of(connection, platform, id_, 1, only=(transaction_id,)) if line else []
        if line is not None and lines:
            found.append((line, lines[0]))
    if batch is not None and not found:
        raise OperatorError(
            f"batch {batch} holds no transaction {transaction_id}.",
            fix=f'"gepp-audit show --transaction {transaction_id}" tells of it in every batch.',
            code="unknown_transaction",
            exit_code=2,
        )
    calls = tuple(calls_made.calls_for(connection, transaction_id, organization, batch=batch))
    prompt = None
    if prompt_fields is not None:
        asked_by = batch if batch is not None else next(iter(ids), None)
        prompt = rebuild(connection, platform, transaction_id, asked_by, calls, prompt_fields)
    return OneTransaction(now=now, batches=tuple(found), calls=calls, prompt=prompt)


def _no_batch(audit_history_id: int, organizations: Sequence[int]) -> OperatorError:
    return OperatorError(
        f"there is no batch {audit_history_id}{_of(organizations)}.",
        fix='"gepp-audit show" lists the newest ones.',
        code="unknown_batch",
        exit_code=2,
    )


def _no_transaction(transaction_id: int, organizations: Sequence[int]) -> OperatorError:
    return OperatorError(
        f"there is no transaction {transaction_id}{_of(organizations)}.",
        fix='"gepp-audit show BATCH" lists the transactions of a batch.',
        code="unknown_transaction",
        exit_code=2,
    )


def _of(organizations: Sequence[int]) -> str:
    if not organizations:
        return ""
    return f" of organization {' or '.join(str(id_) for id_ in organizations)}"


# -- JSON --------------------------------------------------------------------------------------------------------------


def batch_json(line: BatchLine) -> dict[str, Any]:
    """One batch; money and tokens are null where nothing that is left tells them."""
    return {
        "audit_history_id": line.audit_history_id,
        "organization_id": line.organization_id,
        "status": line.status,
        "started_at": line.started_at,
        "completed_at": line.completed_at,
        "total_transactions": line.total,
        "processed_transactions": line.processed,
        "approved_count": line.approved,
        "rejected_count": line.rejected,
        "undecided_count": line.undecided,
        "failed_count": line.failed,
        "skipped_count": line.skipped,
        "token_usage": _usage_json(line.spent),
        "cost_usd": None if line.spent is None else line.spent.price,
        "summary": line.summary or None,
        "error_message": line.error,
        "triggered_by_user_id": line.triggered_by,
        "deleted": line.deleted,
    }


def _usage_json(spent: Spent | None) -> dict[str, int] | None:
    if spent is None:
        return None
    return {
        "total_input_tokens": spent.input_tokens,
        "total_output_tokens": spent.output_tokens,
        "total_tokens": spent.total_tokens,
        "cached_input_tokens": spent.cached_tokens,
    }


def transaction_json(line: TransactionLine) -> dict[str, Any]:
    """One transaction of a batch."""
    paid = line.spent
    return {
        "transaction_id": line.transaction_id,
        "status": line.status,
        "verdict": line.verdict,
        "rules": dict(line.rules),
        "rejected_by": list(line.rejected_by),
        "warned_by": list(line.warned_by),
        "findings": list(line.findings),
        "skip_reason": line.skip_reason,
        "error_code": line.error_code,
        "error": line.error,
        "next_attempt_at": line.next_attempt_at,
        "settled_at": line.settled_at,
        "source": line.source,
        "calls": paid.calls,
        "input_tokens": paid.input_tokens if paid.calls else None,
        "output_tokens": paid.output_tokens if paid.calls else None,
        "cached_tokens": paid.cached_tokens if paid.calls else None,
        "cost_usd": paid.price if paid.calls else None,
    }


def call_json(call: CallMade) -> dict[str, Any]:
    """One call of the ledger."""
    usage = call.usage
    return {
        "call_id": call.call_id,
        "audit_history_id": call.audit_history_id,
        "run_id": call.run_id,
        "host": call.host,
        "model": call.model,
        "model_answered": call.model_answered,
        "tier": call.tier,
        "prompt_version": call.prompt_version,
        "rules_digest": call.rules_digest,
        "input_digest": call.input_digest,
        "dispatched_at": call.dispatched_at,
        "answered_at": call.answered_at,
        "outcome": call.outcome,
        "error_code": call.error_code,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_usd": call.cost,
        "latency_ms": call.latency_ms,
        "request_id": call.request_id,
        "verdict": call.verdict,
    }
