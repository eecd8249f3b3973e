"""The ids that rows of the platform's history list: which transactions a batch is of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Integer, Select, cast, func, select

from gepp_audit.database.platform_tables import transaction_audit_history as history


def listed(connection: Connection, condition: ColumnElement[bool]) -> Select[Any]:
    """A query for the ids (`id`, as often as they stand there) that the rows under `condition` list.

    What the platform left NULL is left out: with one NULL among them, NOT IN these would never be true.
    """
    if connection.dialect.name == "postgresql":
        ids = select(cast(func.unnest(history.c.transactions), BigInteger).label("id")).where(condition).subquery("ids")
        return select(ids.c.id).where(ids.c.id.is_not(None))
    each = func.json_each(history.c.transactions).table_valued("value", joins_implicitly=True)
    ids_of = select(cast(each.c.value, Integer).label("id")).select_from(history, each)
    return ids_of.where(condition, each.c.value.is_not(None))


def listed_ids(connection: Connection, audit_history_id: int) -> Any:
    """The distinct ids that one row lists, as a derived table."""
    return listed(connection, history.c.id == audit_history_id).distinct().subquery("listed")
