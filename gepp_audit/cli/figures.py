"""Figures where there is little room: as many digits as one compares by."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

_BAR: Final = 10


def short_count(count: int) -> str:
    """`999`, `12.3k`, `4.5M`: four digits are enough to compare by."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 100 * size else f"{count // size}{unit}"
    return str(count)


def short_money(cost: Decimal) -> str:
    """`12.50`, below 1 `0.0012`."""
    return f"{cost:.2f}" if cost >= 1 else f"{cost:.4f}"


def used_bar(used: int | Decimal, most: int | Decimal) -> str:
    """`████······  40 %`; what is far above the limit, since that was lowered, is `>999 %`."""
    share = used / most
    full = min(int(share * _BAR), _BAR)
    per_cent = f"{int(share * 100):3d}" if share < 10 else ">999"
    return f"{'█' * full}{'·' * (_BAR - full)} {per_cent} %"
