"""The pages' routes: read what is asked for, call the queue, give it to a template. Each is for the visitor's own
organization. GET changes nothing; what changes something is a form of ours that is answered with the way to a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import HTMLResponse

from gepp_audit.queue import showing, subject
from gepp_audit.queue import usage as queue_usage
from gepp_audit.web import actions
from gepp_audit.web.failures import Failure, Refusal
from gepp_audit.web.pages import rendering, session, transaction_views, usage, views
from gepp_audit.web.pages.errors import error_page
from gepp_audit.web.pages.filters import STATUSES, VERDICTS, LineFilters, ListFilters
from gepp_audit.web.pages.session import HOME, Member, OwnForm, SignedIn
from gepp_audit.web.pages.words import Words

__all__ = ["error_page", "router"]

router = APIRouter(include_in_schema=False)

_BATCHES: Final = 20
_LINES: Final = 25
#: what a form's answer may say on the page that follows, beside the number of a batch
_NOTICES: Final = frozenset({"started", "nothing", "retried", "no_retry", "cancelled", "signed_out"})

BatchId = Annotated[int, Path(ge=1, le=2**31 - 1)]
TransactionId = Annotated[int, Path(ge=1, le=2**63 - 1)]


# -- reading -----------------------------------------------------------------------------------------------------------


@router.get("/")
def start_here() -> Response:
    """The list."""
    return rendering.elsewhere(HOME)


@router.get(HOME)
def audit_history(request: Request, member: SignedIn) -> Response:
    """The batches; `part=live`: the rows alone."""
    filters = ListFilters.read(request.query_params)
    database = member.state.database
    context = subject.context(database, member.organization)
    found = showing.list_batches(database, _BATCHES, filters.wanted(member.organization))
    batches = [views.batch_view(line, context.moment) for line in found.batches]
    template = "_live_rows.html" if _part(request, "live") else "list.html"
    return _page(
        request,
        member,
        template,
        context,
        batches=batches,
        more=found.more,
        filters=filters,
        statuses=STATUSES,
        open=any(view.open for view in batches),
    )


@router.get("/history/usage")
def tokens_over_time(request: Request, member: SignedIn) -> Response:
    """Tokens by day; `part=chart`: the chart alone."""
    database = member.state.database
    context = subject.context(database, member.organization)
    report = queue_usage.usage(database, organizations=(member.organization,), until=context.moment.date())
    shown = usage.shown(report)
    alone = _part(request, "chart")
    values = {name: getattr(shown, name) for name in ("days", "rows", "charts", "most", "total", "audited", "cost")}
    return _page(request, member, "_chart.html" if alone else "usage.html", context, link=alone, **values)


@router.get("/history/{batch}")
def one_batch(request: Request, member: SignedIn, batch: BatchId) -> Response:
    """A batch with its transactions; `part=live`: what changes while it runs."""
    filters = LineFilters.read(request.query_params)
    database, organization = member.state.database, member.organization
    context = subject.context(database, organization)
    found = showing.show_batch(
        database, batch, _LINES, after=filters.after or 0, wanted=filters.wanted, organizations=(organization,)
    )
    rules = subject.rules_of(database, organization, (batch,))
    quoted = [line.transaction_id for line in found.transactions if line.findings]
    subjects = subject.subjects(database, quoted, organization, member.state.settings.send_fields)
    return _page(
        request,
        member,
        "_live_batch.html" if _part(request, "live") else "batch.html",
        context,
        view=views.batch_view(found.batch, context.moment),
        lines=[views.line_view(line, rules, subjects.get(line.transaction_id)) for line in found.transactions],
        more=found.more,
        filters=filters,
        verdicts=VERDICTS,
        # one that is gone by now may still be asked for
        rules={rule_id: rule.name for rule_id, rule in rules.items()} | _asked_for(filters, rules),
    )


@router.get("/history/{batch}/transactions/{transaction}")
def one_transaction(request: Request, member: SignedIn, batch: BatchId, transaction: TransactionId) -> Response:
    """One transaction of a batch: what was said of it, next to what that quotes."""
    database, organization = member.state.database, member.organization
    context = subject.context(database, organization)
    found = showing.show_transaction(database, transaction, batch=batch, organizations=(organization,))
    rules = subject.rules_of(database, organization, (batch,))
    about = subject.subjects(database, [transaction], organization, member.state.settings.send_fields)
    [(history_line, line)] = found.batches
    view = views.line_view(line, rules, about.get(transaction))
    return _page(
        request,
        member,
        "transaction.html",
        context,
        batch=views.batch_view(history_line, context.moment),
        line=view,
        parts=transaction_views.parts_of(view, about.get(transaction)),
        outcomes=transaction_views.outcomes_of(line, rules),
        calls=transaction_views.calls_of(found),
        deleted=found.now.deleted,
        decided=found.now.decided,
    )


@router.get("/history/{batch}/cancel")
def ask_before_cancelling(request: Request, member: SignedIn, batch: BatchId) -> Response:
    """The question, for browsers without our script."""
    database = member.state.database
    context = subject.context(database, member.organization)
    found = showing.show_batch(database, batch, 0, organizations=(member.organization,))
    if not found.batch.open:
        raise Refusal(Failure(status=409, code="batch_not_open", message="The batch has ended."))
    return _page(request, member, "cancel.html", context, view=views.batch_view(found.batch, context.moment))


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Our style, script and icon."""
    found = rendering.asset_response(name)
    if found is None:
        raise Refusal(Failure(status=404, code="not_found", message="There is nothing at this address."))
    return found


