"""What the pages show of batches and their transactions: from the results of the queue to what templates need. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from gepp_audit.audit.rules import rejects
from gepp_audit.database.history import BatchLine
from gepp_audit.database.verdicts import TransactionLine
from gepp_audit.model import Rule, RuleOutcome
from gepp_audit.queue.subject import Subject
from gepp_audit.web.pages.figures import percent
from gepp_audit.web.pages.filters import STATUSES
from gepp_audit.web.visitors import failure

#: what a status or a verdict looks like: the name of a colour
_KINDS: Final[Mapping[str, str]] = {
    "completed": "ok", "failed": "bad", "in_progress": "run", "pending": "rest",
    "approved": "ok", "rejected": "bad", "no_action": "warn", "skipped": "rest", "waiting": "rest", "calling": "run",
    RuleOutcome.PASS.value: "ok", RuleOutcome.FAIL.value: "bad", RuleOutcome.CANNOT_TELL.value: "warn",
}  # fmt: skip
_ENDED_BY_PEOPLE: Final = frozenset({"cancelled", "undone", "deleted"})


def kind_of(name: str | None, *, of_transaction: bool = False) -> str:
    """The colour of a status or a verdict; a transaction that failed is no rejected one."""
    if of_transaction and name == "failed":
        return "fail"
    return _KINDS.get(name or "", "rest")


# -- batches -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a batch's bar, and the tile that counts it."""

    verdict: str
    kind: str
    count: int
    #: per cent of the bar
    x: float = 0.0
    width: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchView:
    """One batch."""

    id: int
    status: str
    kind: str
    #: we have words for its status
    known: bool
    open: bool
    #: people cancelled, undid or deleted it
    withdrawn: bool
    done: int
    total: int
    percent: int
    approved: int
    rejected: int
    undecided: int | None
    failed: int | None
    parts: tuple[Part, ...]
    tiles: tuple[Part, ...]
    tokens: int | None
    cost: Decimal | None
    model: str | None
    started: datetime
    ended: datetime | None
    #: None: it was withdrawn, and nothing tells when
    duration: timedelta | None
    error: str | None

    @property
    def can_retry(self) -> bool:
        """It has ended, and something in it failed."""
        return bool(self.failed) and not self.open and not self.withdrawn


def batch_view(line: BatchLine, now: datetime) -> BatchView:
    """What is shown of a batch. `now`: the database's clock, by which an open one has lasted so long."""
    withdrawn = line.deleted or line.status in _ENDED_BY_PEOPLE
    status = line.status if not line.deleted or line.status in _ENDED_BY_PEOPLE else "deleted"
    counted = tuple(_counted(line))
    known = sum(part.count for part in counted)
    # what another program settled it does not always say: then its own figure is all there is
    done = max(known, line.processed) if not line.open or line.undecided is None else known
    total = max(line.total, done)
    ended = not line.open and not withdrawn
    end = now if line.open else line.completed_at
    left = max(total - done, 0)
    # those of every day stand there always, colourless where they count nothing
    tiles = [
        part if part.count else replace(part, kind="rest")
        for part in counted
        if part.count or part.verdict in ("approved", "rejected", "no_action")
    ]
    if left and line.open:
        tiles.append(Part(verdict="waiting", kind="rest", count=left))
    return BatchView(
        id=line.audit_history_id,
        status=status,
        kind=kind_of(status),
        known=status in (*STATUSES, "deleted"),
        open=line.open,
        withdrawn=withdrawn,
        done=done,
        total=total,
        percent=100 if ended else min(percent(done, total), 99 if line.open else 100),
        approved=line.approved,
        rejected=line.rejected,
        undecided=line.undecided,
        failed=line.failed,
        parts=_placed(counted, total),
        tiles=tuple(tiles),
        tokens=None if line.spent is None else line.spent.total_tokens,
        cost=None if line.spent is None else line.spent.price,
        model=text_or_none(line.summary.get("model")),
        started=line.started_at,
        ended=line.completed_at,
        duration=None if end is None else end - line.started_at,
        error=line.error,
    )


def _counted(line: BatchLine) -> Iterator[Part]:
    figures = (
        ("approved", line.approved), ("rejected", line.rejected), ("no_action", line.undecided),
        ("failed", line.failed), ("skipped", line.skipped),
    )  # fmt: skip
    for verdict, count in figures:
        yield Part(verdict=verdict, kind=kind_of(verdict, of_transaction=True), count=count or 0)


