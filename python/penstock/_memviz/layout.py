"""Where things stand on the page, and how quantities are worded."""

from __future__ import annotations

from typing import Final

from penstock._memviz.snapshot import Books

WIDTH: Final = 1400
MARGIN: Final = 40
INNER: Final = WIDTH - 2 * MARGIN
RIGHT: Final = WIDTH - MARGIN

STATES: Final = ("used", "nearby", "central", "free")
"""The styles of what `Books` tell apart, in the order in which they are stacked."""


def shares(books: Books) -> tuple[int, int, int, int]:
    """The bytes of ``books`` in the order of `STATES`."""
    return books.in_use, books.in_caches, books.central, books.free


def exactly(count: int) -> str:
    return f"{count:,}"


def counted(count: int, noun: str, plural: str = "") -> str:
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def roughly(nbytes: int) -> str:
    """``nbytes`` in the unit that gives one to four digits: ``"11.8 MiB"``."""
    if nbytes < 1024:
        return counted(nbytes, "byte")
    value = nbytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if value < 1023.95:
            return f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def duration(seconds: float) -> str:
    """``seconds`` in its two largest units: ``"2 h 3 min"``."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    left = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if left >= length:
            return f"{left // length:,} {unit} {left % length // part} {smaller}"
    return f"{left // 60} min {left % 60} s"


def address(value: int) -> str:
    return f"{value:#x}"
