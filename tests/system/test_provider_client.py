"""The client against a real, hostile server over loopback: one result for each call, whatever the server does."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gepp_audit.model import CallRequest, CallResult, ErrorCode, FailureKind, Usage
from gepp_audit.provider import openai_client
from gepp_audit.provider.openai_client import DEFAULT_MODEL, OpenAIClient, clock
from tests.support.forked import nest_of_providers
from tests.support.hostile_server import HostileServer, Received, Reply, choice, completion, error
from tests.support.nest import lending
from tests.support.waiting import wait_until

KEY = "sk-test-0123456789-key-of-the-tests"
PASSWORD = "base-url-password-0123"
TEXT = '{"rules": {"DC-01": "pass"}}'
PAID = Usage(input_tokens=1500, cached_tokens=1024, cache_write_tokens=256, output_tokens=90, reasoning_tokens=40)
RETRY, ANSWER, ITEM, BLOCK = FailureKind.RETRY, FailureKind.ANSWER, FailureKind.ITEM, FailureKind.BLOCK

MakeClient = Callable[..., OpenAIClient]


@pytest.fixture
def make_own_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """Makes clients that start the provider's process themselves."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    clients: list[OpenAIClient] = []

    def make(base_url: str | None, **changes: Any) -> OpenAIClient:
        values: dict[str, Any] = {"api_key": KEY, "base_url": base_url, "call_timeout": 20.0, "concurrency": 60}
        clients.append(OpenAIClient(**(values | changes)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def make_client(make_own_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> MakeClient:
    """Makes clients whose process is forked of one that has the SDK already."""
    monkeypatch.setattr(subprocess, "Popen", lending(nest_of_providers().address))
    return make_own_client


def call(call_id: int = 1, **changes: Any) -> CallRequest:
    values: dict[str, Any] = {
        "call_id": call_id,
        "model": DEFAULT_MODEL,
        "prefix": "the rules",
        "suffix": f"transaction {call_id}",
        "schema": {"type": "object"},
        "schema_name": "audit",
        "max_completion_tokens": 900,
        "safety_identifier": "org-hash",
        "cache_key": "rules-hash",
        "send_before": clock() + 60,
    }
    return CallRequest(**(values | changes))


def results_of(client: OpenAIClient, count: int, within: float = 30.0) -> list[CallResult]:
    """All of the next `count` results."""
    results: list[CallResult] = []
    deadline = time.monotonic() + within
    while len(results) < count and time.monotonic() < deadline:
        results += client.wait(deadline - time.monotonic())
    assert len(results) == count
    return results


def only_result(client: OpenAIClient, request: CallRequest) -> CallResult:
    client.submit(request)
    (result,) = results_of(client, 1)
    assert (result.call_id, client.in_flight) == (request.call_id, 0)
    return result


def code_of(result: CallResult) -> tuple[FailureKind, ErrorCode]:
    assert result.text is None
    assert result.failure is not None
    return result.failure.kind, result.failure.code


def echo(request: Received) -> Reply:
    return Reply(200, completion(request.json["messages"][1]["content"]))


def test_an_answer_comes_back_with_all_that_was_told_of_it(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT))) as server:
        result = only_result(make_client(server.url), call(7))
    assert result.latency_ms is not None
    assert result == CallResult(
        call_id=7,
        sent=True,
        text=TEXT,
        usage=PAID,
        model_answered="hostile-1",
        tier="default",
        request_id="req_1",
        latency_ms=result.latency_ms,
    )


def test_the_request_carries_the_key_and_the_body_as_documented(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT))) as server:
        only_result(make_client(server.url), call(7))
    (received,) = server.received
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.headers["content-type"] == "application/json"
    assert received.json == {
        "model": DEFAULT_MODEL,
        "messages": [{"role": "developer", "content": "the rules"}, {"role": "user", "content": "transaction 7"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "audit", "strict": True, "schema": {"type": "object"}},
        },
        "max_completion_tokens": 900,
        "reasoning_effort": "low",
        "verbosity": "low",
        "store": False,
        "safety_identifier": "org-hash",
    }


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(Reply(200, b"I am fine"), (ANSWER, ErrorCode.UNREADABLE), id="no JSON"),
        pytest.param(
            Reply(200, b"<html></html>", {"content-type": "text/html"}), (ANSWER, ErrorCode.UNREADABLE), id="HTML"
        ),
        pytest.param(Reply(200, b""), (ANSWER, ErrorCode.UNREADABLE), id="empty body"),
        pytest.param(Reply(200, {}), (ANSWER, ErrorCode.UNREADABLE), id="empty object"),
        pytest.param(Reply(200, "text"), (ANSWER, ErrorCode.UNREADABLE), id="a JSON string"),
        pytest.param(Reply(200, completion(choices=None)), (ANSWER, ErrorCode.UNREADABLE), id="null choices"),
        pytest.param(Reply(200, completion(choices=[])), (ANSWER, ErrorCode.UNREADABLE), id="no choice"),
        pytest.param(Reply(200, completion(None)), (ANSWER, ErrorCode.UNREADABLE), id="null content"),
        pytest.param(
            Reply(200, completion(choices=[choice(TEXT, finish_reason=None)])),
            (ANSWER, ErrorCode.UNREADABLE),
            id="null finish_reason",
        ),
        pytest.param(
            Reply(200, completion(choices=[choice(TEXT, finish_reason="length")])),
            (ANSWER, ErrorCode.TRUNCATED),
            id="valid JSON cut at the cap",
        ),
        pytest.param(
            Reply(200, completion(choices=[choice(None, refusal="no")])), (ANSWER, ErrorCode.REFUSED), id="refusal"
        ),
        pytest.param(
            Reply(200, completion(choices=[choice("", finish_reason="content_filter")])),
            (ANSWER, ErrorCode.CONTENT_FILTER),
            id="content filter",
        ),
        pytest.param(Reply(200, b"\xff\xfe\x00"), (ANSWER, ErrorCode.UNREADABLE), id="no UTF-8"),
        pytest.param(
            Reply(200, completion(TEXT), {"content-encoding": "gzip"}), (ANSWER, ErrorCode.UNREADABLE), id="not gzip"
        ),
        pytest.param(
            Reply(200, completion(TEXT), {"content-encoding": "br"}), (ANSWER, ErrorCode.UNREADABLE), id="brotli"
        ),
        pytest.param(
            Reply(200, gzip.compress(b" " * 50_000_000), {"content-encoding": "gzip"}),
            (ANSWER, ErrorCode.UNREADABLE),
            id="gzip bomb",
        ),
        pytest.param(Reply(200, completion(TEXT), cut_after=40), (RETRY, ErrorCode.CONNECTION), id="cut in the body"),
        pytest.param(Reply(hang_up=True), (RETRY, ErrorCode.CONNECTION), id="hung up"),
        pytest.param(Reply(raw=b"SSH-2.0-OpenSSH_9\r\n"), (RETRY, ErrorCode.CONNECTION), id="not HTTP"),
        pytest.param(
            Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-le"), (RETRY, ErrorCode.CONNECTION), id="cut in the headers"
        ),
        pytest.param(
            Reply(raw=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
            (RETRY, ErrorCode.CONNECTION),
            id="broken chunks",
        ),
        pytest.param(Reply(500, b"<html>"), (RETRY, ErrorCode.SERVER_ERROR), id="HTML error"),
        pytest.param(Reply(500, {"error": "boom"}), (RETRY, ErrorCode.SERVER_ERROR), id="error is a string"),
        pytest.param(Reply(503, error(503)), (RETRY, ErrorCode.SERVER_ERROR), id="integer code"),
        pytest.param(Reply(500, error(), {"content-encoding": "gzip"}), (RETRY, ErrorCode.SERVER_ERROR), id="bad 500"),
        pytest.param(Reply(429, error("rate_limit_exceeded")), (RETRY, ErrorCode.RATE_LIMITED), id="throttled"),
        pytest.param(
            Reply(429, error("insufficient_quota"), {"retry-after": "1"}),
            (BLOCK, ErrorCode.QUOTA_EXHAUSTED),
            id="no money",
        ),
        pytest.param(Reply(401, error("invalid_api_key")), (BLOCK, ErrorCode.KEY_REJECTED), id="key rejected"),
        pytest.param(Reply(404, error("model_not_found")), (BLOCK, ErrorCode.MODEL_UNAVAILABLE), id="no such model"),
        pytest.param(Reply(404, b"<h1>Not Found</h1>"), (BLOCK, ErrorCode.REQUEST_REJECTED), id="no such route"),
        pytest.param(Reply(307, b"", {"location": "/elsewhere"}), (BLOCK, ErrorCode.REQUEST_REJECTED), id="redirect"),
        pytest.param(
            Reply(400, error("unsupported_value", param="verbosity")),
            (BLOCK, ErrorCode.REQUEST_REJECTED),
            id="our field",
        ),
        pytest.param(Reply(400, error("context_length_exceeded")), (ITEM, ErrorCode.CONTEXT_LENGTH), id="too long"),
        pytest.param(Reply(403, error("content_policy_violation")), (ITEM, ErrorCode.POLICY), id="policy"),
    ],
)
def test_what_a_server_does_is_classified_on_purpose(
    make_client: MakeClient, reply: Reply, expected: tuple[FailureKind, ErrorCode]
) -> None:
    with HostileServer(reply) as server:
        result = only_result(make_client(server.url), call())
    assert (code_of(result), result.sent, len(server.received)) == (expected, True, 1)


