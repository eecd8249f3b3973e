"""Who is let in and what is refused at the door: tokens, bodies, foreign pages, and a server that cannot work."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gepp_audit.errors import OperatorError
from gepp_audit.settings import load
from gepp_audit.web.server import serve
from tests.conftest import new_platform
from tests.support.outputs import output_folder
from tests.support.processes import ROOT, Programs
from tests.support.secrets import TEST_JWT_SECRET
from tests.support.waiting import wait_until
from tests.support.web import API, WITH_SECRET, Served, serving, token

HISTORY = f"{API}/audit_history"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with new_platform("sqlite", request, tmp_path_factory.mktemp("doors")) as platform:
        platform.organization()
        platform.transactions(1, 3, status="null")
        yield platform.url


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with (
        Programs(home=tmp_path_factory.mktemp("home"), environ={"DATABASE_URL": url}) as programs,
        serving(programs, token=token()) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def dev_server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with (
        Programs(home=tmp_path_factory.mktemp("home"), environ={"DATABASE_URL": url}) as programs,
        serving(programs, "--dev", environ={}) as server,
    ):
        yield server


# -- tokens ------------------------------------------------------------------------------------------------------------


def unsigned(**claims: Any) -> str:
    """A token that says it needs no signature (RFC 7519, section 6)."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    told = {"user_id": 1, "organization_id": 1, "type": "auth", "exp": int(time.time()) + 600, **claims}
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(told)}."


def changed(bearer: str) -> str:
    """The same signature under other claims."""
    head, _, signature = bearer.split(".")
    return f"{head}.{token(2).split('.')[1]}.{signature}"


NOW = int(time.time())
REFUSED = {
    "another secret": token(secret="x" * 40),
    "another algorithm": token(algorithm="HS512"),
    "no algorithm": unsigned(),
    "other claims": changed(token()),
    "expired": token(exp=NOW - 1),
    "no expiry": token(exp=None),
    "an expiry in words": unsigned(exp="tomorrow"),
    "not valid yet": token(nbf=NOW + 3_600),
    "no organization": token(None),
    "an organization in words": token("1"),
    "an organization that is true": token(True),
    "an organization below all": token(0),
    "no user": token(user_id=None),
    "a user in words": token(user_id="1"),
    "no token at all": "",
    "half of one": token()[:40],
    "for somebody else": token(aud="another service"),
    "a novel": "x" * 9_000,
}


@pytest.mark.parametrize("bearer", REFUSED.values(), ids=REFUSED)
def test_a_token_that_is_not_ours_lets_nobody_in(server: Served, bearer: str) -> None:
    reply = server.get(HISTORY, headers={"Authorization": f"Bearer {bearer}"})
    told = reply.json()
    assert (reply.status, told["success"], told["code"]) == (401, False, "not_signed_in")
    assert reply.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("kind", ["refresh", "device", "integration", "", 1])
def test_a_token_of_another_kind_is_not_for_these_routes(server: Served, kind: Any) -> None:
    reply = server.get(HISTORY, headers={"Authorization": f"Bearer {token(type=kind)}"})
    assert (reply.status, reply.json()["code"]) == (403, "wrong_token")


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", f"Token {token()}", token()])
def test_a_header_that_is_none_of_a_token_lets_nobody_in(server: Served, header: str) -> None:
    assert server.get(HISTORY, headers={"Authorization": header}).status == 401


@pytest.mark.parametrize("place", [f"?token={token()}", f"?authorization=Bearer%20{token()}"])
def test_a_token_in_the_address_or_in_a_cookie_is_not_looked_at(server: Served, place: str) -> None:
    cookie = {"Authorization": "", "Cookie": f"session={token()}; Authorization=Bearer {token()}"}
    assert server.get(f"{HISTORY}{place}", headers=cookie).status == 401


def test_every_route_of_the_api_asks_for_a_token_before_it_reads_the_body(server: Served) -> None:
    described = server.get("/openapi.json").json()["paths"]
    routes = [(path, method) for path, methods in described.items() for method in methods if path.startswith("/api/")]
    assert len(routes) == 5
    for path, method in routes:
        reply = server.request(
            method.upper(), path.replace("{batch_id}", "1"), b"{nonsense", headers={**JSON, "Authorization": ""}
        )
        assert (path, reply.status) == (path, 401)


# -- bodies ------------------------------------------------------------------------------------------------------------


BROKEN = {
    "no JSON": b"{nonsense",
    "half of it": b'{"transaction_ids": [1',
    "no UTF-8": b'{"transaction_ids": "\xff\xfe"}',
    "deeper than anybody reads": b"[" * 200_000,
    "a number without an end": b'{"transaction_ids": [' + b"9" * 6_000 + b"]}",
    "a zero byte": b'{"transaction_ids": [1]}\x00',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_body_that_cannot_be_read_is_refused_in_the_same_envelope(server: Served, body: bytes) -> None:
    reply = server.request("POST", f"{API}/add_ai_audit_queue", body, headers=JSON)
    told = reply.json()
    assert (reply.status, told["success"], told["code"]) == (400, False, "bad_request")
    assert told.keys() == {"success", "message", "code"}


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "text/html"])
def test_what_a_foreign_form_can_send_is_no_json(server: Served, kind: str) -> None:
    reply = server.request("POST", f"{API}/add_ai_audit_queue", b"{}", headers={"Content-Type": kind})
    assert reply.status == 422
    assert server.get(HISTORY).json()["meta"]["total"] == 0


