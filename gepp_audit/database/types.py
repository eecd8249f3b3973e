"""Column types that mean the same on PostgreSQL and on SQLite.

Datetimes go in and come out aware and in UTC, decimals exact, lists of ids as lists, JSON as Python values. SQLite
keeps datetimes as sortable text, decimals as text and the rest as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Integer,
    Numeric,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, JSONB
from sqlalchemy.types import JSON, TypeEngine

#: the labels of the platform's enum; older platforms lack the last one
AI_AUDIT_LABELS: Final = (
    "null",
    "queued",
    "approved",
    "rejected",
    "no_action",
    "failed",
)

#: an autoincrementing 64-bit key: SQLite knows such only as INTEGER
BigKey: Final = BigInteger().with_variant(Integer(), "sqlite")

_SQLITE_FORMAT: Final = "%Y-%m-%d %H:%M:%S.%f"


def sqlite_timestamp(moment: datetime) -> str:
    """`moment` as SQLite keeps it: UTC, microseconds, fixed width, so that text order is time order."""
    return moment.astimezone(UTC).strftime(_SQLITE_FORMAT)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; a naive one is refused. `timestamptz` on PostgreSQL, sortable text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=True) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime reached the database layer; give it a time zone")
        return value if dialect.name == "postgresql" else sqlite_timestamp(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return _aware(value)


class NaiveUtcDateTime(TypeDecorator[datetime]):
    """UTC in a `timestamp without time zone` column: an aware value would be shifted by the session's zone."""

    impl = DateTime(timezone=False)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=False) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime reached the database layer; give it a time zone")
        return value.astimezone(UTC).replace(tzinfo=None) if dialect.name == "postgresql" else sqlite_timestamp(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return _aware(value)


def _aware(value: Any) -> datetime | None:
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal that never passes through a float: `numeric` on PostgreSQL, text on SQLite."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(self.impl_instance if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return format(value, "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is None or isinstance(value, Decimal):
            return value
        return Decimal(str(value))


class IdList(TypeDecorator[Sequence[int]]):
    """A list of ids: `integer[]` or `bigint[]` on PostgreSQL, JSON text on SQLite."""

    impl = Text
    cache_ok = True

    def __init__(self, wide: bool = False) -> None:
        super().__init__()
        self.wide = wide

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(ARRAY(BigInteger() if self.wide else Integer()))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Sequence[int] | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return json.dumps(list(value), separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: Dialect) -> Sequence[int] | None:
        ids: Sequence[int] | None = json.loads(value) if isinstance(value, str) else value
        return ids


#: JSON: `jsonb` on PostgreSQL, text on SQLite; Python's None is SQL NULL
JsonValue: Final = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

#: the platform's enum on PostgreSQL, text on SQLite. Labels are not checked here: what a platform has is detected.
AuditStatus: Final = Text().with_variant(
    ENUM(
        *AI_AUDIT_LABELS,
        name="ai_audit_status_enum",
        create_type=True,
        validate_strings=False,
    ),
    "postgresql",
)

RULE_TYPES: Final = (
    "consistency",
    "redundancy",
    "completeness",
    "accuracy",
    "validity",
    "compliance",
    "validation",
    "improvement",
)
RuleType: Final = Text().with_variant(ENUM(*RULE_TYPES, name="rule_type_enum", create_type=True), "postgresql")
