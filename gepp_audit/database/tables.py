"""Our own tables, `gepp_audit_*`: no foreign keys, since those would put triggers on the platform's tables.

`migrations/` creates them; a test holds the two against each other.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Date,
    Double,
    FromClause,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    exists,
    false,
    literal_column,
    or_,
    text,
)

from gepp_audit.database.types import BigKey, ExactDecimal, JsonValue, UtcDateTime
from gepp_audit.model import BatchOutcome, CallOutcome, ItemState, VerdictStatus

metadata: Final = MetaData()

#: the newest revision in migrations/versions: what this program reads and writes
SCHEMA_REVISION: Final = "0005"
VERSION_TABLE: Final = "gepp_audit_alembic_version"

#: the row of `gepp_audit_limits` that is also the mutex of the claim
GLOBAL_SCOPE: Final = "global"


def _one_of(column: str, values: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


batches: Final = Table(
    "gepp_audit_batches",
    metadata,
    Column("audit_history_id", BigInteger, primary_key=True, autoincrement=False),
    Column("organization_id", BigInteger, nullable=False),
    Column("started_at", UtcDateTime(), nullable=False),
    Column("discovered_at", UtcDateTime(), nullable=False),
    Column("fanned_out_at", UtcDateTime()),
    Column("closed_at", UtcDateTime()),
    Column("outcome", Text),
    Column("total", Integer),
    #: kept with each publish, so that the platform's counters can be set without counting
    Column("processed", Integer, nullable=False, server_default="0"),
    Column("approved", Integer, nullable=False, server_default="0"),
    Column("rejected", Integer, nullable=False, server_default="0"),
    #: `enqueue --force`: transactions that failed and did not change are asked again
    Column("forced", Boolean, nullable=False, server_default=false()),
    Column("rules_digest", String(64)),
    Column("rules", JsonValue),
    #: about how many tokens its rules take in each call; NULL: fanned out by an older version
    Column("prompt_tokens", Integer),
    Column("error", Text),
    CheckConstraint(_one_of("outcome", BatchOutcome), name="ck_gepp_audit_batches_outcome"),
)
Index(
    "ix_gepp_audit_batches_open",
    batches.c.started_at,
    batches.c.audit_history_id,
    postgresql_where=text("closed_at IS NULL"),
    sqlite_where=text("closed_at IS NULL"),
)
Index(
    "ix_gepp_audit_batches_closed",
    batches.c.closed_at,
    postgresql_where=text("closed_at IS NOT NULL"),
    sqlite_where=text("closed_at IS NOT NULL"),
)

items: Final = Table(
    "gepp_audit_items",
    metadata,
    Column("audit_history_id", BigInteger, primary_key=True, autoincrement=False),
    Column("transaction_id", BigInteger, primary_key=True, autoincrement=False),
    Column("organization_id", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    #: skip_reason and error_code are closed lists of model.py, without a CHECK: a new one needs no migration then
    Column("skip_reason", Text),
    #: the fencing token: the ledger row of the newest call
    Column("call_id", BigInteger),
    Column("lease_until", UtcDateTime()),
    Column("available_at", UtcDateTime(), nullable=False),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("waits", Integer, nullable=False, server_default="0"),
    #: times that the transaction changed while its call ran
    Column("edits", Integer, nullable=False, server_default="0"),
    Column("first_failed_at", UtcDateTime()),
    Column("error_code", Text),
    Column("error", Text),
    Column("verdict_status", Text),
    Column("verdict", JsonValue),
    #: what the newest call was shown of the transaction, and by which rules
    Column("input_digest", String(64)),
    Column("settled_at", UtcDateTime()),
    #: its row in the platform's transaction_audits
    Column("audit_record_id", BigInteger),
    Column("published_at", UtcDateTime()),
    CheckConstraint(_one_of("state", ItemState), name="ck_gepp_audit_items_state"),
    CheckConstraint(
        _one_of("verdict_status", VerdictStatus),
        name="ck_gepp_audit_items_verdict_status",
    ),
    CheckConstraint(
        "state <> 'done' OR verdict IS NOT NULL",
        name="ck_gepp_audit_items_done_has_verdict",
    ),
    CheckConstraint(
        "state <> 'failed' OR error_code IS NOT NULL",
        name="ck_gepp_audit_items_failed_has_code",
    ),
    CheckConstraint(
        "state <> 'skipped' OR skip_reason IS NOT NULL",
        name="ck_gepp_audit_items_skipped_has_reason",
    ),
)


def state_is(*states: ItemState, table: FromClause = items) -> ColumnElement[bool]:
    """The condition on an item's state, spelled with literals: a bind parameter would hide the partial indexes."""
    spelled = [literal_column(f"'{state.value}'", Text) for state in states]
    return table.c.state == spelled[0] if len(spelled) == 1 else table.c.state.in_(spelled)


