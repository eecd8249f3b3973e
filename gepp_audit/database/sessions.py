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
    """Columns of a SELECT that bound the waits of one transaction of PostgreSQL: what is set locally ends with it, so
    nothing is left in a pooled session.
    """
    waits = {
        "lock_timeout": LOCK_TIMEOUT_MS,
        "statement_timeout": statement_timeout_ms,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT_MS,
    }
    return ", ".join(f"set_config('{name}', '{ms}', true)" for name, ms in waits.items())