@pytest.mark.parametrize(
    "changed", [choice(TEXT, finish_reason="length"), choice(None, refusal="no"), choice(None)], ids=str
)
def test_the_tokens_of_a_failed_but_paid_answer_are_known(make_client: MakeClient, changed: dict[str, Any]) -> None:
    with HostileServer(Reply(200, completion(choices=[changed]))) as server:
        assert only_result(make_client(server.url), call()).usage == PAID


@pytest.mark.parametrize("usage", [None, "lots", {"prompt_tokens": "9", "completion_tokens": -4}])
def test_an_answer_without_counts_is_an_answer_with_unknown_counts(make_client: MakeClient, usage: Any) -> None:
    with HostileServer(Reply(200, completion(TEXT, usage=usage))) as server:
        result = only_result(make_client(server.url), call())
    assert (result.text, result.usage) == (TEXT, Usage())


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_answer_is_read(
    make_client: MakeClient, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    body = compress(json.dumps(completion(TEXT)).encode())
    with HostileServer(Reply(200, body, {"content-encoding": encoding})) as server:
        assert only_result(make_client(server.url), call()).text == TEXT


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_without_end_is_not_read_to_its_end(make_client: MakeClient, status: int) -> None:
    size = 400 * 1024 * 1024
    with HostileServer(Reply(status, endless=size)) as server:
        result = only_result(make_client(server.url), call())
    expected = (ANSWER, ErrorCode.UNREADABLE) if status == 200 else (RETRY, ErrorCode.SERVER_ERROR)
    assert (code_of(result), server.bytes_sent < size / 4) == (expected, True)


def test_a_compressed_body_without_end_is_not_unpacked_to_its_end(make_own_client: MakeClient) -> None:
    size = 200 * 1024 * 1024
    bomb = gzip.compress(bytes(size))
    with HostileServer(Reply(200, bomb, {"content-encoding": "gzip"})) as server:
        client = make_own_client(server.url)
        process = process_of(client)
        before = process.memory_info().rss
        result = only_result(client, call())
        grown = process.memory_info().rss - before
    assert (code_of(result), grown < size / 2) == ((ANSWER, ErrorCode.UNREADABLE), True)


def test_a_dripping_body_ends_at_the_total_timeout(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT), drip=0.1)) as server:
        result = only_result(make_client(server.url, call_timeout=0.5), call())
    assert (code_of(result), result.sent) == ((RETRY, ErrorCode.TIMEOUT), True)


