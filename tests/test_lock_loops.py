"""Locks awaited by many at once in event loops: asyncio's and trio's, several at a time, beside tasks and threads.

A loop can cancel one of its tasks after a lock was handed to it, and before it knows; or be closed. What was handed over
then goes to whoever is next.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from penstock import Barrier, Condition, Event, Group, Lock, Once, Semaphore, WaitGroup, go

LIMIT = 60.0  # seconds; only a hang reaches it
LIBRARIES = ("asyncio", "trio")
WaitForWaiters = Callable[[object, int], None]
Body = Callable[[], Coroutine[Any, Any, object]]

libraries = pytest.mark.parametrize("library", LIBRARIES)


def run(library: str, body: Body) -> None:
    """Runs `body` in a loop of its own, under a limit."""

    async def limited() -> None:
        with anyio.fail_after(LIMIT):
            await body()

    anyio.run(limited, backend=library)


def run_many(library: str, count: int, body: Body) -> None:
    """Runs so many of `body` at once in one loop."""

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(body)

    run(library, all_of_them)


async def settle() -> None:
    """Lets the other tasks of the loop run until they wait."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


class Counter:
    """What a lock guards: it sees whether two are in at once."""

    def __init__(self, most: int = 1) -> None:
        self.total = 0
        self.inside = 0
        self._most = most
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self.inside += 1
            assert self.inside <= self._most

    def leave(self) -> None:
        with self._lock:
            self.inside -= 1
            self.total += 1


# From several loops at once


@pytest.mark.parametrize("permits", [0, 1, 2])
def test_loops_tasks_and_threads_share_a_lock(permits: int, threads: Any) -> None:
    lock: Any = Semaphore(permits) if permits else Lock()
    counter = Counter(most=permits or 1)
    rounds, each = 20, 5

    async def coroutine() -> None:
        for _ in range(rounds):
            async with lock:
                counter.enter()
                await anyio.lowlevel.checkpoint()
                counter.leave()

    async def of_ours() -> None:
        for _ in range(rounds):
            async with lock:
                counter.enter()
                counter.leave()

    def plain() -> None:
        for _ in range(rounds):
            with lock:
                counter.enter()
                counter.leave()

    for library in (*LIBRARIES, *LIBRARIES):
        threads.start(run_many, library, each, coroutine)
    threads.start(plain)
    with Group() as group:
        for _ in range(each):
            group.go(plain)
            group.go(of_ours)
    threads.join()
    assert counter.total == rounds * (4 * each + 1 + 2 * each)
    if permits:
        assert repr(lock).startswith("<penstock.Semaphore")
        assert all(lock.acquire(blocking=False) for _ in range(permits))
    assert not lock.acquire(blocking=False) if permits else not lock.locked()


def test_an_event_wakes_every_loop(threads: Any, wait_for_waiters: WaitForWaiters) -> None:
    event = Event()
    woken = Counter(most=99)

    async def waits() -> None:
        assert await event.await_() is True
        woken.enter()
        woken.leave()

    for library in (*LIBRARIES, *LIBRARIES):
        threads.start(run_many, library, 3, waits)
    wait_for_waiters(event, 12)
    event.set()
    threads.join()
    assert woken.total == 12


def test_a_barrier_lets_loops_go_on_together(threads: Any) -> None:
    rounds = 10
    barrier = Barrier(7)
    indexes: list[int] = []
    lock = threading.Lock()

    async def arrives() -> None:
        for _ in range(rounds):
            index = await barrier.await_()
            with lock:
                indexes.append(index)

    def arrives_plainly() -> None:
        for _ in range(rounds):
            barrier.wait()

    for library in (*LIBRARIES, "asyncio"):
        threads.start(run_many, library, 2, arrives)
    go(arrives_plainly).result(timeout=LIMIT)
    threads.join()
    assert len(indexes) == 6 * rounds
    assert set(indexes) <= set(range(7))


