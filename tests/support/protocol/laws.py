"""The laws, judged on two snapshots: what one transaction of the queue may change, and what it must have done.

The reference predicts what turns do. Here stand the steps that read what people did: fan out, withdraw, publish, close,
give up. For each row that changed there must be a reason; then the whole of our tables must be what the model says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from tests.support.protocol.observation import Key, Row, Snapshot, moment, untouched
from tests.support.protocol.reference import ENDED, Item, Reference, require

#: failures that say something of the transaction: not asked again while it stays the same
REMEMBERED: Final = frozenset({"policy_violation", "incomplete_answer", "unchanged_since_failure"})
MOST_EDITS: Final = 3
VERDICTS: Final = frozenset({"approved", "rejected", "no_action"})
_WRITTEN: Final = frozenset(
    {
        "ai_audit_status", "ai_audit_note", "reject_triggers", "warning_triggers", "status", "ai_audit_date",
        "audit_tokens", "updated_date",
    }
)  # fmt: skip
_COUNTERS: Final = frozenset({"processed_transactions", "approved_count", "rejected_count"})
#: a trigger of the platform stamps it
_STAMP: Final = frozenset({"updated_date"})
#: kinds of steps that end items by what people did
_TAKES_UP: Final = ("take_up",)
_WRITES_BACK: Final = ("publish", "close", "leave", "give_up")


@dataclass
class Step:
    """One committed transaction of the queue."""

    kind: str
    before: Snapshot
    after: Snapshot
    reference: Reference
    #: the platform keeps rows locked meanwhile
    held: bool
    #: organizations whose audits decide a transaction's own status
    deciding: frozenset[int]

    def judge(self) -> None:
        """Raise BrokenLaw unless everything that changed had a reason and all is as the model says."""
        self._fan_outs()
        for key in self.before.items.keys() | self.after.items.keys():
            self._item(key)
        self._orphans()
        self._endings()
        for id_ in self.before.transactions.keys() | self.after.transactions.keys():
            self._transaction(id_)
        for id_ in self.before.history.keys() | self.after.history.keys():
            self._history(id_)
        self._forget()
        compare(self.reference, self.after)

    # -- items ---------------------------------------------------------------------------------------------------------

    def _fan_outs(self) -> None:
        """A batch that was fanned out has an item for each of its ids, with the fate that people left it."""
        for batch, row in self.after.batches.items():
            old = self.before.batches.get(batch)
            if row["fanned_out_at"] is None or (old is not None and old["fanned_out_at"] is not None):
                continue
            require(self.kind in _TAKES_UP, "fan out", kind=self.kind, batch=batch)
            listed = self.before.listed(batch)
            self.reference.listed[batch] = listed
            require(row["total"] == len(listed), "6: every id of a batch is counted once", batch=batch, row=row)
            made = {id_: self._fate(batch, id_, row) for id_ in listed}
            self.reference.items |= {(batch, id_): item for id_, item in made.items()}

    def _fate(self, batch: int, id_: int, ours: Row) -> Item:
        row = self.before.transactions.get(id_)
        reason = None
        if row is None:
            reason = "not_found"
        elif row["organization_id"] != ours["organization_id"]:
            reason = "foreign"
        elif row["deleted_date"] is not None or row["is_active"] in (False, 0):
            reason = "deleted"
        elif row.get("is_user_audit"):
            reason = "decided_by_person"
        elif row["ai_audit_status"] != "queued":
            reason = "not_queued"
        elif self.reference.live_elsewhere((batch, id_)):
            reason = "in_other_batch"
        self.reference.seen.add(f"fanned out {reason or 'ready'}")
        if reason is not None:
            return Item(state="skipped", reason=reason)
        content = self.before.content(id_)
        failed_before = any(
            item.state == "failed" and item.code in REMEMBERED and item.content == content
            for (other, transaction), item in self.reference.items.items()
            if transaction == id_ and other != batch
        )
        if failed_before and not ours["forced"]:
            self.reference.seen.add("refused unchanged")
            return Item(state="failed", code="unchanged_since_failure", content=content)
        return Item(state="ready")

    def _item(self, key: Key) -> None:
        """Move the model's item where this step moved the row, if there was a reason."""
        old, new, item = self.before.items.get(key), self.after.items.get(key), self.reference.items.get(key)
        if old is not None and new is None and item is not None and item.live:
            self._let_go(key, item)  # and dropped at once, since its batch ended with it
        if old is None or new is None or old == new or item is None:
            return  # made above, dropped below; a turn's are predicted
        for rule in (self._buried, self._expired, self._made_due, self._withdrawn, self._given_up, self._published):
            rule(key, item, old, new)

    def _buried(self, key: Key, item: Item, old: Row, new: Row) -> None:
        if self.kind == "begin":
            changed = {name for name in old if old[name] != new[name]}
            owner = None if item.token is None else self.reference.calls[item.token].run_id
            gone = item.state == "calling" and changed == {"lease_until"} and owner in self.reference.dead
            require(gone, "2: only the leases of the dead are taken", key=key, item=item, changed=changed)
            self.reference.items[key] = replace(item, lease=moment(new["lease_until"]))
            self.reference.seen.add("buried")

    def _orphans(self) -> None:
        """A dead run's calls whose item was taken from them have an end, when the run is buried."""
        for id_, row in self.after.calls.items():
            old, call = self.before.calls.get(id_), self.reference.calls.get(id_)
            if self.kind != "begin" or old is None or call is None or old["outcome"] == row["outcome"]:
                continue
            item = self.reference.items.get(call.key)
            orphaned = item is None or item.state != "calling" or item.token != id_
            known = call.run_id in self.reference.dead and (call.fate, row["outcome"]) == (None, "expired")
            require(orphaned and known, "1: only what nobody waits for is expired by a burial", call=call, item=item)
            call.fate = "expired"
            self.reference.seen.add("buried orphan")

    def _expired(self, key: Key, item: Item, old: Row, new: Row) -> None:
        if self.kind == "requeue" and old["state"] == "calling" and new["state"] != "calling":
            require(
                item.lease is not None and item.lease < datetime.now(UTC),
                "2: no living lease is taken",
                key=key,
                item=item,
            )
            self.reference.expire_one(key)

    def _made_due(self, key: Key, item: Item, old: Row, new: Row) -> None:
        changed = {name for name in old if old[name] != new[name]}
        if changed == {"available_at"}:
            waits = item.state in ("done", "failed") and not item.published and self.held
            require(self.kind == "requeue" or waits, "available_at alone", key=key, kind=self.kind)

    def _withdrawn(self, key: Key, item: Item, old: Row, new: Row) -> None:
        if new["skip_reason"] == "batch_withdrawn" and old["skip_reason"] != "batch_withdrawn":
            self._let_go(key, item)

    def _let_go(self, key: Key, item: Item) -> None:
        wanted = self.before.is_open(key[0])
        require(item.live and not wanted and self.kind in _TAKES_UP, "7: only unwanted batches are let go", key=key)
        if item.verdict is not None and item.token is not None:
            self._kept(item.token)
        self.reference.items[key] = replace(item, state="skipped", reason="batch_withdrawn", token=None, lease=None)
        self.reference.seen.add("withdrawn")

    def _given_up(self, key: Key, item: Item, old: Row, new: Row) -> None:
        if self.kind == "give_up" and new["error_code"] == "given_up_by_operator" != old["error_code"]:
            require(item.state in ("ready", "calling"), "1: no verdict is given up", key=key, item=item)
            self.reference.items[key] = replace(
                item, state="failed", code="given_up_by_operator", token=None, lease=None
            )
            self.reference.seen.add("given up")

    def _published(self, key: Key, item: Item, old: Row, new: Row) -> None:
        if self.kind not in _WRITES_BACK or old["state"] not in ("done", "failed") or old["published_at"] is not None:
            return
        if new["published_at"] is not None:
            fresh = item.state == "failed" or item.content == self.before.content(key[1])
            require(fresh, "4: what was edited is never published", key=key, item=item)
            require(self._may_write(key), "7: people win", key=key, row=self.before.transactions.get(key[1]))
            self.reference.items[key] = replace(item, published=True)
            self.reference.seen.add(f"published {item.verdict or 'failed'}")
        elif new["state"] == "skipped":
            require(not self._may_write(key), "1: a verdict that is wanted is written", key=key, item=item)
            if item.verdict is not None and item.token is not None:
                self._kept(item.token)
            self.reference.items[key] = replace(item, state="skipped", reason=new["skip_reason"])
            self.reference.seen.add(f"not published: {new['skip_reason']}")
        elif new["edits"] == old["edits"] + 1:
            edited = item.state == "done" and item.content != self.before.content(key[1])
            require(edited and self._may_write(key), "1: only what was edited is asked again", key=key, item=item)
            ended = item.edits + 1 > MOST_EDITS
            self.reference.items[key] = replace(
                item,
                state="failed" if ended else "ready",
                token=item.token if ended else None,
                code="edited" if ended else None,
                edits=item.edits + 1,
                verdict=None,
            )
            self.reference.seen.add("edited too often" if ended else "edited, asked again")

    def _may_write(self, key: Key) -> bool:
        """People left the transaction to us, and still want its batch."""
        row, ours = self.before.transactions.get(key[1]), self.before.batches[key[0]]
        return (
            row is not None
            and row["ai_audit_status"] == "queued"
            and untouched(row)
            and row["organization_id"] == ours["organization_id"]
            and self.before.is_open(key[0])
        )

    def _kept(self, call_id: int) -> None:
        """A verdict that was paid for, and that nobody wants, stands in the ledger."""
        row = self.after.calls[call_id]
        require(row["verdict"] is not None, "1, 7: a paid verdict stays in the ledger", call=row)
        self.reference.calls[call_id].fate = "superseded"

    # -- batches -------------------------------------------------------------------------------------------------------

    def _endings(self) -> None:
        for batch, new in self.after.batches.items():
            old = self.before.batches.get(batch)
            if new["closed_at"] is None or (old is not None and old["closed_at"] is not None):
                continue
            require(batch not in self.reference.ended, "6: a batch ends once", batch=batch)
            self.reference.ended[batch] = new["outcome"]
            self.reference.seen.add(f"ended {new['outcome']}")
            if new["outcome"] == "withdrawn":
                require(not self.before.is_open(batch), "7: only unwanted batches are let go", batch=batch)
            else:
                self._counted(batch, new["outcome"])
            self._put_back(batch)

    def _counted(self, batch: int, outcome: str) -> None:
        """The platform's row tells what became of each transaction, and the numbers add up."""
        mine = {id_: item for (other, id_), item in self.reference.items.items() if other == batch}
        require(not any(item.live for item in mine.values()), "6: nothing is open in a batch that ends", items=mine)
        status = {id_: item.verdict if item.state == "done" else item.state for id_, item in mine.items()}
        counts = {name: list(status.values()).count(name) for name in ("approved", "rejected", "no_action", *ENDED)}
        row = self.after.history[batch]
        info = row["audit_info"] if isinstance(row["audit_info"], dict) else json.loads(row["audit_info"])
        summary, total = info["summary"], len(mine)
        told = tuple(summary[f"{name}_count"] for name in ("approved", "rejected", "undecided", "failed", "skipped"))
        expected = tuple(counts[name] for name in ("approved", "rejected", "no_action", "failed", "skipped"))
        require(
            told == expected and sum(told) == total, "6: total = the sum of its parts", told=told, expected=expected
        )
        columns = (
            row["total_transactions"], row["processed_transactions"], row["approved_count"], row["rejected_count"],
        )  # fmt: skip
        seen = (total, total - counts["skipped"], counts["approved"], counts["rejected"])
        require(columns == seen, "6: the platform's counters", told=columns, expected=seen)
        listed = {entry["transaction_id"]: entry["status"] for entry in info["audit_results"]}
        require(listed == status, "6: each transaction is told of once", told=listed, expected=status)
        audited = sum(counts[name] for name in VERDICTS)
        wanted = "failed" if not audited and counts["failed"] else "completed"
        require((outcome, row["status"]) == (wanted, wanted), "6: how a batch ends", told=outcome, expected=wanted)
        require(row["completed_at"] is not None, "6: an ended batch has a time", batch=batch)

    def _put_back(self, batch: int) -> None:
        """Nothing stays queued that no open batch will look at."""
        ours = self.after.batches[batch]
        for id_ in {*self.reference.listed.get(batch, ()), *self.before.listed(batch)}:
            row = self.after.transactions.get(id_)
            if row is None or row["ai_audit_status"] != "queued" or not untouched(row):
                continue
            if row["organization_id"] != ours["organization_id"]:
                continue
            waits = self.reference.live_elsewhere((batch, id_)) or self._queued_again(batch, id_)
            require(waits, "7: what is still queued when its batch ends is put back", batch=batch, transaction=id_)

    def _queued_again(self, batch: int, id_: int) -> bool:
        """Another open batch lists the transaction that has no items yet."""
        return any(
            id_ in self.after.listed(other)
            for other in self.after.history
            if other != batch
            and self.after.is_open(other, "in_progress", "pending")
            and other not in self.reference.listed
        )

    def _forget(self) -> None:
        """What leaves the table of items: that of ended batches, and failures that a later verdict outdates."""
        for key in self.before.items.keys() - self.after.items.keys():
            item = self.reference.items.pop(key)
            require(key[0] in self.reference.ended, "1: nothing is dropped from an open batch", key=key, item=item)
            outdated = any(
                other.published and other.verdict for (_, id_), other in self.reference.items.items() if id_ == key[1]
            )
            require(item.state != "failed" or outdated, "failures are remembered", key=key, item=item)
        for batch in self.reference.ended:
            left = {id_: item for (other, id_), item in self.reference.items.items() if other == batch}
            require(all(item.state == "failed" for item in left.values()), "only failures stay", batch=batch, left=left)

    # -- the platform's rows -------------------------------------------------------------------------------------------

    def _transaction(self, id_: int) -> None:
        """Only what people left to us is written, and only what a verdict of ours says."""
        old, new = self.before.transactions.get(id_), self.after.transactions.get(id_)
        if old == new:
            return
        require(old is not None and new is not None, "7: no transaction is made or deleted", transaction=id_)
        assert old is not None
        assert new is not None
        changed = {name for name in old if old[name] != new[name]}
        require(changed <= _WRITTEN, "9: no other column is written", changed=changed)
        was, label = old["ai_audit_status"], new["ai_audit_status"]
        if self.kind == "enqueue":
            require((was, label) == ("null", "queued") and untouched(old), "7: people win", old=old, new=new)
            return
        require(was == "queued" and untouched(old), "7: people win", old=old, new=new)
        written = [
            item
            for key, item in self.reference.items.items()
            if key[1] == id_ and item.published and self.before.items[key]["published_at"] is None
        ]
        if label in VERDICTS:
            require([item.verdict for item in written] == [label], "4: nothing is approved without a verdict", new=new)
        elif written:
            require(written[0].state == "failed" and label in ("failed", "null"), "4: a failure is no verdict", new=new)
        else:
            self._unqueued(id_, label)
        if old["status"] != new["status"]:
            follows = old["status"] == "pending" and new["status"] == label and label in ("approved", "rejected")
            require(follows and old["organization_id"] in self.deciding, "7: the status is people's", old=old, new=new)

    def _unqueued(self, id_: int, label: str) -> None:
        """Without a result: only the ending of a batch that lists it puts it back, and only if nobody waits for it."""
        ends = [batch for batch, ids in self.reference.listed.items() if id_ in ids] + [
            batch for batch in self.before.batches if id_ in self.before.listed(batch)
        ]
        require(label == "null" and ends, "7: only the end of a batch puts back", transaction=id_, label=label)
        live = any(item.live for key, item in self.reference.items.items() if key[1] == id_)
        require(not live, "7: what is being audited stays queued", transaction=id_)
        require(not self._queued_again(0, id_), "7: what people queued again stays queued", transaction=id_)
        self.reference.seen.add("put back")

    def _history(self, id_: int) -> None:
        old, new = self.before.history.get(id_), self.after.history.get(id_)
        if old == new:
            return
        require(new is not None, "7: no batch is deleted", batch=id_)
        assert new is not None
        if old is None:
            require(self.kind == "enqueue", "only enqueue makes batches", batch=id_)
            return
        changed = {name for name in old if old[name] != new[name]} - _STAMP
        require(
            self.before.is_open(id_, "in_progress", "pending"), "7: an ended batch stays as it is", old=old, new=new
        )
        ours = self.after.batches.get(id_)
        if ours is not None and ours["closed_at"] is not None:
            return  # judged where it ended
        flipped = old["status"] == "pending" and new["status"] == "in_progress"
        require(changed <= _COUNTERS or (flipped and changed == {"status"}), "7: the row is people's", changed=changed)