def test_a_server_that_never_answers_ends_at_the_total_timeout(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT), hold=threading.Event())) as server:
        result = only_result(make_client(server.url, call_timeout=0.5), call())
    assert (code_of(result), result.sent) == ((RETRY, ErrorCode.TIMEOUT), True)


def test_nothing_listening_is_a_connection_failure_of_a_call_that_was_not_sent(make_client: MakeClient) -> None:
    with HostileServer() as server:
        url = server.url
    result = only_result(make_client(url), call())
    assert (code_of(result), result.sent) == ((RETRY, ErrorCode.CONNECTION), False)


def test_a_name_that_does_not_exist_is_said_to_be_one(make_client: MakeClient) -> None:
    result = only_result(make_client("http://no-such-host.invalid/v1"), call())
    assert (code_of(result), result.sent) == ((RETRY, ErrorCode.CONNECTION), False)
    assert result.failure is not None
    assert "host name cannot be resolved" in result.failure.message


def test_the_wait_that_the_provider_asks_for_is_passed_on(make_client: MakeClient) -> None:
    with HostileServer(Reply(429, error("slow_down"), {"Retry-After-Ms": "2500"})) as server:
        result = only_result(make_client(server.url), call())
    assert result.failure is not None
    assert result.failure.retry_after == 2.5


