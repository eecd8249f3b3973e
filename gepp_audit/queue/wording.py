"""Figures and moments as a person reads them in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def moment_in_words(moment: datetime) -> str:
    """`2026-01-31 12:00 UTC`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def exact_moment(moment: datetime) -> str:
    """`2026-01-31 12:00:05 UTC`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(moment: datetime, now: datetime) -> str:
    """`2026-01-31 12:00 UTC (5 min ago)`."""
    return f"{moment_in_words(moment)} ({span(now - moment)} ago)"


def span(length: timedelta) -> str:
    """`42 s`, `5 min`, `3 h 20 min`, `2 d 4 h`; a negative length is `0 s`."""
    whole = max(int(length.total_seconds()), 0)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def counted(count: int, one: str, several: str | None = None) -> str:
    """`1 call`, `3 calls`."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def listed(ids: tuple[int, ...], most: int = 20) -> str:
    """`3, 5 and 8`, or the first `most` of them and how many more there are."""
    named = [str(id_) for id_ in ids[:most]]
    if len(ids) > most:
        return f"{', '.join(named)} and {len(ids) - most} more"
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def capital(text: str) -> str:
    """The text with its first letter capital."""
    return text[:1].upper() + text[1:]


def sentence(text: str | None) -> str:
    """The text with a full stop where it lacks one."""
    told = (text or "").strip()
    return told if told.endswith((".", "!", "?")) else f"{told}."


def scope_in_words(organization_id: int | None) -> str:
    """`organization 7`, or `all organizations`."""
    return "all organizations" if organization_id is None else f"organization {organization_id}"
