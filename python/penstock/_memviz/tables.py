"""Tables: central lists by class, caches, direct mappings, and the buffers held longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from penstock._memviz.drawing import Anchor, Drawing, text_width
from penstock._memviz.layout import (
    MARGIN,
    RIGHT,
    STATES,
    address,
    counted,
    duration,
    exactly,
    percent,
    shares,
)
from penstock._memviz.snapshot import Books, Cache, Direct, Held, SizeClass, Snapshot, Span
from penstock._memviz.style import FONTS

ROW: Final = 23
SHOWN: Final = 24
"""Of long lists, as many of the largest are shown, and the rest as one row."""


@dataclass(frozen=True)
class Column:
    """``width`` includes the space to the next column."""

    title: str
    width: float
    anchor: Anchor = "end"
    style: str = "body"


@dataclass(frozen=True)
class Bar:
    """A cell that shows ``(style, bytes)`` pairs in a row, at ``whole`` bytes to the full width."""

    parts: Sequence[tuple[str, int]]
    whole: int


Cell = str | Bar


def table(
    drawing: Drawing,
    y: float,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    total: bool = False,
) -> float:
    """Draws a table from ``y`` down and returns where it ends. With ``total`` the last row is set off."""
    _row(drawing, y, columns, [column.title for column in columns], "small")
    y += ROW
    drawing.line(MARGIN, y - 6, RIGHT, y - 6, "strongrule")
    for index, row in enumerate(rows):
        last = index == len(rows) - 1
        if last and total:
            drawing.line(MARGIN, y - 6, RIGHT, y - 6, "strongrule")
        elif index:
            drawing.line(MARGIN, y - 6, RIGHT, y - 6, "rule")
        _row(drawing, y, columns, row, "strong" if last and total else "")
        y += ROW
    return y


def _row(drawing: Drawing, y: float, columns: Sequence[Column], cells: Sequence[Cell], style: str) -> None:
    x: float = MARGIN
    for column, cell in zip(columns, cells, strict=True):
        room = column.width - 16
        if isinstance(cell, Bar):
            stacked(drawing, x, y, room, 12, cell.parts, cell.whole)
        elif cell:
            at = {"start": x, "middle": x + room / 2, "end": x + room}[column.anchor]
            drawing.text(at, y + 11, cell, style or column.style, anchor=column.anchor, width=room)
        x += column.width


def stacked(
    drawing: Drawing,
    x: float,
    y: float,
    width: float,
    height: float,
    parts: Sequence[tuple[str, int]],
    whole: int,
) -> None:
    """Draws ``parts`` one behind the other. What is there at all is seen: it gets a pixel, if one is left."""
    end = x + width
    for style, nbytes in parts:
        if nbytes > 0 and whole > 0:
            length = min(max(width * nbytes / whole, 1), end - x)
            drawing.rect(x, y, length, height, style)
            x += length


CLASSES: Final = (
    Column("slot bytes", 96),
    Column("spans", 72),
    Column("slots", 92),
    Column("bytes", 150),
    Column("in use", 150),
    Column("in caches", 136),
    Column("central list", 140),
    Column("free", 150),
    Column("fragmentation", 116),
    Column("", 218, "start"),
)


def central_lists(drawing: Drawing, y: float, classes: Sequence[SizeClass]) -> float:
    """A row for each class, in bytes, and their sum."""
    sums = [sum(column) for column in zip(*(shares(found.books) for found in classes), strict=True)]
    books = Books(*sums)
    rows = [
        _class_row(exactly(found.class_bytes), len(found.spans), found.slots, found.books)
        for found in classes
    ]
    spans, slots = sum(len(found.spans) for found in classes), sum(found.slots for found in classes)
    rows.append(_class_row("all", spans, slots, books))
    return table(drawing, y, CLASSES, rows, total=True)


def _class_row(name: str, spans: int, slots: int, books: Books) -> list[Cell]:
    return [
        name,
        exactly(spans),
        exactly(slots),
        exactly(books.mapped),
        *(exactly(nbytes) for nbytes in shares(books)),
        percent(books.cached, books.reserved),
        Bar([*zip(STATES, shares(books), strict=True)], books.mapped),
    ]


CACHES: Final = (
    Column("cache", 80),
    Column("slots", 90),
    Column("bytes", 140),
    Column("on their way home", 240),
    Column("slots × bytes of each", 470, "start", "small"),
    Column("", 300, "start"),
)


def caches(drawing: Drawing, y: float, found: Sequence[tuple[int, Cache]]) -> float:
    """A row for each cache under its number, the fullest first."""
    ordered = sorted(found, key=lambda pair: (-pair[1].nbytes, pair[0]))
    whole = max(cache.nbytes for _, cache in ordered)
    rows: list[list[Cell]] = [
        [
            exactly(number),
            exactly(sum(slots for _, slots in cache.bins)),
            exactly(cache.nbytes),
            _homeward([cache]),
            _bins(cache, CACHES[4].width - 16),
            Bar([("nearby", cache.nbytes)], whole),
        ]
        for number, cache in ordered[:SHOWN]
    ]
    rest = [cache for _, cache in ordered[SHOWN:]]
    if rest:
        slots = sum(slots for cache in rest for _, slots in cache.bins)
        nbytes = sum(cache.nbytes for cache in rest)
        rows.append(
            ["others", exactly(slots), exactly(nbytes), _homeward(rest), counted(len(rest), "cache"), ""]
        )
    return table(drawing, y, CACHES, rows)


def _bins(cache: Cache, room: float) -> str:
    """What a cache has, the largest share first, and how much of it there was no room for."""
    ordered = sorted(cache.bins, key=lambda found: (-found[0] * found[1], found[0]))
    text = ""
    for index, (class_bytes, slots) in enumerate(ordered):
        longer = f"{text}, {slots:,} × {class_bytes:,}".removeprefix(", ")
        rest = f", {len(ordered) - index:,} more"
        if text_width(longer + rest, FONTS["small"][0]) > room:
            return f"{text}{rest}".removeprefix(", ")
        text = longer
    return text


def _homeward(found: Sequence[Cache]) -> str:
    slots = sum(cache.remote_slots for cache in found)
    return (
        f"{counted(slots, 'slot')}, {sum(cache.remote_bytes for cache in found):,} bytes" if slots else "none"
    )


DIRECT: Final = (
    Column("address", 150, "start", "code"),
    Column("bytes", 150),
    Column("held for", 120),
    Column("acquired at", 530, "start", "code"),
    Column("", 370, "start"),
)


def direct(drawing: Drawing, y: float, mappings: Sequence[Direct], held: Sequence[Held]) -> float:
    """A row for each direct mapping, the largest first."""
    sites = {found.address: found for found in held}
    ordered = sorted(mappings, key=lambda mapping: (-mapping.nbytes, mapping.base))
    whole = ordered[0].nbytes
    rows: list[list[Cell]] = []
    for mapping in ordered[:SHOWN]:
        known = sites.get(mapping.base)
        rows.append(
            [
                address(mapping.base),
                exactly(mapping.nbytes),
                duration(known.seconds) if known else "not watched",
                known.site if known else "",
                Bar([("used", mapping.nbytes)], whole),
            ]
        )
    rest = ordered[SHOWN:]
    if rest:
        rows.append(
            [counted(len(rest), "other"), exactly(sum(mapping.nbytes for mapping in rest)), "", "", ""]
        )
    return table(drawing, y, DIRECT, rows)


HELD: Final = (
    Column("", 44, "end", "heldtext"),
    Column("held for", 120),
    Column("asked for", 140),
    Column("slot bytes", 140),
    Column("address", 166, "start", "code"),
    Column("node", 70),
    Column("acquired at", 640, "start", "code"),
)


def longest_held(drawing: Drawing, y: float, snapshot: Snapshot, held: Sequence[Held]) -> float:
    """A row for each buffer under the number that marks it in the map."""
    nodes = {span.base: arena.node for arena in snapshot.arenas for span in arena.spans}
    nodes |= {mapping.base: mapping.node for mapping in snapshot.direct}
    rows: list[list[Cell]] = []
    for number, found in enumerate(held, 1):
        place = snapshot.place(found.address)
        size = place.class_bytes if isinstance(place, Span) else place.nbytes if place else 0
        rows.append(
            [
                exactly(number),
                duration(found.seconds),
                exactly(found.nbytes),
                exactly(size),
                address(found.address),
                exactly(nodes[place.base]) if place else "",
                found.site,
            ]
        )
    return table(drawing, y, HELD, rows)