def test_nothing_is_retried_behind_our_back(make_client: MakeClient) -> None:
    with HostileServer(Reply(503, error("server_error")), Reply(200, completion(TEXT))) as server:
        assert code_of(only_result(make_client(server.url), call())) == (RETRY, ErrorCode.SERVER_ERROR)
        assert len(server.received) == 1


def test_a_call_whose_time_to_leave_has_passed_is_not_sent(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT))) as server:
        result = only_result(make_client(server.url), call(3, send_before=clock() - 0.001))
    assert (result, server.received) == (CallResult(call_id=3, sent=False), [])


def test_a_call_that_finds_no_connection_in_time_is_not_sent_and_counts_as_a_wait(make_client: MakeClient) -> None:
    hold = threading.Event()
    with HostileServer(Reply(200, completion(TEXT), hold=hold)) as server:
        client = make_client(server.url, concurrency=1)
        client.submit(call(1))
        server.wait_for_requests(1)
        late = call(2, send_before=clock() + 0.2)
        client.submit(late)
        while clock() < late.send_before:
            client.wait(0.05)
        hold.set()
        results = {result.call_id: result for result in results_of(client, 2)}
    late_failure = results[2].failure
    assert late_failure is not None
    assert (results[2].sent, late_failure.kind) == (False, FailureKind.RETRY)
    assert (results[1].text, len(server.received)) == (TEXT, 1)


def test_a_rejection_without_a_reason_is_about_the_transaction_once_another_was_accepted(
    make_client: MakeClient,
) -> None:
    with HostileServer(Reply(400, b"bad"), Reply(200, completion(TEXT)), Reply(400, b"bad")) as server:
        client = make_client(server.url)
        codes = [result.failure and result.failure.kind for result in (only_result(client, call(n)) for n in (1, 2, 3))]
    assert codes == [BLOCK, None, ITEM]


def test_a_transaction_that_cannot_be_written_fails_alone_and_unsent(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT))) as server:
        result = only_result(make_client(server.url), call(suffix="\ud83d"))
    assert (code_of(result), result.sent, server.received) == ((ITEM, ErrorCode.INVALID_INPUT), False, [])


# ---- accounting ------------------------------------------------------------------------------------------------------


def test_no_result_is_lost_or_doubled_under_concurrency(make_client: MakeClient) -> None:
    count = 400
    with HostileServer(reply=echo) as server:
        client = make_client(server.url)
        texts: dict[int, str | None] = {}
        submitted = 0
        while len(texts) < count:
            while submitted < count and client.in_flight < 50:
                submitted += 1
                client.submit(call(submitted))
            for result in client.wait(20):
                assert result.call_id not in texts
                texts[result.call_id] = result.text
    assert texts == {n: f"transaction {n}" for n in range(1, count + 1)}
    assert (client.in_flight, client.wait(0)) == (0, [])


