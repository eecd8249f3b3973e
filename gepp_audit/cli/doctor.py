"""`gepp-audit doctor`: what is wrong with settings, database, provider and machine, and what to do. Changes nothing.

Also a monitoring plugin: exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and its first line says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.calling import result_as_called
from gepp_audit.cli.options import json_option
from gepp_audit.cli.render import Result, Styled, Table
from gepp_audit.errors import OperatorError
from gepp_audit.plain_text import printable

if TYPE_CHECKING:
    from gepp_audit.queue.doctor import Check, Report
    from gepp_audit.settings import Settings

_STYLES: Final = {"ok": "green", "warning": "yellow", "critical": "bold red", "unknown": "magenta"}


@click.command("doctor")
@click.option("--online", is_flag=True, help="Ask the provider too: is the key accepted, is the model there?")
@json_option
@click.pass_obj
def doctor(app: App, online: bool) -> Result:
    """Check settings, database, provider and machine, and say what is wrong and what mends it.

    Changes nothing. Run it as the user that the queue runs as, with the same env file. Without --online the provider is
    not asked; with it, for its list of models, which costs no tokens.

    \b
    Exit codes: 0 OK · 1 WARNING · 2 CRITICAL · 3 UNKNOWN (also: wrong usage, no database)
    """
    from gepp_audit.queue.doctor import Surroundings, examine

    around = Surroundings(_settings(app))
    try:
        report = examine(around, online=online)
    finally:
        around.close()
    result = Result(data=report.as_json(), text=_as_text(report), exit_code=report.status.exit_code)
    return result_as_called(result, env_file=app.env_file)


def _settings(app: App) -> Settings | OperatorError:
    """The settings, or what is wrong with them: that is a finding here, and no reason to look at nothing."""
    try:
        return app.load(to_file=False)
    except OperatorError as error:
        return error


def _as_text(report: Report) -> list[str | Table]:
    """A monitor reads the first line; a person what stands last, what is wrong and what mends it."""
    text: list[str | Table] = [_plugin_line(report)]
    if report.settings:
        text.append(Table(columns=("SETTING", "VALUE", "ORIGIN"), rows=report.settings))
    rows = [
        (check.name, Styled(check.status.value, _STYLES[check.status.value]), check.seen) for check in report.checks
    ]
    text.append(Table(columns=("CHECK", "STATUS", "SEEN"), rows=rows))
    for group in _alike(report.wrong):
        text.append(f"{group[0].status.value.upper()} {', '.join(check.name for check in group)}: {group[0].seen}")
        if group[0].fix:
            text.append(f"  → {group[0].fix}")
    return text


def _alike(wrong: tuple[Check, ...]) -> list[list[Check]]:
    """What cannot be looked at for a reason that another check names stands beside that one: a reason is told once."""
    groups: list[list[Check]] = []
    for check in sorted(wrong, key=lambda one: len(one.seen)):
        for group in groups:
            if check.fix == group[0].fix and check.seen.endswith(group[0].seen):
                group.append(check)
                break
        else:
            groups.append([check])
    places = {check.name: place for place, check in enumerate(wrong)}
    groups = [[group[0], *sorted(group[1:], key=lambda one: places[one.name])] for group in groups]
    return sorted(groups, key=lambda group: places[group[0].name])


def _plugin_line(report: Report) -> str:
    """`STATUS - text | perfdata`; the bar ends the text, so there is none in it."""
    wrong = ", ".join(check.name for check in report.wrong)
    text = (
        f"{len(report.wrong)} of {len(report.checks)} checks: {wrong}" if wrong else f"all {len(report.checks)} checks"
    )
    perfdata = " ".join(f"{status.value}={report.counts[status]}" for status in type(report.status))
    return f"{report.status.value.upper()} - {printable(text, one_line=True).replace('|', '/')} | {perfdata}"
