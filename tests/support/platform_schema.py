"""The platform's database in its old and its new version, as far as gepp-audit can meet it, in plain SQL.

Written by hand and apart from the product's own table definitions, so that the two can disagree in a test. It bites
like the real one: enums, `integer[]` ids, NOT NULL columns, CHECKs, foreign keys, triggers that stamp `updated_date`,
many indexes on `transactions`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from sqlalchemy import Connection, text

PlatformVersion = Literal["old", "new"]
VERSIONS: Final[tuple[PlatformVersion, ...]] = ("old", "new")

_ENUMS: Final = """
CREATE TYPE ai_audit_status_enum AS ENUM ('null', 'queued', 'approved', 'rejected', 'no_action'{failed});
CREATE TYPE rule_type_enum AS ENUM (
    'consistency', 'redundancy', 'completeness', 'accuracy', 'validity', 'compliance', 'validation', 'improvement'
);
"""

_STAMP: Final = """
CREATE FUNCTION update_updated_date_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_date = CURRENT_TIMESTAMP;
    RETURN NEW;
END;
$$;
"""

_ORGANIZATIONS: Final = """
CREATE TABLE organizations (
    id bigserial PRIMARY KEY,
    name varchar(255),
    is_active boolean DEFAULT true,
    created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(),
    deleted_date timestamptz,
    allow_ai_audit boolean DEFAULT false,
    owner_id bigint{new_columns}
);
CREATE TABLE user_locations (
    id bigserial PRIMARY KEY,
    organization_id bigint REFERENCES organizations (id) ON DELETE SET NULL,
    display_name varchar(255),
    email varchar(255),
    is_user boolean NOT NULL DEFAULT false,
    is_location boolean NOT NULL DEFAULT false,
    is_active boolean DEFAULT true,
    created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(),
    deleted_date timestamptz
);
INSERT INTO user_locations (display_name, is_user) VALUES ('Somchai', true);
ALTER TABLE organizations ADD FOREIGN KEY (owner_id) REFERENCES user_locations (id) ON DELETE SET NULL;
CREATE TABLE main_materials (
    id bigserial PRIMARY KEY,
    name_en varchar(255),
    name_th varchar(255),
    code varchar(50) UNIQUE,
    is_active boolean DEFAULT true,
    created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(),
    deleted_date timestamptz
);
"""
_NEW_ORGANIZATION_COLUMNS: Final = """,
    public_form_key varchar(32) NOT NULL UNIQUE,
    enable_ai_audit_api boolean NOT NULL DEFAULT false"""

_TRANSACTIONS: Final = """
CREATE TABLE transactions (
    id bigserial PRIMARY KEY,
    transaction_records bigint[] NOT NULL DEFAULT '{{}}',
    transaction_method varchar(50) NOT NULL DEFAULT 'origin',
    status varchar(50) DEFAULT 'pending',
    organization_id bigint REFERENCES organizations (id) ON DELETE SET NULL,
    origin_id bigint REFERENCES user_locations (id) ON DELETE SET NULL,
    weight_kg numeric(10,3),
    total_amount numeric(12,2),
    transaction_date timestamptz,
    arrival_date timestamptz,
    origin_coordinates jsonb,
    destination_coordinates jsonb,
    notes text,
    images jsonb,
    vehicle_info jsonb,
    driver_info jsonb,
    hazardous_level integer,
    treatment_method varchar(100),
    disposal_method varchar(100),
    created_by_id bigint REFERENCES user_locations (id) ON DELETE RESTRICT,
    approved_by_id bigint REFERENCES user_locations (id) ON DELETE SET NULL,
    is_active boolean DEFAULT true,
    created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(),
    deleted_date timestamptz,
    ai_audit_status ai_audit_status_enum NOT NULL DEFAULT 'null',
    ai_audit_note jsonb,
    reject_triggers jsonb DEFAULT '[]',
    warning_triggers jsonb DEFAULT '[]'{new_columns},
    CONSTRAINT transactions_weight_kg_check CHECK (weight_kg >= 0),
    CONSTRAINT transactions_total_amount_check CHECK (total_amount >= 0),
    CONSTRAINT transactions_hazardous_level_check CHECK (hazardous_level BETWEEN 0 AND 5),
    CONSTRAINT transactions_transaction_method_check CHECK (transaction_method IN (
        'origin', 'transport', 'transform', 'qr_input', 'scale_input', 'manual_input', 'iot'
    ))
);
CREATE INDEX idx_transactions_organization ON transactions (organization_id);
CREATE INDEX idx_transactions_status ON transactions (status);
CREATE INDEX idx_transactions_method ON transactions (transaction_method);
CREATE INDEX idx_transactions_date ON transactions (transaction_date);
CREATE INDEX idx_transactions_ai_audit_status ON transactions (ai_audit_status);
CREATE INDEX idx_transactions_organization_ai_audit ON transactions (organization_id, ai_audit_status);
CREATE INDEX idx_transactions_updated ON transactions (updated_date DESC);
CREATE INDEX idx_transactions_created_by ON transactions (created_by_id);
CREATE INDEX idx_transactions_deleted ON transactions (deleted_date) WHERE deleted_date IS NULL;
CREATE INDEX idx_transactions_reject_triggers ON transactions USING gin (reject_triggers);
CREATE INDEX idx_transactions_warning_triggers ON transactions USING gin (warning_triggers);
CREATE INDEX idx_transactions_ai_audit_note ON transactions USING gin (ai_audit_note);
CREATE INDEX idx_transactions_records ON transactions USING gin (transaction_records);
CREATE TRIGGER update_transactions_updated_date BEFORE UPDATE ON transactions
    FOR EACH ROW EXECUTE FUNCTION update_updated_date_column();

