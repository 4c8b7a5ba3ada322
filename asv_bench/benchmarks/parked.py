"""How much memory a parked task takes, its handle included, and that very many can be parked at once.

Each side is a function of a count that returns the bytes by which the process grew (its resident set)
while so many tasks were started and came to wait. All of them wait on one channel or future and are
counted there before the figure is taken, so that the count is also how many were parked at once; then all
are let go, and waited for. Ask each in a process of its own: memory that an earlier one has given back
would be used again.
"""

import asyncio
import gc
import os
import time
from contextvars import ContextVar
from pathlib import Path

PATIENCE = 300.0  # seconds until all have parked

mark = ContextVar("mark")


def resident():
    """Resident bytes of this process. Linux alone tells them without a helper."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def receiving(channel):
    """A plain function that waits until the channel is closed; it takes no arguments, as Go's takes none."""

    def receive():
        for _ in channel:
            pass

    return receive


def receiving_async(channel):
    """The same, as an ``async def``."""

    async def receive():
        async for _ in channel:
            pass

    return receive


def parked_penstock(count, *, make=receiving, own_context=False):
    """Tasks that receive from an empty channel; if their creator's context holds a variable, each has one."""
    from penstock import Channel, go

    warm = Channel()
    first = [go(make(warm)) for _ in range(100)]
    wait_for(lambda: warm.stats().recv_waits, 100)
    channel = Channel()

    def start():
        if own_context:
            mark.set("of the spawner")
        receive = make(channel)
        gc.collect()
        before = resident()
        return before, [go(receive) for _ in range(count)]

    before, handles = go(start).result()
    wait_for(lambda: channel.stats().recv_waits, count)
    grown = resident() - before
    for each in (channel, warm):
        each.close()
    for handle in handles + first:
        handle.result()
    return grown


def parked_penstock_async(count, *, own_context=False):
    """Tasks of an ``async def``."""
    return parked_penstock(count, make=receiving_async, own_context=own_context)


def wait_for(reached, count):
    """Return once ``reached()`` says ``count``."""
    deadline = time.monotonic() + PATIENCE
    while reached() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{reached()} of {count} tasks parked within {PATIENCE:.0f} s")
        time.sleep(0.01)


def parked_asyncio(count):
    """Tasks of asyncio that wait for one future each, as they would for a queue's."""

    async def main():
        loop = asyncio.get_running_loop()
        futures = []

        async def wait():
            future = loop.create_future()
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


def parked_gevent(count):
    """Greenlets that wait for one event."""
    import gevent
    from gevent.event import Event

    event = Event()
    begun = 0

    def wait():
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


class Parked:
    """Bytes for each parked task: 10,000 plain ones, 100,000 of the others."""

    params = (["plain", "async def", "async def, own context", "asyncio.Task"],)
    param_names = ("kind",)
    unit = "bytes"
    number = 1
    timeout = 300

    def setup(self, kind):
        if kind != "asyncio.Task":
            from .versions import needs

            needs("go", "Channel")

    def track_bytes(self, kind):
        count = 10_000 if kind == "plain" else 100_000
        if kind == "plain":
            return parked_penstock(count) / count
        if kind == "asyncio.Task":
            return parked_asyncio(count) / count
        return parked_penstock_async(count, own_context="own" in kind) / count


class AtOnce:
    """Bytes for each parked task where there are as many as ever: 100,000 plain ones, a million others."""

    params = (["plain", "async def", "async def, own context"],)
    param_names = ("kind",)
    unit = "bytes"
    number = 1
    timeout = 600

    def setup(self, kind):
        from .versions import needs

        needs("go", "Channel")

    def track_bytes(self, kind):
        if kind == "plain":
            return parked_penstock(100_000) / 100_000
        return parked_penstock_async(1_000_000, own_context="own" in kind) / 1_000_000