def test_calls_run_at_the_same_time_over_kept_connections(make_client: MakeClient) -> None:
    hold = threading.Event()
    with HostileServer(Reply(200, completion(TEXT), hold=hold)) as server:
        client = make_client(server.url)
        for n in range(50):
            client.submit(call(n))
        server.wait_for_requests(50)
        hold.set()
        results_of(client, 50)
        for n in range(50, 100):
            client.submit(call(n))
        results_of(client, 50)
    assert server.connections <= 60


def test_abandoned_calls_are_named_once_and_bring_no_result(make_client: MakeClient) -> None:
    hold = threading.Event()

    def reply(request: Received) -> Reply:
        at_once = request.json["messages"][1]["content"] == "transaction 1"
        return Reply(200, completion(TEXT), hold=None if at_once else hold)

    with HostileServer(reply=reply) as server:
        client = make_client(server.url)
        for n in (3, 2, 1):
            client.submit(call(n))
        (first,) = results_of(client, 1)
        server.wait_for_requests(3)
        assert (first.call_id, client.abandon(), client.abandon(), client.in_flight) == (1, [2, 3], [], 0)
        hold.set()
        assert client.wait(0.3) == []


def test_a_result_that_came_before_abandon_is_still_handed_out(make_client: MakeClient) -> None:
    held = Reply(200, completion(TEXT), hold=threading.Event())
    with HostileServer(Reply(200, completion(TEXT)), Reply(200, completion(TEXT)), held) as server:
        client = make_client(server.url, concurrency=1)
        for n in (1, 2, 3):
            client.submit(call(n))
        server.wait_for_requests(3)  # over one connection: the first answer has long been read
        given_up = client.abandon()
        handed_out = [result.call_id for result in client.wait(0)]
        first, *_, held_one = [int(one.json["messages"][1]["content"].split()[1]) for one in server.received]
    assert sorted(handed_out + given_up) == [1, 2, 3]
    assert (first in handed_out, held_one in given_up) == (True, True)


def test_the_client_goes_on_after_abandon(make_client: MakeClient) -> None:
    hold = threading.Event()
    with HostileServer(Reply(200, completion(TEXT), hold=hold), Reply(200, completion(TEXT))) as server:
        client = make_client(server.url)
        client.submit(call(1))
        server.wait_for_requests(1)
        assert client.abandon() == [1]
        assert only_result(client, call(2)).text == TEXT


def test_calls_abandoned_before_the_thread_is_ready_are_not_sent(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT))) as server:
        client = make_client(server.url)
        client.submit(call(1))
        assert client.abandon() == [1]
        only_result(client, call(2))
    assert [request.json["messages"][1]["content"] for request in server.received] == ["transaction 2"]


def test_close_finishes_what_is_in_flight_as_failures(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT), hold=threading.Event())) as server:
        client = make_client(server.url)
        client.submit(call(1))
        server.wait_for_requests(1)
        client.close()
        (result,) = results_of(client, 1)
    assert (code_of(result), client.in_flight) == ((RETRY, ErrorCode.CONNECTION), 0)


def test_a_closed_client_takes_no_calls(make_client: MakeClient) -> None:
    client = make_client(None)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.submit(call())


def test_a_call_in_flight_is_not_taken_twice(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT), hold=threading.Event())) as server:
        client = make_client(server.url)
        client.submit(call(1))
        with pytest.raises(ValueError, match="in flight"):
            client.submit(call(1))


def test_another_thread_wakes_a_waiting_client(make_client: MakeClient) -> None:
    client = make_client(None)
    timer = threading.Timer(0.1, client.wake)
    timer.start()
    started = time.monotonic()
    assert client.wait(60) == []
    assert time.monotonic() - started < 30
    timer.join()


