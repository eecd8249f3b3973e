"""`gepp-audit pause` and `gepp-audit resume`: let no call leave, of all organizations or of one, and let them go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.options import ID, json_option
from gepp_audit.cli.render import Result
from gepp_audit.plain_text import moment

if TYPE_CHECKING:
    from gepp_audit.queue.control import Paused

#: a reason is one line on a screen
_LONGEST_REASON = 500


@click.command("pause")
@click.option("--organization", type=ID, metavar="ID", help="Only this one; default: all.")
@click.option("--reason", metavar="TEXT", help="Why; shown by stuck and limits show.")
@json_option
@click.pass_obj
def pause(app: App, organization: int | None, reason: str | None) -> Result:
    """Let no further call leave, on any host. Calls under way finish, and what is queued stays queued."""
    from gepp_audit.queue import control

    if reason is not None and len(reason.strip()) > _LONGEST_REASON:
        raise click.UsageError(f"--reason may have {_LONGEST_REASON} characters.")
    database = app.open_database()
    try:
        done = control.pause(database, organization, reason)
    finally:
        database.close()
    return Result(data=done.as_json(), text=_say_paused(done))


@click.command("resume")
@click.option("--organization", type=ID, metavar="ID", help="Only this one; default: all.")
@click.option("--reason", metavar="TEXT", help="Why; stands in the log.")
@json_option
@click.pass_obj
def resume(app: App, organization: int | None, reason: str | None) -> Result:
    """Let calls leave again, from the next run on."""
    from gepp_audit import logs
    from gepp_audit.queue import control

    database = app.open_database()
    try:
        done = control.resume(database, organization)
    finally:
        database.close()
    if reason is not None:
        logs.info("resume_reason", reason=" ".join(reason.split())[:_LONGEST_REASON])
    return Result(data=done.as_json(), text=_say_resumed(done))


def _say_paused(done: Paused) -> list[str]:
    from gepp_audit.queue.wording import counted

    whole = done.organization_id is None
    what = "The queue is" if whole else f"Organization {done.organization_id} is"
    since = "" if done.paused_at is None else f" since {moment(done.paused_at)}"
    why = f" ({done.reason})" if done.reason else ""
    told = [f"{what} paused{since}{why}: no further call leaves."]
    if done.under_way:
        told.append(f"{counted(done.under_way, 'call')} under way will finish.")
    told.append(f'"gepp-audit resume{"" if whole else f" --organization {done.organization_id}"}" lets it go on.')
    return told


def _say_resumed(done: Paused) -> list[str]:
    from gepp_audit.queue.wording import listed

    whole = done.organization_id is None
    what = "The queue" if whole else f"Organization {done.organization_id}"
    told = [f"{what} goes on with the next run." if done.was_paused else f"{what} was not paused."]
    if done.all_paused:
        told.append('But the whole queue is paused: run "gepp-audit resume" too.')
    if done.still_paused:
        many = len(done.still_paused) > 1
        told.append(
            f"Organization{'s' if many else ''} {listed(done.still_paused)} {'stay' if many else 'stays'} paused: "
            'run "gepp-audit resume --organization ID" too.'
        )
    return told