def test_a_wait_group_and_a_once_hold_for_every_loop(threads: Any) -> None:
    group, once = WaitGroup(), Once()
    count = 12
    group.add(count)
    calls: list[int] = []

    async def call() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append(1)

    async def works() -> None:
        await once.ado(call)
        assert calls == [1], "it is over before anybody goes on"
        group.done()
        await group.await_()

    for library in (*LIBRARIES, *LIBRARIES):
        threads.start(run_many, library, count // 4, works)
    group.wait(timeout=LIMIT)
    threads.join()
    assert calls == [1]


def test_a_condition_hands_items_from_loop_to_loop(threads: Any) -> None:
    changed = Condition()
    items: list[int] = []
    got: list[int] = []
    rounds, each = 20, 3

    async def takes() -> None:
        for _ in range(rounds):
            async with changed:
                await changed.await_for(lambda: items)
                got.append(items.pop())

    async def puts() -> None:
        for number in range(rounds):
            async with changed:
                items.append(number)
                changed.notify()
            await anyio.lowlevel.checkpoint()

    for library in LIBRARIES:
        threads.start(run_many, library, each, takes)
        threads.start(run_many, library, each, puts)
    threads.join()
    assert sorted(got) == sorted(list(range(rounds)) * 2 * each)
    assert items == []


# Cancelled before and after the hand-over


def gives(kind: str) -> tuple[Any, Callable[[], Any], Callable[[], None]]:
    """An object that is taken, how to await it, and how to let go of it."""
    if kind == "semaphore":
        semaphore = Semaphore(0)
        return semaphore, semaphore.aacquire, semaphore.release
    lock = Lock()
    lock.acquire()
    taken: Any = lock if kind == "lock" else Condition(lock)
    return lock, taken.aacquire, taken.release


def is_free(taken: Any) -> bool:
    """Whether one can be had, and it is but one."""
    if not taken.acquire(blocking=False):
        return False
    return not taken.acquire(blocking=False)


takeable = pytest.mark.parametrize("kind", ["lock", "semaphore", "condition"])


@takeable
@pytest.mark.parametrize("is_handed", [False, True])
@pytest.mark.parametrize("has_next", [False, True])
def test_what_asyncio_cancels_keeps_no_lock(kind: str, is_handed: bool, has_next: bool) -> None:
    taken, take, let_go = gives(kind)

    async def main() -> None:
        first = asyncio.ensure_future(take())
        await settle()
        second = asyncio.ensure_future(take()) if has_next else None
        await settle()
        if is_handed:
            let_go()
            assert not taken.acquire(blocking=False), "it is the waiter's, who does not know yet"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        if not is_handed:
            let_go()
        if second is not None:
            assert await second is True, "it went to the next in line"

    asyncio.run(main())
    assert is_free(taken) is not (has_next)


@takeable
@pytest.mark.parametrize("is_handed", [False, True])
def test_what_trio_cancels_keeps_no_lock(kind: str, is_handed: bool) -> None:
    """trio lets a call that has happened say so: the lock is taken, and the cancellation comes next."""
    taken, _, let_go = gives(kind)
    entered: list[bool] = []

    async def waits() -> None:
        async with taken:
            entered.append(True)
            await trio.lowlevel.checkpoint()
            raise AssertionError

    async def main() -> None:
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waits)
                await trio.testing.wait_all_tasks_blocked()
                if is_handed:
                    let_go()
                nursery.cancel_scope.cancel()
            if not is_handed:
                let_go()

    trio.run(main)
    assert entered == [True] * is_handed
    assert is_free(taken)


@takeable
def test_a_lock_that_is_handed_to_a_loop_that_is_closed_goes_to_the_next(
    kind: str, wait_for_waiters: WaitForWaiters
) -> None:
    taken, take, let_go = gives(kind)
    loop = asyncio.new_event_loop()

    async def waits() -> bool:
        taken_here: bool = await take()
        return taken_here

    waiting = loop.create_task(waits())
    loop.run_until_complete(settle())
    wait_for_waiters(taken, 1)
    loop.close()
    after = go(waits)
    wait_for_waiters(taken, 2)
    let_go()
    assert after.result(timeout=LIMIT) is True
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    del waiting


