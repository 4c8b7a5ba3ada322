"""What borrowing 64 KiB costs, beside making and freeing them anew.

Each side is a function of a count that returns the nanoseconds it took, its loop included. Nobody writes
into the memory; ``bytearray`` has to clear it, which is part of what a pool saves.
"""

import itertools
from time import perf_counter_ns as now

NBYTES = 64 * 1024


def buffers_penstock(count, *, nbytes=NBYTES):
    """Acquire and release from a warm pool, inside one task."""
    from penstock import BufferPool, go

    def borrow(acquire):
        start = now()
        for _ in itertools.repeat(None, count):
            acquire(nbytes).release()
        return now() - start

    return go(borrow, BufferPool().acquire).result()


def buffers_bytearray(count, *, nbytes=NBYTES):
    """``bytearray(nbytes)``, freed at once."""
    make = bytearray
    start = now()
    for _ in itertools.repeat(None, count):
        make(nbytes)
    return now() - start


def buffers_numpy(count, *, nbytes=NBYTES):
    """``numpy.empty``, freed at once."""
    import numpy as np

    make, octet = np.empty, np.dtype("u1")
    start = now()
    for _ in itertools.repeat(None, count):
        make(nbytes, octet)
    return now() - start


class AcquireRelease:
    """Time to acquire and release a buffer 10,000 times, by its size."""

    params = (["penstock.BufferPool", "bytearray", "numpy.empty"], [4096, NBYTES])
    param_names = ("side", "nbytes")
    count = 10_000

    def setup(self, side, nbytes):
        if side == "penstock.BufferPool":
            from .versions import needs

            needs("go", "BufferPool")
        elif side == "numpy.empty":
            from importlib.util import find_spec

            from asv_runner.benchmarks.mark import SkipNotImplemented

            if find_spec("numpy") is None:
                raise SkipNotImplemented("numpy is not in this environment")
        self.run = {
            "penstock.BufferPool": buffers_penstock,
            "bytearray": buffers_bytearray,
            "numpy.empty": buffers_numpy,
        }[side]

    def time_acquire_release(self, side, nbytes):
        self.run(self.count, nbytes=nbytes)
