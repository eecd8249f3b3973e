"""The rows of a big database, as statements that either database runs: made from running numbers, in the database.

Which row is what follows from its number; the constants tell. `small` are the rows that everything else refers to,
`large` the statements that fill each large table.
"""

from __future__ import annotations

import time
from typing import Final

from tests.support.platforms import Platform

HISTORY: Final = 1_000_000
LEDGER: Final = 1_000_000
#: so long ago was its first call: nothing is old enough yet to be pruned
DAYS: Final = 89
#: calls of the last hour, in the ledger
LATELY: Final = 25_000
TRANSACTIONS: Final = 300_000
ORGANIZATIONS: Final = 40
#: of old runs, and idle ticks of old hosts
RUNS: Final = 100_000
#: ours that are open: the last ones of the history; each lists EACH transactions, from 1 on
OPEN: Final = 200
EACH: Final = 1_000
FIRST_OPEN: Final = HISTORY - OPEN + 1
#: ours that have ended and are kept, 87 days of them: those before the open ones
CLOSED: Final = 250_000
FIRST_CLOSED: Final = FIRST_OPEN - CLOSED
#: of the open ones, by their place: the first 20 are nearly done, then two that are finished, one that the platform
#: cancelled, and ten whose items all wait for another attempt
NEARLY_DONE: Final = 20
FINISHED: Final = (21, 22)
CANCELLED: Final = 23
WAITING: Final = (24, 33)
#: in each of the nearly done ones: items with a verdict, of these not yet written back, and items under way
DONE: Final = 910
UNPUBLISHED: Final = 10
CALLING: Final = 4
#: the open batches behind this place have a suspect each
SUSPECTS: Final = 150
#: the calls under way are the newest ones; the newest call of an item with a verdict is this number + its transaction
FIRST_UNDER_WAY: Final = LEDGER - NEARLY_DONE * CALLING
FIRST_CALL: Final = FIRST_UNDER_WAY - (NEARLY_DONE + len(FINISHED)) * EACH
#: transactions that failed in old batches
FAILED: Final = range(OPEN * EACH + 1, OPEN * EACH + 20_001)
#: transactions of the batches that no run of ours has seen, EACH in one
ARRIVED: Final = 5
QUEUED: Final = range(FAILED.stop, FAILED.stop + ARRIVED * EACH)
#: transactions that nobody has queued
UNTOUCHED: Final = range(QUEUED.stop, QUEUED.stop + 10_000)
#: tables that grow without end, or hold a row per transaction: no step may read one from end to end
LARGE: Final = (
    "transaction_audit_history", "transactions", "transaction_records", "transaction_audits", "gepp_audit_batches",
    "gepp_audit_items", "gepp_audit_calls", "gepp_audit_runs",
)  # fmt: skip
DIGEST: Final = "d" * 64
MODEL: Final = "gpt-6-luna"
_VERDICT: Final = (
    '{"status": "approved", "rules": {"DC-01": "pass"}, "findings": [], "rejected_by": [], "warned_by": []}'
)
_SUMMARY: Final = '{"audit_results": [], "summary": {"total_transactions": 5}}'


class _PostgreSQL:
    """How the statements below are spelled for PostgreSQL."""

    @staticmethod
    def numbers(count: int, first: int = 1, ago: str = "0") -> str:
        at = _PostgreSQL.ago(ago)
        return f"(SELECT i, {at} AS at FROM generate_series({first}, {first + count - 1}) AS n (i)) AS n"

    @staticmethod
    def ago(seconds: str) -> str:
        return f"(now() - ({seconds}) * interval '1 second')"

    @staticmethod
    def listed(first: str, last: str) -> str:
        return f"ARRAY(SELECT generate_series(({first})::integer, ({last})::integer))"

    @staticmethod
    def five(first: str) -> str:
        return f"ARRAY[{', '.join(f'{first} + {more}' for more in range(5))}]"

    @staticmethod
    def json(document: str) -> str:
        return f"'{document}'::jsonb"

    @staticmethod
    def label(value: str) -> str:
        return f"({value})::ai_audit_status_enum"

    @staticmethod
    def rule_type(value: str) -> str:
        return f"{value}::rule_type_enum"

    @staticmethod
    def decimal(value: str) -> str:
        return value

    @staticmethod
    def true() -> str:
        return "true"


