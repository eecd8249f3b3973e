"""Scenarios: which calls go wrong, and how. `read_scenario` checks one completely before any of it takes effect.

    {"rules": [
      {"match": {"transaction_id": "7"}, "do": "rate_limited", "times": 2},
      {"match": {"every": 10, "after": 100}, "do": {"preset": "server_error", "headers": {"Retry-After": "3"}}},
      {"match": {"probability": 0.05}, "do": {"answer": ["all_pass", "no_usage"], "extra_latency_ms": 200}}
    ]}

`match`: all that is given must hold. transaction_id (one, or a list), attempt (the how-manieth call about that
transaction) and model choose the calls that the rule counts; of these, first: the first n; after: all but the first n;
every: each n-th; probability: as many, chosen by the seed, the transaction and the attempt, so that the order in which
calls arrive does not matter. `times`: at most so often. The first rule that fires decides.

`do`: the name of a preset, or an object of `preset` and what it adds or replaces: status, error (an object, or text),
body (JSON, or text that is sent as it is), content_type, headers, retry_after_date (seconds from now, as an HTTP date),
answer (one name of `spoiling`, or several), extra_latency_ms, hang, hang_up, drip_seconds (the body takes that long),
cut_after (bytes of the body, or a fraction of it).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from .presets import PRESETS
from .spoiling import NAMES


class ScenarioError(Exception):
    """What is wrong with a scenario, and where."""


@dataclass(frozen=True, slots=True)
class Action:
    """What is done to a call, checked."""

    name: str
    #: None: an ordinary answer, spoiled or not
    status: int | None = None
    #: of a response that is no ordinary answer
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    retry_after_date: float | None = None
    answer: tuple[str, ...] = ()
    extra_latency_ms: float = 0.0
    hang: bool = False
    hang_up: bool = False
    drip_seconds: float | None = None
    #: whole: bytes; below 1: a fraction
    cut_after: float | None = None


@dataclass(slots=True)
class Rule:
    """When an action is taken, and how often it was."""

    action: Action
    transaction_ids: frozenset[str] | None = None
    attempt: int | None = None
    model: str | None = None
    first: int | None = None
    after: int | None = None
    every: int | None = None
    probability: float | None = None
    times: int | None = None
    seen: int = 0
    fired: int = 0

    def fires(self, transaction_id: str | None, attempt: int, model: str, chance: Callable[[], float]) -> bool:
        """Whether this call is one of the rule's; counts it."""
        if self.transaction_ids is not None and transaction_id not in self.transaction_ids:
            return False
        if self.attempt is not None and attempt != self.attempt:
            return False
        if self.model is not None and model != self.model:
            return False
        self.seen += 1
        chosen = (
            (self.times is None or self.fired < self.times)
            and (self.first is None or self.seen <= self.first)
            and (self.after is None or self.seen > self.after)
            and (self.every is None or self.seen % self.every == 0)
            and (self.probability is None or chance() < self.probability)
        )
        self.fired += chosen
        return chosen


@dataclass(slots=True)
class Scenario:
    """The rules in force. `source` is what they were read from."""

    rules: list[Rule] = field(default_factory=list)
    source: Any = field(default_factory=lambda: {"rules": []})

    def action(
        self, transaction_id: str | None, attempt: int, model: str, chance: Callable[[int], float]
    ) -> Action | None:
        """What is done to this call. `chance(n)`: the call's lot under rule n, from 0 to below 1."""
        for index, rule in enumerate(self.rules):
            if rule.fires(transaction_id, attempt, model, lambda index=index: chance(index)):  # type: ignore[misc] # bound now
                return rule.action
        return None


def read_scenario(data: Any) -> Scenario:
    """A scenario from its JSON: an object with `rules`, or the list of them. Raises ScenarioError."""
    rules = data
    if isinstance(data, dict):
        _only(data, {"rules"}, "the scenario")
        rules = data.get("rules")
    if not isinstance(rules, list):
        _wrong("the scenario", 'must be {"rules": […]}')
    return Scenario(rules=[_rule(rule, f"rules[{index}]") for index, rule in enumerate(rules)], source=data)


def _rule(given: Any, place: str) -> Rule:
    if not isinstance(given, dict):
        _wrong(place, "must be an object")
    _only(given, {"match", "do", "times"}, place)
    if "do" not in given:
        _wrong(place, "lacks do")
    do = _expanded(given["do"], f"{place}.do")
    match = given.get("match", {})
    if not isinstance(match, dict):
        _wrong(f"{place}.match", "must be an object")
    action = _action(do, given["do"], f"{place}.do")
    return _matched({**do.get("match", {}), **match}, action, given, place)


def _matched(match: dict[str, Any], action: Action, given: dict[str, Any], place: str) -> Rule:
    where = f"{place}.match"
    _only(match, {"transaction_id", "attempt", "model", "first", "after", "every", "probability"}, where)
    return Rule(
        action=action,
        transaction_ids=_transaction_ids(match.get("transaction_id"), f"{where}.transaction_id"),
        attempt=_whole(match.get("attempt"), 1, f"{where}.attempt"),
        model=_text(match.get("model"), f"{where}.model"),
        first=_whole(match.get("first"), 0, f"{where}.first"),
        after=_whole(match.get("after"), 0, f"{where}.after"),
        every=_whole(match.get("every"), 1, f"{where}.every"),
        probability=_number(match.get("probability"), 1, f"{where}.probability"),
        times=_whole(given.get("times"), 1, f"{place}.times"),
    )


