#!/usr/bin/env python3
"""Write docs/performance.md and its plots from what `penstock bench --json` measured.

    python tools/performance_page.py docs/performance/*.json

Each file is one run; its name is the column's (3.11.json). One that `asv_bench/core_figures.py --json`
wrote has the core's own rows. The page goes beside the folder of the files, the plots into it. No figure on
the page is typed by hand: what is prose is in performance_notes.toml, by row. Exits with 1 if a goal is
missed and no note says why.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

SCHEMA = "penstock-bench/1"
NOTES = Path(__file__).with_name("performance_notes.toml")
OURS = {"penstock": "penstock", "core": "the core"}
MISSED = {"missed", "MORE THAN TWICE", "too noisy to say"}
SCALES = {"ns": ((1e6, "ms"), (1e3, "us")), "B": ((1e6, "MB"), (1e3, "kB"))}
VERSUS = "beside"


def number(value: float) -> str:
    """Three digits that say something, or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def amount(value: float, unit: str) -> str:
    """A figure in the unit that suits its size."""
    for least, name in SCALES.get(unit, ()):
        if value >= 10 * least:
            return f"{number(value / least)} {name}"
    return f"{number(value)} {unit}"


def spread(found: list[float], *, unit: str = "") -> str:
    """A median with its quartiles."""
    low, middle, high = (amount(value, unit) if unit else number(value) for value in found)
    return f"{middle} ({low} to {high})"


@dataclass(frozen=True)
class Row:
    """One question over all runs: the run's name, and what it found."""

    name: str
    title: str
    unit: str
    found: dict[str, dict[str, Any]]

    @property
    def labels(self) -> list[str]:
        """The sides that any run has, ours first."""
        return list(dict.fromkeys(side["label"] for run in self.found for side in self.sides(run)))

    def sides(self, run: str) -> list[dict[str, Any]]:
        """The sides of one run; none where it skipped the row."""
        sides: list[dict[str, Any]] = self.found.get(run, {}).get("sides", [])
        return sides

    def side(self, run: str, label: str) -> dict[str, Any]:
        """One side of one run, or nothing."""
        return next((side for side in self.sides(run) if side["label"] == label), {})


def read(files: list[Path]) -> dict[str, dict[str, Any]]:
    """The runs, by name."""
    runs: dict[str, dict[str, Any]] = {}
    for file in files:
        run = json.loads(file.read_text(encoding="utf-8"))
        if run.get("schema") != SCHEMA:
            raise SystemExit(f"{file}: its schema is {run.get('schema')!r}, and not {SCHEMA!r}")
        if run["quick"]:
            raise SystemExit(f"{file}: a quick run has no figures to show")
        runs[file.stem] = run
    return runs


def order(file: Path) -> tuple[bool, list[int], str]:
    """Versions by their numbers, then what has none."""
    numbers = [int(digits) for digits in re.findall(r"\d+", file.stem)]
    return not numbers, numbers, file.stem


def rows_of(runs: dict[str, dict[str, Any]]) -> list[Row]:
    """The rows of some runs, in the order of the first that has them."""
    rows: dict[str, Row] = {}
    for name, run in runs.items():
        for found in run["rows"]:
            row = rows.setdefault(found["row"], Row(found["row"], found["title"], found["unit"], {}))
            row.found[name] = found
    return list(rows.values())


def is_core(run: dict[str, Any]) -> bool:
    """Whether its rows are the core's own."""
    return any(side["side"] == "core" for row in run["rows"] for side in row.get("sides", [])[:1])


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]


