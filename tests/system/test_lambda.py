"""The queue in AWS Lambda: the real runtime client takes invocations from a Runtime API of the tests' own."""

from __future__ import annotations

import psutil
import pytest

from tests.laws import assert_laws
from tests.support.chaos import settled_log
from tests.support.evidence import Told
from tests.support.lambda_runtime import FUNCTION, Lambda, Sandbox
from tests.support.ping_service import running_ping_service
from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator
from tests.support.queues import (
    BROKEN,
    CLEAN,
    HANG,
    SampleQueue,
    asked,
    connect,
    items,
    ledger,
    wait_for_calls,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

CONCURRENCY = 4
#: seconds for a whole call, for the shortest function that may claim one, and for one that claims for 8 s
CALL = 6
SHORTEST = CALL + 15 + 3
SHORT = SHORTEST + 5
both = pytest.mark.parametrize("platform", ["sqlite", "postgresql-new"], indirect=True)
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)


@pytest.fixture
def queue(platform: Platform, programs: Programs, simulator: Simulator) -> SampleQueue:
    """An empty queue, and functions that ask at most 4 calls at a time."""
    connect(programs, platform, simulator)
    programs.environ |= {"GEPP_AUDIT_CONCURRENCY": str(CONCURRENCY), "GEPP_AUDIT_CALL_TIMEOUT": str(CALL)}
    return SampleQueue(platform)


def assert_lawful(queue: SampleQueue, simulator: Simulator, *, disruptions: int = 0) -> None:
    trouble = Told(disruptions=disruptions, concurrency=CONCURRENCY, expected=queue.statuses, killers=set())
    assert_laws(queue.platform.url, asked=settled_log(simulator), told=trouble)


def children(sandbox: Sandbox) -> list[psutil.Process]:
    return psutil.Process(sandbox.process.pid).children(recursive=True)


def connections(sandbox: Sandbox, platform: Platform) -> int:
    """How often the function holds the database open."""
    process = psutil.Process(sandbox.process.pid)
    url = platform.database.engine.url
    if platform.is_postgresql:
        found = process.net_connections()
        return sum(one.status == psutil.CONN_ESTABLISHED and one.raddr.port == url.port for one in found)
    return sum(one.path == url.database for one in process.open_files())


# -- the ordinary minute -----------------------------------------------------------------------------------------------


@both
def test_each_invocation_of_a_warm_sandbox_does_what_is_due_and_leaves_nothing_running(
    queue: SampleQueue, aws_lambda: Lambda, simulator: Simulator
) -> None:
    sandbox = aws_lambda.sandbox()
    idle = sandbox.invoke().returned()
    assert (idle["outcome"], idle["pending"]) == ("idle", {"batches": 0, "transactions": 0})
    for _ in range(2):
        queue.queue([*CLEAN, BROKEN])
        done = sandbox.invoke().returned()
        assert done["outcome"] == "processed"
        assert done["batches"] == {"completed": 1, "failed": 0, "in_progress": 0}
        assert (done["calls"], done["pending"], done["failed_batches"]) == (3, {"batches": 0, "transactions": 0}, [])
        assert children(sandbox) == []
        assert connections(sandbox, queue.platform) == 0
    queue.assert_all_settled()
    runs = queue.platform.rows("SELECT host, outcome FROM gepp_audit_runs WHERE id NOT LIKE 'tick:%'")
    assert runs == [{"host": f"lambda:{FUNCTION}", "outcome": "processed"}] * 2
    assert [row["id"] for row in queue.platform.rows("SELECT id FROM gepp_audit_runs WHERE id LIKE 'tick:%'")] == [
        f"tick:lambda:{FUNCTION}"
    ]
    finished = sandbox.events("run_finished")
    assert [(one["request_id"], one["calls"]) for one in finished] == [("request-2", 3), ("request-3", 3)]
    assert_lawful(queue, simulator)


