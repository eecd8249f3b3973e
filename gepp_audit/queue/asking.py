"""Step 5 of the data's way: claimed items become calls. What was claimed is loaded set-based, then no transaction is
open.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gepp_audit.audit.prompt import RuleSetPrompt, compile_rules, render_transaction
from gepp_audit.audit.transaction import input_digest, to_payload
from gepp_audit.database.batches import load_batches, still_open
from gepp_audit.database.earlier_answers import Earlier, earlier_answers
from gepp_audit.database.engine import Database
from gepp_audit.database.platform import Loaded, Platform, load
from gepp_audit.database.publish import unwanted
from gepp_audit.database.settling import Settlement
from gepp_audit.model import CallOutcome, CallRequest, Claim, ErrorCode, ItemState, SkipReason
from gepp_audit.queue.options import RunOptions

#: rule sets whose compiled prompt is kept; the memory stays flat whatever the number of organizations
_KEPT_PROMPTS: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A call under way with what it was shown: its answer is judged against this and nothing else."""

    claim: Claim
    payload: Mapping[str, Any]
    digest: str
    prompt: RuleSetPrompt
    #: why earlier answers to this very question were none
    earlier: frozenset[ErrorCode] = frozenset()


class Prompts:
    """The compiled prompts of the batches in work, the latest used kept."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[int, RuleSetPrompt] = OrderedDict()

    def missing(self, claims: Sequence[Claim]) -> list[int]:
        """The batches of these claims whose rules must be read first."""
        return sorted({claim.audit_history_id for claim in claims} - self._compiled.keys())

    def add(self, audit_history_id: int, prompt: RuleSetPrompt) -> None:
        """Keep the prompt of a batch."""
        self._compiled[audit_history_id] = prompt

    def knows(self, audit_history_id: int) -> bool:
        """Whether the batch's prompt was added."""
        return audit_history_id in self._compiled

    def of(self, audit_history_id: int) -> RuleSetPrompt:
        """The prompt of a batch that was added."""
        self._compiled.move_to_end(audit_history_id)
        return self._compiled[audit_history_id]

    def trim(self) -> None:
        """Forget all but the latest used."""
        while len(self._compiled) > _KEPT_PROMPTS:
            self._compiled.popitem(last=False)


def prepare(
    database: Database,
    platform: Platform,
    prompts: Prompts,
    claims: Sequence[Claim],
    options: RunOptions,
    send_before: float,
) -> tuple[list[tuple[CallRequest, Asked]], list[Settlement]]:
    """The calls for these claims, and the settlements of those that people took out of our hands since the fan-out."""
    missing = prompts.missing(claims)
    loaded, batches, open_ids, earlier = database.read(
        lambda connection: (
            load(connection, platform, [claim.transaction_id for claim in claims]),
            load_batches(connection, missing) if missing else {},
            still_open(connection, {claim.audit_history_id for claim in claims}),
            earlier_answers(connection, claims),
        )
    )
    for id_, batch in batches.items():
        if batch.rules:  # they go when a batch is closed, which may just have happened
            prompts.add(id_, compile_rules(batch.rules))
    requests: list[tuple[CallRequest, Asked]] = []
    unasked: list[Settlement] = []
    for claim in claims:
        found = loaded.get(claim.transaction_id)
        reason = SkipReason.NOT_FOUND if found is None else unwanted(found, claim.organization_id)
        if found is None or reason is not None:
            unasked.append(_not_wanted(claim, reason))
        elif claim.audit_history_id not in open_ids or not prompts.knows(claim.audit_history_id):
            unasked.append(_not_wanted(claim, SkipReason.BATCH_WITHDRAWN))
        else:
            asked = _shown(
                claim, found, prompts.of(claim.audit_history_id), options, earlier.get(claim.call_id, frozenset())
            )
            requests.append((_request(asked, options, send_before), asked))
    prompts.trim()
    return requests, unasked


def _shown(claim: Claim, found: Loaded, prompt: RuleSetPrompt, options: RunOptions, earlier: Earlier) -> Asked:
    digest = input_digest(found.transaction)
    return Asked(
        claim=claim,
        payload=to_payload(found.transaction, options.send_fields),
        digest=digest,
        prompt=prompt,
        earlier=frozenset(code for then, code in earlier if then == digest),
    )


def _request(asked: Asked, options: RunOptions, send_before: float) -> CallRequest:
    claim, prompt = asked.claim, asked.prompt
    cut_off_before = ErrorCode.TRUNCATED in asked.earlier
    return CallRequest(
        call_id=claim.call_id,
        model=options.model,
        prefix=prompt.prefix,
        suffix=render_transaction(asked.payload, secrets.token_hex(8)),
        schema=prompt.schema,
        schema_name=prompt.schema_name,
        max_completion_tokens=options.max_completion_tokens * (2 if cut_off_before else 1),
        safety_identifier=safety_identifier(claim.organization_id),
        cache_key=prompt.cache_key,
        send_before=send_before,
    )


def safety_identifier(organization_id: int) -> str:
    """A stable name of an organization for the provider's abuse detection, without saying which one it is."""
    return hashlib.sha256(f"gepp-audit organization {organization_id}".encode()).hexdigest()[:32]


def _not_wanted(claim: Claim, reason: SkipReason | None) -> Settlement:
    return Settlement(
        call_id=claim.call_id,
        audit_history_id=claim.audit_history_id,
        transaction_id=claim.transaction_id,
        organization_id=claim.organization_id,
        state=ItemState.SKIPPED,
        outcome=CallOutcome.RELEASED,
        skip_reason=reason,
    )
