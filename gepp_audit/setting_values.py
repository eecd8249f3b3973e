"""How the text of a setting becomes a value, and how secrets are masked.

A parser raises ValueError with words that complete the sentence "NAME (origin) …". It quotes the text only where that
is short and of a kind that is never secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote

#: what stands for a secret
MASK: Final = "***"

_DATABASE_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg2", "sqlite", "sqlite+pysqlite")
# patterns are compiled where they are first used: most runs need few of them
_WHOLE: Final = r"[0-9]{1,18}"
_NUMBER: Final = r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
_SECRET_PARAMETER: Final = r"(?i)(?<=[?&])([^=&]*(?:pass|secret|token|key|sig)[^=&]*)=([^&]*)"
#: longer texts are not quoted: who swaps two lines of an env file may have put a key there
_LONGEST_QUOTED: Final = 20


class Secret:
    """A text that shows itself only to `reveal`."""

    __slots__ = ("_text", "masked")

    def __init__(self, text: str, masked: str = MASK) -> None:
        self._text = text
        #: what may be shown of it
        self.masked = masked

    def reveal(self) -> str:
        """The secret itself."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"Secret({self.masked!r})"

    def __str__(self) -> str:
        return self.masked

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


# -- addresses ---------------------------------------------------------------------------------------------------------


def masked_url(url: str) -> str:
    """`url` without its secrets, for messages: `postgresql://u:p@h/d` → `postgresql://u:***@h/d`.

    Masked are the password, a lone user (a token may stand there), and parameters that sound secret; in what is hardly
    a URL, whatever might be part of a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", scheme):
        return MASK
    if not rest.startswith("/"):
        user, at, host = rest.rpartition("@")
        name, colon, _ = user.partition(":")
        if at:
            is_user = colon or scheme.startswith("postgres")
            rest = f"{name if is_user else MASK}{colon and ':' + MASK}@{host}"
    shown = re.sub(_SECRET_PARAMETER, rf"\1={MASK}", rest)
    return f"{scheme}://{shown}"


def secrets_of_url(url: str) -> set[str]:
    """The texts of `url` that are secret, as they stand there and decoded."""
    _, _, rest = url.partition("://")
    found = {match.group(2) for match in re.finditer(_SECRET_PARAMETER, rest)}
    if not rest.startswith("/"):
        user, at, _ = rest.rpartition("@")
        _, colon, password = user.partition(":")
        if at:
            found.add(password if colon else "")
    return {text for one in found for text in (one, unquote(one)) if text}


def database_url(text: str) -> Secret:
    """An address that the database layer knows; its parts are checked there."""
    if text.partition("://")[0] not in _DATABASE_SCHEMES or "://" not in text:
        raise ValueError("must be postgresql://USER:PASSWORD@HOST:PORT/NAME or sqlite:///FILE")
    return Secret(text, masked_url(text))


def web_url(text: str) -> str:
    """An http or https address."""
    if not re.fullmatch(r"https?://[^\s/?#]+([/?#]\S*)?", text):
        raise ValueError("must be an address that begins with http:// or https://")
    return text


def secret_web_url(text: str) -> Secret:
    """An address whose path is a secret by itself."""
    scheme, _, rest = web_url(text).partition("://")
    host = re.split(r"[/?#]", rest)[0].rpartition("@")[2]
    return Secret(text, f"{scheme}://{host}/{MASK}")


# -- other texts -------------------------------------------------------------------------------------------------------


def api_key(text: str) -> Secret:
    """A key as it can stand in an HTTP header: printable ASCII without blanks."""
    if not re.fullmatch(r"[!-~]+", text, re.ASCII):
        raise ValueError("must be one line of ASCII without blanks: is something beside the key in it?")
    return Secret(text)


def shared_secret(text: str) -> Secret:
    """A secret that others hold too, as they have it: any text."""
    return Secret(text)


def word(text: str) -> str:
    """A name without blanks or control characters, at most 200 characters."""
    if len(text) > 200 or not text.isprintable() or re.search(r"\s", text):
        raise ValueError("must be one word of at most 200 characters")
    return text


def path(text: str) -> Path:
    """The name of a file."""
    if "\0" in text:
        raise ValueError("must be the name of a file")
    return Path(text)


def prices(text: str) -> str:
    """Prices of one's own, kept as text for who computes costs: USD per 1,000,000 tokens, as JSON."""
    try:
        parsed = json.loads(text, parse_constant=str, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict) or not all(_is_price(entry) for entry in parsed.values()):
        raise ValueError(
            'must be JSON such as {"MODEL": {"input": "0.05", "cached_input": "0.005", "output": "0.40"}}, '
            "in USD per 1,000,000 tokens"
        )
    return text


def _is_price(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and {"input", "output"} <= entry.keys() <= {"input", "output", "cached_input", "cache_write"}
        and all(isinstance(amount, str) and re.fullmatch(_NUMBER, amount) for amount in entry.values())
    )


# -- numbers and choices -----------------------------------------------------------------------------------------------


def whole(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`, ASCII digits only."""

    def parse(text: str) -> int:
        if not re.fullmatch(_WHOLE, text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}{_not(text)}")
        return int(text)

    return parse


def seconds(most: float) -> Callable[[str], float]:
    """A parser of durations in seconds, more than 0 and at most `most`."""

    def parse(text: str) -> float:
        if not re.fullmatch(_NUMBER, text) or not 0 < float(text) <= most:
            raise ValueError(f"must be a number of seconds, more than 0 and at most {most:g}{_not(text)}")
        return float(text)

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser of one word of a closed list, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be {' or '.join(choices)}{_not(text)}")
        return text.lower()

    return parse


def yes_or_no(text: str) -> bool:
    """`yes` or `no`, in any case."""
    return one_of("yes", "no")(text) == "yes"


def some_of(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """A parser of a comma list of words of a closed list; each stands once in the result, in the order given."""

    def parse(text: str) -> tuple[str, ...]:
        words = [word for word in (part.strip() for part in text.split(",")) if word]
        if not words or not set(words) <= set(choices):
            raise ValueError(f"must be a comma list out of {', '.join(choices)}{_not(text)}")
        return tuple(dict.fromkeys(words))

    return parse


def send_fields(text: str) -> frozenset[str]:
    """Fields of a transaction that are sent only where this names them: they can tell who a person is."""
    parse = some_of("vehicle_info", "driver_info", "origin_coordinates", "destination_coordinates")
    return frozenset(parse(text))


def _not(text: str) -> str:
    return f", not {text!r}" if len(text) <= _LONGEST_QUOTED else ""
