"""Asking a person before something is done that cannot be undone: at a terminal only, elsewhere --yes must be given."""

from __future__ import annotations

import sys

import click

from gepp_audit.cli.app import is_terminal


def require_answer(what: str, yes: bool) -> None:
    """Refuse before anything is done where nobody could answer. `what`: the command or flag that would ask."""
    if not yes and not _can_ask():
        raise click.UsageError(f"{what} asks first, and there is no terminal to ask at; add --yes if you are sure.")


def confirm(question: str, yes: bool) -> None:
    """Ask, unless `yes`; anything but a yes ends the command."""
    if not yes:
        click.confirm(question, abort=True, err=True)


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and is_terminal(sys.stderr)
