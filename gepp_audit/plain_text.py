"""Text of others made safe to show: a user's note must not move the cursor, colour the screen or forge a log line."""

from __future__ import annotations

import re
from typing import Final

#: control characters (without tab and newline), line and paragraph separators, and what turns the direction of writing
_UNSAFE: Final = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def printable(text: str, *, one_line: bool = False) -> str:
    r"""`text` with control characters spelled (`\x1b`); with `one_line`, newlines and tabs too."""
    safe = re.sub(_UNSAFE, lambda match: _spelled(match.group()), text)
    return safe.replace("\n", "\\n").replace("\t", "\\t") if one_line else safe


def json_escaped(line: str) -> str:
    """JSON text with the same characters escaped: still the same JSON, and safe to look at."""
    return re.sub(_UNSAFE, lambda match: f"\\u{ord(match.group()):04x}", line)


def as_sentence(text: str) -> str:
    """`text` as a sentence of its own: a capital at its beginning, a full stop at its end."""
    begun = text[:1].upper() + text[1:]
    return begun if begun.endswith((".", "!", "?", ":")) else f"{begun}."


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