# -- changing ----------------------------------------------------------------------------------------------------------


@router.post("/history/start")
def start(member: SignedIn, form: OwnForm) -> Response:
    """Queue whatever waits."""
    done = actions.start_audit(member.state, member.caller, None)
    if not done.audit_history_ids:
        return _told("nothing")
    return _told("started", done.audit_history_ids[0])


@router.post("/history/{batch}/retry")
def retry(member: SignedIn, form: OwnForm, batch: BatchId) -> Response:
    """Queue again what failed."""
    done = actions.retry_failed(member.state, member.caller, batch)
    if not done.batches:
        return _told("no_retry", path=f"{HOME}/{batch}")
    made = done.batches[0].audit_history_id
    return _told("retried", made, path=f"{HOME}/{made}")


@router.post("/history/{batch}/cancel")
def cancel(member: SignedIn, form: OwnForm, batch: BatchId) -> Response:
    """Cancel the batch."""
    actions.cancel(member.state, member.caller, batch)
    return _told("cancelled", batch, path=f"{HOME}/{batch}")


# -- the session -------------------------------------------------------------------------------------------------------


@router.get("/sign-in")
async def ask_who(request: Request) -> Response:
    """The form that takes a token."""
    visitor = session.visitor_of(request)
    goal = session.own_path(request.query_params.get("next", ""))
    if visitor.caller is not None or visitor.dev:
        return rendering.elsewhere(goal)
    notice = Words(visitor.language)("notice_signed_out") if "signed_out" in request.query_params else None
    return rendering.page(request, visitor, "sign_in.html", next=goal, problem=None, notice=notice)


@router.post("/sign-in")
async def sign_in(request: Request, form: OwnForm) -> Response:
    """Keep the token, if it is a valid one."""
    visitor = session.visitor_of(request)
    words, goal = Words(visitor.language), session.own_path(form.get("next", ""))
    token = form.get("token", "").strip().removeprefix("Bearer ").strip()
    response = rendering.elsewhere(goal)
    problem = None if token else words("token_missing")
    if token:
        try:
            session.sign_in(request, response, token)
        except Refusal:
            problem = words("token_refused")
    if problem is None:
        return response
    return rendering.page(request, visitor, "sign_in.html", status=403, next=goal, problem=problem)


@router.post("/sign-out")
async def sign_out(request: Request, form: OwnForm) -> Response:
    """Forget the token."""
    response = rendering.elsewhere("/sign-in?signed_out")
    session.sign_out(request, response)
    return response


@router.post("/language")
async def choose_language(request: Request, form: OwnForm) -> Response:
    """Keep the chosen language, and go on where they were."""
    response = rendering.elsewhere(session.own_path(form.get("next", "")))
    session.choose_language(request, response, form.get("language", ""))
    return response


# -- helpers -----------------------------------------------------------------------------------------------------------


def _page(request: Request, member: Member, template: str, context: subject.Context, **values: Any) -> HTMLResponse:
    words = Words(member.visitor.language)
    shown = {"notice": _notice(request, words), "organization": context.name} | values
    return rendering.page(request, member.visitor, template, **shown)


def _asked_for(filters: LineFilters, rules: Mapping[str, Any]) -> dict[str, str]:
    return {filters.rule: ""} if filters.rule and filters.rule not in rules else {}


def _part(request: Request, name: str) -> bool:
    return request.query_params.get("part") == name


def _told(notice: str, batch: int | None = None, *, path: str = HOME) -> Response:
    return rendering.elsewhere(f"{path}?notice={notice}" + (f"&batch={batch}" if batch else ""))


def _notice(request: Request, words: Words) -> str | None:
    name, batch = request.query_params.get("notice", ""), request.query_params.get("batch", "")
    if name not in _NOTICES:
        return None
    return words(f"notice_{name}", id=batch if batch.isdecimal() and len(batch) <= 10 else "")
