"""What an item costs in a batch, beside the queues of the standard library, which take one at a time.

Each side is a function of a count that returns the nanoseconds it took for so many items. Items and methods
are there before the clock starts.
"""

import queue
from time import perf_counter_ns as now

from .work.many import one_by_one, singles_penstock

BATCH = 1000


def batches_penstock(count, *, capacity=1024, kind=list):
    """`send_many` and `recv_many` of 1,000 items, from inside one task."""
    from penstock import Channel, go

    channel = Channel(capacity)
    items = [object()] * BATCH

    def run():
        send_many, recv_many = channel.send_many, channel.recv_many
        batches = [kind(items) for _ in range(count // BATCH)]
        start = now()
        for batch in batches:
            send_many(batch)
            recv_many(BATCH)
        return now() - start

    return go(run).result()


def batches_penstock_iterator(count):
    """The same of an iterator, which is read one item at a time."""
    return batches_penstock(count, kind=iter)


def batches_simple_queue(count):
    """``queue.SimpleQueue``: unbounded, in C."""
    fifo = queue.SimpleQueue()
    return one_by_one(count, fifo.put, fifo.get)


def batches_queue(count):
    """``queue.Queue``: bounded, the standard library's nearest to a channel."""
    fifo = queue.Queue(1024)
    return one_by_one(count, fifo.put, fifo.get)


SIDES = {
    "penstock.send_many": batches_penstock,
    "penstock.send_many(iterator)": batches_penstock_iterator,
    "penstock.send": singles_penstock,
    "queue.SimpleQueue": batches_simple_queue,
    "queue.Queue": batches_queue,
}


class Many:
    """Time for 100,000 items in batches of 1,000, sent and received. The goal is 10 ns an item each way."""

    params = (list(SIDES),)
    param_names = ("side",)
    count = 100_000

    def setup(self, side):
        if side.startswith("penstock"):
            from .versions import needs

            needs("go", "Rate")  # which came with `send_many`
        self.run = SIDES[side]

    def time_items(self, side):
        self.run(self.count)
