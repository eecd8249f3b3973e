"""Laws on calls: what was asked, what it brought, and that the ledger is what the provider saw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.support.evidence import VERDICTS, Evidence, Key, Row, named

#: nobody knows whether these were paid for
_UNKNOWN: Final = frozenset({None, "expired", "abandoned"})
#: a verdict may end like this where its transaction could not take it
_UNTAKEN: Final = frozenset({"edited", "not_writable"})
_NAMED: Final = 10


def bought_once(evidence: Evidence) -> Iterator[str]:
    """After a verdict an item is asked again only because its transaction was edited."""
    for key, calls in evidence.ledger.items():
        for call, later in pairwise(calls):
            if call["outcome"] == "item":
                yield f"{named(key)} was asked again by call {later['id']} after call {call['id']} failed it for good."
        paid = [call for call in calls if call["outcome"] in ("verdict", "superseded")]
        for call, later in pairwise(paid):
            if call["outcome"] == "verdict" and call["input_digest"] == later["input_digest"]:
                yield f"{named(key)} was bought twice, by call {call['id']} and, unchanged, by call {later['id']}."


def nothing_lost(evidence: Evidence) -> Iterator[str]:
    """A verdict that was settled stands in the batch's end, and every verdict there was settled."""
    for key, status in evidence.entries.items():
        outcomes = [call["outcome"] for call in evidence.ledger.get(key, ())]
        if status in VERDICTS and "verdict" not in outcomes:
            yield f"{named(key)} is {status}, but no call in the ledger brought a verdict."
    failed = {(item["audit_history_id"], item["transaction_id"]): item["error_code"] for item in evidence.items}
    for key, calls in evidence.ledger.items():
        batch = evidence.batches.get(key[0])
        if batch is None or batch["outcome"] not in ("completed", "failed") or key not in evidence.entries:
            continue
        status = evidence.entries[key]
        settled = [call["id"] for call in calls if call["outcome"] == "verdict"]
        excused = key[1] in evidence.withdrawn_ids or failed.get(key) in _UNTAKEN
        if settled and status not in VERDICTS and not excused:
            yield f"{named(key)} was settled by call {settled[-1]}, but its batch ended with it {status}."


def superseded_with_reason(evidence: Evidence) -> Iterator[str]:
    """A paid verdict is thrown away only where a newer call was claimed, people stepped in, or it came too late."""
    parked = {(item["audit_history_id"], item["transaction_id"]) for item in evidence.items if is_parked(item)}
    for key, calls in evidence.ledger.items():
        batch = evidence.batches.get(key[0])
        for call in calls[-1:]:
            excused = (
                batch is None
                or batch["outcome"] == "withdrawn"
                or (batch["closed_at"] is None and evidence.history[key[0]]["status"] != "in_progress")
                or evidence.entries.get(key) == "skipped"
                or key[1] in evidence.withdrawn_ids
                or key in parked
            )
            if call["outcome"] == "superseded" and not excused:
                yield f"{named(key)}: the paid verdict of call {call['id']} was thrown away, and nobody asked again."


def is_parked(item: Row) -> bool:
    """Given up after it crashed runs."""
    return bool(item["state"] == "failed" and item["error_code"] == "crashed")


def parked_alone(evidence: Evidence, key: Key) -> bool:
    """Its last call without an outcome was the only one of its run: from outside, it looks like one that kills its
    process, also where somebody else killed that.
    """
    unknown = [call for call in evidence.ledger.get(key, ()) if call["outcome"] in _UNKNOWN]
    if len(unknown) < 3:
        return False
    last = unknown[-1]
    beside = (call for call in evidence.calls if call["run_id"] == last["run_id"] and call["id"] != last["id"])
    return not any(
        call["dispatched_at"] <= last["dispatched_at"]
        and (call["answered_at"] is None or call["answered_at"] > last["dispatched_at"])
        for call in beside
    )


def parked_with_reason(evidence: Evidence) -> Iterator[str]:
    """An item is parked only after three calls without an outcome, the last one alone in its run."""
    killers = evidence.told.killers
    for item in filter(is_parked, evidence.items):
        key = (item["audit_history_id"], item["transaction_id"])
        without = sum(call["outcome"] in ("expired", "superseded", None) for call in evidence.ledger.get(key, ()))
        if without < 3:
            yield f"{named(key)} is parked after {without} calls without an outcome."
        if killers is not None and key[1] not in killers and not parked_alone(evidence, key):
            yield f"{named(key)} is parked, but it never did any harm."


def ledger_is_what_was_asked(evidence: Evidence) -> Iterator[str]:
    """Each call that the provider saw has its ledger row, and each verdict of the ledger was the provider's answer."""
    if evidence.asked is None:
        return
    seen = {call["request_id"]: call for call in evidence.asked if call["transaction_id"] is not None}
    noted: Counter[str] = Counter()
    spare: Counter[int] = Counter()
    for call in evidence.calls:
        if call["request_id"] is None:
            spare[call["transaction_id"]] += call["outcome"] != "released"
            if call["outcome"] in ("verdict", "superseded"):
                yield f"call {call['id']} about transaction {call['transaction_id']} has a verdict and no request id."
            continue
        noted[call["request_id"]] += 1
        yield from _unlike(call, seen.get(call["request_id"]))
    for request_id, number in noted.items():
        if number > 1:
            yield f"the provider's request {request_id} stands {number} times in the ledger."
    unknown = Counter(int(call["transaction_id"]) for id_, call in seen.items() if id_ not in noted)
    for id_, number in unknown.items():
        if number > spare[id_]:
            yield f"transaction {id_}: the provider was asked {number - spare[id_]} times without a row in the ledger."


