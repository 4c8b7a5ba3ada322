"""What it costs to count: an atomic, beside a lock around an ordinary int.

Each side is a function of a count that returns the nanoseconds it took, its loop included. With several
threads each makes its share of the count, all on one number; the clock runs from the start of the first
until the last has ended, and all are ready before. The number is looked at afterwards: a side that lost
an addition has no figure.
"""

import itertools
from threading import Barrier, Lock, Thread
from time import perf_counter_ns as now


def on_threads(count, threads, add, total):
    """Time for ``count`` additions of 1 by ``add(share)``, split among ``threads``."""
    share = count // threads
    ready = Barrier(threads)
    times = []

    def run():
        ready.wait()
        start = now()
        add(share)
        times.append((start, now()))

    others = [Thread(target=run) for _ in range(threads - 1)]
    for other in others:
        other.start()
    run()
    for other in others:
        other.join()
    elapsed = max(end for _, end in times) - min(start for start, _ in times)
    if total() != share * threads:
        raise AssertionError(f"{total()} of {share * threads} additions counted")
    return elapsed


def add_each(add):
    """A loop of ``add(1)``."""

    def loop(share):
        for _ in itertools.repeat(None, share):
            add(1)

    return loop


def adds_penstock(count, *, threads=1):
    """``AtomicInt.add``."""
    from penstock import AtomicInt

    number = AtomicInt()
    return on_threads(count, threads, add_each(number.add), number.load)


def adds_lock(count, *, threads=1):
    """``with lock: number += 1``."""
    lock, number = Lock(), 0

    def loop(share):
        nonlocal number
        for _ in itertools.repeat(None, share):
            with lock:
                number += 1

    return on_threads(count, threads, loop, lambda: number)


class Add:
    """Time for 100,000 additions to one number, by how many threads make them."""

    params = (["penstock.AtomicInt", "with threading.Lock"], [1, 2])
    param_names = ("side", "threads")
    count = 100_000

    def setup(self, side, threads):
        if side == "penstock.AtomicInt":
            from .versions import needs

            needs("AtomicInt")
        self.run = {"penstock.AtomicInt": adds_penstock, "with threading.Lock": adds_lock}[side]

    def time_add(self, side, threads):
        self.run(self.count, threads=threads)
