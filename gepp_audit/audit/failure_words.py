"""Why transactions could not be audited, in a sentence for the platform's user and the operator. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gepp_audit.model import ErrorCode

#: so many transactions are named for each reason
NAMED: Final = 5

_WORDS: Final = {
    ErrorCode.UNREADABLE.value: "answer not readable",
    ErrorCode.TRUNCATED.value: "answer cut off",
    ErrorCode.CONTENT_FILTER.value: "answer withheld by the provider's content filter",
    ErrorCode.REFUSED.value: "the model refused to answer",
    ErrorCode.INCOMPLETE.value: "answer incomplete",
    ErrorCode.WRONG_TRANSACTION.value: "answer about another transaction",
    ErrorCode.UNKNOWN_RULE.value: "answer about a rule that was not asked",
    ErrorCode.EVIDENCE.value: "evidence that does not stand in the transaction",
    ErrorCode.CONTEXT_LENGTH.value: "too long for the model",
    ErrorCode.INVALID_INPUT.value: "refused by the provider as invalid",
    ErrorCode.POLICY.value: "refused by the provider's policy",
    ErrorCode.CRASHED.value: "three runs died while they worked on it",
    ErrorCode.PROVIDER_UNAVAILABLE.value: "no answer of the provider for 24 hours",
    ErrorCode.EDITED.value: "changed each time while it was audited",
    ErrorCode.NO_RULES.value: "no active rule",
    ErrorCode.UNCHANGED.value: "failed before and not changed since",
    ErrorCode.GIVEN_UP.value: "given up by an operator",
    ErrorCode.NOT_WRITABLE.value: "the platform's database refuses the change",
    ErrorCode.TOO_LARGE_FOR_LIMIT.value: "larger than a limit lets pass",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureGroup:
    """The transactions of a batch that failed for one reason."""

    error_code: str
    count: int
    #: the first of them, at most `NAMED`
    transaction_ids: Sequence[int]


def in_words(error_code: str) -> str:
    """The reason as a person says it; a code that only a newer version knows is spelled as it is."""
    return _WORDS.get(error_code, error_code.replace("_", " "))


def told(groups: Sequence[FailureGroup]) -> str | None:
    """One sentence over all groups, the largest first; None over nothing.

    Example: `42 transactions could not be audited: answer not readable: 40 (1, 2, 3, 4, 5 and 35 more); too long for
    the model: 2 (7, 9).`
    """
    if not groups:
        return None
    number = sum(group.count for group in groups)
    ordered = sorted(groups, key=lambda group: (-group.count, group.error_code))
    reasons = "; ".join(f"{in_words(group.error_code)}: {group.count} ({_named(group)})" for group in ordered)
    return f"{number} transaction{'' if number == 1 else 's'} could not be audited: {reasons}."


def _named(group: FailureGroup) -> str:
    named = ", ".join(str(id_) for id_ in group.transaction_ids)
    more = group.count - len(group.transaction_ids)
    return f"{named} and {more} more" if more > 0 else named
