"""What one item from a thread into an asyncio coroutine costs, beside ``run_coroutine_threadsafe`` and janus.

Each side is a function of a count that returns the nanoseconds it took, its loop included. The asyncio loop
runs in a thread of its own and is warm; a burst of ``count`` items is over when the loop has all of them, a
hop when the thread knows that the loop has the one item.
"""

import asyncio
import threading
from time import perf_counter_ns as now


class Loop:
    """An asyncio loop that runs in a thread until the end of the block."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def start(self, function, *args):
        """A coroutine of the loop that has begun."""
        begun = threading.Event()

        async def run():
            begun.set()
            return await function(*args)

        running = asyncio.run_coroutine_threadsafe(run(), self.loop)
        begun.wait()
        return running


async def take(receive, count):
    """Receive ``count`` items."""
    for _ in range(count):
        await receive()


async def answer(receive, event, count):
    """Receive ``count`` items, and say so of each."""
    for _ in range(count):
        await receive()
        event.set()


async def handle(event=None):
    """What the loop does with an item that comes as a coroutine."""
    if event is not None:
        event.set()


def burst(send, receive, count):
    """All items, then wait until the coroutine has them."""
    with Loop() as loop:
        running = loop.start(take, receive, count)
        start = now()
        for item in range(count):
            send(item)
        running.result()
        return now() - start


def hops(send, receive, count):
    """One item after the other, each once the one before has arrived."""
    event = threading.Event()
    with Loop() as loop:
        running = loop.start(answer, receive, event, count)
        start = now()
        for item in range(count):
            send(item)
            event.wait()
            event.clear()
        elapsed = now() - start
        running.result()
        return elapsed


def burst_penstock(count):
    """A channel with room for the burst."""
    from penstock import Channel

    channel = Channel(1024)
    return burst(channel.send, channel.arecv, count)


def hops_penstock(count):
    """The same channel."""
    from penstock import Channel

    channel = Channel(1024)
    return hops(channel.send, channel.arecv, count)


def burst_coroutines(count):
    """A coroutine for each item."""
    with Loop() as loop:
        start = now()
        futures = [asyncio.run_coroutine_threadsafe(handle(), loop.loop) for _ in range(count)]
        for future in futures:
            future.result()
        return now() - start


def hops_coroutines(count):
    """The same, one after the other."""
    event = threading.Event()
    with Loop() as loop:
        start = now()
        for _ in range(count):
            asyncio.run_coroutine_threadsafe(handle(event), loop.loop)
            event.wait()
            event.clear()
        return now() - start


def with_janus(run, count):
    """A queue of janus, which has a side for threads and one for its loop."""
    import janus

    with Loop() as loop:

        async def make():
            return janus.Queue(1024)

        queue = asyncio.run_coroutine_threadsafe(make(), loop.loop).result()
        try:
            return run(loop, queue, count)
        finally:
            asyncio.run_coroutine_threadsafe(queue.aclose(), loop.loop).result()


def burst_janus(count):
    """As `burst`."""

    def run(loop, queue, count):
        running = loop.start(take, queue.async_q.get, count)
        start = now()
        for item in range(count):
            queue.sync_q.put(item)
        running.result()
        return now() - start

    return with_janus(run, count)


def hops_janus(count):
    """As `hops`."""

    def run(loop, queue, count):
        event = threading.Event()
        loop.start(answer, queue.async_q.get, event, count)
        start = now()
        for item in range(count):
            queue.sync_q.put(item)
            event.wait()
            event.clear()
        return now() - start

    return with_janus(run, count)


SIDES = {
    "penstock.Channel": (burst_penstock, hops_penstock),
    "run_coroutine_threadsafe": (burst_coroutines, hops_coroutines),
    "janus.Queue": (burst_janus, hops_janus),
}


class IntoAsyncio:
    """Time for 1,000 items from a thread into an asyncio loop: in a burst, and one by one."""

    params = (list(SIDES), ["burst", "hops"])
    param_names = ("side", "way")
    count = 1000

    def setup(self, side, way):
        from .versions import needs

        needs("Channel")
        if side == "janus.Queue":
            try:
                import janus  # noqa: F401
            except ImportError:
                raise NotImplementedError from None
        self.run = SIDES[side][way == "hops"]
        self.run(10)

    def time_into_asyncio(self, side, way):
        self.run(self.count)
