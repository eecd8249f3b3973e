"""docs/schemas: what each command prints with --json is what its schema says, no key more and none less."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gepp_audit.cli import COMMANDS
from gepp_audit.queue.diagnosis import Cause
from gepp_audit.queue.doctor import CHECKS
from gepp_audit.queue.summary import Outcome
from tests.support.crontab import new_spool
from tests.support.platforms import Platform
from tests.support.processes import ROOT, Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect
from tests.support.web import serving

SCHEMAS = ROOT / "docs" / "schemas"


@cache
def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def problems(name: str, value: Any) -> list[str]:
    """Where `value` is not what the schema says."""
    found: list[str] = []
    for error in Draft202012Validator(schema(name)).iter_errors(value):
        of_variants = sorted(error.context or (), key=lambda one: len(one.absolute_path))
        found += [f"{one.json_path}: {one.message[:300]}" for one in (error, *of_variants[-3:])]
    return found


def test_each_command_has_a_schema_and_each_schema_a_command() -> None:
    assert {path.stem for path in SCHEMAS.iterdir()} == {*COMMANDS, "error"}


@pytest.mark.parametrize("name", sorted({*COMMANDS, "error"}))
def test_each_schema_is_one_and_closed(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))

    def objects(node: Any) -> Any:
        if isinstance(node, dict):
            if "properties" in node:
                yield node
            for inner in node.values():
                yield from objects(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from objects(inner)

    assert all(one["additionalProperties"] is False for one in objects(schema(name)))


def test_the_closed_lists_are_those_of_the_program() -> None:
    stuck = schema("stuck")["oneOf"][0]["properties"]["stuck"]["items"]["properties"]
    assert set(stuck["cause"]["enum"]) == {cause.value for cause in Cause}
    doctor = schema("doctor")["properties"]["checks"]["items"]["properties"]
    assert doctor["name"]["enum"] == [check.name for check in CHECKS]
    outcomes = schema("process-queue")["oneOf"][0]["properties"]["outcome"]["enum"]
    assert set(outcomes) == {outcome.value for outcome in Outcome} - {"failed"}


class Recorder:
    """Runs commands with --json, and checks each answer."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        #: the variants of its schema that a command's answers were
        self.seen: dict[str, set[int]] = defaultdict(set)
        self.problems: list[str] = []

    def __call__(self, *args: str, error: bool = False, **environ: str) -> Any:
        """Run it; `error`: it is expected that it cannot."""
        done = self.programs.run(*args, "--json", environ=environ)
        return self.check("error" if error else args[0], args, done.json())

    def check(self, name: str, args: tuple[str, ...], value: Any) -> Any:
        """Compare an answer with the schema."""
        self.problems += [f"{' '.join(args)}: {one}" for one in problems(name, value)]
        variants = schema(name).get("oneOf", [schema(name)])
        self.seen[name] |= {number for number, one in enumerate(variants) if Draft202012Validator(one).is_valid(value)}
        return value


@pytest.fixture
def told(platform: Platform, programs: Programs, simulator: Simulator) -> Recorder:
    connect(programs, platform, simulator)
    return Recorder(programs)


@pytest.mark.parametrize("platform", ["postgresql-new", "sqlite"], indirect=True)
def test_what_commands_print_is_what_their_schemas_say(
    platform: Platform, simulator: Simulator, told: Recorder, tmp_path: Path
) -> None:
    queue = SampleQueue(platform)
    queue.add([*CLEAN, BROKEN], status="null")
    _queueing(told)
    _holding(told)
    # an answer that is none fails its transaction after three attempts
    simulator.scenario({"rules": [{"match": {"transaction_id": "3"}, "do": {"answer": ["all_pass", "missing_rule"]}}]})
    told("process-queue")
    simulator.scenario({"rules": []})
    _reading(told)
    told("retry", "--failed", "--yes", "--dry-run")
    told("retry", "--failed", "--yes")
    told("process-queue", OPENAI_API_KEY="sk-wrong")
    told("stuck", "--older-than", "0s")
    told("limits", "show")
    _mending(told, queue)
    _around(told, tmp_path)
    assert told.problems == []
    expected = {name: set(range(len(schema(name).get("oneOf", [0])))) for name in (*COMMANDS, "error")}
    assert {name: expected[name] - told.seen[name] for name in expected if expected[name] - told.seen[name]} == {}


def _queueing(told: Recorder) -> None:
    told("init-db")
    told("init-db", "--sql")
    told("enqueue", "--organization", "1", "--max-transactions", "1", "--dry-run")
    told("enqueue", "--organization", "1", "--batch-size", "2")
    told("enqueue", "--organization", "1")
    told("enqueue", "--organization", "999", error=True)


def _holding(told: Recorder) -> None:
    told("process-queue", "--dry-run")
    told("limits", "set", "--global", "--concurrency", "8")
    told("limits", "set", "--organization", "1", "--cost-per-day", "3.5", "--calls-per-minute", "900")
    told("limits", "show")
    told("limits", "clear", "--organization", "1")
    told("pause", "--organization", "1", "--reason", "ขยะ")
    told("stuck", "--older-than", "0s")
    told("resume", "--organization", "1")


def _reading(told: Recorder) -> None:
    told("process-queue")
    told("show")
    told("show", "1")
    told("show", "2", "--failed")
    told("show", "--transaction", "3", "--prompt")
    for by in ("day", "organization", "model"):
        told("usage", "--by", by)
    told("show", "99", error=True)


def _mending(told: Recorder, queue: SampleQueue) -> None:
    one, other = queue.queue([BROKEN]), queue.queue([*CLEAN])
    told("stuck", "--requeue", str(one), "--yes")
    told("stuck", "--fail", str(one), "--yes")
    told("stuck", str(one), str(other))
    told("cancel", str(other), "--yes")
    queue.add([BROKEN])
    told("stuck")
    told("retry", "--orphans", "--yes", "--dry-run")
    told("retry", "--orphans", "--yes")
    told("stuck", DATABASE_URL="sqlite:////no/such.db")


def _around(told: Recorder, tmp_path: Path) -> None:
    told("doctor")
    told("completion", "bash")
    told("man")
    told("init-db", DATABASE_URL=f"sqlite:///{tmp_path}/new.db")
    told("import", str(ROOT / "samples" / "sample.json"), DATABASE_URL=f"sqlite:///{tmp_path}/new.db")
    with serving(told.programs, "--dev", environ={}) as server:
        told.check("serve", ("serve",), json.loads(server.process.stdout))
    spool = new_spool(tmp_path)
    (spool.folder / ".env").write_text("# cron's settings\n", encoding="utf-8")
    for args in (("crontab",), ("crontab", "--install"), ("crontab", "--remove")):
        told.check("crontab", args, spool.run(*args, "--json").json())


def test_a_key_that_is_missing_or_new_is_a_problem() -> None:
    value = {"error": {"code": "x", "message": "y", "fix": "z"}}
    assert problems("error", value) == []
    assert problems("error", {"error": {"code": "x", "message": "y"}}) != []
    assert problems("error", {"error": {**value["error"], "more": 1}}) != []
