"""The platform's tables as far as they are read, written, or created in an embedded database of ours.

On a platform these tables are never created nor altered; columns marked `info={"new": True}` are missing in older
platforms, and `platform.py` detects what is there.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    false,
    text,
    true,
)

from gepp_audit.database.types import (
    AuditStatus,
    BigKey,
    ExactDecimal,
    IdList,
    JsonValue,
    NaiveUtcDateTime,
    RuleType,
    UtcDateTime,
)

platform_metadata: Final = MetaData()

_NEW: Final[dict[str, Any]] = {"new": True}

#: the status that every open batch has once we work on it
IN_PROGRESS: Final = "in_progress"


def _empty_list(type_: Any) -> Any:
    """The platform's `{}` or `[]` default, spelled so that it is an empty list on both databases."""
    return text("'[]'") if type_ is JsonValue else text("'{}'")


organizations: Final = Table(
    "organizations",
    platform_metadata,
    Column("id", BigKey, primary_key=True),
    Column("name", String(255)),
    Column("is_active", Boolean, server_default=true()),
    Column("deleted_date", UtcDateTime()),
    Column("allow_ai_audit", Boolean, server_default=false()),
)

main_materials: Final = Table(
    "main_materials",
    platform_metadata,
    Column("id", BigKey, primary_key=True),
    Column("name_en", String(255)),
    Column("name_th", String(255)),
    Column("code", String(50)),
)

transactions: Final = Table(
    "transactions",
    platform_metadata,
    Column("id", BigKey, primary_key=True),
    Column(
        "organization_id",
        BigInteger,
        ForeignKey("organizations.id", ondelete="SET NULL"),
    ),
    Column("status", String(50), server_default="pending"),
    Column("ai_audit_status", AuditStatus, nullable=False, server_default="null"),
    Column("ai_audit_note", JsonValue),
    Column("reject_triggers", JsonValue, server_default=_empty_list(JsonValue)),
    Column("warning_triggers", JsonValue, server_default=_empty_list(JsonValue)),
    Column("ai_audit_date", NaiveUtcDateTime(), info=_NEW),
    Column("audit_tokens", JsonValue, info=_NEW),
    Column("is_user_audit", Boolean, nullable=False, server_default=false(), info=_NEW),
    Column("weight_kg", ExactDecimal(10, 3)),
    Column("total_amount", ExactDecimal(12, 2)),
    Column("transaction_date", UtcDateTime()),
    Column("arrival_date", UtcDateTime()),
    Column("transaction_method", String(50), nullable=False, server_default="origin"),
    Column("hazardous_level", Integer),
    Column("treatment_method", String(100)),
    Column("disposal_method", String(100)),
    Column("notes", Text),
    Column("images", JsonValue),
    Column("vehicle_info", JsonValue),
    Column("driver_info", JsonValue),
    Column("origin_coordinates", JsonValue),
    Column("destination_coordinates", JsonValue),
    Column("created_date", UtcDateTime()),
    Column("updated_date", UtcDateTime()),
    Column("deleted_date", UtcDateTime()),
    Column("is_active", Boolean, server_default=true()),
    CheckConstraint("hazardous_level BETWEEN 0 AND 5", name="ck_transactions_hazardous_level"),
    CheckConstraint("CAST(weight_kg AS numeric) >= 0", name="ck_transactions_weight"),
    CheckConstraint("CAST(total_amount AS numeric) >= 0", name="ck_transactions_amount"),
    Index("ix_transactions_organization_audit", "organization_id", "ai_audit_status"),
)

transaction_records: Final = Table(
    "transaction_records",
    platform_metadata,
    Column("id", BigKey, primary_key=True),
    Column(
        "created_transaction_id",
        BigInteger,
        ForeignKey("transactions.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("is_active", Boolean, server_default=true()),
    Column("deleted_date", UtcDateTime()),
    Column("status", String(50)),
    Column("transaction_type", String(50)),
    Column("main_material_id", BigInteger, nullable=False),
    Column("unit", String(100)),
    Column("origin_quantity", ExactDecimal(15, 4), nullable=False, server_default="0"),
    Column("origin_weight_kg", ExactDecimal(15, 4), nullable=False, server_default="0"),
    Column("origin_price_per_unit", ExactDecimal(15, 4), nullable=False, server_default="0"),
    Column("total_amount", ExactDecimal(15, 4), nullable=False, server_default="0"),
    Column("hazardous_level", Integer),
    Column("treatment_method", String(255)),
    Column("disposal_method", String(255)),
    Column("notes", Text),
    Column("images", JsonValue, server_default=_empty_list(JsonValue)),
)

audit_rules: Final = Table(
    "audit_rules",
    platform_metadata,
    Column("id", BigKey, primary_key=True),
    Column("rule_id", String(20), nullable=False, unique=True),
    Column("rule_type", RuleType, nullable=False),
    Column("rule_name", String(500), nullable=False),
    Column("process", String(255)),
    Column("condition", Text),
    Column("thresholds", Text),
    Column("metrics", Text),
    Column("actions", JsonValue, server_default=_empty_list(JsonValue)),
    Column("is_global", Boolean, server_default=false()),
    Column("organization_id", BigInteger),
    Column("is_active", Boolean, server_default=true()),
    Column("deleted_date", UtcDateTime()),
)

transaction_audit_history: Final = Table(
    "transaction_audit_history",
    platform_metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("organization_id", Integer, nullable=False),
    Column("triggered_by_user_id", Integer),
    Column("transactions", IdList(), nullable=False, server_default=text("'{}'")),
    Column("audit_records", IdList(), server_default=text("'{}'"), info=_NEW),
    Column("audit_info", JsonValue),
    Column("total_transactions", Integer, server_default="0"),
    Column("processed_transactions", Integer, server_default="0"),
    Column("approved_count", Integer, server_default="0"),
    Column("rejected_count", Integer, server_default="0"),
    Column("status", String(50), server_default="completed"),
    Column("error_message", Text),
    Column("started_at", UtcDateTime(), nullable=False),
    Column("completed_at", UtcDateTime()),
    Column("created_date", UtcDateTime()),
    Column("deleted_date", UtcDateTime()),
    Index("ix_transaction_audit_history_organization", "organization_id"),
    Index("ix_transaction_audit_history_created", "created_date"),
    Index("ix_transaction_audit_history_status", "status"),
)

#: newer platforms only
transaction_audits: Final = Table(
    "transaction_audits",
    platform_metadata,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column(
        "transaction_id",
        BigInteger,
        ForeignKey("transactions.id"),
        nullable=False,
        index=True,
    ),
    Column("organization_id", BigInteger, ForeignKey("organizations.id"), nullable=False),
    Column("audit_notes", JsonValue, nullable=False),
    Column("by_human", Boolean, nullable=False, server_default=false()),
    Column("auditor_id", BigInteger),
    Column("audit_type", String(50)),
    Column("audit_status", String(50)),
    Column("ai_audit_status", String(50)),
    Column("processing_time_ms", Integer),
    Column("token_usage", JsonValue),
    Column("model_version", String(100)),
    Column("created_by_id", BigInteger),
    Column("is_active", Boolean, server_default=true()),
    Column("created_date", UtcDateTime()),
    Column("updated_date", UtcDateTime()),
    Column("deleted_date", UtcDateTime()),
)

#: stands only in a database whose platform tables `init-db` created itself: what may be imported into
embedded_marker: Final = Table(
    "gepp_audit_embedded",
    platform_metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("created_at", UtcDateTime(), nullable=False),
)
