"""Asking again: failed, undecided or named transactions become a new batch of their organization, whatever failed
before; orphans are let go.

The new batch is forced: that a transaction failed before and did not change keeps nothing away. What people decided
stays as it is, and what is queued already is not queued twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit import logs
from gepp_audit.database import enqueuing, retrying
from gepp_audit.database.engine import Database
from gepp_audit.database.platform import Platform, detect
from gepp_audit.database.platform_tables import IN_PROGRESS
from gepp_audit.database.retrying import Found, Scope
from gepp_audit.errors import OperatorError
from gepp_audit.queue.enqueue import known_user
from gepp_audit.queue.inspecting import no_such_batch
from gepp_audit.queue.known import require_organizations, require_rules
from gepp_audit.queue.wording import counted

#: so many that are left out are named
NAMED: Final = 20
_LONG_MS: Final = 300_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryRequest:
    """What is to be asked again. Every filter narrows the others; values of one filter add up, and `failed` and
    `undecided` are two values of one.

    Without `failed`, `undecided` and `rules`: the named transactions whatever became of them, or the failed ones of the
    batch.
    """

    batch: int | None = None
    transaction_ids: tuple[int, ...] = ()
    organizations: tuple[int, ...] = ()
    failed: bool = False
    undecided: bool = False
    #: transactions that one of these rules rejected or could not tell
    rules: tuple[str, ...] = ()
    max_transactions: int | None = None
    #: several batches of at most so many transactions
    batch_size: int | None = None
    #: the platform's user who asked for it
    triggered_by: int | None = None

    @property
    def has_kind(self) -> bool:
        """Something is said of what became of them."""
        return self.failed or self.undecided or bool(self.rules)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A transaction that is not asked again, and why, in words."""

    transaction_id: int
    why: str


@dataclass(kw_only=True, slots=True)
class Plan:
    """What would be asked again."""

    #: ids by organization, in order
    chosen: dict[int, list[int]] = field(default_factory=dict)
    #: the first of those that match and are left alone
    left_out: list[LeftOut] = field(default_factory=list)
    left_out_count: int = 0

    @property
    def count(self) -> int:
        """How many transactions would be asked again."""
        return sum(map(len, self.chosen.values()))

    def leave_out(self, transaction_id: int, why: str) -> None:
        """Note one that is left alone."""
        self.left_out_count += 1
        if len(self.left_out) < NAMED:
            self.left_out.append(LeftOut(transaction_id=transaction_id, why=why))


@dataclass(frozen=True, kw_only=True, slots=True)
class NewBatch:
    """A batch that was made."""

    audit_history_id: int
    organization_id: int
    transaction_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retried:
    """What was queued; on a dry run, what would be (then a batch has no id)."""

    batches: tuple[NewBatch, ...]
    left_out: tuple[LeftOut, ...]
    left_out_count: int
    dry_run: bool = False

    @property
    def count(self) -> int:
        """How many transactions are asked again."""
        return sum(len(batch.transaction_ids) for batch in self.batches)

    def as_json(self) -> dict[str, Any]:
        """The contract of `retry --json`."""
        ids = [batch.audit_history_id for batch in self.batches if not self.dry_run]
        return {
            "queued_count": self.count,
            "audit_history_ids": ids,
            "batches": [
                {
                    "audit_history_id": None if self.dry_run else batch.audit_history_id,
                    "organization_id": batch.organization_id,
                    "queued_count": len(batch.transaction_ids),
                    "transaction_ids": list(batch.transaction_ids),
                }
                for batch in self.batches
            ],
            "left_out_count": self.left_out_count,
            "left_out": [{"transaction_id": one.transaction_id, "why": one.why} for one in self.left_out],
        } | ({"dry_run": True} if self.dry_run else {})


def plan(database: Database, request: RetryRequest) -> Plan:
    """What `request` means as things stand; changes nothing. OperatorError: no such batch or organization, or ids that
    cannot be asked again, by name.
    """
    return database.read(lambda connection: _plan(connection, detect(connection), request))


def as_dry_run(planned: Plan, request: RetryRequest) -> Retried:
    """What `retry` would return for this plan."""
    batches = [
        NewBatch(audit_history_id=0, organization_id=organization, transaction_ids=tuple(part))
        for organization, ids in planned.chosen.items()
        for part in _parts(ids, request.batch_size)
    ]
    return _result(batches, planned, dry_run=True)


