"""What one item through a channel costs when neither end waits, beside the queues of the standard library.

Each side is a function of a count that returns the nanoseconds it took, its loop included. Methods are
bound before the clock starts, on every side.
"""

import itertools
import queue
import threading
from time import perf_counter_ns as now

from .work.channel import pairs_deque, pairs_penstock, pairs_queue, pairs_simple_queue


def pairs_penstock_unbounded(count):
    """The same over an unbounded channel."""
    return pairs_penstock(count, capacity=None)


def pipeline(count, put, get):
    """Time until a thread has taken the ``count`` items that this one puts."""
    item = object()
    ready, done = threading.Event(), threading.Event()

    def consume():
        ready.set()
        for _ in itertools.repeat(None, count):
            get()
        done.set()

    consumer = threading.Thread(target=consume)
    consumer.start()
    ready.wait()
    start = now()
    for _ in itertools.repeat(None, count):
        put(item)
    done.wait()
    elapsed = now() - start
    consumer.join()
    return elapsed


def pipeline_penstock(count, *, capacity=None):
    """Between two ordinary threads, over an unbounded channel."""
    from penstock import Channel

    channel = Channel(capacity)
    return pipeline(count, channel.send, channel.recv)


def pipeline_simple_queue(count):
    """The same over ``queue.SimpleQueue``."""
    fifo = queue.SimpleQueue()
    return pipeline(count, fifo.put, fifo.get)


class Pair:
    """Time for 100,000 pairs of send and recv by one task, on channels of capacity 16 and of none."""

    params = (
        [
            "penstock.Channel",
            "penstock.Channel(None)",
            "queue.SimpleQueue",
            "queue.Queue",
            "collections.deque",
        ],
    )
    param_names = ("side",)
    count = 100_000

    def setup(self, side):
        if side.startswith("penstock"):
            from .versions import needs

            needs("go", "Channel", *(["after"] if "None" in side else []))  # `after` came with `None`
        self.run = {
            "penstock.Channel": pairs_penstock,
            "penstock.Channel(None)": pairs_penstock_unbounded,
            "queue.SimpleQueue": pairs_simple_queue,
            "queue.Queue": pairs_queue,
            "collections.deque": pairs_deque,
        }[side]

    def time_pair(self, side):
        self.run(self.count)


def between_tasks(count, *, capacity):
    """``count`` items from one task to another."""
    from penstock import Channel, go

    channel = Channel(capacity)

    def produce():
        item, send = object(), channel.send
        for _ in itertools.repeat(None, count):
            send(item)

    def consume():
        recv = channel.recv
        for _ in itertools.repeat(None, count):
            recv()

    for task in [go(consume), go(produce)]:
        task.result()


class Capacity:
    """How the cost of an item from one task to another falls with the channel's capacity: 20,000 of them.

    Tasks park where it is small; how often for each item does not depend on the machine's mood.
    """

    params = ([0, 1, 16, 256, 1024, 65536, None],)
    param_names = ("capacity",)
    count = 20_000
    number = 1
    unit = "parks"

    def setup(self, capacity):
        from .versions import needs

        needs("go", "Channel", "default_runtime", *(["after"] if capacity is None else []))

    def time_item(self, capacity):
        between_tasks(self.count, capacity=capacity)

    def track_parks(self, capacity):
        from penstock import default_runtime

        before = default_runtime().stats().parks
        between_tasks(self.count, capacity=capacity)
        return (default_runtime().stats().parks - before) / self.count


class Held:
    """The process's peak memory with a million items in a queue: the items are one and the same."""

    params = (["penstock.Channel", "penstock.Channel(None)", "queue.SimpleQueue", "queue.Queue"],)
    param_names = ("side",)
    count = 1_000_000

    def setup(self, side):
        if side.startswith("penstock"):
            from .versions import needs

            needs("Channel", *(["after"] if "None" in side else []))

    def peakmem_held(self, side):
        if side.startswith("penstock"):
            from penstock import Channel

            put = Channel(None if "None" in side else self.count).send
        else:
            put = getattr(queue, side.removeprefix("queue."))().put
        for _ in itertools.repeat(None, self.count):
            put(None)


class UnboundedPipeline:
    """Time for 100,000 items from one thread to another through a queue without a bound."""

    params = (["penstock.Channel(None)", "queue.SimpleQueue"],)
    param_names = ("side",)
    count = 100_000

    def setup(self, side):
        if side.startswith("penstock"):
            from .versions import needs

            needs("Channel", "after")  # `after` came with `None`
        self.run = {
            "penstock.Channel(None)": pipeline_penstock,
            "queue.SimpleQueue": pipeline_simple_queue,
        }[side]

    def time_pipeline(self, side):
        self.run(self.count)
