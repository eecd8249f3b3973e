"""Creates and upgrades our tables with Alembic; on an empty database also the platform's, as far as they are used.

A platform's own tables are never created, altered or dropped. Every command checks the schema's revision with
`require_schema`, which costs one small query and does not import Alembic.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from gepp_audit.database.engine import Database, create_database, now
from gepp_audit.database.platform_tables import embedded_marker, platform_metadata
from gepp_audit.database.tables import SCHEMA_REVISION, VERSION_TABLE
from gepp_audit.errors import OperatorError

if TYPE_CHECKING:
    from alembic.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Initialized:
    """What `init-db` did."""

    database: str
    revision_before: str | None
    revision: str
    #: True: the database was empty, and the platform's tables were created too
    embedded: bool


def initialize(url: str) -> Initialized:
    """Create or upgrade our tables in the database at `url`. Idempotent; a newer schema is refused with an
    OperatorError.
    """
    database = create_database(url)
    try:
        return database.write(
            lambda connection: _initialize(connection, database.name),
            statement_timeout_ms=600_000,
        )
    finally:
        database.close()


def _initialize(connection: Connection, name: str) -> Initialized:
    before = revision_of(connection)
    _refuse_newer(before)
    names = set(inspect(connection).get_table_names())
    platform = {
        "organizations",
        "transactions",
        "transaction_audit_history",
        "audit_rules",
    }
    if not platform & names:
        if names - {VERSION_TABLE} and before is None:
            raise _no_platform(name, "it holds tables, but none of a GEPP platform")
        _create_embedded(connection)
    elif platform - names:
        raise _no_platform(name, f"it lacks the tables {', '.join(sorted(platform - names))}")
    if before != SCHEMA_REVISION:
        _upgrade(connection, None)
    embedded = inspect(connection).has_table(embedded_marker.name)
    return Initialized(
        database=name,
        revision_before=before,
        revision=SCHEMA_REVISION,
        embedded=embedded,
    )


def _no_platform(name: str, why: str) -> OperatorError:
    return OperatorError(
        f"the database {name} is no GEPP platform: {why}.",
        fix="Name the platform's database in DATABASE_URL, or an empty one for an embedded database of our own.",
        code="not_a_platform",
    )


def _create_embedded(connection: Connection) -> None:
    platform_metadata.create_all(connection)
    connection.execute(embedded_marker.insert().values(id=1, created_at=now(connection)))


def upgrade_sql(url: str) -> str:
    """The SQL that `initialize` would run on a platform's database, for a person to read. Connects to nothing."""
    from gepp_audit.database.engine import parse_url

    buffer = io.StringIO()
    from alembic import command

    config = _config()
    config.attributes["dialect_name"] = parse_url(url).get_backend_name()
    config.attributes["output_buffer"] = buffer
    command.upgrade(config, "head", sql=True)
    return buffer.getvalue()


def _upgrade(connection: Connection, output_buffer: io.StringIO | None) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    config.attributes["output_buffer"] = output_buffer
    command.upgrade(config, "head")


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def revision_of(connection: Connection) -> str | None:
    """The revision of our tables in this database, or None where they were never created."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()
    return None if revision is None else str(revision)


def require_schema(database: Database) -> None:
    """Refuse, with an OperatorError that names the fix, a schema that is older or newer than this program."""
    try:
        revision = database.read(_revision_quickly)
    except OperatorError as error:
        if not _says_no_table(error):
            raise
        revision = None
    if revision == SCHEMA_REVISION:
        return
    _refuse_newer(revision)
    older = (
        "has no tables of gepp-audit yet" if revision is None else f"has the tables of an older version ({revision})"
    )
    raise OperatorError(
        f"the database {database.name} {older}.",
        fix='Run "gepp-audit init-db".',
        code="schema_older",
    )


def _revision_quickly(connection: Connection) -> str:
    return str(connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one())


def _says_no_table(error: OperatorError) -> bool:
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    return getattr(cause.orig, "pgcode", None) == "42P01" or "no such table" in str(cause.orig)


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision > SCHEMA_REVISION:
        raise OperatorError(
            f"the database has the tables of a newer gepp-audit ({revision}; this program knows {SCHEMA_REVISION}).",
            fix="Upgrade gepp-audit on this host.",
            code="schema_newer",
        )
