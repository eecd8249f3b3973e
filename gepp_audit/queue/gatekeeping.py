"""What answers say of the provider itself holds for all hosts: refusals, wishes to wait, its limits, its return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from gepp_audit.database import limits
from gepp_audit.database.settling import Settlement
from gepp_audit.model import CallOutcome, ErrorCode, Pace

_ANSWERED: Final = (CallOutcome.VERDICT, CallOutcome.ANSWER, CallOutcome.ITEM)


def tell(connection: Connection, settlements: Sequence[Settlement], paces: Sequence[Pace], *, blocked: bool) -> None:
    """Write it, in the transaction that settles these. `blocked`: the provider had refused us when last looked."""
    # a call that never left tells of this host alone
    refused = [one for one in settlements if one.outcome is CallOutcome.BLOCK and one.sent]
    if refused:
        limits.block(connection, refused[0].error_code or ErrorCode.REQUEST_REJECTED, refused[0].error or "")
    elif blocked and answers_again(settlements):
        limits.unblock(connection)
    for one in settlements:
        if one.throttle is not None:
            # a rate limit is at first the refused organization's; a provider in trouble is everybody's
            own = one.organization_id if one.error_code is ErrorCode.RATE_LIMITED else None
            limits.throttle(connection, one.throttle, own)
    if paces:
        limits.slow_down(connection, paces)


def answers_again(settlements: Sequence[Settlement]) -> bool:
    """Whether one of these was answered, which no call of a blocked provider is."""
    return any(one.outcome in _ANSWERED for one in settlements)
