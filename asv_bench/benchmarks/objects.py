"""What lending a pooled object costs, beside a queue of such objects, and beside making one.

Each side is a function of a count that returns the nanoseconds it took, its loop included. The object is a
``bytearray`` of 4 KiB, which nobody writes into.
"""

import itertools
from queue import SimpleQueue
from time import perf_counter_ns as now

from .work.atomic import on_threads

NBYTES = 4096
KEYS = tuple("abcdefghij")


def make():
    """One of the objects."""
    return bytearray(NBYTES)


def objects_penstock(count):
    """``acquire`` and ``release``."""
    from penstock import ObjectPool

    objects = ObjectPool(make)
    start = now()
    for _ in itertools.repeat(None, count):
        objects.release(objects.acquire())
    return now() - start


def objects_reset(count):
    """The same with a ``reset`` that is a function of C's."""
    from penstock import ObjectPool

    objects = ObjectPool(make, reset=len)
    start = now()
    for _ in itertools.repeat(None, count):
        objects.release(objects.acquire())
    return now() - start


def objects_borrow(count):
    """``with borrow()``."""
    from penstock import ObjectPool

    objects = ObjectPool(make)
    start = now()
    for _ in itertools.repeat(None, count):
        with objects.borrow():
            pass
    return now() - start


def objects_queue(count):
    """``get`` and ``put`` of a ``SimpleQueue`` that one is in."""
    objects = SimpleQueue()
    objects.put(make())
    start = now()
    for _ in itertools.repeat(None, count):
        objects.put(objects.get())
    return now() - start


def objects_bytearray(count):
    """Made anew each time."""
    start = now()
    for _ in itertools.repeat(None, count):
        bytearray(NBYTES)
    return now() - start


def objects_dict(count):
    """A ``dict`` of ten keys made anew each time: another object that is often pooled."""
    start = now()
    for _ in itertools.repeat(None, count):
        dict.fromkeys(KEYS, 0)
    return now() - start


SIDES = {
    "penstock.ObjectPool": objects_penstock,
    "penstock.ObjectPool, reset": objects_reset,
    "penstock.ObjectPool, borrow": objects_borrow,
    "SimpleQueue": objects_queue,
    "bytearray(4096)": objects_bytearray,
    "dict of 10": objects_dict,
}


class Lend:
    """Time to lend an object and take it back 100,000 times."""

    params = (list(SIDES),)
    param_names = ("side",)
    count = 100_000

    def setup(self, side):
        if side.startswith("penstock"):
            from .versions import needs

            needs("ObjectPool")
        self.run = SIDES[side]

    def time_lend(self, side):
        self.run(self.count)


def shared_penstock(count, *, threads):
    """One pool, from several threads at once."""
    from penstock import ObjectPool

    objects = ObjectPool(make)

    def loop(share):
        for _ in itertools.repeat(None, share):
            objects.release(objects.acquire())

    return on_threads(count, threads, loop, lambda: count // threads * threads)


def shared_queue(count, *, threads):
    """One ``SimpleQueue``, with an object for each thread."""
    objects = SimpleQueue()
    for _ in range(threads):
        objects.put(make())

    def loop(share):
        for _ in itertools.repeat(None, share):
            objects.put(objects.get())

    return on_threads(count, threads, loop, lambda: count // threads * threads)


class Threads:
    """Time to lend 100,000 times, by how many threads share the pool."""

    params = (["penstock.ObjectPool", "SimpleQueue"], [1, 2, 4])
    param_names = ("side", "threads")
    count = 100_000

    def setup(self, side, threads):
        if side == "penstock.ObjectPool":
            from .versions import needs

            needs("ObjectPool")
        self.run = {"penstock.ObjectPool": shared_penstock, "SimpleQueue": shared_queue}[side]

    def time_lend(self, side, threads):
        self.run(self.count, threads=threads)


def handed_on(count):
    """Objects that one thread acquires and another releases, a channel between them."""
    from penstock import Channel, ObjectPool, blocking, go

    objects, channel = ObjectPool(make), Channel(capacity=64)

    def release():
        for each in channel:
            objects.release(each)

    releasing = go(blocking, release)
    start = now()
    for _ in itertools.repeat(None, count):
        channel.send(objects.acquire())
    channel.close()
    releasing.result()
    return now() - start


class HandedOn:
    """Time for 50,000 objects to go from the thread that acquires to one that releases."""

    count = 50_000
    number = 1

    def setup(self):
        from .versions import needs

        needs("ObjectPool", "blocking")

    def time_hand_on(self):
        handed_on(self.count)