def test_a_notify_of_one_that_asyncio_cancelled_goes_to_another() -> None:
    condition = Condition()
    notified: list[str] = []

    async def waits(name: str) -> None:
        async with condition:
            await condition.await_()
            notified.append(name)

    async def main() -> None:
        first = asyncio.ensure_future(waits("first"))
        await settle()
        second = asyncio.ensure_future(waits("second"))
        await settle()
        async with condition:
            condition.notify()
            first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        async with asyncio.timeout(LIMIT):
            await second

    asyncio.run(main())
    assert notified == ["second"]
    assert is_free(condition)


@libraries
def test_who_is_cancelled_in_a_condition_has_the_lock_in_its_block(library: str) -> None:
    condition = Condition()
    left: list[bool] = []

    async def waits() -> None:
        async with condition:
            try:
                await condition.await_()
            finally:
                left.append("locked by event loop task" in repr(condition))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(waits)
            await settle()
            async with condition:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await settle()
                assert left == [], "the lock is not to be had"

    run(library, main)
    assert left == [True]
    assert is_free(condition)


@libraries
def test_a_cancelled_party_breaks_the_barrier_of_another_loop(library: str, wait_until: Any) -> None:
    barrier = Barrier(3)
    other = go(barrier.wait)
    wait_until(lambda: barrier.n_waiting == 1)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(barrier.await_)
                await settle()
                scope.cancel()

    run(library, main)
    with pytest.raises(threading.BrokenBarrierError):
        other.result(timeout=LIMIT)
    assert barrier.broken


def test_a_party_that_asyncio_cancels_once_all_have_come_breaks_nothing() -> None:
    barrier = Barrier(2)

    async def main() -> None:
        first = asyncio.ensure_future(barrier.await_())
        await settle()
        barrier.wait()  # the last one: it lets the first go on, which does not know yet
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())
    assert not barrier.broken


@libraries
def test_a_cancelled_call_of_a_once_counts_as_made_for_every_loop(
    library: str, wait_for_waiters: WaitForWaiters
) -> None:
    once = Once()
    other: list[Any] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(once.ado, anyio.sleep_forever)
            await settle()
            other.append(go(once.ado, anyio.sleep_forever))
            wait_for_waiters(once, 1)
            group.cancel_scope.cancel()

    run(library, main)
    assert other[0].result(timeout=LIMIT) is None


@libraries
def test_who_was_cancelled_waits_for_nothing_any_more(library: str) -> None:
    event, group_of_waits = Event(), WaitGroup()
    group_of_waits.add(1)

    waits: list[Any] = [event.await_, group_of_waits.await_]

    async def main() -> None:
        for wait in waits:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(wait)
                    await settle()
                    scope.cancel()
        assert "waiting" not in repr(event) + repr(group_of_waits)

    run(library, main)


@pytest.mark.parametrize("permits", [0, 2])
def test_a_storm_of_cancellations_from_several_loops_loses_nothing(permits: int, threads: Any) -> None:
    lock: Any = Semaphore(permits) if permits else Lock()
    counter = Counter(most=permits or 1)

    async def takes_and_leaves() -> None:
        async with lock:
            counter.enter()
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                counter.leave()

    def storm(library: str, seed: int) -> None:
        chance = random.Random(seed)

        async def cancels() -> None:
            for _ in range(30):
                async with anyio.create_task_group() as group:
                    for _ in range(6):
                        group.start_soon(takes_and_leaves)
                    for _ in range(chance.randrange(6)):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()

        run(library, cancels)

    for seed, library in enumerate((*LIBRARIES, *LIBRARIES)):
        threads.start(storm, library, seed)
    threads.join()
    assert counter.inside == 0
    if permits:
        assert all(lock.acquire(blocking=False) for _ in range(permits))
    else:
        assert lock.acquire(blocking=False)
    assert not lock.acquire(blocking=False)
