"""How far it is: a bar on stderr, where that is a terminal; nothing elsewhere."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]

WIDTH = 24


class Progress:
    """A line that is written over itself. Rows are taken to last as long as the ones before them did."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._row = 0
        self._name = ""
        self._began = time.monotonic()
        self._shown = sys.stderr.isatty()

    def begin(self, name: str) -> None:
        """Start the next row."""
        self._row += 1
        self._name = name
        self.round(0, 1)

    def round(self, done: int, of: int) -> None:
        """So many rounds of the row are done."""
        if not self._shown:
            return
        part = (self._row - 1 + done / of) / self._rows
        passed = time.monotonic() - self._began
        left = f", about {passed * (1 - part) / part:.0f} s left" if part > 0.1 else ""
        bar = ("#" * round(WIDTH * part)).ljust(WIDTH, ".")
        sys.stderr.write(f"\r\x1b[K[{bar}] {self._row} of {self._rows}, {self._name}{left}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the bar away, so that lines can be printed."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
