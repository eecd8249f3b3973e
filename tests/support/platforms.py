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
