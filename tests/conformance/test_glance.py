"""The glance at the queue: it foresees a run where there is one to come, and never stands in its way."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gepp_audit.database import batches, runs
from gepp_audit.database.engine import open_database
from gepp_audit.database.glance import Glance, glance
from gepp_audit.queue import liveness
from tests.support.platforms import Platform
from tests.support.secrets import TEST_DB_PASSWORD

STATUSES = ("in_progress",)
HOST = "h1"


def seen_work(platform: Platform) -> bool:
    """What the glance says."""
    seen = glance(platform.url, STATUSES, HOST)
    seen.close()
    return seen.work


def anything_open(platform: Platform) -> bool:
    """What a tick says that looks in earnest."""
    return platform.database.read(lambda connection: runs.anything_open(connection, STATUSES))


def nothing(_platform: Platform) -> None:
    pass


def unseen(platform: Platform) -> int:
    organization = platform.organization()
    return platform.batch(organization, platform.transactions(organization, 1))


def of_another_status(platform: Platform) -> None:
    organization = platform.organization()
    platform.batch(organization, platform.transactions(organization, 1), status="completed")


def deleted(platform: Platform) -> None:
    batch = unseen(platform)
    platform.execute("UPDATE transaction_audit_history SET deleted_date = started_at WHERE id = :id", id=batch)


def ours(platform: Platform) -> None:
    unseen(platform)
    platform.database.write(lambda connection: batches.discover(connection, STATUSES))


def ours_alone(platform: Platform) -> None:
    """Closed on the platform, by somebody else, and not by us."""
    ours(platform)
    platform.execute("UPDATE transaction_audit_history SET status = 'completed'")


def closed(platform: Platform) -> None:
    ours(platform)
    platform.execute("UPDATE gepp_audit_batches SET closed_at = started_at")


@pytest.mark.parametrize("make", [nothing, unseen, of_another_status, deleted, ours, ours_alone, closed])
def test_it_says_what_a_tick_will_say(platform: Platform, make: Callable[[Platform], Any]) -> None:
    make(platform)
    expected = make in (unseen, ours, ours_alone)
    assert (seen_work(platform), anything_open(platform)) == (expected, expected)


def test_a_run_that_has_not_ended_is_left_to_those_who_judge_it(platform: Platform) -> None:
    unseen(platform)
    other, own = liveness.identify("h2"), liveness.identify(HOST)
    platform.database.write(lambda connection: runs.start(connection, other))
    assert seen_work(platform)
    platform.database.write(lambda connection: runs.start(connection, own))
    assert not seen_work(platform)
    platform.database.write(lambda connection: runs.drain(connection, own.run_id))
    assert seen_work(platform)  # what it leaves is the next one's
    platform.database.write(lambda connection: runs.finish(connection, own.run_id, "processed", {}))
    assert seen_work(platform)


def _pid(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_its_connection_is_the_first_one_of_the_run(platform: Platform) -> None:
    seen = glance(platform.url, STATUSES, HOST)
    own = seen.connection.info.backend_pid
    database = open_database(platform.url, seen)
    assert TEST_DB_PASSWORD not in repr(seen)
    assert database.read(_pid) == own
    assert seen.connection is None
    database.engine.dispose()
    assert database.read(_pid) != own  # and it is handed over once
    database.close()


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_a_connection_that_was_lost_meanwhile_is_made_again(platform: Platform) -> None:
    seen = glance(platform.url, STATUSES, HOST)
    own = seen.connection.info.backend_pid
    platform.value("SELECT pg_terminate_backend(:own)", own=own)
    database = open_database(platform.url, seen)
    assert database.read(_pid) != own
    database.close()


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_a_connection_to_another_place_is_not_handed_over(platform: Platform) -> None:
    seen = glance(platform.url.rpartition("/")[0] + "/postgres", STATUSES, HOST)
    assert seen.connection is None  # there is no queue
    seen = glance(platform.url, STATUSES, HOST)
    made = seen.connection
    assert seen.hand_over({"host": "127.0.0.1", "dbname": "other"}) is None
    assert (seen.connection, made.closed) == (None, 1)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://127.0.0.1:1/nobody",
        "postgresql://[broken",
        "sqlite:////nowhere/at/all.db",
        "sqlite:///",
        "mysql://127.0.0.1/other",
        "",
    ],
)
def test_what_cannot_be_looked_at_shows_nothing(url: str) -> None:
    assert glance(url, STATUSES, HOST) == Glance()


@pytest.mark.parametrize("password", ["5432/x", "p@ss", "a/b@c"])
def test_an_address_that_libpq_reads_otherwise_is_not_looked_at(password: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        glance(f"postgresql://127.0.0.1:{password}@127.0.0.1:{port}/db", STATUSES, HOST)
        glance(f"postgresql://127.0.0.1:{port}/{password}@127.0.0.1:{port}/db", STATUSES, HOST)
        with pytest.raises(TimeoutError):
            server.accept()


def test_it_loads_neither_sqlalchemy_nor_a_driver_before_it_looks() -> None:
    script = "import sys, gepp_audit.database.glance; print({'sqlalchemy', 'psycopg2', 'openai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
