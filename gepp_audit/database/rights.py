"""Whether a PostgreSQL role has the rights that the queue needs, and none beyond: read from the catalogs.

`NEEDED` is the README's list of GRANTs, column by column where PostgreSQL can tell: a role that was granted UPDATE on
just the columns that are written has enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from gepp_audit.database.platform_tables import platform_metadata
from gepp_audit.database.tables import VERSION_TABLE, metadata

_PRIVILEGES: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
_OURS: Final = "gepp_audit_"

#: by table of the platform: privilege → the columns it is needed for; None: all that we know of
NEEDED: Final[dict[str, dict[str, tuple[str, ...] | None]]] = {
    "organizations": {"SELECT": None},
    "transaction_records": {"SELECT": None},
    "main_materials": {"SELECT": None},
    "audit_rules": {"SELECT": None},
    "transactions": {
        "SELECT": None,
        "UPDATE": (
            "ai_audit_status",
            "ai_audit_note",
            "reject_triggers",
            "warning_triggers",
            "status",
            "ai_audit_date",
            "audit_tokens",
        ),
    },
    "transaction_audit_history": {
        "SELECT": None,
        "UPDATE": (
            "status",
            "completed_at",
            "error_message",
            "total_transactions",
            "processed_transactions",
            "approved_count",
            "rejected_count",
            "audit_info",
            "audit_records",
        ),
        # for enqueue
        "INSERT": (
            "organization_id",
            "triggered_by_user_id",
            "transactions",
            "total_transactions",
            "processed_transactions",
            "approved_count",
            "rejected_count",
            "status",
            "started_at",
            "created_date",
        ),
    },
    "transaction_audits": {"SELECT": None, "INSERT": None},
}
#: what no column can tell: rows are inserted, so their sequence is drawn from
_INSERTED: Final = ("transaction_audit_history", "transaction_audits")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    """What the connected role may do."""

    role: str
    #: `UPDATE on transactions (status)`, as a person would read it
    missing: tuple[str, ...]
    #: the statements that give what is missing
    grants: tuple[str, ...]
    #: what it may do beyond its work, in words
    excess: tuple[str, ...]
    #: the statements that take it away
    revokes: tuple[str, ...]
    #: other roles whose rights it has too, so that what is revoked from itself may stay
    through: tuple[str, ...]
    #: tables whose rows a row-level security policy may hide from the role
    hidden: tuple[str, ...]


def look(connection: Connection) -> Rights:
    """The rights of the connected role on this platform. PostgreSQL only."""
    role, attributes = _role(connection)
    found = _tables(connection)
    missing, grants = _missing(found, role, _sequences(connection), _schema_usable(connection))
    superuser = "SUPERUSER" in attributes
    excess, revokes = ((), ()) if superuser else _excess(connection, found, role)
    return Rights(
        role=role,
        missing=tuple(missing),
        grants=tuple(grants),
        excess=(*_attributes_in_words(attributes), *excess),
        revokes=(*(f"ALTER ROLE {_name(role)} NO{name};" for name in attributes), *revokes),
        through=() if superuser else tuple(_memberships(connection)),
        hidden=() if superuser else tuple(row.name for row in found if row.row_security and row.name in NEEDED),
    )


# -- what is there -----------------------------------------------------------------------------------------------------


def _role(connection: Connection) -> tuple[str, list[str]]:
    row = connection.execute(
        text(
            "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles "
            "WHERE rolname = current_user"
        )
    ).one()
    names = ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")
    return row[0], [name for name, has in zip(names, row[1:], strict=True) if has]


def _attributes_in_words(attributes: Sequence[str]) -> tuple[str, ...]:
    return tuple("it is a superuser" if name == "SUPERUSER" else f"it has {name}" for name in attributes)


def _tables(connection: Connection) -> Sequence[Any]:
    """Every table and view in the schemas of the platform's and our tables, with what the role may do there.

    For a column, a right on the whole table counts too; `columns` holds by privilege those that it may touch.
    """
    per_table = ", ".join(f"has_table_privilege(c.oid, '{name}')" for name in _PRIVILEGES)
    per_column = ", ".join(
        f"'{name}', array(SELECT attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 "
        f"AND NOT a.attisdropped AND has_column_privilege(c.oid, a.attnum, '{name}'))"
        for name in ("SELECT", "INSERT", "UPDATE")
    )
    return connection.execute(
        text(
            f"""
            SELECT c.relname AS name, n.nspname AS schema, pg_has_role(c.relowner, 'USAGE') AS owned,
                   row_security_active(c.oid) AS row_security,
                   array[{per_table}] AS privileges, json_build_object({per_column}) AS usable,
                   array(SELECT attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                         AND NOT a.attisdropped) AS columns
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relnamespace IN (
                SELECT relnamespace FROM pg_class WHERE oid IN (to_regclass('transactions'), to_regclass(:ours)))
            ORDER BY c.relname
            """
        ),
        {"ours": VERSION_TABLE},
    ).all()


def _sequences(connection: Connection) -> list[str]:
    """The sequences that the role needs and may not use; one behind an identity column needs no right."""
    tables = [*_INSERTED, "gepp_audit_calls"]
    found = connection.execute(
        text(
            """
            SELECT found.sequence
            FROM unnest(CAST(:tables AS text[])) AS t(name)
            JOIN pg_attribute a ON a.attrelid = to_regclass(quote_ident(t.name)) AND a.attname = 'id'
            CROSS JOIN LATERAL pg_get_serial_sequence(a.attrelid::regclass::text, 'id') AS found(sequence)
            WHERE a.attidentity = '' AND NOT coalesce(has_sequence_privilege(found.sequence, 'USAGE'), true)
            """
        ),
        {"tables": tables},
    )
    return [str(sequence) for sequence in found.scalars()]


def _schema_usable(connection: Connection) -> str | None:
    """The schema of the platform's tables if the role may not use it: nothing in it can be seen then."""
    found = connection.execute(
        text(
            "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relname = 'transaction_audit_history' AND NOT has_schema_privilege(n.oid, 'USAGE') LIMIT 1"
        )
    ).scalar_one_or_none()
    return None if found is None else str(found)


