"""Many values as one bind parameter: a derived table that a set-based UPDATE or INSERT can join, on both databases.

PostgreSQL reads it with `jsonb_to_recordset`, SQLite with `json_each`. One statement text serves any number of rows, so
it is compiled once, and psycopg2 makes no round trip per row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    any_,
    bindparam,
    cast,
    column,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import JSON, Text, TypeEngine

from gepp_audit.database.types import sqlite_timestamp

S = TypeVar("S")
P = ParamSpec("P")


class Rows:
    """A derived table `name` with typed `columns`, and the parameter that fills it.

    `table(connection)` is the table for a statement that may be built once and kept; `fill(connection, values)` is what
    that statement is executed with. Values are numbers, text, booleans, aware datetimes, decimals, and for JSON columns
    anything that json can write; a key that a value lacks is NULL.
    """

    def __init__(self, name: str, /, **columns: TypeEngine[Any]) -> None:
        self.name = name
        self.columns = columns

    def table(self, connection: Connection) -> FromClause:
        """The derived table, to be joined."""
        document = bindparam(f"{self.name}_rows", type_=Text())
        if connection.dialect.name == "sqlite":
            each = func.json_each(document).table_valued("value", name=f"{self.name}_each")
            fields = [_extract(each.c.value, key, type_).label(key) for key, type_ in self.columns.items()]
            return select(*fields).select_from(each).subquery(self.name)
        each = (
            func.jsonb_to_recordset(cast(document, JSONB))
            .table_valued(*(column(key, type_) for key, type_ in self.columns.items()), name=f"{self.name}_each")
            .render_derived(name=f"{self.name}_each", with_types=True)
        )
        # the planner takes what a function returns for a hundred rows, and would for so many rather read the whole of a
        # table of ten thousand rows than look each up: it believes a limit
        return select(*each.c).limit(bindparam(f"{self.name}_count", type_=Integer())).subquery(self.name)

    def fill(self, connection: Connection, values: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """The parameters of a statement that joins the table."""
        rows = [dict(value) for value in values]
        sqlite = connection.dialect.name == "sqlite"
        document = json.dumps(rows, default=_plain_sqlite if sqlite else _plain, ensure_ascii=False)
        return {f"{self.name}_rows": document} | ({} if sqlite else {f"{self.name}_count": len(rows)})


def kept(build: Callable[Concatenate[Connection, P], S]) -> Callable[Concatenate[Connection, P], S]:
    """A statement that is built once per kind of database, and once for each further argument, of which there must be
    few: building one anew costs more than running it.
    """
    built: dict[tuple[Any, ...], S] = {}

    def statement(connection: Connection, /, *args: P.args, **kwargs: P.kwargs) -> S:
        key = (connection.dialect.name, *args, *sorted(kwargs.items()))
        if key not in built:
            built[key] = build(connection, *args, **kwargs)
        return built[key]

    return statement


def _extract(value: Any, key: str, type_: TypeEngine[Any]) -> Any:
    return func.json_extract(value, f"$.{key}", type_=Text() if isinstance(type_, JSON) else type_)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"cannot put a {type(value).__name__} into a row")


def _plain_sqlite(value: Any) -> str:
    return sqlite_timestamp(value) if isinstance(value, datetime) else _plain(value)


def among(connection: Connection, tested: ColumnElement[int], ids: Iterable[int]) -> ColumnElement[bool]:
    """The condition that `tested` is one of `ids`: one bind parameter, whatever their number."""
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(list(ids))).table_valued("value")
        return tested.in_(select(each.c.value))
    return tested == any_(bindparam(None, list(ids), type_=ARRAY(BigInteger), unique=True))


def among_later(connection: Connection, tested: ColumnElement[int], name: str) -> ColumnElement[bool]:
    """As `among`, in a statement that is kept: the ids come with its execution, as `ids_of(…)`."""
    if connection.dialect.name == "sqlite":
        each = func.json_each(bindparam(name, type_=Text())).table_valued("value")
        return tested.in_(select(each.c.value))
    return tested == any_(bindparam(name, type_=ARRAY(BigInteger)))


def ids_of(connection: Connection, name: str, values: Iterable[int]) -> dict[str, Any]:
    """The parameter of a statement with `among_later`."""
    return {name: json.dumps(list(values)) if connection.dialect.name == "sqlite" else list(values)}
