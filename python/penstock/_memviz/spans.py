"""Spans: by address in the bars of their arenas, and slot by slot in tiles.

A large pool has too many of either to draw each. `Detail` decides for the whole page how much is drawn; what
is left out is not missing but drawn together with its neighbours, in proportion. So the page stays a few
screens long, and its file about two megabytes at most, whatever the pool's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, sqrt
from typing import Final

from penstock._memviz.drawing import Drawing
from penstock._memviz.layout import INNER, MARGIN, RIGHT, address, counted, exactly
from penstock._memviz.snapshot import BARE, CACHED, OUT, Arena, Held, SizeClass, Snapshot, Span

Box = tuple[float, float, float, float]

SLOT_STYLES: Final = {OUT: "used", CACHED: "central", BARE: "free"}

BAR_X: Final = 330
BAR_WIDTH: Final = 780
STRIP_X: Final = MARGIN + 130
STRIP_WIDTH: Final = INNER - 130
STRIP_BIN: Final = 8.0
BAR_BIN: Final = 4.0

COLUMNS_X: Final = MARGIN + 250
COLUMNS_WIDTH: Final = INNER - 250
COLUMNS_MAX: Final = 250
COLUMNS_BUDGET: Final = 10_000


@dataclass(frozen=True)
class Detail:
    """How much of a pool is drawn. A box takes about 24 bytes of the file, a tooltip about 200."""

    by_slot: bool
    """Whether spans are drawn slot by slot, or each as one column."""
    tooltips: bool
    strip_rows: int
    """How many rows the arenas of a node are packed into, or 0: each has its own row."""
    columns: int
    """How many columns a class may have; where it has more spans, neighbours share one."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> Detail:
        classes = [found for node in snapshot.nodes for found in snapshot.classes(node)]
        spans = sum(len(found.spans) for found in classes)
        columns = COLUMNS_MAX
        while columns > 12 and sum(min(len(found.spans), columns) for found in classes) > COLUMNS_BUDGET:
            columns -= 1
        return cls(
            by_slot=spans <= 240 and sum(_runs(span) for found in classes for span in found.spans) <= 30_000,
            tooltips=spans <= 1_200,
            strip_rows=max(80 // len(snapshot.nodes), 1) if len(snapshot.arenas) > 40 else 0,
            columns=columns,
        )


class Stack:
    """Boxes by style, so that a whole bar is a few elements."""

    def __init__(self) -> None:
        self._boxes: dict[str, list[Box]] = {}

    def add(self, style: str, box: Box) -> None:
        if box[2] > 0 and box[3] > 0:
            self._boxes.setdefault(style, []).append(box)

    def column(self, box: Box, spans: Sequence[Span], whole: int) -> None:
        """``spans`` from the bottom up: what is out, what is cached, what is free, of ``whole`` bytes."""
        x, y, width, height = box
        out = sum(span.out * span.class_bytes for span in spans)
        cached = sum(span.cached * span.class_bytes for span in spans)
        free = sum(span.nbytes for span in spans) - out - cached
        bottom = y + height
        for style, nbytes in (("used", out), ("central", cached), ("free", free)):
            part = height * nbytes / whole
            bottom -= part
            self.add(style, (x, bottom, width, part))

    def paint(self, drawing: Drawing) -> None:
        for style, boxes in self._boxes.items():
            drawing.rects(boxes, style)


def describe(span: Span) -> str:
    bare = len(span.slots) - span.out - span.cached
    return (
        f"span {address(span.base)}, {counted(span.nbytes, 'byte')}: {counted(len(span.slots), 'slot')} of "
        f"{counted(span.class_bytes, 'byte')}, {span.out:,} out, {span.cached:,} cached, {bare:,} free"
    )


# Arenas


def arenas(
    drawing: Drawing, y: float, found: Sequence[Arena], marks: Sequence[tuple[int, Held]], detail: Detail
) -> float:
    """The arenas of one node by address; the height of a colour in a span is its share."""
    found = sorted(found, key=lambda arena: arena.base)
    whole = max(arena.nbytes for arena in found)
    if detail.strip_rows:
        return _strips(drawing, y, found, whole, _together(found, detail))
    for arena in found:
        drawing.text(MARGIN, y + 16, address(arena.base), "code")
        drawing.text(BAR_X - 20, y + 16, counted(arena.nbytes, "byte"), "body", anchor="end", width=150)
        scale = BAR_WIDTH / whole
        _arena(drawing, (BAR_X, y, arena.nbytes * scale, 24), arena, BAR_BIN)
        if detail.tooltips:
            for span in arena.spans:
                left = BAR_X + (span.base - arena.base) * scale
                drawing.rect(left, y, span.nbytes * scale, 24, "outline", title=describe(span))
        for _, held in marks:
            if arena.base <= held.address < arena.base + arena.nbytes:
                drawing.rect(BAR_X + (held.address - arena.base) * scale - 1.5, y - 6, 3, 5, "mark")
        unused = sum(length for _, length in arena.free)
        notes = f"{counted(len(arena.spans), 'span')}, {unused:,} unused"
        drawing.text(RIGHT, y + 16, notes, "small", anchor="end", width=RIGHT - BAR_X - BAR_WIDTH - 16)
        y += 34
        if arena.huge:
            drawing.text(BAR_X - 20, y - 2, "huge pages", "small", anchor="end")
            y += 12
    return y


def _arena(drawing: Drawing, box: Box, arena: Arena, least: float) -> None:
    """Draws one arena; neighbours that are narrower than ``least`` together."""
    x, y, width, height = box
    scale = width / arena.nbytes
    drawing.rect(x, y, width, height, "unused")
    stack = Stack()
    for spans in _bins(arena, least / scale):
        start, end = spans[0].base, spans[-1].base + spans[-1].nbytes
        left = x + (start - arena.base) * scale
        stack.column((left, y, (end - start) * scale, height), spans, end - start)
    stack.paint(drawing)


def _bins(arena: Arena, least: float) -> Iterator[list[Span]]:
    """The spans of ``arena`` by address, in lists that reach over at most ``least`` bytes or hold one."""
    gathered: list[Span] = []
    for span in sorted(arena.spans, key=lambda span: span.base):
        if gathered and span.base + span.nbytes - gathered[0].base > least:
            yield gathered
            gathered = []
        gathered.append(span)
    if gathered:
        yield gathered


def _strips(drawing: Drawing, y: float, found: Sequence[Arena], whole: int, together: int) -> float:
    """Arenas in rows of as many as ``together``, with the address of the first."""
    gap = 4
    room = (STRIP_WIDTH - gap * (together - 1)) / together
    for first in range(0, len(found), together):
        row = found[first : first + together]
        drawing.text(MARGIN, y + 11, address(row[0].base), "code")
        for index, arena in enumerate(row):
            box = (STRIP_X + index * (room + gap), y, room * arena.nbytes / whole, 13)
            _arena(drawing, box, arena, STRIP_BIN)
        y += 18
    return y + 6


# Tiles


def explain_arenas(found: Sequence[Arena], detail: Detail) -> str:
    """How to read what `arenas` draws."""
    how = "spans by address; the height of a colour is its share of the span"
    if not detail.strip_rows:
        return how
    rows = f"{_together(found, detail):,} to a row, with the address of the first"
    return f"{counted(len(found), 'arena')}, {rows}; {how}"


def explain_tiles(detail: Detail) -> str:
    """How to read what `tiles` draws."""
    if detail.by_slot:
        return "slots by address; above, their bytes; below, how many of them are out"
    return "slot bytes, spans × slots; the fullest first; the height of a colour is its share of the span"


def _together(found: Sequence[Arena], detail: Detail) -> int:
    return ceil(len(found) / detail.strip_rows)


def tiles(
    drawing: Drawing,
    y: float,
    classes: Sequence[SizeClass],
    marks: Sequence[tuple[int, Held]],
    detail: Detail,
) -> float:
    """The spans of one node by class: slot by slot, or, where there are too many, each as a column."""
    if not detail.by_slot:
        return _columns(drawing, y, classes, detail.columns)
    count = sum(len(found.spans) for found in classes)
    across = 11 if count <= 66 else 14
    gap = 14
    width = (INNER - gap * (across - 1)) / across
    height = round(width * 0.55)
    labelled = 0
    for index, span in enumerate(_by_address(classes)):
        column = index % across
        if column == 0 and index:
            y += height + 46
        x = MARGIN + column * (width + gap)
        if column == 0 or span.class_bytes != labelled:
            labelled = span.class_bytes
            drawing.text(x, y + 11, exactly(labelled), "strong" if across == 11 else "body", width=width)
        _tile(drawing, (x, y + 18, width, height), span, marks)
        drawing.text(x, y + height + 33, f"{span.out:,}/{len(span.slots):,}", "small", width=width)
    return y + height + 46


def _by_address(classes: Sequence[SizeClass]) -> Iterator[Span]:
    for found in classes:
        yield from sorted(found.spans, key=lambda span: span.base)


def _runs(span: Span) -> int:
    return sum(1 for _ in groupby(span.slots))


def _tile(drawing: Drawing, box: Box, span: Span, marks: Sequence[tuple[int, Held]]) -> None:
    left, top, width, height = box
    across, down = _grid(len(span.slots), width / height)
    cell_width, cell_height = width / across, height / down
    stack = Stack()
    for row in range(down):
        x, y = left, top + row * cell_height
        for state, run in groupby(span.slots[row * across : (row + 1) * across]):
            length = sum(1 for _ in run)
            stack.add(SLOT_STYLES[state], (x, y, length * cell_width, cell_height))
            x += length * cell_width
    stack.paint(drawing)
    if min(cell_width, cell_height) >= 3:
        lines: list[Box] = [(left + column * cell_width - 0.5, top, 1, height) for column in range(1, across)]
        lines += [(left, top + row * cell_height - 0.5, width, 1) for row in range(1, down)]
        drawing.rects(lines, "page")
    drawing.rect(left, top, width, height, "outline", title=describe(span))
    for number, held in marks:
        if span.base <= held.address < span.base + span.nbytes:
            slot = (held.address - span.base) // span.class_bytes
            x, y = left + slot % across * cell_width, top + slot // across * cell_height
            _mark(drawing, (x, y, cell_width, cell_height), number)


def _grid(count: int, shape: float) -> tuple[int, int]:
    """Columns and rows for ``count`` cells in a box that is ``shape`` times as wide as high.

    Few empty cells, then cells that are nearly square: 16 in four rows of four rather than three of six.
    """

    def cost(down: int) -> tuple[float, float]:
        across = ceil(count / down)
        stretched = shape * down / across
        return round((across * down / count) ** 2 * max(stretched, 1 / stretched) ** 0.4, 3), down

    ideal = sqrt(count / shape)
    down = min(range(max(1, int(ideal / 2)), min(count, ceil(ideal * 2)) + 1), key=cost)
    return ceil(count / down), down


def _mark(drawing: Drawing, cell: Box, number: int) -> None:
    """Rings a slot, with its number in it where there is room."""
    x, y, width, height = cell
    if width >= 18 and height >= 16:
        label = str(number)
        ring = max(16, 8 * len(label) + 6)
        drawing.rect(x + (width - ring) / 2, y + (height - 15) / 2, ring, 15, "held", corner=7)
        drawing.text(x + width / 2, y + height / 2 + 4, label, "heldtext", anchor="middle")
    else:
        # The page's colour around it tells it from its neighbours where red and blue look the same.
        width, height = max(width - 2, 4), max(height - 2, 4)
        drawing.rect(x - 0.5, y - 0.5, width + 3, height + 3, "page")
        drawing.rect(x + 1, y + 1, width, height, "mark")


def _columns(drawing: Drawing, y: float, classes: Sequence[SizeClass], most: int) -> float:
    """A row for each class: its spans side by side, the fullest first, each filled from the bottom up."""
    height = 26
    for found in classes:
        drawing.text(MARGIN + 70, y + 17, exactly(found.class_bytes), "strong", anchor="end", width=70)
        each = f"{len(found.spans):,} × {counted(found.slots // len(found.spans), 'slot')}"
        drawing.text(MARGIN + 84, y + 17, each, "small", width=150)
        ordered = sorted(found.spans, key=lambda span: (-span.out, -span.cached, span.base))
        # Whole spans to a column; a gap between columns where there is room for it.
        per_column = ceil(len(ordered) / most)
        columns = ceil(len(ordered) / per_column)
        pitch = min(COLUMNS_WIDTH / columns, 12.0)
        stack = Stack()
        for index in range(columns):
            spans = ordered[index * per_column : (index + 1) * per_column]
            whole = sum(span.nbytes for span in spans)
            box = (COLUMNS_X + index * pitch, y, pitch - (1 if pitch >= 5 else 0), height)
            stack.column(box, spans, whole)
        stack.paint(drawing)
        bottom = y + height + 0.5
        drawing.line(COLUMNS_X, bottom, COLUMNS_X + columns * pitch, bottom, "strongrule")
        y += height + 10
    return y
