"""What verdicts are about, for whoever reads them: transactions with their records as the platform has them now, the
rules by name, the organization. Reads only; what belongs to another organization does not exist.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from gepp_audit.audit.transaction import to_payload
from gepp_audit.database.batches import load_batches
from gepp_audit.database.engine import Database, now
from gepp_audit.database.platform import detect, load, load_rules, organization_name
from gepp_audit.model import Rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One transaction by the names under which an audit sees it, which are those that evidence quotes."""

    transaction_id: int
    fields: Mapping[str, Any]
    #: by id; `record_id` is among their fields
    records: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What every page about an organization starts from."""

    #: None: the organization has no name, or does not exist
    name: str | None
    #: the database's clock
    moment: datetime


def context(database: Database, organization_id: int) -> Context:
    """The organization's name, and what time it is."""

    def read(connection: Connection) -> Context:
        return Context(name=organization_name(connection, organization_id), moment=now(connection))

    return database.read(read)


def subjects(
    database: Database, transaction_ids: Sequence[int], organization_id: int, extra_fields: frozenset[str]
) -> dict[int, Subject]:
    """These transactions of the organization by id, deleted or not; `extra_fields`: `GEPP_AUDIT_SEND_FIELDS`."""
    if not transaction_ids:
        return {}
    found = database.read(lambda connection: load(connection, detect(connection), transaction_ids))
    return {
        id_: _subject(id_, to_payload(one.transaction, extra_fields))
        for id_, one in found.items()
        if one.transaction.organization_id == organization_id
    }


def _subject(transaction_id: int, payload: dict[str, Any]) -> Subject:
    records = payload.pop("records")
    return Subject(
        transaction_id=transaction_id, fields=payload, records={record["record_id"]: record for record in records}
    )


def rules_of(database: Database, organization_id: int, batches: Collection[int] = ()) -> dict[str, Rule]:
    """The rules by id: those that hold for the organization now, and those by which these batches of it were audited,
    as far as they are kept.
    """

    def read(connection: Connection) -> dict[str, Rule]:
        rules = {rule.rule_id: rule for rule in load_rules(connection, organization_id)}
        for batch in load_batches(connection, sorted(batches)).values():
            if batch.organization_id == organization_id:
                rules |= {rule.rule_id: rule for rule in batch.rules}
        return rules

    return database.read(read)
