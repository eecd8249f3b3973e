"""Text of others made safe to show: a user's note must not move the cursor, colour the screen or forge a log line. And
how moments and money stand in JSON.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

#: control characters (without tab and newline), line and paragraph separators, and what turns the direction of writing
_UNSAFE: Final = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def printable(text: str, *, one_line: bool = False) -> str:
    r"""`text` with control characters spelled (`\x1b`); with `one_line`, newlines and tabs too."""
    safe = re.sub(_UNSAFE, lambda match: _spelled(match.group()), text)
    return safe.replace("\n", "\\n").replace("\t", "\\t") if one_line else safe


def json_escaped(line: str) -> str:
    """JSON text with the same characters escaped: still the same JSON, and safe to look at."""
    return re.sub(_UNSAFE, lambda match: f"\\u{ord(match.group()):04x}", line)


def moment(value: datetime) -> str:
    """A moment as JSON and tables show it: UTC, seconds, `2026-01-31T12:00:00Z`."""
    if value.tzinfo is None:
        raise ValueError("a naive datetime cannot be shown; give it a time zone")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def json_value(value: Any) -> Any:
    """What stands in JSON for a value that JSON does not know: `default` of `json.dumps`."""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"a {type(value).__name__} cannot stand in JSON")


def as_sentence(text: str) -> str:
    """`text` as a sentence of its own: a capital at its beginning, a full stop at its end."""
    begun = text[:1].upper() + text[1:]
    return begun if begun.endswith((".", "!", "?", ":")) else f"{begun}."


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
