"""A platform's database with a few rows for tests, written by plain SQL as the platform itself would."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from sqlalchemy import text

from gepp_audit.database.engine import Database, open_database

OLD = """
CREATE TYPE ai_audit_status_enum AS ENUM ('null', 'queued', 'approved', 'rejected', 'no_action');
CREATE TYPE rule_type_enum AS ENUM ('consistency', 'redundancy', 'completeness', 'accuracy', 'validity', 'compliance',
    'validation', 'improvement');
CREATE TABLE organizations (
    id bigserial PRIMARY KEY, name varchar(255), is_active boolean DEFAULT true, deleted_date timestamptz,
    allow_ai_audit boolean DEFAULT false, owner_id bigint);
CREATE TABLE user_locations (id bigserial PRIMARY KEY, display_name varchar(255));
CREATE TABLE main_materials (id bigserial PRIMARY KEY, name_en varchar(255), name_th varchar(255), code varchar(50));
CREATE TABLE transactions (
    id bigserial PRIMARY KEY,
    organization_id bigint REFERENCES organizations (id) ON DELETE SET NULL,
    status varchar(50) DEFAULT 'pending',
    ai_audit_status ai_audit_status_enum NOT NULL DEFAULT 'null',
    ai_audit_note jsonb,
    reject_triggers jsonb DEFAULT '[]', warning_triggers jsonb DEFAULT '[]',
    weight_kg numeric(10, 3) CHECK (weight_kg >= 0),
    total_amount numeric(12, 2) CHECK (total_amount >= 0),
    transaction_date timestamptz, arrival_date timestamptz,
    transaction_method varchar(50) NOT NULL DEFAULT 'origin'
        CHECK (transaction_method IN ('origin', 'transport', 'transform', 'qr_input', 'scale_input')),
    hazardous_level integer CHECK (hazardous_level BETWEEN 0 AND 5),
    treatment_method varchar(100), disposal_method varchar(100), notes text, images jsonb,
    vehicle_info jsonb, driver_info jsonb, origin_coordinates jsonb, destination_coordinates jsonb,
    origin_id bigint REFERENCES user_locations (id), created_by_id bigint REFERENCES user_locations (id),
    approved_by_id bigint REFERENCES user_locations (id),
    transaction_records bigint[] NOT NULL DEFAULT '{}',
    created_date timestamptz DEFAULT now(), updated_date timestamptz DEFAULT now(), deleted_date timestamptz,
    is_active boolean DEFAULT true);
CREATE INDEX transactions_organization ON transactions (organization_id);
CREATE INDEX transactions_status ON transactions (status);
CREATE INDEX transactions_audit ON transactions (ai_audit_status);
CREATE INDEX transactions_note ON transactions USING gin (ai_audit_note);
CREATE INDEX transactions_reject ON transactions USING gin (reject_triggers);
CREATE INDEX transactions_created ON transactions (created_date DESC);
CREATE TABLE transaction_records (
    id bigserial PRIMARY KEY,
    created_transaction_id bigint NOT NULL REFERENCES transactions (id) ON DELETE CASCADE,
    is_active boolean DEFAULT true, deleted_date timestamptz, status varchar(50), transaction_type varchar(50),
    main_material_id bigint NOT NULL, material_id bigint, category_id bigint NOT NULL, unit varchar(100),
    origin_quantity numeric(15, 4) NOT NULL DEFAULT 0, origin_weight_kg numeric(15, 4) NOT NULL DEFAULT 0,
    origin_price_per_unit numeric(15, 4) NOT NULL DEFAULT 0, total_amount numeric(15, 4) NOT NULL DEFAULT 0,
    hazardous_level integer, treatment_method varchar(255), disposal_method varchar(255), notes text,
    images jsonb DEFAULT '[]', created_by_id bigint NOT NULL);
CREATE INDEX transaction_records_transaction ON transaction_records (created_transaction_id);
CREATE TABLE audit_rules (
    id bigserial PRIMARY KEY, rule_id varchar(20) UNIQUE NOT NULL, rule_type rule_type_enum NOT NULL,
    rule_name varchar(500) NOT NULL, process varchar(255), condition text, thresholds text, metrics text,
    actions jsonb DEFAULT '[]', is_global boolean DEFAULT false, organization_id bigint, is_active boolean DEFAULT true,
    deleted_date timestamptz);
