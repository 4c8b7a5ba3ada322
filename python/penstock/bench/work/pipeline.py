"""What an item costs from producers to as many consumers, at capacity 1024.

The clock runs from the start of the first producer until the last consumer has seen the end. Consumers count
what they take, and a side that lost or doubled an item has no figure.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from functools import partial
from itertools import repeat
from threading import Thread
from time import perf_counter_ns as now
from typing import Any

from . import Sides, library

CAPACITY = 1024


def produce(count: int, put: Callable[[object], object]) -> None:
    """Put ``count`` items."""
    item = object()
    for _ in repeat(None, count):
        put(item)


def consume(get: Callable[[], object], taken: list[int]) -> None:
    """Take items until ``None`` comes, the end of queues that cannot be closed."""
    mine = 0
    while get() is not None:
        mine += 1
    taken.append(mine)


def check(taken: int, count: int) -> None:
    """Every item arrived, and once."""
    if taken != count:
        raise AssertionError(f"{taken} of {count} items arrived")


def pipeline_penstock(count: int, *, ends: int = 1) -> int:
    """Plain tasks over one channel, which is closed when all producers have ended."""
    from penstock import Channel, go

    channel = Channel[object](CAPACITY)
    share = count // ends

    def drain() -> int:
        taken = 0
        for _ in channel:
            taken += 1
        return taken

    def run() -> int:
        start = now()
        consumers = [go(drain) for _ in range(ends)]
        producers = [go(produce, share, channel.send) for _ in range(ends)]
        for producer in producers:
            producer.result()
        channel.close()
        taken = sum(consumer.result() for consumer in consumers)
        elapsed = now() - start
        check(taken, share * ends)
        return elapsed

    return go(run).result()


def pipeline_threads(count: int, *, ends: int = 1, make: Callable[[int], Any] = queue.Queue) -> int:
    """Threads over one queue; a ``None`` for each consumer is the end: no queue closes before 3.13."""
    fifo = make(CAPACITY)
    share = count // ends
    taken: list[int] = []

    start = now()
    consumers = [Thread(target=consume, args=(fifo.get, taken)) for _ in range(ends)]
    producers = [Thread(target=produce, args=(share, fifo.put)) for _ in range(ends)]
    for thread in consumers + producers:
        thread.start()
    for producer in producers:
        producer.join()
    for _ in consumers:
        fifo.put(None)
    for consumer in consumers:
        consumer.join()
    elapsed = now() - start
    check(sum(taken), share * ends)
    return elapsed


def pipeline_culsans(count: int, *, ends: int = 1) -> int:
    """The same over a queue of culsans."""
    culsans = library("culsans")
    return pipeline_threads(count, ends=ends, make=lambda capacity: culsans.Queue(capacity).sync_q)


def pipeline_asyncio(count: int, *, ends: int = 1) -> int:
    """Asyncio tasks over one ``asyncio.Queue``."""

    async def main() -> int:
        fifo = asyncio.Queue[object](CAPACITY)
        share, taken = count // ends, 0

        async def put_all() -> None:
            item = object()
            for _ in repeat(None, share):
                await fifo.put(item)

        async def take_all() -> int:
            mine = 0
            while await fifo.get() is not None:
                mine += 1
            return mine

        start = now()
        consumers = [asyncio.ensure_future(take_all()) for _ in range(ends)]
        producers = [asyncio.ensure_future(put_all()) for _ in range(ends)]
        await asyncio.gather(*producers)
        for _ in consumers:
            await fifo.put(None)
        taken = sum(await asyncio.gather(*consumers))
        elapsed = now() - start
        check(taken, share * ends)
        return elapsed

    return asyncio.run(main())


def pipeline_gevent(count: int, *, ends: int = 1) -> int:
    """Greenlets over one queue of gevent's."""
    gevent, fifo = library("gevent"), library("gevent.queue").SimpleQueue(CAPACITY)
    share = count // ends
    taken: list[int] = []

    def main() -> int:
        start = now()
        consumers = [gevent.spawn(consume, fifo.get, taken) for _ in range(ends)]
        gevent.joinall([gevent.spawn(produce, share, fifo.put) for _ in range(ends)])
        for _ in consumers:
            fifo.put(None)
        gevent.joinall(consumers)
        return now() - start

    elapsed: int = gevent.spawn(main).get()
    check(sum(taken), share * ends)
    return elapsed


SIDES: Sides = {
    side: {"pipeline": work, "pipeline_four": partial(work, ends=4)}
    for side, work in (
        ("penstock", pipeline_penstock),
        ("stdlib", pipeline_threads),
        ("asyncio", pipeline_asyncio),
        ("gevent", pipeline_gevent),
        ("culsans", pipeline_culsans),
    )
}
