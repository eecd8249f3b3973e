"""Which audited or failed transactions can be asked again, and their way back into a batch; and orphans.

What failed is known by our failed items (kept 90 days), and by the label `failed` where the platform has it; an older
platform shows such a transaction as `null`. Everything is read in pages by transaction id, whatever the number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    cast,
    exists,
    false,
    func,
    literal,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from gepp_audit.database.listing import listed, listed_ids
from gepp_audit.database.platform import Platform, untouched
from gepp_audit.database.platform_tables import organizations, transactions
from gepp_audit.database.platform_tables import transaction_audit_history as history
from gepp_audit.database.rows import among
from gepp_audit.database.tables import items, live, state_is
from gepp_audit.database.types import AuditStatus
from gepp_audit.model import ItemState, RuleOutcome

#: transactions that are looked at in one statement
PAGE: Final = 1_000
#: as the platform calls a batch that is to be worked on
_WAITING: Final = ("in_progress", "pending")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A transaction as it stands, with what decides whether it can be asked again."""

    transaction_id: int
    organization_id: int | None
    #: its ai_audit_status
    label: str
    deleted: bool
    #: a person decided it
    decided: bool
    #: we have a failed item of it
    failed_here: bool

    @property
    def failed(self) -> bool:
        """Its last audit brought no verdict."""
        return self.label == "failed" or (self.label == "null" and self.failed_here)

    @property
    def undecided(self) -> bool:
        """An audit left it to a person."""
        return self.label == "no_action"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Where to look: in one batch, in some organizations, among some transactions, or everywhere."""

    batch: int | None = None
    organizations: tuple[int, ...] = ()
    transactions: tuple[int, ...] = ()


def failed(connection: Connection, platform: Platform, scope: Scope) -> Iterator[Found]:
    """The transactions whose last audit failed, by id within each of two sources; some may come twice."""
    yield from _pages(connection, lambda after: _failed_items(connection, platform, scope, after))
    if platform.has_failed_label:
        yield from _pages(connection, lambda after: _labelled(connection, platform, scope, "failed", after))


def undecided(connection: Connection, platform: Platform, scope: Scope) -> Iterator[Found]:
    """The transactions that an audit left to a person, by id."""
    yield from _pages(connection, lambda after: _labelled(connection, platform, scope, "no_action", after))


def judged_by(connection: Connection, platform: Platform, scope: Scope, rule_id: str) -> Iterator[Found]:
    """The transactions that this rule rejected or could not tell, by id within each kind."""
    rejected = _has_trigger(connection, transactions.c.reject_triggers, rule_id)
    yield from _pages(
        connection, lambda after: _labelled(connection, platform, scope, "rejected", after).where(rejected)
    )
    warned = _has_trigger(connection, transactions.c.warning_triggers, rule_id)

    def untold(after: int) -> Select[Any]:
        told = cast(transactions.c.ai_audit_status, Text).in_(("approved", "rejected", "no_action"))
        statement = _within(connection, _found(platform), scope).where(warned, told)
        return _page(statement.add_columns(transactions.c.ai_audit_note.label("note")), after)

    def could_not_tell(row: Any) -> bool:
        rules = row.note.get("rules") if isinstance(row.note, dict) else None
        return isinstance(rules, dict) and rules.get(rule_id) == RuleOutcome.CANNOT_TELL

    yield from _pages(connection, untold, could_not_tell)


def named(connection: Connection, platform: Platform, ids: Sequence[int]) -> dict[int, Found]:
    """These transactions as they stand, by id; those that do not exist are left out."""
    statement = _found(platform).where(among(connection, transactions.c.id, ids))
    return {row.id: _of(row) for row in connection.execute(statement)}


def listed_in(connection: Connection, audit_history_id: int) -> set[int]:
    """The ids that the batch lists."""
    listed = listed_ids(connection, audit_history_id)
    return set(connection.execute(select(listed.c.id)).scalars())


def organization_of(connection: Connection, audit_history_id: int) -> int | None:
    """Whose batch it is; None: there is none of this id."""
    found: int | None = connection.execute(
        select(history.c.organization_id).where(history.c.id == audit_history_id)
    ).scalar_one_or_none()
    return found


def mark_queued(connection: Connection, platform: Platform, organization_id: int, ids: Sequence[int]) -> list[int]:
    """Set those of `ids` to `queued` that still have an outcome (or failed) and are in no batch; returns them in order.

    What the platform holds at this moment, and what people decided meanwhile, is left out.
    """
    free = (
        select(transactions.c.id)
        .where(
            among(connection, transactions.c.id, ids),
            transactions.c.organization_id == organization_id,
            cast(transactions.c.ai_audit_status, Text) != "queued",
            ~exists().where(items.c.transaction_id == transactions.c.id, live()),
            *untouched(platform),
        )
        .with_for_update(key_share=True, skip_locked=True)
    )
    marked = connection.execute(
        update(transactions)
        .where(transactions.c.id.in_(free))
        .values(ai_audit_status=cast(literal("queued"), AuditStatus))
        .returning(transactions.c.id)
    ).scalars()
    return sorted(marked)


# -- orphans -----------------------------------------------------------------------------------------------------------


def orphans(
    connection: Connection, platform: Platform, statuses: Collection[str], scope: Scope, after: int = 0
) -> list[int]:
    """The first PAGE transactions behind the id `after` that are `queued` in no open batch, by id.

    Nothing would ever ask them: a batch that is gone left them behind. Those that were deleted or that a person decided
    are not meant. `statuses`: how the platform marks open batches.
    """
    statement = select(transactions.c.id).where(
        _is_orphan(connection, platform, statuses, scope), transactions.c.id > after
    )
    return list(connection.execute(statement.order_by(transactions.c.id).limit(PAGE)).scalars())


def count_orphans(connection: Connection, platform: Platform, statuses: Collection[str], most: int) -> tuple[int, bool]:
    """How many orphans are among the first `most` queued transactions; True: there are no more queued ones than that.

    Bounded, for whoever asks often. What is queued is found by the platform's index (where there is none, nothing is
    looked at); most of it has a live item of ours, and only the rest is held against the lists of the open batches.
    """
    if connection.dialect.name != "postgresql":
        return _count_orphans(connection, platform, statuses, most)
    if connection.execute(_INDEX).first() is None:
        return 0, False
    # where much was queued when it was last analyzed, PostgreSQL hopes to meet the first ones soon, and reads it all
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    found = _count_orphans(connection, platform, statuses, most)
    connection.exec_driver_sql("SET LOCAL enable_seqscan TO DEFAULT")
    return found


#: an index of transactions by which what is queued is found
_INDEX: Final = text(
    "SELECT 1 FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)"
    " WHERE indrelid = to_regclass('transactions') AND attname = 'ai_audit_status' AND indisvalid"
)


def _count_orphans(
    connection: Connection, platform: Platform, statuses: Collection[str], most: int
) -> tuple[int, bool]:
    queued = [transactions.c.ai_audit_status == cast(literal("queued"), AuditStatus), *untouched(platform)]
    if connection.dialect.name == "sqlite":  # whose index begins with the organization
        queued.append(transactions.c.organization_id.in_(select(organizations.c.id)))
    some = select(transactions.c.id).where(*queued).limit(most).cte("some")
    is_live = exists().where(items.c.transaction_id == some.c.id, live())
    # by its limit a query of its own, which comes before the lists are read: mostly they need not be
    rest = select(some.c.id).where(~is_live).limit(most).cte("rest")
    orphaned = select(func.count()).select_from(rest).where(rest.c.id.not_in(_listed_in_open(connection, statuses)))
    looked_at = select(func.count()).select_from(some)
    count, of = connection.execute(select(orphaned.scalar_subquery(), looked_at.scalar_subquery())).one()
    return count, of < most


def free(
    connection: Connection, platform: Platform, statuses: Collection[str], scope: Scope, ids: Sequence[int]
) -> list[int]:
    """Set those of `ids` that still are orphans back to `null`; returns them in order."""
    chosen = (
        select(transactions.c.id)
        .where(among(connection, transactions.c.id, ids), _is_orphan(connection, platform, statuses, scope))
        .with_for_update(key_share=True, skip_locked=True)
    )
    freed = connection.execute(
        update(transactions)
        .where(transactions.c.id.in_(chosen))
        .values(ai_audit_status=cast(literal("null"), AuditStatus))
        .returning(transactions.c.id)
    ).scalars()
    return sorted(freed)


def _is_orphan(
    connection: Connection, platform: Platform, statuses: Collection[str], scope: Scope
) -> ColumnElement[bool]:
    conditions = [
        transactions.c.ai_audit_status == cast(literal("queued"), AuditStatus),
        transactions.c.id.not_in(_listed_in_open(connection, statuses)),
        ~exists().where(items.c.transaction_id == transactions.c.id, live()),
        *untouched(platform),
    ]
    if scope.organizations:
        conditions.append(transactions.c.organization_id.in_(scope.organizations))
    return and_(*conditions)


def _listed_in_open(connection: Connection, statuses: Collection[str]) -> Select[Any]:
    open_ = and_(history.c.status.in_({*_WAITING, *statuses}), history.c.deleted_date.is_(None))
    return listed(connection, open_)


# -- statements --------------------------------------------------------------------------------------------------------


def _found(platform: Platform, failed_here: ColumnElement[bool] | None = None) -> Select[Any]:
    decided = transactions.c.is_user_audit if "is_user_audit" in platform.transaction_columns else false()
    if failed_here is None:
        failed_here = exists().where(items.c.transaction_id == transactions.c.id, state_is(ItemState.FAILED))
    return select(
        transactions.c.id,
        transactions.c.organization_id,
        cast(transactions.c.ai_audit_status, Text).label("label"),
        or_(transactions.c.deleted_date.is_not(None), transactions.c.is_active.is_(False)).label("deleted"),
        decided.label("decided"),
        failed_here.label("failed_here"),
    )


def _of(row: Any) -> Found:
    return Found(
        transaction_id=row.id,
        organization_id=row.organization_id,
        label=row.label,
        deleted=bool(row.deleted),
        decided=bool(row.decided),
        failed_here=bool(row.failed_here),
    )


def _failed_items(connection: Connection, platform: Platform, scope: Scope, after: int) -> Select[Any]:
    """Driven by the failed items, which are few and indexed.

    An item says whose the transaction was; whose it is now, the platform says: one that was moved since is not asked
    again for those whom it has left, nor by them for those who have it.
    """
    ours = [state_is(ItemState.FAILED), items.c.transaction_id > after]
    if scope.batch is not None:
        ours.append(items.c.audit_history_id == scope.batch)
    if scope.organizations:
        ours.append(items.c.organization_id.in_(scope.organizations))
    if scope.transactions:
        ours.append(among(connection, items.c.transaction_id, scope.transactions))
    some = select(items.c.transaction_id).where(*ours).distinct().order_by(items.c.transaction_id).limit(PAGE)
    ids = some.subquery("some")
    statement = _found(platform, literal(True)).add_columns(ids.c.transaction_id.label("place"), null().label("note"))
    theirs = and_(transactions.c.id == ids.c.transaction_id, *_owned(scope))
    return statement.select_from(ids.outerjoin(transactions, theirs)).order_by(ids.c.transaction_id)


def _labelled(connection: Connection, platform: Platform, scope: Scope, label: str, after: int) -> Select[Any]:
    wanted = transactions.c.ai_audit_status == cast(literal(label), AuditStatus)
    return _page(_within(connection, _found(platform), scope).where(wanted), after)


def _page(statement: Select[Any], after: int) -> Select[Any]:
    place = transactions.c.id.label("place")
    return statement.add_columns(place).where(transactions.c.id > after).order_by(transactions.c.id).limit(PAGE)


def _within(connection: Connection, statement: Select[Any], scope: Scope) -> Select[Any]:
    if scope.batch is not None:
        listed = listed_ids(connection, scope.batch)
        statement = statement.where(transactions.c.id.in_(select(listed.c.id)))
    statement = statement.where(*_owned(scope))
    if scope.transactions:
        statement = statement.where(among(connection, transactions.c.id, scope.transactions))
    return statement


def _owned(scope: Scope) -> list[ColumnElement[bool]]:
    """The conditions that a transaction is, now, of the batch's organization and of one of those that are named."""
    conditions: list[ColumnElement[bool]] = []
    if scope.batch is not None:
        owner = select(history.c.organization_id).where(history.c.id == scope.batch).scalar_subquery()
        conditions.append(transactions.c.organization_id == owner)
    if scope.organizations:
        conditions.append(transactions.c.organization_id.in_(scope.organizations))
    return conditions


def _has_trigger(connection: Connection, triggers: Any, rule_id: str) -> ColumnElement[bool]:
    """The condition that a list of rule ids holds this one: PostgreSQL has an index for it."""
    if connection.dialect.name == "postgresql":
        holds: ColumnElement[bool] = cast(triggers, JSONB).contains([rule_id])
        return holds
    each = func.json_each(triggers).table_valued("value", name="trigger_each")
    return exists(select(1).select_from(each).where(each.c.value == rule_id))


def _pages(connection: Connection, page: Any, keep: Any = None) -> Iterator[Found]:
    """The rows of `page(after)`, page after page, while there are any."""
    after = 0
    while True:
        rows = connection.execute(page(after)).all()
        for row in rows:
            if row.id is not None and (keep is None or keep(row)):
                yield _of(row)
        if len(rows) < PAGE:
            return
        after = rows[-1].place
