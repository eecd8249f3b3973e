"""The platform's rules as an audit needs them: their actions, their order, their snapshot and its digest. Pure.

The platform's `actions` are JSON written by hand and by older programs. `parse_actions` reads what can be recognised,
and where it has to choose it chooses the reading that rejects: a slip of the pen must not open a gate.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gepp_audit.model import Rule, RuleAction

#: type of the actions that the platform itself carries out, as it writes it
SYSTEM_ACTION: Final = "system_action"

_REJECTING: Final = frozenset({"reject", "autoreject"})
_SPACING: Final = re.compile(r"[\s_\-]+")
_DIGITS: Final = re.compile(r"([0-9]+)")
#: lists in lists, JSON text in JSON text: read this deep and no deeper
_DEEPEST: Final = 6


def rejects(rule: Rule) -> bool:
    """Whether a failure of `rule` rejects the transaction: one of its system actions is `reject` or `Auto-Reject`.

    Case, spaces, hyphens and underscores do not matter ("AUTO REJECT", "System Action").
    """
    return any(_is_system(action.type) and _is_rejecting(action.action) for action in rule.actions)


def parse_actions(raw: Any) -> tuple[RuleAction, ...]:
    """The actions in the platform's JSON; what holds none gives none, and nothing raises.

    The form is a list of `{"type", "action", "message"}`. Besides it are understood, so that a rejecting rule stays
    one:

    - the list as JSON text, a single action without its list, lists in lists;
    - keys in any case; `action` as a list of several; `{"system_action": "reject"}`;
    - an action without a readable type, and a bare text: a system action if it rejects. (With a type, the type
      decides: a human action "reject" informs.)
    """
    return tuple(_actions(raw, 0))


def ordered(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules by id, numbers in it by their value: DC-2 before DC-10."""
    return tuple(sorted(rules, key=lambda rule: _natural(rule.rule_id)))


def to_snapshot(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """The rules as JSON, in their order; `from_snapshot` reads it back."""
    return [
        {
            "rule_id": rule.rule_id,
            "rule_type": rule.rule_type,
            "name": rule.name,
            "process": rule.process,
            "condition": rule.condition,
            "thresholds": rule.thresholds,
            "metrics": rule.metrics,
            "actions": [
                {"type": action.type, "action": action.action, "message": action.message} for action in rule.actions
            ],
            "is_global": rule.is_global,
        }
        for rule in ordered(rules)
    ]


def from_snapshot(data: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """The rules of a snapshot. Keys that a newer version added are ignored, optional ones may be missing."""
    return tuple(
        Rule(
            rule_id=entry["rule_id"],
            rule_type=entry["rule_type"],
            name=entry["name"],
            process=entry.get("process"),
            condition=entry.get("condition"),
            thresholds=entry.get("thresholds"),
            metrics=entry.get("metrics"),
            actions=tuple(
                RuleAction(type=action["type"], action=action["action"], message=action.get("message"))
                for action in entry.get("actions") or ()
            ),
            is_global=bool(entry.get("is_global")),
        )
        for entry in data
    )


def rules_digest(rules: Iterable[Rule]) -> str:
    """SHA-256 (hex) over all of the rules, whatever their order."""
    canonical = json.dumps(to_snapshot(rules), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _actions(raw: Any, depth: int) -> list[RuleAction]:
    if depth > _DEEPEST:
        return []
    if isinstance(raw, list | tuple):
        return [action for entry in raw for action in _actions(entry, depth + 1)]
    if isinstance(raw, Mapping):
        return _from_mapping(raw, depth)
    if isinstance(raw, str):
        return _from_text(raw, depth)
    return []


def _from_text(raw: str, depth: int) -> list[RuleAction]:
    text = raw.strip()
    if text[:1] in ("[", "{", '"'):
        try:
            return _actions(json.loads(text), depth + 1)
        except (ValueError, RecursionError):
            pass
    if not text:
        return []
    return [RuleAction(type=SYSTEM_ACTION if _is_rejecting(text) else "", action=text)]


def _from_mapping(raw: Mapping[Any, Any], depth: int) -> list[RuleAction]:
    entry = {str(key).strip().casefold(): value for key, value in raw.items()}
    if "action" not in entry and "type" not in entry:
        return [
            RuleAction(type=key, action=named.action, message=named.message)
            for key, value in entry.items()
            if _is_system(key) or key.endswith("action")
            for named in _actions(value, depth + 1)
        ]
    given, message = entry.get("type"), entry.get("message")
    names = entry.get("action")
    return [
        RuleAction(
            type=given if isinstance(given, str) and given.strip() else _assumed_type(name),
            action=name,
            message=message if isinstance(message, str) else None,
        )
        for name in (names if isinstance(names, list) else [names])
        if isinstance(name, str)
    ]


def _assumed_type(action: str) -> str:
    return SYSTEM_ACTION if _is_rejecting(action) else ""


def _is_system(type_: str) -> bool:
    return _squeezed(type_) == "systemaction"


def _is_rejecting(action: str) -> bool:
    return _squeezed(action) in _REJECTING


def _squeezed(text: str) -> str:
    return _SPACING.sub("", text).casefold()


def _natural(rule_id: str) -> tuple[list[tuple[int, str, int, str]], str]:
    parts = _DIGITS.split(rule_id)
    # text and digits alternate; digits compare by length, then as text: as numbers of any size
    return [
        (1, "", len(part.lstrip("0")), part.lstrip("0")) if index % 2 else (0, part.casefold(), 0, "")
        for index, part in enumerate(parts)
    ], rule_id
