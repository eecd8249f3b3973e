"""`gepp-audit retry`: ask again what failed, what was left to a person, or what a rule decided; and free orphans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.confirming import confirm, require_answer
from gepp_audit.cli.options import COUNT, ID, json_option, organizations_option
from gepp_audit.cli.render import Result, Table

if TYPE_CHECKING:
    from gepp_audit.database.engine import Database
    from gepp_audit.queue.retrying import Freed, Plan, Retried, RetryRequest


@click.command("retry")
@click.argument("batch", type=ID, required=False)
@click.option("--transaction", "transactions", type=ID, metavar="ID", multiple=True, help="This one; may be repeated.")
@organizations_option
@click.option("--failed", is_flag=True, help="What could not be audited.")
@click.option("--undecided", is_flag=True, help="What an audit left to a person (no_action).")
@click.option("--rule", "rules", metavar="ID", multiple=True, help="What this rule rejected or could not tell.")
@click.option("--max-transactions", type=COUNT, metavar="N", help="At most so many.")
@click.option("--batch-size", type=COUNT, metavar="N", help="Several batches of at most N transactions.")
@click.option("--triggered-by", type=ID, metavar="ID", help="The platform's user who asked for it.")
@click.option("--orphans", is_flag=True, help="Free what is queued in no open batch: it can be queued again then.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would be asked again; change nothing.")
@json_option
@click.pass_obj
def retry(
    app: App,
    batch: int | None,
    transactions: tuple[int, ...],
    organizations: tuple[int, ...],
    failed: bool,
    undecided: bool,
    rules: tuple[str, ...],
    max_transactions: int | None,
    batch_size: int | None,
    triggered_by: int | None,
    orphans: bool,
    yes: bool,
    dry_run: bool,
) -> Result:
    """Ask again, in a new batch per organization.

    \b
    gepp-audit retry 12              what failed in batch 12
    gepp-audit retry --failed        whatever failed, of any batch
    gepp-audit retry 12 --undecided --rule DC-02
    gepp-audit retry --orphans       frees what no batch holds any more

    Every filter narrows the others: the third line means what is undecided in batch 12 because of DC-02. Alternatives
    add up: --failed and --undecided, or an option that is given twice. What people decided is left alone, and so is a
    transaction's own status: an audit changes it only while it is pending.
    """
    from gepp_audit.queue.retrying import RetryRequest

    kinds = failed or undecided or bool(rules)
    if orphans:
        if batch is not None or transactions or kinds or max_transactions or batch_size or triggered_by:
            raise click.UsageError("--orphans goes with --organization, --yes and --dry-run alone.")
    elif batch is None and not transactions and not kinds:
        raise click.UsageError("say what: a BATCH, --transaction, --failed, --undecided, --rule or --orphans.")
    request = RetryRequest(
        batch=batch,
        transaction_ids=transactions,
        organizations=organizations,
        failed=failed,
        undecided=undecided,
        rules=tuple(dict.fromkeys(rules)),
        max_transactions=max_transactions,
        batch_size=batch_size,
        triggered_by=triggered_by,
    )
    database = app.open_database()
    try:
        if orphans:
            return _orphans(database, app.settings.batch_statuses, organizations, yes=yes, dry_run=dry_run)
        return _again(database, request, yes=yes, dry_run=dry_run)
    finally:
        database.close()


def _again(database: Database, request: RetryRequest, *, yes: bool, dry_run: bool) -> Result:
    from gepp_audit.queue import retrying

    planned = retrying.plan(database, request)
    if dry_run:
        done = retrying.as_dry_run(planned, request)
    else:
        if planned.count:
            require_answer("retry", yes)
            confirm(_question(planned), yes)
        done = retrying.retry(database, request, planned)
    return Result(data=done.as_json(), text=_say(done))


def _question(planned: Plan) -> str:
    from gepp_audit.queue.wording import counted

    organizations = counted(len(planned.chosen), "organization")
    return f"Ask {counted(planned.count, 'transaction')} of {organizations} again? Each is at least one paid call."


def _say(done: Retried) -> list[str | Table]:
    from gepp_audit.queue.wording import counted

    told: list[str | Table] = []
    if not done.count:
        told.append("There is nothing to ask again.")
    for batch in done.batches:
        what = f"{counted(len(batch.transaction_ids), 'transaction')} of organization {batch.organization_id}"
        told.append(
            f"Would ask {what} again." if done.dry_run else f"Queued {what} again in batch {batch.audit_history_id}."
        )
    if done.left_out_count:
        told.append(f"{counted(done.left_out_count, 'transaction')} left alone:")
        told.append(
            Table(columns=("TRANSACTION", "WHY"), rows=[(one.transaction_id, one.why) for one in done.left_out])
        )
        if done.left_out_count > len(done.left_out):
            told.append(f"and {done.left_out_count - len(done.left_out)} more.")
    return told


def _orphans(
    database: Database, statuses: tuple[str, ...], organizations: tuple[int, ...], *, yes: bool, dry_run: bool
) -> Result:
    from gepp_audit.queue import retrying
    from gepp_audit.queue.wording import counted

    found = retrying.find_orphans(database, statuses, organizations)
    if dry_run or not found:
        done = retrying.Freed(transaction_ids=found, dry_run=dry_run)
    else:
        require_answer("retry", yes)
        confirm(f"Free {counted(len(found), 'transaction')} that {'is' if len(found) == 1 else 'are'} queued in no "
                "open batch?", yes)  # fmt: skip
        done = retrying.free_orphans(database, found, statuses, organizations)
    return Result(data=done.as_json(), text=(_say_freed(done),))


def _say_freed(done: Freed) -> str:
    from gepp_audit.queue.wording import counted, listed

    ids = done.transaction_ids
    if not ids:
        return "No transaction is queued without an open batch."
    what = f"{counted(len(ids), 'transaction')} that no open batch holds: {listed(ids)}."
    if done.dry_run:
        return f"Would free {what}"
    return f'Freed {what} "gepp-audit enqueue" queues {"it" if len(ids) == 1 else "them"} again.'
