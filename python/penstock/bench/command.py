"""The command ``penstock bench``: its options, and what it does with them."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import report
from .measure import FULL, QUICK
from .rows import ROWS, Row
from .run import Run

__all__ = ["main"]

FAILED = 1


def main(
    arguments: Sequence[str],
    rows: Sequence[Row] = ROWS,
    *,
    program: str = "penstock bench",
    others: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Measures and prints. The status is 1 where a side failed, 2 for a wrong command line.

    Another ``program`` may have rows of its own, with programs as further sides in ``others``. Ctrl-C ends
    every side, and comes out of here.
    """
    parser = _parser(program, rows)
    options = parser.parse_args(arguments)
    wanted = _wanted(parser, rows, options.rows)
    effort = QUICK if options.quick else FULL
    if options.rounds is not None:
        if options.rounds < 1:
            parser.error(f"--rounds: {options.rounds} is not at least 1")
        effort = dataclasses.replace(effort, rounds=options.rounds)
    target = None if options.json in {None, "-"} else Path(options.json)
    if target is not None and not target.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder for {options.json!r}")
    say = _nothing if options.json == "-" else _line
    command = [*shlex.split(program), *arguments]
    run = Run(wanted, effort, command, clock=options.clock, quick=options.quick)
    with ExitStack() as stack:
        sides = run.find(stack, others or {})
        for line in run.header():
            say(line)
        for lines in run.measured(sides):
            for line in lines:
                say(line)
    for line in run.footer():
        say(line)
    if options.json:
        text = report.write(run.document())
        if target is None:
            sys.stdout.write(text)
        else:
            target.write_text(text, encoding="utf-8")
    return FAILED if run.failed else 0


def _parser(program: str, rows: Sequence[Row]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Measures what penstock costs beside every peer that is installed, and Go where there is "
        "a toolchain on the PATH: all sides in turn, round by round. Prints medians, quartiles, and ratios "
        "of ours to theirs within each round, next to the goals.",
        epilog=f"rows: {', '.join(row.name for row in rows)}",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="write everything that was measured as JSON: to FILE, or to stdout in the place of the table",
    )
    parser.add_argument("--rows", metavar="ROW,...", help="measure these rows only")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short samples, in under a minute: it runs, the figures say little",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds per row ({FULL.rounds})")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="count the time that passes, or the CPU time of each side's process",
    )
    return parser


def _line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _nothing(line: str) -> None:
    """In the place of ``_line`` where stdout is for the data alone."""


def _wanted(parser: argparse.ArgumentParser, rows: Sequence[Row], names: str | None) -> Sequence[Row]:
    if names is None:
        return rows
    known = {row.name for row in rows}
    asked = names.split(",")
    for name in asked:
        if name not in known:
            parser.error(
                f"--rows: no row is called {name!r}; there are {', '.join(row.name for row in rows)}"
            )
    return [row for row in rows if row.name in asked]
