"""The API's own description holds: thousands of requests made from it, with a token and without."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.platforms import Platform
from tests.support.processes import Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect
from tests.support.web import Served, serving, token

#: schemathesis' seed: a run that failed can be repeated
SEED = 20_260_101
#: requests per route in the phase that makes them up
EXAMPLES = {"with a token": 240, "without": 60}
LEAST = 2_000


def answered(server: Served) -> dict[int, int]:
    """Requests by status, as the server counted them."""
    found: dict[int, int] = {}
    for status, count in re.findall(
        r'^gepp_audit_http_requests_total\{.*status="(\d+)"\} (\d+)$', server.get("/metrics").text, re.MULTILINE
    ):
        found[int(status)] = found.get(int(status), 0) + int(count)
    return found


@pytest.mark.usefixtures("cold_starts")  # one server, at least, imports all that it needs itself
@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_two_thousand_requests_made_from_the_description_break_nothing(
    platform: Platform, programs: Programs, simulator: Simulator, tmp_path: Path
) -> None:
    connect(programs, platform, simulator)
    queue = SampleQueue(platform)
    queue.add([*CLEAN, BROKEN], status="null")
    queue.queue([*CLEAN, BROKEN])
    command: list[str | Path] = [Path(sys.executable).with_name("schemathesis"), "run", "--no-color", "--mode", "all"]
    command += ["--phases", "examples,coverage,fuzzing", "--seed", str(SEED), "--continue-on-failure", "--no-shrink"]
    command += ["--generation-database", "none"]
    with serving(programs) as server:
        for who, number in EXAMPLES.items():
            header = ["--header", f"Authorization: Bearer {token()}"] if who == "with a token" else []
            done = programs.start_command(
                [*command, *header, "--max-examples", str(number), f"{server.url}openapi.json"], cwd=tmp_path
            ).wait(400)
            assert done.exit_code == 0, (who, done.stdout[-6_000:], done.stderr[-2_000:])
        counted = answered(server)
    assert sum(counted.values()) >= LEAST, counted
    assert {200, 400, 401, 404, 405, 422} <= set(counted), counted
    assert not [status for status in counted if status >= 500 or status == 0], counted
