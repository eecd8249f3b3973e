"""Filters that name what is not there are refused: an empty answer would look like an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection

from gepp_audit.database import known
from gepp_audit.errors import OperatorError
from gepp_audit.queue.wording import listed

#: what the platform calls the state of a batch; another one is taken where a batch has it
STATUSES: Final = ("in_progress", "pending", "completed", "failed", "cancelled", "undone")


def require_organizations(connection: Connection, ids: Sequence[int]) -> None:
    """OperatorError (exit code 2): the platform has no such organization."""
    unknown = known.unknown_organizations(connection, ids) if ids else ()
    if unknown:
        raise OperatorError(
            f"there is no organization {listed(unknown)}.",
            fix="Look its id up in the platform's table organizations.",
            code="unknown_organization",
            exit_code=2,
        )


def require_rules(connection: Connection, ids: Sequence[str], told: Callable[[str], bool]) -> None:
    """OperatorError (exit code 2): the platform has no such rule. `told`: whether verdicts tell of the rule, as they do
    of one whose row is gone.
    """
    unknown = [id_ for id_ in known.unknown_rules(connection, ids) if not told(id_)] if ids else ()
    if unknown:
        raise OperatorError(
            f"the platform has no rule {' or '.join(unknown)}.",
            fix="Its id is the one that “gepp-audit show BATCH” prints, and the platform's table audit_rules has as "
            "rule_id; capitals count.",
            code="unknown_rule",
            exit_code=2,
        )


def require_statuses(connection: Connection, statuses: Sequence[str]) -> None:
    """OperatorError (exit code 2): no batch has, or could have, such a status."""
    unknown = [one for one in statuses if one not in STATUSES and not known.is_status(connection, one)]
    if unknown:
        raise OperatorError(
            f"no batch has the status {' or '.join(unknown)}.",
            fix=f"The platform's statuses are {', '.join(STATUSES)}.",
            code="unknown_status",
            exit_code=2,
        )