def unpublished(table: FromClause = items) -> ColumnElement[bool]:
    """Settled, but not yet written back."""
    return and_(state_is(ItemState.DONE, ItemState.FAILED, table=table), table.c.published_at.is_(None))


def live(table: FromClause = items) -> ColumnElement[bool]:
    """Still works on its transaction: waiting, asked, or not yet written back."""
    return or_(state_is(ItemState.READY, ItemState.CALLING, ItemState.SUBMITTED, table=table), unpublished(table))


IS_READY: Final = state_is(ItemState.READY)
#: from this many crashes on, a ready item is suspect and claimed alone
SUSPECT_AFTER: Final = 2
IS_SUSPECT: Final = and_(IS_READY, items.c.crashes >= literal_column(str(SUSPECT_AFTER), Integer))
IS_CALLING: Final = state_is(ItemState.CALLING)
IS_UNPUBLISHED: Final = unpublished()
IS_LIVE: Final = live()


def _item_index(name: str, where: ColumnElement[bool], *columns: str, unique: bool = False) -> None:
    Index(name, *(items.c[column] for column in columns), unique=unique, postgresql_where=where, sqlite_where=where)


_item_index("uq_gepp_audit_items_live", IS_LIVE, "transaction_id", unique=True)
_item_index("ix_gepp_audit_items_due", IS_READY, "audit_history_id", "available_at", "crashes", "transaction_id")
_item_index("ix_gepp_audit_items_suspect", IS_SUSPECT, "available_at", "audit_history_id")
_item_index("ix_gepp_audit_items_calling", IS_CALLING, "lease_until", "organization_id", "audit_history_id")
_item_index("ix_gepp_audit_items_unpublished", IS_UNPUBLISHED, "audit_history_id", "transaction_id")
_item_index("ix_gepp_audit_items_failed", state_is(ItemState.FAILED), "transaction_id", "settled_at")

