"""What `scripts/bench` needs: a PostgreSQL with a queue of any length, and the simulator's own times."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import text

from gepp_audit.database.engine import Database, open_database
from gepp_audit.database.migrate import initialize
from tests.support.big_database import fill_postgresql
from tests.support.platform_schema import platform_sql
from tests.support.platforms import Platform
from tests.support.postgres import PostgresServer, running_server

ROOT = Path(__file__).parents[2]
#: organizations that share a queue, each with a batch of its own
ORGANIZATIONS = 3
_numbers = count(1)


@dataclass(frozen=True)
class BenchDatabase:
    """A new platform with the sample's rules, and how to fill its queue."""

    url: str
    platform: Platform
    database: Database
    organizations: tuple[int, ...]
    server: PostgresServer

    def fresh(self, organizations: int) -> BenchDatabase:
        """Another, empty database on the same server, with the same rules and so many organizations."""
        return _database(self.server, f"bench_{next(_numbers)}", organizations)

    def old(self) -> BenchDatabase:
        """A platform after years of use, on the same server."""
        url = self.server.create(name := f"bench_{next(_numbers)}")
        self.server.execute(platform_sql("new"), name)
        initialize(url)
        platform = Platform(url, "new")
        fill_postgresql(platform)
        return BenchDatabase(
            url=url, platform=platform, database=open_database(url), organizations=(), server=self.server
        )

    def queue_of(self, organization: int, transactions: int) -> tuple[int, list[int]]:
        """Queue so many transactions of one organization in one batch; returns its id and theirs."""
        ids = self.platform.transactions(organization, transactions)
        return self.platform.batch(organization, ids), ids

    def queue(self, transactions: int) -> None:
        """Queue so many transactions, in one batch per organization, as the platform writes them."""
        each, rest = divmod(transactions, len(self.organizations))
        for number, organization in enumerate(self.organizations):
            count = each + (number < rest)
            self.platform.batch(organization, self.platform.transactions(organization, count))
        with self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))

    def commits(self) -> int:
        """Transactions committed in this database so far, by the server's own count."""
        with self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            found = connection.execute(
                text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
            )
            return int(found.scalar_one())


@contextmanager
def bench_database() -> Iterator[BenchDatabase]:
    """A PostgreSQL of its own with one platform in it."""
    with (
        tempfile.TemporaryDirectory(prefix="gepp-audit-bench-") as folder,
        running_server(Path(folder) / "postgresql.log") as server,
    ):
        database = _database(server, "bench", ORGANIZATIONS)
        yield database
        database.platform.close()
        database.database.close()


def _database(server: PostgresServer, name: str, organizations: int) -> BenchDatabase:
    url = server.create(name)
    server.execute(platform_sql("new"), name)
    initialize(url)
    platform = Platform(url, "new")
    for rule in _sample_rules():
        platform.rule(rule["rule_id"], name=rule["rule_name"], actions=rule["actions"])
    ids = tuple(platform.organization() for _ in range(organizations))
    return BenchDatabase(url=url, platform=platform, database=open_database(url), organizations=ids, server=server)


def _sample_rules() -> list[dict[str, Any]]:
    document = json.loads((ROOT / "samples" / "sample.json").read_text(encoding="utf-8"))
    return [rule for rule in document["audit_rules"] if rule.get("is_global")]
