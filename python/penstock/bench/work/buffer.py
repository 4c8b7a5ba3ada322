"""What borrowing 64 KiB costs, beside making and freeing them anew.

Nobody writes into the memory; ``bytearray`` has to clear it, which is part of what a pool saves.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from time import perf_counter_ns as now
from typing import Any

from . import Sides, library

NBYTES = 64 * 1024


def buffers_penstock(count: int) -> int:
    """Acquire and release from a warm pool, inside one task."""
    from penstock import BufferPool, go

    def borrow(acquire: Callable[[int], Any]) -> int:
        start = now()
        for _ in repeat(None, count):
            acquire(NBYTES).release()
        return now() - start

    return go(borrow, BufferPool().acquire).result()


def buffers_bytearray(count: int) -> int:
    """``bytearray(nbytes)``, freed at once."""
    make = bytearray
    start = now()
    for _ in repeat(None, count):
        make(NBYTES)
    return now() - start


def buffers_numpy(count: int) -> int:
    """``numpy.empty``, freed at once."""
    numpy = library("numpy")
    make, octet = numpy.empty, numpy.dtype("u1")
    start = now()
    for _ in repeat(None, count):
        make(NBYTES, octet)
    return now() - start


SIDES: Sides = {
    "penstock": {"buffer": buffers_penstock},
    "stdlib": {"bytearray": buffers_bytearray},
    "numpy": {"empty": buffers_numpy},
}
