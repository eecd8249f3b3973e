"""The one exception an operator ever reads: what happened, why, what to do."""

from __future__ import annotations


class OperatorError(Exception):
    """A refusal or failure told in words for the person who reads it at 3 a.m.

    `message` says what happened and why, `fix` the next thing to type or change. `code` is stable and stands in JSON.
    Neither holds a secret, nor a value that a database driver quoted. `exit_code` is the process's:
    1 could not work, 2 wrong usage, 3 worked but a batch ended failed.
    """

    def __init__(self, message: str, *, fix: str, code: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.code = code
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n{self.fix}"
