"""The queue's steps one by one, as a run takes them, for tests of the data layer: real functions, real commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from gepp_audit.audit.instructions import PROMPT_VERSION
from gepp_audit.audit.transaction import input_digest
from gepp_audit.database import batches, closing, items, limits, publish
from gepp_audit.database.platform import detect, load
from gepp_audit.database.settling import Settlement, settle
from gepp_audit.model import CallOutcome, Claim, ErrorCode, ItemState, Usage
from tests.support.platforms import Platform

STATUSES = ("in_progress",)


def take_up(platform: Platform, statuses: Sequence[str] = STATUSES, *, model: str = "m-1") -> list[batches.FannedOut]:
    """Discover and fan out whatever is new, to be asked of `model`."""
    database = platform.database
    found = database.read(detect)
    database.write(lambda connection: batches.discover(connection, statuses))
    done = []
    for id_ in database.read(batches.waiting_for_fan_out):
        done.append(database.write(lambda connection, id_=id_: batches.fan_out(connection, found, id_, model=model)))  # type: ignore[misc] # bound now
    return [one for one in done if one is not None]


def claim(platform: Platform, most: int = 1000, *, run_id: str = "run-1", lease_seconds: float = 90.0) -> list[Claim]:
    """Claim what can be claimed, oldest batch first."""
    terms = items.CallTerms(
        run_id=run_id, engine="openai", model="m-1", prompt_version=PROMPT_VERSION, lease_seconds=lease_seconds
    )

    def work(connection: Any) -> list[Claim]:
        _, moment = limits.lock(connection)
        items.expire(connection, moment)
        left, chosen = most, []
        for batch in items.open_batches(connection, moment, most):
            chosen.append((batch.audit_history_id, min(left, batch.ready)))
            left -= chosen[-1][1]
        return items.claim(connection, [pair for pair in chosen if pair[1]], terms, moment)

    return platform.database.write(work)


def claim_suspect(platform: Platform) -> list[Claim]:
    """Claim one suspect."""
    terms = items.CallTerms(
        run_id="run-1", engine="openai", model="m-1", prompt_version=PROMPT_VERSION, lease_seconds=90.0
    )

    def work(connection: Any) -> list[Claim]:
        _, moment = limits.lock(connection)
        items.expire(connection, moment)
        found = items.next_suspect(connection, moment)
        return [] if found is None else items.claim_suspect(connection, found, terms, moment)

    return platform.database.write(work)


def verdict(platform: Platform, claimed: Claim, status: str = "approved", **changes: Any) -> Settlement:
    """The settlement of an answered call, judged on the transaction as it stands now."""
    found = platform.database.read(lambda connection: load(connection, detect(connection), [claimed.transaction_id]))
    told = {
        "status": status,
        "rules": {"DC-01": "fail" if status == "rejected" else "pass"},
        "findings": [],
        "rejected_by": ["DC-01"] if status == "rejected" else [],
        "warned_by": [],
    }
    values: dict[str, Any] = {
        "call_id": claimed.call_id,
        "audit_history_id": claimed.audit_history_id,
        "transaction_id": claimed.transaction_id,
        "state": ItemState.DONE,
        "outcome": CallOutcome.VERDICT,
        "verdict": told,
        "verdict_status": status,
        "input_digest": input_digest(found[claimed.transaction_id].transaction),
        "usage": Usage(input_tokens=100, cached_tokens=64, cache_write_tokens=0, output_tokens=20, reasoning_tokens=4),
        "cost": Decimal("0.00012500"),
        "model_answered": "m-1-2026",
        "request_id": "req-1",
        "latency_ms": 512,
    }
    return Settlement(**(values | changes))


def failure(
    claimed: Claim, *, state: ItemState = ItemState.FAILED, code: ErrorCode = ErrorCode.POLICY, **changes: Any
) -> Settlement:
    """The settlement of a call that brought no verdict."""
    values: dict[str, Any] = {
        "call_id": claimed.call_id,
        "audit_history_id": claimed.audit_history_id,
        "transaction_id": claimed.transaction_id,
        "state": state,
        "outcome": CallOutcome.ITEM,
        "error_code": code,
        "error": "the provider refused this transaction",
    }
    return Settlement(**(values | changes))


def settle_all(platform: Platform, settlements: Iterable[Settlement]) -> set[int]:
    """Settle in one transaction; returns the calls that their items took."""
    told = list(settlements)
    return platform.database.write(lambda connection: settle(connection, told))


def write_back(platform: Platform) -> publish.Published:
    """Publish what is settled."""
    return platform.database.write(lambda connection: publish.publish(connection, detect(connection), input_digest))


def close_all(platform: Platform) -> list[closing.Closed]:
    """Close every batch that is finished."""
    ended = []
    for id_ in platform.database.read(closing.finished):
        ended.append(
            platform.database.write(
                lambda connection, id_=id_: closing.close(connection, detect(connection), id_, "openai")  # type: ignore[misc] # bound now
            )
        )
    return [one for one in ended if one is not None]


def reconcile(platform: Platform) -> list[batches.Withdrawn | None]:
    """Let go what people withdrew."""
    database = platform.database
    return [
        database.write(lambda connection, id_=id_: batches.withdraw(connection, detect(connection), id_))  # type: ignore[misc] # bound now
        for id_ in database.read(batches.withdrawn)
    ]


def end_leases(platform: Platform) -> None:
    """Let time pass: every lease has ended."""
    long_ago = "2020-01-01 00:00:00.000000" + ("+00" if platform.is_postgresql else "")
    platform.database.write(
        lambda connection: (
            connection.execute(
                text("UPDATE gepp_audit_items SET lease_until = :at WHERE state = 'calling'"), {"at": long_ago}
            )
            and None
        )
    )


def states(platform: Platform) -> dict[int, str]:
    """The state of each item by transaction."""
    return {row["transaction_id"]: row["state"] for row in platform.rows("SELECT * FROM gepp_audit_items")}


def skips(platform: Platform) -> dict[int, str]:
    """Why items were skipped, by transaction."""
    found = platform.rows("SELECT transaction_id, skip_reason FROM gepp_audit_items WHERE state = 'skipped'")
    return {row["transaction_id"]: row["skip_reason"] for row in found}