@on_postgresql
def test_a_batch_that_ended_failed_is_a_result_and_no_error_and_the_dead_mans_switch_hears_of_it(
    queue: SampleQueue, aws_lambda: Lambda
) -> None:
    batch = queue.queue(CLEAN)
    queue.platform.execute("UPDATE audit_rules SET is_active = false")
    with running_ping_service() as service:
        aws_lambda.environ["GEPP_AUDIT_PING_URL"] = service.url
        sandbox = aws_lambda.sandbox()
        done = sandbox.invoke().returned()
        assert sandbox.invoke().returned()["outcome"] == "idle"
        path = "/ping/token-of-the-check"
        assert service.paths == [f"{path}/start", f"{path}/fail", path]
    assert (done["batches"]["failed"], done["failed_batches"]) == (1, [batch])


# -- the deadline ------------------------------------------------------------------------------------------------------


@on_postgresql
def test_out_of_time_it_claims_no_more_settles_what_it_paid_for_and_leaves_the_rest_to_the_next(
    queue: SampleQueue, aws_lambda: Lambda, simulator: Simulator
) -> None:
    queue.queue([*CLEAN, BROKEN] * 12)
    simulator.scenario({"rules": [{"do": {"extra_latency_ms": 3_000}}]})
    sandbox = aws_lambda.sandbox()
    invocation = sandbox.invoke(SHORT)
    wait_for_calls(simulator, CONCURRENCY)
    assert connections(sandbox, queue.platform) == 1
    done = invocation.returned()
    bought = len(simulator.calls())
    assert CONCURRENCY <= bought < 36
    assert (done["outcome"], done["calls"], done["transactions"]["released"]) == ("processed", bought, 0)
    assert done["pending"] == {"batches": 1, "transactions": 36 - bought}
    assert len(ledger(queue.platform, "verdict")) == bought
    assert list(queue.labels().values()).count("queued") == 36 - bought
    assert invocation.left > 10, "what it paid for was written back too late"
    simulator.scenario({"rules": []})
    assert sandbox.invoke().returned()["pending"] == {"batches": 0, "transactions": 0}
    queue.assert_all_settled()
    assert sorted(asked(simulator)) == sorted(queue.expected)
    assert_lawful(queue, simulator)


@on_postgresql
def test_a_frozen_provider_process_does_not_keep_it_beyond_its_time(
    queue: SampleQueue, aws_lambda: Lambda, simulator: Simulator
) -> None:
    queue.queue([*CLEAN, BROKEN])
    simulator.scenario({"rules": [{"do": HANG}]})
    aws_lambda.environ |= {"AWS_SECRET_ACCESS_KEY": "the-role's", "AWS_SESSION_TOKEN": "the-role's"}
    sandbox = aws_lambda.sandbox()
    invocation = sandbox.invoke(SHORT)
    wait_for_calls(simulator, 3)
    [provider] = children(sandbox)
    assert "the-role's" not in provider.environ().values()
    provider.suspend()
    done = invocation.returned()
    assert (done["transactions"]["released"], done["pending"]["transactions"]) == (3, 3)
    assert 0 < invocation.left < 10
    assert children(sandbox) == []
    simulator.scenario({"rules": []})
    assert sandbox.invoke().returned()["batches"]["completed"] == 1
    queue.assert_all_settled()
    assert_lawful(queue, simulator, disruptions=1)


@on_postgresql
def test_a_function_that_is_too_short_for_one_call_says_so_and_claims_nothing(
    queue: SampleQueue, aws_lambda: Lambda, simulator: Simulator
) -> None:
    queue.queue(CLEAN)
    told = aws_lambda.sandbox().invoke(SHORTEST - 0.1).raised()
    assert told == (
        f"the function has {SHORTEST - 1} s, and one call may take {CALL} s and 15 s to be written back, so nothing "
        f"was claimed. Set the function's timeout to at least {SHORTEST} s, or lower GEPP_AUDIT_CALL_TIMEOUT."
    )
    assert simulator.calls() == []


# -- several sandboxes -------------------------------------------------------------------------------------------------


