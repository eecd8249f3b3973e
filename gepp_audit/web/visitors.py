"""What users of the platform are told of a failure: what became of their transaction, in words that quote nobody.

What an operator must mend (a key, an address, this installation) is told by `stuck`, `show` and the log alone.
"""

from __future__ import annotations

from dataclasses import replace

from gepp_audit.audit.failure_words import in_words
from gepp_audit.queue.showing import OneBatch


def failure(error_code: str | None) -> str | None:
    """The failure of a transaction as its organization reads it; None: there is none."""
    if error_code is None:
        return None
    words = in_words(error_code)
    return f"{words[:1].upper()}{words[1:]}."


def batch(found: OneBatch) -> OneBatch:
    """The same batch, with its transactions' failures in these words."""
    lines = tuple(replace(line, error=failure(line.error_code)) for line in found.transactions)
    return replace(found, transactions=lines)
