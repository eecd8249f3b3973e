"""`import`: organizations, rules, materials, transactions and records from files into an embedded database.

All or nothing. Twice through the files: first everything is checked and nothing written, so that all wrong rows are
named at once; then one transaction writes them in chunks. A row whose id is there replaces it, and a transaction whose
file lists its records gets exactly those. A transaction that was audited, is queued or was decided by a person is kept
as it is, with its records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit.database import importing as sql
from gepp_audit.database.engine import Database
from gepp_audit.errors import OperatorError
from gepp_audit.queue.import_checking import KINDS, CheckedRow, check
from gepp_audit.queue.import_reading import (
    MATERIALS,
    ORGANIZATIONS,
    RECORDS,
    RULES,
    TRANSACTIONS,
    Problem,
    read_rows,
)

#: so many problems are shown, all are counted
_SHOWN: Final = 50
#: rows written with one statement
_CHUNK: Final = 500
#: of one statement
_TIMEOUT_MS: Final = 300_000
#: written first and kept in memory: few rows, and others refer to them
_SMALL: Final = (ORGANIZATIONS, MATERIALS, RULES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What was written, and what was kept, by kind."""

    imported: dict[str, int]
    #: transactions that were audited, are queued or were decided by a person
    kept: int

    def as_json(self) -> dict[str, Any]:
        """The contract of `import --json`."""
        return {"imported": dict(self.imported), "kept": {TRANSACTIONS: self.kept}}


