"""What a person may do to the queue as a whole: pause and resume it, set and clear limits, see how they stand. The
command line and the web page call these alike.

What a person may do to batches and transactions stands beside it: `cancelling`, `retrying` and `mending`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

from sqlalchemy import Connection

from gepp_audit import logs
from gepp_audit.database import items, limits, spending, windows
from gepp_audit.database.engine import Database, now
from gepp_audit.database.enqueuing import organization_exists
from gepp_audit.database.limits import CAPS, Caps, Gate, Scope
from gepp_audit.database.windows import Use
from gepp_audit.errors import OperatorError
from gepp_audit.queue.wording import scope_in_words

#: the smallest unit of money in the table of limits
_CENT: Final = Decimal("0.01")
#: as many as the columns hold
_LARGEST: Final[Mapping[str, int | Decimal]] = {
    "calls_per_minute": 2**31 - 1,
    "tokens_per_minute": 2**63 - 1,
    "concurrency": 2**31 - 1,
    "tokens_per_day": 2**63 - 1,
    "cost_per_day": Decimal("999999999999.99"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeReport:
    """One scope: what it allows, what it has used, and what keeps its calls from leaving."""

    organization_id: int | None
    caps: Caps
    #: lowered by the provider's own limits, where answers told them lately
    in_force: Caps
    use: Use
    paused_at: datetime | None = None
    paused_reason: str | None = None
    #: the provider asked to wait until then; None: it does not, or not any more
    throttled_until: datetime | None = None
    #: the provider refuses every call, and why
    blocked_reason: str | None = None

    @property
    def used(self) -> dict[str, int | Decimal]:
        """What counts against each limit now, by its name."""
        return {
            "calls_per_minute": sum(one.calls for one in self.use.minute),
            "tokens_per_minute": sum(one.tokens for one in self.use.minute),
            "concurrency": self.use.in_flight,
            "tokens_per_day": self.use.today.tokens,
            "cost_per_day": self.use.today.cost,
        }

    def as_json(self) -> dict[str, Any]:
        """Its entry in `limits show --json`."""
        used = self.used
        return {
            "scope": limits.scope_of(self.organization_id),
            "organization_id": self.organization_id,
            **{
                name: {"limit": getattr(self.caps, name), "in_force": getattr(self.in_force, name), "used": used[name]}
                for name in CAPS
            },
            "paused_at": self.paused_at,
            "paused_reason": self.paused_reason,
            "throttled_until": self.throttled_until,
            "blocked_reason": self.blocked_reason,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Paused:
    """What `pause` or `resume` did."""

    organization_id: int | None
    paused_at: datetime | None
    reason: str | None
    #: calls under way, which finish
    under_way: int = 0
    #: resume: it had been paused
    was_paused: bool = False
    #: resume of one organization: the whole queue is paused all the same
    all_paused: bool = False
    #: resume of everybody: organizations that are paused by themselves
    still_paused: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The contract of `pause --json` and `resume --json`."""
        return {
            "scope": limits.scope_of(self.organization_id),
            "organization_id": self.organization_id,
            "paused": self.paused_at is not None,
            "paused_at": self.paused_at,
            "reason": self.reason,
            "calls_under_way": self.under_way,
            "was_paused": self.was_paused,
            "all_paused": self.all_paused,
            "still_paused": list(self.still_paused),
        }


def show_limits(database: Database) -> list[ScopeReport]:
    """How the limits stand: everybody's first, then each organization for which something holds."""
    return database.read(_report)


def unpriced_note(
    reports: Sequence[ScopeReport], model: str, price: Callable[[int, int], Decimal | None]
) -> str | None:
    """What to know where money is limited and `price` (USD of so many tokens in and out) knows none of `model`."""
    limited = [one for one in reports if one.caps.cost_per_day is not None]
    if not limited or price(1, 1) is not None:
        return None
    whose = " and ".join(scope_in_words(one.organization_id) for one in limited)
    return (
        f"Money is limited for {whose}, and the price of the model {model} is not known, so no call of theirs may "
        "leave: tell it in GEPP_AUDIT_PRICES, set another GEPP_AUDIT_MODEL, or limit tokens instead."
    )


def set_limits(database: Database, organization_id: int | None, changes: Mapping[str, Any]) -> ScopeReport:
    """Set these limits of a scope, by their names in `Caps`; the others stay. None: everybody's.

    OperatorError: nothing given, a value that is none, an organization that does not exist.
    """
    checked = _checked(changes)
    return _set(database, organization_id, checked)


def clear_limits(database: Database, organization_id: int | None, names: Collection[str] = CAPS) -> ScopeReport:
    """Take the limits of these names in `Caps` (default: every one) of a scope away; a pause stays."""
    return _set(database, organization_id, dict.fromkeys(names))


