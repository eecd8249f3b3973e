"""What this platform's version has, and its transactions as an audit may see them.

Reads only. Columns, labels and tables that older platforms lack are detected once per run and done without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, Text, cast, or_, select
from sqlalchemy.engine import Row

from gepp_audit.audit.rules import ordered, parse_actions
from gepp_audit.database.platform_tables import (
    audit_rules,
    main_materials,
    organizations,
    transaction_audit_history,
    transaction_audits,
    transaction_records,
    transactions,
)
from gepp_audit.database.rows import among, among_later, ids_of, kept
from gepp_audit.model import Record, Rule, Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """What the platform's database has of the things that only newer versions have."""

    #: names of the columns of `transactions`
    transaction_columns: frozenset[str]
    #: names of the columns of `transaction_audit_history`
    history_columns: frozenset[str]
    #: the enum has the label `failed`
    has_failed_label: bool
    #: the table `transaction_audits` exists
    has_audits: bool

    @property
    def failed_label(self) -> str:
        """What a transaction that could not be audited is marked with."""
        return "failed" if self.has_failed_label else "null"


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A transaction with the facts that decide whether it may be asked about or written to."""

    transaction: Transaction
    queued: bool
    deleted: bool
    #: a person decided it
    decided: bool


def detect(connection: Connection) -> Platform:
    """Look which version of the platform this is. An error of the database where it has not even its tables."""
    found: dict[str, set[str]] = {}
    for place, name in connection.exec_driver_sql(_SHAPE[connection.dialect.name]):
        found.setdefault(place, set()).add(name)
    nothing: set[str] = set()
    return Platform(
        transaction_columns=frozenset(found.get(transactions.name, nothing)),
        history_columns=frozenset(found.get(transaction_audit_history.name, nothing)),
        has_failed_label=connection.dialect.name != "postgresql" or "failed" in found.get(_LABELS, nothing),
        has_audits=transaction_audits.name in found,
    )


_LABELS: Final = "ai_audit_status_enum"
_COLUMNS_OF: Final = (transactions.name, transaction_audit_history.name)
#: the columns of two tables, the labels of the enum, and the table that may be missing, as (of what, name): one plain
#: statement, since an inspector asks for all there is to know of a column, in statements that are slow to build
_SHAPE: Final = {
    "postgresql": " UNION ALL ".join(
        (
            *(
                f"SELECT '{table}', attname::text FROM pg_attribute"
                f" WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
                for table in _COLUMNS_OF
            ),
            f"SELECT '{_LABELS}', enumlabel::text FROM pg_enum WHERE enumtypid = to_regtype('{_LABELS}')",
            f"SELECT '{transaction_audits.name}', '' WHERE to_regclass('{transaction_audits.name}') IS NOT NULL",
        )
    ),
    "sqlite": " UNION ALL ".join(
        (
            *(f"SELECT '{table}', name FROM pragma_table_xinfo('{table}')" for table in _COLUMNS_OF),
            f"SELECT '{transaction_audits.name}', '' FROM sqlite_master WHERE name = '{transaction_audits.name}'",
        )
    ),
}


def load_rules(connection: Connection, organization_id: int) -> tuple[Rule, ...]:
    """The rules that hold for the organization: active, not deleted, its own or global, in a stable order."""
    found = connection.execute(
        select(audit_rules).where(
            audit_rules.c.is_active.is_(True),
            audit_rules.c.deleted_date.is_(None),
            or_(audit_rules.c.is_global.is_(True), audit_rules.c.organization_id == organization_id),
        )
    )
    return tuple(
        ordered(
            Rule(
                rule_id=row.rule_id,
                rule_type=str(row.rule_type),
                name=row.rule_name,
                process=row.process,
                condition=row.condition,
                thresholds=row.thresholds,
                metrics=row.metrics,
                actions=parse_actions(row.actions),
                is_global=bool(row.is_global),
            )
            for row in found
        )
    )


def load(connection: Connection, platform: Platform, ids: Sequence[int], *, lock: bool = False) -> dict[int, Loaded]:
    """The transactions with these ids that exist, with their records, by id: two statements whatever their number.

    `lock`: only those that nobody else has locked, and they stay locked (FOR NO KEY UPDATE SKIP LOCKED) until the
    transaction of the database ends.
    """
    decidable = "is_user_audit" in platform.transaction_columns
    statement = {
        (False, False): _load_old,
        (False, True): _lock_old,
        (True, False): _load_new,
        (True, True): _lock_new,
    }[decidable, lock]
    found = connection.execute(statement(connection), ids_of(connection, "load_ids", ids)).all()
    records = _records(connection, [row.id for row in found])
    return {row.id: _loaded(row, records.get(row.id, ())) for row in found}


def existing(connection: Connection, ids: Iterable[int]) -> set[int]:
    """Which of these transactions exist, locked by somebody or not."""
    return set(connection.execute(select(transactions.c.id).where(among(connection, transactions.c.id, ids))).scalars())


def untouched(platform: Platform) -> list[ColumnElement[bool]]:
    """The conditions that a transaction is there and that no person decided it."""
    conditions: list[ColumnElement[bool]] = [
        transactions.c.deleted_date.is_(None),
        transactions.c.is_active.is_not(False),
    ]
    if "is_user_audit" in platform.transaction_columns:
        conditions.append(transactions.c.is_user_audit.is_(False))
    return conditions


def auditing_organizations(connection: Connection, ids: Iterable[int]) -> set[int]:
    """Which of these organizations let an audit set a transaction's own status (`allow_ai_audit`)."""
    found = connection.execute(_auditing(connection), ids_of(connection, "auditing_ids", set(ids)))
    return set(found.scalars())