calls: Final = Table(
    "gepp_audit_calls",
    metadata,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("run_id", String(32), nullable=False),
    Column("audit_history_id", BigInteger, nullable=False),
    Column("transaction_id", BigInteger, nullable=False),
    Column("organization_id", BigInteger, nullable=False),
    Column("engine", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_answered", Text),
    Column("tier", Text),
    Column("prompt_version", Text, nullable=False),
    Column("rules_digest", String(64)),
    Column("input_digest", String(64)),
    Column("dispatched_at", UtcDateTime(), nullable=False),
    Column("answered_at", UtcDateTime()),
    #: NULL: sent, fate unknown
    Column("outcome", Text),
    #: what the call counts for in the limits: what it may take at most while its end is unknown, then what it took
    Column("reserved_tokens", Integer),
    Column("reserved_cost", ExactDecimal(14, 8)),
    Column("input_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("cache_write_tokens", Integer),
    Column("output_tokens", Integer),
    Column("reasoning_tokens", Integer),
    #: USD; NULL: unknown
    Column("cost", ExactDecimal(14, 8)),
    Column("request_id", Text),
    Column("latency_ms", Integer),
    Column("error_code", Text),
    #: a paid verdict that its item did not take
    Column("verdict", JsonValue),
    CheckConstraint(_one_of("outcome", CallOutcome), name="ck_gepp_audit_calls_outcome"),
    Index("ix_gepp_audit_calls_transaction", "audit_history_id", "transaction_id"),
    Index("ix_gepp_audit_calls_dispatched", "dispatched_at", "organization_id"),
    Index("ix_gepp_audit_calls_of_transaction", "transaction_id"),
    sqlite_autoincrement=True,
)
Index(
    "ix_gepp_audit_calls_unknown",
    calls.c.run_id,
    postgresql_where=text("outcome IS NULL"),
    sqlite_where=text("outcome IS NULL"),
)


def own_item() -> ColumnElement[bool]:
    """A call's item waits for this very call; False where the item was taken from it, or the lease has ended."""
    return exists().where(
        items.c.audit_history_id == calls.c.audit_history_id,
        items.c.transaction_id == calls.c.transaction_id,
        items.c.call_id == calls.c.id,
        IS_CALLING,
    )


usage_daily: Final = Table(
    "gepp_audit_usage_daily",
    metadata,
    Column("day", Date, primary_key=True),
    Column("organization_id", BigInteger, primary_key=True, autoincrement=False),
    Column("model", Text, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("failed_calls", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    #: calls whose cost is unknown are counted here and not in `cost`
    Column("unpriced_calls", BigInteger, nullable=False),
    Column("cost", ExactDecimal(14, 8), nullable=False),
)

runs: Final = Table(
    "gepp_audit_runs",
    metadata,
    #: a run's id, or `tick:HOST` for the idle ticks of a host
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("pid_namespace", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started_at", Double, nullable=False),
    Column("version", Text, nullable=False),
    Column("started_at", UtcDateTime(), nullable=False),
    Column("reported_at", UtcDateTime(), nullable=False),
    Column("draining_at", UtcDateTime()),
    Column("finished_at", UtcDateTime()),
    Column("outcome", Text),
    Column("counts", JsonValue),
    Index("ix_gepp_audit_runs_reported", "reported_at"),
)
Index(
    "ix_gepp_audit_runs_unfinished",
    runs.c.host,
    postgresql_where=text("finished_at IS NULL"),
    sqlite_where=text("finished_at IS NULL"),
)

limits: Final = Table(
    "gepp_audit_limits",
    metadata,
    #: `global` or `organization:ID`
    Column("scope", Text, primary_key=True),
    Column("calls_per_minute", Integer),
    Column("tokens_per_minute", BigInteger),
    Column("concurrency", Integer),
    Column("tokens_per_day", BigInteger),
    Column("cost_per_day", ExactDecimal(14, 2)),
    Column("paused_at", UtcDateTime()),
    Column("paused_reason", Text),
    #: no call before this, except one probe when it has passed and `blocked_reason` is set
    Column("blocked_until", UtcDateTime()),
    Column("blocked_reason", Text),
    Column("blocked_detail", Text),
    Column("blocked_at", UtcDateTime()),
    #: the provider asked to wait until then
    Column("throttled_until", UtcDateTime()),
    #: until then the provider's own limits, which its answers tell, lower the pace too
    Column("pace_until", UtcDateTime()),
    Column("pace_calls_per_minute", Integer),
    Column("pace_tokens_per_minute", BigInteger),
)

spend: Final = Table(
    "gepp_audit_spend",
    metadata,
    #: of `gepp_audit_limits`; there is a row only where a limit of the day was in force
    Column("scope", Text, primary_key=True),
    #: in UTC
    Column("day", Date, primary_key=True),
    #: the calls of the day up to this one are in the sums, those after it are still read from the ledger
    Column("through_call", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost", ExactDecimal(14, 8), nullable=False),
    #: the part of a limit, in per cent, of whose use people were told: of tokens, and of money
    Column("warned_at_percent", Integer, nullable=False, server_default="0"),
    Column("cost_warned_at_percent", Integer, nullable=False, server_default="0"),
)
