"""What more workers are worth: for tasks that compute, and for the cost of starting tasks.

The runtime is made before the clock starts and ended after it stopped. Without the GIL two workers compute
twice as much, and starting tasks must not get dearer with them; with it, one worker runs Python at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter_ns as now
from typing import Any

from . import Sides

STEPS = 20_000  # of a task that computes: about a millisecond


def compute(steps: int = STEPS) -> int:
    """Keep a processor busy."""
    total = 0
    for step in range(steps):
        total += step & 3
    return total


def empty() -> None:
    """Do nothing."""


def finish(handles: Sequence[Any]) -> None:
    """Wait for all, the last one first."""
    for handle in reversed(handles):
        handle.result()


def computing_penstock(count: int, *, workers: int) -> int:
    """Tasks that compute, started and waited for by an ordinary thread."""
    from penstock import Runtime

    with Runtime(workers=workers) as runtime:
        finish([runtime.go(compute) for _ in range(workers)])
        start = now()
        finish([runtime.go(compute) for _ in range(count)])
        return now() - start


def computing_executor(count: int, *, workers: int) -> int:
    """The same on the standard library's thread pool."""
    with ThreadPoolExecutor(workers) as executor:
        finish([executor.submit(compute) for _ in range(workers)])
        start = now()
        finish([executor.submit(compute) for _ in range(count)])
        return now() - start


def spawn_outside(count: int, *, workers: int) -> int:
    """Empty tasks started and waited for by an ordinary thread."""
    from penstock import Runtime

    with Runtime(workers=workers) as runtime:
        finish([runtime.go(empty) for _ in range(workers)])
        start = now()
        finish([runtime.go(empty) for _ in range(count)])
        return now() - start


def spawn_inside(count: int, *, workers: int) -> int:
    """Empty tasks started and waited for by one task."""
    from penstock import Runtime

    with Runtime(workers=workers) as runtime:

        def spawn() -> int:
            start = now()
            finish([runtime.go(empty) for _ in range(count)])
            return now() - start

        return runtime.go(spawn).result()


def spawn_tree(count: int, *, workers: int) -> int:
    """Tasks that start two tasks each, until there are ``count``. One task gathers them, from the root."""
    from penstock import Runtime

    with Runtime(workers=workers) as runtime:
        go = runtime.go

        def branch(size: int) -> list[Any]:
            """The root of a tree of ``size`` tasks, itself included; the trees it starts."""
            left = (size - 1) // 2
            return [go(branch, part) for part in (left, size - 1 - left) if part]

        def gather() -> int:
            start = now()
            unseen: list[Any] = [go(branch, count)]
            seen = 0
            while unseen:
                unseen += unseen.pop().result()
                seen += 1
            elapsed = now() - start
            if seen != count:
                raise AssertionError(f"{seen} of {count} tasks ran")
            return elapsed

        return go(gather).result()


SIDES: Sides = {
    "penstock": {
        "computing": partial(computing_penstock, workers=2),
        "computing_one": partial(computing_penstock, workers=1),
        **{
            f"spawn_{place}{name}": partial(spawn, workers=count)
            for place, spawn in (("outside", spawn_outside), ("inside", spawn_inside), ("tree", spawn_tree))
            for name, count in (("", 4), ("_two", 2), ("_one", 1))
        },
    },
    "stdlib": {
        "computing_one": partial(computing_executor, workers=1),
        "computing_two": partial(computing_executor, workers=2),
    },
}
