"""What the page of one transaction shows: its parts beside the findings that quote them, its rules, its calls. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from gepp_audit.audit.transaction import NUMBER_FIELDS
from gepp_audit.database.calls_made import CallMade
from gepp_audit.database.verdicts import TransactionLine
from gepp_audit.model import Rule, RuleOutcome
from gepp_audit.queue.showing import OneTransaction
from gepp_audit.queue.subject import Subject
from gepp_audit.web.pages.views import EvidenceView, FindingView, LineView, kind_of, rule_name, text_or_none


@dataclass(kw_only=True, slots=True)
class FieldView:
    """One value, and the findings that quote it."""

    name: str
    value: str | None
    rules: list[FindingView] = field(default_factory=list)
    #: what was quoted and does not stand there any more
    then: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class PartView:
    """The transaction itself (`record_id` None) or one of its records, and the findings that quote it."""

    record_id: Any
    name: str | None
    fields: list[FieldView]
    quotes: list[FindingView]
    #: quoted, and not there any more
    gone: bool = False


def parts_of(view: LineView, subject: Subject | None) -> list[PartView]:
    """What was audited, part by part, each beside the findings that quote it."""
    parts: dict[Any, PartView] = {}
    if subject is not None:
        parts[None] = _part(None, None, subject.fields)
        for id_, values in subject.records.items():
            parts[id_] = _part(id_, text_or_none(values.get("material")), values)
    for finding in view.findings:
        for one in finding.evidence:
            part = parts.get(one.record_id)
            if part is None:
                gone = one.record_id is not None
                part = parts[one.record_id] = PartView(
                    record_id=one.record_id, name=None, fields=[], quotes=[], gone=gone
                )
            _quote(part, finding, one)
    return list(parts.values())


def _part(record_id: int | None, name: str | None, values: Mapping[str, Any]) -> PartView:
    ids = ("transaction_id", "record_id")
    fields = [FieldView(name=key, value=_plain(value)) for key, value in values.items() if key not in ids]
    return PartView(record_id=record_id, name=name, fields=fields, quotes=[])


def _quote(part: PartView, finding: FindingView, evidence: EvidenceView) -> None:
    if finding not in part.quotes:
        part.quotes.append(finding)
    quoted = next((one for one in part.fields if one.name == evidence.field), None)
    if quoted is None:
        quoted = FieldView(name=evidence.field, value=evidence.value)
        part.fields.append(quoted)
    if finding not in quoted.rules:
        quoted.rules.append(finding)
    if not _stands(evidence, quoted.value) and evidence.value not in quoted.then:
        quoted.then.append(evidence.value)


def _stands(evidence: EvidenceView, value: str | None) -> bool:
    """Whether what was quoted is what the platform has now: numbers by value, text as a part."""
    if evidence.field in NUMBER_FIELDS:
        try:
            return value is not None and Decimal(evidence.value) == Decimal(value)
        except InvalidOperation:
            return False
    return evidence.value in (value if value is not None else ("null", ""))


def _plain(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeView:
    """One rule that was asked."""

    rule_id: str
    rule_name: str | None
    kind: str
    outcome: str


def outcomes_of(line: TransactionLine, rules: Mapping[str, Rule]) -> list[OutcomeView]:
    """Every rule that was asked, in the order in which it was."""
    return [
        OutcomeView(
            rule_id=rule_id,
            rule_name=rule_name(rules, rule_id),
            kind="warn" if outcome == RuleOutcome.FAIL.value and rule_id not in line.rejected_by else kind_of(outcome),
            outcome=outcome,
        )
        for rule_id, outcome in line.rules.items()
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallView:
    """One call to the model."""

    sent: datetime
    outcome: str
    model: str
    input: int | None
    cached: int | None
    output: int | None
    cost: Decimal | None
    seconds: str


def calls_of(found: OneTransaction) -> list[CallView]:
    """Every call about the transaction that is kept, oldest first."""
    return [_call(call) for call in found.calls]


def _call(call: CallMade) -> CallView:
    parts = (call.outcome or "under way", call.error_code)
    return CallView(
        sent=call.dispatched_at,
        outcome=": ".join(part.replace("_", " ") for part in parts if part),
        model=call.model_answered or call.model,
        input=call.usage.input_tokens,
        cached=call.usage.cached_tokens,
        output=call.usage.output_tokens,
        cost=call.cost,
        seconds="–" if call.latency_ms is None else f"{call.latency_ms / 1000:.1f}",
    )