def _expanded(do: Any, place: str) -> dict[str, Any]:
    """`do` with its preset filled in."""
    own = {"preset": do} if isinstance(do, str) else do
    if not isinstance(own, dict) or not own:
        _wrong(place, "must be the name of a preset, or an object")
    if "match" in own:
        _wrong(place, "match stands beside do, not in it")
    if "preset" not in own:
        return own
    name = own["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        _wrong(place, f"is no preset; there are {', '.join(PRESETS)}")
    replaced = {"body", "error"} if own.keys() & {"body", "error"} else set()
    preset = {key: value for key, value in PRESETS[name].items() if key not in replaced}
    headers = {**preset.get("headers", {}), **own["headers"]} if isinstance(own.get("headers"), dict) else None
    return {**preset, **own, **({} if headers is None else {"headers": headers})}


_KEYS: Final = frozenset(
    {
        "preset", "match", "status", "error", "body", "content_type", "headers", "retry_after_date", "answer",
        "extra_latency_ms", "hang", "hang_up", "drip_seconds", "cut_after",
    }
)  # fmt: skip
#: what makes a response that is no ordinary answer
_RESPONSE: Final = frozenset({"status", "error", "body"})
_ENDS: Final = ("hang", "hang_up", "drip_seconds", "cut_after")


def _action(do: dict[str, Any], given: Any, place: str) -> Action:
    _only(do, _KEYS, place)
    answers = _answers(do.get("answer"), f"{place}.answer")
    replaces = bool(do.keys() & _RESPONSE)
    if replaces and answers:
        _wrong(place, "has both an answer to spoil and a response in its place")
    if "error" in do and "body" in do:
        _wrong(place, "has both error and body")
    if sum(bool(do.get(name)) for name in _ENDS) > 1:
        _wrong(place, f"may have only one of {', '.join(_ENDS)}")
    content_type = _text(do.get("content_type"), f"{place}.content_type") or "application/json"
    _check_header("content_type", content_type, place)
    return Action(
        name=do.get("preset") or (given.get("answer") if isinstance(given.get("answer"), str) else "custom"),
        status=(_status(do.get("status"), f"{place}.status") or 200) if replaces else None,
        body=_body(do, place),
        content_type=content_type,
        headers=_headers(do.get("headers", {}), f"{place}.headers"),
        retry_after_date=_number(do.get("retry_after_date"), 86_400, f"{place}.retry_after_date"),
        answer=answers,
        extra_latency_ms=_number(do.get("extra_latency_ms"), 3_600_000, f"{place}.extra_latency_ms") or 0.0,
        hang=_flag(do.get("hang", False), f"{place}.hang"),
        hang_up=_flag(do.get("hang_up", False), f"{place}.hang_up"),
        drip_seconds=_number(do.get("drip_seconds"), 3600, f"{place}.drip_seconds"),
        cut_after=_number(do.get("cut_after"), 2**31, f"{place}.cut_after"),
    )


def _body(do: dict[str, Any], place: str) -> bytes:
    if "error" in do:
        error = do["error"]
        if isinstance(error, dict):
            error = {"message": "The simulator was told to fail.", "type": None, "param": None, "code": None, **error}
        elif not isinstance(error, str):
            _wrong(f"{place}.error", "must be an object, or text")
        return _encoded({"error": error})
    body = do.get("body", "")
    return body.encode("utf-8", "backslashreplace") if isinstance(body, str) else _encoded(body)


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _answers(given: Any, place: str) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else ([] if given is None else given)
    if not isinstance(names, list) or not all(isinstance(name, str) and name in NAMES for name in names):
        _wrong(place, f"must be one or several of {', '.join(sorted(NAMES))}")
    return tuple(names)


def _headers(given: Any, place: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, dict) or not all(isinstance(value, str | int | float) for value in given.values()):
        _wrong(place, "must be an object of texts and numbers")
    headers = tuple((str(name), str(value)) for name, value in given.items())
    for name, value in headers:
        _check_header(name, value, place)
    return headers


def _check_header(name: str, value: str, place: str) -> None:
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum() or not value.isprintable():
        _wrong(place, "holds what no header can")
    if not value.isascii() or name.lower() in ("content-length", "connection", "transfer-encoding"):
        _wrong(place, f"may not set {name} so")


def _transaction_ids(given: Any, place: str) -> frozenset[str] | None:
    if given is None:
        return None
    ids = given if isinstance(given, list) else [given]
    if not ids or not all(isinstance(id_, str | int) and not isinstance(id_, bool) for id_ in ids):
        _wrong(place, "must be an id, or a list of ids")
    return frozenset(str(id_) for id_ in ids)


def _status(given: Any, place: str) -> int | None:
    status = _whole(given, 200, place)
    if status is not None and status > 599:
        _wrong(place, "must be from 200 to 599")
    return status


def _whole(given: Any, least: int, place: str) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        _wrong(place, f"must be a whole number from {least} on")
    return int(given)


def _number(given: Any, most: float, place: str) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= most:
        _wrong(place, f"must be a number from 0 to {most}")
    return float(given)


def _text(given: Any, place: str) -> str | None:
    if given is not None and not isinstance(given, str):
        _wrong(place, "must be text")
    return given


def _flag(given: Any, place: str) -> bool:
    if not isinstance(given, bool):
        _wrong(place, "must be true or false")
    return given


def _only(given: dict[str, Any], known: set[str] | frozenset[str], place: str) -> None:
    unknown = sorted(given.keys() - known)
    if unknown:
        _wrong(place, f"has {', '.join(unknown)}, which is none of {', '.join(sorted(known))}")


def _wrong(place: str, what: str) -> NoReturn:
    raise ScenarioError(f"{place} {what}")