CREATE TABLE transaction_audit_history (
    id serial PRIMARY KEY,
    organization_id integer NOT NULL REFERENCES organizations (id),
    triggered_by_user_id integer REFERENCES user_locations (id),
    transactions integer[] NOT NULL DEFAULT '{}',
    audit_info jsonb,
    total_transactions integer DEFAULT 0, processed_transactions integer DEFAULT 0, approved_count integer DEFAULT 0,
    rejected_count integer DEFAULT 0, status varchar(50) DEFAULT 'completed', error_message text,
    started_at timestamptz NOT NULL, completed_at timestamptz, created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(), deleted_date timestamptz);
CREATE INDEX transaction_audit_history_organization ON transaction_audit_history (organization_id);
CREATE INDEX transaction_audit_history_created ON transaction_audit_history (created_date DESC);
CREATE INDEX transaction_audit_history_status ON transaction_audit_history (status);
CREATE INDEX transaction_audit_history_alive ON transaction_audit_history (deleted_date) WHERE deleted_date IS NULL;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_date = clock_timestamp(); RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER stamp BEFORE UPDATE ON transaction_audit_history FOR EACH ROW EXECUTE FUNCTION stamp();
"""

NEW = """
ALTER TYPE ai_audit_status_enum ADD VALUE 'failed';
ALTER TABLE organizations ADD COLUMN public_form_key varchar(32) NOT NULL UNIQUE;
ALTER TABLE transactions ADD COLUMN ai_audit_date timestamp, ADD COLUMN audit_tokens jsonb,
    ADD COLUMN is_user_audit boolean NOT NULL DEFAULT false;
ALTER TABLE transaction_audit_history ADD COLUMN audit_records integer[] DEFAULT '{}';
CREATE TABLE transaction_audits (
    id bigserial PRIMARY KEY,
    transaction_id bigint NOT NULL REFERENCES transactions (id),
    organization_id bigint NOT NULL REFERENCES organizations (id),
    audit_notes jsonb NOT NULL, by_human boolean NOT NULL DEFAULT false, auditor_id bigint,
    audit_type varchar(50) CHECK (audit_type IN ('ai_sync', 'ai_async', 'manual')),
    audit_status varchar(50), ai_audit_status varchar(50), processing_time_ms integer, token_usage jsonb,
    model_version varchar(100), created_by_id bigint, is_active boolean DEFAULT true,
    created_date timestamptz, updated_date timestamptz, deleted_date timestamptz);
