"""How people decided on what was audited, as far as the platform's tables tell it honestly.

- Newer platforms mark what a person decided (`is_user_audit`). What the person said is their row in
  `transaction_audits`, or else the transaction's `status`; what the audit said is its own row there, or else
  `ai_audit_status`. Agreement and contradiction are both known.
- Older platforms do not say who set a `status`: it may be the audit's own. Only a contradiction proves that somebody
  decided, so only those are counted, and how often people agreed is unknown.

What is compared are the transactions that got a verdict in the period, each once, under its last verdict's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Text, and_, case, cast, func, null, or_, select

from gepp_audit.database.platform import Platform
from gepp_audit.database.platform_tables import transaction_audits, transactions
from gepp_audit.database.tables import calls
from gepp_audit.database.usage import By, Key, Period, key_of_call, left_within, read_key
from gepp_audit.model import CallOutcome, VerdictStatus

_APPROVED: Final = VerdictStatus.APPROVED.value
_REJECTED: Final = VerdictStatus.REJECTED.value
#: a person's word; the platform's `status` knows many more
_DECISIONS: Final = (_APPROVED, _REJECTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How people decided on audited transactions."""

    #: transactions that got a verdict
    audited: int = 0
    #: of these, those that a person decided as the audit did; None: the platform does not tell
    agreed: int | None = None
    #: the audit approved, people rejected
    approvals_overruled: int = 0
    #: the audit rejected, people approved
    rejections_overruled: int = 0
    #: the audit left it to people, and they decided
    undecided_settled: int = 0

    @property
    def overruled(self) -> int:
        """How often people decided otherwise."""
        return self.approvals_overruled + self.rejections_overruled

    @property
    def rate(self) -> float | None:
        """The part of people's decisions that agree with the audit's; None: nothing to compare, or not known."""
        if self.agreed is None or not self.agreed + self.overruled:
            return None
        return self.agreed / (self.agreed + self.overruled)

    def __add__(self, other: Agreement) -> Agreement:
        """Both together."""
        known = [one.agreed for one in (self, other) if one.agreed is not None]
        return Agreement(
            audited=self.audited + other.audited,
            agreed=sum(known) if known else None,
            approvals_overruled=self.approvals_overruled + other.approvals_overruled,
            rejections_overruled=self.rejections_overruled + other.rejections_overruled,
            undecided_settled=self.undecided_settled + other.undecided_settled,
        )


def agreement(connection: Connection, platform: Platform, by: By, period: Period) -> dict[Key, Agreement]:
    """How people decided on what got a verdict in the period, by key; days older than the ledger are not told of."""
    tells = "is_user_audit" in platform.transaction_columns
    none = Agreement(agreed=0 if tells else None)
    found: dict[Key, Agreement] = {}
    for row in connection.execute(_compared(platform, _last_verdicts(connection, by, period), tells=tells)):
        key = read_key(by, row.key)
        found[key] = found.get(key, none) + _tally(row.verdict, row.decision, row.number, tells=tells)
    return found


def _last_verdicts(connection: Connection, by: By, period: Period) -> Any:
    """The last verdict of each transaction: its key and the transaction."""
    newest = (
        select(func.max(calls.c.id).label("id"))
        .where(*left_within(period), calls.c.outcome == CallOutcome.VERDICT.value)
        .group_by(calls.c.organization_id, calls.c.transaction_id)
        .subquery("newest")
    )
    return (
        select(key_of_call(connection, by).label("key"), calls.c.transaction_id, calls.c.organization_id)
        .join_from(newest, calls, calls.c.id == newest.c.id)
        .subquery("last")
    )


def _compared(platform: Platform, last: Any, *, tells: bool) -> Any:
    """How many transactions have which verdict and decision, by key; a decision of NULL is none of a person's."""
    label: ColumnElement[Any] = cast(transactions.c.ai_audit_status, Text)
    status: ColumnElement[Any] = transactions.c.status
    decided = transactions.c.is_user_audit.is_(True) if tells else status.in_(_DECISIONS)
    if tells and platform.has_audits:
        label = func.coalesce(_newest_audit(transaction_audits.c.ai_audit_status, by_human=False), label)
        status = func.coalesce(_newest_audit(transaction_audits.c.audit_status, by_human=True), status)
    # a CASE looks into transaction_audits for the few that a person decided, not for all
    pairs = (
        select(
            last.c.key,
            case((decided, label), else_=null()).label("verdict"),
            case((decided, case((status.in_(_DECISIONS), status), else_=null())), else_=null()).label("decision"),
        )
        .outerjoin_from(
            last,
            transactions,
            and_(transactions.c.id == last.c.transaction_id, transactions.c.organization_id == last.c.organization_id),
        )
        .subquery("pairs")
    )
    return select(pairs.c.key, pairs.c.verdict, pairs.c.decision, func.count().label("number")).group_by(
        pairs.c.key, pairs.c.verdict, pairs.c.decision
    )


def _newest_audit(column: Any, *, by_human: bool) -> Any:
    audit = transaction_audits
    return (
        select(column)
        .where(
            audit.c.transaction_id == transactions.c.id,
            audit.c.by_human.is_(by_human),
            audit.c.deleted_date.is_(None),
            or_(column.in_(_DECISIONS), column == VerdictStatus.NO_ACTION.value),
        )
        .order_by(audit.c.id.desc())
        .limit(1)
        .correlate(transactions)
        .scalar_subquery()
    )


def _tally(verdict: str | None, decision: str | None, count: int, *, tells: bool) -> Agreement:
    """What `count` transactions add that the audit gave `verdict` and a person (or somebody) gave `decision`."""
    agreed = 0 if tells else None
    if decision is None or verdict not in (*_DECISIONS, VerdictStatus.NO_ACTION.value):
        return Agreement(audited=count, agreed=agreed)
    if verdict == VerdictStatus.NO_ACTION.value:
        return Agreement(audited=count, agreed=agreed, undecided_settled=count)
    if verdict == decision:
        return Agreement(audited=count, agreed=count if tells else None)
    if verdict == _APPROVED:
        return Agreement(audited=count, agreed=agreed, approvals_overruled=count)
    return Agreement(audited=count, agreed=agreed, rejections_overruled=count)
