"""`gepp-audit show`: the newest batches, one of them with its verdicts, or one transaction with every call about it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from gepp_audit.cli.app import READING_PATIENCE, App
from gepp_audit.cli.moments import MOMENT
from gepp_audit.cli.options import COUNT, ID, json_option, organizations_option
from gepp_audit.cli.render import Result, error_text

if TYPE_CHECKING:
    from gepp_audit.database.engine import Database
    from gepp_audit.queue.showing import OneTransaction

_VERDICTS = ("approved", "rejected", "no_action", "undecided", "failed", "skipped", "waiting", "calling")


@click.command("show")
@click.argument("batch", type=ID, required=False)
@click.option("--transaction", type=ID, metavar="ID", help="This one, with every call about it.")
@click.option("--prompt", is_flag=True, help="With --transaction: what the model was shown.")
@organizations_option
@click.option("--status", "statuses", metavar="STATUS", multiple=True, help="Batches of this status; may be repeated.")
@click.option("--since", type=MOMENT, metavar="TIME", help="Batches since then: 2026-01-31, today, 12h, 7d.")
@click.option(
    "--verdict",
    "verdicts",
    type=click.Choice(_VERDICTS),
    metavar="VERDICT",
    multiple=True,
    help=f"In a batch, what became of a transaction: {', '.join(_VERDICTS)}; may be repeated.",
)
@click.option("--failed", is_flag=True, help="In a batch: the same as --verdict failed.")
@click.option(
    "--rule", "rules", metavar="ID", multiple=True, help="In a batch: what broke this rule or left it untold."
)
@click.option("-n", "most", type=COUNT, metavar="N", default=20, show_default=True, help="Show at most N lines.")
@click.option("--after", type=ID, metavar="ID", help="Go on behind this one, the last that was shown.")
@json_option
@click.pass_obj
def show(
    app: App,
    batch: int | None,
    transaction: int | None,
    prompt: bool,
    organizations: tuple[int, ...],
    statuses: tuple[str, ...],
    since: datetime | None,
    verdicts: tuple[str, ...],
    failed: bool,
    rules: tuple[str, ...],
    most: int,
    after: int | None,
) -> Result:
    """Show the newest batches, or BATCH with what was said of its transactions.

    Filters narrow each other. A batch that was deleted, and neither cancelled nor undone, is not listed; as BATCH any
    can be shown.
    """
    of_list, of_batch = bool(statuses or since), bool(verdicts or failed or rules)
    if transaction is not None and (of_list or of_batch or after is not None):
        raise click.UsageError("--transaction goes with BATCH, --organization, --prompt and --json alone.")
    if prompt and transaction is None:
        raise click.UsageError("--prompt needs --transaction ID.")
    if batch is not None and of_list:
        raise click.UsageError("--status and --since choose batches: leave them out, or leave out BATCH.")
    if batch is None and of_batch:
        raise click.UsageError("--verdict, --failed and --rule choose transactions of a batch: give BATCH.")
    database = app.open_database(patience=READING_PATIENCE)
    try:
        if transaction is not None:
            fields = app.settings.send_fields if prompt else None
            return _transaction(database, transaction, batch, organizations, fields)
        if batch is None:
            return _list(database, organizations, statuses, since, most, after)
        wanted = {"no_action" if verdict == "undecided" else verdict for verdict in verdicts}
        wanted |= {"failed"} if failed else set()
        return _batch(database, batch, organizations, frozenset(wanted), frozenset(rules), most, after or 0)
    finally:
        database.close()


def _list(
    database: Database,
    organizations: tuple[int, ...],
    statuses: tuple[str, ...],
    since: datetime | None,
    most: int,
    before: int | None,
) -> Result:
    from gepp_audit.cli import show_text
    from gepp_audit.database.history import BatchFilter
    from gepp_audit.queue.showing import list_batches

    wanted = BatchFilter(organizations=organizations, statuses=statuses, since=since, before=before)
    found = list_batches(database, most, wanted)
    return Result(data=found.as_json(), text=show_text.batches(found, wanted))


def _batch(
    database: Database,
    batch: int,
    organizations: tuple[int, ...],
    verdicts: frozenset[str],
    rules: frozenset[str],
    most: int,
    after: int,
) -> Result:
    from gepp_audit.cli import show_text
    from gepp_audit.queue.known import require_rules
    from gepp_audit.queue.showing import LineFilter, show_batch

    wanted = LineFilter(verdicts=verdicts, rules=rules)
    found = show_batch(database, batch, most, after=after, wanted=wanted, organizations=organizations)

    def told(rule: str) -> bool:
        named = LineFilter(rules=frozenset({rule}))
        return bool(show_batch(database, batch, 1, wanted=named, organizations=organizations).transactions)

    database.read(lambda connection: require_rules(connection, sorted(rules), told))
    return Result(data=found.as_json(), text=show_text.one_batch(found, after))


def _transaction(
    database: Database,
    transaction: int,
    batch: int | None,
    organizations: tuple[int, ...],
    prompt_fields: frozenset[str] | None,
) -> Result:
    from gepp_audit.cli import show_text
    from gepp_audit.queue.showing import show_transaction

    found = show_transaction(
        database, transaction, batch=batch, organizations=organizations, prompt_fields=prompt_fields
    )
    if found.prompt is not None:
        return _prompt(found)
    return Result(data=found.as_json(), text=show_text.one_transaction(found))


def _prompt(found: OneTransaction) -> Result:
    """The prompt alone on stdout, so that it can be piped; what is to be known of it on stderr."""
    from gepp_audit.cli import show_text

    assert found.prompt is not None
    for line in show_text.about_prompt(found.prompt):
        error_text(line)
    return Result(data=found.as_json(), text=(found.prompt.prefix.rstrip("\n"), "", found.prompt.suffix.rstrip("\n")))
