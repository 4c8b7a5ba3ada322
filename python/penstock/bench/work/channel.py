"""What one item through a channel costs when neither end waits. Methods are bound before the clock starts."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import repeat
from time import perf_counter_ns as now
from typing import Any

from . import Sides, library

CAPACITY = 16


def pairs(count: int, put: Callable[[object], object], get: Callable[[], object]) -> int:
    """Time ``count`` times ``put(item)`` and ``get()``."""
    item = object()
    start = now()
    for _ in repeat(None, count):
        put(item)
        get()
    return now() - start


async def pairs_async(
    count: int, put: Callable[[object], Awaitable[object]], get: Callable[[], Awaitable[object]]
) -> int:
    """The same, awaiting both."""
    item = object()
    start = now()
    for _ in repeat(None, count):
        await put(item)
        await get()
    return now() - start


def pairs_penstock(count: int, *, capacity: int | None = CAPACITY) -> int:
    """From inside one task, over a bounded channel, or one without a bound."""
    from penstock import Channel, go

    channel = Channel[object](capacity)
    return go(pairs, count, channel.send, channel.recv).result()


def pairs_penstock_async(count: int) -> int:
    """From inside one ``async def`` task."""
    from penstock import Channel, go

    channel = Channel[object](CAPACITY)
    return go(pairs_async, count, channel.asend, channel.arecv).result()


def pairs_simple_queue(count: int) -> int:
    """``queue.SimpleQueue``: unbounded, in C."""
    fifo = queue.SimpleQueue[object]()
    return pairs(count, fifo.put, fifo.get)


def pairs_queue(count: int) -> int:
    """``queue.Queue``: bounded, the standard library's nearest to a channel."""
    fifo = queue.Queue[object](CAPACITY)
    return pairs(count, fifo.put, fifo.get)


def pairs_deque(count: int) -> int:
    """``collections.deque``: no waiting and no closing, so no channel, but the floor of a hand-over."""
    fifo = deque[object]()
    return pairs(count, fifo.append, fifo.popleft)


def pairs_asyncio(count: int) -> int:
    """``asyncio.Queue`` from inside one asyncio task."""

    async def main() -> int:
        fifo = asyncio.Queue[object](CAPACITY)
        return await pairs_async(count, fifo.put, fifo.get)

    return asyncio.run(main())


def pairs_gevent(count: int) -> int:
    """``gevent.queue.SimpleQueue`` inside a greenlet."""
    fifo = library("gevent.queue").SimpleQueue(CAPACITY)
    elapsed: int = library("gevent").spawn(pairs, count, fifo.put, fifo.get).get()
    return elapsed


def pairs_culsans(count: int) -> int:
    """culsans: a bounded queue with one side for threads and one for coroutines; the one for threads."""
    fifo = library("culsans").Queue(CAPACITY).sync_q
    return pairs(count, fifo.put, fifo.get)


def pairs_culsans_async(count: int) -> int:
    """The one for coroutines, on asyncio."""
    fifo = library("culsans").Queue(CAPACITY).async_q
    return asyncio.run(pairs_async(count, fifo.put, fifo.get))


def pairs_aiologic(count: int) -> int:
    """aiologic: a bounded queue whose ``green_`` methods are for threads."""
    fifo = library("aiologic").Queue(CAPACITY)
    return pairs(count, fifo.green_put, fifo.green_get)


def pairs_aiologic_async(count: int) -> int:
    """The same queue from coroutines, on asyncio."""
    fifo = library("aiologic").Queue(CAPACITY)
    return asyncio.run(pairs_async(count, fifo.async_put, fifo.async_get))


def with_janus(work: Callable[[Any], Awaitable[int]]) -> int:
    """Run with a queue of janus, which wants a running loop, and closing."""
    janus = library("janus")

    async def main() -> int:
        both = janus.Queue(CAPACITY)
        try:
            return await work(both)
        finally:
            both.close()
            await both.wait_closed()

    return asyncio.run(main())


def pairs_janus(count: int) -> int:
    """janus: the side for threads, within a running loop."""

    async def work(both: Any) -> int:
        return pairs(count, both.sync_q.put, both.sync_q.get)

    return with_janus(work)


def pairs_janus_async(count: int) -> int:
    """The side for coroutines."""

    async def work(both: Any) -> int:
        return await pairs_async(count, both.async_q.put, both.async_q.get)

    return with_janus(work)


def pairs_trio(count: int) -> int:
    """A memory channel of trio's: each call is a checkpoint."""
    trio = library("trio")

    async def main() -> int:
        sender, receiver = trio.open_memory_channel(CAPACITY)
        return await pairs_async(count, sender.send, receiver.receive)

    elapsed: int = trio.run(main)
    return elapsed


def pairs_anyio(count: int) -> int:
    """A memory object stream of anyio's, on asyncio."""
    anyio = library("anyio")

    async def main() -> int:
        sender, receiver = anyio.create_memory_object_stream(CAPACITY)
        with sender, receiver:
            return await pairs_async(count, sender.send, receiver.receive)

    elapsed: int = anyio.run(main)
    return elapsed


def pairs_tonio(count: int) -> int:
    """TonIO: a bounded channel, within one coroutine."""
    from .peers import tonio_runtime

    sender, receiver = library("tonio.colored.sync").channel.channel(CAPACITY)
    elapsed: int = tonio_runtime().run_until_complete(pairs_async(count, sender.send, receiver.receive))
    return elapsed


SIDES: Sides = {
    "penstock": {"pair": pairs_penstock, "pair_async": pairs_penstock_async},
    "stdlib": {
        "pair_simple_queue": pairs_simple_queue,
        "pair_queue": pairs_queue,
        "pair_deque": pairs_deque,
    },
    "asyncio": {"pair_async": pairs_asyncio},
    "gevent": {"pair": pairs_gevent},
    "culsans": {"pair": pairs_culsans, "pair_async": pairs_culsans_async},
    "aiologic": {"pair": pairs_aiologic, "pair_async": pairs_aiologic_async},
    "janus": {"pair": pairs_janus, "pair_async": pairs_janus_async},
    "trio": {"pair_async": pairs_trio},
    "anyio": {"pair_async": pairs_anyio},
    "tonio": {"pair_async": pairs_tonio},
}