@dataclass(slots=True)
class _Survey:
    """What the first walk has seen."""

    ignore_unknown: bool
    problems: list[Problem] = field(default_factory=list)
    count: int = 0
    #: kind → id → where
    places: dict[str, dict[int, str]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    small: dict[str, list[CheckedRow]] = field(default_factory=lambda: {kind: [] for kind in _SMALL})
    #: rule_id → id
    rule_names: dict[str, int] = field(default_factory=dict)
    #: organizations that others refer to, with who does first
    wanted_organizations: dict[int, CheckedRow] = field(default_factory=dict)
    #: transactions that records refer to from outside, with who does first
    wanted_transactions: dict[int, CheckedRow] = field(default_factory=dict)
    has_loose_records: bool = False

    def wrong(self, problem: Problem) -> None:
        self.count += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(problem)


def import_files(database: Database, paths: Sequence[Path], *, ignore_unknown: bool = False) -> Imported:
    """Import the files at `paths`. `ignore_unknown`: fields that no table of ours has are left out instead of refused.

    OperatorError: a platform's database, a file that cannot be read, or wrong rows, each named with file, line and
    field; then nothing was written.
    """
    database.read(lambda connection: _require_embedded(connection, database.name))
    survey = _survey(paths, ignore_unknown)
    database.read(lambda connection: _check_references(connection, survey))
    _refuse_problems(survey)
    return database.write(lambda connection: _write(connection, paths, survey), statement_timeout_ms=_TIMEOUT_MS)


def _require_embedded(connection: Connection, name: str) -> None:
    if not sql.is_embedded(connection):
        raise OperatorError(
            f"{name} is the database of a GEPP platform, and import never writes into such a one.",
            fix="Import into a database of gepp-audit's own: name an empty one in DATABASE_URL and run "
            '"gepp-audit init-db".',
            code="not_embedded",
        )


# -- the first walk: check -----------------------------------------------------------------------------------------


def _rows(paths: Iterable[Path], survey: _Survey, only: str | None = None) -> Iterator[CheckedRow]:
    """The rows of all files, or `only` those of one kind, that are right; the others are noted in `survey`."""
    for path in paths:
        try:
            for raw in read_rows(path):
                if isinstance(raw, Problem):
                    survey.wrong(raw)
                    continue
                if only is not None and raw.kind != only:
                    continue
                row, problems = check(raw, ignore_unknown=survey.ignore_unknown)
                for problem in problems:
                    survey.wrong(problem)
                if row is not None:
                    yield row
        except OSError as error:
            raise OperatorError(
                f"cannot read {path}: {error.strerror or type(error).__name__}.",
                fix="Correct the file's name or its rights.",
                code="import_file",
                exit_code=2,
            ) from error


def _survey(paths: Sequence[Path], ignore_unknown: bool) -> _Survey:
    survey = _Survey(ignore_unknown)
    for row in _rows(paths, survey):
        _note(survey, row)
        for record in row.records or ():
            _note(survey, record)
        if row.kind in _SMALL:
            survey.small[row.kind].append(row)
        elif row.kind == RECORDS:
            survey.has_loose_records = True
            survey.wanted_transactions.setdefault(row.values["created_transaction_id"], row)
    return survey


def _note(survey: _Survey, row: CheckedRow) -> None:
    places = survey.places[row.kind]
    place = f"{row.raw.file} line {row.raw.line}"
    if row.id in places:
        survey.wrong(_problem(row, "id", f"stands in {places[row.id]} already"))
    places.setdefault(row.id, place)
    organization_id = row.values.get("organization_id")
    if organization_id is not None:
        survey.wanted_organizations.setdefault(organization_id, row)
    if row.kind == RULES:
        name = row.values["rule_id"]
        if survey.rule_names.setdefault(name, row.id) != row.id:
            survey.wrong(_problem(row, "rule_id", f"{name} is the name of rule {survey.rule_names[name]} already"))


def _check_references(connection: Connection, survey: _Survey) -> None:
    known = survey.places[ORGANIZATIONS].keys() | sql.organization_ids(connection)
    for id_, row in survey.wanted_organizations.items():
        if id_ not in known:
            survey.wrong(_problem(row, "organization_id", f"there is no organization {id_}, here or in the files"))
    outside = survey.wanted_transactions.keys() - survey.places[TRANSACTIONS].keys()
    for id_ in sorted(outside - sql.existing_transactions(connection, outside)):
        row = survey.wanted_transactions[id_]
        survey.wrong(_problem(row, "created_transaction_id", f"there is no transaction {id_}, here or in the files"))
    taken = sql.rule_names(connection)
    for row in survey.small[RULES]:
        name = row.values["rule_id"]
        if taken.get(name, row.id) != row.id:
            survey.wrong(_problem(row, "rule_id", f"{name} is the name of rule {taken[name]} in the database"))


def _problem(row: CheckedRow, name: str, message: str) -> Problem:
    subject = f"{KINDS[row.kind].noun} {row.id}: {name}"
    return Problem(file=row.raw.file, line=row.raw.line_of(name), subject=subject, message=message)


def _refuse_problems(survey: _Survey) -> None:
    if not survey.count:
        return
    lines = [f"  {problem}" for problem in survey.problems]
    if survey.count > len(lines):
        lines.append(f"  and {survey.count - len(lines)} more")
    several = "s" if survey.count > 1 else ""
    raise OperatorError(
        f"{survey.count} field{several} cannot be imported, so nothing was:\n" + "\n".join(lines),
        fix="Correct what is named and run the import again.",
        code="import_rows",
    )


# -- the second walk: write ----------------------------------------------------------------------------------------


class _Writer:
    """Puts rows into the database chunk by chunk, and counts them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.imported: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.kept = 0
        self.problems: list[Problem] = []

    def put(self, kind: str, rows: Sequence[CheckedRow]) -> None:
        sql.put(self.connection, KINDS[kind].table, [row.values for row in rows])
        self.imported[kind] += len(rows)

    def put_transactions(self, rows: Sequence[CheckedRow]) -> None:
        touched = sql.touched_transactions(self.connection, [row.id for row in rows])
        fresh = [row for row in rows if row.id not in touched]
        self.kept += len(rows) - len(fresh)
        self.put(TRANSACTIONS, fresh)
        listed = [row for row in fresh if row.records is not None]
        records = [record for row in listed for record in row.records or ()]
        sql.remove_other_records(self.connection, [row.id for row in listed], [record.id for record in records])
        self._put_records(records)

    def put_loose_records(self, rows: Sequence[CheckedRow]) -> None:
        owners = {row.values["created_transaction_id"] for row in rows}
        touched = sql.touched_transactions(self.connection, owners)
        self._put_records([row for row in rows if row.values["created_transaction_id"] not in touched])

    def _put_records(self, rows: Sequence[CheckedRow]) -> None:
        owners = sql.transactions_of_records(self.connection, [row.id for row in rows])
        for row in rows:
            owner = row.values["created_transaction_id"]
            if owners.get(row.id, owner) != owner:
                self.problems.append(_problem(row, "id", f"is a record of transaction {owners[row.id]} already"))
        self.put(RECORDS, rows)


def _write(connection: Connection, paths: Sequence[Path], survey: _Survey) -> Imported:
    writer = _Writer(connection)
    sql.allow_long_pauses(connection)
    for kind in _SMALL:
        for chunk in _chunks(survey.small[kind]):
            writer.put(kind, chunk)
    _write_large(writer.put_transactions, TRANSACTIONS, paths, survey)
    if survey.has_loose_records:
        _write_large(writer.put_loose_records, RECORDS, paths, survey)
    if writer.problems:
        _refuse_problems(_Survey(survey.ignore_unknown, writer.problems[:_SHOWN], len(writer.problems)))
    return Imported(imported=dict(writer.imported), kept=writer.kept)


def _write_large(
    put: Callable[[Sequence[CheckedRow]], None], kind: str, paths: Sequence[Path], survey: _Survey
) -> None:
    again = _Survey(survey.ignore_unknown)
    for chunk in _chunks(_rows(paths, again, kind)):
        put(chunk)
    if again.count:
        raise OperatorError(
            "a file changed while it was imported, so nothing was.",
            fix="Run the import again when nobody writes to the files.",
            code="import_changed",
        )


def _chunks(rows: Iterable[CheckedRow]) -> Iterator[list[CheckedRow]]:
    chunk: list[CheckedRow] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
