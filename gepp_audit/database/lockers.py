"""Which sessions of a PostgreSQL hold the platform's rows for long: what publishing and closing wait for.

Row locks stand on the rows themselves and in no view; but whoever takes one holds a lock on the table too, until its
transaction ends, and that stands in `pg_locks` (PostgreSQL, "Explicit Locking", "Viewing Locks"). Since when, and in
what state the session is, only its own role and `pg_read_all_stats` may see. Reads only. SQLite tells nothing of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.types import Text

from gepp_audit.database.facts import Locker
from gepp_audit.database.types import UtcDateTime

#: a transaction of the platform that is younger is its everyday work
_LONG: Final = timedelta(seconds=5)
_MOST: Final = 5

#: what a row is locked or changed under, and what keeps others from changing one
_HELD: Final = (
    text(
        """
        SELECT DISTINCT ON (activity.pid) activity.pid, locks.relation::regclass::text AS name, activity.usename,
               activity.application_name, activity.state, activity.xact_start
        FROM pg_locks AS locks JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
        WHERE locks.locktype = 'relation' AND locks.granted AND locks.pid <> pg_backend_pid()
          AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND locks.relation IN (to_regclass('transactions'), to_regclass('transaction_audit_history'))
          AND locks.mode <> 'AccessShareLock' AND activity.application_name <> 'gepp-audit'
          AND (activity.xact_start IS NULL OR activity.xact_start < :before)
        ORDER BY activity.pid, locks.relation
        """
    )
    .bindparams(bindparam("before", type_=UtcDateTime()))
    .columns(xact_start=UtcDateTime(), usename=Text(), application_name=Text(), state=Text())
)


def find(connection: Connection, moment: datetime) -> tuple[Locker, ...]:
    """The sessions that hold them, the oldest transaction first; none on SQLite."""
    if connection.dialect.name != "postgresql":
        return ()
    found = [
        Locker(
            pid=row.pid,
            table=row.name,
            user=row.usename,
            application=row.application_name or None,
            state=row.state,
            since=row.xact_start,
        )
        for row in connection.execute(_HELD, {"before": moment - _LONG})
    ]
    return tuple(sorted(found, key=lambda one: (one.since is None, one.since or moment, one.pid))[:_MOST])
