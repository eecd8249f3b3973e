"""`process-queue --dry-run`: what the next run would do and cost. Buys nothing, claims nothing, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit.audit.pricing import cost, most
from gepp_audit.audit.prompt import compile_rules, estimate_tokens, prompt_tokens, render_transaction
from gepp_audit.audit.transaction import to_payload
from gepp_audit.database import forecasting
from gepp_audit.database.engine import Database, now
from gepp_audit.database.items import OpenBatch
from gepp_audit.database.platform import Platform, detect, load, load_rules
from gepp_audit.model import Usage
from gepp_audit.queue.known import require_organizations
from gepp_audit.queue.obstacles import Obstacle, Planned, met_by
from gepp_audit.queue.options import RunOptions

#: transactions of a batch whose prompt is built and measured
_SAMPLE: Final = 20
#: output of an answer where no call has been made yet: some for the reasons, some for each rule's outcome
_OUTPUT_TOKENS: Final = 250
_OUTPUT_TOKENS_A_RULE: Final = 12
_MARKER: Final = "0" * 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What one batch is expected to take: tokens and USD are estimates, without the provider's cache."""

    audit_history_id: int
    organization_id: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What the next run is expected to do."""

    model: str
    batches: tuple[Expected, ...]
    #: what would keep calls from leaving now
    held: tuple[Obstacle, ...] = ()

    @property
    def cost(self) -> Decimal | None:
        """USD over all batches; None: a price is unknown."""
        costs = [batch.cost for batch in self.batches]
        return None if None in costs else sum((one for one in costs if one is not None), Decimal())

    def as_json(self) -> dict[str, Any]:
        """What `process-queue --dry-run --json` tells."""
        return {
            "dry_run": True,
            "model": self.model,
            "batches": [
                {
                    "audit_history_id": batch.audit_history_id,
                    "organization_id": batch.organization_id,
                    "calls": batch.calls,
                    "input_tokens": batch.input_tokens,
                    "output_tokens": batch.output_tokens,
                    "cost_usd": None if batch.cost is None else float(batch.cost),
                }
                for batch in self.batches
            ],
            "calls": sum(batch.calls for batch in self.batches),
            "input_tokens": sum(batch.input_tokens for batch in self.batches),
            "output_tokens": sum(batch.output_tokens for batch in self.batches),
            "cost_usd": None if self.cost is None else float(self.cost),
            "held": [obstacle.as_json() for obstacle in self.held],
        }


def forecast(database: Database, options: RunOptions) -> Forecast:
    """Look at what is open and estimate it. The limits of the options (`max_batches`, `max_transactions`) are
    respected. OperatorError: an organization of the options that there is not.
    """
    return database.read(lambda connection: _forecast(connection, detect(connection), options))


def _forecast(connection: Connection, platform: Platform, options: RunOptions) -> Forecast:
    require_organizations(connection, options.organizations)
    found = forecasting.waiting(connection, platform, options.batch_statuses, options.organizations, _SAMPLE)
    usual_output = forecasting.usual_output_tokens(connection, options.model)
    left = options.max_transactions
    expected: list[Expected] = []
    prompts: dict[int, int] = {}
    for waiting in [one for one in found if one.transactions][: options.max_batches]:
        calls = waiting.transactions if left is None else min(left, waiting.transactions)
        left = None if left is None else left - calls
        if calls:
            prompt, one = _expect(connection, platform, waiting, calls, usual_output, options)
            expected.append(one)
            prompts[one.audit_history_id] = prompt
    return Forecast(model=options.model, batches=tuple(expected), held=_held(connection, expected, prompts, options))


def _held(
    connection: Connection, expected: Sequence[Expected], prompts: Mapping[int, int], options: RunOptions
) -> tuple[Obstacle, ...]:
    """What the calls of these batches would meet. `prompts`: tokens of a batch's rules, by batch."""
    moment = now(connection)

    def price(read: int, written: int) -> Decimal | None:
        return most(options.model, read, written, options.price_overrides)

    planned = [
        Planned(
            batch=OpenBatch(
                audit_history_id=one.audit_history_id,
                organization_id=one.organization_id,
                started_at=moment,
                ready=one.calls,
                prompt_tokens=prompts[one.audit_history_id],
            ),
            tokens=one.input_tokens + one.output_tokens,
            cost=one.cost,
        )
        for one in expected
        if one.calls
    ]
    if not planned:
        return ()
    return tuple(met_by(connection, planned, options.max_completion_tokens, price, moment))


def _expect(
    connection: Connection,
    platform: Platform,
    waiting: forecasting.Waiting,
    calls: int,
    usual_output: float | None,
    options: RunOptions,
) -> tuple[int, Expected]:
    """What a claim takes for the tokens of its prompt without a transaction, and what it is expected to take in all."""
    rules = load_rules(connection, waiting.organization_id)
    if not rules:
        calls = 0  # the batch will fail without a call
    prompt = compile_rules(rules) if rules else None
    prefix = 0 if prompt is None else estimate_tokens(prompt.prefix)
    loaded = load(connection, platform, waiting.sample)
    sizes = [
        estimate_tokens(render_transaction(to_payload(one.transaction, options.send_fields), _MARKER))
        for one in loaded.values()
    ]
    suffix = sum(sizes) / len(sizes) if sizes else 0.0
    output = usual_output if usual_output is not None else _OUTPUT_TOKENS + _OUTPUT_TOKENS_A_RULE * len(rules)
    usage = Usage(
        input_tokens=round(calls * (prefix + suffix)),
        cached_tokens=0,
        cache_write_tokens=0,
        output_tokens=round(calls * output),
    )
    return 0 if prompt is None else prompt_tokens(prompt), Expected(
        audit_history_id=waiting.audit_history_id,
        organization_id=waiting.organization_id,
        calls=calls,
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        cost=cost(options.model, usage, None, options.price_overrides),
    )
