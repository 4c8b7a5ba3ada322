"""What one item from a thread into a coroutine of an event loop costs.

The loop runs in a thread of its own and is warm; a burst of ``count`` items is over when the loop has all of
them, a hop when the thread knows that the loop has the one item.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from time import perf_counter_ns as now
from typing import Any

from . import Sides, library

CAPACITY = 1024

Send = Callable[[int], object]
Receive = Callable[[], Awaitable[object]]


class Loop:
    """An event loop that runs in a thread until the end of the block."""

    def __init__(self, make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self.loop = make()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Loop:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """A coroutine for the loop, the standard way."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def start(self, function: Callable[..., Awaitable[None]], *args: object) -> Future[Any]:
        """A coroutine of the loop that has begun."""
        begun = threading.Event()

        async def run() -> None:
            begun.set()
            await function(*args)

        running = self.submit(run())
        begun.wait()
        return running


async def take(receive: Receive, count: int) -> None:
    """Receive ``count`` items."""
    for _ in range(count):
        await receive()


async def answer(receive: Receive, event: threading.Event, count: int) -> None:
    """Receive ``count`` items, and say so of each."""
    for _ in range(count):
        await receive()
        event.set()


async def handle(event: threading.Event | None = None) -> None:
    """What the loop does with an item that comes as a coroutine."""
    if event is not None:
        event.set()


def burst(loop: Loop, send: Send, receive: Receive, count: int) -> int:
    """All items, then wait until the coroutine has them."""
    running = loop.start(take, receive, count)
    start = now()
    for item in range(count):
        send(item)
    running.result()
    return now() - start


def hops(loop: Loop, send: Send, receive: Receive, count: int) -> int:
    """One item after the other, each once the one before has arrived."""
    event = threading.Event()
    running = loop.start(answer, receive, event, count)
    start = now()
    for item in range(count):
        send(item)
        event.wait()
        event.clear()
    elapsed = now() - start
    running.result()
    return elapsed


Way = Callable[[Loop, Send, Receive, int], int]


def penstock(count: int, way: Way) -> int:
    """A bounded channel of ours."""
    from penstock import Channel

    channel = Channel[int](CAPACITY)
    with Loop() as loop:
        return way(loop, channel.send, channel.arecv, count)


def burst_coroutines(
    count: int, make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
) -> int:
    """A coroutine for each item."""
    with Loop(make) as loop:
        start = now()
        futures = [loop.submit(handle()) for _ in range(count)]
        for future in futures:
            future.result()
        return now() - start


def hops_coroutines(
    count: int, make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
) -> int:
    """The same, one after the other."""
    event = threading.Event()
    with Loop(make) as loop:
        start = now()
        for _ in range(count):
            loop.submit(handle(event))
            event.wait()
            event.clear()
        return now() - start


def burst_uvloop(count: int) -> int:
    """A coroutine for each item, in uvloop's loop."""
    return burst_coroutines(count, make=library("uvloop").new_event_loop)


def hops_uvloop(count: int) -> int:
    """The same, one after the other."""
    return hops_coroutines(count, make=library("uvloop").new_event_loop)


def janus(count: int, way: Way) -> int:
    """A queue of janus, which has a side for threads and one for its loop."""
    queues = library("janus")

    async def make() -> Any:
        return queues.Queue(CAPACITY)

    with Loop() as loop:
        both = loop.submit(make()).result()
        try:
            return way(loop, both.sync_q.put, both.async_q.get, count)
        finally:
            loop.submit(both.aclose()).result()


def culsans(count: int, way: Way) -> int:
    """The same of culsans."""
    both = library("culsans").Queue(CAPACITY)
    with Loop() as loop:
        return way(loop, both.sync_q.put, both.async_q.get, count)


def aiologic(count: int, way: Way) -> int:
    """The same of aiologic."""
    fifo = library("aiologic").Queue(CAPACITY)
    with Loop() as loop:
        return way(loop, fifo.green_put, fifo.async_get, count)


SIDES: Sides = {
    **{
        side: {"loop_burst": partial(work, way=burst), "loop_hop": partial(work, way=hops)}
        for side, work in (
            ("penstock", penstock),
            ("janus", janus),
            ("culsans", culsans),
            ("aiologic", aiologic),
        )
    },
    "asyncio": {"loop_burst": burst_coroutines, "loop_hop": hops_coroutines},
    "uvloop": {"loop_burst": burst_uvloop, "loop_hop": hops_uvloop},
}
