"""What `scripts/bench` needs: a PostgreSQL with a queue of any length, and the simulator's own times."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from gepp_audit.database.engine import Database, open_database
from gepp_audit.database.migrate import initialize
from tests.support.platform_schema import platform_sql
from tests.support.platforms import Platform
from tests.support.postgres import running_server

ROOT = Path(__file__).parents[2]
#: organizations that share a queue, each with a batch of its own
ORGANIZATIONS = 3


@dataclass(frozen=True)
class BenchDatabase:
    """A new platform with the sample's rules, and how to fill its queue."""

    url: str
    platform: Platform
    database: Database
    organizations: tuple[int, ...]

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
        url = server.create("bench")
        server.execute(platform_sql("new"), "bench")
        initialize(url)
        platform = Platform(url, "new")
        for rule in _sample_rules():
            platform.rule(rule["rule_id"], name=rule["rule_name"], actions=rule["actions"])
        organizations = tuple(platform.organization() for _ in range(ORGANIZATIONS))
        yield BenchDatabase(url=url, platform=platform, database=open_database(url), organizations=organizations)
        platform.close()


def _sample_rules() -> list[dict[str, Any]]:
    document = json.loads((ROOT / "samples" / "sample.json").read_text(encoding="utf-8"))
    return [rule for rule in document["audit_rules"] if rule.get("is_global")]
