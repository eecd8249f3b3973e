"""`gepp-audit enqueue`: put transactions into the queue, as the platform's button does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.options import COUNT, ID, json_option
from gepp_audit.cli.render import Result

if TYPE_CHECKING:
    from gepp_audit.queue.enqueue import Enqueued


@click.command("enqueue")
@click.option("--organization", type=ID, metavar="ID", required=True, help="Whose transactions.")
@click.option("--transaction", "transactions", type=ID, metavar="ID", multiple=True, help="This one; may be repeated.")
@click.option("--transactions-from", metavar="FILE|-", help="Ids, one a line or separated by commas; - is stdin.")
@click.option("--max-transactions", type=COUNT, metavar="N", help="At most so many, oldest first.")
@click.option("--batch-size", type=COUNT, metavar="N", help="Several batches of at most N transactions.")
@click.option("--triggered-by", type=ID, metavar="ID", help="The platform's user who asked for it.")
@click.option(
    "--force",
    is_flag=True,
    help="Ask again what failed before and was not changed since; “gepp-audit retry” finds it by itself.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be queued; change nothing.")
@json_option
@click.pass_obj
def enqueue(
    app: App,
    organization: int,
    transactions: tuple[int, ...],
    transactions_from: str | None,
    max_transactions: int | None,
    batch_size: int | None,
    triggered_by: int | None,
    force: bool,
    dry_run: bool,
) -> Result:
    """Queue an organization's transactions for an audit.

    Without ids, whatever waits for nobody (ai_audit_status `null`) is queued. Ids that cannot be queued are named, and
    then nothing is queued.
    """
    from gepp_audit.queue.enqueue import EnqueueRequest
    from gepp_audit.queue.enqueue import enqueue as put_into_queue

    ids = transactions + (_read_ids(transactions_from) if transactions_from is not None else ())
    named = bool(transactions) or transactions_from is not None
    if named and not ids:
        raise click.UsageError(f"{transactions_from} holds no id.")
    request = EnqueueRequest(
        organization_id=organization,
        transaction_ids=ids if named else None,
        max_transactions=max_transactions,
        batch_size=batch_size,
        triggered_by=triggered_by,
        force=force,
        dry_run=dry_run,
        batch_statuses=app.settings.batch_statuses,
    )
    database = app.open_database()
    try:
        done = put_into_queue(database, request)
    finally:
        database.close()
    return Result(data=done.as_json() | ({"dry_run": True} if dry_run else {}), text=(_say(done),))


def _say(done: Enqueued) -> str:
    count = len(done.transaction_ids)
    if not count:
        return f"Nothing to queue: organization {done.organization_id} has no transaction that waits for an audit."
    what = f"{count} transaction{'s' if count > 1 else ''} of organization {done.organization_id}"
    if done.dry_run:
        return f"Would queue {what}."
    batches = ", ".join(str(id_) for id_ in done.audit_history_ids)
    return f"Queued {what} in batch{'es' if len(done.audit_history_ids) > 1 else ''} {batches}."


def _read_ids(source: str) -> tuple[int, ...]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise click.UsageError(f"cannot read the ids from {source}: {why}.") from error
    ids: list[int] = []
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].replace(",", " ").split():
            if word.isascii() and word.isdigit() and 0 < int(word) < 2**63:
                ids.append(int(word))
            else:
                wrong.append(f"line {number}: {word[:40]!r}")
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise click.UsageError(f"{source} holds what is no id: {', '.join(wrong[:10])}{more}.")
    return tuple(ids)
