"""The look at a provider's models, against servers of every kind: it says what it saw and never raises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gepp_audit.model import ErrorCode
from gepp_audit.provider.probe import probe
from tests.support.hostile_server import HostileServer, Received, Reply
from tests.support.secrets import TEST_API_KEY

Answer = tuple[int, Any]
LIST: Answer = (200, {"object": "list", "data": [{"id": "m-1"}, {"id": "m-2"}]})


def answering(answers: Mapping[str, Answer]) -> Callable[[Received], Reply]:
    """These answers by path, else 404."""

    def reply(request: Received) -> Reply:
        status, body = answers.get(request.path, (404, {"error": {"message": "no such page"}}))
        return Reply(status, body, headers={"Location": "http://127.0.0.1:1/"} if 300 <= status < 400 else {})

    return reply


def looked(answers: Mapping[str, Answer], model: str = "m-1") -> Any:
    with HostileServer(reply=answering(answers)) as server:
        return probe(TEST_API_KEY, server.url, model, 10.0)


def test_a_model_in_the_list_is_there_and_one_request_is_made() -> None:
    with HostileServer(reply=answering({"/v1/models": LIST})) as server:
        found = probe(TEST_API_KEY, server.url, "m-2", 10.0)
    assert (found.accepted, found.has_model, found.failure) == (True, True, None)
    [request] = server.received
    assert (request.path, request.headers["authorization"]) == ("/v1/models", f"Bearer {TEST_API_KEY}")


def test_a_model_that_the_list_leaves_out_is_asked_for_by_name() -> None:
    found = looked({"/v1/models": LIST, "/v1/models/org%2Fm-9": (200, {"id": "org/m-9"})}, "org/m-9")
    assert (found.accepted, found.has_model) == (True, True)


def test_a_model_that_is_nowhere_is_not_there() -> None:
    missing = (404, {"error": {"code": "model_not_found", "message": "x"}})
    for answers in ({}, {"/v1/models/m-9": missing}):
        found = looked({"/v1/models": LIST, **answers}, "m-9")
        assert (found.accepted, found.has_model) == (True, False)


def test_a_server_with_an_empty_or_foreign_list_does_not_say() -> None:
    told: Any
    for told in ({"data": []}, {"models": ["m-1"]}, b"<html>welcome</html>", b"", [1], {"data": [{"id": 7}]}):
        found = looked({"/v1/models": (200, told), "/v1/models/m-1": (500, {})})
        assert (found.accepted, found.has_model, found.failure) == (True, None, None), told


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (
            401,
            {"error": {"code": "invalid_api_key", "message": f"Incorrect key: {TEST_API_KEY}"}},
            ErrorCode.KEY_REJECTED,
        ),
        (401, b"", ErrorCode.KEY_REJECTED),
        (429, {"error": {"code": "insufficient_quota"}}, ErrorCode.QUOTA_EXHAUSTED),
        (429, {"error": {"code": "rate_limit_exceeded"}}, ErrorCode.RATE_LIMITED),
        (503, b"down", ErrorCode.SERVER_ERROR),
    ],
)
def test_a_refusal_is_told_by_its_code_and_without_the_key(status: int, body: Any, code: ErrorCode) -> None:
    found = looked({"/v1/models": (status, body)})
    assert found.failure is not None
    assert (found.failure.code, TEST_API_KEY in found.failure.message) == (code, False)
    assert found.accepted is (False if code is ErrorCode.KEY_REJECTED else None)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_such_a_route_leaves_the_key_untried(status: int) -> None:
    found = looked({"/v1/models": (status, b"")})
    assert (found.accepted, found.failure) == (None, None)


def test_a_redirect_is_not_followed_with_the_key() -> None:
    found = looked({"/v1/models": (302, b"")})
    assert found.failure is not None
    assert found.accepted is None


def test_a_server_that_hangs_is_given_up_in_time() -> None:
    with HostileServer(Reply(200, LIST[1], hold=threading.Event())) as server:
        found = probe(TEST_API_KEY, server.url, "m-1", 0.3)
    assert found.failure is not None
    assert found.failure.code is ErrorCode.TIMEOUT


def test_credentials_in_the_address_take_the_place_of_the_key() -> None:
    with HostileServer(reply=answering({"/v1/models": LIST})) as server:
        found = probe(TEST_API_KEY, server.url.replace("//", "//me:pw@"), "m-1", 10.0)
    assert found.accepted is True
    assert server.received[0].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("reply", [Reply(hang_up=True), Reply(raw=b"no HTTP\r\n\r\n"), Reply(endless=10**9)])
def test_a_server_that_breaks_the_protocol_is_a_finding(reply: Reply) -> None:
    with HostileServer(reply) as server:
        found = probe(TEST_API_KEY, server.url, "m-1", 10.0)
    assert (found.accepted, found.failure is None) == (None, False)


def test_an_address_that_is_none_is_a_finding() -> None:
    assert probe(TEST_API_KEY, "ftp://x", "m-1", 1.0).failure is not None