def compare(reference: Reference, seen: Snapshot) -> None:
    """Our tables are what the model says."""
    stands = {key: _row(row) for key, row in seen.items.items()}
    expected = {key: _model(item) for key, item in reference.items.items()}
    if stands != expected:
        different = {
            key: (stands.get(key), expected.get(key))
            for key in stands.keys() | expected.keys()
            if stands.get(key) != expected.get(key)
        }
        require(False, "1, 2, 5: the items are what was settled", stands_and_expected=different)
    live = [key[1] for key, item in reference.items.items() if item.live]
    require(len(live) == len(set(live)), "7: one live item per transaction", live=live)
    fates = {id_: (row["outcome"], row["verdict"] is not None) for id_, row in seen.calls.items()}
    told = {id_: call.fate for id_, call in reference.calls.items()}
    outcomes = {id_: outcome for id_, (outcome, _) in fates.items()}
    wrong = {id_: (outcomes.get(id_), told[id_]) for id_ in told if outcomes.get(id_) != told[id_]}
    require(not wrong, "1: the ledger names every call and its end", stands_and_expected=wrong)
    require(fates.keys() == told.keys(), "1: the ledger is complete", stands=sorted(fates), expected=sorted(told))


def _row(row: Row) -> tuple[object, ...]:
    return (
        row["state"], row["call_id"], row["crashes"], row["attempts"], row["waits"], row["edits"],
        row["error_code"] if row["state"] == "failed" else None, row["skip_reason"],
        row["verdict_status"], row["published_at"] is not None and row["state"] != "skipped",
        moment(row["lease_until"]),
    )  # fmt: skip


def _model(item: Item) -> tuple[object, ...]:
    return (
        item.state, item.token, item.crashes, item.attempts, item.waits, item.edits,
        item.code if item.state == "failed" else None, item.reason,
        item.verdict, item.published, item.lease,
    )  # fmt: skip
