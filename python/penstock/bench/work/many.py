"""What an item costs in a batch of 1,000, sent and received; standard queues take one at a time."""

from __future__ import annotations

import queue
from collections.abc import Callable
from itertools import repeat
from time import perf_counter_ns as now

from . import Sides

BATCH = 1000
CAPACITY = 1024


def batches(count: int) -> int:
    """How many make up ``count``."""
    return max(1, count // BATCH)


def many_penstock(count: int) -> float:
    """``send_many`` of a list, ``recv_many`` of as many, from inside one task."""
    from penstock import Channel, go

    channel = Channel[object](CAPACITY)
    items = [object()] * BATCH

    def run() -> float:
        send_many, recv_many = channel.send_many, channel.recv_many
        start = now()
        for _ in repeat(None, batches(count)):
            send_many(items)
            recv_many(BATCH)
        return (now() - start) * count / (batches(count) * BATCH)

    return go(run).result()


def one_by_one(count: int, put: Callable[[object], object], get: Callable[[], object]) -> float:
    """``BATCH`` times ``put(item)``, then as often ``get()``, kept in a list."""
    item = object()
    start = now()
    for _ in repeat(None, batches(count)):
        for _ in repeat(None, BATCH):
            put(item)
        [get() for _ in repeat(None, BATCH)]
    return (now() - start) * count / (batches(count) * BATCH)


def singles_penstock(count: int) -> float:
    """``send`` and ``recv``, an item each."""
    from penstock import Channel, go

    channel = Channel[object](CAPACITY)
    return go(one_by_one, count, channel.send, channel.recv).result()


def many_simple_queue(count: int) -> float:
    """``queue.SimpleQueue``: unbounded, in C."""
    fifo = queue.SimpleQueue[object]()
    return one_by_one(count, fifo.put, fifo.get)


def many_queue(count: int) -> float:
    """``queue.Queue``: bounded."""
    fifo = queue.Queue[object](CAPACITY)
    return one_by_one(count, fifo.put, fifo.get)


SIDES: Sides = {
    "penstock": {"many": many_penstock, "many_singles": singles_penstock},
    "stdlib": {"many_simple_queue": many_simple_queue, "many_queue": many_queue},
}
