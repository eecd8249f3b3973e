"""From a transaction and the ids of the rules that were asked to an answer in the form that was asked for. Pure.

A rule that the simulator does not know is `cannot_tell`: it never guesses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Context, localcontext
from typing import Any, Final

from .facts import Entry, Judgement, cannot_tell
from .rules import RULES

#: room for every digit of quantity * price, so that no product is rounded
_EXACT: Final = Context(prec=200)
_UNKNOWN: Final = cannot_tell("The simulator does not know this rule and does not guess.")


def judge(transaction: Entry, rule_ids: Iterable[str]) -> dict[str, Judgement]:
    """What becomes of each rule, in the order in which they were asked."""
    with localcontext(_EXACT):
        return {id_: RULES[id_](transaction) if id_ in RULES else _UNKNOWN for id_ in rule_ids}


def answer(transaction: Entry, rule_ids: Iterable[str]) -> dict[str, Any]:
    """The answer as an object: transaction_id, findings, rules."""
    judgements = judge(transaction, rule_ids)
    return {
        "transaction_id": str(transaction.get("transaction_id")),
        "findings": [
            {"rule_id": id_, "evidence": list(one.evidence), "reason": one.reason}
            for id_, one in judgements.items()
            if one.outcome != "pass"
        ],
        "rules": {id_: one.outcome for id_, one in judgements.items()},
    }


def as_text(told: dict[str, Any]) -> str:
    """The answer as the text of a message."""
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))
