"""Other libraries, answering the questions of this folder for figures.py: no part of asv's environments.

Each is a function of a count that returns the nanoseconds it took, its loop included, and imports its
library itself. ``pip install --group peers`` brings them, where they run on the interpreter.
"""

import asyncio
import itertools
from functools import cache, partial
from time import perf_counter_ns as now

from .atomic import add_each, on_threads
from .channel import pairs
from .pingpong import ping_async, pingpong_threads, pong_async


def pairs_culsans(count):
    """culsans: a bounded queue with one side for threads and one for coroutines."""
    import culsans

    fifo = culsans.Queue(16).sync_q
    return pairs(count, fifo.put, fifo.get)


def pingpong_culsans(count):
    """Two threads over two queues of culsans."""
    import culsans

    return pingpong_threads(count, make=lambda: culsans.Queue().sync_q)


def pairs_aiologic(count):
    """aiologic: a bounded queue whose ``green_`` methods are for threads."""
    import aiologic

    fifo = aiologic.Queue(16)
    return pairs(count, fifo.green_put, fifo.green_get)


def pingpong_aiologic(count):
    """Two asyncio tasks over two queues of aiologic."""
    import aiologic

    async def main():
        there, back = aiologic.SimpleQueue(), aiologic.SimpleQueue()
        other = asyncio.ensure_future(pong_async(count, there.async_get, back.async_put))
        elapsed = await ping_async(count, there.async_put, back.async_get, lambda: other)
        await other
        return elapsed

    return asyncio.run(main())


def lock_aiologic(count):
    """``aiologic.Lock``, uncontended."""
    import aiologic

    return locked(count, aiologic.Lock())


def pairs_janus(count):
    """janus: a queue between threads and one event loop; the side for threads, within a running loop."""
    import janus

    async def main():
        both = janus.Queue(16)
        try:
            return pairs(count, both.sync_q.put, both.sync_q.get)
        finally:
            both.close()
            await both.wait_closed()

    return asyncio.run(main())


def pingpong_janus(count):
    """Two asyncio tasks over two queues of janus."""
    import janus

    async def main():
        there, back = janus.Queue(), janus.Queue()
        other = asyncio.ensure_future(pong_async(count, there.async_q.get, back.async_q.put))
        elapsed = await ping_async(count, there.async_q.put, back.async_q.get, lambda: other)
        await other
        for both in (there, back):
            both.close()
            await both.wait_closed()
        return elapsed

    return asyncio.run(main())


def adds_cereggii(count, *, threads=1):
    """``cereggii.AtomicInt64``."""
    import cereggii

    number = cereggii.AtomicInt64(0)
    return on_threads(count, threads, add_each(number.increment_and_get), number.get)


def adds_ft_utils(count, *, threads=1):
    """``ft_utils.concurrency.AtomicInt64``, which can add 1 and nothing else."""
    from ft_utils.concurrency import AtomicInt64

    number = AtomicInt64(0)

    def loop(share):
        incr = number.incr
        for _ in itertools.repeat(None, share):
            incr()

    return on_threads(count, threads, loop, number.get)


@cache
def tonio_runtime():
    """The one runtime that TonIO allows in a process."""
    import tonio

    return tonio.runtime(threads=2)


def pairs_tonio(count):
    """TonIO: a bounded channel, within one coroutine."""
    from tonio.colored.sync import channel

    async def main():
        sender, receiver = channel.channel(16)
        send, receive, item = sender.send, receiver.receive, object()
        start = now()
        for _ in itertools.repeat(None, count):
            await send(item)
            await receive()
        return now() - start

    return tonio_runtime().run_until_complete(main())


def pingpong_tonio(count):
    """Two coroutines of TonIO over two channels."""
    import tonio.colored as tonio
    from tonio.colored.sync import channel

    async def main():
        (send, answer_to), (answer, receive) = channel.channel(1), channel.channel(1)
        begin = partial(tonio.spawn, pong_async(count, answer_to.receive, answer.send))
        return await ping_async(count, send.send, receive.receive, begin)

    return tonio_runtime().run_until_complete(main())


def locked(count, lock):
    """Time ``count`` times an empty ``with lock``."""
    start = now()
    for _ in itertools.repeat(None, count):
        with lock:
            pass
    return now() - start


def lock_penstock(count):
    """Ours, uncontended, within a task."""
    from penstock import Lock, go

    return go(locked, count, Lock()).result()


def lock_threading(count):
    """``threading.Lock``, uncontended."""
    from threading import Lock

    return locked(count, Lock())


def lock_gevent(count):
    """The re-entrant lock of gevent, uncontended, within a greenlet."""
    import gevent
    from gevent.lock import RLock

    return gevent.spawn(locked, count, RLock()).get()
