"""`gepp-audit limits show|set|clear`: how many calls, tokens and how much money may leave, of all or of one."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.figures import used_bar
from gepp_audit.cli.options import COUNT, ID, TOKENS, json_option
from gepp_audit.cli.render import Result, Table
from gepp_audit.plain_text import moment

if TYPE_CHECKING:
    from gepp_audit.queue.control import ScopeReport

    _DecimalType = click.ParamType[Decimal]
else:  # older versions of click have no generic one
    _DecimalType = click.ParamType

#: what each limit is called in the table
_NAMES: Final = {
    "calls_per_minute": "calls in a minute",
    "tokens_per_minute": "tokens in a minute",
    "concurrency": "calls under way",
    "tokens_per_day": "tokens today",
    "cost_per_day": "USD today",
}


class Money(_DecimalType):
    """An exact amount of USD above 0."""

    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """The amount; a `$` before it is allowed."""
        try:
            amount = Decimal(str(value).strip().removeprefix("$"))
        except InvalidOperation:
            self.fail(f"{value!r} is no amount of money such as 12.50.", param, ctx)
        if not amount.is_finite() or amount <= 0:
            self.fail(f"{value!r} is not above 0.", param, ctx)
        return amount


@click.group("limits")
def limits() -> None:
    """Show, set and clear limits, for all organizations together or for one.

    Calls and tokens of a minute count in any 60 seconds over all hosts, a day is a UTC day. Tokens and money are
    reserved before a call leaves, by what it may take at most, and corrected by its answer.
    """


def _scope_options(command: Any) -> Any:
    command = click.option(
        "--organization", "organization", type=ID, metavar="ID", help="The limits of this organization."
    )(command)
    return click.option("--global", "everybody", is_flag=True, help="The limits of all organizations together.")(
        command
    )


def _scope(everybody: bool, organization: int | None) -> int | None:
    if everybody == (organization is not None):
        raise click.UsageError("Give either --global or --organization ID.")
    return organization


@limits.command("show")
@json_option
@click.pass_obj
def show(app: App) -> Result:
    """Show the limits and how much of them is used now."""
    from gepp_audit.queue.control import show_limits

    database = app.open_database()
    try:
        reports = show_limits(database)
    finally:
        database.close()
    notes = _unpriced(app, reports)
    data = {"limits": [one.as_json() for one in reports], "notes": notes}
    return Result(data=data, text=[*_say(reports), *notes])


@limits.command("set")
@_scope_options
@click.option("--calls-per-minute", type=COUNT, metavar="N", help="Calls that leave in any 60 seconds.")
@click.option("--tokens-per-minute", type=TOKENS, metavar="N", help="Tokens of these calls, input and output.")
@click.option("--concurrency", type=COUNT, metavar="N", help="Calls under way at the same time, over all hosts.")
@click.option("--tokens-per-day", type=TOKENS, metavar="N", help="Tokens of a UTC day.")
@click.option("--cost-per-day", type=Money(), metavar="USD", help="Money of a UTC day.")
@json_option
@click.pass_obj
def set_(
    app: App,
    everybody: bool,
    organization: int | None,
    calls_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrency: int | None,
    tokens_per_day: int | None,
    cost_per_day: Decimal | None,
) -> Result:
    """Set limits; those that are not named stay as they are. They hold from the next call on, on all hosts."""
    from gepp_audit.queue.control import set_limits

    scope = _scope(everybody, organization)
    changes = {
        "calls_per_minute": calls_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrency": concurrency,
        "tokens_per_day": tokens_per_day,
        "cost_per_day": cost_per_day,
    }
    database = app.open_database()
    try:
        report = set_limits(database, scope, changes)
    finally:
        database.close()
    return Result(data=report.as_json(), text=[*_say([report]), *_unpriced(app, [report])])


@limits.command("clear")
@_scope_options
@click.option("--calls-per-minute", is_flag=True, help="This one alone; several may be named.")
@click.option("--tokens-per-minute", is_flag=True, help="This one alone.")
@click.option("--concurrency", is_flag=True, help="This one alone.")
@click.option("--tokens-per-day", is_flag=True, help="This one alone.")
@click.option("--cost-per-day", is_flag=True, help="This one alone.")
@json_option
@click.pass_obj
def clear(
    app: App,
    everybody: bool,
    organization: int | None,
    calls_per_minute: bool,
    tokens_per_minute: bool,
    concurrency: bool,
    tokens_per_day: bool,
    cost_per_day: bool,
) -> Result:
    """Take limits of all organizations together, or of one, away: those that are named, or every one."""
    from gepp_audit.queue.control import clear_limits
    from gepp_audit.queue.wording import scope_in_words

    scope = _scope(everybody, organization)
    named = (calls_per_minute, tokens_per_minute, concurrency, tokens_per_day, cost_per_day)
    names = [name for name, meant in zip(_NAMES, named, strict=True) if meant]
    database = app.open_database()
    try:
        report = clear_limits(database, scope, names) if names else clear_limits(database, scope)
    finally:
        database.close()
    if report.caps:
        return Result(data=report.as_json(), text=_say([report]))
    return Result(data=report.as_json(), text=(f"No limit holds for {scope_in_words(scope)} any more.",))


def _unpriced(app: App, reports: list[ScopeReport]) -> list[str]:
    from gepp_audit.queue.configured import price_of
    from gepp_audit.queue.control import unpriced_note

    note = unpriced_note(reports, app.settings.model, price_of(app.settings))
    return [] if note is None else [note]


def _say(reports: list[ScopeReport]) -> list[str | Table]:
    told: list[str | Table] = []
    rows = [row for report in reports for row in _rows(report)]
    if any(report.caps or report.in_force for report in reports):
        told.append(Table(columns=("SCOPE", "LIMIT", "USED NOW", "AT MOST", "USE"), rows=rows))
    else:
        told.append('There is no limit. "gepp-audit limits set --help" tells which there may be.')
        told += [Table(columns=("SCOPE", "WHAT", "USED NOW"), rows=[row[:3] for row in rows])] if rows else []
    told += [line for report in reports for line in _states(report)]
    return told


def _rows(report: ScopeReport) -> Iterator[tuple[Any, ...]]:
    scope = "global" if report.organization_id is None else f"organization {report.organization_id}"
    for name, words in _NAMES.items():
        most, used = getattr(report.in_force, name), report.used[name]
        if most is None and report.organization_id is not None:
            continue
        shown = f"{used:,.4f}" if isinstance(used, Decimal) else f"{used:,}"
        limit = None if most is None else f"{most:,}"
        if most is not None and most != getattr(report.caps, name):
            limit = f"{limit} (the provider's own)"
        yield scope, words, shown, limit, None if most is None else used_bar(used, most)


def _states(report: ScopeReport) -> Iterator[str]:
    from gepp_audit.queue.wording import capital, scope_in_words

    who = capital(scope_in_words(report.organization_id))
    own = "" if report.organization_id is None else f" --organization {report.organization_id}"
    if report.paused_at is not None:
        why = f" ({report.paused_reason})" if report.paused_reason else ""
        yield f'{who}: paused since {moment(report.paused_at)}{why}; "gepp-audit resume{own}" ends it.'
    if report.throttled_until is not None:
        yield f"{who}: the provider asked to wait until {moment(report.throttled_until)}."
    if report.blocked_reason is not None:
        yield f'{who}: the provider refuses every call ({report.blocked_reason}); "gepp-audit stuck" tells more.'
