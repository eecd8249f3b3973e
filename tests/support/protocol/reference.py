"""A small model of what must stand in our tables: who owns which fencing token, what was paid for, what was settled.

It learns of claims, answers and the acts of people from whoever drives the model, never from the queue's own tables,
and predicts each item after each committed turn. `laws.py` holds it against what does stand there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from gepp_audit.database.settling import Settlement
from gepp_audit.model import Claim
from tests.support.protocol.observation import Content, Key
from tests.support.protocol.runs import Turn

LEASE: Final = timedelta(seconds=90)
SUSPECT_AFTER: Final = 2
PARKED_AT: Final = 3
MOST_ATTEMPTS: Final = 3
ENDED: Final = ("done", "failed", "skipped")


class BrokenLaw(AssertionError):
    """A law of the queue does not hold."""


def require(holds: object, law: str, **seen: object) -> None:
    """Raise BrokenLaw with what was seen, unless `holds`."""
    if not holds:
        raise BrokenLaw(f"{law}: " + ", ".join(f"{name}={value}" for name, value in seen.items()))


@dataclass
class Item:
    """One transaction of one batch."""

    state: str
    token: int | None = None
    lease: datetime | None = None
    crashes: int = 0
    attempts: int = 0
    waits: int = 0
    edits: int = 0
    code: str | None = None
    reason: str | None = None
    verdict: str | None = None
    #: what its latest settled call was shown
    content: Content | None = None
    published: bool = False

    @property
    def parked(self) -> bool:
        """Given up after its third crash, and not yet written back."""
        return self.state == "failed" and self.code == "crashed" and not self.published

    @property
    def live(self) -> bool:
        """Still works on its transaction."""
        return self.state in ("ready", "calling") or (self.state in ("done", "failed") and not self.published)


@dataclass
class Call:
    """One row of the ledger."""

    key: Key
    run_id: str
    #: what the ledger must say became of it; None: sent, fate unknown
    fate: str | None = None
    verdict: str | None = None


@dataclass
class Reference:
    """The whole model."""

    items: dict[Key, Item] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    #: what each call was shown, told by whoever sent it
    shown: dict[int, Content] = field(default_factory=dict)
    #: how each batch ended for us
    ended: dict[int, str] = field(default_factory=dict)
    #: ids of each batch at its fan-out
    listed: dict[int, list[int]] = field(default_factory=dict)
    #: runs whose process is gone
    dead: set[str] = field(default_factory=set)
    #: names of what was seen to happen, for the coverage of the model itself
    seen: set[str] = field(default_factory=set)

    def live_elsewhere(self, key: Key) -> bool:
        """Whether another batch works on this transaction."""
        return any(item.live for (batch, id_), item in self.items.items() if id_ == key[1] and batch != key[0])

    def let_pass(self, seconds: float) -> None:
        """Every lease is so much older."""
        for item in self.items.values():
            if item.lease is not None:
                item.lease -= timedelta(seconds=seconds)

    # -- a turn --------------------------------------------------------------------------------------------------------

    def take(self, turn: Turn) -> None:
        """What a committed turn must have done: settle, let leases end, claim."""
        taken = {one.call_id for one in turn.settlements if self._settle(one)}
        different = {id_: (self.calls[id_], self.items.get(self.calls[id_].key)) for id_ in turn.taken ^ taken}
        require(not different, "2: an answer is taken by its call's item alone", taken=turn.taken, different=different)
        if turn.known is not None:
            self._release_unknown(turn.run_id, turn.known)
        if turn.claimed is None:
            return
        self.expire(turn.claimed.moment)
        claims, newest = turn.claimed.claims, max(self.calls, default=0)
        for claim in claims:
            require(claim.call_id > newest, "2: a fencing token is never used twice", call=claim.call_id, newest=newest)
            self._claim(claim, turn)
        if turn.claimed.suspect:
            require(len(claims) == 1 and turn.nothing_under_way, "5: a suspect is asked alone", claims=claims)
            self.seen.add("suspect claimed alone")
        if turn.claimed.probe:
            require(len(claims) == 1 and turn.nothing_under_way, "8: one probe at a time", claims=claims)
            self.seen.add("probe")

    def _settle(self, told: Settlement) -> bool:
        """What one settlement must do to its item and its ledger row; True: the item took it, now or before."""
        key = told.audit_history_id, told.transaction_id
        item, call = self.items.get(key), self.calls[told.call_id]
        own = item is not None and item.token == told.call_id
        if item is not None and own and (item.state in ("ready", "calling") or item.parked):
            late = item.state != "calling" and item.crashes > 0
            self.seen.add("late answer taken" if late else f"settled {told.state.value}")
            ended = told.state.value in ENDED
            self.items[key] = replace(
                item,
                state=told.state.value,
                token=item.token if ended else None,
                lease=None,
                crashes=item.crashes - late,
                attempts=item.attempts + told.attempt,
                waits=item.waits + told.wait,
                code=told.error_code.value if told.error_code else None,
                reason=told.skip_reason.value if told.skip_reason else None,
                verdict=told.verdict_status,
                content=self.shown.get(told.call_id),
            )
            call.fate = told.outcome.value
            call.verdict = told.verdict_status
            return True
        before = item is not None and own and item.state in ENDED and item.code != "crashed"
        if not before:
            self.seen.add("old answer void")
            # what the item took once, it took: a repeated settle does not change that
            if call.fate != "verdict":
                call.fate = "superseded" if told.outcome.value == "verdict" else told.outcome.value
                call.verdict = told.verdict_status
        return before

    def _release_unknown(self, run_id: str, known: set[int]) -> None:
        for id_, call in self.calls.items():
            if call.run_id == run_id and call.fate is None and id_ not in known:
                call.fate = "released"
                item = self.items.get(call.key)
                if item is not None and item.state == "calling" and item.token == id_:
                    self.items[call.key] = replace(item, state="ready", token=None, lease=None)
                self.seen.add("lost claim released")

    def expire(self, moment: datetime) -> None:
        """Every lease that ended before `moment` is a crash."""
        for key, item in self.items.items():
            if item.state == "calling" and item.lease is not None and item.lease < moment:
                self.expire_one(key)

    def expire_one(self, key: Key) -> None:
        """The lease of this item ended without an outcome."""
        item = self.items[key]
        parked = item.crashes + 1 >= PARKED_AT
        self.items[key] = replace(
            item,
            state="failed" if parked else "ready",
            lease=None,
            crashes=item.crashes + 1,
            code="crashed" if parked else item.code,
        )
        self.seen.add("parked" if parked else "expired")
        if item.token is not None and self.calls[item.token].fate is None:
            self.calls[item.token].fate = "expired"

    def _claim(self, claim: Claim, turn: Turn) -> None:
        key = claim.audit_history_id, claim.transaction_id
        item = self.items.get(key)
        require(item is not None, "2: only items are claimed", key=key)
        assert item is not None
        require(item.state == "ready", "2: no item has two live calls", key=key, item=item)
        require(item.verdict is None, "1: a settled verdict is never bought again", key=key, item=item)
        require(key[0] not in self.ended, "6: nothing is asked for a batch that has ended", key=key)
        require(not self.live_elsewhere(key), "7: one live item per transaction", key=key)
        require(item.crashes < PARKED_AT and item.attempts < MOST_ATTEMPTS, "5: no endless loop", key=key, item=item)
        assert turn.claimed is not None
        suspect = item.crashes >= SUSPECT_AFTER
        require(suspect == turn.claimed.suspect, "5: suspects are asked alone, others are not", key=key, item=item)
        told = (claim.crashes, claim.attempts, claim.waits)
        require(told == (item.crashes, item.attempts, item.waits), "5: counters", claim=claim, item=item)
        self.calls[claim.call_id] = Call(key=key, run_id=turn.run_id)
        self.items[key] = replace(item, state="calling", token=claim.call_id, lease=turn.claimed.moment + LEASE)
        self.seen.add("claimed")