class _SQLite:
    """How they are spelled for SQLite."""

    @staticmethod
    def numbers(count: int, first: int = 1, ago: str = "0") -> str:
        # a subquery with a limit is run by itself: the moment is computed once for each number
        last, at = first + count - 1, _SQLite.ago(ago)
        numbers = f"WITH RECURSIVE c (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM c WHERE i < {last})"
        return f"({numbers} SELECT i, {at} AS at FROM c LIMIT {count}) AS n"

    @staticmethod
    def ago(seconds: str) -> str:
        return f"datetime({int(time.time())} - ({seconds}), 'unixepoch') || '.000000'"

    @staticmethod
    def listed(first: str, last: str) -> str:
        return (
            f"(WITH RECURSIVE c (k) AS (SELECT {first} UNION ALL SELECT k + 1 FROM c WHERE k < {last})"
            " SELECT json_group_array(k) FROM c)"
        )

    @staticmethod
    def five(first: str) -> str:
        return f"json_array({', '.join(f'{first} + {more}' for more in range(5))})"

    @staticmethod
    def json(document: str) -> str:
        return f"'{document}'"

    @staticmethod
    def label(value: str) -> str:
        return value

    @staticmethod
    def rule_type(value: str) -> str:
        return value

    @staticmethod
    def decimal(value: str) -> str:
        return f"'{value}'"

    @staticmethod
    def true() -> str:
        return "1"


Spelling = type[_PostgreSQL] | type[_SQLite]


def spelling(platform: Platform) -> Spelling:
    """How the database of this platform wants it."""
    return _PostgreSQL if platform.is_postgresql else _SQLite


def _insert(table: str, source: str, values: dict[str, str]) -> str:
    return f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {source}"


def small(platform: Platform) -> list[str]:
    """Organizations with a limit each, a material, 17 global rules and one of each organization."""
    sql = spelling(platform)
    organizations = {"id": "i", "name": "'Organization ' || i", "allow_ai_audit": sql.true()}
    if platform.version == "new":
        organizations["public_form_key"] = "'form-' || i"
    rules = {
        "rule_id": "'R-' || i", "rule_type": sql.rule_type("'completeness'"), "rule_name": "'Rule ' || i",
        "condition": "'weight_kg is not null'", "actions": sql.json('[{"type": "system_action", "action": "reject"}]'),
        "is_global": "i <= 17", "organization_id": "CASE WHEN i > 17 THEN i - 17 END", "is_active": sql.true(),
    }  # fmt: skip
    limits = {"scope": "'organization:' || i", "calls_per_minute": "100000", "concurrency": "1000"}
    return [
        _insert("organizations", sql.numbers(ORGANIZATIONS), organizations),
        "INSERT INTO main_materials (id, name_en, code) VALUES (1, 'Paper', 'P')",
        _insert("audit_rules", sql.numbers(17 + ORGANIZATIONS), rules),
        _insert("gepp_audit_limits", sql.numbers(ORGANIZATIONS), limits),
    ]