"""

_JSON = {
    "images", "ai_audit_note", "reject_triggers", "warning_triggers", "actions", "vehicle_info", "driver_info",
    "origin_coordinates", "destination_coordinates", "audit_info", "audit_tokens",
}  # fmt: skip
_LISTS = {"transactions", "audit_records", "transaction_records"}
REJECT = [{"type": "system_action", "action": "reject", "message": "not acceptable"}]
WARN = [{"type": "system_action", "action": "Flag for Auditor Review"}]


@dataclass
class Platform:
    """One platform's database with rows for tests: `version` is `embedded` (SQLite), `old` or `new` (PostgreSQL)."""

    url: str
    version: str
    _next: dict[str, int] = field(default_factory=dict)

    @property
    def is_postgresql(self) -> bool:
        return self.version != "embedded"

    @property
    def is_new(self) -> bool:
        return self.version != "old"

    @property
    def failed_label(self) -> str:
        return "failed" if self.is_new else "null"

    @cached_property
    def database(self) -> Database:
        """The product's own door to it."""
        return open_database(self.url)

    def close(self) -> None:
        if "database" in self.__dict__:
            self.database.close()

    def rows(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """What a query returns; JSON of SQLite is parsed."""
        found = self.database.read(lambda connection: connection.execute(text(statement), values).mappings().all())
        return [{name: self._read(name, value) for name, value in row.items()} for row in found]

    def one(self, statement: str, **values: Any) -> dict[str, Any]:
        [row] = self.rows(statement, **values)
        return row

    def value(self, statement: str, **values: Any) -> Any:
        return next(iter(self.one(statement, **values).values()))

    def execute(self, statement: str, **values: Any) -> None:
        self.database.write(lambda connection: connection.execute(text(statement), values) and None)

    def _read(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and (name in _JSON or name in _LISTS or name in ("verdict", "rules", "audit_notes")):
            return json.loads(value)
        return value

    def insert(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert rows by plain SQL, as the platform would."""
        values = list(rows)
        if not values:
            return
        columns = list(values[0])
        places = ", ".join(self._place(name) for name in columns)
        statement = text(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})")
        plain = [{name: self._plain(name, row[name]) for name in columns} for row in values]
        self.database.write(lambda connection: connection.execute(statement, plain) and None)

    def _place(self, name: str) -> str:
        if not self.is_postgresql:
            return f":{name}"
        if name == "ai_audit_status":
            return f"CAST(:{name} AS ai_audit_status_enum)"
        if name == "rule_type":
            return f"CAST(:{name} AS rule_type_enum)"
        return f"CAST(:{name} AS jsonb)" if name in _JSON else f":{name}"

    def _plain(self, name: str, value: Any) -> Any:
        if name in _JSON and value is not None:
            return json.dumps(value, ensure_ascii=False)
        if self.is_postgresql:
            return value
        if name in _LISTS and value is not None:
            return json.dumps(list(value))
        if isinstance(value, Decimal):
            return format(value, "f")
        if isinstance(value, datetime):
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        return value

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _id(self, table: str) -> int:
        self._next[table] = self._next.get(table, 0) + 1
        return self._next[table]

    def organization(self, *, allow_ai_audit: bool = True) -> int:
        id_ = self._id("organizations")
        row: dict[str, Any] = {"id": id_, "name": f"Organization {id_}", "allow_ai_audit": allow_ai_audit}
        if self.version == "new":
            row["public_form_key"] = f"form-{id_}"
        self.insert("organizations", [row])
        return id_

    def rule(
        self,
        rule_id: str = "DC-01",
        *,
        organization: int | None = None,
        actions: Sequence[Mapping[str, Any]] = tuple(REJECT),
        name: str = "A weight must be given",
    ) -> str:
        self.insert(
            "audit_rules",
            [
                {
                    "id": self._id("audit_rules"), "rule_id": rule_id, "rule_type": "completeness", "rule_name": name,
                    "condition": "weight_kg is not null", "actions": list(actions), "is_global": organization is None,
                    "organization_id": organization, "is_active": True,
                }
            ],
        )  # fmt: skip
        return rule_id

    def transactions(self, organization: int, count: int, *, status: str = "queued", **columns: Any) -> list[int]:
        """`count` transactions with a record each; returns their ids."""
        rows: list[dict[str, Any]] = []
        records: list[dict[str, Any]] = []
        for _ in range(count):
            id_ = self._id("transactions")
            rows.append(
                {
                    "id": id_, "organization_id": organization, "ai_audit_status": status, "status": "pending",
                    "weight_kg": Decimal("6.250"), "notes": f"ขยะรีไซเคิล {id_}", "images": ["a.jpg"],
                    "transaction_date": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
                }
                | columns
            )  # fmt: skip
            record = {
                "id": id_ * 10, "created_transaction_id": id_, "main_material_id": 1, "unit": "kg",
                "origin_quantity": Decimal("6.25"), "origin_weight_kg": Decimal("6.25"),
                "total_amount": Decimal("12.5"), "is_active": True,
            }  # fmt: skip
            if self.is_postgresql:
                record |= {"category_id": 1, "created_by_id": 1}
            records.append(record)
        self.insert("transactions", rows)
        self.insert("transaction_records", records)
        return [int(row["id"]) for row in rows]

    def transaction(self, organization: int, *, status: str = "queued", **columns: Any) -> int:
        return self.transactions(organization, 1, status=status, **columns)[0]

    def batch(self, organization: int, transactions: Sequence[int], *, status: str = "in_progress") -> int:
        """The row that the platform's button writes."""
        now = datetime.now(UTC)
        values = {
            "organization_id": organization, "transactions": list(transactions),
            "total_transactions": len(transactions), "status": status, "started_at": now, "created_date": now,
        }  # fmt: skip
        self.insert("transaction_audit_history", [values])
        return int(self.value("SELECT max(id) FROM transaction_audit_history"))

    def history(self, batch: int) -> dict[str, Any]:
        return self.one("SELECT * FROM transaction_audit_history WHERE id = :id", id=batch)

    def labels(self, ids: Iterable[int]) -> dict[int, str]:
        """ai_audit_status by transaction."""
        wanted = set(ids)
        found = self.rows("SELECT id, CAST(ai_audit_status AS text) AS label FROM transactions")
        return {row["id"]: row["label"] for row in found if row["id"] in wanted}
