"""The page: what the pool adds up to, who holds memory longest, and a map of each node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from penstock._core import __version__
from penstock._memviz import spans, tables
from penstock._memviz.drawing import Drawing, text_width
from penstock._memviz.layout import (
    INNER,
    MARGIN,
    RIGHT,
    STATES,
    WIDTH,
    counted,
    exactly,
    percent,
    roughly,
    shares,
)
from penstock._memviz.snapshot import Books, Held, Snapshot

MARKED: Final = 16
"""As many of the buffers held longest are listed, and marked in the map."""

LEGEND: Final = (
    ("used", "in use"),
    ("nearby", "cached, in caches"),
    ("central", "cached, in central lists"),
    ("free", "free"),
    ("unused", "in no span"),
    ("mark", "longest held"),
)

NOTES: Final = (
    "Figures are bytes, counted in size classes. Fragmentation is cached ÷ reserved.",
    "Free is what was never lent or was given back to the system, in spans and in no span.",
    "Cached in caches includes what is on its way home to one from the thread that released it.",
    "A slot that left its central list is in use or in a cache, which only its class as a whole can tell:",
    "in arenas and spans such slots all have the colour of what is in use.",
)

UNWATCHED: Final = (
    "None of the buffers in use is watched: one in 128 is, or all with PENSTOCK_DEBUG=buffers=paranoid."
)


def draw(snapshot: Snapshot) -> str:
    """The SVG document of ``snapshot``."""
    drawing = Drawing()
    books = snapshot.books()
    marks = [*enumerate(snapshot.held[:MARKED], 1)]
    detail = spans.Detail.of(snapshot)
    y = _header(drawing, snapshot, books)
    y = _held(drawing, y, snapshot)
    if not snapshot.nodes:
        drawing.text(MARGIN, y, "The pool has no memory yet. It maps some when the first buffer is acquired.")
        y += 16
    for node in snapshot.nodes:
        y = _node(drawing, y, snapshot, node, marks, detail)
    y = _footer(drawing, y)
    return drawing.document(WIDTH, round(y), "Memory of a penstock pool", _summary(snapshot, books))


def _summary(snapshot: Snapshot, books: Books) -> str:
    return (
        f"{books.in_use:,} bytes in use, {books.cached:,} cached ({books.in_caches:,} in caches, "
        f"{books.central:,} in central lists), {books.reserved:,} reserved, {books.free:,} free, "
        f"{books.mapped:,} mapped, in {counted(len(snapshot.arenas), 'arena')}, "
        f"{counted(sum(len(arena.spans) for arena in snapshot.arenas), 'span')}, "
        f"{counted(len(snapshot.caches), 'cache')} and {counted(len(snapshot.direct), 'direct mapping')}."
    )


def _header(drawing: Drawing, snapshot: Snapshot, books: Books) -> float:
    drawing.text(MARGIN, 62, "Memory of a penstock pool", "h1")
    taken = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(snapshot.taken))
    drawing.text(RIGHT, 62, f"{taken} · penstock {__version__}", "muted", anchor="end")
    limit = "no limit" if snapshot.max_bytes is None else f"limit {counted(snapshot.max_bytes, 'byte')}"
    facts = [
        limit,
        f"fragmentation {percent(books.cached, books.reserved)}",
        f"peak of reserved {counted(snapshot.stats.reserved_peak, 'byte')}",
        counted(len(snapshot.arenas), "arena"),
        counted(sum(len(arena.spans) for arena in snapshot.arenas), "span"),
        counted(len(snapshot.caches), "cache"),
        counted(len(snapshot.direct), "direct mapping"),
    ]
    drawing.text(MARGIN, 88, " · ".join(facts), "muted", width=INNER)

    cards = (
        ("in use", books.in_use, "used"),
        ("cached", books.cached, "central"),
        ("reserved = in use + cached", books.reserved, ""),
        ("free", books.free, "free"),
        ("mapped = reserved + free", books.mapped, ""),
    )
    gap = 16
    width = (INNER - gap * (len(cards) - 1)) / len(cards)
    for index, (name, nbytes, style) in enumerate(cards):
        _card(drawing, MARGIN + index * (width + gap), 112, width, name, nbytes, style, books.mapped)
    y = 228.0
    drawing.rect(MARGIN, y, INNER, 26, "unused")
    tables.stacked(drawing, MARGIN, y, INNER, 26, [*zip(STATES, shares(books), strict=True)], books.mapped)
    return _legend(drawing, y + 44, books, marked=bool(snapshot.held))


def _card(
    drawing: Drawing, x: float, y: float, width: float, name: str, nbytes: int, style: str, whole: int
) -> None:
    drawing.rect(x, y, width, 98, "panel", corner=6)
    inset = x + 16
    if style:
        drawing.rect(inset, y + 17, 11, 11, style, corner=2)
        inset += 19
    drawing.text(inset, y + 27, name, "muted", width=x + width - 16 - inset)
    drawing.text(x + 16, y + 60, exactly(nbytes), "figure", width=width - 32)
    share = f"{roughly(nbytes)} · {percent(nbytes, whole)} of mapped" if whole else "bytes"
    drawing.text(x + 16, y + 83, share, "small", width=width - 32)


def _legend(drawing: Drawing, y: float, books: Books, *, marked: bool) -> float:
    x: float = MARGIN
    amounts = (*shares(books), None, *[None] * marked)
    for (style, name), nbytes in zip(LEGEND, amounts, strict=False):
        label = name if nbytes is None else f"{name}: {nbytes:,}"
        needed = 20 + text_width(label, 13) + 24
        if x + needed > RIGHT:
            x, y = MARGIN, y + 22
        drawing.rect(x, y - 11, 12, 12, style, corner=2)
        drawing.text(x + 20, y, label, "body")
        x += needed
    return y + 30


def _held(drawing: Drawing, y: float, snapshot: Snapshot) -> float:
    if not snapshot.held:
        y = _section(drawing, y, "Longest held", "")
        drawing.text(MARGIN, y + 10, UNWATCHED, "muted", width=INNER)
        return y + 36
    shown = min(len(snapshot.held), MARKED)
    note = f"{exactly(shown)} of {counted(len(snapshot.held), 'watched buffer')}"
    y = _section(drawing, y, "Longest held", note)
    return tables.longest_held(drawing, y, snapshot, snapshot.held[:MARKED]) + 24


def _section(drawing: Drawing, y: float, title: str, note: str, style: str = "h2") -> float:
    y += 24
    drawing.text(MARGIN, y, title, style)
    if note:
        drawing.text(RIGHT, y, note, "muted", anchor="end", width=INNER - 300)
    return y + 16


def _node(
    drawing: Drawing,
    y: float,
    snapshot: Snapshot,
    node: int,
    marks: Sequence[tuple[int, Held]],
    detail: spans.Detail,
) -> float:
    books = snapshot.books(node)
    arenas = [arena for arena in snapshot.arenas if arena.node == node]
    classes = snapshot.classes(node)
    caches = [(number, cache) for number, cache in enumerate(snapshot.caches, 1) if cache.node == node]
    direct = [mapping for mapping in snapshot.direct if mapping.node == node]
    y += 8
    drawing.line(MARGIN, y, RIGHT, y, "strongrule")
    y = _section(
        drawing,
        y + 10,
        f"Node {node}",
        f"{books.in_use:,} in use, {books.cached:,} cached, {books.free:,} free, "
        f"{counted(books.mapped, 'byte')} mapped, fragmentation {percent(books.cached, books.reserved)}",
    )
    if arenas:
        y = _section(drawing, y, "Arenas", spans.explain_arenas(arenas, detail), "h3")
        y = spans.arenas(drawing, y + 6, arenas, marks, detail) + 12
    if classes:
        y = _section(drawing, y, "Central lists, by class", "bytes of the class's spans", "h3")
        y = tables.central_lists(drawing, y + 4, classes) + 12
        y = _section(drawing, y, "Spans, by class", spans.explain_tiles(detail), "h3")
        y = spans.tiles(drawing, y + 4, classes, marks, detail) + 12
    if caches:
        y = _section(drawing, y, "Caches", counted(len(caches), "cache"), "h3")
        y = tables.caches(drawing, y + 4, caches) + 12
    if direct:
        y = _section(drawing, y, "Direct mappings", counted(len(direct), "mapping"), "h3")
        y = tables.direct(drawing, y + 4, direct, snapshot.held) + 12
    return y + 8


def _footer(drawing: Drawing, y: float) -> float:
    y += 8
    drawing.line(MARGIN, y, RIGHT, y, "rule")
    for line in NOTES:
        y += 22
        drawing.text(MARGIN, y, line, "small", width=INNER)
    return y + 36
