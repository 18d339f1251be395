"""Figures in few characters. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

BARS: Final = "▁▂▃▄▅▆▇█"


def count(number: float) -> str:
    """1234 -> 1,234; 123456 -> 123k."""
    if number < 10_000:
        return f"{number:,.0f}"
    for unit in ("k", "M", "G"):
        number /= 1000
        if number < 1000:
            return f"{number:.1f}{unit}" if number < 100 else f"{number:.0f}{unit}"
    return f"{number:,.0f}G"


def rate(per_second: float) -> str:
    """As count, with a decimal where there is little of it."""
    return f"{per_second:.1f}" if 0 < per_second < 10 else count(per_second)


def size(bytes_: float) -> str:
    """1536 -> 1.5K, in powers of 1024."""
    for unit in ("B", "K", "M", "G", "T"):
        if bytes_ < 1024 or unit == "T":
            return f"{bytes_:.0f}{unit}" if unit == "B" or bytes_ >= 100 else f"{bytes_:.1f}{unit}"
        bytes_ /= 1024
    raise AssertionError("unreachable")


def span(seconds: float) -> str:
    """75 -> 1m15s: the two largest units."""
    whole = max(0, int(seconds))
    for unit_s, unit, next_s, following in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // next_s
            return f"{whole // unit_s}{unit}{rest}{following}" if rest else f"{whole // unit_s}{unit}"
    return f"{whole}s"


def milliseconds(us: float) -> str:
    """3796 -> 3.8ms."""
    ms = us / 1000
    return f"{ms:.1f}ms" if ms < 100 else f"{ms:,.0f}ms"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last `width` values as bars against the largest of them; a gap for what is not known."""
    recent = list(values)[-width:]
    top = max((value for value in recent if value is not None), default=0.0)
    return "".join(_bar(value, top) for value in recent).rjust(width)


def _bar(value: float | None, top: float) -> str:
    if value is None:
        return " "
    if top <= 0 or value <= 0:
        return BARS[0]
    return BARS[min(len(BARS) - 1, math.ceil(value / top * len(BARS)) - 1)]