def _placed(parts: tuple[Part, ...], total: int) -> tuple[Part, ...]:
    placed: list[Part] = []
    before = 0
    for part in parts:
        if part.count:
            x, width = round(100 * before / total, 3), round(100 * part.count / total, 3)
            placed.append(replace(part, x=x, width=width))
        before += part.count
    return tuple(placed)


# -- transactions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceView:
    """What a reason quotes."""

    #: None: the transaction itself
    record_id: Any
    record_name: str | None
    field: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotedPart:
    """What a reason quotes of one record, or of the transaction itself (`record_id` None)."""

    record_id: Any
    record_name: str | None
    #: field and value
    quotes: tuple[EvidenceView, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingView:
    """Why one rule is broken or cannot be told."""

    rule_id: str
    rule_name: str | None
    kind: str
    #: fail, cannot_tell, warning
    outcome: str
    #: rejects, undecides, warns
    effect: str
    reason: str
    evidence: tuple[EvidenceView, ...]

    @property
    def quoted(self) -> list[QuotedPart]:
        """The same, part by part."""
        found: dict[Any, list[EvidenceView]] = {}
        for one in self.evidence:
            found.setdefault(one.record_id, []).append(one)
        return [
            QuotedPart(record_id=record_id, record_name=quotes[0].record_name, quotes=tuple(quotes))
            for record_id, quotes in found.items()
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class LineView:
    """One transaction of a batch."""

    id: int
    verdict: str
    kind: str
    findings: tuple[FindingView, ...]
    #: it was approved, and there is nothing to say
    plain: bool
    skip_reason: str | None
    error_code: str | None
    error: str | None
    next_attempt_at: datetime | None
    tokens: int | None
    cost: Decimal | None


def line_view(line: TransactionLine, rules: Mapping[str, Rule], subject: Subject | None) -> LineView:
    """What is shown of a transaction. `subject`: None where it is gone, so that its records have no names."""
    findings = tuple(_findings(line, rules, subject))
    verdict = line.verdict or "unknown_verdict"
    return LineView(
        id=line.transaction_id,
        verdict=verdict,
        kind=kind_of(verdict, of_transaction=True),
        findings=findings,
        plain=verdict == "approved" and not findings and bool(line.rules),
        skip_reason=line.skip_reason,
        error_code=line.error_code,
        error=failure(line.error_code),
        next_attempt_at=line.next_attempt_at,
        tokens=line.spent.total_tokens if line.spent.calls else None,
        cost=line.spent.price if line.spent.calls else None,
    )


def _findings(line: TransactionLine, rules: Mapping[str, Rule], subject: Subject | None) -> Iterator[FindingView]:
    """Those that reject first; a rule of which only the id is left has a finding without words."""
    told = {str(one.get("rule_id", "")): one for one in line.findings}
    concerned = dict.fromkeys((*line.rejected_by, *line.warned_by, *told))
    for rule_id in concerned:
        finding = told.get(rule_id, {})
        outcome = line.rules.get(rule_id, "fail" if rule_id in line.rejected_by else "warning")
        effect = _effect(rule_id, outcome, line, rules)
        yield FindingView(
            rule_id=rule_id,
            rule_name=rule_name(rules, rule_id),
            kind="bad" if effect == "rejects" else "warn",
            outcome=outcome,
            effect=effect,
            reason=text_or_none(finding.get("reason")) or "",
            evidence=tuple(_evidence(finding.get("evidence"), subject)),
        )


def _effect(rule_id: str, outcome: str, line: TransactionLine, rules: Mapping[str, Rule]) -> str:
    if rule_id in line.rejected_by:
        return "rejects"
    guards = rule_id in rules and rejects(rules[rule_id])
    return "undecides" if guards and outcome == RuleOutcome.CANNOT_TELL.value else "warns"


def _evidence(told: Any, subject: Subject | None) -> Iterator[EvidenceView]:
    for one in told if isinstance(told, list) else ():
        if not isinstance(one, dict):
            continue
        record_id = one.get("record_id")
        record = subject.records.get(record_id) if subject and isinstance(record_id, int) else None
        yield EvidenceView(
            record_id=record_id,
            record_name=text_or_none(record.get("material")) if record else None,
            field=str(one.get("field", "")),
            value=str(one.get("value", "")),
        )


def rule_name(rules: Mapping[str, Rule], rule_id: str) -> str | None:
    """What a rule is called; None: it is not known any more."""
    return rules[rule_id].name if rule_id in rules else None


def text_or_none(value: Any) -> str | None:
    """A text that says something."""
    return value if isinstance(value, str) and value else None