def retry(database: Database, request: RetryRequest, planned: Plan) -> Retried:
    """Queue what was planned, one transaction of the database per organization. OperatorError: a named one was taken
    meanwhile, or the platform has no such user.
    """
    platform = database.read(detect)
    batches: list[NewBatch] = []
    for organization, ids in planned.chosen.items():
        with known_user(request.triggered_by):
            made, missed = database.write(
                lambda connection, organization=organization, ids=ids: _queue(  # type: ignore[misc] # bound now
                    connection, platform, request, organization, ids
                ),
                statement_timeout_ms=_LONG_MS,
            )
        for id_ in missed:
            planned.leave_out(id_, "was taken, decided or held at this moment")
        batches += made
        for batch in made:
            logs.info(
                "batch_retried",
                audit_history_id=batch.audit_history_id,
                organization_id=organization,
                transactions=len(batch.transaction_ids),
            )
    return _result(batches, planned, dry_run=False)


def _result(batches: Sequence[NewBatch], planned: Plan, *, dry_run: bool) -> Retried:
    return Retried(
        batches=tuple(batches),
        left_out=tuple(planned.left_out),
        left_out_count=planned.left_out_count,
        dry_run=dry_run,
    )


# -- choosing ----------------------------------------------------------------------------------------------------------


def _plan(connection: Connection, platform: Platform, request: RetryRequest) -> Plan:
    scope = Scope(batch=request.batch, organizations=request.organizations)
    require_organizations(connection, request.organizations)
    if request.batch is not None and retrying.organization_of(connection, request.batch) is None:
        raise no_such_batch([request.batch])
    require_rules(
        connection, request.rules, lambda id_: any(True for _ in retrying.judged_by(connection, platform, scope, id_))
    )
    if request.transaction_ids:
        return _named(connection, platform, request)
    planned, seen = Plan(), set[int]()
    for found in _matching(connection, platform, request, scope):
        if found.transaction_id in seen:
            continue
        seen.add(found.transaction_id)
        why = _why_not(found)
        if why is not None:
            if found.label != "queued":
                planned.leave_out(found.transaction_id, why)
        elif found.organization_id is not None:
            planned.chosen.setdefault(found.organization_id, []).append(found.transaction_id)
    return _in_order(planned, request.max_transactions)


def _in_order(planned: Plan, most: int | None) -> Plan:
    """Organizations and ids in order, and of them the first `most`."""
    left = planned.count if most is None else most
    chosen: dict[int, list[int]] = {}
    for organization in sorted(planned.chosen):
        ids = sorted(planned.chosen[organization])[:left]
        left -= len(ids)
        if ids:
            chosen[organization] = ids
    planned.chosen = chosen
    return planned


def _matching(connection: Connection, platform: Platform, request: RetryRequest, scope: Scope) -> Iterable[Found]:
    """Those of the kinds; a failed item whose transaction has a verdict by now is not failed."""
    if request.rules:
        any_kind = not (request.failed or request.undecided)
        for rule_id in request.rules:
            for found in retrying.judged_by(connection, platform, scope, rule_id):
                if any_kind or (request.failed and found.failed) or (request.undecided and found.undecided):
                    yield found
        return
    if request.failed or not request.undecided:
        yield from (found for found in retrying.failed(connection, platform, scope) if found.failed)
    if request.undecided:
        yield from retrying.undecided(connection, platform, scope)


def _why_not(found: Found) -> str | None:
    """Why a transaction is left alone, in words; None: it can be asked again."""
    reasons: tuple[tuple[Callable[[Found], bool], str], ...] = (
        (lambda one: one.deleted, "was deleted"),
        (lambda one: one.decided, "was decided by a person"),
        (lambda one: one.label == "queued", "is queued already"),
        (lambda one: one.organization_id is None, "belongs to no organization"),
        (lambda one: one.transaction_id > enqueuing.LARGEST_ID, "has too large an id for a batch"),
    )
    return next((why for applies, why in reasons if applies(found)), None)


def _named(connection: Connection, platform: Platform, request: RetryRequest) -> Plan:
    """The named ones: all of them, or none and each refused one with its reason."""
    ids = list(dict.fromkeys(request.transaction_ids))
    found = retrying.named(connection, platform, ids)
    within = set(ids) if request.batch is None else retrying.listed_in(connection, request.batch)
    owners = [set(request.organizations)] if request.organizations else []
    if request.batch is not None:
        owners.append({retrying.organization_of(connection, request.batch) or 0})
    kinds = None
    if request.has_kind:
        scope = Scope(batch=request.batch, organizations=request.organizations, transactions=tuple(ids))
        kinds = {one.transaction_id for one in _matching(connection, platform, request, scope)}
    planned, refused = Plan(), list[LeftOut]()
    for id_ in ids:
        one = found.get(id_)
        if one is None or id_ not in within or not all(one.organization_id in some for some in owners):
            why: str | None = _outside(request)
        else:
            why = _why_not(one) or _not_of_the_kind(one, kinds)
        if why is not None:
            refused.append(LeftOut(transaction_id=id_, why=why))
        elif one is not None and one.organization_id is not None:
            planned.chosen.setdefault(one.organization_id, []).append(id_)
    if refused:
        raise _refuse(refused)
    return _in_order(planned, request.max_transactions)


