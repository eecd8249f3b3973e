"""`gepp-audit import FILE…`: see `queue.importing` for what becomes of the files."""

from __future__ import annotations

from pathlib import Path

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.options import json_option
from gepp_audit.cli.render import Result
from gepp_audit.queue.importing import Imported, import_files

_NOUNS = {
    "organizations": "organization",
    "main_materials": "material",
    "audit_rules": "rule",
    "transactions": "transaction",
    "transaction_records": "record",
}


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--ignore-unknown", is_flag=True, help="Leave out fields that are not known, instead of refusing them.")
@json_option
@click.pass_obj
def import_(app: App, files: tuple[Path, ...], ignore_unknown: bool) -> Result:
    """Read organizations, materials, rules, and transactions with their records into an embedded database.

    FILE is a JSON document with the lists organizations, main_materials, audit_rules and transactions (each with its
    records), JSON lines whose objects have a "type", or CSV of one kind, named like transactions.csv. Fields are called
    as the platform's columns. Either everything is imported or nothing is; a wrong field is named with file and line.

    An id that is there is replaced, unless its transaction was audited or is queued: such ones are kept as they are. A
    platform's database is never written to.
    """
    database = app.open_database()
    try:
        imported = import_files(database, files, ignore_unknown=ignore_unknown)
    finally:
        database.close()
    return Result(data=imported.as_json(), text=[_in_words(imported)])


def _in_words(imported: Imported) -> str:
    counts = ", ".join(_count(number, _NOUNS[kind]) for kind, number in imported.imported.items())
    if not imported.kept:
        return f"Imported {counts}."
    return f"Imported {counts}.\nKept as before, because audited or queued: {_count(imported.kept, 'transaction')}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
