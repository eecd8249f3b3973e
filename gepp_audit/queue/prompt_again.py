"""What a transaction's call was shown, built once more: prompts are not stored, but all that they are made of is.

By the batch's own snapshot of the rules while it is open, by the organization's present rules afterwards. The digests
in the ledger say whether rules and transaction are still what the call was shown; a `status` that the verdict itself
set is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit.audit.prompt import PROMPT_VERSION, compile_rules, render_transaction
from gepp_audit.audit.transaction import input_digest, to_payload
from gepp_audit.database.batches import load_batches
from gepp_audit.database.calls_made import CallMade
from gepp_audit.database.platform import Platform, load, load_rules
from gepp_audit.errors import OperatorError
from gepp_audit.model import Transaction

#: in its place each call has a random one
_MARKER: Final = "0000000000000000"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptAgain:
    """A prompt as it would be sent now, and whether the last call was shown the same; None: nobody knows."""

    transaction_id: int
    #: the call that it is compared with
    call_id: int | None
    #: `snapshot`: the rules that the batch is audited by; `current`: those that hold now
    rules_from: str
    prefix: str
    suffix: str
    schema: dict[str, Any]
    same_rules: bool | None
    same_input: bool | None
    same_prompt_version: bool | None

    @property
    def same(self) -> bool | None:
        """All of it is what the call was shown, but for the random marker."""
        parts = (self.same_rules, self.same_input, self.same_prompt_version)
        return None if None in parts else all(parts)

    def as_json(self) -> dict[str, Any]:
        """Its part of `show --transaction ID --prompt --json`."""
        return {
            "call_id": self.call_id,
            "rules_from": self.rules_from,
            "same_rules": self.same_rules,
            "same_input": self.same_input,
            "same_prompt_version": self.same_prompt_version,
            "prefix": self.prefix,
            "suffix": self.suffix,
            "schema": self.schema,
        }


def rebuild(
    connection: Connection,
    platform: Platform,
    transaction_id: int,
    audit_history_id: int | None,
    calls: Sequence[CallMade],
    send_fields: frozenset[str],
) -> PromptAgain:
    """The transaction's prompt. `calls`: those about it; the last one that was shown something is compared with.

    OperatorError: the organization has no rule.
    """
    found = load(connection, platform, [transaction_id])[transaction_id].transaction
    batch = None
    if audit_history_id is not None:
        batch = load_batches(connection, [audit_history_id]).get(audit_history_id)
    kept = () if batch is None else batch.rules
    rules = kept or load_rules(connection, found.organization_id)
    if not rules:
        raise OperatorError(
            f"organization {found.organization_id} has no active audit rule, so there is no prompt.",
            fix="Add or activate a rule on the platform.",
            code="no_rules",
        )
    prompt = compile_rules(rules)
    of_batch = [call for call in calls if audit_history_id in (None, call.audit_history_id)]
    last = next((call for call in reversed(of_batch) if call.input_digest is not None), None)
    if last is None and of_batch:
        last = of_batch[-1]
    shown_then = None if last is None else last.input_digest
    shown = _as_it_was(found, shown_then)
    return PromptAgain(
        transaction_id=transaction_id,
        call_id=None if last is None else last.call_id,
        rules_from="snapshot" if kept else "current",
        prefix=prompt.prefix,
        suffix=render_transaction(to_payload(shown, send_fields), _MARKER),
        schema=prompt.schema,
        same_rules=_same(prompt.rules_digest, None if last is None else last.rules_digest),
        same_input=_same(input_digest(shown), shown_then),
        same_prompt_version=_same(PROMPT_VERSION, None if last is None else last.prompt_version),
    )


def _as_it_was(found: Transaction, digest: str | None) -> Transaction:
    """The transaction without the audit's own doing: where it may, a verdict sets a `status` that was pending."""
    if digest is None or input_digest(found) == digest:
        return found
    before = (replace(found, status="pending"), replace(found, status=None))
    return next((one for one in before if input_digest(one) == digest), found)


def _same(now: str, then: str | None) -> bool | None:
    return None if then is None else now == then