@kept
def _auditing(connection: Connection) -> Select[Any]:
    return select(organizations.c.id).where(
        among_later(connection, organizations.c.id, "auditing_ids"), organizations.c.allow_ai_audit.is_(True)
    )


def organization_name(connection: Connection, organization_id: int) -> str | None:
    """What the organization is called; None: it has no name, or there is none of this id."""
    found = connection.execute(select(organizations.c.name).where(organizations.c.id == organization_id))
    return found.scalar_one_or_none()


_SENT: Final = (
    "id",
    "organization_id",
    "status",
    "transaction_method",
    "weight_kg",
    "total_amount",
    "transaction_date",
    "arrival_date",
    "hazardous_level",
    "treatment_method",
    "disposal_method",
    "notes",
    "images",
    "vehicle_info",
    "driver_info",
    "origin_coordinates",
    "destination_coordinates",
    "deleted_date",
    "is_active",
)


def _transactions(connection: Connection, *, decidable: bool, lock: bool) -> Select[Any]:
    columns = [transactions.c[name] for name in _SENT]
    if decidable:
        columns.append(transactions.c.is_user_audit)
    label = cast(transactions.c.ai_audit_status, Text).label("ai_audit_status")
    statement = select(*columns, label).where(among_later(connection, transactions.c.id, "load_ids"))
    return statement.with_for_update(key_share=True, skip_locked=True) if lock else statement


_load_old = kept(partial(_transactions, decidable=False, lock=False))
_lock_old = kept(partial(_transactions, decidable=False, lock=True))
_load_new = kept(partial(_transactions, decidable=True, lock=False))
_lock_new = kept(partial(_transactions, decidable=True, lock=True))


def _loaded(row: Row[Any], records: Sequence[Record]) -> Loaded:
    return Loaded(
        transaction=Transaction(
            id=row.id,
            organization_id=row.organization_id or 0,
            status=row.status,
            transaction_method=row.transaction_method,
            weight_kg=row.weight_kg,
            total_amount=row.total_amount,
            transaction_date=row.transaction_date,
            arrival_date=row.arrival_date,
            hazardous_level=row.hazardous_level,
            treatment_method=row.treatment_method,
            disposal_method=row.disposal_method,
            notes=row.notes,
            image_count=_count(row.images),
            vehicle_info=row.vehicle_info,
            driver_info=row.driver_info,
            origin_coordinates=row.origin_coordinates,
            destination_coordinates=row.destination_coordinates,
            records=tuple(records),
        ),
        queued=row.ai_audit_status == "queued",
        deleted=row.deleted_date is not None or row.is_active is False,
        decided=bool(getattr(row, "is_user_audit", False)),
    )


@kept
def _records_of(connection: Connection) -> Select[Any]:
    record, material = transaction_records, main_materials
    return (
        select(record, material.c.name_en, material.c.name_th, material.c.code)
        .select_from(record.outerjoin(material, material.c.id == record.c.main_material_id))
        .where(
            among_later(connection, record.c.created_transaction_id, "load_ids"),
            record.c.deleted_date.is_(None),
            record.c.is_active.is_not(False),
        )
        .order_by(record.c.created_transaction_id, record.c.id)
    )


def _records(connection: Connection, ids: Sequence[int]) -> Mapping[int, Sequence[Record]]:
    found = connection.execute(_records_of(connection), ids_of(connection, "load_ids", ids))
    by_transaction: dict[int, list[Record]] = {}
    for row in found:
        by_transaction.setdefault(row.created_transaction_id, []).append(_record(row))
    return by_transaction


def _record(row: Row[Any]) -> Record:
    names = dict.fromkeys(name for name in (row.name_en, row.name_th) if name)
    return Record(
        id=row.id,
        status=row.status,
        transaction_type=row.transaction_type,
        main_material=" / ".join(names) or None,
        main_material_code=row.code,
        unit=row.unit,
        origin_quantity=row.origin_quantity,
        origin_weight_kg=row.origin_weight_kg,
        origin_price_per_unit=row.origin_price_per_unit,
        total_amount=row.total_amount,
        hazardous_level=row.hazardous_level,
        treatment_method=row.treatment_method,
        disposal_method=row.disposal_method,
        notes=row.notes,
        image_count=_count(row.images),
    )


def _count(images: Any) -> int:
    return len(images) if isinstance(images, list) else 0