def spoken(server: Served, text: bytes, more: Iterator[bytes] | None = None) -> bytes:
    """What comes back on a connection on which just this was said, and `more` as long as it is taken."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(text)
        try:
            for piece in more or ():
                connection.sendall(piece)
        except OSError:  # it has heard enough
            pass
        found = b""
        try:
            while piece := connection.recv(65_536):
                found += piece
        except OSError:
            pass
        return found


def head(server: Served, *lines: str) -> bytes:
    told = [
        f"POST {API}/add_ai_audit_queue HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {server.token}",
        "Content-Type: application/json", *lines,
    ]  # fmt: skip
    return "\r\n".join([*told, "", ""]).encode()


def test_a_body_that_says_it_is_too_large_is_not_read(server: Served) -> None:
    assert spoken(server, head(server, "Content-Length: 100000000")).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_say_how_large_it_is_is_read_up_to_the_limit(server: Served) -> None:
    pieces = (b"10000\r\n" + b" " * 65_536 + b"\r\n" for _ in range(400))
    answer = spoken(server, head(server, "Transfer-Encoding: chunked"), pieces)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_large"


def test_a_large_list_of_ids_fits(server: Served) -> None:
    reply = server.post(f"{API}/add_ai_audit_queue", {"transaction_ids": list(range(10, 40_000))})
    assert (reply.status, reply.json()["code"]) == (409, "not_queueable")
    assert len(reply.body) < 4_000


# -- answers -----------------------------------------------------------------------------------------------------------


def test_what_does_not_exist_is_told_in_the_same_envelope(server: Served) -> None:
    nothing = server.get("/api/nothing")
    assert (nothing.status, nothing.json()["code"]) == (404, "not_found")
    wrong = server.request("DELETE", HISTORY)
    assert (wrong.status, wrong.json()["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "GET")


@pytest.mark.parametrize("path", ["/history/", f"{HISTORY}/", "//evil.example/"])
def test_nobody_is_led_to_the_host_that_a_request_names(server: Served, path: str) -> None:
    reply = server.get(path, headers={"Host": "evil.example"})
    assert (reply.status, reply.headers.get("location")) == (404, None)


def test_no_answer_says_what_serves_it_and_each_has_its_number(server: Served) -> None:
    replies = [server.get(HISTORY), server.get("/api/nothing"), server.get("/healthz")]
    assert len({reply.headers["x-request-id"] for reply in replies}) == 3
    for reply in replies:
        assert "server" not in reply.headers
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-frame-options"] == "DENY"


def test_the_log_tells_each_request_and_no_token(server: Served) -> None:
    number = server.get(HISTORY).headers["x-request-id"]

    def logs() -> list[str]:
        return [path.read_text(encoding="utf-8") for path in output_folder().glob("gepp-audit*") if path.is_file()]

    def lines() -> list[str]:
        return [line for text in logs() for line in text.splitlines() if number in line]

    [line] = map(json.loads, wait_until(lines, what="the line of the request"))
    told = {name: line[name] for name in ("event", "method", "path", "status", "organization_id", "user_id")}
    assert told == {
        "event": "request", "method": "GET", "path": HISTORY, "status": 200, "organization_id": 1, "user_id": 1,
    }  # fmt: skip
    assert not [text for text in logs() if "eyJ" in text]


# -- without tokens ----------------------------------------------------------------------------------------------------


def test_in_development_everybody_on_this_machine_acts_for_the_first_organization(dev_server: Served) -> None:
    assert dev_server.get(HISTORY).json()["success"] is True
    told = dev_server.post(f"{API}/add_ai_audit_queue", {}).json()["data"]
    assert (told["organization_id"], told["queued_count"]) == (1, 3)
    reply = dev_server.post(f"{API}/cancel_audit_batch", {"batch_id": told["audit_history_id"]})
    assert reply.json()["data"]["reverted_count"] == 3


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "", "::"])
def test_in_development_a_foreign_name_that_leads_here_is_refused(dev_server: Served, host: str) -> None:
    answer = spoken(dev_server, f"GET {HISTORY} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "127.9.9.9"])
def test_in_development_this_machine_s_own_names_are_not(dev_server: Served, host: str) -> None:
    answer = spoken(dev_server, f"GET {HISTORY} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
     {"Origin": "https://127.0.0.1.evil.example"}, {"Origin": "http://["}],
    ids=str,
)  # fmt: skip
def test_in_development_a_foreign_page_can_start_nothing(dev_server: Served, headers: dict[str, str]) -> None:
    reply = dev_server.post(f"{API}/process_queue", headers=headers)
    assert (reply.status, reply.json()["code"]) == (403, "foreign_page")
    assert dev_server.get("/healthz", headers=headers).status == 200


def refusal(url: str, *, host: str = "127.0.0.1", dev: bool = False, secret: str = TEST_JWT_SECRET) -> OperatorError:
    """Why `serve` does not begin, in this process; it would serve for ever if it did."""

    def too_late(_: str) -> None:
        raise AssertionError("it serves")

    settings = load({}, {"DATABASE_URL": url, "GEPP_AUDIT_JWT_SECRET": secret}, Path("/nowhere"))
    with pytest.raises(OperatorError) as refused:
        serve(settings, host=host, port=0, dev=dev, ready=too_late)
    return refused.value


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.255.255.1", "192.0.2.1", "0", "::ffff:10.0.0.1"])
def test_in_development_no_other_address_is_listened_at(url: str, host: str) -> None:
    refused = refusal(url, host=host, dev=True)
    assert (refused.code, refused.exit_code) == ("dev_address", 2)
    assert "--dev asks for no token" in refused.message


# -- a server that cannot work -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["", "kurz-3f", "x" * 31, "ก" * 10])
def test_it_does_not_start_without_a_secret_that_cannot_be_guessed(url: str, secret: str) -> None:
    refused = refusal(url, secret=secret)
    assert (refused.code, refused.exit_code) == ("jwt_secret", 1)
    assert not secret or secret not in f"{refused.message} {refused.fix}"


def test_what_keeps_it_from_starting_is_told_as_any_error(programs: Programs, url: str) -> None:
    done = programs.run("serve", "--port", "0", "--json", DATABASE_URL=url, GEPP_AUDIT_JWT_SECRET="kurz-3f")
    assert (done.exit_code, done.json()["error"]["code"]) == (1, "jwt_secret")
    assert "kurz-3f" not in done.stdout + done.stderr


def test_it_says_so_where_somebody_else_listens_already(programs: Programs, url: str, server: Served) -> None:
    done = programs.run("serve", "--port", str(server.port), environ={**WITH_SECRET, "DATABASE_URL": url})
    assert done.exit_code == 1
    assert "Address already in use" in done.stderr
    assert "--port" in done.stderr


def test_it_says_so_where_the_address_is_none(url: str) -> None:
    refused = refusal(url, host="no such host")
    assert (refused.code, refused.exit_code) == ("server_address", 2)
    assert "there is no address 'no such host'" in refused.message


@pytest.mark.parametrize("missing", ["fastapi"])
def test_without_its_extra_it_says_how_to_install_it(programs: Programs, tmp_path: Path, missing: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
    done = programs.run(
        "serve", environ={**WITH_SECRET, "DATABASE_URL": "sqlite:///x.db", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"there is no {missing}" in done.stderr
    assert "pip install 'gepp-audit[web]'" in done.stderr


def seconds_of(server: Served, path: str) -> float:
    """How long the answer takes that the database is out of reach."""
    began = time.monotonic()
    assert server.get(path).status == 503
    return time.monotonic() - began


def test_it_starts_before_its_database_and_works_once_that_is_there(
    programs: Programs, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    down = f"postgresql://gepp:{'secret-of-nobody'}@127.0.0.1:{port}/gepp"
    with serving(programs, token=token(), DATABASE_URL=down) as server:
        assert server.get("/healthz").status == 200
        for path in ("/readyz", HISTORY):
            reply = server.get(path)
            assert (reply.status, reply.json()["code"], reply.headers["retry-after"]) == (
                503, "database_unreachable", "30",
            )  # fmt: skip
            assert "postgresql" not in reply.text
            assert str(port) not in reply.text
        assert "gepp_audit_stuck_status 3" in server.get("/metrics").text
        with ThreadPoolExecutor(8) as pool:  # each waits for the database as long as one alone would
            together = list(pool.map(lambda page: seconds_of(server, f"{HISTORY}?page={page}"), range(1, 9)))
        assert max(together) < 2 * min(together) + 2, together
    with new_platform("sqlite", request, tmp_path) as platform:
        platform.execute("ALTER TABLE gepp_audit_alembic_version RENAME TO hidden")
        with serving(programs, token=token(), DATABASE_URL=platform.url) as server:
            assert server.get("/readyz").json()["code"] == "schema_older"
            assert server.get(HISTORY).status == 503
            platform.execute("ALTER TABLE hidden RENAME TO gepp_audit_alembic_version")
            assert server.get("/readyz").status == 200
            assert server.get(HISTORY).status == 200


def test_the_secret_stands_in_no_help_and_no_setting_that_is_shown(programs: Programs, url: str) -> None:
    done = programs.run("doctor", "--json", environ={**WITH_SECRET, "DATABASE_URL": url})
    assert TEST_JWT_SECRET not in done.stdout + done.stderr
