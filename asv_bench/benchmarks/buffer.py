"""What borrowing 64 KiB costs, beside making and freeing them anew.

Each side is a function of a count that returns the nanoseconds it took, its loop included. Nobody writes
into the memory; ``bytearray`` has to clear it, which is part of what a pool saves.
"""

import itertools
import socket
from collections import deque
from threading import Thread
from time import perf_counter_ns as now

from .work.atomic import on_threads

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


def shared_penstock(count, *, threads):
    """One pool, from several threads at once."""
    from penstock import BufferPool

    acquire = BufferPool().acquire

    def loop(share):
        for _ in itertools.repeat(None, share):
            acquire(NBYTES).release()

    return on_threads(count, threads, loop, lambda: count // threads * threads)


def shared_bytearray(count, *, threads):
    """``bytearray``, from several threads at once."""
    make = bytearray

    def loop(share):
        for _ in itertools.repeat(None, share):
            make(NBYTES)

    return on_threads(count, threads, loop, lambda: count // threads * threads)


class Threads:
    """Time for 20,000 times 64 KiB, by how many threads share the pool."""

    params = (["penstock.BufferPool", "bytearray"], [1, 2, 4])
    param_names = ("side", "threads")
    count = 20_000

    def setup(self, side, threads):
        if side == "penstock.BufferPool":
            from .versions import needs

            needs("BufferPool")
        self.run = {"penstock.BufferPool": shared_penstock, "bytearray": shared_bytearray}[side]

    def time_acquire_release(self, side, threads):
        self.run(self.count, threads=threads)


def on_workers(count, *, workers, tasks=16):
    """One pool, from tasks on several workers, each with its share of the count."""
    from penstock import BufferPool, Runtime

    acquire = BufferPool().acquire

    def borrow():
        for _ in itertools.repeat(None, count // tasks):
            acquire(NBYTES).release()

    with Runtime(workers=workers) as runtime:
        for warm in [runtime.go(int) for _ in range(workers)]:
            warm.result()
        start = now()
        for task in [runtime.go(borrow) for _ in range(tasks)]:
            task.result()
        return now() - start


class Workers:
    """Time for 64,000 times 64 KiB from 16 tasks, by how many workers run them."""

    params = ([1, 2],)
    param_names = ("workers",)
    count = 64_000
    number = 1

    def setup(self, workers):
        from .versions import needs

        needs("BufferPool", "Runtime")

    def time_acquire_release(self, workers):
        on_workers(self.count, workers=workers)


KEPT = 32  # messages that a receiver still has when the next one comes


def receive_penstock(count, *, nbytes=NBYTES):
    """Receive into pooled buffers."""
    from penstock import BufferPool

    acquire = BufferPool().acquire

    def receive(connection, kept):
        if len(kept) == KEPT:
            kept.popleft().release()
        buffer = acquire(nbytes)
        kept.append(buffer)
        return connection.recv_into(buffer)

    return receiving(count * nbytes, receive, nbytes)


def receive_fresh(count, *, nbytes=NBYTES):
    """Receive fresh ``bytes``."""

    def receive(connection, kept):
        if len(kept) == KEPT:
            kept.popleft()
        message = connection.recv(nbytes)
        kept.append(message)
        return len(message)

    return receiving(count * nbytes, receive, nbytes)


def receiving(total, receive, nbytes):
    """Time to receive ``total`` bytes that another thread sends, keeping the last few messages."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        message = bytes(nbytes)

        def send():
            for _ in range(total // nbytes):
                theirs.sendall(message)

        sending = Thread(target=send)
        sending.start()
        kept = deque()
        start = now()
        while total > 0:
            total -= receive(ours, kept)
        elapsed = now() - start
        sending.join()
        return elapsed


class Receive:
    """Time and peak memory to receive 64 MiB over a socket pair, the last 32 messages kept."""

    params = (["penstock.BufferPool", "bytes"], [4096, NBYTES])
    param_names = ("side", "nbytes")
    total = 64 << 20
    number = 1

    def setup(self, side, nbytes):
        if side == "penstock.BufferPool":
            from .versions import needs

            needs("BufferPool")
        self.run = {"penstock.BufferPool": receive_penstock, "bytes": receive_fresh}[side]

    def time_receive(self, side, nbytes):
        self.run(self.total // nbytes, nbytes=nbytes)

    def peakmem_receive(self, side, nbytes):
        self.run(self.total // nbytes, nbytes=nbytes)
