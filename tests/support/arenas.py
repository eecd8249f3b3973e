"""Places for trouble: a database of one kind behind what stands before it, a simulator, hosts, the platform's users.

Kinds: `postgresql` (hosts with clocks ten minutes apart, one of them behind a proxy that cuts connections),
`pgbouncer` (all hosts behind PgBouncer in transaction mode), `sqlite` (hosts whose disk is full now and then).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Literal

import psycopg2

from gepp_audit.database.migrate import initialize
from tests.laws import violations
from tests.support.chaos import Chaos, Fleet, Plan, settled_log, shifted
from tests.support.evidence import Evidence, plain_schema, read_evidence
from tests.support.people import People
from tests.support.pgbouncer import running_pgbouncer, through
from tests.support.platform_schema import platform_sql
from tests.support.platforms import Platform
from tests.support.postgres import PostgresServer
from tests.support.processes import Programs, Simulator, running_simulator
from tests.support.queues import SampleQueue, connect, expectations
from tests.support.tcp_proxy import TcpProxy, tcp_proxy

Kind = Literal["postgresql", "pgbouncer", "sqlite"]
KINDS: Final[tuple[Kind, ...]] = ("postgresql", "pgbouncer", "sqlite")
#: the two clocks of hosts that are ten minutes apart
_APART: Final = 600
#: of each message of a client: how probable it is the last of its connection
_CUT: Final = 0.003
_numbers = count(1)


@dataclass(kw_only=True)
class Arena:
    """Where trouble is made."""

    kind: Kind
    platform: Platform
    programs: Programs
    simulator: Simulator
    queue: SampleQueue
    hosts: Mapping[str, Mapping[str, str]]
    #: disturbs the database once; None: this kind cannot
    outage: Callable[[random.Random], None] | None = None

    def chaos(self, plan: Plan, seed: int) -> Chaos:
        """Trouble by this plan."""
        people = People(self.queue, seed)
        people.told.schema = self.platform.database.read(plain_schema)
        fleet = Fleet(programs=self.programs, hosts=self.hosts)
        chaos = Chaos(fleet, people, self.simulator, plan, seed)
        chaos.starve = self.kind == "sqlite"
        if self.outage is not None:
            disturb = self.outage
            chaos.outage = lambda: disturb(chaos.random)
        return chaos

    def verdict_of_the_laws(self, chaos: Chaos) -> tuple[Evidence, list[str]]:
        """What the database says in the end, and every violation."""
        chaos.tell()
        evidence = read_evidence(self.platform.url, asked=settled_log(self.simulator), told=chaos.people.told)
        return evidence, violations(evidence)


@contextmanager
def open_arena(
    kind: Kind, server: PostgresServer, home: Path, *, latency_ms: int = 200, version: str = "new"
) -> Iterator[Arena]:
    """A fresh arena for the time of the `with` block. `home`: an empty folder; `server`: for kinds that need one."""
    with ExitStack() as ending:
        programs = ending.enter_context(Programs(home=home))
        simulator = ending.enter_context(running_simulator("--jitter", str(latency_ms // 2), latency_ms=latency_ms))
        hosts: dict[str, dict[str, str]] = {name: {} for name in ("h1", "h2", "h3", "h4")}
        outage = None
        if kind == "sqlite":
            platform = _on_sqlite(home)
        else:
            platform = _on_postgresql(server, version)
            ending.callback(server.drop, platform.url.rpartition("/")[2])
            proxy = None
            if kind == "pgbouncer":
                url = through(platform.url, server, ending.enter_context(running_pgbouncer(server)))
                hosts = {name: {"DATABASE_URL": url} for name in hosts}
            else:
                proxy = ending.enter_context(tcp_proxy(server.port, seed=next(_numbers)))
                hosts["h2"], hosts["h3"] = shifted(_APART // 2), shifted(-_APART // 2)
                hosts["h4"] = {"DATABASE_URL": proxy.url(platform.url)}
                proxy.cut_at_random(_CUT)
            outage = _outage(server, platform, proxy)
        ending.callback(platform.close)
        connect(programs, platform, simulator)
        yield Arena(
            kind=kind,
            platform=platform,
            programs=programs,
            simulator=simulator,
            queue=SampleQueue(platform),
            hosts=hosts,
            outage=outage,
        )


def _on_sqlite(home: Path) -> Platform:
    url = f"sqlite:///{home / 'platform.db'}"
    initialize(url)
    return Platform(url, "embedded")


def _on_postgresql(server: PostgresServer, version: str) -> Platform:
    name = f"arena_{next(_numbers)}"
    url = server.create(name)
    server.execute(platform_sql("new" if version == "new" else "old"), name)
    # a crash of the server must not lose what it told to have committed
    server.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")
    initialize(url)
    return Platform(url, version)


def _outage(server: PostgresServer, platform: Platform, proxy: TcpProxy | None) -> Callable[[random.Random], None]:
    restart = restart_only(server)

    def terminate(_: random.Random) -> None:
        connection = psycopg2.connect(platform.url, connect_timeout=10)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        finally:
            connection.close()

    def disturb(chances: random.Random) -> None:
        kinds = [restart, terminate]
        if proxy is not None:
            kinds.append(lambda _: proxy.cut_all())
        disturbance: Callable[[random.Random], None] = chances.choice(kinds)
        disturbance(chances)

    return disturb


def restart_only(server: PostgresServer) -> Callable[[random.Random], None]:
    """PostgreSQL is stopped, in good order or at once, and started again a little later."""

    def restart(chances: random.Random) -> None:
        server.stop(immediately=chances.random() < 0.5)
        time.sleep(chances.uniform(0, 2))
        server.start()

    return restart


def sample_ids() -> list[int]:
    """The transactions of the sample."""
    return list(expectations())