# -- too little --------------------------------------------------------------------------------------------------------


def _missing(
    found: Sequence[Any], role: str, sequences: Sequence[str], closed_schema: str | None
) -> tuple[list[str], list[str]]:
    missing: list[str] = []
    grants: list[str] = []
    if closed_schema is not None:
        missing.append(f"USAGE on the schema {closed_schema}")
        grants.append(f"GRANT USAGE ON SCHEMA {_name(closed_schema)} TO {_name(role)};")
    for row in found:
        for privilege, columns in _needed(row).items():
            lacking = [name for name in columns if name not in row.usable.get(privilege, columns)]
            if privilege == "DELETE" and not row.privileges[_PRIVILEGES.index("DELETE")]:
                lacking = ["*"]
            if not lacking:
                continue
            whole = len(lacking) == len(columns) or privilege == "DELETE"
            missing.append(f"{privilege} on {row.name}" + ("" if whole else f" ({', '.join(lacking)})"))
            listed = "" if whole else f" ({', '.join(map(_name, lacking))})"
            grants.append(f"GRANT {privilege}{listed} ON {_name(row.name)} TO {_name(role)};")
    for sequence in sequences:
        missing.append(f"USAGE on the sequence {sequence}")
        grants.append(f"GRANT USAGE ON SEQUENCE {sequence} TO {_name(role)};")
    return missing, grants


def _needed(row: Any) -> dict[str, list[str]]:
    """Privilege → columns, of what stands in this table here."""
    if row.name in NEEDED:
        known = [column.name for column in platform_metadata.tables[row.name].c]
        return {
            privilege: [name for name in columns or known if name in row.columns]
            for privilege, columns in NEEDED[row.name].items()
        }
    if row.name in metadata.tables:
        return {privilege: list(row.columns) for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE")}
    return {"SELECT": list(row.columns)} if row.name == VERSION_TABLE else {}


# -- too much ----------------------------------------------------------------------------------------------------------


def _excess(connection: Connection, found: Sequence[Any], role: str) -> tuple[list[str], list[str]]:
    told: list[str] = []
    revokes: list[str] = []
    theirs = [row for row in found if not row.name.startswith(_OURS)]
    owned = [row.name for row in theirs if row.owned]
    if owned:
        told.append(f"it owns {_some(owned)}, so it may drop and alter {'it' if len(owned) == 1 else 'them'}")
        revokes += [f"ALTER TABLE {_name(name)} OWNER TO ANOTHER_ROLE;" for name in owned]
    for name, granted in _too_much(theirs).items():
        told.append(f"{'/'.join(granted)} on {name}")
        revokes.append(f"REVOKE {', '.join(granted)} ON {_name(name)} FROM {_name(role)};")
    for group in _groups(connection):
        told.append(f"it is a member of {group}")
        revokes.append(f"REVOKE {_name(group)} FROM {_name(role)};")
    for schema, everybody in _creating(connection):
        told.append(f"CREATE on the schema {schema}, which only init-db needs")
        revokes.append(f"REVOKE CREATE ON SCHEMA {_name(schema)} FROM {everybody or _name(role)};")
    return told, revokes


def _too_much(theirs: Iterable[Any]) -> dict[str, list[str]]:
    """By table that the role does not own: what it may do there and need not."""
    found: dict[str, list[str]] = {}
    for row in theirs:
        if row.owned:
            continue
        needed = NEEDED.get(row.name, {})
        beyond = [name for name, has in zip(_PRIVILEGES, row.privileges, strict=True) if has and name not in needed] + [
            f"{name} (some columns)" for name in ("INSERT", "UPDATE") if _some_columns(row, name) and name not in needed
        ]
        if beyond:
            found[row.name] = beyond
    return found


def _some_columns(row: Any, privilege: str) -> bool:
    return bool(row.usable[privilege]) and not row.privileges[_PRIVILEGES.index(privilege)]


def _groups(connection: Connection) -> list[str]:
    """PostgreSQL's own roles of which the role is a member: each opens every table, file or session."""
    found = connection.execute(
        text(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'pg\\_%' AND rolname <> 'pg_database_owner' "
            "AND pg_has_role(oid, 'USAGE') ORDER BY rolname"
        )
    )
    return [str(name) for name in found.scalars()]


def _memberships(connection: Connection) -> list[str]:
    """The roles of this installation whose rights the role has too."""
    found = connection.execute(
        text(
            "SELECT rolname FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%' AND rolname <> current_user "
            "AND pg_has_role(oid, 'USAGE') ORDER BY rolname"
        )
    )
    return [str(name) for name in found.scalars()]


def _creating(connection: Connection) -> list[tuple[str, str]]:
    """The platform's schema if the role may create in it, and to whom that is granted: the role, or PUBLIC."""
    found = connection.execute(
        text(
            "SELECT n.nspname, has_schema_privilege('public', n.oid, 'CREATE') "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.oid = to_regclass('transactions') AND has_schema_privilege(n.oid, 'CREATE')"
        )
    )
    return [(str(row[0]), "PUBLIC" if row[1] else "") for row in found]


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _name(name: str) -> str:
    """`name` as SQL spells it."""
    plain = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and not name[0].isdigit()
    return name if plain else '"' + name.replace('"', '""') + '"'
