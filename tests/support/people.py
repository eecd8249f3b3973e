"""What a platform's users do while the queue works: its own SQL through the driver alone, in its own order of locks.

Each action is one transaction of the platform's, and keeps in `Told` what must be true in the end because of it.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import psycopg2
from sqlalchemy.engine import make_url

from tests.support.evidence import Told
from tests.support.queues import CLEAN, SampleQueue, expectations

#: a weight that breaks a rejecting rule, whatever the records say
_EDITED_KG: Final = 999
_PATIENCE: Final = 60.0
_LOST: Final = (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.errors.DeadlockDetected)


class People:
    """The users of one platform, and what they told. `seed` decides everything they do."""

    def __init__(self, queue: SampleQueue, seed: int, *, url: str | None = None) -> None:
        self.told = Told()
        self._queue = queue
        self._random = random.Random(seed)
        self._url = url or queue.platform.url
        self._is_postgresql = queue.platform.is_postgresql
        self._is_new = queue.platform.is_new
        self.done: dict[str, int] = {}
        #: called while an action has to wait: what holds the database may have to be thawed
        self.meanwhile: Callable[[], object] = lambda: None
        self._editable = {CLEAN[0], CLEAN[1]}
        self._original: dict[int, int] = {}

    # -- the platform's connection ---------------------------------------------------------------------------------

    def act(self, work: Callable[[Any], Any]) -> Any:
        """One transaction; again where the database went away meanwhile."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._once(work)
            except (*_LOST, sqlite3.OperationalError):
                if time.monotonic() > deadline:
                    raise
                self.meanwhile()
                time.sleep(0.1)

    def _once(self, work: Callable[[Any], Any]) -> Any:
        connection: Any
        if self._is_postgresql:
            connection = psycopg2.connect(self._url, connect_timeout=10)
        else:
            connection = sqlite3.connect(make_url(self._url).database or "", timeout=0.5, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
        try:
            cursor = connection.cursor()
            result = work(cursor)
            connection.commit()
            return result
        finally:
            connection.close()

    def run(self, cursor: Any, statement: str, *values: Any) -> Any:
        """Execute with `%s` places, lists among them, on either database; returns the cursor."""
        if not self._is_postgresql:
            statement = statement.replace("= ANY(%s)", "IN (SELECT value FROM json_each(%s))").replace("%s", "?")
            values = tuple(json.dumps(value) if isinstance(value, list) else value for value in values)
        cursor.execute(statement, values)
        return cursor

    def _moment(self) -> Any:
        now = datetime.now(UTC)
        return now if self._is_postgresql else now.strftime("%Y-%m-%d %H:%M:%S.%f")

    def _batches(self, cursor: Any, statuses: Sequence[str]) -> list[tuple[int, list[int]]]:
        found = self.run(
            cursor,
            "SELECT id, transactions FROM transaction_audit_history WHERE status = ANY(%s) AND deleted_date IS NULL",
            list(statuses),
        ).fetchall()
        return [(id_, json.loads(ids) if isinstance(ids, str) else ids) for id_, ids in found]

    def _count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    # -- what they do ----------------------------------------------------------------------------------------------

    def bring(self, originals: Sequence[int]) -> list[int]:
        """New transactions, copies of the sample's, not yet queued."""
        ids = self._queue.add(originals, status="null")
        self._original |= dict(zip(ids, originals, strict=True))
        self.told.expected |= {id_: self._queue.expected[id_].status for id_ in ids}
        return ids

    def enqueue(self, ids: Sequence[int] | None = None, *, size: int = 200) -> int:
        """ "Start AI Audit": those of `ids` (None: all) that are `null`, one batch per organization and `size`."""
        free = "ai_audit_status = 'null' AND deleted_date IS NULL" + (" AND NOT is_user_audit" if self._is_new else "")

        def work(cursor: Any) -> int:
            query = f"SELECT id, organization_id FROM transactions WHERE {free}"
            found = self.run(cursor, query if ids is None else f"{query} AND id = ANY(%s)",
                              *(() if ids is None else (list(ids),))).fetchall()  # fmt: skip
            by_organization: dict[int, list[int]] = {}
            for id_, organization in found:
                if id_ not in self.told.decided:
                    by_organization.setdefault(organization, []).append(id_)
            made = 0
            for organization, theirs in by_organization.items():
                for start in range(0, len(theirs), size):
                    self._insert(cursor, organization, theirs[start : start + size], len(theirs[start : start + size]))
                    made += 1
            return made

        made: int = self.act(work)
        return made

    def _insert(self, cursor: Any, organization: int, ids: list[int], total: int) -> None:
        self.run(cursor, "UPDATE transactions SET ai_audit_status = 'queued' WHERE id = ANY(%s)", ids)
        self.run(
            cursor,
            "INSERT INTO transaction_audit_history (organization_id, transactions, total_transactions, status, "
            "started_at, created_date) VALUES (%s, %s, %s, 'in_progress', %s, %s)",
            organization, ids, total, self._moment(), self._moment(),
        )  # fmt: skip

    def double_click(self) -> None:
        """The same ids once more, in a batch with a total of 0."""

        def work(cursor: Any) -> None:
            found = self._batches(cursor, ["in_progress"])
            if not found:
                return
            id_, ids = self._random.choice(found)
            [organization] = self.run(
                cursor, "SELECT organization_id FROM transaction_audit_history WHERE id = %s", id_
            ).fetchone()
            self.run(
                cursor,
                "INSERT INTO transaction_audit_history (organization_id, transactions, total_transactions, status, "
                "started_at, created_date) VALUES (%s, %s, 0, 'in_progress', %s, %s)",
                organization, ids, self._moment(), self._moment(),
            )  # fmt: skip
            self._count("queued twice")

        self.act(work)

    def cancel(self) -> None:
        """A batch at work: its transactions first, then the batch."""

        def work(cursor: Any) -> None:
            found = self._batches(cursor, ["in_progress"])
            if not found:
                return
            id_, ids = self._random.choice(found)
            self.run(
                cursor,
                "UPDATE transactions SET ai_audit_status = 'null' WHERE ai_audit_status = 'queued' AND id = ANY(%s)",
                ids,
            )
            time.sleep(self._random.uniform(0, 0.05))
            self.run(
                cursor,
                "UPDATE transaction_audit_history SET status = 'cancelled', deleted_date = %s "
                "WHERE id = %s AND status = 'in_progress'",
                self._moment(), id_,
            )  # fmt: skip
            self._count("cancelled")

        self.act(work)

    def undo(self) -> None:
        """A batch, ended or not: the batch first, then its transactions."""

        def work(cursor: Any) -> None:
            found = self._batches(cursor, ["in_progress", "completed"])
            if not found:
                return
            id_, ids = self._random.choice(found)
            theirs = [one for one in ids if one not in self.told.decided]
            self.run(cursor, "UPDATE transaction_audit_history SET status = 'undone' WHERE id = %s", id_)
            time.sleep(self._random.uniform(0, 0.05))
            self.run(
                cursor,
                "UPDATE transactions SET ai_audit_status = 'null', ai_audit_note = NULL WHERE id = ANY(%s)",
                theirs,
            )
            self._count("undone")

        self.act(work)

    def delete(self) -> None:
        """One transaction."""
        id_ = self._any()
        self.act(
            lambda cursor: self.run(
                cursor, "UPDATE transactions SET deleted_date = %s WHERE id = %s", self._moment(), id_
            )
        )
        self.told.touched.add(id_)
        self.told.expected.pop(id_, None)
        self._count("deleted")

    def edit(self) -> None:
        """The weight of a transaction that waits or is being asked: from then on it must be rejected."""
        clean = [id_ for id_, original in self._original.items()
                 if original in self._editable and self.told.expected.get(id_) == "approved"]  # fmt: skip
        if not clean:
            return
        some = self._random.sample(clean, min(20, len(clean)))

        def work(cursor: Any) -> int | None:
            found = self.run(
                cursor, "SELECT id FROM transactions WHERE ai_audit_status = 'queued' AND id = ANY(%s)", some
            ).fetchall()
            if not found:
                return None
            id_: int = self._random.choice(sorted(found))[0]
            edited = self.run(
                cursor,
                "UPDATE transactions SET weight_kg = %s WHERE ai_audit_status = 'queued' AND id = %s",
                _EDITED_KG if self._is_postgresql else str(_EDITED_KG), id_,
            )  # fmt: skip
            return id_ if edited.rowcount == 1 else None

        changed = self.act(work)
        if changed is not None:
            self.told.expected[changed] = "rejected"
            self._count("edited")

    def decide(self) -> None:
        """A person approves a transaction by hand, whatever an audit says or will say."""
        id_ = self._any()
        flag = ", is_user_audit = true" if self._is_new else ""
        self.act(
            lambda cursor: self.run(
                cursor,
                f"UPDATE transactions SET ai_audit_status = 'approved', status = 'approved'{flag} WHERE id = %s",
                id_,
            )
        )
        self.told.decided[id_] = {"ai_audit_status": "approved", "status": "approved"}
        self.told.touched.add(id_)
        self.told.expected.pop(id_, None)
        self._count("decided by hand")

    def _any(self) -> int:
        return self._random.choice(sorted(self.told.expected))

    def do_something(self) -> None:
        """One action by chance."""
        actions: tuple[tuple[Callable[[], None], int], ...] = (
            (self.edit, 6), (self.decide, 2), (self.delete, 2), (self.double_click, 2), (self.cancel, 1),
            (self.undo, 1),
        )  # fmt: skip
        [action] = self._random.choices([one for one, _ in actions], [weight for _, weight in actions])
        action()

    def clean_ids(self) -> list[int]:
        """Copies that keep every rule."""
        approved = {id_ for id_, one in expectations().items() if one.status == "approved"}
        return [id_ for id_, original in self._original.items() if original in approved]