CREATE TABLE transaction_records (
    id bigserial PRIMARY KEY,
    status varchar(50) DEFAULT 'pending',
    created_transaction_id bigint NOT NULL REFERENCES transactions (id) ON DELETE CASCADE,
    transaction_type varchar(50),
    material_id bigint,
    main_material_id bigint NOT NULL,
    category_id bigint NOT NULL,
    unit varchar(100),
    origin_quantity numeric(15,4) NOT NULL DEFAULT 0,
    origin_weight_kg numeric(15,4) NOT NULL DEFAULT 0,
    origin_price_per_unit numeric(15,4) NOT NULL DEFAULT 0,
    total_amount numeric(15,4) NOT NULL DEFAULT 0,
    hazardous_level integer,
    treatment_method varchar(255),
    disposal_method varchar(255),
    notes text,
    images jsonb DEFAULT '[]',
    created_by_id bigint NOT NULL REFERENCES user_locations (id) ON DELETE RESTRICT,
    is_active boolean DEFAULT true,
    created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(),
    deleted_date timestamptz
);
CREATE INDEX idx_transaction_records_transaction ON transaction_records (created_transaction_id);
CREATE INDEX idx_transaction_records_material ON transaction_records (main_material_id);
CREATE TRIGGER update_transaction_records_updated_date BEFORE UPDATE ON transaction_records
    FOR EACH ROW EXECUTE FUNCTION update_updated_date_column();
"""
_NEW_TRANSACTION_COLUMNS: Final = """,
    ai_audit_date timestamp,
    audit_tokens jsonb,
    is_user_audit boolean NOT NULL DEFAULT false"""

_AUDIT: Final = """
CREATE TABLE audit_rules (
    id bigserial PRIMARY KEY,
    rule_id varchar(20) NOT NULL UNIQUE,
    rule_type rule_type_enum NOT NULL,
    rule_name varchar(500) NOT NULL,
    process varchar(255),
    condition text,
    thresholds text,
    metrics text,
    actions jsonb DEFAULT '[]',
    is_global boolean DEFAULT false,
    organization_id bigint REFERENCES organizations (id) ON DELETE CASCADE,
    is_active boolean DEFAULT true,
    created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(),
    deleted_date timestamptz
);
CREATE INDEX idx_audit_rules_actions ON audit_rules USING gin (actions);
CREATE TRIGGER update_audit_rules_updated_date BEFORE UPDATE ON audit_rules
    FOR EACH ROW EXECUTE FUNCTION update_updated_date_column();

CREATE TABLE transaction_audit_history (
    id serial PRIMARY KEY,
    organization_id integer NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    triggered_by_user_id integer REFERENCES user_locations (id) ON DELETE SET NULL,
    transactions integer[] NOT NULL DEFAULT '{{}}',
    audit_info jsonb,
    total_transactions integer DEFAULT 0,
    processed_transactions integer DEFAULT 0,
    approved_count integer DEFAULT 0,
    rejected_count integer DEFAULT 0,
    status varchar(50) DEFAULT 'completed',
    error_message text,
    started_at timestamptz NOT NULL,
    completed_at timestamptz,
    created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(),
    deleted_date timestamptz{new_columns}
);
CREATE INDEX idx_audit_history_organization ON transaction_audit_history (organization_id);
CREATE INDEX idx_audit_history_created_date ON transaction_audit_history (created_date DESC);
CREATE INDEX idx_audit_history_status ON transaction_audit_history (status);
CREATE INDEX idx_audit_history_deleted ON transaction_audit_history (deleted_date) WHERE deleted_date IS NULL;
CREATE TRIGGER update_audit_history_updated_date BEFORE UPDATE ON transaction_audit_history
    FOR EACH ROW EXECUTE FUNCTION update_updated_date_column();
