"""The Systems Manager's parameters and the Secrets Manager over real HTTP, as boto3 asks for them.

Both speak JSON, with the operation in `X-Amz-Target`; only reading is here. Which parameter or secret an answer is for
stands in `entries`; one that is missing is refused as AWS does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Stores:
    """Running stores."""

    url: str = ""
    #: by name or ARN
    entries: dict[str, str] = field(default_factory=dict)
    #: names that the function's role may not read
    forbidden: set[str] = field(default_factory=set)
    #: the names that were asked for, in the order of the questions
    asked: list[str] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """What sends boto3 here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example-key",
        }

    def answer(self, operation: str, asked: dict[str, str]) -> tuple[int, dict[str, object]]:
        """The status and body of the answer."""
        service, _, verb = operation.partition(".")
        name = asked["Name" if service == "AmazonSSM" else "SecretId"]
        self.asked.append(name)
        if name in self.forbidden:
            return 400, {"__type": "AccessDeniedException", "message": f"not authorized on {name}"}
        if (service, verb) == ("AmazonSSM", "GetParameter") and name in self.entries:
            return 200, {"Parameter": {"Name": name, "Type": "SecureString", "Value": self.entries[name]}}
        if (service, verb) == ("secretsmanager", "GetSecretValue") and name in self.entries:
            return 200, {"ARN": name, "Name": name, "SecretString": self.entries[name]}
        return 400, {"__type": "ParameterNotFound" if service == "AmazonSSM" else "ResourceNotFoundException"}


@contextmanager
def running_stores() -> Iterator[Stores]:
    """Stores on 127.0.0.1 for the time of the `with` block."""
    stores = Stores()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, told = stores.answer(self.headers["X-Amz-Target"], asked)
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test run's stderr is not for this."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stores.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield stores
    finally:
        server.shutdown()
        server.server_close()
