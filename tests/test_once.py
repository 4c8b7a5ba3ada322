"""`Once`: one call, and nobody goes on before it is over."""

from __future__ import annotations

import copy
import pickle
import re
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from penstock import Cancelled, Event, Once, asleep, go, sleep

LIMIT = 30.0  # seconds; only a hang reaches it
WaitForWaiters = Callable[[object, int], None]


def test_the_call_is_made_once_and_gives_nothing() -> None:
    once = Once()
    calls: list[int] = []
    once.do(lambda: calls.append(1))
    once.do(lambda: calls.append(2))

    async def body() -> None:
        await once.ado(lambda: calls.append(3))

    go(body).result(timeout=LIMIT)
    assert calls == [1]


def test_nobody_goes_on_before_the_call_is_over(wait_for_waiters: WaitForWaiters, threads: Any) -> None:
    once, go_on = Once(), Event()
    seen: list[str] = []

    def slow() -> None:
        go_on.wait()
        seen.append("call")

    def plain() -> None:
        once.do(lambda: seen.append("another call"))
        seen.append("went on")

    async def coroutine() -> None:
        await once.ado(lambda: seen.append("another call"))
        seen.append("went on")

    tasks = [go(once.do, slow)]
    while "being done" not in repr(once):
        sleep(0)
    tasks += [go(plain), go(coroutine)]
    threads.start(plain)
    wait_for_waiters(once, 3)
    assert not seen
    go_on.set()
    for task in tasks:
        task.result(timeout=LIMIT)
    threads.join()
    assert seen == ["call", "went on", "went on", "went on"]


def test_an_async_function_is_awaited_by_ado(wait_for_waiters: WaitForWaiters) -> None:
    once, go_on = Once(), Event()
    seen: list[str] = []

    async def slow(word: str) -> None:
        await go_on.await_()
        await asleep(0.001)
        seen.append(word)

    async def coroutine(word: str) -> None:
        await once.ado(partial(slow, word))
        seen.append("went on")

    tasks = [go(coroutine, "call")]
    while "being done" not in repr(once):
        sleep(0)
    tasks += [go(coroutine, "another call"), go(once.do, lambda: seen.append("another call"))]
    wait_for_waiters(once, 2)
    go_on.set()
    for task in tasks:
        task.result(timeout=LIMIT)
    assert seen == ["call", "went on", "went on"]


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_call_that_raises_counts_as_made(kind: str) -> None:
    once = Once()

    def fail() -> None:
        raise KeyError("call")

    async def afail() -> None:
        await asleep(0)
        raise KeyError("call")

    async def coroutine() -> None:
        await once.ado(afail)

    with pytest.raises(KeyError, match="call"):
        go(coroutine if kind == "async" else partial(once.do, fail)).result(timeout=LIMIT)
    once.do(fail)
    go(coroutine).result(timeout=LIMIT)
    assert repr(once).endswith(": done>")


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_call_that_is_cancelled_counts_as_made(kind: str, wait_for_waiters: WaitForWaiters) -> None:
    once = Once()

    async def coroutine() -> None:
        await once.ado(partial(asleep, LIMIT))

    runner = go(coroutine if kind == "async" else partial(once.do, partial(sleep, LIMIT)))
    while "being done" not in repr(once):
        sleep(0)
    waiter = go(once.do, lambda: None)
    wait_for_waiters(once, 1)
    runner.cancel()
    with pytest.raises(Cancelled):
        runner.result(timeout=LIMIT)
    assert waiter.result(timeout=LIMIT) is None


def test_a_waiter_can_be_cancelled(wait_for_waiters: WaitForWaiters) -> None:
    once, go_on = Once(), Event()
    runner = go(once.do, go_on.wait)
    while "being done" not in repr(once):
        sleep(0)
    waiter = go(once.do, lambda: None)
    wait_for_waiters(once, 1)
    waiter.cancel()
    with pytest.raises(Cancelled):
        waiter.result(timeout=LIMIT)
    wait_for_waiters(once, 0)
    go_on.set()
    runner.result(timeout=LIMIT)


def test_a_call_inside_itself_is_an_error_and_not_a_hang() -> None:
    once = Once()
    with pytest.raises(
        RuntimeError, match=r"inside the very call that it makes: thread .* would wait for itself"
    ):
        once.do(lambda: once.do(lambda: None))
    again = Once()

    async def inner() -> None:
        await again.ado(inner)

    async def coroutine() -> None:
        await again.ado(inner)

    with pytest.raises(RuntimeError, match="inside the very call that it makes: Task-"):
        go(coroutine).result(timeout=LIMIT)


def test_what_is_no_plain_function_is_refused_and_nothing_is_spent() -> None:
    once = Once()

    async def async_function() -> None:
        pass

    for wrong in (3, None, async_function, partial(async_function)):
        with pytest.raises(TypeError, match=r"fn must be a plain function, not .*await ado\(fn\)"):
            once.do(wrong)  # type: ignore[arg-type]

    async def coroutine() -> None:
        with pytest.raises(TypeError, match="fn must be callable, not 3"):
            await once.ado(3)  # type: ignore[arg-type]

    go(coroutine).result(timeout=LIMIT)
    assert repr(once).endswith(": not done>")
    with pytest.raises(
        TypeError, match=r"returned the coroutine of .*async_function: await ado\(fn\) instead"
    ):
        once.do(lambda: async_function())


def test_a_plain_call_that_would_have_to_wait_in_a_coroutine_names_the_awaitable_form() -> None:
    once, go_on = Once(), Event()
    runner = go(once.do, go_on.wait)
    while "being done" not in repr(once):
        sleep(0)

    async def body() -> None:
        once.do(lambda: None)

    with pytest.raises(RuntimeError, match=r"await once\.ado\(fn\)"):
        go(body).result(timeout=LIMIT)
    go_on.set()
    runner.result(timeout=LIMIT)
    go(body).result(timeout=LIMIT)


def test_the_object() -> None:
    once = Once()
    assert re.fullmatch(r"<penstock\.Once at 0x[0-9a-f]+: not done>", repr(once))
    shown: list[str] = []
    once.do(lambda: shown.append(repr(once)))
    assert ": being done by thread " in shown[0]
    assert repr(once).endswith(": done>")
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Once cannot be pickled or copied"):
            refused(once)
    assert weakref.ref(once)() is once
