"""The API's routes: the platform's field names and envelopes, on each kind of platform, over real HTTP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KINDS, new_platform
from tests.laws import assert_laws
from tests.support.evidence import Told
from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator, running_simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect
from tests.support.waiting import wait_until
from tests.support.web import API, Reply, Served, serving, token

#: an organization with the sample's transactions, and others for tests that queue
SAMPLE, OTHER = 1, 2


@dataclass(frozen=True, kw_only=True)
class World:
    """One platform with a server before it, for all tests of this module."""

    platform: Platform
    queue: SampleQueue
    server: Served
    simulator: Simulator

    def new_organization(self) -> tuple[int, str]:
        """One that no other test knows, and a token of it."""
        taken = self.platform.value("SELECT max(id) FROM organizations")
        self.platform._next["organizations"] = taken
        organization = self.platform.organization()
        return organization, token(organization)

    def post(self, route: str, value: Any, bearer: str, **more: Any) -> Reply:
        return self.server.post(f"{API}/{route}", value, headers={"Authorization": f"Bearer {bearer}"}, **more)

    def get(self, route: str, bearer: str) -> Reply:
        return self.server.get(f"{API}/{route}", headers={"Authorization": f"Bearer {bearer}"})


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("api")
    with (
        new_platform(request.param, request, folder) as platform,
        Programs(home=folder) as programs,
        running_simulator() as simulator,
    ):
        connect(programs, platform, simulator)
        queue = SampleQueue(platform)
        platform._next["transactions"] = 1_000_000  # beside the sample's
        with serving(programs) as server:
            yield World(platform=platform, queue=queue, server=server, simulator=simulator)


def history_rows(world: World) -> int:
    found: int = world.platform.value("SELECT count(*) FROM transaction_audit_history")
    return found


# -- queueing ----------------------------------------------------------------------------------------------------------


def test_named_transactions_become_one_batch_of_the_token_s_user(world: World) -> None:
    organization, bearer = world.new_organization()
    first, second, left = world.platform.transactions(organization, 3, status="null")
    reply = world.post("add_ai_audit_queue", {"transaction_ids": [second, first, second]}, bearer)
    told = reply.json()
    batch = told["data"]["audit_history_id"]
    assert (reply.status, told) == (
        200,
        {
            "success": True,
            "message": f"2 transactions were queued in batch {batch}.",
            "data": {
                "queued_count": 2,
                "organization_id": organization,
                "audit_history_id": batch,
                "transaction_ids": [first, second],
            },
        },
    )
    row = world.platform.history(batch)
    assert (row["organization_id"], row["triggered_by_user_id"], row["status"]) == (organization, 1, "in_progress")
    assert world.platform.labels([first, second, left]) == {first: "queued", second: "queued", left: "null"}


def test_an_empty_object_queues_whatever_waits_and_a_second_time_nothing(world: World) -> None:
    organization, bearer = world.new_organization()
    ids = world.platform.transactions(organization, 3, status="null")
    world.platform.transactions(organization, 1, status="approved")
    assert world.post("add_ai_audit_queue", {}, bearer).json()["data"]["transaction_ids"] == ids
    before = history_rows(world)
    again = world.post("add_ai_audit_queue", {}, bearer)
    assert (again.status, again.json()["data"]) == (
        200,
        {"queued_count": 0, "organization_id": organization, "audit_history_id": None, "transaction_ids": []},
    )
    assert history_rows(world) == before


@pytest.mark.parametrize(
    "body",
    [None, [], "x", {"transaction_ids": None}, {"transaction_ids": []}, {"transaction_id": [1]},
     {"transaction_ids": ["1"]}, {"transaction_ids": [True]}, {"transaction_ids": [1.5]}, {"transaction_ids": [0]},
     {"transaction_ids": [2**31]}, {"transaction_ids": [1], "organization_id": 2}],
)  # fmt: skip
def test_a_request_that_says_something_else_queues_nothing(world: World, body: Any) -> None:
    organization, bearer = world.new_organization()
    [waiting] = world.platform.transactions(organization, 1, status="null")
    reply = world.post("add_ai_audit_queue", body, bearer)
    told = reply.json()
    assert (reply.status, told["success"], told["code"]) == (422, False, "wrong_request")
    assert all(one.keys() == {"field", "message"} for one in told["errors"])
    assert world.platform.labels([waiting]) == {waiting: "null"}


def test_one_id_that_cannot_be_queued_keeps_all_of_them_away_and_another_organization_s_does_not_exist(
    world: World,
) -> None:
    organization, bearer = world.new_organization()
    other, _ = world.new_organization()
    [own] = world.platform.transactions(organization, 1, status="null")
    [foreign] = world.platform.transactions(other, 1, status="null")
    nobodys = 2**31 - 1
    before = history_rows(world)
    refused = {}
    for id_ in (foreign, nobodys):
        reply = world.post("add_ai_audit_queue", {"transaction_ids": [own, id_]}, bearer)
        assert (reply.status, reply.json()["code"]) == (409, "not_queueable")
        refused[id_] = reply.json()["message"].replace(str(id_), "ID")
    assert refused[foreign] == refused[nobodys]
    assert (history_rows(world), world.platform.labels([own, foreign])) == (before, {own: "null", foreign: "null"})


def test_a_token_of_an_organization_or_a_user_that_does_not_exist_is_refused_in_words(world: World) -> None:
    reply = world.post("add_ai_audit_queue", {}, token(2**31 - 1))
    assert (reply.status, reply.json()["code"]) == (403, "unknown_organization")
    if world.platform.is_postgresql:  # an embedded database knows no users
        organization, _ = world.new_organization()
        [id_] = world.platform.transactions(organization, 1, status="null")
        reply = world.post("add_ai_audit_queue", {}, token(organization, user_id=999_999))
        assert (reply.status, reply.json()["code"]) == (403, "unknown_user")
        assert world.platform.labels([id_]) == {id_: "null"}


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_an_open_batch_is_cancelled_once(world: World) -> None:
    organization, bearer = world.new_organization()
    ids = world.platform.transactions(organization, 2)
    batch = world.platform.batch(organization, ids)
    reply = world.post("cancel_audit_batch", {"batch_id": batch}, bearer)
    assert (reply.status, reply.json()) == (
        200,
        {
            "success": True,
            "message": f"Batch {batch} was cancelled.",
            "data": {"batch_id": batch, "reverted_count": 2},
        },
    )
    assert set(world.platform.labels(ids).values()) == {"null"}
    assert world.platform.history(batch)["status"] == "cancelled"
    again = world.post("cancel_audit_batch", {"batch_id": batch}, bearer)
    assert (again.status, again.json()["code"]) == (409, "batch_not_open")


def test_another_organization_s_batch_does_not_exist_and_stays_as_it_is(world: World) -> None:
    other, _ = world.new_organization()
    _, bearer = world.new_organization()
    ids = world.platform.transactions(other, 1)
    batch = world.platform.batch(other, ids)
    nobodys = 2**31 - 1
    told: dict[int, list[str]] = {}
    for id_ in (batch, nobodys):
        for reply in (world.get(f"batches/{id_}", bearer), world.post("cancel_audit_batch", {"batch_id": id_}, bearer)):
            assert (reply.status, reply.json()["code"]) == (404, "unknown_batch")
            told.setdefault(id_, []).append(reply.json()["message"].replace(str(id_), "ID"))
    assert told[batch] == told[nobodys]
    assert world.platform.history(batch)["status"] == "in_progress"
    assert world.platform.labels(ids) == {ids[0]: "queued"}
    assert world.get("audit_history", bearer).json()["meta"]["total"] == 0


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_history_has_pages_newest_first_and_a_filter(world: World) -> None:
    organization, bearer = world.new_organization()
    batches = [world.platform.batch(organization, [], status=status) for status in ["completed"] * 4 + ["failed"]]
    pages = [world.get(f"audit_history?page={page}&page_size=2", bearer).json() for page in (1, 2, 3, 4)]
    assert [[row["id"] for row in page["data"]] for page in pages] == [
        batches[:-3:-1],
        batches[2:0:-1],
        batches[:1],
        [],
    ]
    assert [page["meta"] for page in pages] == [
        {"page": number, "page_size": 2, "total": 5, "total_pages": 3, "has_more": number < 3}
        for number in (1, 2, 3, 4)
    ]
    failed = world.get("audit_history?status=failed", bearer).json()
    assert [row["id"] for row in failed["data"]] == batches[-1:]
    for wrong in ("page=0", "page_size=0", "page_size=51", "page=x", "status=%00", "status=A'"):
        assert world.get(f"audit_history?{wrong}", bearer).status == 422


def test_whoever_does_something_sees_it_in_the_very_next_answer(world: World) -> None:
    """Answers are shared for a second; what was done through the server ends that second."""
    organization, bearer = world.new_organization()
    world.platform.transactions(organization, 1, status="null")

    def seen() -> list[str]:
        return [row["status"] for row in world.get("audit_history?page_size=1", bearer).json()["data"]]

    assert seen() == []
    batch = world.post("add_ai_audit_queue", {}, bearer).json()["data"]["audit_history_id"]
    assert seen() == ["in_progress"]
    world.post("cancel_audit_batch", {"batch_id": batch}, bearer)
    assert seen() == []


def test_a_batch_is_told_with_its_verdicts_reasons_and_evidence_and_the_history_with_its_audit_info(
    world: World,
) -> None:
    """Beside them: what a page would run as a script comes as JSON that no browser takes for a page."""
    world.platform.execute(
        "UPDATE audit_rules SET rule_name = '<script>alert(1)</script>' WHERE organization_id IS NULL"
    )
    world.simulator.reset()
    batch = world.queue.queue([*CLEAN, BROKEN])
    bearer = token(SAMPLE)
    processed = world.post("process_queue", None, bearer)
    data = processed.json()["data"]
    counts = {name: data[name] for name in ("processed_batches", "failed_batches", "total_batches", "finished")}
    assert (processed.status, counts) == (
        200,
        {"processed_batches": 1, "failed_batches": 0, "total_batches": 1, "finished": True},
    )
    assert (data["run"]["outcome"], data["run"]["calls"]) == ("processed", 3)
    assert data["run"]["transactions"]["rejected"] == 1

    reply = world.get(f"batches/{batch}?page_size=2", bearer)
    told = reply.json()["data"]
    assert (told["status"], len(told["transactions"]), told["has_more"]) == ("completed", 2, True)
    rejected = world.get(f"batches/{batch}?verdict=rejected", bearer).json()["data"]["transactions"]
    [line] = rejected
    finding = next(one for one in line["findings"] if one["rule_id"] in line["rejected_by"])
    assert finding["reason"]
    assert finding["evidence"][0]["value"]
    rest = world.get(f"batches/{batch}?after={told['transactions'][-1]['transaction_id']}", bearer).json()["data"]
    assert [one["transaction_id"] for one in rest["transactions"]] == world.queue.batches[batch][2:]

    history = world.get("audit_history", bearer)
    [row] = [one for one in history.json()["data"] if one["id"] == batch]
    stored = world.platform.history(batch)
    assert row["audit_info"] == stored["audit_info"]
    assert row["approved_count"] + row["rejected_count"] == 3
    assert row["token_usage"] == stored["audit_info"]["summary"]["token_usage"]
    for told_so in (reply, history):
        assert told_so.headers["content-type"] == "application/json"
        assert told_so.headers["x-content-type-options"] == "nosniff"
        assert told_so.headers["content-security-policy"].startswith("default-src 'none'")


# -- processing --------------------------------------------------------------------------------------------------------


def test_two_calls_at_once_buy_nothing_twice_and_spend_for_their_own_organization_alone(world: World) -> None:
    world.simulator.reset()
    world.simulator.scenario({"rules": [{"do": {"extra_latency_ms": 300}}]})
    theirs = world.queue.queue([2001, 2002, 2003], organization=OTHER)
    own = [world.queue.queue([*CLEAN, BROKEN]) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda _: world.post("process_queue", None, token(SAMPLE)), range(2)))
    assert [reply.status for reply in replies] == [200, 200]
    outcomes = Counter(reply.json()["data"]["run"]["outcome"] for reply in replies)
    assert outcomes in ({"processed": 1, "busy": 1}, {"processed": 1, "idle": 1}, {"processed": 2})
    ids = [id_ for batch in own for id_ in world.queue.batches[batch]]
    assert sorted(int(call["transaction_id"]) for call in world.simulator.calls()) == ids
    assert world.platform.labels(ids) == {id_: world.queue.statuses[id_] for id_ in ids}
    assert world.platform.history(theirs)["processed_transactions"] == 0
    world.simulator.scenario({"rules": []})
    assert world.post("process_queue", None, token(OTHER)).json()["data"]["run"]["calls"] == 3
    labels = world.queue.labels()
    assert labels == world.queue.statuses
    trouble = Told(disruptions=0, concurrency=32, expected=world.queue.statuses, killers=set())
    assert_laws(world.platform.url, asked=_of(world), told=trouble, finished=False)


def _of(world: World) -> list[dict[str, Any]]:
    """Every call since the module's first test: the simulator was told to forget some."""
    return [json.loads(line) for line in world.simulator.log_file.read_text().splitlines() if line.strip()]


def test_with_nothing_queued_processing_says_so(world: World) -> None:
    _, bearer = world.new_organization()
    reply = world.post("process_queue", None, bearer)
    told = reply.json()
    assert (reply.status, told["data"]["run"]["outcome"], told["data"]["total_batches"]) == (200, "idle", 0)
    assert told["message"] == "Nothing is queued."


# -- probes ------------------------------------------------------------------------------------------------------------


def test_probes_need_no_token_and_metrics_name_nobody(world: World) -> None:
    assert world.server.get("/healthz").json() == {"success": True, "message": "Alive."}
    assert world.server.get("/readyz").json() == {"success": True, "message": "Ready."}

    def scraped() -> dict[str, float]:
        reply = world.server.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = [line for line in reply.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    found = scraped()
    assert found["gepp_audit_stuck_status"] == 0
    assert found['gepp_audit_http_requests_total{route="/healthz",status="200"}'] >= 1
    assert found['gepp_audit_http_request_seconds_bucket{le="+Inf"}'] == found["gepp_audit_http_request_seconds_count"]
    assert not [name for name in found if "organization" in name or "audit_history_id" in name]
    wait_until(lambda: scraped()["gepp_audit_http_runs"] == 0, what="the end of all runs")
