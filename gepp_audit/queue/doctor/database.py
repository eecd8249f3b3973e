"""The checks of the database: reachable, fit, its rights, what stands between, its clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from gepp_audit.database import health
from gepp_audit.errors import OperatorError
from gepp_audit.queue.doctor.check import Finding, critical, ok, unknown, warning
from gepp_audit.queue.untaken import untaken
from gepp_audit.queue.wording import counted, span

if TYPE_CHECKING:
    from gepp_audit.database.rights import Rights
    from gepp_audit.queue.doctor.surroundings import Surroundings

#: a round trip that takes longer is felt: a run makes several a second
_SLOW_ROUND_TRIP: Final = 0.1
#: seconds by which two clocks may differ
_CLOCK: Final = 5.0
#: idle_in_transaction_session_timeout came with 9.6, and to_regclass(text) too
_LEAST_POSTGRESQL: Final = (9, 6)
#: the oldest that still gets security fixes (November 2026)
_SUPPORTED_POSTGRESQL: Final = (15, 0)
#: RETURNING came with 3.35
_LEAST_SQLITE: Final = (3, 35)
_RIGHTS: Final = "(the README lists all under “Rights”)"


def database(around: Surroundings) -> Finding:
    """It can be reached with these settings, and takes writes."""
    try:
        opened = around.open_database()
    except OperatorError as error:
        return unknown(error.message, error.fix)
    found = opened.read(health.server)
    took = f"{found.round_trip * 1000:.1f} ms a round trip"
    if found.read_only:
        return critical(
            f"{opened.name} answers, but is a standby that takes no writes.", "Name the primary in DATABASE_URL."
        )
    if found.round_trip > _SLOW_ROUND_TRIP:
        return warning(
            f"{opened.name} answers slowly: {took}.",
            "Run the queue nearer to the database, or look at what loads the network or the server.",
        )
    return ok(f"{opened.name} answers: {took}.")


def server_version(around: Surroundings) -> Finding:
    """The server is new enough, and still gets security fixes."""
    found = around.read(health.server)
    told = f"{found.product} {'.'.join(map(str, found.version))}"
    least = _LEAST_SQLITE if found.product == "SQLite" else _LEAST_POSTGRESQL
    if found.version < least:
        return critical(
            f"{told} is too old: the queue needs {found.product} {'.'.join(map(str, least))} or newer.",
            "Upgrade the database." if found.product == "PostgreSQL" else "Use a Python with a newer SQLite.",
        )
    if found.product == "PostgreSQL" and found.version < _SUPPORTED_POSTGRESQL:
        return warning(
            f"{told} gets no security fixes any more, and the queue is not tested with it.",
            f"Upgrade the server to PostgreSQL {_SUPPORTED_POSTGRESQL[0]} or newer.",
        )
    return ok(f"{told}.")


def schema(around: Surroundings) -> Finding:
    """Our tables are there, in the version that this program reads and writes."""
    found, needed = around.read(health.revision)
    if found == needed:
        return ok(f"Our tables are those of this version ({found}).")
    if found is not None and found > needed:
        return critical(
            f"Our tables are those of a newer gepp-audit ({found}; this program knows {needed}).",
            "Upgrade gepp-audit on this host.",
        )
    there = "There are no tables of gepp-audit yet." if found is None else f"Our tables are older ({found})."
    return critical(there, 'Run "gepp-audit init-db".')


def platform(around: Surroundings) -> Finding:
    """The platform's tables are there, and its open batches have a status that we take."""
    found = around.read(health.shape)
    lacking = [*found.missing_tables, *found.missing_columns]
    if lacking:
        return critical(
            f"This is no GEPP platform, or one that is changed: {', '.join(lacking)} "
            f"{'is' if len(lacking) == 1 else 'are'} not there, or this role may not see "
            f"{'it' if len(lacking) == 1 else 'them'}.",
            "Name the platform's database in DATABASE_URL; look at the check rights.",
        )
    version = "a newer platform" if found.is_new else "an older platform"
    left = untaken(found.open_batches, around.settings.batch_statuses)
    if left.batches:
        return warning(f"This is {version}, and {left.seen}.", left.fix)
    opened = sum(found.open_batches.values())
    return ok(f"This is {version}; {counted(opened, 'batch is', 'batches are')} open.")


# -- rights ------------------------------------------------------------------------------------------------------------


def rights(around: Surroundings) -> Finding | None:
    """The role may do what the queue needs. PostgreSQL only."""
    found = _rights(around)
    if found is None:
        return None
    if found.missing:
        return critical(
            f"The role {found.role} lacks {'; '.join(found.missing)} {_RIGHTS}.",
            f"As an owner of the tables: {' '.join(found.grants)}",
        )
    if found.hidden:
        return warning(
            f"Row-level security decides which rows of {', '.join(found.hidden)} the role {found.role} sees.",
            "Look whether a policy lets it see and update the rows of every organization.",
        )
    return ok(f"The role {found.role} may do all that the queue needs.")


