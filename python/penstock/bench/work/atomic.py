"""What it costs to count: an atomic, or a lock around an ordinary int.

With several threads each makes its share of the count, all on one number; the clock runs from the start of
the first until the last has ended, and all are ready before. The number is looked at afterwards: a side that
lost an addition has no figure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import repeat
from threading import Barrier, Lock, Thread
from time import perf_counter_ns as now

from . import Sides, library


def on_threads(count: int, threads: int, add: Callable[[int], object], total: Callable[[], int]) -> int:
    """Time for ``count`` additions of 1 by ``add(share)``, split among ``threads``."""
    share = count // threads
    ready = Barrier(threads)
    times: list[tuple[int, int]] = []

    def run() -> None:
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


def add_each(add: Callable[[int], object]) -> Callable[[int], None]:
    """A loop of ``add(1)``."""

    def loop(share: int) -> None:
        for _ in repeat(None, share):
            add(1)

    return loop


def adds_penstock(count: int, *, threads: int = 1) -> int:
    """``AtomicInt.add``."""
    from penstock import AtomicInt

    number = AtomicInt()
    return on_threads(count, threads, add_each(number.add), number.load)


def adds_lock(count: int, *, threads: int = 1) -> int:
    """``with lock: number += 1``."""
    lock, number = Lock(), 0

    def loop(share: int) -> None:
        nonlocal number
        for _ in repeat(None, share):
            with lock:
                number += 1

    return on_threads(count, threads, loop, lambda: number)


def adds_cereggii(count: int, *, threads: int = 1) -> int:
    """``cereggii.AtomicInt64``."""
    number = library("cereggii").AtomicInt64(0)
    return on_threads(count, threads, add_each(number.increment_and_get), number.get)


def adds_ft_utils(count: int, *, threads: int = 1) -> int:
    """``ft_utils.concurrency.AtomicInt64``, which can add 1 and nothing else."""
    number = library("ft_utils.concurrency").AtomicInt64(0)

    def loop(share: int) -> None:
        incr = number.incr
        for _ in repeat(None, share):
            incr()

    return on_threads(count, threads, loop, number.get)


SIDES: Sides = {
    side: {"atomic": work, "atomic_two": partial(work, threads=2)}
    for side, work in (
        ("penstock", adds_penstock),
        ("stdlib", adds_lock),
        ("cereggii", adds_cereggii),
        ("ft_utils", adds_ft_utils),
    )
}
