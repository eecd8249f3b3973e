"""The ways in which an answer can be spoiled, by name. Pure.

Each works at one of three stages: on the answer as an object, on its text, or on the completion around the text. All
are what a model, a provider or a gateway has been seen to do, or could do to get an approval that nothing supports.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

Json = dict[str, Any]


def _first_rule(answer: Json) -> str:
    return next(iter(answer["rules"]), "NONE-1")


def _foreign_transaction(answer: Json) -> None:
    answer["transaction_id"] = "9" + answer["transaction_id"]


def _unknown_rule(answer: Json) -> None:
    answer["rules"]["ZZ-99"] = "pass"


def _missing_rule(answer: Json) -> None:
    answer["rules"].pop(_first_rule(answer), None)


def _missing_rules(answer: Json) -> None:
    del answer["rules"]


def _unknown_outcome(answer: Json) -> None:
    answer["rules"][_first_rule(answer)] = "approved"


def _all_pass(answer: Json) -> None:
    answer["findings"] = []
    answer["rules"] = dict.fromkeys(answer["rules"], "pass")


def _fail_without_finding(answer: Json) -> None:
    answer["rules"][_first_rule(answer)] = "fail"
    answer["findings"] = [one for one in answer["findings"] if one["rule_id"] != _first_rule(answer)]


def _pass_against_finding(answer: Json) -> None:
    """Every rule passes, but the findings say otherwise."""
    if not answer["findings"]:
        answer["findings"] = [{"rule_id": _first_rule(answer), "evidence": [], "reason": "Broken."}]
    answer["rules"] = dict.fromkeys(answer["rules"], "pass")


def _failing(answer: Json) -> Json:
    """A finding of a failed rule; where no rule failed, the first one is made to."""
    for finding in answer["findings"]:
        if answer["rules"][finding["rule_id"]] == "fail":
            found: Json = finding
            return found
    rule_id = _first_rule(answer)
    answer["rules"][rule_id] = "fail"
    answer["findings"] = [one for one in answer["findings"] if one["rule_id"] != rule_id]
    answer["findings"].append({"rule_id": rule_id, "evidence": [], "reason": "The simulator was told to invent this."})
    found = answer["findings"][-1]
    return found


def _wrong_evidence(answer: Json) -> None:
    _failing(answer)["evidence"] = [{"record_id": None, "field": "weight_kg", "value": "123456.789"}]


def _unknown_record(answer: Json) -> None:
    _failing(answer)["evidence"] = [{"record_id": 987654321, "field": "origin_weight_kg", "value": "1"}]


def _no_evidence(answer: Json) -> None:
    _failing(answer)["evidence"] = []


#: on the answer, in place
OBJECT: Final[dict[str, Callable[[Json], None]]] = {
    "foreign_transaction": _foreign_transaction,
    "unknown_rule": _unknown_rule,
    "missing_rule": _missing_rule,
    "missing_rules": _missing_rules,
    "unknown_outcome": _unknown_outcome,
    "all_pass": _all_pass,
    "fail_without_finding": _fail_without_finding,
    "pass_against_finding": _pass_against_finding,
    "wrong_evidence": _wrong_evidence,
    "unknown_record": _unknown_record,
    "no_evidence": _no_evidence,
}


def _duplicate_key(text: str) -> str:
    """The last of two counts for many readers: it says that nothing is wrong."""
    told = json.loads(text)
    lie = dict.fromkeys(told.get("rules", {}), "pass")
    return f'{text[:-1]},"findings":[],"rules":{json.dumps(lie)}}}'


#: on its text
TEXT: Final[dict[str, Callable[[str], str]]] = {
    "cut_answer": lambda text: text[: len(text) // 2],
    "empty_answer": lambda _: "{}",
    "no_answer": lambda _: "",
    "prose": lambda _: "I have checked the transaction and every rule is fulfilled. Approved.",
    "fenced": lambda text: f"```json\n{text}\n```",
    "prose_around": lambda text: f"Here is the result:\n{text}\nLet me know if you need more.",
    "twice": lambda text: text + text,
    "duplicate_key": _duplicate_key,
    "nul_character": lambda text: text.replace('"reason":"', '"reason":"\\u0000', 1) + "\x00",
    "half_character": lambda text: text + "\ud83d",
    "deep": lambda _: "[" * 100_000,
    "huge_number": lambda _: '{"transaction_id": ' + "9" * 10_000 + "}",
}


def _set_choice(name: str, value: Any) -> Callable[[Json], None]:
    def change(body: Json) -> None:
        body["choices"][0][name] = value

    return change


def _set_message(**values: Any) -> Callable[[Json], None]:
    def change(body: Json) -> None:
        body["choices"][0]["message"].update(values)

    return change


def _remove(name: str) -> Callable[[Json], None]:
    def change(body: Json) -> None:
        body.pop(name, None)

    return change


def _set(name: str, value: Any) -> Callable[[Json], None]:
    def change(body: Json) -> None:
        body[name] = value

    return change


def _refusal(body: Json) -> None:
    body["choices"][0]["message"].update(content=None, refusal="I'm sorry, but I can't help with that.")


def _cut_at_cap(content: Callable[[str], str]) -> Callable[[Json], None]:
    """`finish_reason` "length"; the usage says that the cap is used up, by reasoning where there is no text."""

    def change(body: Json) -> None:
        choice = body["choices"][0]
        choice["finish_reason"] = "length"
        choice["message"]["content"] = content(choice["message"]["content"])
        if not choice["message"]["content"]:
            body["usage"]["completion_tokens_details"]["reasoning_tokens"] = body["usage"]["completion_tokens"]

    return change


def _two_choices(body: Json) -> None:
    body["choices"] = [body["choices"][0], {**body["choices"][0], "index": 1}]


def _filtered(body: Json) -> None:
    body["choices"][0]["finish_reason"] = "content_filter"
    body["choices"][0]["message"]["content"] = None


def _remove_finish(body: Json) -> None:
    del body["choices"][0]["finish_reason"]


def _odd_usage(body: Json) -> None:
    body["usage"] = {"prompt_tokens": -5, "completion_tokens": "many", "prompt_tokens_details": []}


#: on the completion, in place
COMPLETION: Final[dict[str, Callable[[Json], None]]] = {
    "no_choices": _remove("choices"),
    "null_choices": _set("choices", None),
    "empty_choices": _set("choices", []),
    "two_choices": _two_choices,
    "null_message": _set_choice("message", None),
    "null_content": _set_message(content=None),
    "refusal": _refusal,
    "length_complete": _cut_at_cap(lambda text: text),
    "length_cut": _cut_at_cap(lambda text: text[: len(text) // 2]),
    "length_empty": _cut_at_cap(lambda _: ""),
    "content_filter": _filtered,
    "no_finish_reason": _remove_finish,
    "null_finish_reason": _set_choice("finish_reason", None),
    "no_usage": _remove("usage"),
    "null_usage": _set("usage", None),
    "odd_usage": _odd_usage,
    "no_model": _remove("model"),
}

NAMES: Final = frozenset(OBJECT) | frozenset(TEXT) | frozenset(COMPLETION)
