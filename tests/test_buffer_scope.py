"""A pool's scope: what was acquired in it is released at its end."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import sys
import threading
import weakref
from typing import Any

import numpy
import penstock
import pytest
from penstock import BufferPool, BufferScope


def here(above: int = 0) -> str:
    """The line of the caller, or of one so many lines above."""
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno - above}"


def in_use(pool: BufferPool) -> int:
    return pool.stats().in_use


# The end of a scope


def test_all_buffers_of_a_scope_are_released_at_its_end() -> None:
    pool = BufferPool()
    with pool.scope() as scope:
        buffers = [scope.acquire(4096) for _ in range(200)]
        assert in_use(pool) == 200 * 4096
        assert {len(buffer) for buffer in buffers} == {4096}
    assert in_use(pool) == 0
    assert scope.escapes() == []
    for buffer in buffers:
        assert repr(buffer).endswith("released>")
        with pytest.raises(ValueError, match="released"):
            memoryview(buffer)
        buffer.release()  # a second release does nothing
    assert in_use(pool) == 0


def test_they_go_back_too_where_the_body_raises() -> None:
    pool = BufferPool()
    with pytest.raises(KeyError), pool.scope() as scope:
        scope.acquire(100)[0] = 1
        kept = scope.acquire(1000)
        raise KeyError
    assert in_use(pool) == 0
    assert repr(kept).endswith("released>")


def test_an_export_at_the_end_does_not_raise_and_the_memory_goes_back_with_it() -> None:
    pool = BufferPool()
    with pool.scope() as scope:
        buffer = scope.acquire(64)
        buffer[:] = b"x" * 64
        view = memoryview(buffer)
        first, second = view[:8], numpy.frombuffer(view, "u1")
    assert in_use(pool) == 64
    with pytest.raises(ValueError, match="released"):
        buffer[0]
    assert bytes(view) == b"x" * 64  # the memory is nobody else's
    others = [pool.acquire(64) for _ in range(64)]
    for other in others:
        other[:] = bytes(64)
    assert bytes(first) == b"x" * 8
    assert second.sum() == 64 * ord("x")
    for other in others:
        other.release()
    first.release()
    del second
    assert in_use(pool) == 64
    view.release()
    assert in_use(pool) == 0


def test_what_is_released_or_dropped_early_goes_back_early() -> None:
    pool = BufferPool()
    with pool.scope() as scope:
        scope.acquire(100)  # dropped at once
        gc.collect()
        assert in_use(pool) == 0
        with scope.acquire(100) as buffer:
            assert in_use(pool) == 128
        assert in_use(pool) == 0
        with pytest.raises(ValueError, match="released"):
            buffer[0]
        buffer = scope.acquire(100)
        buffer.release()
        assert in_use(pool) == 0
        assert repr(scope).endswith("open, 0 in use>")
    assert scope.escapes() == []


def test_a_scope_is_only_as_large_as_what_is_out() -> None:
    pool = BufferPool()
    with pool.scope() as scope:
        kept = scope.acquire(64)
        for _ in range(10_000):
            scope.acquire(64).release()
        assert repr(scope).endswith("open, 1 in use>")
        assert pool.stats().reserved == 128
        del kept


def test_a_scope_with_100_000_buffers() -> None:
    pool = BufferPool()
    with pool.scope() as scope:
        buffers = [scope.acquire(64) for _ in range(100_000)]
        for buffer in buffers[::2]:
            buffer.release()
        views = [memoryview(buffer) for buffer in buffers[1::1000]]
        assert in_use(pool) == 50_000 * 64
    assert in_use(pool) == 100 * 64
    assert len(scope.escapes()) == 100
    for view in views:
        view.release()
    assert in_use(pool) == 0


# Escapes


def test_escapes_are_the_sites_of_what_was_still_exported_in_order() -> None:
    pool = BufferPool()
    with pool.scope() as scope:
        first = scope.acquire(1)[:]
        second_at = here(-1)
        second = numpy.frombuffer(memoryview(scope.acquire(8)), "u1")
        scope.acquire(8)
        referenced = scope.acquire(8)  # no export: its end is the scope's
        third = [scope.acquire(8)[:] for _ in range(2)]
        third_at = here(1)
        assert scope.escapes() == []
    assert scope.escapes() == [
        f"{__file__}:{int(second_at.rpartition(':')[2]) - 2}",
        second_at,
        third_at,
        third_at,
    ]
    first.release()
    del second, third, referenced
    gc.collect()
    assert len(scope.escapes()) == 4  # what was, was
    assert in_use(pool) == 0


def test_the_site_is_that_of_the_call_also_where_it_is_awaited_elsewhere() -> None:
    pool = BufferPool()

    async def use() -> tuple[BufferScope, str]:
        with pool.scope() as scope:
            call = scope.aacquire(8)
            site = here(1)
            buffer = await asyncio.ensure_future(awaited(call))
            memory.append(memoryview(buffer))
        return scope, site

    async def awaited(call: Any) -> Any:
        return await call

    memory: list[memoryview] = []
    scope, site = asyncio.run(use())
    assert scope.escapes() == [site]
    memory.pop().release()
    assert in_use(pool) == 0


# Who uses it


def test_a_scope_is_entered_once() -> None:
    pool = BufferPool()
    scope = pool.scope()
    with pytest.raises(RuntimeError, match="has not been entered"):
        scope.acquire(1)
    with pytest.raises(RuntimeError, match="has not been entered"):
        scope.aacquire(1)
    with scope, pytest.raises(RuntimeError, match="entered once"):
        scope.__enter__()
    with pytest.raises(RuntimeError, match="entered once"), scope:
        pass
    with pytest.raises(RuntimeError, match="has ended"):
        scope.acquire(1)
    with pytest.raises(RuntimeError, match="has ended"):
        scope.aacquire(1)
    assert in_use(pool) == 0


def test_scopes_nest_and_end_on_their_own() -> None:
    pool = BufferPool()
    with pool.scope() as outer:
        kept = outer.acquire(100)
        with pool.scope() as inner:
            inner.acquire(100)
            lost = inner.acquire(100)
            also_kept = outer.acquire(100)
        assert in_use(pool) == 256
        with pytest.raises(ValueError, match="released"):
            lost[0]
        kept[0] = also_kept[0] = 1
    assert in_use(pool) == 0


def test_arguments_are_those_of_the_pool() -> None:
    pool = BufferPool(max_bytes=4096)
    with pool.scope() as scope:
        assert len(scope.acquire(nbytes=10, timeout=None)) == 10
        with pytest.raises(ValueError, match="nbytes must be at most the pool's max_bytes"):
            scope.acquire(4097)
        with pytest.raises(ValueError, match="nbytes must be an int >= 0, not -1"):
            scope.acquire(-1)
        full = scope.acquire(4096)
        with pytest.raises(TimeoutError):
            scope.acquire(1, timeout=0)
        with pytest.raises(TimeoutError):
            scope.acquire(1, timeout=0.001)
        full.release()
        scope.acquire(1, timeout=0)
    assert in_use(pool) == 0


def somebody_waits(pool: BufferPool) -> bool:
    """Whether a request stands in line, for a pool with room for 64 bytes: nobody overtakes it."""
    try:
        pool.acquire(64, timeout=0).release()
    except TimeoutError:
        return True
    return False


def acquire_in(scope: BufferScope, form: str) -> penstock.Task[int]:
    """A task that acquires in ``scope``, and says how much it got."""

    def plain() -> int:
        return len(scope.acquire(100))

    async def awaiting() -> int:
        return len(await scope.aacquire(100))

    return penstock.go(plain) if form == "acquire" else penstock.go(awaiting)


FORMS = pytest.mark.parametrize("form", ["acquire", "aacquire"])


@FORMS
def test_a_task_waits_in_it_until_another_scope_ends(form: str, wait_until: Any) -> None:
    pool = BufferPool(max_bytes=1024)
    with pool.scope() as mine:
        with pool.scope() as other:
            full = other.acquire(960)
            task = acquire_in(mine, form)
            wait_until(lambda: somebody_waits(pool))
        assert repr(full).endswith("released>")
        assert task.result(60) == 100
    assert in_use(pool) == 0


@FORMS
def test_a_wait_that_the_end_of_its_scope_overtakes_is_a_runtime_error(form: str, wait_until: Any) -> None:
    pool = BufferPool(max_bytes=1024)
    full = pool.acquire(960)
    with pool.scope() as scope:
        task = acquire_in(scope, form)
        wait_until(lambda: somebody_waits(pool))
    full.release()
    with pytest.raises(RuntimeError, match="the scope has ended"):
        task.result(60)
    assert in_use(pool) == 0


@FORMS
def test_a_cancelled_wait_has_taken_nothing(form: str, wait_until: Any) -> None:
    pool = BufferPool(max_bytes=1024)
    full = pool.acquire(960)
    with pool.scope() as scope:
        task = acquire_in(scope, form)
        wait_until(lambda: somebody_waits(pool))
        task.cancel()
        with pytest.raises(penstock.Cancelled):
            task.result(60)
        full.release()
        assert in_use(pool) == 0
        assert repr(scope).endswith("open, 0 in use>")


def test_several_threads_acquire_in_one_scope(threads: Any) -> None:
    pool = BufferPool()
    barrier = threading.Barrier(5)
    refused: list[int] = []

    def work(scope: BufferScope, seed: int) -> None:
        kept: list[Any] = []
        barrier.wait(60)
        for step in range(100_000):
            try:
                buffer = scope.acquire(64 + seed)
            except RuntimeError:  # it has ended
                refused.append(step)
                return
            if step % 3 == 0:
                kept.append(buffer)
            elif step % 3 == 1:
                buffer.release()
            if len(kept) > 50:
                kept.clear()

    with pool.scope() as scope:
        for seed in range(4):
            threads.start(work, scope, seed)
        barrier.wait(60)
        for _ in range(2000):
            scope.acquire(64)
    threads.join()
    gc.collect()
    assert in_use(pool) == 0
    assert scope.escapes() == []


def test_the_last_reference_and_the_end_of_the_scope_race(threads: Any) -> None:
    pool = BufferPool()
    for _ in range(200):
        barrier = threading.Barrier(2)
        box: list[Any] = []

        def drop(box: list[Any], barrier: threading.Barrier) -> None:
            barrier.wait(60)
            box.clear()

        with pool.scope() as scope:
            box.extend(scope.acquire(256) for _ in range(100))
            threads.start(drop, box, barrier)
            barrier.wait(60)
        threads.join()
        assert in_use(pool) == 0


# What it is


def test_it_keeps_its_pool_and_not_its_buffers() -> None:
    pool = BufferPool()
    to_pool = weakref.ref(pool)
    scope = pool.scope()
    to_scope = weakref.ref(scope)
    with scope:
        del pool
        buffer = scope.acquire(10)
        to_buffer = weakref.ref(buffer)
        del buffer
        gc.collect()
        assert to_buffer() is None
        assert to_pool() is not None
        kept = scope.acquire(10)
    del scope
    gc.collect()
    assert to_scope() is None
    assert to_pool() is not None  # the buffer keeps it
    del kept
    gc.collect()
    assert to_pool() is None


def test_a_scope_that_is_dropped_while_it_is_open_leaves_its_buffers_to_themselves() -> None:
    pool = BufferPool()
    scope = pool.scope().__enter__()
    buffer = scope.acquire(10)
    del scope
    gc.collect()
    buffer[0] = 1
    buffer.release()
    assert in_use(pool) == 0


def test_repr_says_how_it_stands() -> None:
    pool = BufferPool()
    scope = pool.scope()
    assert repr(scope) == f"<penstock.BufferScope at {id(scope):#x}: not entered>"
    with scope:
        view = memoryview(scope.acquire(1))
        assert repr(scope).endswith("open, 1 in use>")
    assert repr(scope).endswith("ended, 1 escaped>")
    view.release()


def test_it_cannot_be_pickled_or_copied_or_made_by_hand() -> None:
    scope = BufferPool().scope()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            attempt(scope)
    with pytest.raises(TypeError):
        BufferScope()


def test_signatures_can_be_inspected() -> None:
    assert inspect.signature(BufferScope.acquire) == inspect.signature(BufferPool.acquire)
    assert inspect.signature(BufferScope.aacquire) == inspect.signature(BufferPool.aacquire)
