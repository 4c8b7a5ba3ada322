"""What it costs to guard a line with a lock that nobody else wants."""

from __future__ import annotations

import asyncio
import threading
from itertools import repeat
from time import perf_counter_ns as now
from typing import Any

from . import Sides, library


def blocks(count: int, lock: Any) -> int:
    """Time ``count`` times an empty ``with lock``."""
    start = now()
    for _ in repeat(None, count):
        with lock:
            pass
    return now() - start


async def async_blocks(count: int, lock: Any) -> int:
    """Time ``count`` times an empty ``async with lock``."""
    start = now()
    for _ in repeat(None, count):
        async with lock:
            pass
    return now() - start


def lock_penstock(count: int) -> int:
    """Ours, within a task."""
    from penstock import Lock, go

    return go(blocks, count, Lock()).result()


def lock_penstock_async(count: int) -> int:
    """Ours, within an ``async def`` task."""
    from penstock import Lock, go

    return go(async_blocks, count, Lock()).result()


def lock_threading(count: int) -> int:
    """``threading.Lock``: in C, not fair, without an owner."""
    return blocks(count, threading.Lock())


def lock_rlock(count: int) -> int:
    """``threading.RLock``: in C, with an owner."""
    return blocks(count, threading.RLock())


def lock_asyncio(count: int) -> int:
    """``asyncio.Lock``: in Python, for one loop."""
    return asyncio.run(async_blocks(count, asyncio.Lock()))


def lock_gevent(count: int) -> int:
    """The re-entrant lock of gevent, within a greenlet."""
    elapsed: int = library("gevent").spawn(blocks, count, library("gevent.lock").RLock()).get()
    return elapsed


def lock_aiologic(count: int) -> int:
    """``aiologic.Lock``, from a thread."""
    return blocks(count, library("aiologic").Lock())


def lock_aiologic_async(count: int) -> int:
    """The same from asyncio."""
    return asyncio.run(async_blocks(count, library("aiologic").Lock()))


def lock_trio(count: int) -> int:
    """``trio.Lock``: entering it is a checkpoint."""
    trio = library("trio")
    elapsed: int = trio.run(async_blocks, count, trio.Lock())
    return elapsed


def lock_anyio(count: int) -> int:
    """``anyio.Lock``, on asyncio: entering it is a checkpoint."""
    anyio = library("anyio")

    async def main() -> int:
        return await async_blocks(count, anyio.Lock())

    elapsed: int = anyio.run(main)
    return elapsed


SIDES: Sides = {
    "penstock": {"lock": lock_penstock, "lock_async": lock_penstock_async},
    "stdlib": {"lock": lock_threading, "lock_rlock": lock_rlock},
    "asyncio": {"lock_async": lock_asyncio},
    "gevent": {"lock": lock_gevent},
    "aiologic": {"lock": lock_aiologic, "lock_async": lock_aiologic_async},
    "trio": {"lock_async": lock_trio},
    "anyio": {"lock_async": lock_anyio},
}
