"""What a select costs that finds a case ready.

A turn makes one of four cases ready, each in its turn, and selects over all of them: on the side of Go too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import repeat
from time import perf_counter_ns as now
from typing import Any

from . import Sides, library


def turns(count: int, select: Callable[..., object], a: Any, b: Any, c: Any, d: Any) -> int:
    """Send on one of four channels and select over the four, ``count`` times."""
    item = object()
    sends = a.send, b.send, c.send, d.send
    start = now()
    for _ in repeat(None, count // 4):
        for send in sends:
            send(item)
            select(a, b, c, d)
    return now() - start


def ready_penstock(count: int) -> int:
    """From inside one task, over four channels of capacity 1."""
    from penstock import Channel, go, select

    return go(turns, count, select, *(Channel[object](1) for _ in range(4))).result()


def ready_asyncio(count: int, run: Callable[[Any], Any] = asyncio.run) -> int:
    """``asyncio.wait`` for the first of four futures; one has its result."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        make, wait, first = loop.create_future, asyncio.wait, asyncio.FIRST_COMPLETED
        futures = [make() for _ in range(4)]
        start = now()
        for _ in repeat(None, count // 4):
            for at in range(4):
                futures[at].set_result(None)
                await wait(futures, return_when=first)
                futures[at] = make()
        return now() - start

    elapsed: int = run(main())
    return elapsed


def ready_uvloop(count: int) -> int:
    """The same in uvloop's loop."""
    return ready_asyncio(count, run=library("uvloop").run)


SIDES: Sides = {
    "penstock": {"select": ready_penstock},
    "asyncio": {"select": ready_asyncio},
    "uvloop": {"select": ready_uvloop},
}
