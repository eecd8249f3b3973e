"""What tests share: a PostgreSQL of their own, the platform's database in three kinds, a simulator, real processes.

At the end of a run every captured output and log is searched for the run's secrets: one that leaked fails the run.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gepp_audit.database.migrate import initialize
from tests.support.dealing import in_order
from tests.support.forked import COLD, close_nests
from tests.support.lambda_runtime import Lambda, running_lambda
from tests.support.outputs import new_output_file
from tests.support.platform_schema import VERSIONS, platform_sql
from tests.support.platforms import Platform
from tests.support.postgres import PostgresServer, running_server
from tests.support.processes import Programs, Simulator, running_simulator
from tests.support.shared_sql import share_compiled_statements

# a suite that a shell started in the background would hand an ignored Ctrl-C on to every program it starts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.support.leak_search"]

# a busy machine is no failure: what is slow is measured elsewhere
settings.register_profile("unhurried", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

share_compiled_statements()

_numbers = count(1)
KINDS = ("sqlite", "postgresql-old", "postgresql-new")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, in each of the processes."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = in_order(items, workers)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What has been collected stays: no collection of garbage need walk over thousands of tests again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Nothing of ours runs on."""
    close_nests()


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresServer]:
    """A PostgreSQL server with a template for each version of the platform: bare, and with our tables."""
    with running_server(new_output_file("postgresql", ".log")) as server:
        for version in VERSIONS:
            server.create(f"bare_{version}")
            server.execute(platform_sql(version), f"bare_{version}")
            initialize(server.create(f"ready_{version}", f"bare_{version}"))
        yield server


@pytest.fixture(scope="session")
def embedded_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file as `init-db` makes it."""
    path = tmp_path_factory.mktemp("embedded") / "template.db"
    initialize(f"sqlite:///{path}")
    return path


@pytest.fixture
def bare_platform(request: pytest.FixtureRequest, cluster: PostgresServer) -> Iterator[Platform]:
    """A platform on PostgreSQL, old or new by the test's parameter, without our tables."""
    name = f"bare_copy_{next(_numbers)}"
    platform = Platform(cluster.create(name, f"bare_{request.param}"), request.param)
    yield platform
    platform.close()
    cluster.drop(name)


@contextmanager
def new_platform(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Platform]:
    """A platform of one of the `KINDS` with our tables, for a fixture of any scope; a file of it lies in `folder`."""
    if kind == "sqlite":
        template: Path = request.getfixturevalue("embedded_template")
        path = folder / "platform.db"
        path.write_bytes(template.read_bytes())
        platform = Platform(f"sqlite:///{path}", "embedded")
        yield platform
        platform.close()
        return
    cluster: PostgresServer = request.getfixturevalue("cluster")
    version = kind.removeprefix("postgresql-")
    name = f"copy_{next(_numbers)}"
    platform = Platform(cluster.create(name, f"ready_{version}"), version)
    yield platform
    platform.close()
    cluster.drop(name)


@pytest.fixture(params=KINDS)
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Platform]:
    """A platform with our tables: on SQLite, and old and new on PostgreSQL."""
    with new_platform(request.param, request, tmp_path) as platform:
        yield platform


@pytest.fixture
def empty_postgresql_url(cluster: PostgresServer) -> Iterator[str]:
    """The address of a fresh, empty database."""
    name = f"empty_{next(_numbers)}"
    yield cluster.create(name)
    cluster.drop(name)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Runs and starts the program; what still runs when the test ends is killed."""
    with Programs(home=tmp_path) as programs:
        yield programs


@pytest.fixture
def cold_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program, and each provider's process, is started by a Python of its own."""
    monkeypatch.setenv(COLD, "1")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """The bundled simulator, which answers at once and takes only the test's key."""
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture
def aws_lambda(programs: Programs, tmp_path: Path) -> Iterator[Lambda]:
    """AWS Lambda with the function in it, as often as a test wants."""
    with running_lambda(programs, tmp_path) as service:
        yield service