def where(runs: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What was measured where, with which command, and how quiet it was."""
    names = list(dict.fromkeys(fact for run in runs.values() for fact in run["facts"]))
    lines: list[list[str]] = []
    for name in names:
        said = [run["facts"].get(name, "") for run in runs.values()]
        lines.append([name, *(f"`{it}`" if name == "command" and it else it for it in said)])
    lines.append(["clock, rounds", *(f"{run['clock']}, {run['rounds']}" for run in runs.values())])
    lines.append(["took", *(f"{run['seconds']:,} s" for run in runs.values())])
    lines.append(
        [
            "peers",
            *(", ".join(f"{name} {said}" for name, said in run["peers"].items()) for run in runs.values()),
        ]
    )
    lines.append(["missing", *("; ".join(run["absent"]) or "nobody" for run in runs.values())])
    lines.append(["a loop got", *(f"{run['quiet']['share']:.0%} of a processor" for run in runs.values())])
    lines.append(["warnings", *("; ".join(run["warnings"]) or "none" for run in runs.values())])
    lines.append(["figures too noisy to say", *("; ".join(run["noisy"]) or "none" for run in runs.values())])
    yield from table(["", *runs], lines)


@dataclass(frozen=True)
class Held:
    """A figure that is held against a goal, in one run."""

    run: str
    row: Row
    label: str
    found: list[float]
    most: float
    stretch: float | None
    verdict: str
    seed: float | None
    of_ratio: bool


def held(runs: dict[str, dict[str, Any]], rows: list[Row]) -> list[Held]:
    """Every figure that has a goal."""
    return [
        Held(
            *(run, row, side["label"]),
            side["ratio"]["quartiles"] if "ratio" in side else side["quartiles"],
            *(side["goal"]["most"], side["goal"]["stretch"], side["verdict"]),
            *(side.get("seed"), "ratio" in side),
        )
        for row in rows
        for label in row.labels
        for run in runs
        if "goal" in (side := row.side(run, label))
    ]


def goals(runs: dict[str, dict[str, Any]], rows: list[Row], prefix: str) -> Iterator[str]:
    """The goals with the figures reached, a line for each goal."""
    all_held = held(runs, rows)
    met = sum(it.verdict not in MISSED for it in all_held)
    yield from [f"{met} of {len(all_held)} goals are met.", ""]
    lines: list[list[str]] = []
    for row in rows:
        link = f"[{row.title}](#{prefix}{row.name})"
        for label in row.labels:
            mine = {it.run: it for it in all_held if it.row is row and it.label == label}
            if mine:
                beside = "" if label in OURS else f", {VERSUS} {label}"
                lines.append([f"{link}{beside}", *(reached(mine.get(run)) for run in runs)])
        skipped = [row.found.get(run, {}).get("skipped", "") for run in runs]
        if any(skipped):
            lines.append([link, *skipped])
        if row.unit == "B":
            lines.append([f"{link}: so many at once", *(at_once(row, run) for run in runs)])
    yield from table(["ours, as a share of theirs", *runs], lines)


def at_once(row: Row, run: str) -> str:
    """Whether so many were parked at once."""
    sides = row.sides(run)
    if not sides:
        return ""
    return f"no: {sides[0]['error']}" if sides[0]["error"] else f"yes, {sides[0]['count']:,}"


def reached(it: Held | None) -> str:
    """One figure beside its goal."""
    if it is None:
        return ""
    unit = "" if it.of_ratio else it.row.unit
    stretch = f", stretch {number(it.stretch)}" if it.stretch else ""
    seed = f", seed {number(it.seed)}" if it.seed else ""
    said = f"**{it.verdict}**" if it.verdict in MISSED else it.verdict
    most = amount(it.most, unit) if unit else number(it.most)
    return f"{spread(it.found, unit=unit)}, goal {most}{stretch}{seed}: {said}"


def lost(
    runs: dict[str, dict[str, Any]], rows: list[Row], notes: dict[str, str], prefix: str
) -> Iterator[str]:
    """Where a peer is faster or a goal is missed, with what the notes say about it."""
    missed = {(it.row.name, it.label, it.run) for it in held(runs, rows) if it.verdict in MISSED}
    for row in rows:
        said: list[str] = []
        for label in row.labels:
            figures = [
                f"{spread(side['ratio']['quartiles'])} times as long on {run}"
                for run in runs
                if "ratio" in (side := row.side(run, label)) and side["ratio"]["quartiles"][1] > 1
            ]
            behind = [run for run in runs if (row.name, label, run) in missed]
            if figures:
                said.append(f"- Beside {label} ours takes {', '.join(figures)}.")
            if behind:
                what = f" {VERSUS} {label}" if label not in OURS else ""
                said.append(f"- The goal{what} is missed on {', '.join(behind)}.")
        if said:
            yield from ["", f"**{row.title}**", "", *said]
            note = notes.get(f"{prefix}{row.name}")
            if note:
                yield from ["", note.strip()]


def won(runs: dict[str, dict[str, Any]], rows: list[Row]) -> Iterator[str]:
    """How many times as much theirs takes, where ours is ahead."""
    lines: list[list[str]] = []
    for row in rows:
        cells = [
            "; ".join(
                f"{side['label']} {number(1 / side['ratio']['quartiles'][1])}"
                for side in row.sides(run)
                if "ratio" in side and side["side"] not in OURS and side["ratio"]["quartiles"][1] < 1
            )
            for run in runs
        ]
        if any(cells):
            lines.append([row.title, *cells])
    yield from table(["theirs takes so many times as much", *runs], lines)


def section(runs: dict[str, dict[str, Any]], row: Row, prefix: str) -> Iterator[str]:
    """Every figure of a row, and its plot."""
    lines: list[list[str]] = []
    for label in row.labels:
        cells = [label]
        for run in runs:
            side = row.side(run, label)
            if "quartiles" not in side:
                cells.append(f"failed: {side['error']}" if side.get("error") else "")
                continue
            ratio = f", {number(side['ratio']['quartiles'][1])}" if "ratio" in side else ""
            cells.append(f"{spread(side['quartiles'], unit=row.unit)}{ratio}")
        lines.append(cells)
    yield from ["", f'<a id="{prefix}{row.name}"></a>', "", f"### {row.title[0].upper()}{row.title[1:]}", ""]
    if not lines:
        yield f"Not measured: {'; '.join(found['skipped'] for found in row.found.values())}."
        return
    yield from [f"![{row.title}](performance/{prefix}{row.name}.svg)", ""]
    yield from table(["", *runs], lines)


# Plots

LEFT, RIGHT, LINE, TOP = 240, 24, 12, 30
WIDTH = 720
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1a202c }
.quiet { fill: #5a6472 } .grid { stroke: #d5dae1 } .goal { stroke: #b7791f; stroke-width: 2 }
.s0 { fill: #2b6cb0; stroke: #2b6cb0 } .s1 { fill: #2f855a; stroke: #2f855a }
.s2 { fill: #b83280; stroke: #b83280 } .s3 { fill: #6b46c1; stroke: #6b46c1 }
.ours { font-weight: 600 } .back { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6eaf0 } .quiet { fill: #9aa5b4 } .grid { stroke: #3a4350 } .goal { stroke: #ecc94b }
.s0 { fill: #63b3ed; stroke: #63b3ed } .s1 { fill: #68d391; stroke: #68d391 }
.s2 { fill: #f687b3; stroke: #f687b3 } .s3 { fill: #b794f4; stroke: #b794f4 }
.back { fill: #161b22 }
}
"""


@dataclass(frozen=True)
class Mark:
    """A median with its quartiles, of one run."""

    series: int
    found: list[float]


class Axis:
    """A logarithmic axis over whole decades."""

    def __init__(self, values: list[float]) -> None:
        self.low = math.floor(math.log10(min(values)))
        self.high = max(self.low + 1, math.ceil(math.log10(max(values))))

    def at(self, value: float) -> float:
        """Where on the page a value is."""
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def grid(self, top: float, bottom: float, unit: str) -> Iterator[str]:
        """A line and a figure for each decade."""
        for power in range(self.low, self.high + 1):
            yield upright("grid", self.at(10.0**power), top, bottom)
            shown = amount(10.0**power, unit) if unit else f"{10.0**power:g}"
            yield text(self.at(10.0**power), bottom + 16, shown, "quiet", "middle")


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    """Text, as text."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(said)}</text>'


def upright(kind: str, x: float, top: float, bottom: float) -> str:
    """A vertical line."""
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def point(mark: Mark, axis: Axis, y: float, said: str) -> str:
    """A median, and a bar from quartile to quartile."""
    first, middle, last = map(axis.at, mark.found)
    bar = f'<line x1="{first:.1f}" x2="{last:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke-width="3"/>'
    dot = f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="4"/>'
    return f'<g class="s{mark.series}"><title>{escape(said)}</title>{bar}{dot}</g>'


def plot(
    title: str, series: list[str], lines: list[tuple[str, list[Mark]]], unit: str, *, goal: bool = False
) -> str:
    """An SVG: a line for each name, a point for each run, on a logarithmic axis."""
    axis = Axis([value for _, marks in lines for mark in marks for value in mark.found] + [1.0] * goal)
    parts: list[str] = []
    for at, name in enumerate(series):
        x = LEFT + 90 * at + 4
        parts.append(f'<circle class="s{at}" cx="{x}" cy="{TOP + 4}" r="4"/>{text(x + 10, TOP + 8, name)}')
    top, y = TOP + 18.0, TOP + 24.0
    for name, marks in lines:
        height = LINE * len(marks)
        kind = "ours" if name in OURS.values() else ""
        parts.append(text(LEFT - 10, y + height / 2 + 4, name, kind, "end"))
        for at, mark in enumerate(marks):
            said = f"{series[mark.series]}: {spread(mark.found, unit=unit)}"
            parts.append(point(mark, axis, y + LINE * (at + 0.5), said))
        y += height + 8
    under = [*axis.grid(top, y, unit)]
    if goal:
        under.append(upright("goal", axis.at(1.0), top, y))
    size = f"{WIDTH} {y + 24:.0f}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            '<rect class="back" width="100%" height="100%"/>',
            text(10, 18, title),
            *under,
            *parts,
            "</svg>",
            "",
        ]
    )


def row_plot(runs: dict[str, dict[str, Any]], row: Row) -> str:
    """What each side needed."""
    lines = [
        (
            OURS.get(label, label),
            [
                Mark(at, side["quartiles"])
                for at, run in enumerate(runs)
                if "quartiles" in (side := row.side(run, label))
            ],
        )
        for label in row.labels
    ]
    return plot(row.title, list(runs), [line for line in lines if line[1]], row.unit)


def goals_plot(runs: dict[str, dict[str, Any]], rows: list[Row]) -> str:
    """Each figure as a share of its goal: left of the line it is met."""
    lines: dict[str, list[Mark]] = {}
    series = list(runs)
    for it in held(runs, rows):
        name = it.row.name if it.label in OURS else f"{it.row.name}, {it.label}"
        marks = lines.setdefault(name, [])
        marks.append(Mark(series.index(it.run), [value / it.most for value in it.found]))
    return plot(
        "as a share of the goal: 1 is the goal, less is better", series, list(lines.items()), "", goal=True
    )


# The page

HEAD = """# Performance

What penstock's operations cost beside Go, asyncio, threads and other libraries, and every goal of the
project with the figure reached. [Measuring](measuring.md) says how it is measured and what a ratio means:
ours over theirs, taken within each round, so less is better and 1 is a draw. Figures are medians with their
quartiles. This page and its plots are written by [tools/performance_page.py](../tools/performance_page.py)
from the files in [performance](performance/); change those, or the notes beside the script, not this page.
"""


def page(runs: dict[str, dict[str, Any]], notes: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The page, and the plots by file name."""
    plots: dict[str, str] = {}
    lines = [HEAD, "## Where", "", *where(runs)]
    core = {name: run for name, run in runs.items() if is_core(run)}
    python = {name: run for name, run in runs.items() if name not in core}
    parts = [("From Python", "", python), ("The core alone", "core-", core)]
    parts = [part for part in parts if part[2]]
    for title, prefix, some in parts:
        rows = rows_of(some)
        lines += ["", f"## {title}: the goals", ""]
        if held(some, rows):
            plots[f"{prefix}goals.svg"] = goals_plot(some, rows)
            lines += [f"![every figure as a share of its goal](performance/{prefix}goals.svg)", ""]
        lines += goals(some, rows, prefix)
    for title, _, some in parts:
        lines += ["", f"## {title}: what we win", "", *won(some, rows_of(some))]
    lines += ["", "## What we lose, and why"]
    for _, prefix, some in parts:
        lines += lost(some, rows_of(some), notes, prefix)
    for title, prefix, some in parts:
        lines += ["", f"## {title}: every figure", ""]
        lines.append("A cell has the median, the quartiles, and for a peer the ratio of ours to it.")
        for row in rows_of(some):
            if row.labels:
                plots[f"{prefix}{row.name}.svg"] = row_plot(some, row)
            lines += section(some, row, prefix)
    return "\n".join(lines) + "\n", plots


def unexplained(runs: dict[str, dict[str, Any]], notes: dict[str, str]) -> list[str]:
    """The rows in which a goal is missed, and no note says why."""
    rows = {
        ("core-" if is_core(run) else "") + it.row.name
        for name, run in runs.items()
        for it in held({name: run}, rows_of({name: run}))
        if it.verdict in MISSED
    }
    return sorted(rows - notes.keys())


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    files = [Path(name) for name in arguments]
    runs = read(sorted(files, key=order))
    notes: dict[str, str] = tomllib.loads(NOTES.read_text(encoding="utf-8"))
    text, plots = page(runs, notes)
    folder = files[0].parent
    for stale in folder.glob("*.svg"):
        stale.unlink()
    for name, svg in plots.items():
        (folder / name).write_text(svg, encoding="utf-8")
    folder.with_suffix(".md").write_text(text, encoding="utf-8")
    silent = unexplained(runs, notes)
    if silent:
        print(f"a goal is missed, and {NOTES.name} does not say why: {', '.join(silent)}", file=sys.stderr)
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
