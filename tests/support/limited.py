"""Turns of claiming under limits, as several runs would take them, with time that passes when a test says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from gepp_audit.database import limits
from gepp_audit.database.items import CallTerms
from gepp_audit.model import CallOutcome, Claim, ItemState, Usage
from gepp_audit.queue.claiming import Claimed, Claimer
from tests.support import steps
from tests.support.platforms import Platform

#: what a call is told to take at most beside its input
MOST_OUTPUT = 1_000


def price(read: int, written: int) -> Decimal | None:
    """One USD for a million tokens, read or written."""
    return Decimal(read + written) / 1_000_000


def claimer(run_id: str = "run-1", **options: Any) -> Claimer:
    """A run's side of the claim."""
    terms = CallTerms(run_id=run_id, engine="openai", model="m-1", prompt_version="1", lease_seconds=90.0)
    wanted: dict[str, Any] = {"most_output": MOST_OUTPUT, "price": price}
    return Claimer(terms, **(wanted | options))


def turn(platform: Platform, run: Claimer, slots: int = 100, *, nothing_under_way: bool = False) -> Claimed:
    """One turn of claiming, committed and noted."""
    claimed = platform.database.write(
        lambda connection: run.claim(connection, slots, nothing_under_way=nothing_under_way)
    )
    run.note(claimed)
    return claimed


def queue(platform: Platform, organization: int, count: int) -> list[int]:
    """A fanned out batch of so many transactions."""
    ids = platform.transactions(organization, count)
    platform.batch(organization, ids)
    steps.take_up(platform)
    return ids


def organizations(platform: Platform, *counts: int) -> list[int]:
    """Organizations with a batch of so many transactions each, under one rule."""
    platform.rule()
    ids = [platform.organization() for _ in counts]
    for id_, count in zip(ids, counts, strict=True):
        queue(platform, id_, count)
    return ids


def set_caps(platform: Platform, organization: int | None, **changes: Any) -> None:
    """Set limits of an organization, or of everybody."""
    platform.database.write(lambda connection: limits.set_caps(connection, organization, changes))


def let_pass(platform: Platform, seconds: float) -> None:
    """Time passes: everything that the ledger and the limits remember was so much earlier."""
    for table, columns in (
        ("gepp_audit_calls", ("dispatched_at",)),
        ("gepp_audit_limits", ("throttled_until", "blocked_until", "pace_until")),
    ):
        for column in columns:
            earlier = (
                f"{column} - make_interval(secs => :seconds)"
                if platform.is_postgresql
                else f"strftime('%Y-%m-%d %H:%M:%f', {column}, '-' || :seconds || ' seconds') || '000'"
            )
            platform.execute(f"UPDATE {table} SET {column} = {earlier} WHERE {column} IS NOT NULL", seconds=seconds)


def by_organization(claims: Iterable[Claim]) -> dict[int, int]:
    """How many of these claims are whose."""
    found: dict[int, int] = {}
    for one in claims:
        found[one.organization_id] = found.get(one.organization_id, 0) + 1
    return found


def answer(platform: Platform, claims: Sequence[Claim], *, read: int = 400, written: int = 100) -> None:
    """Each call was answered, with a refusal that took so many tokens: what it took is all that counts here."""
    usage = Usage(input_tokens=read, output_tokens=written)
    steps.settle_all(
        platform, [steps.failure(one, usage=usage, cost=price(read, written), sent=True) for one in claims]
    )


def release(platform: Platform, claims: Sequence[Claim]) -> None:
    """The calls never left."""
    told = {"state": ItemState.READY, "outcome": CallOutcome.RELEASED, "error_code": None, "error": None}
    steps.settle_all(platform, [steps.failure(one, **told) for one in claims])  # type: ignore[arg-type] # as they are


def ledger_sums(platform: Platform) -> tuple[int, Decimal]:
    """What the whole ledger counts for."""
    rows = platform.rows("SELECT reserved_tokens, reserved_cost FROM gepp_audit_calls")
    tokens = sum(row["reserved_tokens"] or 0 for row in rows)
    return tokens, sum((Decimal(str(row["reserved_cost"] or 0)) for row in rows), Decimal(0))
