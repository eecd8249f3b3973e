"""The simulator as a process, asked through the OpenAI SDK: wire, key, clock, control routes, its end."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai.types.chat import ChatCompletion

from tests.support.processes import ROOT, Process, Programs, Simulator, running_simulator
from tests.support.secrets import TEST_API_KEY
from tests.support.waiting import wait_until

PROGRAM = [sys.executable, str(ROOT / "scripts" / "simulator")]
RULES = ("DC-01", "DC-02", "XX-99")


def transaction(id_: str = "7", **changes: Any) -> dict[str, Any]:
    """A transaction whose only record weighs 5 kg, recorded as 50."""
    record = {
        "record_id": 71,
        "material": "PET",
        "origin_quantity": "5",
        "origin_weight_kg": "5",
        "origin_price_per_unit": "9.5",
        "total_amount": "47.5",
    }
    return {"transaction_id": id_, "weight_kg": "50", "total_amount": "47.5", "records": [record]} | changes


def question(sent: dict[str, Any], prefix: str = "x" * 8000) -> dict[str, Any]:
    """The arguments of `chat.completions.create`."""
    rules = {rule: {"type": "string", "enum": ["pass", "fail", "cannot_tell"]} for rule in RULES}
    outcomes = {"type": "object", "properties": rules, "required": list(RULES), "additionalProperties": False}
    schema = {
        "type": "object",
        "properties": {"rules": outcomes},
        "required": ["rules"],
        "additionalProperties": False,
    }
    line = json.dumps(sent, ensure_ascii=False)
    return {
        "model": "gpt-6-luna",
        "messages": [
            {"role": "developer", "content": prefix},
            {"role": "user", "content": f"Data:\n<<<TRANSACTION m1>>>\n{line}\n<<<END m1>>>\nJudge it."},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}},
        "max_completion_tokens": 4000,
        "safety_identifier": "organization-hash",
    }


def sdk(simulator: Simulator, key: str = TEST_API_KEY) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{simulator.url}/v1", max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def server() -> Iterator[Simulator]:
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(server: Simulator) -> Simulator:
    """The one of this module, as freshly started."""
    server.reset()
    return server


@pytest.fixture
def client(simulator: Simulator) -> Iterator[openai.OpenAI]:
    with sdk(simulator) as client:
        yield client


def ask(client: openai.OpenAI, sent: dict[str, Any] | None = None, **changes: Any) -> ChatCompletion:
    completion: ChatCompletion = client.chat.completions.create(**(question(sent or transaction()) | changes))
    return completion


def outcomes(completion: ChatCompletion) -> Any:
    return json.loads(completion.choices[0].message.content or "")["rules"]


# -- the wire --------------------------------------------------------------------------------------------------------


def test_an_answer_judges_the_transaction_that_was_sent(client: openai.OpenAI) -> None:
    told = json.loads(ask(client).choices[0].message.content or "")
    assert told["transaction_id"] == "7"
    assert told["rules"] == {"DC-01": "fail", "DC-02": "pass", "XX-99": "cannot_tell"}
    assert told["findings"][0]["evidence"] == [
        {"record_id": None, "field": "weight_kg", "value": "50"},
        {"record_id": 71, "field": "origin_weight_kg", "value": "5"},
    ]


def test_a_completion_is_what_the_sdk_declares(client: openai.OpenAI) -> None:
    told = ask(client)
    assert ChatCompletion.model_validate(told.model_dump(), strict=True) == told
    assert (told.object, told.model, told.choices[0].finish_reason) == ("chat.completion", "simulator-1", "stop")
    assert told.model_extra == {}


def test_tokens_add_up_and_the_prefix_is_cached_the_second_time(client: openai.OpenAI) -> None:
    first, second = ask(client).usage, ask(client).usage
    assert first is not None
    assert second is not None
    assert first.prompt_tokens_details is not None
    assert second.prompt_tokens_details is not None
    assert first.total_tokens == first.prompt_tokens + first.completion_tokens
    assert (first.prompt_tokens_details.cached_tokens, second.prompt_tokens_details.cached_tokens) == (0, 2048)
    assert (first.prompt_tokens_details.cache_write_tokens, second.prompt_tokens_details.cache_write_tokens) == (
        2048,
        0,
    )
    assert second.completion_tokens_details is not None
    assert 0 < (second.completion_tokens_details.reasoning_tokens or 0) < second.completion_tokens


def test_the_cap_cuts_an_answer(client: openai.OpenAI) -> None:
    told = ask(client, max_completion_tokens=100)
    assert (told.choices[0].finish_reason, told.usage and told.usage.completion_tokens) == ("length", 100)


def test_headers_tell_the_request_and_the_limits(client: openai.OpenAI, simulator: Simulator) -> None:
    raw = client.chat.completions.with_raw_response.create(**question(transaction()))
    assert raw.headers["x-request-id"] == simulator.calls()[0]["request_id"]
    assert raw.headers["x-ratelimit-limit-requests"] == "30000"
    assert raw.headers["x-ratelimit-remaining-requests"] == "29999"
    assert {"x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "date"} <= set(
        raw.headers
    )


def test_the_one_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["simulator-1"]
    assert client.models.retrieve("simulator-1").owned_by == "gepp-audit"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-6-luna")
    assert caught.value.code == "model_not_found"


def test_a_question_without_a_transaction_gets_a_plain_sentence(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
    assert (told.choices[0].message.content or "")[:34] == "This is the simulator of gepp-audit"[:34]


def test_a_request_that_openai_refuses_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body={"tempurature": 1})
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "tempurature")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405)]
)
def test_other_routes_are_refused(simulator: Simulator, method: str, path: str, status: int) -> None:
    assert http(simulator, method, path) == status


def http(simulator: Simulator, method: str, path: str, body: Any = None, key: str = TEST_API_KEY) -> int:
    """The status of one request."""
    request = urllib.request.Request(
        simulator.url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


# -- the key ---------------------------------------------------------------------------------------------------------


def test_another_key_is_rejected(simulator: Simulator) -> None:
    with sdk(simulator, key="sk-wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        ask(client)
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    assert http(simulator, "GET", "/v1/models", key="sk-wrong") == 401


def test_the_log_has_a_line_for_each_call_and_never_the_key(client: openai.OpenAI, simulator: Simulator) -> None:
    before = len(simulator.log_file.read_text().splitlines())
    ask(client)
    lines = simulator.log_file.read_text().splitlines()
    told = json.loads(lines[-1])
    assert (len(lines) - before, TEST_API_KEY in "".join(lines)) == (1, False)
    assert told["auth"] == hashlib.sha256(TEST_API_KEY.encode()).hexdigest()[:16]
    assert [told[name] for name in ("transaction_id", "status", "ending", "model", "safety_identifier", "attempt")] == [
        "7",
        200,
        "answered",
        "gpt-6-luna",
        "organization-hash",
        1,
    ]
    assert told["received"] <= told["answered"]


# -- the clock -------------------------------------------------------------------------------------------------------


def test_an_answer_takes_its_latency() -> None:
    with running_simulator("--access-latency", "50", latency_ms=100) as simulator, sdk(simulator) as client:
        for _ in range(2):
            ask(client)
        first, second = (call["answered"] - call["received"] for call in simulator.calls())
    assert (first >= 0.149, second >= 0.099, second < first) == (True, True, True)


def processing_ms(seed: str) -> list[str]:
    with running_simulator("--jitter", "20", "--seed", seed, latency_ms=20) as simulator, sdk(simulator) as client:
        return [
            client.chat.completions.with_raw_response.create(**question(transaction(str(id_)))).headers[
                "openai-processing-ms"
            ]
            for id_ in range(6)
        ]


def test_the_seed_decides_the_jitter() -> None:
    first, again, other = processing_ms("5"), processing_ms("5"), processing_ms("6")
    assert (first == again, first == other, len(set(first)) > 1) == (True, False, True)
    assert all(0 <= int(milliseconds) <= 40 for milliseconds in first)


def test_a_limit_of_the_minute_throttles() -> None:
    with running_simulator("--requests-per-minute", "2") as simulator, sdk(simulator) as client:
        for _ in range(2):
            ask(client)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
    headers = caught.value.response.headers
    assert (caught.value.code, headers["x-ratelimit-remaining-requests"]) == ("rate_limit_exceeded", "0")
    assert 0 < int(headers["retry-after-ms"]) <= 60_000
    assert 0 < int(headers["retry-after"]) <= 60


# -- control ---------------------------------------------------------------------------------------------------------


def test_a_scenario_can_be_set_while_it_runs(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario({"rules": [{"do": "server_error", "times": 1}]})
    with pytest.raises(openai.InternalServerError):
        ask(client)
    assert outcomes(ask(client))["DC-01"] == "fail"


def test_a_wrong_scenario_is_refused_and_the_old_one_stays(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.scenario([{"do": "server_error"}])
    assert http(simulator, "POST", "/control/scenario", [{"do": "no such"}]) == 400
    with pytest.raises(openai.InternalServerError):
        ask(client)


def test_calls_are_listed_in_the_order_of_their_arrival(client: openai.OpenAI, simulator: Simulator) -> None:
    for id_ in ("7", "8", "7"):
        ask(client, transaction(id_))
    assert [(call["transaction_id"], call["attempt"]) for call in simulator.calls()] == [("7", 1), ("8", 1), ("7", 2)]


def test_a_reset_forgets_calls_scenario_and_cache(client: openai.OpenAI, simulator: Simulator) -> None:
    ask(client)
    simulator.scenario([{"do": "server_error"}])
    simulator.reset()
    assert simulator.calls() == []
    assert [ask(client).model, simulator.calls()[0]["cached_tokens"]] == ["simulator-1", 0]


# -- connections -----------------------------------------------------------------------------------------------------


def exchange(simulator: Simulator, *pieces: bytes) -> bytes:
    """What comes back on one connection until the server closes it."""
    host, port = simulator.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TEST_API_KEY}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def test_requests_that_come_at_once_are_answered_in_order(simulator: Simulator) -> None:
    told = exchange(simulator, get("/v1/models") + get("/control/summary") + get("/v1/nothing", "Connection: close"))
    assert [part[:3] for part in told.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]
    assert told.index(b'"simulator-1"') < told.index(b'"pending"') < told.index(b"unknown_url")


def test_a_request_may_come_in_pieces(simulator: Simulator) -> None:
    whole = get("/v1/models", "Connection: close")
    assert b"simulator-1" in exchange(simulator, *(whole[at : at + 7] for at in range(0, len(whole), 7)))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000, b"431"),
    ],
)
def test_what_cannot_be_read_is_refused_and_ends_the_connection(
    simulator: Simulator, raw: bytes, status: bytes
) -> None:
    assert exchange(simulator, raw)[9:12] == status


# -- its start and its end -------------------------------------------------------------------------------------------


def started(programs: Programs, *options: str) -> Process:
    process = programs.start_command([*PROGRAM, *options])
    wait_until(lambda: "\n" in process.stdout or not process.running, what="the simulator's start")
    return process


def test_sigterm_ends_it_cleanly(programs: Programs) -> None:
    process = started(programs)
    process.terminate()
    assert (process.wait().exit_code, process.stderr) == (0, "")


def test_it_ends_by_itself(programs: Programs) -> None:
    assert started(programs, "--max-seconds", "0.2").wait().exit_code == 0


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    start = f'"{PROGRAM[0]}" "{PROGRAM[1]}" --exit-with-parent --max-seconds 60 > url 2> errors & echo $!'
    script = f"{start}; while [ ! -s url ]; do sleep 0.05; done"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)

    def gone() -> bool:
        try:
            return psutil.Process(int(done.stdout)).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(gone, what="the end of the simulator")
    assert (tmp_path / "errors").read_text() == ""


def test_a_pending_call_is_logged_when_it_ends(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "scenario.json").write_text('[{"do": "hang"}]')
    options = ("--scenario", str(tmp_path / "scenario.json"), "--log", str(tmp_path / "log"))
    process = started(programs, *options)
    host, port = process.stdout.strip().removeprefix("http://").split(":")
    body = json.dumps(question(transaction())).encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        url = f"http://{host}:{port}/control/summary"
        wait_until(lambda: json.load(urllib.request.urlopen(url))["pending"] == 1, what="the call")
        process.terminate()
        process.wait()
    told = json.loads((tmp_path / "log").read_text())
    assert (told["transaction_id"], told["answered"]) == ("7", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scenario", "missing.json"], "cannot read missing.json"),
        (["--scenario", "text.json"], "text.json is not JSON"),
        (["--scenario", "wrong.json"], "wrong.json: rules[0].do is no preset"),
        (["--log", "no/such/folder/log"], "cannot write no/such/folder/log"),
        (["--latency", "-1"], "--latency"),
        (["--requests-per-minute", "0"], "--requests-per-minute"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_wrong_usage_is_told(programs: Programs, tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "text.json").write_text("rules")
    (tmp_path / "wrong.json").write_text('[{"do": "no such"}]')
    done = programs.start_command([*PROGRAM, *options]).wait()
    assert (done.exit_code, done.stdout, message in done.stderr) == (2, "", True)