def _not_of_the_kind(one: Found, kinds: Collection[int] | None) -> str | None:
    """Why a named one is not meant; `kinds`: those of the kinds that are asked for, None: any will do."""
    if kinds is not None and one.transaction_id not in kinds:
        return f"is not of the kind that is asked for ({'failed' if one.failed else one.label})"
    if one.label == "null" and not one.failed:
        return 'was never audited: "gepp-audit enqueue" queues it'
    return None


def _outside(request: RetryRequest) -> str:
    if request.batch is not None:
        return f"is no transaction of batch {request.batch}"
    if request.organizations:
        return "is no transaction of this organization"
    return "is no transaction of the platform"


def _refuse(refused: Sequence[LeftOut]) -> OperatorError:
    lines = [f"  {one.transaction_id} {one.why}" for one in refused[:NAMED]]
    if len(refused) > NAMED:
        lines.append(f"  and {len(refused) - NAMED} more")
    return OperatorError(
        f"{counted(len(refused), 'transaction')} cannot be asked again, so none was:\n" + "\n".join(lines),
        fix="Leave them out.",
        code="not_retryable",
        exit_code=2,
    )


# -- queueing ----------------------------------------------------------------------------------------------------------


def _queue(
    connection: Connection, platform: Platform, request: RetryRequest, organization: int, ids: Sequence[int]
) -> tuple[list[NewBatch], list[int]]:
    marked = retrying.mark_queued(connection, platform, organization, ids)
    missed = sorted(set(ids) - set(marked)) if len(marked) != len(ids) else []
    if missed and request.transaction_ids:
        raise _refuse([LeftOut(transaction_id=id_, why="was taken or decided at this moment") for id_ in missed])
    made = [
        NewBatch(
            audit_history_id=enqueuing.insert_batch(
                connection,
                organization,
                part,
                # what the queue itself writes is in progress at once: the platform need not see it first
                status=IN_PROGRESS,
                triggered_by=request.triggered_by,
                forced=True,
            ),
            organization_id=organization,
            transaction_ids=tuple(part),
        )
        for part in _parts(marked, request.batch_size)
    ]
    return made, missed


def _parts(ids: Sequence[int], size: int | None) -> list[Sequence[int]]:
    step = size or max(len(ids), 1)
    return [ids[first : first + step] for first in range(0, len(ids), step)]


# -- orphans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Freed:
    """Transactions that were `queued` in no open batch, and are `null` again (on a dry run: would be)."""

    transaction_ids: tuple[int, ...]
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """The contract of `retry --orphans --json`."""
        data = {"freed_count": len(self.transaction_ids), "transaction_ids": list(self.transaction_ids)}
        return data | ({"dry_run": True} if self.dry_run else {})


def find_orphans(database: Database, statuses: Collection[str], organizations: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The transactions that are `queued` in no open batch, by id; nothing would ever ask them. OperatorError: no such
    organization.
    """
    database.read(lambda connection: require_organizations(connection, organizations))
    platform = database.read(detect)
    scope = Scope(organizations=organizations)

    def behind(after: int) -> list[int]:
        return database.read(lambda connection: retrying.orphans(connection, platform, statuses, scope, after))

    found = page = behind(0)
    while len(page) == retrying.PAGE:
        page = behind(page[-1])
        found = found + page
    return tuple(found)


def free_orphans(
    database: Database, ids: Sequence[int], statuses: Collection[str], organizations: tuple[int, ...] = ()
) -> Freed:
    """Set these orphans back to `null`, those that still are orphans, page by page; then they can be queued again."""
    platform = database.read(detect)
    scope = Scope(organizations=organizations)
    freed: list[int] = []
    for part in _parts(ids, retrying.PAGE):
        freed += database.write(
            lambda connection, part=part: retrying.free(connection, platform, statuses, scope, part)  # type: ignore[misc] # bound now
        )
    if freed:
        logs.info("orphans_freed", transactions=len(freed))
    return Freed(transaction_ids=tuple(freed))
