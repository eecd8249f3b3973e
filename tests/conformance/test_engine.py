"""Transactions: repeated from memory when the database asks for it, guarded by timeouts, told in our words."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from gepp_audit.database.engine import Database, open_database, parse_url, sqlstate_behind
from gepp_audit.database.unreachable import trouble
from gepp_audit.errors import OperatorError
from tests.support.platforms import Platform
from tests.support.postgres import PostgresServer
from tests.support.secrets import TEST_DB_PASSWORD

on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)


@pytest.fixture
def database(platform: Platform) -> Database:
    platform.organization()
    platform.organization()
    return platform.database


def rename(connection: Connection, id_: int, name: str) -> None:
    connection.execute(text("UPDATE organizations SET name = :name WHERE id = :id"), {"name": name, "id": id_})


@on_postgresql
def test_a_deadlock_is_repeated_from_memory(platform: Platform, database: Database) -> None:
    both = threading.Barrier(2, timeout=20)
    tries = []

    def work(first: int, second: int) -> None:
        def steps(connection: Connection) -> None:
            tries.append(first)
            rename(connection, first, "a")
            if tries.count(first) == 1:
                both.wait()
            rename(connection, second, "b")

        database.write(steps)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (1, 2), (2, 1)))
    assert len(tries) > 2


@on_postgresql
def test_a_lock_that_somebody_keeps_is_waited_for_by_trying_again(platform: Platform, database: Database) -> None:
    holder = create_engine(parse_url(platform.url)).connect()
    rename(holder, 1, "held")
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        if len(tries) == 2:
            holder.rollback()
        rename(connection, 1, "ours")

    database.write(work)
    holder.close()
    assert (len(tries), platform.value("SELECT name FROM organizations WHERE id = 1")) == (2, "ours")


@on_postgresql
def test_a_lost_connection_is_repeated_on_a_new_one(platform: Platform, database: Database) -> None:
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        rename(connection, 1, "ours")
        if len(tries) == 1:
            mine = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            other = create_engine(parse_url(platform.url))
            with other.connect() as killer:
                killer.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": mine})
            other.dispose()
        rename(connection, 2, "ours")

    database.write(work)
    assert len(tries) == 2
    assert {row["name"] for row in platform.rows("SELECT name FROM organizations")} == {"ours"}


@on_postgresql
def test_every_transaction_is_guarded_and_nothing_is_left_in_the_session(
    platform: Platform, database: Database
) -> None:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")

    def settings(connection: Connection) -> list[str]:
        return [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]

    assert database.write(settings) == ["2s", "30s", "5s"]
    assert database.read(settings) == ["2s", "30s", "5s"]
    with database.engine.connect() as connection:
        assert settings(connection) == ["0", "0", "0"]


def test_a_refused_statement_is_told_without_the_values_it_quotes(platform: Platform, database: Database) -> None:
    with pytest.raises(OperatorError) as refused:
        database.write(
            lambda connection: connection.execute(
                text("INSERT INTO organizations (id, name) VALUES (1, 'a secret name')")
            )
        )
    assert "secret" not in str(refused.value)
    if platform.is_postgresql:
        assert "SQLSTATE" in str(refused.value)


def test_what_fails_inside_changes_nothing(platform: Platform, database: Database) -> None:
    def work(connection: Connection) -> None:
        rename(connection, 1, "half")
        raise OperatorError("stop", fix="", code="stop")

    with pytest.raises(OperatorError, match="stop"):
        database.write(work)
    assert platform.value("SELECT count(*) FROM organizations WHERE name = 'half'") == 0


def test_an_unreachable_server_is_named_without_its_password() -> None:
    database = open_database(f"postgresql://gepp:{TEST_DB_PASSWORD}@127.0.0.1:1/none")
    with pytest.raises(OperatorError) as refused:
        database.read(lambda connection: connection.execute(text("SELECT 1")), patience=0)
    assert (refused.value.code, TEST_DB_PASSWORD in str(refused.value)) == ("database_unreachable", False)
    assert "connection refused" in str(refused.value)


def test_each_reason_why_a_server_cannot_be_reached_has_its_own_words(cluster: PostgresServer) -> None:
    url = cluster.url("postgres")
    at = url.partition("@")[2].partition("/")[0]
    reasons = {
        url.replace(at, "127.0.0.1:1"): "connection refused",
        url.replace(at, "no-such-host.invalid"): "unknown host name",
        url.replace(TEST_DB_PASSWORD, "wrong"): "user or password refused",
        url.replace("/postgres", "/authentication failed"): "there is no such database on that server",
        f"{url}?sslmode=require": "the server speaks no TLS",
    }
    for where, words in reasons.items():
        with pytest.raises(OperatorError) as refused:
            open_database(where).read(lambda connection: connection.execute(text("SELECT 1")), patience=0)
        told = refused.value
        assert (told.code, words in told.message) == ("database_unreachable", True), str(told)
        assert TEST_DB_PASSWORD not in str(told)


def test_of_several_addresses_what_a_person_must_mend_is_told_and_is_not_tried_again() -> None:
    said = (
        'connection to server at "db" (::1), port 5432 failed: Connection refused\n'
        'connection to server at "db" (127.0.0.1), port 5432 failed: FATAL:  database "timeout" does not exist'
    )
    assert (trouble(said).words, trouble(said).lasting) == ("there is no such database on that server", True)
    for broken in ('root certificate file "/x" does not exist', "SSL error: certificate verify failed"):
        assert trouble(broken).words.startswith("TLS failed: the server's certificate")
    assert "with TLS only" in trouble('no pg_hba.conf entry for host "::1", user "u", no encryption').words
    for passing in ("SSL connection has been closed unexpectedly", "SSL SYSCALL error: EOF detected", "whatever"):
        assert not trouble(passing).lasting


def test_two_writers_on_sqlite_take_turns(tmp_path: Path) -> None:
    from gepp_audit.database.migrate import initialize

    url = f"sqlite:///{tmp_path / 'two.db'}"
    initialize(url)
    Platform(url, "embedded").organization()

    def count(_: int) -> None:
        database = open_database(url)
        for _ in range(20):
            database.write(
                lambda connection: connection.execute(text("UPDATE organizations SET name = name || 'x'")) and None
            )
        database.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    check = Platform(url, "embedded")
    assert check.value("SELECT length(name) FROM organizations") == len("Organization 1") + 80
    check.close()


def test_a_reader_on_sqlite_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    from gepp_audit.database.migrate import initialize

    url = f"sqlite:///{tmp_path / 'reader.db'}"
    initialize(url)
    Platform(url, "embedded").organization()
    writer, reader = open_database(url), open_database(url)

    def work(connection: Connection) -> int:
        rename(connection, 1, "new")
        return len(reader.read(lambda other: other.execute(text("SELECT 1")).all(), patience=0))

    assert writer.write(work) == 1
    writer.close()
    reader.close()


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://u:p@h/d", "postgresql+psycopg2"),
        ("postgres://u:p@h/d", "postgresql+psycopg2"),
        ("sqlite:////tmp/x.db", "sqlite+pysqlite"),
    ],
)
def test_a_url_gets_the_driver_that_is_shipped(url: str, driver: str) -> None:
    assert parse_url(url).drivername == driver


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "nonsense", "sqlite://", "sqlite:///:memory:", ""])
def test_other_addresses_are_refused_without_quoting_them(url: str) -> None:
    with pytest.raises(OperatorError, match="DATABASE_URL") as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)


@on_postgresql
def test_a_lock_that_is_kept_ends_sooner_than_a_lost_server_where_that_is_asked_for(
    platform: Platform, database: Database
) -> None:
    holder = create_engine(parse_url(platform.url)).connect()
    rename(holder, 1, "held")
    with pytest.raises(OperatorError) as refused:
        database.write(lambda connection: rename(connection, 1, "ours"), patience=600.0, lock_patience=0.0)
    holder.close()
    assert sqlstate_behind(refused.value) == "55P03"
