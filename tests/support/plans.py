"""How a database runs the statements that our own functions send: looked at in the moment before each is run.

PostgreSQL runs each one twice: first under EXPLAIN (ANALYZE, BUFFERS) in a savepoint that is rolled back, then for
good, so the plan is the one of these parameters on this data. SQLite tells its plan without running, and counts the
steps of its virtual machine while the statement runs: as exact a measure of work as PostgreSQL's buffers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, event

_LOOKED_AT: Final = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", re.IGNORECASE)
#: a callback for each so many steps of SQLite's machine
_STEPS: Final = 50
#: reading the smallest of the large tables takes more steps than this
_LEAST_OF_A_SCAN: Final = 300_000


@dataclass(kw_only=True)
class Plan:
    """How one statement was run."""

    statement: str
    #: tables that were read from end to end
    scanned: frozenset[str]
    #: the plan as the database tells it, a line a node
    lines: tuple[str, ...]
    #: PostgreSQL: pages that it looked into, in the cache or not
    pages: int = 0
    #: SQLite: steps of its machine
    work: int = 0

    def told(self) -> str:
        """Statement, plan and cost for a person."""
        return "\n".join((f"{self.pages} pages, {self.work} steps:", self.statement, *self.lines))


@dataclass(kw_only=True)
class Watched:
    """The statements of one step, in their order."""

    plans: list[Plan] = field(default_factory=list)

    @property
    def pages(self) -> int:
        """Of all statements together."""
        return sum(plan.pages for plan in self.plans)

    @property
    def work(self) -> int:
        """Of all statements together."""
        return sum(plan.work for plan in self.plans)

    def scanned(self, tables: tuple[str, ...]) -> list[str]:
        """Each reading of one of these tables from end to end, told with its statement and plan."""
        return [plan.told() for plan in self.plans if plan.scanned & set(tables)]

    def told(self) -> str:
        """The dearest statements first."""
        return "\n\n".join(plan.told() for plan in sorted(self.plans, key=lambda plan: -plan.pages - plan.work)[:3])


@contextmanager
def watching(connection: Connection) -> Iterator[Watched]:
    """Look at every statement that is sent through `connection` in this block."""
    watched = Watched()
    postgresql = connection.dialect.name == "postgresql"

    def look(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if _LOOKED_AT.match(statement):
            own = cursor.connection.cursor()
            explain = _explain_postgresql if postgresql else _explain_sqlite
            plan = explain(own, statement, parameters)
            own.close()
            watched.plans.append(plan)

    def tick() -> int:
        if watched.plans:
            watched.plans[-1].work += _STEPS
        return 0

    raw: Any = connection.connection.dbapi_connection
    event.listen(connection, "before_cursor_execute", look)
    if not postgresql:
        raw.set_progress_handler(tick, _STEPS)
    try:
        yield watched
    finally:
        event.remove(connection, "before_cursor_execute", look)
        if not postgresql:
            raw.set_progress_handler(None, 0)
            for plan in watched.plans:
                # the first rows in the order of an index are no scan: there is a limit, or the loop is left early
                if plan.work < _LEAST_OF_A_SCAN:
                    plan.scanned = frozenset()


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def _explain_postgresql(cursor: Any, statement: str, parameters: Any) -> Plan:
    cursor.execute("SAVEPOINT looked_at")
    cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
    [told] = cursor.fetchone()[0]
    cursor.execute("ROLLBACK TO SAVEPOINT looked_at; RELEASE SAVEPOINT looked_at")
    top = told["Plan"]
    nodes = list(_nodes(top, 0))
    return Plan(
        statement=statement,
        scanned=frozenset(node["Relation Name"] for _, node in nodes if _reads_all(node)),
        lines=tuple("  " * depth + _line(node) for depth, node in nodes),
        pages=top["Shared Hit Blocks"] + top["Shared Read Blocks"],
    )


def _nodes(node: dict[str, Any], depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
    yield depth, node
    for below in node.get("Plans", ()):
        yield from _nodes(below, depth + 1)


def _reads_all(node: dict[str, Any]) -> bool:
    return bool(node["Node Type"] == "Seq Scan" and node["Actual Loops"] > 0)


def _line(node: dict[str, Any]) -> str:
    what = (node[name] for name in ("Node Type", "Relation Name", "Index Name", "Index Cond", "Filter") if name in node)
    rows, loops = node["Actual Rows"], node["Actual Loops"]
    pages = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
    left = node.get("Rows Removed by Filter", 0)
    return f"{' · '.join(what)} (rows {rows:g} × {loops}, left out {left}, pages {pages})"


# -- SQLite ------------------------------------------------------------------------------------------------------------


def _explain_sqlite(cursor: Any, statement: str, parameters: Any) -> Plan:
    lines = tuple(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))
    names = {alias: table for table, alias in re.findall(r"(\w+) AS (\w+)", statement)}
    partial = {
        name
        for (name, sql) in cursor.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        )
        if " WHERE " in sql
    }
    scans = (re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", line) for line in lines)
    return Plan(
        statement=statement,
        # a partial index holds what is in work alone
        scanned=frozenset(names.get(scan[1], str(scan[1])) for scan in scans if scan and scan[2] not in partial),
        lines=lines,
    )
