"""What an item costs from producers to consumers at capacity 1024, beside ``queue.Queue`` with threads.

Each side is a function of a count that returns the nanoseconds it took, its loops included: from the
start of the first producer until the last consumer has seen the end. Consumers count what they take, and
a side that lost or doubled an item has no figure.
"""

import itertools
import queue
from threading import Thread
from time import perf_counter_ns as now

CAPACITY = 1024


def produce(count, put):
    """Put ``count`` items."""
    item = object()
    for _ in itertools.repeat(None, count):
        put(item)


def check(taken, count):
    """Every item arrived, and once."""
    if taken != count:
        raise AssertionError(f"{taken} of {count} items arrived")


def pipeline_penstock(count, *, ends=1):
    """Plain tasks over one channel, as many on each end."""
    return tasks_over_channel(count, producers=ends, consumers=ends)


def tasks_over_channel(count, *, producers, consumers):
    """Plain tasks over one channel, which is closed when all producers have ended."""
    from penstock import Channel, go

    channel = Channel(CAPACITY)
    share = count // producers

    def consume():
        taken = 0
        for _ in channel:
            taken += 1
        return taken

    def run():
        start = now()
        consuming = [go(consume) for _ in range(consumers)]
        producing = [go(produce, share, channel.send) for _ in range(producers)]
        for producer in producing:
            producer.result()
        channel.close()
        taken = sum(consumer.result() for consumer in consuming)
        elapsed = now() - start
        check(taken, share * producers)
        return elapsed

    return go(run).result()


def pipeline_threads(count, *, ends=1, make=queue.Queue):
    """Threads over one queue; a ``None`` for each consumer is the end: no queue closes before 3.13."""
    fifo = make(CAPACITY)
    share, taken = count // ends, []

    def consume():
        get, mine = fifo.get, 0
        while get() is not None:
            mine += 1
        taken.append(mine)

    start = now()
    consumers = [Thread(target=consume) for _ in range(ends)]
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


class Pipeline:
    """Time for 20,000 items from ``ends`` producers to as many consumers, at capacity 1024."""

    params = (["penstock.Channel", "queue.Queue, threads"], [1, 4])
    param_names = ("side", "ends")
    count = 20_000
    number = 1

    def setup(self, side, ends):
        if side == "penstock.Channel":
            from .versions import needs

            needs("go", "Channel")
        self.run = {"penstock.Channel": pipeline_penstock, "queue.Queue, threads": pipeline_threads}[side]

    def time_pipeline(self, side, ends):
        self.run(self.count, ends=ends)


class Ends:
    """How the cost of 20,000 items over one channel grows with the tasks at either end."""

    params = ([1, 8, 64], [1, 8, 64])
    param_names = ("producers", "consumers")
    count = 20_480
    number = 1

    def setup(self, producers, consumers):
        from .versions import needs

        needs("go", "Channel")

    def time_pipeline(self, producers, consumers):
        tasks_over_channel(self.count, producers=producers, consumers=consumers)
