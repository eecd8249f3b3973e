"""What tests share: a PostgreSQL of their own, the platform's database in three kinds, a real server, real processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from gepp_audit.database.engine import open_database
from gepp_audit.database.migrate import initialize
from tests.support.cluster import Cluster, running_cluster
from tests.support.platforms import NEW, OLD, Platform

_numbers = count(1)
KINDS = ("sqlite", "postgresql-old", "postgresql-new")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server with a template for each version of the platform: bare, and with our tables."""
    with running_cluster() as started:
        for version, statements in (("old", OLD), ("new", OLD + NEW)):
            url = started.create(f"bare_{version}")
            database = open_database(url)
            for part in statements.split(";\n"):
                if part.strip():
                    database.write(lambda connection, part=part: connection.exec_driver_sql(part) and None)  # type: ignore[misc] # bound now
            database.close()
            initialize(started.create(f"ready_{version}", f"bare_{version}"))
        yield started


@pytest.fixture
def bare_platform(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Platform]:
    """A platform on PostgreSQL, old or new by the test's parameter, without our tables."""
    name = f"bare_copy_{next(_numbers)}"
    platform = Platform(cluster.create(name, f"bare_{request.param}"), request.param)
    yield platform
    platform.close()
    cluster.drop(name)


@pytest.fixture(params=KINDS)
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Platform]:
    """A platform with our tables: on SQLite, and old and new on PostgreSQL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'platform.db'}"
        initialize(url)
        platform = Platform(url, "embedded")
        yield platform
        platform.close()
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    version = request.param.removeprefix("postgresql-")
    name = f"copy_{next(_numbers)}"
    platform = Platform(cluster.create(name, f"ready_{version}"), version)
    yield platform
    platform.close()
    cluster.drop(name)


@pytest.fixture
def empty_postgresql_url(cluster: Cluster) -> Iterator[str]:
    """The address of a fresh, empty database."""
    name = f"empty_{next(_numbers)}"
    yield cluster.create(name)
    cluster.drop(name)
