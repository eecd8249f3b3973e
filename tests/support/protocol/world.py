"""Everybody who acts on the database of the model: runs, an operator, the platform's people, and time.

Each act is one or several committed transactions. After each of the queue's the laws are judged; those of people are
written by plain SQL, and the laws say what the queue may make of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from gepp_audit.database.engine import Database
from gepp_audit.database.platform import detect
from tests.support.platforms import Platform
from tests.support.protocol import runs
from tests.support.protocol.laws import Step
from tests.support.protocol.observation import Content, Observer, Snapshot, untouched
from tests.support.protocol.reference import Reference, require
from tests.support.protocol.runs import Answer, Run
from tests.support.protocol.stepping import Program, SteppedDatabase

#: organization → how many transactions it has; the audits of the first decide a transaction's own status
ORGANIZATIONS: Final = {1: 5, 2: 3}
DECIDING: Final = frozenset({1})
#: an id that no transaction has
NOBODY: Final = 999
_ROUNDS: Final = 40
_OPERATOR: Final = "operator"

Work = Callable[[SteppedDatabase], Any]


class World:
    """A platform with a few transactions, and what happens to it."""

    def __init__(self, platform: Platform) -> None:
        """Prepare what all examples share: organizations and a rule."""
        self.platform = platform
        for organization in ORGANIZATIONS:
            platform.organization(allow_ai_audit=organization in DECIDING)
        platform.rule()
        self.found = platform.database.read(detect)
        self.observer = Observer(platform)
        #: in how many examples each thing was seen to happen
        self.seen: Counter[str] = Counter()
        self.begin()

    @property
    def database(self) -> Database:
        """The product's door."""
        return self.platform.database

    def begin(self) -> None:
        """Forget the last example: fresh transactions that nobody audited, no run."""
        self.observer.clear()
        created = [self.platform.transactions(id_, count, status="null") for id_, count in ORGANIZATIONS.items()]
        self.ids = [id_ for part in created for id_ in part]
        self.reference = Reference()
        self.runs: list[Run] = []
        self.programs: dict[str, Program] = {}
        self.started = 0
        self.passed = 0.0
        #: what each batch listed, whether or not a run saw it before it was gone
        self.queued: dict[int, list[int]] = {}
        #: no law was broken so far
        self.sound = True
        self.now: Snapshot = self.observer.snapshot()

    def close(self) -> None:
        """End what is suspended, and the test's own connection."""
        self.stop_all()
        self.observer.close()

    def stop_all(self) -> None:
        """Kill every program that stands between two transactions."""
        for program in self.programs.values():
            program.kill()
        self.programs.clear()

    # -- the queue -----------------------------------------------------------------------------------------------------

    def act(self, actor: str, kind: str, work: Work, most: int | None = None) -> Any:
        """Let `actor` begin something, after what it had begun; `most`: transactions, then it is suspended."""
        self.go_on(actor)
        self.programs[actor] = program = Program(kind, self.database, work)
        self.go_on(actor, most)
        return program.result

    def go_on(self, actor: str, most: int | None = None) -> None:
        """Let a suspended actor do up to `most` transactions more."""
        program = self.programs.get(actor)
        while program is not None and not program.done and (most is None or most > 0):
            if program.advance():
                self._judge(program.kind)
            self._hear()
            most = None if most is None else most - 1
        if program is not None and program.done:
            del self.programs[actor]

    def _hear(self) -> None:
        for run in self.runs:
            for call_id, shown in run.asked.items():
                self.reference.shown[call_id] = shown.content

    def _judge(self, kind: str) -> None:
        self.sound = False
        before = self.now
        self._look()
        for run in self.runs:
            for turn in run.turns:
                self.reference.take(turn)
            run.turns.clear()
        Step(
            kind=kind,
            before=before,
            after=self.now,
            reference=self.reference,
            held=self.observer.holds,
            deciding=DECIDING,
        ).judge()
        self.sound = True

    def start(self, host: str) -> Run | None:
        """A process starts on `host`; None: another run of the host is at work, and it leaves."""
        self.started += 1
        run = Run(identity=runs.identity(self.started, host))
        busy = self.act(run.id, "begin", lambda database: runs.begin(database, run, self.reference.dead))
        if busy is not None:
            alive = {one.id for one in self.runs}
            require(busy in alive, "2: only a living run keeps another one away", busy=busy, alive=alive)
            return None
        self.runs.append(run)
        return run

    def take_up(self, run: Run, most: int | None = None) -> None:
        """Discover, fan out, reconcile."""
        self.act(run.id, "take_up", lambda database: runs.take_up(database, self.found, run.id), most)

    def turn(
        self,
        run: Run,
        answers: Sequence[Answer],
        slots: int,
        *,
        newest_first: bool = False,
        lost_reply: bool = False,
        most: int | None = None,
    ) -> None:
        """Settle these answers to calls of the run, claim up to `slots`, and ask what was claimed."""
        self.go_on(run.id)
        ids = list(reversed(run.asked) if newest_first else run.asked)
        settlements, run.unasked = run.unasked, []
        for id_, answer in zip(ids, answers, strict=False):
            settlements.append(runs.settlement(self.database, run.asked.pop(id_), answer))
        self.act(
            run.id,
            "turn",
            lambda database: runs.turn(
                database,
                self.found,
                run,
                settlements,
                slots,
                self._content,
                lambda: self.passed,
                lost_reply=lost_reply,
            ),
            most,
        )

    def _content(self, id_: int) -> Content | None:
        return self.now.content(id_)

    def publish(self, run: Run, most: int | None = None) -> None:
        """Write back what is settled."""
        self.act(run.id, "publish", lambda database: runs.publish(database, self.found, run.id), most)

    def end_batches(self, run: Run, most: int | None = None) -> None:
        """Close what is finished."""
        self.act(run.id, "close", lambda database: runs.close(database, self.found, run.id), most)

    def leave(self, run: Run) -> None:
        """The run is told to stop, and does."""
        self.act(run.id, "leave", lambda database: runs.leave(database, self.found, run))
        self.runs.remove(run)

    def crash(self, run: Run) -> None:
        """The run's process is gone, with all that it knew."""
        program = self.programs.pop(run.id, None)
        if program is not None:
            program.kill()
        self.runs.remove(run)
        self.reference.dead.add(run.id)

    # -- the operator --------------------------------------------------------------------------------------------------

    def enqueue(self, organization: int, ids: Sequence[int], *, force: bool = False) -> None:
        """Queue these by our own command."""
        self.act(
            _OPERATOR,
            "enqueue",
            lambda database: runs.enqueue(database, self.found, organization, ids, force=force),
        )

    def requeue(self, batches: Sequence[int]) -> None:
        """`stuck --requeue`."""
        self.act(_OPERATOR, "requeue", lambda database: runs.requeue(database, batches))

    def give_up(self, batch: int, most: int | None = None) -> None:
        """`stuck --fail`."""
        self.act(_OPERATOR, "give_up", lambda database: runs.give_up(database, self.found, batch), most)

    # -- people and time -----------------------------------------------------------------------------------------------

    def people(self, *statements: str) -> None:
        """One transaction of the platform's own."""
        self.observer.transaction(*statements)
        self._look()

    def let_pass(self, seconds: float) -> None:
        """Time goes on for everybody."""
        self.observer.let_pass(seconds)
        self.reference.let_pass(seconds)
        self.passed += seconds
        self._look()

    def _look(self) -> None:
        self.now = self.observer.snapshot()
        self.queued |= {batch: self.now.listed(batch) for batch in self.now.history}

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Everybody is gone; one undisturbed run does what is left, and nothing stays open or queued."""
        self.seen.update(self.reference.seen)
        self.stop_all()
        self.observer.let_go()
        for one in list(self.runs):
            self.crash(one)
        self.let_pass(3_600)
        run = self.start("last")
        assert run is not None
        for _ in range(_ROUNDS):
            self.take_up(run)
            self.turn(run, [Answer.APPROVED] * len(run.asked), 8)
            self.publish(run)
            self.end_batches(run)
            if not run.asked and not run.unasked and self._all_ended():
                break
            self.let_pass(2.0)
        self._nothing_is_left()

    def _all_ended(self) -> bool:
        open_here = any(row["closed_at"] is None for row in self.now.batches.values())
        return not open_here and not any(self.now.is_open(id_, *runs.STATUSES) for id_ in self.now.history)

    def _nothing_is_left(self) -> None:
        require(self._all_ended(), "5, 6: every batch ends", batches=self.now.batches, items=self.now.items)
        live = {key: item for key, item in self.reference.items.items() if item.live}
        require(not live, "5: nothing is left to do", live=live)
        for batch, ids in self.reference.listed.items():
            organization = self.now.batches[batch]["organization_id"]
            for id_ in ids:
                row = self.now.transactions.get(id_)
                if row is None or not untouched(row) or row["organization_id"] != organization:
                    continue
                # a later batch that people removed before any run saw it leaves orphans, which are freed on request
                if batch == max(other for other, listed in self.queued.items() if id_ in listed):
                    self._can_be_queued_again(batch, id_, row["ai_audit_status"])

    def _can_be_queued_again(self, batch: int, id_: int, label: str) -> None:
        require(label != "queued", "7: nothing is left queued", batch=batch, transaction=id_)
