"""What an item costs from producers to consumers at capacity 1024, beside ``queue.Queue`` with threads.

Each side is a function of a count that returns the nanoseconds it took, its loops included: from the
start of the first producer until the last consumer has seen the end. Consumers count what they take, and
a side that lost or doubled an item has no figure.
"""

from time import perf_counter_ns as now

from .work.pipeline import check, pipeline_penstock, pipeline_threads, produce

CAPACITY = 1024


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