def test_a_signal_handler_wakes_a_waiting_client(make_client: MakeClient) -> None:
    client = make_client(None)
    before = signal.signal(signal.SIGUSR1, lambda *_: client.wake())
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        started = time.monotonic()
        assert client.wait(60) == []
        assert time.monotonic() - started < 30
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


# ---- what keeps the client from being built --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "url", "code", "words"),
    [
        ("", None, ErrorCode.KEY_REJECTED, "OPENAI_API_KEY is empty"),
        ("two words", None, ErrorCode.KEY_REJECTED, "characters that no key has"),
        ("line\nbreak", "http://127.0.0.1:9/v1", ErrorCode.KEY_REJECTED, "characters that no key has"),
        ("กุญแจ", None, ErrorCode.KEY_REJECTED, "characters that no key has"),
        (KEY, "api.openai.com/v1", ErrorCode.REQUEST_REJECTED, "no http or https URL"),
        (KEY, "ftp://127.0.0.1/v1", ErrorCode.REQUEST_REJECTED, "no http or https URL"),
        (KEY, "http://", ErrorCode.REQUEST_REJECTED, "no http or https URL"),
        (KEY, f"http://user:{PASSWORD}@[bad/v1", ErrorCode.REQUEST_REJECTED, "no http or https URL"),
        (KEY, f"http://user:{PASSWORD}@127.0.0.1:port/v1", ErrorCode.REQUEST_REJECTED, "no http or https URL"),
    ],
)
def test_a_setting_that_cannot_work_blocks_with_its_fix(
    make_client: MakeClient, key: str, url: str | None, code: ErrorCode, words: str
) -> None:
    client = make_client(url, api_key=key)
    result = only_result(client, call(1))
    assert (code_of(result), result.sent) == ((BLOCK, code), False)
    assert result.failure is not None
    assert words in result.failure.message
    assert PASSWORD not in repr(result)
    assert code_of(only_result(client, call(2))) == (BLOCK, code)


def test_certificates_that_cannot_be_read_block_with_the_fix(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/does/not/exist.pem")
    result = only_result(make_client(None), call())
    assert (code_of(result), result.sent) == ((BLOCK, ErrorCode.REQUEST_REJECTED), False)
    assert result.failure is not None
    assert "SSL_CERT_FILE" in result.failure.message


def test_a_server_without_keys_is_called_without_ours(make_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT))) as server:
        assert only_result(make_client(server.url, api_key=""), call()).text == TEXT


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from gepp_audit.provider.openai_client import OpenAIClient, clock
from gepp_audit.model import CallRequest
client = OpenAIClient(api_key="k", base_url="http://127.0.0.1:9/v1")
client.prepare()
client.submit(CallRequest(call_id=1, model="m", prefix="", suffix="", schema={}, schema_name="s",
    max_completion_tokens=1, safety_identifier="", cache_key="", send_before=clock() + 60))
