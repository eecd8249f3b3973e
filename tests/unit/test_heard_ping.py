"""The pings for a dead man's switch: what arrives, and what is said of those that do not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gepp_audit.heard import ping
from gepp_audit.heard.ping import Moment, Pinger, address
from tests.support.ping_service import PingService, running_ping_service

PATH = "/ping/token-of-the-check"


@pytest.fixture
def service() -> Iterator[PingService]:
    with running_ping_service() as service:
        yield service


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings give up soon."""
    monkeypatch.setattr(ping, "TIMEOUT", 0.3)


def test_a_run_says_that_it_starts_and_how_it_ended_with_the_summary_as_body(service: PingService) -> None:
    pinger = Pinger(service.url)
    pinger.start()
    assert pinger.end(Moment.SUCCESS, "31 approved · ขยะ") is None
    assert [(one.method, one.path, one.body) for one in service.pings] == [
        ("POST", f"{PATH}/start", ""),
        ("POST", PATH, "31 approved · ขยะ"),
    ]


def test_a_failure_says_so_behind_the_path(service: PingService) -> None:
    assert Pinger(service.url).end(Moment.FAIL, "why") is None
    assert service.paths == [f"{PATH}/fail"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://hc-ping.com/uuid", "https://hc-ping.com/uuid/fail"),
        ("https://hc-ping.com/uuid/", "https://hc-ping.com/uuid/fail"),
        ("https://hc-ping.com/key/slug?create=1#x", "https://hc-ping.com/key/slug/fail?create=1"),
        ("https://hc.example:8443", "https://hc.example:8443/fail"),
    ],
)
def test_the_word_stands_behind_the_path_and_before_the_query(url: str, expected: str) -> None:
    assert address(url, Moment.FAIL) == expected


def test_the_success_is_the_address_itself() -> None:
    assert address("https://hc-ping.com/uuid?rid=1", Moment.SUCCESS) == "https://hc-ping.com/uuid?rid=1"


def test_a_user_and_password_of_the_address_are_sent_as_such(service: PingService) -> None:
    assert Pinger(service.url.replace("//", "//us%40er:p%3Aw@")).end(Moment.SUCCESS, "") is None
    assert service.pings[0].authorization == "Basic dXNAZXI6cDp3"


def test_a_long_body_is_cut_to_what_the_service_keeps(service: PingService) -> None:
    assert Pinger(service.url).end(Moment.SUCCESS, "x" * 100_000) is None
    assert len(service.pings[0].body) == 10_000


@pytest.mark.parametrize("status", [404, 429, 500])
def test_an_answer_that_is_no_success_is_told_by_its_status(service: PingService, status: int) -> None:
    service.status = status
    assert Pinger(service.url).end(Moment.SUCCESS, "") == f"it answered with status {status}"


def test_a_service_that_is_not_there_is_told(unused_port: int) -> None:
    assert Pinger(f"http://127.0.0.1:{unused_port}/x").end(Moment.SUCCESS, "") == "Connection refused"


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


@pytest.mark.usefixtures("hurried")
def test_a_service_that_does_not_answer_is_not_waited_for(service: PingService) -> None:
    service.answers.clear()
    assert Pinger(service.url).end(Moment.SUCCESS, "") == "no answer within 0.3 s"


@pytest.mark.usefixtures("hurried")
def test_a_service_that_drips_is_not_waited_for_either() -> None:
    # each byte comes in time for the timeout of a read, the whole answer never does
    enough = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionError):
                while not enough.wait(0.02):
                    connection.sendall(b"H")

        pool.submit(drip)
        told = Pinger(f"http://127.0.0.1:{server.getsockname()[1]}/x").end(Moment.SUCCESS, "")
        enough.set()
    assert told == "no answer within 0.3 s"


def test_the_start_that_did_not_arrive_is_told_at_the_end(service: PingService) -> None:
    service.status = 500
    pinger = Pinger(service.url)
    pinger.start()
    assert pinger._start is not None
    pinger._start.problem(time.monotonic() + 5)
    service.status = 200
    assert pinger.end(Moment.SUCCESS, "") == "it answered with status 500"


def test_an_address_that_python_cannot_use_is_a_problem_in_words_of_ours() -> None:
    assert Pinger("http://[::1").end(Moment.SUCCESS, "") == "ValueError"
    assert "secret" not in str(Pinger("http://127.0.0.1:99999/secret").end(Moment.SUCCESS, ""))
