"""A visitor of the pages without a browser: keeps cookies, fills in forms, and says what a browser would say of where
the request comes from. And batches that have ended, written as they stand afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from http.cookies import SimpleCookie
from typing import Any, Final
from urllib.parse import urlencode

from tests.support.platforms import Platform
from tests.support.processes import NOTHING
from tests.support.web import Reply, Served

_PROOF: Final = re.compile(r'name="csrf" value="([^"]+)"')
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(kw_only=True)
class Visit:
    """One browser's worth of cookies."""

    served: Served
    cookies: dict[str, str] = field(default_factory=dict)
    #: sent with everything, beside cookies
    headers: dict[str, str] = field(default_factory=dict)
    #: the proof that the last page's forms carry
    proof: str = ""

    def get(self, path: str, **headers: str) -> Reply:
        """GET it, without following anything."""
        reply = self._sent("GET", path, None, headers)
        if found := _PROOF.search(reply.text):
            self.proof = unescape(found[1])
        return reply

    def post(self, path: str, fields: Mapping[str, str] = NOTHING, **headers: str) -> Reply:
        """Send the form as a page of ours would, with its proof unless `fields` say otherwise."""
        body = urlencode({"csrf": self.proof, **fields}).encode()
        return self._sent("POST", path, body, {"Content-Type": _FORM} | headers)

    def follow(self, reply: Reply) -> Reply:
        """Go where a form's answer leads."""
        assert reply.status == 303, (reply.status, reply.text)
        return self.get(reply.headers["location"])

    def sign_in(self, token: str) -> Reply:
        """Through the form."""
        self.get("/sign-in")
        return self.post("/sign-in", {"token": token})

    def _sent(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        told = {name.replace("_", "-"): value for name, value in {**self.headers, **headers}.items()}
        if self.cookies:
            told["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        reply = self.served.request(method, path, body, headers=told)
        for one in reply.set_cookies:
            for name, morsel in SimpleCookie(one).items():
                self.cookies[name] = morsel.value
                if not morsel.value or morsel["max-age"] == "0":
                    del self.cookies[name]
        return reply


def text_of(reply: Reply) -> str:
    """What a person reads: tags removed, references resolved, blanks folded."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", reply.text)).split())


def told_batch(
    platform: Platform, organization: int, transactions: list[int], note: Mapping[str, Any], *, days_ago: int = 0
) -> int:
    """A batch that has ended, whose transactions all got the verdict `note`: `status`, `rules`, `findings`, ..."""
    batch = platform.batch(organization, transactions, status="completed")
    began = datetime.now(UTC) - timedelta(days=days_ago)
    status = note["status"]
    results = [
        {"transaction_id": id_, "status": status, "rejected_by": note.get("rejected_by", []),
         "warned_by": note.get("warned_by", []), "tokens": 120}
        for id_ in transactions
    ]  # fmt: skip
    count = len(transactions)
    summary = {
        "total_transactions": count, "processed_transactions": count, "skipped_count": 0, "failed_count": 0,
        "approved_count": count if status == "approved" else 0,
        "rejected_count": count if status == "rejected" else 0,
        "undecided_count": count if status == "no_action" else 0,
        "token_usage": {"total_input_tokens": 1_000, "total_output_tokens": 234, "total_tokens": 1_234,
                        "cached_input_tokens": 500},
        "cost_usd": "0.004321", "model": "m-1", "engine": "openai",
    }  # fmt: skip
    place = "CAST(:info AS jsonb)" if platform.is_postgresql else ":info"
    platform.execute(
        f"UPDATE transaction_audit_history SET audit_info = {place}, started_at = :began, created_date = :began, "
        "completed_at = :ended, processed_transactions = :count, approved_count = :approved, "
        "rejected_count = :rejected WHERE id = :id",
        info=platform._plain("audit_info", {"audit_results": results, "summary": summary}),
        began=platform._plain("started_at", began),
        ended=platform._plain("completed_at", began + timedelta(seconds=90)),
        count=count,
        approved=summary["approved_count"],
        rejected=summary["rejected_count"],
        id=batch,
    )
    label = "CAST(:label AS ai_audit_status_enum)" if platform.is_postgresql else ":label"
    place = "CAST(:note AS jsonb)" if platform.is_postgresql else ":note"
    for id_ in transactions:
        platform.execute(
            f"UPDATE transactions SET ai_audit_status = {label}, ai_audit_note = {place} WHERE id = :id",
            label=status,
            note=platform._plain("ai_audit_note", dict(note)),
            id=id_,
        )
    return batch


def rejected_by(rule_id: str, reason: str, *evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The note of a transaction that one rule rejected."""
    return {
        "status": "rejected", "rules": {rule_id: "fail"}, "rejected_by": [rule_id], "warned_by": [],
        "findings": [{"rule_id": rule_id, "reason": reason, "evidence": list(evidence)}],
    }  # fmt: skip