def least_privilege(around: Surroundings) -> Finding | None:
    """The role may do nothing beyond. PostgreSQL only; not in an embedded database, whose tables are ours."""
    found = _rights(around)
    if found is None:
        return None
    if around.read(health.is_embedded):
        return ok("This is an embedded database of our own: its tables belong to the queue.")
    if found.excess:
        return warning(
            f"The role {found.role} may do more than the queue needs: {'; '.join(found.excess)} {_RIGHTS}. Whoever "
            "gets hold of its password may too.",
            f"As an owner of the tables: {' '.join(found.revokes)}" + _through(found.through),
        )
    return ok(f"The role {found.role} may do nothing beyond what the queue needs.")


def _through(roles: tuple[str, ...]) -> str:
    if not roles:
        return ""
    named = ", ".join(roles)
    return f" It also has the rights of {named}: take it out of that role if they come from there."


def _rights(around: Surroundings) -> Rights | None:
    opened = around.open_database()
    if not opened.is_postgresql:
        return None
    from gepp_audit.database import rights as catalog

    return opened.read(catalog.look)


# -- what stands between -----------------------------------------------------------------------------------------------


def pooler(around: Surroundings) -> Finding | None:
    """A pooler such as PgBouncer lets transactions pass whole. PostgreSQL only."""
    url = around.settings.require_database_url()
    if not health.is_postgresql(url):
        return None
    from gepp_audit.database import pooling

    found = pooling.look(url)
    if found is None or found.waited:
        around.open_database()  # where it cannot be reached at all, this says so
        return warning(
            "The database, or a pooler before it, gave us no further connection within some seconds: its pool is full.",
            "Raise the pool's size (PgBouncer: default_pool_size) or use pool_mode=transaction; a run keeps two "
            "connections.",
        )
    if found.mode is pooling.Mode.STATEMENT:
        return critical(
            "A pooler stands between that gives a server to each statement, so no transaction of several can pass.",
            "Set pool_mode=transaction (or session) in PgBouncer for this database.",
        )
    told = {
        pooling.Mode.DIRECT: "No pooler stands between.",
        pooling.Mode.SESSION: "A pooler stands between, in session mode as far as can be seen: each run keeps two of "
        "its servers.",
        pooling.Mode.TRANSACTION: "A pooler stands between, in transaction mode: fine, the queue keeps nothing in a "
        "session.",
    }
    return ok(told[found.mode])


def clock(around: Surroundings) -> Finding | None:
    """This host's clock and the database's agree. Not for SQLite, where they are one."""
    found = around.read(health.server)
    if found.clock_ahead is None:
        return None
    ahead, precision = found.clock_ahead, found.round_trip / 2
    if abs(ahead) - precision > _CLOCK:
        direction = "ahead of" if ahead > 0 else "behind"
        return warning(
            f"This host's clock is {span(timedelta(seconds=abs(ahead)))} {direction} the database's. The queue goes by "
            "the database's, but log lines cannot be put together, and a wrong clock makes TLS certificates and the "
            "provider's Retry-After dates look wrong.",
            "Let both hosts keep time by NTP (timedatectl set-ntp true).",
        )
    return ok(f"This host's clock and the database's differ by {abs(ahead):.1f} s.")


def sqlite_file(around: Surroundings) -> Finding | None:
    """The file of an embedded database has its write-ahead log in force, and lies on a local disk. SQLite only."""
    url = around.settings.require_database_url()
    found = health.sqlite_file(url)
    if found is None:
        return None
    if found.wal is None:
        return critical(f"{found.path} is no SQLite database.", "Correct DATABASE_URL.")
    if health.is_network(found.file_system):
        return critical(
            f"{found.path} lies on a network file system ({found.file_system}), where SQLite's locks do not hold.",
            "Put it on a local disk, or use PostgreSQL for several hosts.",
        )
    where = f"on a local file system ({found.file_system})" if found.file_system else "on a file system without a name"
    if not found.wal:
        return warning(
            f"{found.path} lies {where}, but its write-ahead log is not in force: readers and writers keep each other "
            "waiting.",
            'Run any command that works on it, such as "gepp-audit show": it is switched on by that.',
        )
    return ok(f"{found.path} lies {where}, its write-ahead log is in force.")


# -- our rows ----------------------------------------------------------------------------------------------------------


def retention(around: Surroundings) -> Finding:
    """What is older than it is kept has been removed."""
    found = around.read(health.overdue)
    if not found:
        return ok("No row is older than it is kept.")
    named = ", ".join(
        f"{'more than ' if count >= health.MOST_COUNTED else ''}{count} in {name}" for name, count in found.items()
    )
    return warning(
        f"Rows that should have been removed a day ago are still there: {named}.",
        "Ticks and runs remove them bit by bit; if the number does not fall, look at the check runs and into the log.",
    )