result, = client.wait(20)
print(result.sent, result.failure.kind, result.failure.code, "pip install" in result.failure.message)
"""


def test_a_missing_sdk_blocks_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "openai.py").write_text("raise ImportError")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("False block request_rejected True\n", "")


def test_the_door_is_opened_without_loading_the_sdk() -> None:
    script = "import sys, gepp_audit.provider.openai_client; print({'openai', 'httpx2', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


# ---- secrets ---------------------------------------------------------------------------------------------------------


def with_key_everywhere(request: Received) -> Reply:
    """A server that gives back what it was sent, wherever a client may look."""
    key = request.headers["authorization"].removeprefix("Bearer ").removeprefix("Basic ")
    content = f"your key is {key}"
    body = (
        completion(content, model=key, service_tier=key) if request.number % 2 else error(key, param=key, message=key)
    )
    status = 200 if request.number % 2 else (400, 401, 403, 404, 429, 500)[request.number // 2 % 6]
    return Reply(status, body, {"x-request-id": key, "retry-after": key, "location": key})


def test_the_key_stands_in_no_result_however_often_the_server_repeats_it(
    make_client: MakeClient, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with HostileServer(reply=with_key_everywhere) as server:
        client = make_client(server.url)
        results = [only_result(client, call(n)) for n in range(1, 14)]
    told = repr(results) + repr(client) + "".join(capfd.readouterr()) + caplog.text
    assert (KEY in told, {result.text for result in results}) == (False, {None})


def test_the_password_of_a_base_url_is_sent_but_never_told(
    make_client: MakeClient, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with HostileServer(Reply(404, b"gone")) as server:
        client = make_client(server.url.replace("http://", f"http://user:{PASSWORD}@"))
        result = only_result(client, call())
        assert server.received[0].headers["authorization"].startswith("Basic ")
    told = repr(result) + repr(client) + "".join(capfd.readouterr()) + caplog.text
    assert (PASSWORD in told, KEY in told) == (False, False)


# ---- the process of its own ------------------------------------------------------------------------------------------


def process_of(client: OpenAIClient) -> psutil.Process:
    """The provider's process, which is the one child that is no hostile server's."""
    client.ready(30)
    (child,) = [child for child in psutil.Process().children() if "gepp_audit.provider" in " ".join(child.cmdline())]
    return child


def test_calls_in_flight_when_the_process_is_killed_come_back_as_crashed(make_own_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT), hold=threading.Event())) as server:
        client = make_own_client(server.url)
        for number in (1, 2):
            client.submit(call(number))
        server.wait_for_requests(2)
        process_of(client).kill()
        results = results_of(client, 2)
    assert {(code_of(result), result.sent) for result in results} == {((RETRY, ErrorCode.CRASHED), True)}


def test_the_next_call_after_the_process_was_killed_starts_another_one(make_own_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT))) as server:
        client = make_own_client(server.url)
        process_of(client).kill()
        assert client.wait(1) == []
        assert only_result(client, call()).text == TEXT


def test_a_process_that_is_frozen_past_every_timeout_is_replaced(
    make_own_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_client, "_OVERDUE_AFTER", 0.2)
    monkeypatch.setattr(openai_client, "_OVERDUE_GRACE", 0.2)
    with HostileServer(Reply(200, completion(TEXT))) as server:
        client = make_own_client(server.url, call_timeout=0.5)
        process_of(client).suspend()
        frozen = only_result(client, call(1))
        assert (code_of(frozen), frozen.sent) == ((RETRY, ErrorCode.TIMEOUT), True)
        assert only_result(client, call(2)).text == TEXT


def test_the_process_survives_the_signals_that_are_for_its_run(make_own_client: MakeClient) -> None:
    with HostileServer(Reply(200, completion(TEXT))) as server:
        client = make_own_client(server.url)
        process = process_of(client)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        assert (only_result(client, call()).text, process.is_running()) == (TEXT, True)


def test_the_process_ends_with_a_run_that_was_killed() -> None:
    script = (
        "import os; from gepp_audit.provider.openai_client import OpenAIClient\n"
        "client = OpenAIClient(api_key='k', base_url='http://127.0.0.1:9/v1'); client.ready(30)\n"
        "print(client._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    pid = int(done.stdout)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_neither_key_nor_database_stand_in_what_the_system_shows_of_the_process(
    make_own_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://gepp:{PASSWORD}@127.0.0.1/gepp")
    monkeypatch.setenv("GEPP_AUDIT_PING_URL", "https://hc.example/an-uuid")
    process = process_of(make_own_client(None))
    shown = repr(process.cmdline()) + repr(process.environ())
    assert (KEY in shown, PASSWORD in shown) == (False, False)
    assert [name for name in process.environ() if name.startswith("GEPP_AUDIT_")] == []


def test_a_process_that_dies_at_its_start_blocks_with_the_fix(
    make_own_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "openai.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.syspath_prepend(tmp_path)
    result = only_result(make_own_client(None), call())
    assert (code_of(result), result.sent) == ((BLOCK, ErrorCode.REQUEST_REJECTED), False)
    assert result.failure is not None
    assert "gepp_audit.provider" in result.failure.message
