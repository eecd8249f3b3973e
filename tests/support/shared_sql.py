"""Engines of the tests' own process share what SQLAlchemy has made of a statement: each test has a new engine."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, event

from gepp_audit.database import engine as engines

#: of each kind of database the first engine that has been connected
_firsts: Final[dict[str, Engine]] = {}


def share_compiled_statements() -> None:
    """From now on each engine that the product makes in this process takes over dialect and statements of the first."""
    make = engines._engine

    def sharing(*args: Any, **kwargs: Any) -> Engine:
        made = make(*args, **kwargs)
        first = _firsts.get(made.dialect.name)
        if first is None:
            # only a dialect that has seen its server knows what to compile for
            event.listen(made, "connect", lambda *_: _firsts.setdefault(made.dialect.name, made))
        else:
            made.dialect = first.dialect
            made._compiled_cache = first._compiled_cache
        return made

    engines._engine = sharing
