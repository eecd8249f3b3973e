"""PgBouncer in transaction mode before the tests' PostgreSQL: no session outlives a transaction.

The program comes from Debian's package `pgbouncer`; it refuses to run as root, so a root's test run hands it to
`nobody`, as the server itself.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.outputs import new_output_file
from tests.support.postgres import USER, PostgresServer
from tests.support.secrets import TEST_DB_PASSWORD
from tests.support.waiting import wait_until

#: few server connections: the runs of several hosts must share them
_CONFIGURATION: Final = """
[databases]
* = host=127.0.0.1 port={server_port} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 200
server_reset_query =
server_check_delay = 0
server_login_retry = 1
query_wait_timeout = 20
log_connections = 0
log_disconnections = 0
"""
_PROGRAM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


def bouncer_program() -> str | None:
    """The path of the program, or None: the package is not installed."""
    return shutil.which("pgbouncer", path=_PROGRAM_PATH)


@contextmanager
def running_pgbouncer(server: PostgresServer, *, mode: str = "transaction", pool_size: int = 4) -> Iterator[int]:
    """PgBouncer before `server` for the time of the `with` block; yields its port."""

    program = bouncer_program()
    if program is None:
        raise RuntimeError("pgbouncer is missing: install the package pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="gepp-pgbouncer-", dir="/tmp"))
    log_file = new_output_file("pgbouncer", ".log")
    port = _free_port()
    _write(
        folder / "pgbouncer.ini",
        _CONFIGURATION.format(
            server_port=server.port,
            user=USER,
            password=TEST_DB_PASSWORD,
            port=port,
            folder=folder,
            mode=mode,
            pool_size=pool_size,
        ),
    )
    _write(folder / "users", f'"{USER}" "{TEST_DB_PASSWORD}"\n')
    demoted: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (folder, folder / "pgbouncer.ini", folder / "users"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        demoted = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [program, str(folder / "pgbouncer.ini")],
            cwd="/",
            env={"PATH": _PROGRAM_PATH},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **demoted,
        )
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), 20, what="PgBouncer's start")
        if process.poll() is not None:
            raise RuntimeError(f"PgBouncer did not start:\n{log_file.read_text(errors='replace')[-2000:]}")
        yield port
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def through(url: str, server: PostgresServer, port: int) -> str:
    """The address of the database by way of PgBouncer."""
    return url.replace(f":{server.port}/", f":{port}/")


def _write(path: Path, content: str) -> None:
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        time.sleep(0.02)
        return False
