"""`WaitGroup`: who waits goes on when the count is zero."""

from __future__ import annotations

import copy
import pickle
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from penstock import Cancelled, WaitGroup, go

LIMIT = 30.0  # seconds; only a hang reaches it
WaitForWaiters = Callable[[object, int], None]


def test_a_count_of_zero_is_not_waited_for() -> None:
    group = WaitGroup()
    group.wait()
    group.wait(timeout=0)
    group.add()
    group.add(n=2)
    group.done()
    group.add(-2)
    group.wait(timeout=0)
    group.add(0)


def test_below_zero_is_an_error_that_changes_nothing() -> None:
    group = WaitGroup()
    with pytest.raises(ValueError, match="it is 0, and n is -1"):
        group.done()
    group.add(2)
    with pytest.raises(ValueError, match="it is 2, and n is -3"):
        group.add(-3)
    assert repr(group).endswith(": count 2>")
    for n in (2**62 - 1, 2**62):
        with pytest.raises(ValueError, match="n must leave the count from 0"):
            group.add(n)
    with pytest.raises(ValueError, match="n must be an int"):
        group.add(2**70)
    with pytest.raises(TypeError, match="n must be an int"):
        group.add(1.0)  # type: ignore[arg-type]
    assert repr(group).endswith(": count 2>")


def test_everybody_goes_on_at_zero_whatever_it_is(wait_for_waiters: WaitForWaiters, threads: Any) -> None:
    group = WaitGroup()
    group.add(2)

    async def coroutine() -> None:
        await group.await_()

    tasks = [go(group.wait), go(coroutine)]
    threads.start(group.wait)
    wait_for_waiters(group, 3)
    group.done()
    assert repr(group).endswith(": count 1, 3 waiting>")
    go(group.done).result(timeout=LIMIT)
    assert [task.result(timeout=LIMIT) for task in tasks] == [None, None]
    threads.join()


def test_it_can_be_used_again(wait_for_waiters: WaitForWaiters) -> None:
    group = WaitGroup()
    for _ in range(50):
        group.add()
        waiter = go(group.wait)
        wait_for_waiters(group, 1)
        group.done()
        group.add()  # the next round: who waited for the last one goes on
        waiter.result(timeout=LIMIT)
        group.done()


def test_timeouts(wait_for_waiters: WaitForWaiters) -> None:
    group = WaitGroup()
    group.add()
    for seconds in (0, 0.001):
        with pytest.raises(TimeoutError, match="not zero in time"):
            group.wait(seconds)

    async def coroutine() -> None:
        await group.await_(timeout=0.001)

    with pytest.raises(TimeoutError, match="not zero in time"):
        go(coroutine).result(timeout=LIMIT)
    with pytest.raises(ValueError, match="timeout"):
        group.wait(-1)
    gone = go(group.wait)
    wait_for_waiters(group, 1)
    gone.cancel()
    with pytest.raises(Cancelled):
        gone.result(timeout=LIMIT)
    wait_for_waiters(group, 0)
    group.done()
    group.wait(timeout=0)


def test_what_was_done_is_seen() -> None:
    for _ in range(20):
        group = WaitGroup()
        done: list[int] = []

        def work(number: int, group: WaitGroup = group, done: list[int] = done) -> None:
            done.append(number)
            group.done()

        group.add(10)
        for number in range(10):
            go(work, number)
        group.wait(timeout=LIMIT)
        assert sorted(done) == list(range(10))


def test_a_plain_call_that_would_have_to_wait_in_a_coroutine_names_the_awaitable_form() -> None:
    async def body() -> None:
        group = WaitGroup()
        group.wait()
        group.add()
        group.wait()

    with pytest.raises(RuntimeError, match=r"await group\.await_\(\)"):
        go(body).result(timeout=LIMIT)


def test_the_object() -> None:
    group = WaitGroup()
    group.add(3)
    assert re.fullmatch(r"<penstock\.WaitGroup at 0x[0-9a-f]+: count 3>", repr(group))
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="WaitGroup cannot be pickled or copied"):
            refused(group)
    assert weakref.ref(group)() is group
