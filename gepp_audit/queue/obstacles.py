"""What keeps calls from leaving at this moment, in words: for a run that asked nothing, and for one that is planned.

Pauses, refusals of the provider and limits, as the next claim would meet them. Reads only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from gepp_audit.database import limits, windows
from gepp_audit.database.items import OpenBatch
from gepp_audit.database.limits import Gate
from gepp_audit.database.spending import day_ends
from gepp_audit.plain_text import moment as moment_text
from gepp_audit.queue import remedies
from gepp_audit.queue.holding import Hold, Limit, in_words
from gepp_audit.queue.standing import Standing, look, reservation
from gepp_audit.queue.wording import scope_in_words


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacle:
    """One thing that keeps calls from leaving."""

    #: a limit by its name, `paused`, `throttled`, `unpriced_model`, or why the provider refuses every call
    reason: str
    #: whose calls; None: everybody's
    organization_id: int | None
    #: when it is over at the latest; None: nobody can say
    clears_at: datetime | None
    #: full sentences
    message: str

    def as_json(self) -> dict[str, Any]:
        """Its entry in `process-queue --json`."""
        return {
            "reason": self.reason,
            "organization_id": self.organization_id,
            "clears_at": None if self.clears_at is None else moment_text(self.clears_at),
            "message": self.message,
        }


def of_hold(hold: Hold) -> Obstacle:
    """A hold as it is told."""
    return Obstacle(
        reason=hold.limit.value, organization_id=hold.organization_id, clears_at=hold.clears_at, message=in_words(hold)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A batch that the next run would ask about, with what that is expected to take."""

    batch: OpenBatch
    tokens: int
    cost: Decimal | None


def met_by(
    connection: Connection,
    planned: Sequence[Planned],
    most_output: int,
    price: Callable[[int, int], Decimal | None],
    moment: datetime,
) -> list[Obstacle]:
    """What a run would meet that began at `moment` with these batches, and which limits of the day end it early.

    `most_output`: the cap of an answer, in tokens. `price`: USD of so many tokens of input and output.
    """
    gate = limits.gate(connection)
    found = list(_for_everybody(gate, moment))
    recent = windows.recent(connection)
    batches = [one.batch for one in planned]
    needs = {}
    for batch in batches:
        newest = recent.get(batch.organization_id)
        largest = None if newest is None else newest.input_tokens
        needs[batch.audit_history_id] = reservation(batch, largest, most_output, price)
    standing = look(connection, gate, moment, batches, needs, write=False)
    held: dict[tuple[Limit, int | None], Hold] = {}
    for one in standing.holds.values():  # several organizations may wait for one limit
        held.setdefault((one.limit, one.organization_id), one)
    found += [of_hold(one) for one in held.values()]
    if any(one.organization_id is None for one in held.values()):
        return found
    return found + _ended_early(standing, planned, held)


def _for_everybody(gate: Gate, moment: datetime) -> list[Obstacle]:
    found = []
    if gate.paused_at is not None:
        found.append(of_hold(Hold(limit=Limit.PAUSED, said=gate.paused_reason)))
    if gate.blocked_reason is not None:
        remedy = remedies.of_refusal(gate.blocked_reason.value)
        found.append(
            Obstacle(
                reason=gate.blocked_reason.value,
                organization_id=None,
                clears_at=None,
                message=f"The provider refuses every call: {remedy.words}. {remedy.mend}; one call a minute tries by "
                "itself, and all go on when it is answered.",
            )
        )
    if gate.throttled_until is not None and gate.throttled_until > moment:
        found.append(of_hold(Hold(limit=Limit.THROTTLED, clears_at=gate.throttled_until)))
    return found


def _ended_early(
    standing: Standing, planned: Sequence[Planned], held: Mapping[tuple[Limit, int | None], Hold]
) -> list[Obstacle]:
    """Limits of the day that let something leave, but not all of it."""
    found = []
    for scope, caps in standing.caps.items():
        mine = [one for one in planned if scope in (None, one.batch.organization_id)]
        today = standing.uses[scope].today
        tokens, cost = sum(one.tokens for one in mine), sum((one.cost or Decimal() for one in mine), Decimal())
        for limit, most, used, wanted, unit in (
            (Limit.TOKENS_PER_DAY, caps.tokens_per_day, today.tokens, tokens, "tokens"),
            (Limit.COST_PER_DAY, caps.cost_per_day, today.cost, cost, "USD"),
        ):
            if most is None or (limit, scope) in held or used + wanted <= most:
                continue
            found.append(
                Obstacle(
                    reason=limit.value,
                    organization_id=scope,
                    clears_at=day_ends(standing.moment),
                    message=f"The limit of {most:,} {unit} per day for {scope_in_words(scope)} leaves "
                    f"{max(most - used, type(most)(0)):,} {unit} for today: not all of it can be asked before "
                    "midnight UTC.",
                )
            )
    return found
