"""Text of others made fit to be sent and kept: no half characters, no control characters, no endless length. Pure."""

from __future__ import annotations

import re
from typing import Final

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
#: control characters without tab and newline; NUL is what PostgreSQL's jsonb refuses
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_REPLACEMENT: Final = "\ufffd"


def encodable(text: str) -> str:
    """`text` with every half of a surrogate pair replaced: JSON can spell one, UTF-8 cannot carry it."""
    return text if text.isascii() else _LONE_SURROGATE.sub(_REPLACEMENT, text)


def without_controls(text: str) -> str:
    """`text` without control characters, tab and newline excepted, and encodable."""
    return _CONTROL.sub("", encodable(text.replace("\r\n", "\n")))


def storable(text: str, limit: int) -> str:
    """`text` as any database takes it: control characters gone, at most `limit` characters, surrounding space cut."""
    kept = without_controls(text[: 4 * limit]).strip()
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"