def large(platform: Platform) -> dict[str, list[str]]:
    """The statements that fill each large table, by table."""
    sql = spelling(platform)
    rows: dict[str, list[str]] = {
        "transactions": [_transactions(sql)],
        "transaction_records": [_records(platform, sql)],
        "transaction_audit_history": [_old_history(sql), _open_history(sql), _arrived(sql)],
        "gepp_audit_batches": [_closed_batches(sql), _open_batches(sql)],
        "gepp_audit_items": [_live_items(sql), _failed_items(sql)],
        "gepp_audit_calls": [_calls(sql)],
        "gepp_audit_runs": [_runs(sql)],
    }
    if platform.is_new:
        rows["transaction_audits"] = [_audits(sql)]
    if platform.is_postgresql:
        for table in ("transactions", "transaction_records", "transaction_audit_history", "gepp_audit_calls"):
            rows[table].append(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")
    return rows


def _of(first: str) -> str:
    """The organization of a transaction, or of the batch whose first transaction it is."""
    return f"1 + (({first} - 1) / {EACH}) % {ORGANIZATIONS}"


def _within(numbers: range) -> str:
    return f"i BETWEEN {numbers.start} AND {numbers.stop - 1}"


def _transactions(sql: Spelling) -> str:
    p, j = f"(1 + (i - 1) / {EACH})", f"(1 + (i - 1) % {EACH})"
    written = f"{p} <= {NEARLY_DONE} AND {j} <= {DONE - UNPUBLISHED} OR {p} IN {FINISHED}"
    queued = f"i <= {OPEN * EACH} AND NOT ({written}) OR {_within(QUEUED)}"
    untouched = f"{_within(FAILED)} OR {_within(UNTOUCHED)}"
    return _insert(
        "transactions",
        sql.numbers(TRANSACTIONS, ago=f"({TRANSACTIONS} - i) * 20"),
        {
            "id": "i", "organization_id": _of("i"), "status": "'pending'",
            "ai_audit_status": sql.label(
                f"CASE WHEN {queued} THEN 'queued' WHEN {untouched} THEN 'null' ELSE 'approved' END"
            ),
            "weight_kg": "6.25", "notes": "'recycled paper ' || i", "transaction_date": "at", "created_date": "at",
            "updated_date": "at", "is_active": sql.true(),
        },
    )  # fmt: skip


def _records(platform: Platform, sql: Spelling) -> str:
    values = {
        "id": "i", "created_transaction_id": "i", "main_material_id": "1", "unit": "'kg'", "origin_quantity": "6.25",
        "origin_weight_kg": "6.25", "total_amount": "12.5", "is_active": sql.true(),
    }  # fmt: skip
    if platform.is_postgresql:
        values |= {"category_id": "1", "created_by_id": "1"}
    return _insert("transaction_records", sql.numbers(TRANSACTIONS), values)


def _audits(sql: Spelling) -> str:
    return _insert(
        "transaction_audits",
        sql.numbers(TRANSACTIONS, ago=f"({TRANSACTIONS} - i) * 20"),
        {
            "transaction_id": "i", "organization_id": _of("i"), "audit_notes": sql.json(_VERDICT), "by_human": "false",
            "audit_type": "'ai_async'", "ai_audit_status": "'approved'", "created_date": "at",
        },
    )  # fmt: skip


def _old_history(sql: Spelling) -> str:
    return _insert(
        "transaction_audit_history",
        sql.numbers(FIRST_OPEN - 1, ago=f"3600.0 + ({HISTORY} - i) * 30"),
        {
            "id": "i", "organization_id": f"1 + i % {ORGANIZATIONS}", "transactions": sql.five("1 + i % 250000"),
            "audit_info": sql.json(_SUMMARY), "total_transactions": "5", "processed_transactions": "5",
            "approved_count": "5",
            "status": "CASE i % 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'cancelled' ELSE 'completed' END",
            "started_at": "at", "completed_at": "at", "created_date": "at",
            "deleted_date": "CASE WHEN i % 100 = 1 THEN at END",
        },
    )  # fmt: skip


def _open_history(sql: Spelling) -> str:
    place = f"(i - {FIRST_OPEN - 1})"
    first, cancelled = f"1 + ({place} - 1) * {EACH}", f"{place} = {CANCELLED}"
    return _insert(
        "transaction_audit_history",
        sql.numbers(OPEN, FIRST_OPEN, ago=f"3600.0 - {place}"),
        {
            "id": "i", "organization_id": _of(f"({first})"), "transactions": sql.listed(first, f"{place} * {EACH}"),
            "total_transactions": f"{EACH}", "status": f"CASE WHEN {cancelled} THEN 'cancelled' ELSE 'in_progress' END",
            "started_at": "at", "created_date": "at", "deleted_date": f"CASE WHEN {cancelled} THEN at END",
        },
    )  # fmt: skip


def _arrived(sql: Spelling) -> str:
    first = f"{QUEUED.start} + (i - {HISTORY + 1}) * {EACH}"
    return _insert(
        "transaction_audit_history",
        sql.numbers(ARRIVED, HISTORY + 1, ago="1"),
        {
            "id": "i", "organization_id": _of(f"({first})"), "transactions": sql.listed(first, f"{first} + {EACH - 1}"),
            "total_transactions": f"{EACH}", "status": "'in_progress'", "started_at": "at", "created_date": "at",
        },
    )  # fmt: skip


def _closed_batches(sql: Spelling) -> str:
    return _insert(
        "gepp_audit_batches",
        sql.numbers(CLOSED, FIRST_CLOSED, ago=f"3600.0 + ({HISTORY} - i) * 30"),
        {
            "audit_history_id": "i", "organization_id": f"1 + i % {ORGANIZATIONS}", "started_at": "at",
            "discovered_at": "at", "fanned_out_at": "at", "closed_at": "at",
            "outcome": "CASE i % 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'withdrawn' ELSE 'completed' END",
            "total": "5", "processed": "5", "rules_digest": f"'{DIGEST}'",
        },
    )  # fmt: skip


def _open_batches(sql: Spelling) -> str:
    rules = ", ".join(_RULE.replace("NUMBER", str(number)) for number in range(1, 19))
    return _insert(
        "gepp_audit_batches",
        sql.numbers(OPEN, FIRST_OPEN, ago=f"3600.0 - (i - {FIRST_OPEN - 1})"),
        {
            "audit_history_id": "i", "organization_id": f"1 + (i - {FIRST_OPEN}) % {ORGANIZATIONS}", "started_at": "at",
            "discovered_at": "at", "fanned_out_at": "at", "total": f"{EACH}", "rules_digest": f"'{DIGEST}'",
            "rules": sql.json(f"[{rules}]"),
        },
    )  # fmt: skip


_RULE: Final = (
    '{"rule_id": "R-NUMBER", "rule_type": "completeness", "name": "Rule NUMBER", "process": null,'
    ' "condition": "weight_kg is not null", "thresholds": null, "metrics": null,'
    ' "actions": [{"type": "system_action", "action": "reject", "message": null}], "is_global": true}'
)


def _live_items(sql: Spelling) -> str:
    """Item `j` of the open batch at place `p`."""
    p, j = f"(1 + (i - 1) / {EACH})", f"(1 + (i - 1) % {EACH})"
    nearly, finished = f"{p} <= {NEARLY_DONE}", f"{p} IN {FINISHED}"
    done = f"({nearly} AND {j} <= {DONE} OR {finished})"
    calling = f"({nearly} AND {j} BETWEEN {DONE + 1} AND {DONE + CALLING})"
    waits = f"{p} BETWEEN {WAITING[0]} AND {WAITING[1]}"
    return _insert(
        "gepp_audit_items",
        sql.numbers(OPEN * EACH, ago="60"),
        {
            "audit_history_id": f"{FIRST_OPEN - 1} + {p}", "transaction_id": "i", "organization_id": _of("i"),
            "state": f"CASE WHEN {done} THEN 'done' WHEN {calling} THEN 'calling' ELSE 'ready' END",
            "call_id": f"CASE WHEN {done} THEN {FIRST_CALL} + i"
            f" WHEN {calling} THEN {FIRST_UNDER_WAY} + ({p} - 1) * {CALLING} + {j} - {DONE} END",
            # the last one of each batch is of a run that died
            "lease_until": f"CASE WHEN {calling} THEN"
            f" CASE WHEN {j} = {DONE + CALLING} THEN {sql.ago('5')} ELSE {sql.ago('-600')} END END",
            "available_at": f"CASE WHEN {waits} THEN {sql.ago('-600')} ELSE at END",
            "crashes": f"CASE WHEN {j} = {EACH} AND {p} > {SUSPECTS} THEN 2 ELSE 0 END",
            "waits": f"CASE WHEN {waits} THEN 1 ELSE 0 END",
            "first_failed_at": f"CASE WHEN {waits} THEN at END",
            "error_code": f"CASE WHEN {waits} THEN 'server_error' END",
            "error": f"CASE WHEN {waits} THEN 'the provider is out of order' END",
            "verdict_status": f"CASE WHEN {done} THEN 'approved' END",
            "verdict": f"CASE WHEN {done} THEN {sql.json(_VERDICT)} END",
            "input_digest": f"CASE WHEN {done} THEN '{DIGEST}' END", "settled_at": f"CASE WHEN {done} THEN at END",
            "published_at": f"CASE WHEN {nearly} AND {j} <= {DONE - UNPUBLISHED} OR {finished} THEN at END",
        },
    )  # fmt: skip


def _failed_items(sql: Spelling) -> str:
    return _insert(
        "gepp_audit_items",
        sql.numbers(len(FAILED), FAILED.start, ago="7000000"),
        {
            "audit_history_id": f"{FIRST_CLOSED} + i - {FAILED.start}", "transaction_id": "i",
            "organization_id": _of("i"), "state": "'failed'",
            "available_at": "at", "attempts": "3", "error_code": "'refused'",
            "error": "'the provider refused this transaction'", "input_digest": f"'{DIGEST}'", "settled_at": "at",
            "published_at": "at",
        },
    )  # fmt: skip


def _calls(sql: Spelling) -> str:
    old = LEDGER - LATELY
    lately, before = f"({LEDGER} - i) * 3600.0 / {LATELY}", f"3600 + ({old} - i) * {DAYS * 86400.0} / {old}"
    # the newest are those under way, before them come those of the other live items
    newest, of_live = f"i > {FIRST_UNDER_WAY}", f"i > {FIRST_CALL}"
    place, under_way = f"((i - {FIRST_UNDER_WAY} - 1) / {CALLING})", f"((i - {FIRST_UNDER_WAY} - 1) % {CALLING})"
    transaction = (
        f"CASE WHEN {newest} THEN {place} * {EACH} + {DONE + 1} + {under_way}"
        f" WHEN {of_live} THEN i - {FIRST_CALL} ELSE 1 + i % 250000 END"
    )
    return _insert(
        "gepp_audit_calls",
        sql.numbers(LEDGER, ago=f"CASE WHEN i > {old} THEN {lately} ELSE {before} END"),
        {
            "id": "i", "run_id": "'run-' || (i / 20)",
            "audit_history_id": f"CASE WHEN {newest} THEN {FIRST_OPEN} + {place}"
            f" WHEN {of_live} THEN {FIRST_OPEN} + (i - {FIRST_CALL} - 1) / {EACH}"
            f" ELSE {FIRST_CLOSED} + i / {LEDGER // CLOSED} END",
            "transaction_id": transaction,
            "organization_id": _of(f"({transaction})"),
            "engine": "'openai'", "model": f"'{MODEL}'", "model_answered": f"'{MODEL}'", "prompt_version": "'1'",
            "rules_digest": f"'{DIGEST}'", "input_digest": f"'{DIGEST}'", "dispatched_at": "at",
            "answered_at": f"CASE WHEN {newest} THEN NULL ELSE at END",
            "outcome": f"CASE WHEN {newest} THEN NULL WHEN i % 50 = 0 THEN 'retry' ELSE 'verdict' END",
            "reserved_tokens": "4000", "input_tokens": "2000", "cached_tokens": "1500", "output_tokens": "150",
            "cost": sql.decimal("0.00012500"), "request_id": "'req-' || i", "latency_ms": "700",
        },
    )  # fmt: skip


def _runs(sql: Spelling) -> str:
    """Old runs over three hosts; the last one of each has not ended."""
    ended = f"i <= {RUNS - 3}"
    return _insert(
        "gepp_audit_runs",
        sql.numbers(RUNS, ago=f"({RUNS} - i) * {DAYS * 86400.0 / RUNS}"),
        {
            "id": "'run-' || i", "host": "'h' || (i % 3)", "boot_id": "'boot'", "pid_namespace": "'ns'",
            "pid": "i % 30000", "pid_started_at": "1.0 * i", "version": "'1'", "started_at": "at", "reported_at": "at",
            "finished_at": f"CASE WHEN {ended} THEN at END", "outcome": f"CASE WHEN {ended} THEN 'processed' END",
        },
    )  # fmt: skip
