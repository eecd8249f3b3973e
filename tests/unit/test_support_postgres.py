"""The server that tests run on asks for its password, and nothing of it stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest

from tests.support import postgres
from tests.support.postgres import PostgresServer, running_server
from tests.support.processes import ROOT
from tests.support.secrets import TEST_DB_PASSWORD
from tests.support.waiting import wait_until

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.postgres import running_server
with running_server(Path(sys.argv[1])) as server:
    print(server.port, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def takes_connections(port: int) -> bool:
    try:
        psycopg2.connect(PostgresServer(port=port).url("postgres"), connect_timeout=5).close()
    except psycopg2.OperationalError:
        return False
    return True


def test_a_wrong_password_is_refused(cluster: PostgresServer) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(cluster.url("postgres").replace(TEST_DB_PASSWORD, "wrong"))


def test_a_copy_holds_what_its_template_holds_and_can_be_dropped_under_a_client(cluster: PostgresServer) -> None:
    cluster.create("pattern")
    cluster.execute("CREATE TABLE t AS SELECT 7 AS n", "pattern")
    client = psycopg2.connect(cluster.create("copy", "pattern"))
    try:
        with client.cursor() as cursor:
            cursor.execute("SELECT n FROM t")
            found = cursor.fetchall()
        for name in ("copy", "pattern"):
            cluster.drop(name)
    finally:
        client.close()
    assert found == [(7,)]


def test_a_server_is_gone_with_its_block(tmp_path: Path) -> None:
    with running_server(tmp_path / "server.log") as server:
        during = takes_connections(server.port)
    assert (during, takes_connections(server.port)) == (True, False)


def test_a_server_does_not_outlive_a_test_process_that_was_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "server.log")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    port = int(done.stdout)
    wait_until(lambda: not takes_connections(port), what="the end of the server")


def test_without_system_binaries_those_of_the_wheel_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_SYSTEM", tmp_path / "nowhere")
    with running_server(tmp_path / "server.log") as server:
        server.execute("CREATE DATABASE one")
        assert takes_connections(server.port)
