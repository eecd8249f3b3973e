"""An error that ends a run costs no answer that has arrived, and makes no innocent a suspect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gepp_audit import logs
from gepp_audit.model import CallRequest, CallResult, Usage
from gepp_audit.queue.options import RunOptions
from gepp_audit.queue.start import process_queue
from gepp_audit.queue.stopping import Stop
from tests.support import steps
from tests.support.platforms import Platform

OPTIONS = RunOptions(
    model="m-1", engine="openai", concurrency=6, call_timeout=60.0, lease_margin=30.0, max_attempts=3,
    first_backoff=1.0, max_completion_tokens=1_000, batch_statuses=steps.STATUSES, host="h1",
)  # fmt: skip


class Boom(Exception):
    """Something that nobody was prepared for."""


class ScriptedProvider:
    """Answers nothing until six calls are under way; then `last_words` decides what comes, and what else happens."""

    def __init__(self, last_words: Callable[[ScriptedProvider], list[CallResult]]) -> None:
        self.last_words = last_words
        self.open: dict[int, CallRequest] = {}
        self.late: list[CallResult] = []

    def ready(self, timeout: float) -> bool:
        return True

    def submit(self, request: CallRequest) -> None:
        self.open[request.call_id] = request

    def answered(self, transactions: list[int], **changes: Any) -> list[CallResult]:
        """Approvals of these transactions."""
        found = []
        for call_id, request in list(self.open.items()):
            id_ = next((id_ for id_ in transactions if f'"transaction_id":"{id_}"' in request.suffix), None)
            if id_ is not None:
                del self.open[call_id]
                text = json.dumps({"transaction_id": str(id_), "findings": [], "rules": {"DC-01": "pass"}})
                values: dict[str, Any] = {"text": text, "usage": Usage(input_tokens=10, output_tokens=5)} | changes
                found.append(CallResult(call_id=call_id, sent=True, **values))
        assert len(found) == len(transactions)
        return found

    def wait(self, timeout: float) -> list[CallResult]:
        if self.late:
            late, self.late = self.late, []
            return late
        return self.last_words(self) if len(self.open) == 6 else []

    @property
    def in_flight(self) -> int:
        return len(self.open)

    def abandon(self) -> list[int]:
        ids, self.open = list(self.open), {}
        return ids


@pytest.fixture
def ids(platform: Platform) -> list[int]:
    """Six transactions in one batch."""
    platform.rule()
    organization = platform.organization()
    ids = platform.transactions(organization, 6)
    platform.batch(organization, ids)
    return ids


def run(platform: Platform, last_words: Callable[[ScriptedProvider], list[CallResult]], error: type[Exception]) -> None:
    provider = ScriptedProvider(last_words)
    with logs.bound(), pytest.raises(error):
        process_queue(platform.database, OPTIONS, lambda: provider, stop=Stop())
    assert platform.value("SELECT outcome FROM gepp_audit_runs WHERE id NOT LIKE 'tick:%'") == "failed"


def crashes(platform: Platform) -> set[int]:
    """The transactions that count a crash when the leases of the run have ended."""
    steps.end_leases(platform)
    steps.claim(platform)
    return {
        row["transaction_id"] for row in platform.rows("SELECT transaction_id FROM gepp_audit_items WHERE crashes > 0")
    }


def test_answers_that_have_arrived_are_kept_and_calls_in_flight_are_let_go(platform: Platform, ids: list[int]) -> None:
    def last_words(provider: ScriptedProvider) -> list[CallResult]:
        provider.late = provider.answered(ids[:2])
        raise Boom

    run(platform, last_words, Boom)
    assert steps.states(platform) == {id_: "done" if id_ in ids[:2] else "ready" for id_ in ids}
    outcomes = platform.rows("SELECT outcome, count(*) AS number FROM gepp_audit_calls GROUP BY outcome")
    assert {row["outcome"]: row["number"] for row in outcomes} == {"verdict": 2, "abandoned": 4}
    assert crashes(platform) == set()


def test_the_answer_that_breaks_the_run_counts_as_a_crash_and_the_others_are_kept(
    platform: Platform, ids: list[int]
) -> None:
    def last_words(provider: ScriptedProvider) -> list[CallResult]:
        # a usage that is no number is more than anybody was prepared for
        broken = provider.answered(ids[:1], usage=Usage(input_tokens="many", output_tokens=1))  # type: ignore[arg-type] # on purpose
        return [*provider.answered(ids[1:2]), *broken, *provider.answered(ids[2:3])]

    run(platform, last_words, TypeError)
    assert steps.states(platform) == {
        ids[0]: "calling", ids[1]: "done", ids[2]: "done", **dict.fromkeys(ids[3:], "ready"),
    }  # fmt: skip
    assert crashes(platform) == {ids[0]}


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_an_answer_that_the_database_refuses_costs_no_other(platform: Platform, ids: list[int]) -> None:
    def last_words(provider: ScriptedProvider) -> list[CallResult]:
        refused = provider.answered(ids[:1], request_id="\x00")
        return [*refused, *provider.answered(ids[1:3])]

    run(platform, last_words, Exception)
    assert steps.states(platform) == {
        ids[0]: "calling", ids[1]: "done", ids[2]: "done", **dict.fromkeys(ids[3:], "ready"),
    }  # fmt: skip
    assert crashes(platform) == {ids[0]}


def test_a_transaction_whose_prompt_breaks_the_run_counts_as_a_crash(
    platform: Platform, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(self: ScriptedProvider, request: CallRequest) -> None:
        if f'"transaction_id":"{ids[3]}"' in request.suffix:
            raise Boom
        self.open[request.call_id] = request

    monkeypatch.setattr(ScriptedProvider, "submit", submit)
    run(platform, lambda provider: [], Boom)
    assert {steps.states(platform)[id_] for id_ in ids[:3]} == {"ready"}
    assert ids[3] in crashes(platform)
