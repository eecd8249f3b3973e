"""Random situations of one batch, written into the tables as they would stand there, with the cause that holds it.

A situation is drawn from a seed: how far the batch is, who works, and what stands in the way, several things at once.
What must be named follows from the drawn ingredients alone, in the order in which they outrank each other; nothing of
the diagnosis takes part in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from sqlalchemy import Connection, text

from gepp_audit.model import RunIdentity
from gepp_audit.queue import liveness
from tests.support.platforms import Platform

HOST: Final = "worker-1"
BATCH: Final = 1000
#: an older one of another organization, on which runs may work
ANOTHER: Final = 900
ORGANIZATION: Final = 7
_VERDICT: Final = json.dumps({"status": "approved", "rules": {}, "findings": [], "rejected_by": [], "warned_by": []})
_MOMENTS: Final = (
    "blocked_at", "blocked_until", "blocked_reason", "blocked_detail", "throttled_until", "paused_at", "paused_reason",
    "pace_until",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is drawn; each ingredient is in the way only where it can be (see `expected`)."""

    seed: int
    #: `unseen`, `waiting`, `failing`, `moving`, `under_way`, `audited`
    shape: str
    #: `cron`, `working`, `silent`, `never`, `dying`, `elsewhere`, `no_key`, `one_without_key`
    runs: str
    #: a run that is gone has calls of the batch under way: `gone`, `finished`, `another_host`
    dead: str | None
    blocked: str | None
    #: `all`, `own`
    paused: str | None
    #: a limit that is used up, `all_`: everybody's
    limit: str | None
    throttled: bool
    #: `settled`, `at_work`
    rival: str | None
    #: what is audited was found locked when it was to be written back
    locked: bool

    @classmethod
    def drawn(cls, seed: int) -> Situation:
        """The situation of this seed."""
        random = Random(seed)

        def sometimes(part: float, *values: Any) -> Any:
            return random.choice(values) if random.random() < part else None

        shapes = ("unseen", "waiting", "failing", "moving", "under_way", "audited", "waiting")
        shape = random.choice(shapes)
        workers = ("cron", "working", "cron", "working", "silent", "never", "dying", "elsewhere", "no_key",
                   "one_without_key")  # fmt: skip
        runs = "working" if shape == "under_way" else random.choice(workers)
        seen = shape not in ("unseen", "audited", "under_way")
        return cls(
            seed=seed,
            shape=shape,
            runs=runs,
            dead=sometimes(0.25, "gone", "finished", "another_host") if seen and runs != "never" else None,
            blocked=sometimes(0.15, "key_rejected", "quota_exhausted", "model_unavailable", "request_rejected"),
            paused=sometimes(0.15, "all", "own"),
            limit=sometimes(0.35, "calls_per_minute", "concurrency", "all_calls_per_minute", "cost_per_day"),
            throttled=random.random() < 0.12,
            rival=sometimes(0.15, "settled", "at_work") if shape not in ("unseen", "audited") else None,
            locked=shape == "audited" and random.random() < 0.6,
        )

    @property
    def expected(self) -> tuple[str, str | None]:
        """The cause, and its reason where it has one that is drawn."""
        left = self.shape != "audited"
        silent = self.runs in ("silent", "never")
        if self.rival == "settled":
            return "rival", "settled"
        if self.runs == "no_key":
            return "blocked", "key_rejected"
        if self.blocked and left:
            return "blocked", self.blocked
        if self.paused and left:
            return "paused", None
        if self.dead and self.shape != "under_way":
            return "run_died", None
        if self.runs == "dying" and left:  # what is audited was settled after the last death
            return "run_died", None
        if silent:
            return "no_run", None
        if self.runs == "elsewhere":
            return "no_run", "organization"
        if self.locked:
            return "platform_lock", None
        if self.rival == "at_work":
            return "rival", "at_work"
        if self.limit and self.shape in ("waiting", "moving"):
            return "limited", self.limit.removeprefix("all_")
        if left and (self.throttled or self.shape == "failing"):
            return "retrying", "server_error" if self.shape == "failing" else "rate_limited"
        return "slow", None


# -- writing it --------------------------------------------------------------------------------------------------------


def arrange(platform: Platform, situation: Situation) -> None:
    """Write the situation, in the place of whatever stood there."""
    platform.database.write(lambda connection: _Arranging(connection, situation).write())