def _set(database: Database, organization_id: int | None, changes: Mapping[str, Any]) -> ScopeReport:
    def work(connection: Connection) -> ScopeReport:
        # limits of an organization that was deleted may be taken away
        if any(value is not None for value in changes.values()) or organization_id not in limits.of_organizations(
            connection
        ):
            _require_organization(connection, organization_id)
        limits.set_caps(connection, organization_id, changes)
        return _report_of(connection, organization_id)

    report = database.write(work)
    told = {name: _plain(value) for name, value in changes.items()}
    logs.info("limits_changed", scope=limits.scope_of(organization_id), **told)
    return report


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        raise OperatorError(
            "no limit was given.",
            fix="Name at least one: " + ", ".join(_option(name) for name in CAPS) + ".",
            code="no_limit",
            exit_code=2,
        )
    wrong = [_option(name) for name, value in given.items() if not 0 < value <= _LARGEST[name]]
    if isinstance(given.get("cost_per_day"), Decimal) and not wrong:  # what is absurdly large cannot be rounded
        given["cost_per_day"] = given["cost_per_day"].quantize(_CENT, rounding=ROUND_DOWN)
        wrong += ["--cost-per-day"] if not given["cost_per_day"] and "--cost-per-day" not in wrong else []
    if wrong:
        least = f" ({_CENT} USD is the least of --cost-per-day)" if "--cost-per-day" in wrong else ""
        raise OperatorError(
            f"{' and '.join(wrong)} must be above 0 and not absurdly large{least}.",
            fix='To let nothing leave at all, use "gepp-audit pause"; to take limits away, "gepp-audit limits clear".',
            code="limit_value",
            exit_code=2,
        )
    return given


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def pause(database: Database, organization_id: int | None, reason: str | None) -> Paused:
    """Let no further call of a scope leave (None: of anybody); those under way finish and are settled.

    The reason is one line: line breaks and repeated blanks in it become one blank. OperatorError: an organization that
    does not exist.
    """
    told_why = " ".join((reason or "").split()) or None

    def work(connection: Connection) -> Paused:
        _require_organization(connection, organization_id)
        since = limits.pause(connection, organization_id, told_why)
        told = (
            limits.gate(connection) if organization_id is None else limits.of_organizations(connection)[organization_id]
        )
        under_way = items.in_flight(connection)
        return Paused(
            organization_id=organization_id,
            paused_at=since,
            reason=told.paused_reason,
            under_way=sum(under_way.values()) if organization_id is None else under_way.get(organization_id, 0),
        )

    done = database.write(work)
    logs.info("queue_paused", scope=limits.scope_of(organization_id), reason=done.reason)
    return done


def resume(database: Database, organization_id: int | None) -> Paused:
    """Let calls of a scope leave again. An organization stays paused that was paused by itself, and all do while the
    whole queue is.
    """

    def work(connection: Connection) -> Paused:
        lifted = limits.resume(connection, organization_id)
        if not lifted:
            _require_organization(connection, organization_id)
        own = limits.of_organizations(connection)
        still = tuple(id_ for id_, scope in sorted(own.items()) if scope.paused_at is not None)
        return Paused(
            organization_id=organization_id,
            paused_at=None,
            reason=None,
            was_paused=lifted,
            all_paused=organization_id is not None and limits.gate(connection).paused_at is not None,
            still_paused=still if organization_id is None else (),
        )

    done = database.write(work)
    if done.was_paused:
        logs.info("queue_resumed", scope=limits.scope_of(organization_id))
    return done


def _require_organization(connection: Connection, organization_id: int | None) -> None:
    if organization_id is not None and not organization_exists(connection, organization_id):
        raise OperatorError(
            f"there is no {scope_in_words(organization_id)}.",
            fix="Look its id up in the platform's table organizations.",
            code="unknown_organization",
            exit_code=2,
        )


# -- how they stand ----------------------------------------------------------------------------------------------------


def _report(connection: Connection) -> list[ScopeReport]:
    gate, moment = limits.gate(connection), now(connection)
    scopes: dict[int | None, Scope] = {None: gate} | dict(sorted(limits.of_organizations(connection).items()))
    wanted = list(scopes)
    minutes = windows.minute(connection, moment, wanted)
    days = spending.today(connection, moment, wanted, write=False)
    in_flight = items.in_flight(connection)
    found = []
    for id_, scope in scopes.items():
        use = Use(
            minute=minutes[id_],
            in_flight=sum(in_flight.values()) if id_ is None else in_flight.get(id_, 0),
            today=days[id_],
        )
        found.append(_one(id_, scope, use, moment))
    return found


def _one(organization_id: int | None, scope: Scope, use: Use, moment: datetime) -> ScopeReport:
    throttled = scope.throttled_until is not None and scope.throttled_until > moment
    return ScopeReport(
        organization_id=organization_id,
        caps=scope.caps,
        in_force=scope.caps_at(moment) if isinstance(scope, Gate) else scope.caps,
        use=use,
        paused_at=scope.paused_at,
        paused_reason=scope.paused_reason,
        throttled_until=scope.throttled_until if throttled else None,
        blocked_reason=scope.blocked_reason if isinstance(scope, Gate) else None,
    )


def _report_of(connection: Connection, organization_id: int | None) -> ScopeReport:
    found = {one.organization_id: one for one in _report(connection)}
    nothing = ScopeReport(organization_id=organization_id, caps=Caps(), in_force=Caps(), use=Use())
    return found.get(organization_id, nothing)