def _unlike(call: Row, request: Row | None) -> Iterator[str]:
    if request is None:
        yield f"call {call['id']} names the request {call['request_id']}, which the provider never saw."
    elif int(request["transaction_id"]) != call["transaction_id"]:
        yield f"call {call['id']} is about transaction {call['transaction_id']}, its request about another one."
    elif request["action"] is None and call["outcome"] in ("verdict", "superseded"):
        told = (call["input_tokens"], call["cached_tokens"], call["output_tokens"])
        used = (request["prompt_tokens"], request["cached_tokens"], request["completion_tokens"])
        if told != used:
            yield f"call {call['id']} has {told} tokens, the provider counted {used}."


def one_call_at_a_time(evidence: Evidence) -> Iterator[str]:
    """Two calls about one transaction are under way together only where the first one's run was disturbed."""
    if evidence.asked is None:
        return
    outcomes = {call["request_id"]: call["outcome"] for call in evidence.calls if call["request_id"] is not None}
    by_id: defaultdict[str, list[Row]] = defaultdict(list)
    for call in evidence.asked:
        if call["transaction_id"] is not None:
            by_id[call["transaction_id"]].append(call)
    for id_, calls in by_id.items():
        for call, later in pairwise(calls):
            overlapping = call["answered"] is not None and call["answered"] > later["received"]
            if overlapping and outcomes.get(call["request_id"]) in ("verdict", "answer", "item"):
                yield f"transaction {id_} was asked by {later['request_id']} while {call['request_id']} was under way."


def one_name_per_organization(evidence: Evidence) -> Iterator[str]:
    """The provider knows each organization by one name of its own."""
    if evidence.asked is None:
        return
    names: defaultdict[str, set[int]] = defaultdict(set)
    theirs: defaultdict[int, set[str]] = defaultdict(set)
    organizations = {call["transaction_id"]: call["organization_id"] for call in evidence.calls}
    for call in evidence.asked:
        organization = None if call["transaction_id"] is None else organizations.get(int(call["transaction_id"]))
        if organization is not None:
            names[call["safety_identifier"]].add(organization)
            theirs[organization].add(call["safety_identifier"])
    for name, found in names.items():
        if len(found) > 1 or name is None:
            yield f"the organizations {sorted(found)} share the name {name} at the provider."
    for organization, found_names in theirs.items():
        if len(found_names) > 1:
            yield f"organization {organization} has {len(found_names)} names at the provider."


def repeated_within_bounds(evidence: Evidence) -> Iterator[str]:
    """Calls are repeated only for what was under way at a disruption."""
    concurrency = evidence.told.concurrency
    if concurrency is None:
        return
    most = evidence.told.disruptions * concurrency
    repeated = repeated_calls(evidence)
    if len(repeated) > most:
        yield (
            f"{len(repeated)} calls were repeated, but at most {most} were under way at {evidence.told.disruptions} "
            f"disruptions: {repeated[:_NAMED]}…"
        )


def repeated_calls(evidence: Evidence) -> list[int]:
    """Calls whose fate is unknown, and those whose answer came after a newer call."""
    return [
        call["id"]
        for calls in evidence.ledger.values()
        for place, call in enumerate(calls)
        if call["outcome"] in _UNKNOWN or (call["outcome"] == "superseded" and place + 1 < len(calls))
    ]


def tokens_and_leases(evidence: Evidence) -> Iterator[str]:
    """A call under way has its ledger row and its lease; a verdict has its call."""
    known = {call["id"]: call for call in evidence.calls}
    for item in evidence.items:
        key = (item["audit_history_id"], item["transaction_id"])
        if item["state"] == "calling" and (item["call_id"] not in known or item["lease_until"] is None):
            yield f"{named(key)} is being asked without a call or without a lease."
        if item["state"] == "done" and known.get(item["call_id"], {}).get("outcome") != "verdict":
            yield f"{named(key)} has a verdict that its call {item['call_id']} did not bring."


def one_live_item(evidence: Evidence) -> Iterator[str]:
    """A transaction has at most one live item over all batches."""
    live: defaultdict[int, list[int]] = defaultdict(list)
    for item in evidence.items:
        unpublished = item["state"] in ("done", "failed") and item["published_at"] is None
        if unpublished or item["state"] in ("ready", "calling", "submitted"):
            live[item["transaction_id"]].append(item["audit_history_id"])
    for id_, batch_ids in live.items():
        if len(batch_ids) > 1:
            yield f"transaction {id_} has live items in the batches {sorted(batch_ids)}."
