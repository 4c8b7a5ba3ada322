"""What a round trip between two tasks costs: two parks and two wake-ups, beside asyncio's and threads'.

Each side is a function of a count that returns the nanoseconds it took, its loop included. The first end
starts the other one before the clock, as Go's does, so a runtime may keep the two together; the other ends
by itself. Ours meet on rendezvous channels; asyncio and threads have none, so theirs are queues that never
fill, the cheapest they offer.
"""

import asyncio
import itertools
import queue
from functools import partial
from threading import Thread
from time import perf_counter_ns as now


def ping(count, send, recv, begin):
    """Send and wait for the answer, ``count`` times, once ``begin()`` has started the other end."""
    begin()
    item = object()
    start = now()
    for _ in itertools.repeat(None, count):
        send(item)
        recv()
    return now() - start


def pong(count, recv, send):
    """Send back what comes, ``count`` times."""
    for _ in itertools.repeat(None, count):
        send(recv())


async def ping_async(count, send, recv, begin):
    """As ``ping``, awaiting both."""
    begin()
    item = object()
    start = now()
    for _ in itertools.repeat(None, count):
        await send(item)
        await recv()
    return now() - start


async def pong_async(count, recv, send):
    """As ``pong``, awaiting both."""
    for _ in itertools.repeat(None, count):
        await send(await recv())


def pingpong_penstock(count):
    """Two plain tasks over two rendezvous channels."""
    from penstock import Channel, go

    there, back = Channel(0), Channel(0)
    return go(ping, count, there.send, back.recv, partial(go, pong, count, there.recv, back.send)).result()


def pingpong_penstock_async(count):
    """Two ``async def`` tasks over two rendezvous channels."""
    from penstock import Channel, go

    there, back = Channel(0), Channel(0)
    begin = partial(go, pong_async, count, there.arecv, back.asend)
    return go(ping_async, count, there.asend, back.arecv, begin).result()


def pingpong_asyncio(count):
    """Two asyncio tasks over two ``asyncio.Queue``."""

    async def main():
        there, back = asyncio.Queue(), asyncio.Queue()
        other = asyncio.ensure_future(pong_async(count, there.get, back.put))
        elapsed = await ping_async(count, there.put, back.get, lambda: other)
        await other
        return elapsed

    return asyncio.run(main())


def pingpong_threads(count, make=queue.SimpleQueue):
    """Two threads over two queues."""
    there, back = make(), make()
    other = Thread(target=pong, args=(count, there.get, back.put))
    elapsed = ping(count, there.put, back.get, other.start)
    other.join()
    return elapsed


def pingpong_gevent(count):
    """Two greenlets over two rendezvous channels of gevent's."""
    import gevent
    from gevent.queue import Channel

    there, back = Channel(), Channel()
    begin = partial(gevent.spawn, pong, count, there.get, back.put)
    return gevent.spawn(ping, count, there.put, back.get, begin).get()


class RoundTrip:
    """Time for 5,000 round trips between two tasks."""

    params = (["plain tasks", "async def tasks", "asyncio.Queue", "threads, SimpleQueue"],)
    param_names = ("side",)
    count = 5_000
    number = 1

    def setup(self, side):
        if side in {"plain tasks", "async def tasks"}:
            from .versions import needs

            needs("go", "Channel")
        self.run = {
            "plain tasks": pingpong_penstock,
            "async def tasks": pingpong_penstock_async,
            "asyncio.Queue": pingpong_asyncio,
            "threads, SimpleQueue": pingpong_threads,
        }[side]

    def time_round_trip(self, side):
        self.run(self.count)


class Parks:
    """How often a task gives up its worker for each round trip: at least twice, once on either side."""

    params = (["plain tasks", "async def tasks"],)
    param_names = ("side",)
    count = 5_000
    unit = "parks"

    def setup(self, side):
        from .versions import needs

        needs("go", "Channel", "default_runtime")
        self.run = {"plain tasks": pingpong_penstock, "async def tasks": pingpong_penstock_async}[side]

    def track_parks(self, side):
        from penstock import default_runtime

        before = default_runtime().stats().parks
        self.run(self.count)
        return (default_runtime().stats().parks - before) / self.count
