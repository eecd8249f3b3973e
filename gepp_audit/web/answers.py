"""How the API answers: `{"success": true, …}` as JSON in UTF-8, with whatever a database holds made safe to look at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import JSONResponse

from gepp_audit.plain_text import json_escaped, json_value


class Answer(JSONResponse):
    """A value as JSON; moments are UTC, money is a number."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return _text(content).encode()


def spliced(head: Mapping[str, Any], rows: Iterable[tuple[Mapping[str, Any], str, str | None]]) -> bytes:
    """`head` with the list `data` of these rows, as JSON.

    A row comes with the name and the text of one further member, which is JSON already and is not read again: it may be
    long.
    """
    data = ",".join(
        f"{_text(row)[:-1]},{json.dumps(name)}:{json_escaped(told or 'null')}}}" for row, name, told in rows
    )
    return f'{_text(head)[:-1]},"data":[{data}]}}'.encode()


def done(data: Any, message: str | None = None) -> Answer:
    """What was asked for, or what was done."""
    told = {} if message is None else {"message": message}
    return Answer({"success": True, **told, "data": data})


def _text(value: Any) -> str:
    told = json.dumps(value, default=json_value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return json_escaped(told)
