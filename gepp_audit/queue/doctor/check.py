"""What a check is, and what a doctor's report says as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from gepp_audit.queue.diagnosis import Status

if TYPE_CHECKING:
    from gepp_audit.queue.doctor.surroundings import Surroundings

#: the check without which nothing that matters can be looked at
_DATABASE: Final = "database"
#: the worst first
_ORDER: Final = (Status.CRITICAL, Status.WARNING, Status.UNKNOWN, Status.OK)


class Subject(StrEnum):
    """What a check looks at."""

    CONFIGURATION = "configuration"
    DATABASE = "database"
    PROVIDER = "provider"
    MACHINE = "machine"
    QUEUE = "queue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one look brought. No secret stands in it."""

    status: Status
    #: what is there, in full sentences
    seen: str
    #: what to type or change; None where nothing is wrong
    fix: str | None = None


def ok(seen: str) -> Finding:
    """All is well."""
    return Finding(status=Status.OK, seen=seen)


def warning(seen: str, fix: str) -> Finding:
    """The queue works, but not for ever or not as it should."""
    return Finding(status=Status.WARNING, seen=seen, fix=fix)


def critical(seen: str, fix: str) -> Finding:
    """The queue cannot work like this, or does harm."""
    return Finding(status=Status.CRITICAL, seen=_one_line(seen), fix=fix)


def unknown(seen: str, fix: str) -> Finding:
    """It could not be looked at."""
    return Finding(status=Status.UNKNOWN, seen=_one_line(seen), fix=fix)


def _one_line(seen: str) -> str:
    """An error may name several things, a line each; in a table's cell a line break would be shown as \\n."""
    first, *more = (line.strip() for line in seen.splitlines() if line.strip())
    return f"{first} {'; '.join(more)}" if more else first


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One check as it is listed and documented."""

    #: a contract: monitors and documents name it
    name: str
    subject: Subject
    #: what it looks at and when it complains
    meaning: str
    #: what is done about it, in general
    fix: str
    #: looks, and says what it saw; None: it does not apply here
    look: Callable[[Surroundings], Finding | None]
    #: asks the provider, so only with --online
    online: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check that was done."""

    name: str
    subject: Subject
    status: Status
    seen: str
    fix: str | None

    def as_json(self) -> dict[str, Any]:
        """Its entry in `doctor --json`."""
        return {
            "name": self.name,
            "subject": self.subject.value,
            "status": self.status.value,
            "seen": self.seen,
            "fix": self.fix,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All checks, in the order of the list."""

    checks: tuple[Check, ...]
    #: (variable, value with secrets masked, origin)
    settings: tuple[tuple[str, str, str], ...] = ()

    @property
    def status(self) -> Status:
        """The worst, critical before warning before unknown; but unknown where the database could not be reached."""
        if any(check.name == _DATABASE and check.status is Status.UNKNOWN for check in self.checks):
            return Status.UNKNOWN
        return min((check.status for check in self.checks), key=_ORDER.index, default=Status.UNKNOWN)

    @property
    def counts(self) -> Counter[Status]:
        """How many checks have which status."""
        return Counter(check.status for check in self.checks)

    @property
    def wrong(self) -> tuple[Check, ...]:
        """Those that are not ok, the worst first."""
        found = [check for check in self.checks if check.status is not Status.OK]
        return tuple(sorted(found, key=lambda check: _ORDER.index(check.status)))

    def as_json(self) -> dict[str, Any]:
        """The contract of `doctor --json`."""
        return {
            "status": self.status.value,
            "checks": [check.as_json() for check in self.checks],
            "settings": [{"name": name, "value": value, "origin": origin} for name, value, origin in self.settings],
        }
