"""The map of a pool: figures that agree with its `stats()`, a page that can be read, and files whole or not at all."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import secrets
import stat
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import BufferPool, cli, go, memviz
from penstock._memviz import document, drawing, layout, page, spans, tables
from penstock._memviz.snapshot import (
    BARE,
    CACHED,
    OUT,
    Arena,
    Cache,
    Direct,
    Held,
    Snapshot,
    Span,
    Totals,
)
from penstock._memviz.style import FONTS, SHEET

LIMIT = 60.0  # only a hang takes this long
UNIT = 64 << 10
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], Path]:
    """A folder of its own for each call: a test may run on several threads at once."""

    def make() -> Path:
        made = tmp_path / secrets.token_hex(8)
        made.mkdir()
        return made

    return make


Folder = Callable[[], Path]


def read(svg: Path) -> tuple[ET.Element, Any]:
    return ET.fromstring(svg.read_text("utf-8")), json.loads(svg.with_suffix(".json").read_text("ascii"))


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in shown(root)]


def shown(root: ET.Element) -> Iterator[ET.Element]:
    """The texts; one that has a tooltip has its wording behind that."""
    for element in root.iter(f"{SVG}text"):
        tip = element.find(f"{SVG}title")
        if tip is not None:
            element.text = tip.tail
        yield element


# Snapshots made by hand


def snapshot(
    classes: list[int],
    *,
    nodes: int = 1,
    caches: int = 1,
    direct: int = 0,
    held: int = 0,
    site: str = "app.py:7",
    huge: bool = False,
) -> Snapshot:
    """Spans of ``classes`` on each node, in arenas, with slots in any state."""
    dice = random.Random(1)
    arenas: list[Arena] = []
    boxes: list[Cache] = []
    mappings: list[Direct] = []
    base = 0x7F12_A000_0000
    for node in range(nodes):
        groups: list[list[Span]] = [[]]
        out: dict[int, int] = {}
        offset = 0
        for class_bytes in classes:
            units = -(-class_bytes // UNIT)
            if offset + units > 64:
                groups.append([])
                base, offset = base + 64 * UNIT, 0
            count = units * UNIT // class_bytes
            slots = bytes(dice.choices((BARE, CACHED, OUT), k=count))
            groups[-1].append(Span(base + offset * UNIT, units * UNIT, class_bytes, slots))
            out[class_bytes] = out.get(class_bytes, 0) + slots.count(OUT)
            offset += units
        base += 64 * UNIT
        for group in groups:
            if group:
                used = sum(span.nbytes for span in group)
                free = ((used, 64 * UNIT - used),) if used < 64 * UNIT else ()
                arenas.append(Arena(node, group[0].base, 64 * UNIT, huge, tuple(group), free))
        for _ in range(caches):
            bins = [(class_bytes, slots // (2 * caches)) for class_bytes, slots in sorted(out.items())]
            boxes.append(Cache(node, tuple(found for found in bins if found[1]), 0, 0))
        mappings += [
            Direct(node, 0x7F30_0000_0000 + (node * direct + index << 30), (2 << 20) + 4096 * index)
            for index in range(direct)
        ]
    live = [
        Held(span.base + index * span.class_bytes, span.class_bytes - 1, site, 0.001 * 7 ** (number % 9))
        for number, (span, index) in enumerate(
            (span, index)
            for arena in arenas
            for span in arena.spans
            for index, state in enumerate(span.slots)
            if state == OUT
        )
    ]
    live.sort(key=lambda found: -found.seconds)
    made = Snapshot(
        1.8e9,
        Totals(0, 0, 0, 0),
        None,
        tuple(arenas),
        tuple(boxes),
        tuple(mappings),
        tuple(live[:held]),
    )
    books = made.books()
    return replace(made, stats=Totals(books.in_use, books.cached, books.reserved, books.reserved + 4096))


ALL_CLASSES = [64 * step for step in range(1, 17)] + [
    (8 + step) << (doubling + 7) for doubling in range(10) for step in range(1, 9)
]
LONG_SITE = "/srv/" + "a-folder-with-a-long-name/" * 12 + "module.py:1234"

SAMPLES: dict[str, Callable[[], Snapshot]] = {
    "nothing": lambda: snapshot([], caches=0),
    "a few": lambda: snapshot(
        [64, 192, 4096, 4096, 65536, 720896, 1 << 20], direct=3, held=5, site=LONG_SITE
    ),
    "200 of one class": lambda: snapshot([4096] * 200, held=40),
    "200 of the smallest class": lambda: snapshot([64] * 200),
    "1,000 of all classes": lambda: snapshot(
        random.Random(2).choices(ALL_CLASSES, k=1000), caches=60, direct=50, held=20
    ),
    "four nodes": lambda: snapshot([64, 4096, 1 << 20], nodes=4, direct=2, huge=True),
    "numbers of any length": lambda: replace(
        snapshot([4096], held=1),
        max_bytes=1 << 60,
        arenas=(*snapshot([4096]).arenas, Arena(0, 1 << 52, 1 << 61, False, (), ((0, 1 << 61),))),
        direct=(Direct(0, 0xFFFF_0000_0000, 1 << 62),),
        stats=Totals(1 << 60, 1 << 60, 1 << 61, 1 << 62),
        caches=(Cache(0, tuple((nbytes, 10_000_000) for nbytes in ALL_CLASSES), 1 << 40, 1 << 60),),
    ),
}


# Figures


def test_the_totals_are_those_of_stats(folder: Folder) -> None:
    pool = BufferPool()
    kept = [pool.acquire(nbytes) for nbytes in (0, 100, 1000, 5000, 65536, 300_000, 5_000_000)]
    for _ in range(100):
        pool.acquire(4096).release()
    pool.acquire(200_000).release()
    svg = folder() / "heap.svg"
    memviz(svg, pool=pool)
    root, data = read(svg)
    stats = pool.stats()
    for name in ("in_use", "cached", "reserved", "reserved_peak"):
        assert data["stats"][name] == getattr(stats, name)
    for name in ("in_use", "cached", "reserved"):
        assert data["books"][name] == getattr(stats, name)
        assert f"{getattr(stats, name):,}" in texts(root), name
    assert f"{data['books']['free']:,}" in texts(root)
    assert f"{data['books']['mapped']:,}" in texts(root)
    assert f"{stats.in_use:,} bytes in use" in (root.findtext(f"{SVG}desc") or "")
    assert len(kept) == 7


def check(data: Any) -> None:
    """The books of ``data`` agree, with each other and with what it lists."""
    books = data["books"]
    assert books["in_use"] == data["stats"]["in_use"] >= 0
    assert books["cached"] == data["stats"]["cached"] == books["in_caches"] + books["central"]
    assert books["reserved"] == data["stats"]["reserved"] == books["in_use"] + books["cached"]
    assert books["mapped"] == books["reserved"] + books["free"]
    mapped = sum(arena["bytes"] for arena in data["arenas"]) + sum(found["bytes"] for found in data["direct"])
    assert books["mapped"] == mapped
    for name in ("in_use", "central", "in_caches", "free", "mapped"):
        assert sum(node["books"][name] for node in data["nodes"]) == books[name]
    states = {"out": 0, "cached": 0, "bare": 0}
    for arena in data["arenas"]:
        covered = sum(found["bytes"] for part in ("spans", "free") for found in arena[part])
        assert covered == arena["bytes"]
        for span in arena["spans"]:
            for state, count in span["slots"]:
                states[state] += count * span["class_bytes"]
    direct = sum(found["bytes"] for found in data["direct"])
    assert books["reserved"] == states["out"] + states["cached"] + direct
    assert books["central"] == states["cached"] == sum(found["books"]["central"] for found in data["classes"])
    assert sum(found["spans"] for found in data["classes"]) == sum(
        len(arena["spans"]) for arena in data["arenas"]
    )
    on_their_way = sum(cache["remote_bytes"] for cache in data["caches"])
    in_use = sum(found["books"]["in_use"] for found in data["classes"]) + direct - on_their_way
    assert in_use == books["in_use"]


def test_what_the_map_lists_adds_up(folder: Folder) -> None:
    pool = BufferPool(max_bytes=50 << 20)
    kept = [pool.acquire(random.Random(index).randrange(100_000)) for index in range(300)]
    for buffer in kept[::3]:
        buffer.release()
    svg = folder() / "heap.svg"
    memviz(svg, pool=pool)
    root, data = read(svg)
    check(data)
    assert data["max_bytes"] == 50 << 20
    share = 100 * data["stats"]["cached"] / data["stats"]["reserved"]
    assert any(
        line.startswith(f"limit 52,428,800 bytes · fragmentation {share:.1f} %") for line in texts(root)
    )
    assert data["format"] == "penstock.memviz"
    assert data["version"] == 1


def test_a_class_tells_what_is_in_use_cached_and_free(folder: Folder) -> None:
    pool = BufferPool(max_bytes=1 << 30)  # no caches: what is released is in the central list
    kept = [pool.acquire(4096) for _ in range(5)]
    view = memoryview(kept[1])
    kept.pop(2).release()
    svg = folder() / "heap.svg"
    memviz(svg, pool=pool)
    _, data = read(svg)
    [found] = data["classes"]
    assert (found["class_bytes"], found["spans"], found["slots"]) == (4096, 1, 16)
    assert found["books"] == {
        "in_use": 4 * 4096,
        "cached": 4096,
        "in_caches": 0,
        "central": 4096,
        "reserved": 5 * 4096,
        "free": 11 * 4096,
        "mapped": 16 * 4096,
        "fragmentation_percent": 20.0,
    }
    slots = data["arenas"][0]["spans"][0]["slots"]
    assert slots == [["out", 2], ["cached", 1], ["out", 2], ["bare", 11]]
    del view


def test_without_a_pool_it_is_the_default_one(folder: Folder) -> None:
    svg = folder() / "heap.svg"
    with penstock.buffers.acquire(7_654_321) as buffer:
        memviz(str(svg))
        _, data = read(svg)
        assert 7_655_424 in [found["bytes"] for found in data["direct"]]
        assert len(buffer) == 7_654_321


def test_a_map_is_consistent_while_others_use_the_pool(folder: Folder) -> None:
    pool = BufferPool()
    over = threading.Event()

    def use(nbytes: int) -> None:
        while not over.is_set():
            kept = [pool.acquire(nbytes) for _ in range(50)]
            for buffer in kept:
                buffer.release()

    users = [threading.Thread(target=use, args=(nbytes,)) for nbytes in (100, 5000, 70_000, 2 << 20)]
    for user in users:
        user.start()
    try:
        svg = folder() / "heap.svg"
        for _ in range(10):
            memviz(svg, pool=pool)
            check(read(svg)[1])
    finally:
        over.set()
        for user in users:
            user.join(LIMIT)


def test_a_watched_buffer_is_listed_with_where_it_was_acquired(
    folder: Folder, run_program: Callable[..., object]
) -> None:
    svg = folder() / "heap.svg"
    run_program(
        f"""
        import penstock
        pool = penstock.BufferPool()
        def reader(nbytes):
            return pool.acquire(nbytes)
        first = reader(4000)
        second = memoryview(reader(5_000_000))
        gone = reader(100)
        gone.release()
        penstock.memviz({str(svg)!r}, pool=pool)
        """,
        env={"PENSTOCK_DEBUG": "buffers=paranoid"},
    )
    root, data = read(svg)
    assert [found["nbytes"] for found in data["held"]] == [4000, 5_000_000]
    assert data["held"][0]["seconds"] >= data["held"][1]["seconds"] >= 0
    for found in data["held"]:
        assert found["site"].startswith("<string>:")
        assert found["site"] in texts(root)
        assert layout.address(found["address"]) in texts(root)
    check(data)


# The page


@functools.cache
def drawn(name: str) -> str:
    return page.draw(SAMPLES[name]())


def boxes(root: ET.Element) -> list[tuple[str, float, float, float, float]]:
    """Each text, with left, top, right and bottom of the room it may take."""
    found: list[tuple[str, float, float, float, float]] = []
    for element in shown(root):
        size, bold, mono = FONTS[element.attrib["class"]]
        text = element.text or ""
        width = drawing.text_width(text, size, bold=bold, mono=mono)
        left = float(element.attrib["x"])
        left -= {"start": 0.0, "middle": width / 2, "end": width}[element.get("text-anchor", "start")]
        bottom = float(element.attrib["y"])
        found.append((text, left, bottom - 0.75 * size, left + width, bottom + 0.2 * size))
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_no_text_leaves_the_page_or_lies_on_another(name: str) -> None:
    root = ET.fromstring(drawn(name))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert width == 1400
    found = sorted(boxes(root), key=lambda box: box[2])
    assert found
    for index, (text, left, top, right, bottom) in enumerate(found):
        assert left >= layout.MARGIN - 0.1, text
        assert right <= layout.RIGHT + 0.1, text
        assert top >= 0, text
        assert bottom <= height, text
        for other, other_left, other_top, other_right, _ in found[index + 1 :]:
            if other_top >= bottom:
                break
            assert right <= other_left or other_right <= left, (text, other)


@pytest.mark.parametrize("name", SAMPLES)
def test_no_shape_leaves_the_page(name: str) -> None:
    root = ET.fromstring(drawn(name))
    height = float(root.attrib["height"])
    found: list[tuple[float, ...]] = []
    for element in root.iter():
        if element.tag == f"{SVG}rect" and "x" in element.attrib:
            found.append(tuple(float(element.attrib[part]) for part in ("x", "y", "width", "height")))
        runs = re.findall(r"M(\S+) (\S+)h(\S+)v(\S+?)h", element.get("d", ""))
        found += [tuple(map(float, box)) for box in runs]
    assert found
    for x, y, wide, high in found:
        assert layout.MARGIN - 1 <= x <= x + wide <= layout.RIGHT + 1
        assert 0 <= y <= y + high <= height


def test_many_spans_of_one_class_take_a_row_and_not_a_screen() -> None:
    assert float(ET.fromstring(page.draw(snapshot([65536] * 1000))).attrib["height"]) < 2000


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_is_one_well_formed_file_that_needs_nothing_else(name: str) -> None:
    text = drawn(name)
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.attrib["role"] == "img"
    named = root.attrib["aria-labelledby"].split()
    assert [element.attrib["id"] for element in root if "id" in element.attrib] == named
    assert not re.search(r"<script|href|url\(|@import|<image|on\w+=", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    styles = {element.attrib["class"] for element in root.iter() if "class" in element.attrib}
    for style in styles:
        assert re.search(rf"\.{style}\b", SHEET), f"{style} has no rule"


def test_a_large_pool_stays_readable_and_below_two_megabytes() -> None:
    large = snapshot(random.Random(3).choices(ALL_CLASSES, k=10_000), caches=200, direct=1000, held=2000)
    assert sum(len(arena.spans) for arena in large.arenas) == 10_000
    text = page.draw(large)
    assert len(text.encode()) < 2_000_000
    assert float(ET.fromstring(text).attrib["height"]) < 12_000


def test_nothing_is_left_out_of_a_large_pool() -> None:
    """Rows that stand for many say for how many, and for how much."""
    shot = SAMPLES["1,000 of all classes"]()
    words = texts(ET.fromstring(drawn("1,000 of all classes")))
    rest = sorted(mapping.nbytes for mapping in shot.direct)[: -tables.SHOWN]
    assert f"{len(rest)} others" in words
    assert f"{sum(rest):,}" in words
    assert f"{len(shot.caches) - tables.SHOWN} caches" in words


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    channels = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_and_states_stand_out_in_both_themes(theme: str) -> None:
    light, _, dark = SHEET.partition("@media(prefers-color-scheme:dark){")
    sheet = light if theme == "light" else dark

    def fill(style: str) -> str:
        found = re.search(rf"\.{style}\b[^{{}}]*{{fill:(#\w+)", sheet)
        assert found, style
        return found[1]

    for style in FONTS:
        assert contrast(fill(style), fill("page")) >= 4.5, style
        assert contrast(fill(style), fill("panel")) >= 4.5, style
    states = [fill(style) for style in layout.STATES]
    assert contrast(fill("used"), fill("page")) >= 3
    assert contrast(fill("used"), fill("free")) >= 2.5
    # Without hue, by lightness alone, what is in use and what is cached are still told apart.
    assert contrast(fill("used"), fill("central")) >= 1.3
    assert len({*states}) == 4


def test_a_site_is_cut_from_the_left_and_whole_in_its_tooltip() -> None:
    root = ET.fromstring(drawn("a few"))
    cut = [text for text in texts(ET.fromstring(drawn("a few"))) if text.startswith("…")]
    assert cut
    assert all(text.endswith("module.py:1234") for text in cut)
    assert LONG_SITE in [element.text for element in root.iter(f"{SVG}title")]


@pytest.mark.parametrize(
    "site", ["<b>&amp;\"'</b>.py:1", "nul\x00 and \x1b[31m.py:2", "lone \udcff.py:3", "…" * 400]
)
def test_any_site_makes_a_readable_page_and_data(site: str) -> None:
    shot = snapshot([4096], held=1, site=site)
    root = ET.fromstring(page.draw(shot).encode())
    tidy = re.sub("[\x00-\x1f\udcff]", "\ufffd", site)
    assert any(tidy == text for text in root.itertext())
    assert json.loads(document.write(shot))["held"][0]["site"] == site


def test_the_longest_held_are_marked_where_they_lie() -> None:
    root = ET.fromstring(page.draw(snapshot([1 << 20] * 8, held=2)))
    marks = [element.text for element in shown(root) if element.attrib["class"] == "heldtext"]
    assert sorted(mark for mark in marks if mark) == ["1", "1", "2", "2"]  # in the table, and in the map


def test_an_empty_pool_says_so() -> None:
    assert any("no memory yet" in text for text in texts(ET.fromstring(drawn("nothing"))))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11, 16, 17, 64, 341, 1024])
def test_a_grid_has_room_for_each_slot_and_little_more(count: int) -> None:
    across, down = spans._grid(count, 1.8)
    assert count <= across * down
    assert across * (down - 1) < count
    assert across * down <= count * 1.34


def test_a_grid_is_full_where_it_can_be() -> None:
    assert spans._grid(16, 1.8) == (4, 4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min 0 s"),
        (3599.9, "1 h 0 min"),
        (7380, "2 h 3 min"),
        (93_600, "1 d 2 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert layout.duration(seconds) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (3 << 39, "1.5 TiB"),
    ],
)
def test_a_size_has_the_unit_that_keeps_it_short(nbytes: int, text: str) -> None:
    assert layout.roughly(nbytes) == text


# Files


@pytest.mark.parametrize("path", [b"heap.svg", 7, None, object])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(TypeError, match=r"path must be a str or a path of one, not "):
        memviz(path)


def test_a_path_of_bytes_is_refused() -> None:
    class OfBytes:
        def __fspath__(self) -> bytes:
            return b"heap.svg"

    with pytest.raises(TypeError, match="path must be"):
        memviz(OfBytes())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["heap.png", "heap", ".svg", "svg", "heap.svg.gz"])
def test_a_path_without_the_suffix_is_refused_and_nothing_written(name: str, folder: Folder) -> None:
    path = folder() / name
    with pytest.raises(ValueError, match=rf"path must end in \.svg, not '.*{re.escape(path.name)}'"):
        memviz(path)
    assert [*path.parent.iterdir()] == []


def test_a_pool_that_is_none_is_refused(folder: Folder) -> None:
    path = folder() / "heap.svg"
    with pytest.raises(TypeError, match=r"pool must be a BufferPool or None, not 'default'"):
        memviz(path, pool="default")  # type: ignore[arg-type]
    assert not path.exists()


def test_the_suffix_may_be_in_capitals_and_the_data_lie_beside(folder: Folder) -> None:
    path = folder() / "heap.2026.SVG"
    memviz(path, pool=BufferPool())
    assert sorted(found.name for found in path.parent.iterdir()) == ["heap.2026.SVG", "heap.2026.json"]


def test_a_folder_that_is_missing_is_an_error_that_names_the_map(folder: Folder) -> None:
    path = folder() / "missing" / "heap.svg"
    with pytest.raises(FileNotFoundError) as raised:
        memviz(path, pool=BufferPool())
    assert raised.value.filename == os.path.realpath(path)


@pytest.mark.parametrize("name", ["heap.svg", "heap.json"])
def test_where_one_file_cannot_be_written_the_other_is_not_either(name: str, folder: Folder) -> None:
    where = folder()
    (where / name).mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        memviz(where / "heap.svg", pool=BufferPool())
    assert raised.value.filename == os.path.realpath(where / name)
    assert [found.name for found in where.iterdir()] == [name]


def test_a_write_that_fails_half_way_leaves_what_was_there(
    folder: Folder, run_program: Callable[..., object]
) -> None:
    where = folder()
    (where / "heap.svg").write_text("the one before")
    run_program(
        f"""
        import resource
        import penstock
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            penstock.memviz({str(where / "heap.svg")!r})
        except OSError as error:
            assert error.filename.endswith("heap.svg"), error
        else:
            raise AssertionError("it was written")
        """
    )
    assert [found.name for found in where.iterdir()] == ["heap.svg"]
    assert (where / "heap.svg").read_text() == "the one before"


def test_a_file_that_may_not_be_written_is_not_replaced(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder() / "heap.svg"
    path.write_text("keep me")
    refuses = os.access

    def access(name: Any, mode: int) -> bool:  # the tests may run as root, who may write to anything
        return refuses(name, mode) and os.fspath(name) != os.path.realpath(path)

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(PermissionError):
        memviz(path, pool=BufferPool())
    assert path.read_text() == "keep me"
    assert [*path.parent.iterdir()] == [path]


def test_a_link_stays_one_and_a_new_file_has_the_usual_mode(folder: Folder) -> None:
    where = folder()
    (where / "target.svg").write_text("old")
    (where / "heap.svg").symlink_to("target.svg")
    memviz(where / "heap.svg", pool=BufferPool())
    assert (where / "heap.svg").is_symlink()
    assert (where / "target.svg").read_text("utf-8").startswith("<svg")
    (where / "plain").touch()
    assert stat.S_IMODE((where / "heap.json").stat().st_mode) == stat.S_IMODE(
        (where / "plain").stat().st_mode
    )


def test_threads_that_write_the_same_map_leave_a_whole_one(folder: Folder) -> None:
    path = folder() / "heap.svg"
    pool = BufferPool()
    writers = [threading.Thread(target=memviz, args=(path,), kwargs={"pool": pool}) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(LIMIT)
    check(read(path)[1])
    assert sorted(found.name for found in path.parent.iterdir()) == ["heap.json", "heap.svg"]


def test_a_task_may_draw_a_map(folder: Folder) -> None:
    where = folder()
    pool = BufferPool()

    async def draws(path: Path) -> None:
        memviz(path, pool=pool)

    go(memviz, where / "plain.svg", pool=pool).result(timeout=LIMIT)
    go(draws, where / "async.svg").result(timeout=LIMIT)
    for name in ("plain.svg", "async.svg"):
        check(read(where / name)[1])


def test_a_forked_child_draws_the_pool_it_inherited(
    folder: Folder, run_program: Callable[..., object]
) -> None:
    svg = folder() / "heap.svg"
    run_program(
        f"""
        import warnings
        import penstock
        kept = penstock.buffers.acquire(5_000_000)
        penstock.go(int).result()
        warnings.simplefilter("ignore")
        child = os.fork()
        if not child:
            penstock.memviz({str(svg)!r})
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    data = read(svg)[1]
    check(data)
    assert [found["bytes"] for found in data["direct"]] == [5_001_216]


# The command


@pytest.mark.thread_unsafe(reason="runs a program in a process of its own")
def test_the_command_maps_its_demo_program(folder: Folder) -> None:
    where = folder()
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "penstock", "memviz", "-o", "heap.svg"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        cwd=where,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.fullmatch(r"heap\.svg: .* heap\.json\n", ended.stdout)
    root, data = read(where / "heap.svg")
    check(data)
    assert len(data["direct"]) == 3
    assert data["caches"]
    assert len(data["classes"]) >= 8
    for state in ("in_use", "in_caches", "central", "free"):
        assert data["books"][state] > 0, state
        assert f"{data['books'][state]:,}" in " ".join(texts(root))


@pytest.mark.thread_unsafe(reason="reads what the process prints")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "-o/--output"),
        (["-o", "heap.png"], "path must end in .svg, not 'heap.png'"),
        (
            ["-o", "no/such/folder/heap.svg"],
            "cannot write 'no/such/folder/heap.svg': No such file or directory",
        ),
    ],
)
def test_a_map_that_cannot_be_written_is_a_usage_error(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["memviz", *arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: penstock memviz")
    assert said in printed.err
