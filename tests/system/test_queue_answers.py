"""Whatever an answer looks like, a bad one never approves, and the rest of its batch completes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

import pytest

from tests.support.platforms import Platform
from tests.support.processes import Finished, Programs, Simulator
from tests.support.queues import (
    BROKEN,
    CLEAN,
    SampleQueue,
    asked,
    connect,
    ledger,
)

CONCURRENCY: Final = 4
#: how an answer is spoiled → what is said of the transaction after three of them
BAD_ANSWERS: Final[dict[str, tuple[Any, str]]] = {
    "truncated": ("length_cut", "truncated_answer"),
    "truncated, yet complete JSON": ("length_complete", "truncated_answer"),
    "truncated in its reasoning": ("length_empty", "truncated_answer"),
    "half": ("cut_answer", "unreadable_answer"),
    "prose": ("prose", "unreadable_answer"),
    "nothing": ("no_answer", "unreadable_answer"),
    "an empty object": ("empty_answer", "incomplete_answer"),
    "two at once": ("twice", "unreadable_answer"),
    "a key twice": ("duplicate_key", "unreadable_answer"),
    "a refusal": ("refusal", "refused"),
    "filtered": ("content_filter", "content_filter"),
    "of another transaction": ("foreign_transaction", "wrong_transaction"),
    "a rule that nobody asked": ("unknown_rule", "unknown_rule"),
    "an outcome that does not exist": ("unknown_outcome", "incomplete_answer"),
    "no rules": ("missing_rules", "incomplete_answer"),
    "all pass, one rule missing": ({"answer": ["all_pass", "missing_rule"]}, "incomplete_answer"),
    "fails without a finding": ("fail_without_finding", "incomplete_answer"),
    "no choices": ("no_choices", "unreadable_answer"),
    "null choices": ("null_choices", "unreadable_answer"),
    "null message": ("null_message", "unreadable_answer"),
    "null content": ("null_content", "unreadable_answer"),
    "no JSON at all": ("not_json", "unreadable_answer"),
    "a page of HTML": ("html", "unreadable_answer"),
    "an empty body": ("empty_body", "unreadable_answer"),
    "a list": ("json_list", "unreadable_answer"),
}
#: evidence that stands nowhere: after two of them a person must look
BAD_EVIDENCE: Final = ("wrong_evidence", "unknown_record", "no_evidence")
on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and programs that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ["GEPP_AUDIT_CONCURRENCY"] = str(CONCURRENCY)
    return SampleQueue(platform)


def always(id_: int, do: Any) -> dict[str, Any]:
    """Each call about this transaction goes like that."""
    return {"match": {"transaction_id": str(id_)}, "do": do}


def run(programs: Programs, *options: str, **environ: str) -> Finished:
    return programs.run("process-queue", "--json", *options, environ=environ)


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_a_bad_answer_never_approves_and_the_rest_of_its_batch_completes(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    names = [*BAD_ANSWERS, *BAD_EVIDENCE]
    bad = dict(zip(queue.add([CLEAN[0]] * len(names)), names, strict=True))
    good = queue.add([*CLEAN, BROKEN])
    batch = queue.batch([*bad, *good])
    told = {name: do for name, (do, _) in BAD_ANSWERS.items()} | dict(zip(BAD_EVIDENCE, BAD_EVIDENCE, strict=True))
    simulator.scenario({"rules": [always(id_, told[name]) for id_, name in bad.items()]})
    done = run(programs)

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.json()["transactions"] == {
        "approved": 2, "rejected": 1, "undecided": len(BAD_EVIDENCE), "failed": len(BAD_ANSWERS), "skipped": 0,
        "released": 0,
    }  # fmt: skip
    found = {row["id"]: row for row in queue.platform.rows("SELECT * FROM transactions")}
    assert {name: (found[id_]["ai_audit_note"].get("error_code"), label(found[id_])) for id_, name in bad.items()} == {
        **{name: (code, queue.platform.failed_label) for name, (_, code) in BAD_ANSWERS.items()},
        **dict.fromkeys(BAD_EVIDENCE, (None, "no_action")),
    }
    assert {row["status"] for id_, row in found.items() if id_ in bad} == {"pending"}
    assert {id_: label(found[id_]) for id_ in good} == {id_: queue.statuses[id_] for id_ in good}
    calls = Counter(asked(simulator))
    assert {name: calls[id_] for id_, name in bad.items()} == {
        **dict.fromkeys(BAD_ANSWERS, 3),
        **dict.fromkeys(BAD_EVIDENCE, 2),
    }
    history = queue.platform.history(batch)
    assert (history["status"], history["approved_count"], history["rejected_count"]) == ("completed", 2, 1)
    assert history["error_message"].startswith(
        f"{len(BAD_ANSWERS)} transactions could not be audited: answer not readable: "
    )
    if queue.platform.is_new:
        audits = queue.platform.rows("SELECT ai_audit_status FROM transaction_audits")
        assert Counter(row["ai_audit_status"] for row in audits) == {"approved": 2, "rejected": 1, "no_action": 3}


def label(row: dict[str, Any]) -> str:
    return str(row["ai_audit_status"])


@on_sqlite
def test_a_batch_without_one_readable_answer_is_failed_and_the_exit_code_says_so(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    batch = queue.queue([*CLEAN])
    simulator.scenario({"rules": [{"do": "prose"}]})
    done = run(programs)
    assert (done.exit_code, done.json()["batches"]) == (3, {"completed": 0, "failed": 1, "in_progress": 0})
    assert set(queue.labels().values()) == {"failed"}
    history = queue.platform.history(batch)
    assert (history["status"], history["approved_count"]) == ("failed", 0)
    assert history["error_message"] == ("2 transactions could not be audited: answer not readable: 2 (1, 2).")


@on_sqlite
def test_evidence_that_fails_twice_is_told_as_untold_even_if_a_throttled_call_came_between(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([CLEAN[0]])
    simulator.scenario({"rules": [{"match": {"attempt": 2}, "do": "rate_limited_bare"}, {"do": "wrong_evidence"}]})
    done = run(programs)
    assert (done.json()["transactions"]["undecided"], len(asked(simulator))) == (1, 3)


@on_sqlite
def test_one_bad_answer_costs_one_attempt_and_the_next_answer_counts(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([*CLEAN, BROKEN])
    simulator.scenario({"rules": [{"match": {"attempt": 1}, "do": "length_cut"}]})
    done = run(programs)
    assert (done.exit_code, done.json()["calls"], done.json()["retries"]) == (0, 6, 3)
    assert sorted(ledger(queue.platform, "answer")) == [1, 2, 3]
    queue.assert_all_settled()


@on_sqlite
def test_an_error_of_one_transaction_fails_that_one_alone_after_one_call(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([CLEAN[0]] * 3 + [BROKEN])
    presets = {1: "context_length", 2: "invalid_image", 3: "policy"}
    simulator.scenario({"rules": [always(id_, preset) for id_, preset in presets.items()]})
    done = run(programs)
    assert done.exit_code == 0
    assert Counter(asked(simulator)) == {1: 1, 2: 1, 3: 1, 4: 1}
    assert queue.labels() == {1: "failed", 2: "failed", 3: "failed", 4: "rejected"}
    assert queue.platform.history(1)["error_message"] == (
        "3 transactions could not be audited: too long for the model: 1 (1); "
        "refused by the provider as invalid: 1 (2); refused by the provider's policy: 1 (3)."
    )


@on_sqlite
def test_each_transaction_has_one_line_in_the_log_that_says_what_became_of_it(
    queue: SampleQueue, programs: Programs, simulator: Simulator
) -> None:
    queue.queue([CLEAN[0], BROKEN, CLEAN[0]])
    simulator.scenario({"rules": [always(3, "context_length")]})
    log = programs.home / "audit.log"
    run(programs, GEPP_AUDIT_LOG_FILE=str(log))
    told = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    lines = {one["transaction_id"]: one for one in told if "transaction_id" in one}
    assert {id_: (one["event"], one["status"], one.get("error_code")) for id_, one in lines.items()} == {
        1: ("transaction_audited", "approved", None),
        2: ("transaction_audited", "rejected", None),
        3: ("transaction_not_audited", "failed", "context_length_exceeded"),
    }
    assert lines[3]["error"]
    assert Counter(one["event"] for one in told) == {
        "run_started": 1, "batch_fanned_out": 1, "transaction_audited": 2, "transaction_not_audited": 1,
        "batch_closed": 1, "run_finished": 1,
    }  # fmt: skip
    assert len({one["run_id"] for one in told}) == 1