@both
def test_two_invocations_at_once_share_the_queue_as_two_hosts_do(
    queue: SampleQueue, aws_lambda: Lambda, simulator: Simulator
) -> None:
    queue.fill(36, 3)
    simulator.scenario({"rules": [{"do": {"extra_latency_ms": 400}}]})
    sandboxes = [aws_lambda.sandbox(), aws_lambda.sandbox()]
    told = [one.returned() for one in [sandbox.invoke() for sandbox in sandboxes]]
    assert [one["outcome"] for one in told] == ["processed", "processed"]
    assert min(one["calls"] for one in told) > 0
    assert sum(one["calls"] for one in told) == 36
    assert sorted(asked(simulator)) == sorted(queue.expected)
    assert [sandbox.events("runs_buried") for sandbox in sandboxes] == [[], []]
    queue.assert_all_settled()
    assert_lawful(queue, simulator)


@on_postgresql
def test_a_call_of_a_process_that_was_ended_is_taken_over_at_once_in_its_own_sandbox_and_in_no_other(
    queue: SampleQueue, aws_lambda: Lambda, programs: Programs, simulator: Simulator
) -> None:
    """Another sandbox sees neither that process nor any proof that it is gone: it may be a copy of the same picture."""
    programs.environ["GEPP_AUDIT_CALL_TIMEOUT"] = "60"
    first, second = queue.batches[queue.queue(CLEAN)]
    simulator.scenario({"rules": [{"match": {"transaction_id": str(first)}, "do": HANG}]})
    ended, other = aws_lambda.sandbox(), aws_lambda.sandbox()
    ended.invoke()
    wait_until(lambda: ledger(queue.platform, "verdict") == [second], what="the other verdict")
    ended.process.kill()
    simulator.scenario({"rules": []})

    beside = other.invoke().returned()
    assert (beside["outcome"], beside["calls"], beside["pending"]["transactions"]) == ("processed", 0, 1)
    assert items(queue.platform)[first]["state"] == "calling"

    ended.start()
    done = ended.invoke().returned()
    assert (done["calls"], done["batches"]["completed"]) == (1, 1)
    assert [one["calls_in_flight"] for one in ended.events("runs_buried")] == [1]
    queue.assert_all_settled()
    assert_lawful(queue, simulator, disruptions=1)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@on_postgresql
def test_a_database_that_goes_down_in_mid_run_fails_the_invocation_in_our_words_before_lambda_ends_it(
    queue: SampleQueue, aws_lambda: Lambda, programs: Programs, simulator: Simulator
) -> None:
    """The next one, in the same process, takes over what that run left open."""
    programs.environ["GEPP_AUDIT_LEASE_MARGIN"] = "600"
    queue.queue([*CLEAN, BROKEN])
    simulator.scenario({"rules": [{"do": {"extra_latency_ms": 500}}]})
    proxy = TcpProxy(queue.platform.database.engine.url.port or 0, seed=1)
    aws_lambda.environ["DATABASE_URL"] = proxy.url(queue.platform.url)
    sandbox = aws_lambda.sandbox()
    invocation = sandbox.invoke(SHORT)
    wait_for_calls(simulator, 3)
    proxy.close()
    assert invocation.raised() == (
        f"cannot reach the database postgresql://gepp:***@127.0.0.1:{proxy.port}/"
        f"{queue.platform.database.engine.url.database}: connection refused. Start PostgreSQL, or correct "
        "host and port in DATABASE_URL, then run the command again."
    )
    assert invocation.error is not None
    assert invocation.error["errorType"] == "InvocationFailed"
    assert 0 < invocation.left < 6
    assert children(sandbox) == []
    [event] = sandbox.events("invocation_failed")
    assert (event["code"], event["request_id"]) == ("database_unreachable", "request-1")

    back = TcpProxy(queue.platform.database.engine.url.port or 0, seed=1, port=proxy.port)
    assert sandbox.invoke().returned()["batches"]["completed"] == 1
    back.close()
    assert [one["calls_in_flight"] for one in sandbox.events("runs_buried")] == [3]
    queue.assert_all_settled()
    assert_lawful(queue, simulator, disruptions=3)
