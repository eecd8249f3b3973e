"""AWS Lambda for tests: the Runtime API as functions see it, and real runtime clients that ask it for work.

The client is the one that runs in Lambda (`awslambdaric`); what is ours is the HTTP side of the service: an invocation
waits at `…/invocation/next`, and its end arrives at `…/response` or `…/error`
(https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html). A sandbox is a folder for /tmp, and one client at a
time.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, Final

from tests.support.processes import Process, Programs

FUNCTION: Final = "audit-queue"
ARN: Final = f"arn:aws:lambda:eu-central-1:123456789012:function:{FUNCTION}"
HANDLER: Final = "gepp_audit.aws_lambda.handler"
#: what a schedule of EventBridge sends
EVENT: Final[Mapping[str, Any]] = {
    "version": "0",
    "source": "aws.events",
    "detail-type": "Scheduled Event",
    "detail": {},
}
#: as of the template
TIMEOUT: Final = 120.0
_API: Final = "/2018-06-01/runtime"


@dataclass(kw_only=True)
class Invocation:
    """One invocation, and what became of it."""

    id: str
    #: seconds that the function has from the moment in which its client takes the invocation
    timeout: float
    #: when (monotonic) Lambda would end it
    deadline: float = 0.0
    #: how much of that was left when it ended
    left: float = 0.0
    result: Any = None
    #: what the client reported of an exception: errorMessage, errorType, stackTrace
    error: dict[str, Any] | None = None
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def ended(self) -> bool:
        """It returned or raised."""
        return self._over.is_set()

    def end(self, *, result: Any = None, error: dict[str, Any] | None = None) -> None:
        """It returned, or raised."""
        self.result, self.error, self.left = result, error, self.deadline - time.monotonic()
        self._over.set()

    def wait(self, timeout: float = 60.0) -> Invocation:
        """Wait for its end."""
        assert self._over.wait(timeout), f"the invocation did not end within {timeout:g} s"
        return self

    def returned(self) -> dict[str, Any]:
        """What it returned, once it has."""
        self.wait()
        assert self.error is None, self.error
        told: dict[str, Any] = self.result
        return told

    def raised(self) -> str:
        """The words of the error that it ended with, once it has."""
        self.wait()
        assert self.error is not None, self.result
        return str(self.error["errorMessage"])


class Sandbox:
    """One execution environment: its Runtime API, its /tmp, and the process in it."""

    def __init__(self, programs: Programs, folder: Path, environ: Mapping[str, str]) -> None:
        self._programs = programs
        self._environ = {**environ, "TMPDIR": str(folder)}
        self._waiting: queue.Queue[Invocation] = queue.Queue()
        self._by_id: dict[str, Invocation] = {}
        self._ids = count(1)
        self._folder = folder
        folder.mkdir()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.process: Process = self.start()

    def start(self, *command: str | Path, **environ: str) -> Process:
        """Start the runtime client, as at the first invocation and after one that Lambda had to end."""
        self.process = self._programs.start_command(
            command or (sys.executable, "-m", "awslambdaric", HANDLER),
            environ={
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_address[1]}",
                "AWS_LAMBDA_FUNCTION_NAME": FUNCTION,
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
                "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{FUNCTION}",
                "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
                "AWS_REGION": "eu-central-1",
                "AWS_DEFAULT_REGION": "eu-central-1",
                "LAMBDA_TASK_ROOT": str(self._folder),
                # stderr alone, where the function's log is
                "GEPP_AUDIT_LOG_FILE": "",
                **self._environ,
                **environ,
            },
            cwd=self._folder,
        )
        return self.process

    def invoke(self, timeout: float = TIMEOUT) -> Invocation:
        """Let the client have one invocation with so many seconds, and return at once."""
        invocation = Invocation(id=f"request-{next(self._ids)}", timeout=timeout)
        self._by_id[invocation.id] = invocation
        self._waiting.put(invocation)
        return invocation

    def next(self) -> Invocation:
        """The next one; blocks until there is one."""
        invocation = self._waiting.get()
        invocation.deadline = time.monotonic() + invocation.timeout
        return invocation

    def ended(self, id_: str, kind: str, body: Any) -> None:
        """What the client posted."""
        self._by_id[id_].end(**({"result": body} if kind == "response" else {"error": body}))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name in the function's log, as of the process that runs now."""
        lines = [json.loads(line) for line in self.process.stderr.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def close(self) -> None:
        """Take the sandbox away, and with it whatever runs in it."""
        if self.process.running:
            self.process.kill()
        self._server.shutdown()
        self._server.server_close()


def _handler(sandbox: Sandbox) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            assert self.path == f"{_API}/invocation/next", self.path
            invocation = sandbox.next()
            self._answer(
                200,
                json.dumps(EVENT),
                {
                    "Lambda-Runtime-Aws-Request-Id": invocation.id,
                    "Lambda-Runtime-Deadline-Ms": str(int((time.time() + invocation.timeout) * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": ARN,
                    "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700",
                },
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "null")
            *_, id_, kind = self.path.split("/")
            self._answer(202, '{"status": "OK"}', {})
            if id_ != "init":
                sandbox.ended(id_, kind, body)

        def _answer(self, status: int, body: str, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test run's stderr is not for this."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the client was ended while it waited
                return

    return Handler


@dataclass
class Lambda:
    """The service: makes sandboxes of one function."""

    programs: Programs
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    _sandboxes: list[Sandbox] = field(default_factory=list)

    def sandbox(self) -> Sandbox:
        """A new sandbox with its client; in name, environment and host it is like every other one."""
        made = Sandbox(self.programs, self.folder / f"sandbox-{len(self._sandboxes) + 1}", self.environ)
        self._sandboxes.append(made)
        return made


@contextmanager
def running_lambda(programs: Programs, folder: Path) -> Iterator[Lambda]:
    """The service for the time of the `with` block."""
    service = Lambda(programs, folder)
    try:
        yield service
    finally:
        for sandbox in service._sandboxes:
            sandbox.close()
