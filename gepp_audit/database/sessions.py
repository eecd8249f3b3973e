"""How every session of ours introduces itself and how long it waits, whoever opens it."""

from __future__ import annotations

from typing import Any, Final

#: arguments of psycopg2's `connect`, beside the address
CONNECT_ARGUMENTS: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    "application_name": "gepp-audit",
    "keepalives_idle": 30,
}
LOCK_TIMEOUT_MS: Final = 2_000
STATEMENT_TIMEOUT_MS: Final = 30_000
#: a process that is frozen inside a transaction loses its locks after this
IDLE_TIMEOUT_MS: Final = 5_000


def guard(statement_timeout_ms: int = STATEMENT_TIMEOUT_MS) -> str:
    """The SQL that bounds the waits of one transaction of PostgreSQL: SET LOCAL ends with it, so nothing is left in a
    pooled session.
    """
    return (
        f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "
        f"SET LOCAL statement_timeout = {statement_timeout_ms}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}; "
    )
