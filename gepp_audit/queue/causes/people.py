"""People want it so: `paused`, `limited`."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal
from typing import Final

from gepp_audit.database.facts import GateFacts
from gepp_audit.queue.causes.case import Case, Diagnosis
from gepp_audit.queue.causes.names import Cause
from gepp_audit.queue.holding import Hold, Limit, in_words
from gepp_audit.queue.wording import ago, capital, sentence

_CENT: Final = Decimal("0.01")


def paused(case: Case) -> Diagnosis | None:
    """A person paused the queue, or the organization."""
    id_ = case.batch.organization_id
    everybody, own = case.queue.gate(), case.queue.gate(id_)
    gate: GateFacts = everybody if everybody.paused_at is not None else own
    if gate.paused_at is None or not case.pending:
        return None
    whole = everybody.paused_at is not None
    what = "The queue was paused" if whole else f"Organization {id_} was paused"
    why = f": {sentence(gate.paused_reason)}" if gate.paused_reason else "."
    both = f" Organization {id_} is paused by itself, too." if whole and own.paused_at is not None else ""
    resume = '"gepp-audit resume"'
    if not whole:
        resume = f'"gepp-audit resume --organization {id_}"'
    elif both:
        resume = f'"gepp-audit resume && gepp-audit resume --organization {id_}"'
    return Diagnosis(
        cause=Cause.PAUSED,
        explanation=f"{what} by a person {ago(gate.paused_at, case.now)}{why}{both}",
        fix=f"When it may go on, run {resume}.",
    )


def limited(case: Case) -> Diagnosis | None:
    """A limit holds back what could be asked now."""
    held = case.held
    waits_alone = case.batch.fanned_out_at is not None and not case.batch.due
    if held is None or not case.pending or waits_alone or held.hold.limit in (Limit.PAUSED, Limit.THROTTLED):
        return None
    explanation, fix = in_words(held.hold), _fix(held.hold)
    if held.by_provider:
        explanation += " It is the provider's own limit, as its latest answers tell it."
        fix = "Wait, or raise the rate limit at the provider."
    return Diagnosis(
        cause=Cause.LIMITED,
        reason=held.hold.limit.value,
        explanation=explanation,
        fix=fix,
        clears_at=held.hold.clears_at,
    )


def _fix(held: Hold) -> str:
    own = "--global" if held.organization_id is None else f"--organization {held.organization_id}"
    if held.limit is Limit.UNPRICED:
        return f'Tell the price of the model in GEPP_AUDIT_PRICES, or run "gepp-audit limits clear {own}".'
    command = f'"gepp-audit limits set {own} --{held.limit.value.replace("_", "-")} {_more(held)}"'
    if held.too_small:
        return f"Raise the limit, for example with {command}."
    return f'Wait, or raise the limit, for example with {command}; "gepp-audit limits show" tells what is used.'


def _more(held: Hold) -> int | Decimal:
    """Twice the limit, or what lets a few calls pass where that is more."""
    needed = max(2 * (held.most or 0), 2 * (held.need or 0), (held.used or 0) + (held.need or 0))
    if isinstance(needed, Decimal):
        return needed.quantize(_CENT, rounding=ROUND_CEILING)
    return math.ceil(needed)


def also_paused(case: Case) -> str | None:
    """What is added where another cause comes first."""
    found = paused(case)
    return None if found is None else f"Besides, it is paused. {capital(found.fix)}"
