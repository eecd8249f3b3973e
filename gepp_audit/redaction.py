"""Which texts are never written, and how they are masked.

A secret is masked wherever it stands. One that could as well be a word of ours (the password `audit`, `gepp_audit` or
`1234`) would mangle every other sentence and tell by that what it is: it is masked where a credential stands, in an
address, behind a name such as `password=` or `Bearer`, and in a field with such a name.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from gepp_audit.setting_values import MASK

#: up to this length, letters alone (also several words joined by - or _) may be a word, and digits alone a number
_LONGEST_WORD: Final = 15
_LONGEST_NUMBER: Final = 8
#: whatever is as short as this stands inside words by chance
_SHORTEST: Final = 3
_CREDENTIAL: Final = (
    r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|(?:api|access|private)[_-]?key|authorization|credentials?)"
)


class Redactor:
    """The registered secrets. They stay registered until the process ends."""

    def __init__(self) -> None:
        self._everywhere: tuple[str, ...] = ()
        self._words: tuple[str, ...] = ()
        self._in_context: re.Pattern[str] | None = None

    def register(self, *secrets: str) -> None:
        """Never write these texts, nor their form in a URL."""
        known = {*self._everywhere, *self._words}
        for secret in secrets:
            known.update({secret, quote(secret, safe="")} if secret else ())
        # the longest first, so that no secret is cut short by another one that stands in it
        ordered = sorted(known, key=lambda one: (-len(one), one))
        self._words = tuple(secret for secret in ordered if may_be_a_word(secret))
        self._everywhere = tuple(secret for secret in ordered if not may_be_a_word(secret))
        self._in_context = _context_of(self._words) if self._words else None

    def redacted(self, text: str, *, field: str = "") -> str:
        """`text` without the registered secrets. `field`: the name under which it is told."""
        for secret in self._everywhere:
            if secret in text:
                text = text.replace(secret, MASK)
        if self._in_context is None:
            return text
        if field and re.search(_CREDENTIAL, field, re.IGNORECASE):
            for word in self._words:
                text = text.replace(word, MASK)
        return self._in_context.sub(lambda found: f"{found['before'] or ''}{MASK}", text)


def may_be_a_word(secret: str) -> bool:
    """Whether `secret` may stand in our own sentences without being meant."""
    letters = secret.replace("-", "").replace("_", "")
    return (
        len(secret) <= _SHORTEST
        or (len(secret) <= _LONGEST_WORD and letters.isalpha())
        or (len(secret) <= _LONGEST_NUMBER and secret.isdigit())
    )


def _context_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """The words where a credential stands: `user:WORD@`, `//WORD@`, `password=WORD`, `"token": "WORD"`, `Bearer WORD`.

    The name of the credential may be in any case, the word itself is taken as it was registered.
    """
    word = "|".join(re.escape(one) for one in words)
    name = rf"{_CREDENTIAL}\w*[\"']?\s*[:=,]\s*b?[\"']?"
    return re.compile(rf"(?<=[:/])(?:{word})(?=@)|(?P<before>(?i:{name}|\b(?:bearer|basic)\s+))(?:{word})(?![\w-])")