"""
_NEW_HISTORY_COLUMNS: Final = """,
    audit_records integer[] DEFAULT '{}'"""

_NEW_TABLES: Final = """
CREATE TABLE transaction_audits (
    id bigserial PRIMARY KEY,
    transaction_id bigint NOT NULL REFERENCES transactions (id) ON DELETE CASCADE,
    organization_id bigint NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    audit_notes jsonb NOT NULL,
    by_human boolean NOT NULL DEFAULT false,
    auditor_id bigint REFERENCES user_locations (id) ON DELETE SET NULL,
    audit_type varchar(50) CHECK (audit_type IN ('ai_sync', 'ai_async', 'manual')),
    audit_status varchar(50),
    ai_audit_status varchar(50),
    processing_time_ms integer,
    token_usage jsonb,
    model_version varchar(100),
    created_by_id bigint REFERENCES user_locations (id) ON DELETE SET NULL,
    is_active boolean DEFAULT true,
    created_date timestamptz DEFAULT now(),
    updated_date timestamptz DEFAULT now(),
    deleted_date timestamptz
);
CREATE INDEX idx_transaction_audits_transaction ON transaction_audits (transaction_id);
CREATE INDEX idx_transaction_audits_organization ON transaction_audits (organization_id);
CREATE INDEX idx_transaction_audits_notes ON transaction_audits USING gin (audit_notes);
CREATE TRIGGER update_transaction_audits_updated_date BEFORE UPDATE ON transaction_audits
    FOR EACH ROW EXECUTE FUNCTION update_updated_date_column();
"""


def platform_sql(version: PlatformVersion) -> str:
    """The statements that make an empty PostgreSQL database into a platform's of this version, with one user (id 1)."""
    new = version == "new"

    def only_new(columns: str) -> str:
        return columns if new else ""

    return "".join(
        (
            _ENUMS.format(failed=only_new(", 'failed'")),
            _STAMP,
            _ORGANIZATIONS.format(new_columns=only_new(_NEW_ORGANIZATION_COLUMNS)),
            _TRANSACTIONS.format(new_columns=only_new(_NEW_TRANSACTION_COLUMNS)),
            _AUDIT.format(new_columns=only_new(_NEW_HISTORY_COLUMNS)),
            only_new(_NEW_TABLES),
        )
    )


# -- what is there -----------------------------------------------------------------------------------------------------

_OF_PLATFORM: Final = "relnamespace = 'public'::regnamespace AND relname NOT LIKE 'gepp\\_audit\\_%'"

_SNAPSHOT: Final = {
    "tables": f"SELECT relname, relkind::text FROM pg_class WHERE relkind IN ('r', 'v', 'm') AND {_OF_PLATFORM}",
    "columns": f"""
        SELECT relname, attname, attnum, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relkind = 'r' AND {_OF_PLATFORM}
    """,
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    " AND tablename NOT LIKE 'gepp\\_audit\\_%'",
    "constraints": f"""
        SELECT relname, conname, pg_get_constraintdef(pg_constraint.oid)
        FROM pg_constraint JOIN pg_class ON conrelid = pg_class.oid WHERE {_OF_PLATFORM}
    """,
    # internal ones too: a foreign key that points to a platform's table puts two on it
    "triggers": f"""
        SELECT relname, tgname, pg_get_triggerdef(pg_trigger.oid)
        FROM pg_trigger JOIN pg_class ON tgrelid = pg_class.oid WHERE {_OF_PLATFORM}
    """,
    "labels": "SELECT typname, enumlabel, enumsortorder::text FROM pg_enum JOIN pg_type ON enumtypid = pg_type.oid",
    "functions": "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "sequences": "SELECT sequencename, data_type::text FROM pg_sequences WHERE schemaname = 'public'"
    " AND sequencename NOT LIKE 'gepp\\_audit\\_%'",
}
_SQLITE_SNAPSHOT: Final = {
    "objects": "SELECT type, name, tbl_name, sql FROM sqlite_master"
    " WHERE tbl_name NOT LIKE 'gepp\\_audit\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
}


def snapshot_schema(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """All of the schema that is not ours, by kind and sorted, to be compared before and after: nothing was changed."""
    queries = _SNAPSHOT if connection.dialect.name == "postgresql" else _SQLITE_SNAPSHOT
    return {
        kind: sorted((tuple(row) for row in connection.execute(text(query))), key=repr)
        for kind, query in queries.items()
    }
