"""init-db: our tables are created and upgraded, a platform's are never touched, a newer schema is refused."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from gepp_audit.database import migrate
from gepp_audit.database.engine import open_database
from gepp_audit.database.tables import SCHEMA_REVISION, VERSION_TABLE, metadata
from gepp_audit.errors import OperatorError
from tests.support.platforms import Platform

PLATFORM = """
SELECT table_name, column_name, data_type, column_default, is_nullable FROM information_schema.columns
WHERE table_schema = 'public' AND table_name NOT LIKE 'gepp_audit%' ORDER BY 1, 2
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE 'gepp_audit%' ORDER BY 1"
CONSTRAINTS = """
SELECT conrelid::regclass::text AS at, pg_get_constraintdef(oid) AS told FROM pg_constraint
WHERE conrelid::regclass::text NOT LIKE 'gepp_audit%' ORDER BY 1, 2
"""
TRIGGERS = "SELECT tgrelid::regclass::text AS at, tgname FROM pg_trigger ORDER BY 1, 2"


def schema(platform: Platform) -> list[list[dict[str, Any]]]:
    return [platform.rows(statement) for statement in (PLATFORM, INDEXES, CONSTRAINTS, TRIGGERS)]


@pytest.mark.parametrize("bare_platform", ["old", "new"], indirect=True)
def test_a_platforms_own_tables_are_left_as_they_are(bare_platform: Platform) -> None:
    before = schema(bare_platform)
    done = migrate.initialize(bare_platform.url)
    assert (done.revision_before, done.revision, done.embedded) == (None, SCHEMA_REVISION, False)
    assert schema(bare_platform) == before


def test_doing_it_again_changes_nothing(platform: Platform) -> None:
    done = migrate.initialize(platform.url)
    assert (done.revision_before, done.embedded) == (SCHEMA_REVISION, platform.version == "embedded")
    migrate.require_schema(platform.database)


def test_the_migrations_make_the_tables_that_the_program_knows(platform: Platform) -> None:
    with platform.database.engine.connect() as connection:
        ours = {
            "include_name": lambda name, kind, _: kind != "table" or str(name).startswith("gepp_audit_"),
            "include_object": lambda _o, name, kind, _r, _c: (
                kind != "table" or name not in (VERSION_TABLE, "gepp_audit_embedded")
            ),
        }
        context = MigrationContext.configure(connection, opts=ours)
        assert compare_metadata(context, metadata) == []


def test_the_newest_migration_is_the_one_that_the_program_asks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_REVISION


@pytest.mark.parametrize(
    ("revision", "told", "code"), [("9999", "newer", "schema_newer"), ("0000", "init-db", "schema_older")]
)
def test_a_schema_of_another_version_is_refused(platform: Platform, revision: str, told: str, code: str) -> None:
    platform.execute(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'")
    with pytest.raises(OperatorError, match=told) as refused:
        migrate.require_schema(platform.database)
    assert refused.value.code == code


def test_init_db_refuses_a_newer_schema(platform: Platform) -> None:
    platform.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(OperatorError, match="newer gepp-audit"):
        migrate.initialize(platform.url)


@pytest.mark.parametrize("bare_platform", ["new"], indirect=True)
def test_a_database_without_our_tables_says_so(bare_platform: Platform) -> None:
    with pytest.raises(OperatorError, match="no tables of gepp-audit yet"):
        migrate.require_schema(bare_platform.database)


def test_a_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE songs (id INTEGER)")
    with pytest.raises(OperatorError, match="no GEPP platform"):
        migrate.initialize(f"sqlite:///{file}")


def test_an_empty_postgresql_becomes_an_embedded_one(empty_postgresql_url: str) -> None:
    assert migrate.initialize(empty_postgresql_url).embedded
    assert migrate.initialize(empty_postgresql_url).embedded


@pytest.mark.parametrize("bare_platform", ["old", "new"], indirect=True)
def test_the_printed_sql_does_the_same(bare_platform: Platform) -> None:
    sql = migrate.upgrade_sql(bare_platform.url)
    database = open_database(bare_platform.url)
    database.write(
        lambda connection: connection.execute(text(sql.replace("BEGIN;", "").replace("COMMIT;", ""))) and None
    )
    migrate.require_schema(database)
    assert bare_platform.value("SELECT scope FROM gepp_audit_limits") == "global"
    database.close()


def test_a_command_never_creates_a_database_by_itself(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no database at"):
        open_database(f"sqlite:///{tmp_path / 'missing.db'}")
    assert list(tmp_path.iterdir()) == []
