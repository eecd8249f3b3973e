"""`gepp-audit serve` as a real process, and requests to it over real HTTP, as the platform's frontend sends them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from tests.support.processes import NOTHING, Process, Programs
from tests.support.secrets import TEST_JWT_SECRET
from tests.support.waiting import wait_until

API: Final = "/api/transaction_audit"
#: what lets `serve` start
WITH_SECRET: Final = MappingProxyType({"GEPP_AUDIT_JWT_SECRET": TEST_JWT_SECRET})


def token(organization: Any = 1, *, secret: str = TEST_JWT_SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token as the platform signs it; `claims` replace or add to the usual ones, None leaves one out."""
    now = int(time.time())
    usual = {
        "user_id": 1, "organization_id": organization, "email": "a@example.com", "type": "auth",
        "iat": now, "exp": now + 3_600,
    }  # fmt: skip
    told = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode(told, secret, algorithm=algorithm)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: each `Set-Cookie` for itself
    set_cookies: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON, which it must say it is."""
        assert self.headers["content-type"] == "application/json", (self.status, self.headers, self.body[:500])
        return json.loads(self.body)


@dataclass(kw_only=True)
class Served:
    """A server that runs."""

    process: Process
    url: str
    #: sent with every request that names none
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.url).port or 0

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] = NOTHING,
        timeout: float = 60.0,
    ) -> Reply:
        """One request on a connection of its own."""
        sent = {**self.headers, **headers}
        if self.token is not None and "Authorization" not in sent:
            sent["Authorization"] = f"Bearer {self.token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            cookies = tuple(answer.headers.get_all("Set-Cookie") or ())
            return Reply(status=answer.status, headers=told, body=answer.read(), set_cookies=cookies)
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Reply:
        """GET it."""
        return self.request("GET", path, **more)

    def post(self, path: str, value: Any = None, *, headers: Mapping[str, str] = NOTHING, **more: Any) -> Reply:
        """POST a value as JSON; None: no body."""
        body = None if value is None else json.dumps(value).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        return self.request("POST", path, body, headers={**kind, **headers}, **more)


@contextmanager
def serving(
    programs: Programs, *options: str, token: str | None = None, environ: Mapping[str, str] = WITH_SECRET, **more: str
) -> Iterator[Served]:
    """`gepp-audit serve` on a free port for the time of the `with` block; ended by SIGTERM."""
    process = programs.start("serve", "--port", "0", "--json", *options, environ={**environ, **more})

    def told() -> str:
        line, end, _ = process.stdout.partition("\n")
        if not end and not process.running:
            raise AssertionError(f"the server did not start:\n{process.stderr[-4000:]}")
        return line if end else ""

    first = wait_until(told, 30, what="the server's address on its stdout")
    try:
        yield Served(process=process, url=json.loads(first)["url"], token=token)
    finally:
        if process.running:
            process.terminate()
            process.wait(40)
