"""How much memory a parked task takes, its handle included, and that very many can be parked at once.

A figure is the bytes by which the process grew (its resident set) while so many tasks were started and came
to wait. All of them wait on one channel or future and are counted there before the figure is taken, so that
the count is also how many were parked at once; then all are let go, and waited for. Each answer wants a
process of its own: memory that an earlier one has given back would be used again.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from . import Sides, library

PATIENCE = 300.0  # seconds until all have parked
WARM = 100

mark = ContextVar[str]("mark")


def resident() -> int:
    """Resident bytes of this process. Linux alone tells them without a helper."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def receiving(channel: Any) -> Callable[[], Any]:
    """A plain function that waits for one value; it takes no arguments, as Go's takes none."""

    def receive() -> None:
        channel.recv()

    return receive


def receiving_async(channel: Any) -> Callable[[], Any]:
    """The same, as an ``async def``."""

    async def receive() -> None:
        await channel.arecv()

    return receive


def parked_penstock(
    count: int, *, make: Callable[[Any], Callable[[], Any]] = receiving, own_context: bool = False
) -> int:
    """Tasks that receive from an empty channel; if their creator's context holds a variable, each has one."""
    from penstock import Channel, go

    warm = Channel[object]()
    first = [go(make(warm)) for _ in range(WARM)]
    wait_for(lambda: warm.stats().recv_waits, WARM)
    channel = Channel[object]()

    def start() -> tuple[int, list[Any]]:
        if own_context:
            mark.set("of the spawner")
        receive = make(channel)
        gc.collect()
        before = resident()
        return before, [go(receive) for _ in range(count)]

    before, handles = go(start).result()
    wait_for(lambda: channel.stats().recv_waits, count)
    grown = resident() - before
    channel.send_many([None] * count)
    warm.send_many([None] * WARM)
    for handle in handles + first:
        handle.result()
    return grown


def wait_for(reached: Callable[[], int], count: int) -> None:
    """Return once ``reached()`` says ``count``."""
    deadline = time.monotonic() + PATIENCE
    while reached() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{reached()} of {count} tasks parked within {PATIENCE:.0f} s")
        time.sleep(0.01)


def parked_asyncio(count: int) -> int:
    """Tasks of asyncio that wait for one future each, as they would for a queue's."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None]] = []

        async def wait() -> None:
            future: asyncio.Future[None] = loop.create_future()
            futures.append(future)
            await future

        gc.collect()
        before = resident()
        handles = [asyncio.ensure_future(wait()) for _ in range(count)]
        await asyncio.sleep(0)  # one turn of the loop, in which each has its first step
        if len(futures) < count:
            raise AssertionError(f"{len(futures)} of {count} tasks wait")
        grown = resident() - before
        for future in futures:
            future.set_result(None)
        await asyncio.gather(*handles)
        return grown

    return asyncio.run(main())


def parked_gevent(count: int) -> int:
    """Greenlets that wait for one event."""
    gevent = library("gevent")
    event = library("gevent.event").Event()
    begun = 0

    def wait() -> None:
        nonlocal begun
        begun += 1
        event.wait()

    gc.collect()
    before = resident()
    handles = [gevent.spawn(wait) for _ in range(count)]
    while begun < count:
        gevent.sleep(0)
    grown = resident() - before
    event.set()
    gevent.joinall(handles)
    return grown


def parked_trio(count: int) -> int:
    """Tasks of trio that wait for one event."""
    trio = library("trio")

    async def main() -> int:
        event, begun = trio.Event(), 0

        async def wait() -> None:
            nonlocal begun
            begun += 1
            await event.wait()

        async with trio.open_nursery() as nursery:
            gc.collect()
            before = resident()
            for _ in range(count):
                nursery.start_soon(wait)
            while begun < count:
                await trio.sleep(0)
            grown = resident() - before
            event.set()
        return grown

    grown: int = trio.run(main)
    return grown


SIDES: Sides = {
    "penstock": {
        "parked": parked_penstock,
        "parked_async": partial(parked_penstock, make=receiving_async),
        "parked_own_context": partial(parked_penstock, make=receiving_async, own_context=True),
    },
    "asyncio": {"parked": parked_asyncio},
    "gevent": {"parked": parked_gevent},
    "trio": {"parked": parked_trio},
}
