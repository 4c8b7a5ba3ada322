"""What it costs to guard a line with a lock, beside the locks of the standard library.

Each side is a function of a count that returns the nanoseconds it took, its loop included.
"""

import asyncio
import itertools
import threading

from .work.lock import async_blocks, blocks


def blocks_penstock(count):
    """From inside one task."""
    from penstock import Lock, go

    return go(blocks, count, Lock()).result()


def blocks_penstock_in_a_thread(count):
    """From the main thread, where there is no task."""
    from penstock import Lock

    return blocks(count, Lock())


def blocks_penstock_async(count):
    """``async with`` from inside one ``async def`` task."""
    from penstock import Lock, go

    return go(async_blocks, count, Lock()).result()


def blocks_threading(count):
    """``threading.Lock``: in C, not fair, without an owner."""
    return blocks(count, threading.Lock())


def blocks_rlock(count):
    """``threading.RLock``: in C, with an owner."""
    return blocks(count, threading.RLock())


def blocks_asyncio(count):
    """``asyncio.Lock``: in Python, for one loop."""
    return asyncio.run(async_blocks(count, asyncio.Lock()))


def blocks_semaphore(count):
    """``threading.Semaphore``: in Python."""
    return blocks(count, threading.Semaphore())


def blocks_penstock_semaphore(count):
    """From inside one task."""
    from penstock import Semaphore, go

    return go(blocks, count, Semaphore()).result()


class Uncontended:
    """Time for 100,000 blocks under a lock that nobody else wants."""

    count = 100_000
    sides = {
        "penstock.Lock": blocks_penstock,
        "penstock.Lock, no task": blocks_penstock_in_a_thread,
        "penstock.Lock, async": blocks_penstock_async,
        "penstock.Semaphore": blocks_penstock_semaphore,
        "threading.Lock": blocks_threading,
        "threading.RLock": blocks_rlock,
        "threading.Semaphore": blocks_semaphore,
        "asyncio.Lock": blocks_asyncio,
    }
    params = (list(sides),)
    param_names = ("side",)

    def setup(self, side):
        if side.startswith("penstock"):
            from .versions import needs

            needs("Lock", "Semaphore")

    def time_blocks(self, side):
        self.sides[side](self.count)


def hand_overs_penstock(count, waiters):
    """Tasks that each let the next one run while they have the lock: every release is a hand-over."""
    from penstock import Group, Lock, yield_now

    lock = Lock()

    def enter():
        for _ in itertools.repeat(None, count // waiters):
            with lock:
                yield_now()

    with Group() as group:
        for _ in range(waiters):
            group.go(enter)


def hand_overs_asyncio(count, waiters):
    """The same in an asyncio loop."""

    async def main():
        lock = asyncio.Lock()

        async def enter():
            for _ in itertools.repeat(None, count // waiters):
                async with lock:
                    await asyncio.sleep(0)

        await asyncio.gather(*(enter() for _ in range(waiters)))

    asyncio.run(main())


class Contended:
    """Time for 10,000 blocks of `waiters` tasks that all want one lock, and park while they have it."""

    params = (["penstock.Lock", "asyncio.Lock"], [2, 100])
    param_names = ("side", "waiters")
    count = 10_000

    def setup(self, side, waiters):
        if side.startswith("penstock"):
            from .versions import needs

            needs("Lock", "Group", "yield_now")
        self.run = {"penstock.Lock": hand_overs_penstock, "asyncio.Lock": hand_overs_asyncio}[side]

    def time_blocks(self, side, waiters):
        self.run(self.count, waiters)
