"""What a round trip between two tasks costs: two parks and two wake-ups.

The first end starts the other one before the clock, as Go's does, so a runtime may keep the two together; the
other ends by itself. Ours meet on rendezvous channels, and so do those of libraries that have them; where
there are none, as in asyncio and between threads, they are queues that never fill, the cheapest there.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import repeat
from threading import Thread
from time import perf_counter_ns as now
from typing import Any

from . import Sides, library


def ping(
    count: int, send: Callable[[object], object], recv: Callable[[], object], begin: Callable[[], object]
) -> int:
    """Send and wait for the answer, ``count`` times, once ``begin()`` has started the other end."""
    begin()
    item = object()
    start = now()
    for _ in repeat(None, count):
        send(item)
        recv()
    return now() - start


def pong(count: int, recv: Callable[[], object], send: Callable[[object], object]) -> None:
    """Send back what comes, ``count`` times."""
    for _ in repeat(None, count):
        send(recv())


async def ping_async(
    count: int,
    send: Callable[[object], Awaitable[object]],
    recv: Callable[[], Awaitable[object]],
    begin: Callable[[], object],
) -> int:
    """As ``ping``, awaiting both."""
    begin()
    item = object()
    start = now()
    for _ in repeat(None, count):
        await send(item)
        await recv()
    return now() - start


async def pong_async(
    count: int, recv: Callable[[], Awaitable[object]], send: Callable[[object], Awaitable[object]]
) -> None:
    """As ``pong``, awaiting both."""
    for _ in repeat(None, count):
        await send(await recv())


def pingpong_penstock(count: int) -> int:
    """Two plain tasks over two rendezvous channels."""
    from penstock import Channel, go

    there, back = Channel[object](0), Channel[object](0)

    def begin() -> None:
        go(pong, count, there.recv, back.send)

    return go(ping, count, there.send, back.recv, begin).result()


def pingpong_penstock_async(count: int) -> int:
    """Two ``async def`` tasks over two rendezvous channels."""
    from penstock import Channel, go

    there, back = Channel[object](0), Channel[object](0)

    def begin() -> None:
        go(pong_async, count, there.arecv, back.asend)

    return go(ping_async, count, there.asend, back.arecv, begin).result()


async def on_asyncio(count: int, there: Any, back: Any, get: str = "get", put: str = "put") -> int:
    """Two asyncio tasks over two queues, whose methods have these names."""
    other = asyncio.ensure_future(pong_async(count, getattr(there, get), getattr(back, put)))
    elapsed = await ping_async(count, getattr(there, put), getattr(back, get), lambda: other)
    await other
    return elapsed


def pingpong_asyncio(count: int, run: Callable[[Any], Any] = asyncio.run) -> int:
    """Two ``asyncio.Queue``."""

    async def main() -> int:
        return await on_asyncio(count, asyncio.Queue[object](), asyncio.Queue[object]())

    elapsed: int = run(main())
    return elapsed


def pingpong_uvloop(count: int) -> int:
    """The same in uvloop's loop."""
    return pingpong_asyncio(count, run=library("uvloop").run)


def pingpong_threads(count: int, make: Callable[[], Any] = queue.SimpleQueue) -> int:
    """Two threads over two queues."""
    there, back = make(), make()
    other = Thread(target=pong, args=(count, there.get, back.put))
    elapsed = ping(count, there.put, back.get, other.start)
    other.join()
    return elapsed


def pingpong_gevent(count: int) -> int:
    """Two greenlets over two rendezvous channels of gevent's."""
    gevent, queues = library("gevent"), library("gevent.queue")
    there, back = queues.Channel(), queues.Channel()
    begin = partial(gevent.spawn, pong, count, there.get, back.put)
    elapsed: int = gevent.spawn(ping, count, there.put, back.get, begin).get()
    return elapsed


def pingpong_culsans(count: int) -> int:
    """Two threads over two queues of culsans."""
    culsans = library("culsans")
    return pingpong_threads(count, make=lambda: culsans.Queue().sync_q)


def pingpong_culsans_async(count: int) -> int:
    """Two asyncio tasks over two queues of culsans."""
    culsans = library("culsans")
    return asyncio.run(on_asyncio(count, culsans.Queue().async_q, culsans.Queue().async_q))


def pingpong_aiologic(count: int) -> int:
    """Two asyncio tasks over two queues of aiologic."""
    aiologic = library("aiologic")
    there, back = aiologic.SimpleQueue(), aiologic.SimpleQueue()
    return asyncio.run(on_asyncio(count, there, back, "async_get", "async_put"))


def pingpong_janus(count: int) -> int:
    """Two asyncio tasks over two queues of janus."""
    janus = library("janus")

    async def main() -> int:
        there, back = janus.Queue(), janus.Queue()
        try:
            return await on_asyncio(count, there.async_q, back.async_q)
        finally:
            for both in (there, back):
                both.close()
                await both.wait_closed()

    return asyncio.run(main())


def pingpong_trio(count: int) -> int:
    """Two tasks of trio over two memory channels without room."""
    trio = library("trio")

    async def main() -> int:
        (send, answer_to), (answer, receive) = trio.open_memory_channel(0), trio.open_memory_channel(0)
        async with trio.open_nursery() as nursery:
            begin = partial(nursery.start_soon, pong_async, count, answer_to.receive, answer.send)
            return await ping_async(count, send.send, receive.receive, begin)

    elapsed: int = trio.run(main)
    return elapsed


def pingpong_anyio(count: int) -> int:
    """Two tasks of anyio over two memory object streams without room, on asyncio."""
    anyio = library("anyio")

    async def main() -> int:
        stream = anyio.create_memory_object_stream
        (send, answer_to), (answer, receive) = stream(0), stream(0)
        with send, answer_to, answer, receive:
            async with anyio.create_task_group() as group:
                begin = partial(group.start_soon, pong_async, count, answer_to.receive, answer.send)
                return await ping_async(count, send.send, receive.receive, begin)

    elapsed: int = anyio.run(main)
    return elapsed


def pingpong_tonio(count: int) -> int:
    """Two coroutines of TonIO over two channels."""
    from .peers import tonio_runtime

    tonio, channel = library("tonio.colored"), library("tonio.colored.sync").channel.channel

    async def main() -> int:
        (send, answer_to), (answer, receive) = channel(1), channel(1)
        begin = partial(tonio.spawn, pong_async(count, answer_to.receive, answer.send))
        return await ping_async(count, send.send, receive.receive, begin)

    elapsed: int = tonio_runtime().run_until_complete(main())
    return elapsed


SIDES: Sides = {
    "penstock": {"pingpong": pingpong_penstock, "pingpong_async": pingpong_penstock_async},
    "stdlib": {"pingpong": pingpong_threads},
    "asyncio": {"pingpong": pingpong_asyncio},
    "uvloop": {"pingpong": pingpong_uvloop},
    "gevent": {"pingpong": pingpong_gevent},
    "culsans": {"pingpong": pingpong_culsans, "pingpong_async": pingpong_culsans_async},
    "aiologic": {"pingpong_async": pingpong_aiologic},
    "janus": {"pingpong_async": pingpong_janus},
    "trio": {"pingpong_async": pingpong_trio},
    "anyio": {"pingpong_async": pingpong_anyio},
    "tonio": {"pingpong_async": pingpong_tonio},
}
