"""`gepp-audit show`: the newest batches, or one of them with its verdicts and reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.options import COUNT, ID, json_option
from gepp_audit.cli.render import Result, Table
from gepp_audit.errors import OperatorError

if TYPE_CHECKING:
    from gepp_audit.database.history import BatchLine, TransactionLine


@click.command("show")
@click.argument("batch", type=ID, required=False)
@click.option("-n", "most", type=COUNT, metavar="N", default=20, show_default=True, help="Show at most N lines.")
@json_option
@click.pass_obj
def show(app: App, batch: int | None, most: int) -> Result:
    """Show the newest batches, or BATCH with what was said of its transactions."""
    from gepp_audit.database import history

    database = app.open_database()
    try:
        if batch is None:
            lines = database.read(lambda connection: history.newest(connection, most))
            return Result(data={"batches": [_batch_json(line) for line in lines]}, text=_batches(lines))
        found = database.read(lambda connection: history.one(connection, batch))
        if found is None:
            raise OperatorError(
                f"there is no batch {batch}.",
                fix='"gepp-audit show" lists the newest ones.',
                code="unknown_batch",
                exit_code=2,
            )
        transactions = database.read(lambda connection: history.transactions_of(connection, batch, most))
    finally:
        database.close()
    data = _batch_json(found) | {"transactions": [_transaction_json(line) for line in transactions]}
    return Result(data=data, text=_one_batch(found, transactions))


def _batches(lines: list[BatchLine]) -> tuple[str | Table, ...]:
    if not lines:
        return ("There is no batch yet.",)
    columns = (
        "BATCH",
        "ORGANIZATION",
        "STATUS",
        "STARTED",
        "DONE",
        "APPROVED",
        "REJECTED",
        "UNDECIDED",
        "FAILED",
        "TOKENS",
        "USD",
    )
    return (Table(columns=columns, rows=[_batch_row(line) for line in lines]),)


def _batch_row(line: BatchLine) -> tuple[Any, ...]:
    summary = line.summary
    return (
        line.audit_history_id,
        line.organization_id,
        line.status,
        line.started_at,
        f"{line.processed}/{line.total}",
        line.approved,
        line.rejected,
        summary.get("undecided_count"),
        summary.get("failed_count"),
        (summary.get("token_usage") or {}).get("total_tokens"),
        summary.get("cost_usd"),
    )


def _one_batch(found: BatchLine, lines: Any) -> tuple[str | Table, ...]:
    head = f"Batch {found.audit_history_id} of organization {found.organization_id}: {found.status}, "
    head += f"{found.processed} of {found.total} transactions done."
    told: list[str | Table] = [head]
    if found.error:
        told.append(found.error)
    rows = [
        (line.transaction_id, line.status, ", ".join(_rules(line)) or None, _why(line), _tokens(line)) for line in lines
    ]
    if rows:
        told.append(Table(columns=("TRANSACTION", "VERDICT", "RULES", "WHY", "TOKENS"), rows=rows))
    if len(rows) < found.total:
        told.append(f"{len(rows)} of {found.total} shown; -n shows more.")
    return tuple(told)


def _rules(line: TransactionLine) -> list[str]:
    return [*(line.note.get("rejected_by") or ()), *(line.note.get("warned_by") or ())]


def _why(line: TransactionLine) -> str | None:
    findings = line.note.get("findings") or []
    reasons = [str(finding.get("reason", "")) for finding in findings if isinstance(finding, dict)]
    return " · ".join(reasons) or line.note.get("error")


def _tokens(line: TransactionLine) -> int | None:
    if line.input_tokens is None and line.output_tokens is None:
        return None
    return (line.input_tokens or 0) + (line.output_tokens or 0)


def _batch_json(line: BatchLine) -> dict[str, Any]:
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
        "summary": line.summary or None,
        "error_message": line.error,
    }


def _transaction_json(line: TransactionLine) -> dict[str, Any]:
    return {
        "transaction_id": line.transaction_id,
        "status": line.status,
        "rejected_by": list(line.note.get("rejected_by") or ()),
        "warned_by": list(line.note.get("warned_by") or ()),
        "findings": list(line.note.get("findings") or ()),
        "error": line.note.get("error"),
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
    }
