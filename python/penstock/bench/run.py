"""One run: finds the sides, takes the rows in turn, and says where and beside whom."""

from __future__ import annotations

import dataclasses
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import penstock
from penstock import _core

from . import machine, report
from .go_side import GoMissingError, go_side, go_version
from .measure import Effort, Shared, measure
from .peers import LIBRARIES
from .progress import Progress
from .rows import PENSTOCK, Row
from .side import WORKERS, Side, environment, python_side
from .table import show

__all__ = ["Run"]

ALWAYS = (PENSTOCK, "asyncio", "stdlib")
"""The sides that need nothing installed."""


class Run:
    """One run: what was asked for, and what came of it."""

    def __init__(
        self, rows: Sequence[Row], effort: Effort, command: Sequence[str], *, clock: str, quick: bool
    ) -> None:
        self.failed = False
        self._rows = rows
        self._effort = effort
        self._clock = clock
        self._quick = quick
        self._gil = machine.gil_enabled()
        self._quiet = machine.quiet()
        self._began = time.monotonic()
        self._facts = {
            **machine.facts(),
            "load": f"{self._quiet.load:.2f} before it began"
            f"{', real-time priority' if self._quiet.real_time else ''}",
            "date": datetime.now(UTC).date().isoformat(),
            "command": shlex.join(command),
        }
        self._data: list[dict[str, Any]] = []
        self._noisy: list[str] = []
        self._versions: dict[str, str] = {}
        self._absent: list[str] = []
        self._warnings = machine.unquiet(self._quiet)
        if _core.build_profile() == "debug":
            self._warnings.append("this is a debug build of penstock: measure nothing with it")
        if os.environ.get("PENSTOCK_DEBUG"):
            self._warnings.append("PENSTOCK_DEBUG is set: what it watches takes time, on our side alone")

    def find(self, stack: ExitStack, others: Mapping[str, Sequence[str]]) -> dict[str, Side]:
        """Every side that has a part in the rows, by name, until the stack ends. Notes the missing ones.

        ``others`` are programs that are sides as well.
        """
        playing = {side for row in self._rows for side in (row.ours, *(peer.side for peer in row.peers))}
        variables = environment()
        found = {name: Side(name, list(program), variables) for name, program in others.items()}
        found |= {name: python_side(name, self._clock, variables) for name in ALWAYS if name in playing}
        for name, library in LIBRARIES.items():
            if name in playing and library.installed:
                found[name] = python_side(name, self._clock, variables)
                self._versions[name] = library.version
            elif name in playing:
                self._absent.append(library.missing)
        if "go" in playing:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-"))
            try:
                found["go"] = go_side(folder, self._clock, variables)
                self._versions["go"] = go_version()
            except GoMissingError as error:
                self._absent.append(str(error))
        for side in found.values():
            stack.callback(side.stop)
        return found

    def header(self) -> list[str]:
        """Where it is measured, and beside whom."""
        peers = ["asyncio", "threads", *(f"{name} {version}" for name, version in self._versions.items())]
        lines = [f"{name:12}{fact}" for name, fact in self._facts.items()]
        lines.append(f"{'peers':12}{', '.join(peers)}; {WORKERS} workers each")
        lines += [f"{'missing':12}{line}" for line in self._absent]
        lines += [f"WARNING     {line}" for line in self._warnings]
        if self._quick:
            lines.append("QUICK       short samples, small counts: it runs, the figures say little")
        return lines

    def measured(self, sides: Mapping[str, Side]) -> Iterator[list[str]]:
        """Take the rows one by one: the lines of each."""
        progress = Progress(len(self._rows))
        shared: Shared = {}
        for row in self._rows:
            progress.begin(row.name)
            if not hasattr(penstock, row.needs):
                why = f"not in this version, which has no penstock.{row.needs}"
                self._data.append(report.skipped_data(row, why))
                progress.clear()
                yield ["", f"{row.name}: {row.title}", f"  {why}"]
                continue
            samples = measure(row, sides, self._effort, progress.round, shared)
            progress.clear()
            self._data.append(report.row_data(row, samples, gil=self._gil))
            self._noisy += machine.noise(row.name, samples)
            self.failed |= any(sample.error for sample in samples)
            yield show(row, samples, gil=self._gil)
        # gevent's extension does not declare that it can do without the lock, which switches it back on.
        self._warnings += [
            f"{side.name} ran with the GIL on"
            for side in sides.values()
            if side.hello.get("gil", self._gil) != self._gil
        ]

    def footer(self) -> list[str]:
        """How long it took, and every reason not to trust it."""
        load = os.getloadavg()[0]
        lines = ["", f"{self._seconds:.0f} s, load {load:.2f} at the end; ratios are ours over theirs"]
        warnings = list(self._warnings)
        if self._noisy:
            warnings.append(
                f"too noisy to say, quartiles over {machine.NOISY:.0%} apart: {'; '.join(self._noisy)}"
            )
        return lines + [f"WARNING     {line}" for line in warnings]

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def document(self) -> dict[str, Any]:
        """Everything as data; see ``report``."""
        return {
            "facts": self._facts,
            "gil": self._gil,
            "clock": self._clock,
            "quick": self._quick,
            "rounds": self._effort.rounds,
            "seconds": round(self._seconds),
            "quiet": dataclasses.asdict(self._quiet),
            "peers": self._versions,
            "absent": self._absent,
            "warnings": self._warnings,
            "noisy": self._noisy,
            "rows": self._data,
        }