class _Arranging:
    """One situation being written, at one moment."""

    def __init__(self, connection: Connection, situation: Situation) -> None:
        self.connection = connection
        self.situation = situation
        self.random = Random(situation.seed + 1)
        self.now = datetime.now(UTC)
        self.here = liveness.identify(HOST)
        self.postgresql = connection.dialect.name == "postgresql"
        self.calls = 0

    def ago(self, **span: float) -> datetime:
        return self.now - timedelta(**span)

    def execute(self, statement: str, **values: Any) -> None:
        self.connection.execute(text(statement), {name: self._plain(value) for name, value in values.items()})

    def insert(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            places = ", ".join(f":{name}" for name in row)
            self.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", **row)

    def _plain(self, value: Any) -> Any:
        if self.postgresql or not isinstance(value, datetime):
            return value
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")

    def write(self) -> None:
        self._clear()
        situation = self.situation
        started = self.ago(seconds=30) if situation.shape == "unseen" else self.ago(hours=3)
        history = "completed" if situation.rival == "settled" else "in_progress"
        self._history(BATCH, started, history)
        if situation.shape != "unseen":
            self._ours(BATCH, ORGANIZATION, started)
            self._items()
        self._runs()
        self._gates()

    def _clear(self) -> None:
        for table in ("items", "batches", "calls", "runs"):
            self.execute(f"DELETE FROM gepp_audit_{table}")
        self.execute("DELETE FROM gepp_audit_limits WHERE scope <> 'global'")
        nothing = ", ".join(f"{name} = NULL" for name in (*_MOMENTS, "calls_per_minute", "concurrency", "cost_per_day"))
        self.execute(f"UPDATE gepp_audit_limits SET {nothing}")
        self.execute("DELETE FROM transaction_audit_history")

    def _history(self, id_: int, started: datetime, status: str) -> None:
        ids = [1, 2, 3] if self.postgresql else "[1, 2, 3]"
        row = {"id": id_, "organization_id": 1, "transactions": ids, "status": status, "started_at": started}
        self.insert("transaction_audit_history", [row | {"organization_id": ORGANIZATION}])

    def _ours(self, id_: int, organization: int, started: datetime) -> None:
        row = {"audit_history_id": id_, "organization_id": organization, "started_at": started}
        self.insert("gepp_audit_batches", [row | {"discovered_at": started, "fanned_out_at": started}])

    # -- items ---------------------------------------------------------------------------------------------------------

    def _items(self) -> None:
        shape, number = self.situation.shape, self.random.randint(2, 5)
        if shape == "audited":
            self._settled(number)
            return
        if shape == "moving":
            self._item("done", settled_at=self.ago(minutes=4), published_at=self.ago(minutes=4), verdict=_VERDICT)
        for _ in range(number):
            if shape == "failing":
                self._item(
                    "ready", available_at=self.ago(minutes=-2), waits=2, first_failed_at=self.ago(minutes=20),
                    error_code="server_error", error="The provider answered with status 503",
                )  # fmt: skip
            elif shape == "under_way":
                self._calling("run-alive", self.ago(seconds=-60))
            else:
                self._item("ready")
        dead = self.situation.dead
        if dead:
            self._calling(f"run-{dead}", self.ago(seconds=30) if dead == "another_host" else self.ago(seconds=-30))
        if self.situation.rival == "at_work":
            self._item("skipped", skip_reason="not_queued", settled_at=self.ago(minutes=2), call_id=self._call("run-x"))

    def _settled(self, number: int) -> None:
        """Audited a moment ago; what was found locked is tried again a second later."""
        at = self.ago(seconds=20)
        for place in range(number):
            held = self.situation.locked and place == 0
            later = at + timedelta(seconds=1) if held else at
            self._item("done", settled_at=at, available_at=later, verdict=_VERDICT)

    def _item(self, state: str, **more: Any) -> None:
        self.number = getattr(self, "number", 0) + 1
        row = {
            "audit_history_id": BATCH, "transaction_id": self.number, "organization_id": ORGANIZATION, "state": state,
            "available_at": self.ago(hours=2),
        }  # fmt: skip
        self.insert("gepp_audit_items", [row | more])

    def _calling(self, run_id: str, until: datetime) -> None:
        self._item("calling", call_id=self._call(run_id), lease_until=until)

    def _call(self, run_id: str, at: datetime | None = None, **more: Any) -> int:
        self.calls += 1
        row = {
            "id": self.calls, "run_id": run_id, "audit_history_id": BATCH, "transaction_id": 1, "engine": "openai",
            "organization_id": ORGANIZATION, "model": "m-1", "prompt_version": "1",
            "dispatched_at": at or self.ago(minutes=2),
        }  # fmt: skip
        self.insert("gepp_audit_calls", [row | more])
        return self.calls

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _runs(self) -> None:
        kind = self.situation.runs
        if kind == "never":
            return
        late = timedelta(hours=1) if kind == "silent" else timedelta()
        if kind in ("working", "one_without_key"):
            self._run("run-alive", self.ago(minutes=3), self.ago(seconds=4))
        elif kind == "dying":
            for minutes in (1, 2):
                self._run(f"run-d{minutes}", self.ago(minutes=minutes, seconds=30), self.ago(minutes=minutes), "died")
        elif kind != "no_key":
            organizations = {"organizations": [98, 99]} if kind == "elsewhere" else {}
            for minutes in (1, 2, 3):
                at = self.ago(minutes=minutes) - late
                counts = {"calls": 4, **organizations}
                self._run(f"run-c{minutes}", at - timedelta(seconds=20), at, "processed", counts)
        if kind in ("no_key", "one_without_key"):
            error = {"code": "no_api_key", "message": "OPENAI_API_KEY is not set.", "fix": "Set OPENAI_API_KEY."}
            host = HOST if kind == "no_key" else "worker-9"
            self._run("run-r", self.ago(seconds=9), self.ago(seconds=9), "refused", {"error": error}, host=host)
        self._dead_run(late)

    def _dead_run(self, late: timedelta) -> None:
        dead = self.situation.dead
        at = self.ago(minutes=4) - late
        if dead == "gone":
            self._run("run-gone", at, at, gone=True)
        elif dead == "finished":
            self._run("run-finished", at, at, "processed", {"calls": 3})
        elif dead == "another_host":
            self._run("run-another_host", at, at, host="worker-2")

    def _run(
        self,
        id_: str,
        began: datetime,
        reported: datetime,
        outcome: str | None = None,
        counts: Mapping[str, Any] | None = None,
        *,
        host: str = HOST,
        gone: bool = False,
    ) -> None:
        here: RunIdentity = self.here
        row = {
            "id": id_, "host": host, "boot_id": here.boot_id if host == HOST else "another",
            "pid_namespace": here.pid_namespace, "pid": here.pid,
            "pid_started_at": here.pid_started_at + (1.0 if gone else 0.0), "version": "1", "started_at": began,
            "reported_at": reported, "finished_at": reported if outcome else None, "outcome": outcome,
            "counts": json.dumps(counts or {}),
        }  # fmt: skip
        self.insert("gepp_audit_runs", [row])

    # -- gates ---------------------------------------------------------------------------------------------------------

    def _gates(self) -> None:
        situation = self.situation
        if situation.blocked:
            self._global(blocked_reason=situation.blocked, blocked_at=self.ago(minutes=9), blocked_detail="status 401")
        if situation.throttled:
            self._global(throttled_until=self.ago(minutes=-3))
        own: dict[str, Any] = {}
        if situation.paused == "all":
            self._global(paused_at=self.ago(minutes=5))
        elif situation.paused:
            own["paused_at"] = self.ago(minutes=5)
        limit = situation.limit or ""
        if limit.endswith("calls_per_minute"):
            for _ in range(2):
                self._call("run-x", self.ago(seconds=5), outcome="verdict" if situation.shape == "moving" else "retry")
        if limit.startswith("all_"):
            self._global(calls_per_minute=2)
        elif limit:
            own[limit] = {"cost_per_day": "0.01", "calls_per_minute": 2, "concurrency": 0}[limit]
        if own:
            self.insert("gepp_audit_limits", [{"scope": f"organization:{ORGANIZATION}"} | own])

    def _global(self, **values: Any) -> None:
        self.execute(
            f"UPDATE gepp_audit_limits SET {', '.join(f'{name} = :{name}' for name in values)} WHERE scope = 'global'",
            **values,
        )
