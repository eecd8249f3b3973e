"""What each step of the queue costs on a big, old, busy database: no reading of a large table from end to end, and a
bound on the pages and the work of each step, on PostgreSQL with an old and a new platform and on SQLite.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection, text

from tests.conftest import KINDS
from tests.support.big_database import clean_up, fill_postgresql, fill_sqlite
from tests.support.big_rows import LARGE
from tests.support.plan_steps import STEPS, take_all
from tests.support.plans import Watched
from tests.support.platforms import Platform
from tests.support.postgres import PostgresServer

#: what an older platform lacks, taken out of a newer one's database for the time of a transaction
_OLDER: Final = (
    "ALTER TABLE transactions DROP COLUMN ai_audit_date, DROP COLUMN audit_tokens, DROP COLUMN is_user_audit",
    "ALTER TABLE transaction_audit_history DROP COLUMN audit_records",
    "DROP TABLE transaction_audits",
)


@pytest.fixture(scope="session")
def big_postgresql(cluster: PostgresServer) -> Iterator[Platform]:
    """A big database of a new platform. Nothing may be committed to it."""
    platform = Platform(cluster.create("big", "ready_new"), "new")
    fill_postgresql(platform)
    yield platform
    platform.close()
    cluster.drop("big")


@pytest.fixture(scope="session")
def big_sqlite(embedded_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A big embedded database. Nothing may be committed to it."""
    path = tmp_path_factory.mktemp("big") / "platform.db"
    path.write_bytes(embedded_template.read_bytes())
    platform = Platform(f"sqlite:///{path}", "embedded")
    fill_sqlite(platform, path)
    yield platform
    platform.close()
    path.unlink()


@pytest.fixture(scope="session", params=KINDS)
def taken(request: pytest.FixtureRequest) -> dict[str, Watched]:
    """Every step, taken on one kind of database, with the plans of its statements."""
    platform: Platform = request.getfixturevalue("big_sqlite" if request.param == "sqlite" else "big_postgresql")

    def take(connection: Connection) -> dict[str, Watched]:
        for statement in _OLDER if request.param == "postgresql-old" else ():
            connection.execute(text(statement))
        return take_all(connection)

    watched = platform.database.read(take)
    if platform.is_postgresql:
        clean_up(platform)
    return watched


def test_no_step_reads_a_large_table_from_end_to_end(taken: dict[str, Watched]) -> None:
    told = [f"{name}: {scan}" for name, watched in taken.items() for scan in watched.scanned(LARGE)]
    assert not told, "\n\n".join(told)


def test_every_step_keeps_within_its_bound(taken: dict[str, Watched]) -> None:
    above = [
        f"{step.name}: {watched.pages} of {step.pages} pages, {watched.work} of {step.work} steps\n{watched.told()}"
        for step in STEPS
        if (watched := taken.get(step.name)) and (watched.pages > step.pages or watched.work > step.work)
    ]
    assert not above, "\n\n".join(above)
