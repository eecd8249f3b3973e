"""JSON and exact sums built inside the database, spelled for PostgreSQL and for SQLite."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, cast, func, literal
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import Text

from gepp_audit.database.types import ExactDecimal, JsonValue


class ExactSum:
    """SQLite's aggregate `exact_sum`: a sum of decimals kept as text, without floats."""

    def __init__(self) -> None:
        self.total: Decimal | None = None

    def step(self, value: Any) -> None:
        if value is not None:
            self.total = (self.total or Decimal(0)) + Decimal(str(value))

    def finalize(self) -> str | None:
        return None if self.total is None else format(self.total, "f")


def exact_sum(connection: Connection, summed: ColumnElement[Decimal]) -> ColumnElement[Decimal]:
    """The sum of a decimal column; NULL over nothing."""
    name = "sum" if connection.dialect.name == "postgresql" else "exact_sum"
    result: ColumnElement[Decimal] = getattr(func, name)(summed, type_=ExactDecimal())
    return result


class JsonFunctions:
    """The JSON functions of the connection's database under one name each."""

    def __init__(self, connection: Connection) -> None:
        self._postgresql = connection.dialect.name == "postgresql"

    def object(self, **members: Any) -> ColumnElement[Any]:
        """A JSON object of expressions."""
        parts: list[Any] = []
        for name, value in members.items():
            key = literal(name, Text)
            parts += [cast(key, Text) if self._postgresql else key, value]
        function = func.jsonb_build_object if self._postgresql else func.json_object
        return function(*parts, type_=JsonValue)

    def array(self, element: ColumnElement[Any]) -> ColumnElement[Any]:
        """The JSON array of `element` over all rows; empty over none."""
        if self._postgresql:
            return func.coalesce(func.jsonb_agg(element), cast(literal("[]", Text), JSONB), type_=JsonValue)
        return func.json_group_array(func.json(element), type_=JsonValue)

    def member(self, document: ColumnElement[Any], name: str) -> ColumnElement[Any]:
        """The member `name` of a JSON document, as JSON; NULL where it is missing."""
        if self._postgresql:
            return func.jsonb_extract_path(document, name, type_=JsonValue)
        return func.json_extract(document, f"$.{name}", type_=Text)

    def value(self, expression: Any) -> Any:
        """An expression that holds JSON, to be set into an object; SQLite would take it for text."""
        return expression if self._postgresql else func.json(expression)

    def constant(self, value: Any) -> ColumnElement[Any]:
        """A Python value as JSON."""
        text = bindparam(None, json.dumps(value, ensure_ascii=False), type_=Text(), unique=True)
        return cast(text, JSONB) if self._postgresql else func.json(text)
