"""Enqueue: chosen transactions become one batch, or several of a given size. Nothing is queued unless all that was
named can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from gepp_audit.database import enqueuing
from gepp_audit.database.engine import Database, sqlstate
from gepp_audit.database.platform import Platform, detect
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.errors import OperatorError

#: so many refused ids are named in one message
_NAMED: Final = 20
_FOREIGN_KEY: Final = "23503"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnqueueRequest:
    """What is to be queued. No `transaction_ids`: whatever of the organization waits for nobody."""

    organization_id: int
    transaction_ids: tuple[int, ...] | None = None
    max_transactions: int | None = None
    batch_size: int | None = None
    triggered_by: int | None = None
    force: bool = False
    dry_run: bool = False
    batch_statuses: tuple[str, ...] = (IN_PROGRESS,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Enqueued:
    """What was queued; on a dry run, what would be (then there is no batch)."""

    organization_id: int
    audit_history_ids: tuple[int, ...]
    transaction_ids: tuple[int, ...]
    split: bool
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        """The contract of `enqueue --json`: the platform's own answer."""
        result: dict[str, Any] = {"queued_count": len(self.transaction_ids), "organization_id": self.organization_id}
        if self.split:
            result["audit_history_ids"] = list(self.audit_history_ids)
        else:
            result["audit_history_id"] = self.audit_history_ids[0] if self.audit_history_ids else None
        return result | {"transaction_ids": list(self.transaction_ids)}


def enqueue(database: Database, request: EnqueueRequest) -> Enqueued:
    """Queue what `request` names, in one transaction. OperatorError: unknown organization, or ids that cannot be
    queued.
    """
    platform = database.read(detect)
    if request.dry_run:
        chosen = database.read(lambda connection: _choose(connection, platform, request))
        return _result(request, (), chosen)
    with known_user(request.triggered_by):
        return database.write(lambda connection: _enqueue(connection, platform, request))


@contextmanager
def known_user(triggered_by: int | None) -> Iterator[None]:
    """Say it in words when the platform does not know the user who asks for a batch."""
    if triggered_by is not None and triggered_by > enqueuing.LARGEST_ID:  # its column holds no such number
        raise _no_user(triggered_by)
    try:
        yield
    except OperatorError as error:
        if isinstance(error.__cause__, DBAPIError) and sqlstate(error.__cause__) == _FOREIGN_KEY:
            raise _no_user(triggered_by) from error
        raise


def _no_user(triggered_by: int | None) -> OperatorError:
    return OperatorError(
        f"the platform has no user {triggered_by}.",
        fix="Give --triggered-by the id of an existing user, or leave it out.",
        code="unknown_user",
        exit_code=2,
    )


def _enqueue(connection: Connection, platform: Platform, request: EnqueueRequest) -> Enqueued:
    chosen = _choose(connection, platform, request)
    queued = enqueuing.mark_queued(connection, platform, chosen)
    if request.transaction_ids is not None and len(queued) != len(chosen):
        taken = sorted(set(chosen) - set(queued))
        raise _refuse([enqueuing.Refused(transaction_id=id_, why="was taken at this moment") for id_ in taken])
    known = request.force or IN_PROGRESS in request.batch_statuses
    status = IN_PROGRESS if known else request.batch_statuses[0]
    size = request.batch_size or max(len(queued), 1)
    batches = tuple(
        enqueuing.insert_batch(
            connection,
            request.organization_id,
            queued[first : first + size],
            status=status,
            triggered_by=request.triggered_by,
            forced=request.force,
        )
        for first in range(0, len(queued), size)
    )
    return _result(request, batches, queued)


def _choose(connection: Connection, platform: Platform, request: EnqueueRequest) -> list[int]:
    if not enqueuing.organization_exists(connection, request.organization_id):
        raise OperatorError(
            f"there is no organization {request.organization_id}.",
            fix="Give --organization the id of an existing one.",
            code="unknown_organization",
            exit_code=2,
        )
    if request.transaction_ids is None:
        return enqueuing.candidates(connection, platform, request.organization_id, request.max_transactions)
    ids = list(dict.fromkeys(request.transaction_ids))
    too_large = [
        enqueuing.Refused(transaction_id=id_, why="is too large an id") for id_ in ids if id_ > enqueuing.LARGEST_ID
    ]
    refused = too_large or enqueuing.refusals(connection, platform, request.organization_id, ids)
    if refused:
        raise _refuse(refused)
    return ids[: request.max_transactions]


def _refuse(refused: Sequence[enqueuing.Refused]) -> OperatorError:
    lines = [f"  {one.transaction_id} {one.why}" for one in refused[:_NAMED]]
    if len(refused) > _NAMED:
        lines.append(f"  and {len(refused) - _NAMED} more")
    several = "s" if len(refused) > 1 else ""
    return OperatorError(
        f"{len(refused)} transaction{several} cannot be queued, so none was:\n" + "\n".join(lines),
        fix="Leave them out, or name none to queue whatever waits.",
        code="not_queueable",
        exit_code=2,
    )


def _result(request: EnqueueRequest, batches: tuple[int, ...], ids: Sequence[int]) -> Enqueued:
    return Enqueued(
        organization_id=request.organization_id,
        audit_history_ids=batches,
        transaction_ids=tuple(ids),
        split=request.batch_size is not None,
        dry_run=request.dry_run,
    )
