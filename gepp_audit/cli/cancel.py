"""`gepp-audit cancel`: end an open batch as the platform's own button does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.confirming import confirm, require_answer
from gepp_audit.cli.options import ID, json_option
from gepp_audit.cli.render import Result

if TYPE_CHECKING:
    from gepp_audit.database.cancelling import Standing
    from gepp_audit.queue.cancelling import Cancelled


@click.command("cancel")
@click.argument("batch", type=ID)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def cancel(app: App, batch: int, yes: bool) -> Result:
    """Cancel the open BATCH: what is still queued in it can be queued again, existing verdicts stay.

    \b
    Exit codes: 0 done · 1 could not work · 2 no such batch, or it has ended
    """
    from gepp_audit.queue import cancelling

    statuses = app.settings.batch_statuses
    database = app.open_database()
    try:
        stood = cancelling.look(database, batch, statuses)
        require_answer("cancel", yes)
        confirm(_question(stood), yes)
        done = cancelling.cancel(database, batch, statuses)
    finally:
        database.close()
    return Result(data=done.as_json(), text=_say(done))


def _question(stood: Standing) -> str:
    from gepp_audit.queue.wording import counted

    said = f"Cancel batch {stood.audit_history_id} of organization {stood.organization_id}? "
    said += f"{counted(stood.queued, 'queued transaction')} of {stood.total} can be queued again then."
    if stood.calling:
        said += f" {counted(stood.calling, 'call')} under way will have been paid for nothing."
    return said


def _say(done: Cancelled) -> list[str]:
    from gepp_audit.queue.wording import counted

    back = counted(done.reverted, "transaction")
    told = [f"Batch {done.audit_history_id} was cancelled: {back} can be queued again."]
    if done.kept:
        told.append(f"{counted(done.kept, 'transaction')} had an outcome already and keep it.")
    lost = done.calling + done.dropped
    if lost:
        told.append(f"{counted(lost, 'paid answer')} came too late or will: “gepp-audit usage” counts them.")
    return told
