"""Buffers and their pool: each sentence of the contract has a test that names it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import inspect
import pickle
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy
import penstock
import pytest
from penstock import Buffer, BufferPool, BufferStats

CLASSES = [
    *range(64, 1024, 64),
    *((8 + step) << shift for shift in range(7, 17) for step in range(8)),
    1 << 20,
]
EIGHTH_SIZES = [1024, 1025, 1151, 1152, 1153, 4096, 4097, 65_536, 65_537, 999_999, 1 << 20]


def as_array(buffer: Any) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.uint8]]:
    """Any, because in numpy's stubs for 3.11, where `Buffer` is no type, only what they list has a buffer."""
    array: numpy.ndarray[tuple[int], numpy.dtype[numpy.uint8]] = numpy.frombuffer(buffer, "u1")
    return array


def addresses(buffer: Buffer) -> int:
    return int(as_array(buffer).ctypes.data) if len(buffer) else 0


def check(pool: BufferPool, in_use: int, cached: int | None = None) -> None:
    stats = pool.stats()
    assert stats.in_use + stats.cached == stats.reserved
    assert stats.in_use == in_use
    if cached is not None:
        assert stats.cached == cached


# What a buffer is


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 1000, 65_536, (1 << 20) + 1, 5_000_000])
def test_len_is_what_was_asked_for_and_the_memory_is_aligned(nbytes: int) -> None:
    pool = BufferPool()
    with pool.acquire(nbytes) as buffer:
        assert len(buffer) == nbytes
        assert memoryview(buffer).nbytes == nbytes
        assert addresses(buffer) % 64 == 0


def test_a_view_is_writable_contiguous_bytes() -> None:
    pool = BufferPool()
    with pool.acquire(10) as buffer, memoryview(buffer) as view:
        assert (view.format, view.itemsize, view.ndim, view.shape) == ("B", 1, 1, (10,))
        assert view.c_contiguous
        assert not view.readonly
        assert view.obj is buffer


def test_a_slice_is_a_memoryview_and_an_item_an_int() -> None:
    pool = BufferPool()
    with pool.acquire(6) as buffer:
        buffer[:] = b"abcdef"
        part = buffer[1:3]
        assert type(part) is memoryview
        assert bytes(part) == b"bc"
        part.release()
        assert (buffer[0], buffer[5], buffer[-1], buffer[-6]) == (97, 102, 102, 97)
        assert bytes(buffer[::-2]) == b"fdb"


@pytest.mark.parametrize("index", [6, -7, 1 << 80, -(1 << 80)])
def test_an_index_outside_is_an_index_error(index: int) -> None:
    pool = BufferPool()
    with pool.acquire(6) as buffer, pytest.raises(IndexError):
        buffer[index]
    with pool.acquire(6) as buffer, pytest.raises(IndexError):
        buffer[index] = 1


def test_items_are_assigned_as_in_a_memoryview() -> None:
    pool = BufferPool()
    with pool.acquire(4) as buffer:
        buffer[:] = bytes(4)
        buffer[0] = 255
        buffer[-1] = 1
        buffer[1:3] = b"xy"
        assert bytes(buffer) == b"\xffxy\x01"
        with pytest.raises(ValueError, match="invalid value"):
            buffer[0] = 256
        with pytest.raises(ValueError, match="different structures"):
            buffer[1:3] = b"xyz"
        with pytest.raises(TypeError):
            buffer["a"]  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            del buffer[0]  # type: ignore[arg-type]


def test_iteration_bytes_and_comparison_are_as_for_a_memoryview() -> None:
    pool = BufferPool()
    with pool.acquire(3) as buffer, pool.acquire(3) as other:
        buffer[:] = b"abc"
        other[:] = b"abc"
        assert list(buffer) == [97, 98, 99]
        assert 98 in buffer
        assert 1 not in buffer
        assert list(reversed(buffer[:])) == [99, 98, 97]
        assert bytes(buffer) == b"abc"
        assert buffer == b"abc"
        assert b"abc" == buffer  # noqa: SIM300
        assert buffer == bytearray(b"abc")
        assert buffer == memoryview(b"abc")
        assert buffer == other
        assert buffer != b"abd"
        assert buffer != "abc"
        assert buffer != 1
        with pytest.raises(TypeError):
            buffer < b"abd"  # type: ignore[operator]  # noqa: B015
        with pytest.raises(TypeError, match="unhashable"):
            hash(buffer)


def test_a_socket_and_numpy_write_into_it() -> None:
    pool = BufferPool()
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs, pool.acquire(8) as buffer:
        theirs.sendall(b"12345678")
        assert ours.recv_into(buffer) == 8
        array = as_array(buffer)
        array[0] = 65
        assert bytes(buffer) == b"A2345678"
        del array


# Coming back


def test_it_goes_back_on_release() -> None:
    pool = BufferPool()
    buffer = pool.acquire(1000)
    check(pool, 1024, 0)
    buffer.release()
    check(pool, 0, 1024)


def test_it_goes_back_at_the_end_of_a_with() -> None:
    pool = BufferPool()
    with pool.acquire(1000):
        check(pool, 1024)
    check(pool, 0, 1024)


def test_it_goes_back_with_its_last_reference() -> None:
    pool = BufferPool()
    buffer = pool.acquire(1000)
    del buffer
    gc.collect()
    check(pool, 0, 1024)


def test_a_second_release_does_nothing() -> None:
    pool = BufferPool()
    buffer = pool.acquire(64)
    buffer.release()
    other = pool.acquire(64)
    buffer.release()
    check(pool, 64, 0)
    other.release()
    with pool.acquire(64) as buffer:
        buffer.release()
    check(pool, 0, 64)


def test_memory_is_lent_again() -> None:
    pool = BufferPool()
    with pool.acquire(5000) as buffer:
        first = addresses(buffer)
    with pool.acquire(5000) as buffer:
        assert addresses(buffer) == first
    check(pool, 0, 5120)


@pytest.mark.parametrize(
    "use",
    [
        len,
        bytes,
        memoryview,
        iter,
        list,
        pytest.param(lambda buffer: buffer[0], id="item"),
        pytest.param(lambda buffer: buffer[0:1], id="slice"),
        pytest.param(lambda buffer: buffer.__setitem__(0, 1), id="assignment"),
        pytest.param(lambda buffer: buffer == b"", id="comparison"),
        pytest.param(lambda buffer: buffer.__enter__(), id="with"),
        pytest.param(as_array, id="numpy"),
    ],
)
def test_a_released_buffer_raises_value_error_on_use(use) -> None:  # type: ignore[no-untyped-def]
    buffer = BufferPool().acquire(10)
    buffer.release()
    with pytest.raises(ValueError, match="released"):
        use(buffer)


# The export rule


@pytest.mark.parametrize(
    "export",
    [
        memoryview,
        pytest.param(lambda buffer: buffer[2:], id="slice"),
        pytest.param(as_array, id="numpy"),
        iter,
    ],
)
def test_release_under_an_export_is_a_buffer_error_and_loses_nothing(export) -> None:  # type: ignore[no-untyped-def]
    pool = BufferPool()
    buffer = pool.acquire(100)
    buffer[:] = b"x" * 100
    held = export(buffer)
    with pytest.raises(BufferError, match="1 export"):
        buffer.release()
    check(pool, 128)
    assert bytes(buffer) == b"x" * 100
    buffer[0] = 65
    with pytest.raises(BufferError):
        buffer.release()
    del held
    gc.collect()
    buffer.release()
    check(pool, 0, 128)


def test_memory_that_an_export_uses_is_never_lent() -> None:
    pool = BufferPool()
    array = as_array(pool.acquire(4096))  # the buffer lives on in the array
    array[:] = 7
    gc.collect()
    check(pool, 4096)
    others = [pool.acquire(4096) for _ in range(50)]
    for other in others:
        other[:] = b"\xff" * 4096
    assert (array == 7).all()
    del array
    gc.collect()
    check(pool, 50 * 4096, 4096)
    for other in others:
        other.release()


def test_leaving_a_with_under_an_export_is_a_buffer_error() -> None:
    pool = BufferPool()
    with pytest.raises(BufferError), pool.acquire(100) as buffer:
        buffer[:] = b"y" * 100
        view = memoryview(buffer)
    check(pool, 128)
    assert bytes(view) == b"y" * 100
    with pytest.raises(ValueError, match="released"):
        len(buffer)
    buffer.release()
    other = pool.acquire(100)
    other[:] = b"z" * 100
    assert bytes(view) == b"y" * 100
    view.release()  # the last export: the memory goes back
    check(pool, 128, 128)
    other.release()


def test_leaving_a_with_under_an_export_does_not_hide_an_exception() -> None:
    pool = BufferPool()
    views = []
    with pytest.raises(KeyError, match="mine"), pool.acquire(100) as buffer:
        views += [memoryview(buffer), memoryview(buffer)[1:]]
        raise KeyError("mine")
    check(pool, 128)
    views.pop().release()
    check(pool, 128)
    views.pop().release()
    check(pool, 0, 128)


def test_a_failed_request_for_a_view_leaves_no_export() -> None:
    pool = BufferPool()
    buffer = pool.acquire(100)
    with pytest.raises(TypeError):
        buffer[0:1] = "no bytes"  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="different structures"):
        buffer[0:1] = b"too long"
    buffer.release()


# Sizes and statistics


def test_classes_waste_at_most_an_eighth_from_1_kib_up() -> None:
    pool = BufferPool()
    for nbytes in EIGHTH_SIZES:
        with pool.acquire(nbytes):
            in_use = pool.stats().in_use
            assert nbytes <= in_use <= nbytes * 1.125
            assert in_use == min(size for size in CLASSES if size >= nbytes)


def test_classes_below_1_kib_go_by_64_bytes() -> None:
    pool = BufferPool()
    for nbytes in range(1, 1025):
        with pool.acquire(nbytes):
            assert pool.stats().in_use == (nbytes + 63) // 64 * 64
    with pool.acquire(0):
        assert pool.stats().in_use == 64


def test_above_the_largest_class_memory_is_mapped_and_unmapped() -> None:
    pool = BufferPool()
    buffer = pool.acquire(3_000_001)
    stats = pool.stats()
    assert 3_000_001 <= stats.in_use < 3_000_001 + 65_536
    buffer[3_000_000] = 9
    assert buffer[3_000_000] == 9
    assert buffer[0] == 0
    buffer.release()
    check(pool, 0, 0)
    assert pool.stats().reserved_peak == stats.reserved


def test_stats_are_values() -> None:
    pool = BufferPool(numa="off")
    stats = pool.stats()
    assert isinstance(stats, BufferStats)
    assert stats == pool.stats()
    assert repr(stats) == (
        "BufferStats(in_use=0, cached=0, reserved=0, reserved_peak=0, "
        "nodes=(BufferNodeStats(id=0, in_use=0, cached=0, reserved=0),), "
        "binding_denied=False, huge_pages_denied=False)"
    )
    with pytest.raises(AttributeError):
        stats.in_use = 1  # type: ignore[misc]


@pytest.mark.parametrize("nbytes", [5, 70_000, 3_000_000])
def test_zero_clears_what_is_lent(nbytes: int) -> None:
    pool = BufferPool(zero=True)
    for _ in range(2):
        with pool.acquire(nbytes) as buffer:
            assert bytes(buffer) == bytes(nbytes)
            buffer[:] = b"\xaa" * nbytes


# The limit


def test_more_than_max_bytes_is_a_value_error() -> None:
    pool = BufferPool(max_bytes=1000)
    with pytest.raises(ValueError, match=r"max_bytes \(1000\), not 1001"):
        pool.acquire(1001)
    pool.acquire(1000).release()


def test_at_the_limit_acquire_times_out() -> None:
    pool = BufferPool(131_072)
    first, second = pool.acquire(65_536), pool.acquire(65_536)
    with pytest.raises(TimeoutError):
        pool.acquire(1, timeout=0)
    with pytest.raises(TimeoutError):
        pool.acquire(65_536, timeout=0.01)
    check(pool, 131_072, 0)
    first.release()
    third = pool.acquire(65_536, timeout=0)
    for buffer in (second, third):
        buffer.release()
    check(pool, 0)


def waiting_thread(pool: BufferPool, nbytes: int, results: list[object]) -> threading.Thread:
    started = threading.Event()

    def run() -> None:
        started.set()
        buffer = pool.acquire(nbytes, timeout=30)
        results.append(nbytes)
        buffer.release()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    return thread


def test_at_the_limit_acquire_waits_for_a_release() -> None:
    pool = BufferPool(4096)
    buffer = pool.acquire(4096)
    results: list[object] = []
    thread = waiting_thread(pool, 2000, results)
    assert results == []
    buffer.release()
    thread.join()
    assert results == [2000]
    check(pool, 0)


def test_a_task_parks_until_a_buffer_is_released() -> None:
    pool = BufferPool(4096)
    buffer = pool.acquire(4096)
    order: list[str] = []

    def wants() -> int:
        with pool.acquire(4096) as mine:
            order.append("lent")
            return len(mine)

    task = penstock.go(wants)
    other = penstock.go(order.append, "other")  # runs while the first is parked
    other.result(timeout=30)
    buffer.release()
    assert task.result(timeout=30) == 4096
    assert order == ["other", "lent"]
    check(pool, 0)


def test_a_cancelled_task_has_taken_nothing() -> None:
    pool = BufferPool(4096)
    with pool.acquire(4096):
        entered = threading.Event()

        def wants() -> None:
            entered.set()
            pool.acquire(4096)

        task = penstock.go(wants)
        entered.wait(30)
        task.cancel()
        with pytest.raises(penstock.Cancelled):
            task.result(timeout=30)
        check(pool, 4096)
    pool.acquire(4096, timeout=0).release()


def test_an_async_task_that_would_have_to_wait_is_told_so() -> None:
    pool = BufferPool(64)

    async def wants() -> None:
        pool.acquire(64)

    with pool.acquire(64), pytest.raises(RuntimeError, match="would have to wait"):
        penstock.go(wants).result(timeout=30)


# `aacquire`


def somebody_waits(pool: BufferPool) -> bool:
    """Whether a request stands in line, for a pool with room for 64 bytes: nobody overtakes it."""
    try:
        pool.acquire(64, timeout=0).release()
    except TimeoutError:
        return True
    return False


async def lent_bytes(pool: BufferPool, nbytes: int, timeout: float | None = None) -> int:
    with await pool.aacquire(nbytes, timeout=timeout) as buffer:
        return len(buffer)


def test_aacquire_lends_at_once_where_there_is_room() -> None:
    pool = BufferPool(4096)
    assert penstock.go(lent_bytes, pool, 100).result(timeout=30) == 100
    assert penstock.go(lent_bytes, pool, 4096, 0).result(timeout=30) == 4096
    check(pool, 0)


def test_aacquire_waits_for_a_release_and_others_run_meanwhile(wait_until: Any) -> None:
    pool = BufferPool(4096)
    buffer = pool.acquire(2048)
    task = penstock.go(lent_bytes, pool, 4096)
    wait_until(lambda: somebody_waits(pool))
    assert penstock.go(len, "other").result(timeout=30) == 5
    assert not task.done()
    buffer.release()
    assert task.result(timeout=30) == 4096
    check(pool, 0)


def test_a_cancelled_aacquire_has_taken_nothing_and_lets_the_next_go_on(wait_until: Any) -> None:
    pool = BufferPool(4096)
    with pool.acquire(2048):
        task = penstock.go(lent_bytes, pool, 4096)
        wait_until(lambda: somebody_waits(pool))
        behind = penstock.go(lent_bytes, pool, 2048)  # fits, and stands behind one that does not
        task.cancel()
        with pytest.raises(penstock.Cancelled):
            task.result(timeout=30)
        assert behind.result(timeout=30) == 2048
        check(pool, 2048)
    check(pool, 0)


def test_an_aacquire_whose_time_is_over_lets_the_next_go_on(wait_until: Any) -> None:
    pool = BufferPool(4096)
    with pool.acquire(2048):
        task = penstock.go(lent_bytes, pool, 4096, 0.05)
        behind = penstock.go(lent_bytes, pool, 2048)
        with pytest.raises(TimeoutError, match="no 4096 bytes were released in time"):
            task.result(timeout=30)
        assert behind.result(timeout=30) == 2048
        with pytest.raises(TimeoutError):
            penstock.go(lent_bytes, pool, 4096, 0).result(timeout=30)
        assert not somebody_waits(pool)
    check(pool, 0)


@pytest.mark.parametrize("served", [False, True])
def test_an_aacquire_that_is_dropped_while_it_waits_passes_its_turn_on(served: bool) -> None:
    pool = BufferPool(4096)

    async def main() -> None:
        held = pool.acquire(2048)
        dropped = pool.aacquire(4096).__await__()
        next(dropped)  # now it stands in line, and nobody will come back for it
        behind = penstock.go(lent_bytes, pool, 2048)
        if served:
            held.release()
        del dropped
        assert await behind == 2048
        held.release()

    penstock.go(main).result(timeout=30)
    check(pool, 0)


def test_async_tasks_that_share_a_limit_lose_nothing_when_some_are_cancelled() -> None:
    pool = BufferPool(4 * 4096)

    async def use() -> None:
        for _ in range(20):
            with await pool.aacquire(4096):
                await penstock.asleep(0)

    tasks = [penstock.go(use) for _ in range(40)]
    for task in tasks[::3]:
        task.cancel()
    for index, task in enumerate(tasks):
        if index % 3:
            task.result(timeout=30)
        else:
            with contextlib.suppress(penstock.Cancelled):
                task.result(timeout=30)
    check(pool, 0)


def test_aacquire_refuses_what_acquire_does() -> None:
    pool = BufferPool(4096)
    with pytest.raises(ValueError, match="nbytes must be an int >= 0, not -1"):
        pool.aacquire(-1)
    with pytest.raises(ValueError, match="timeout"):
        pool.aacquire(1, timeout=-1)
    with pytest.raises(TypeError, match=r"BufferPool.aacquire\(\) takes at most 2 positional arguments"):
        pool.aacquire(1, None, 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match=r"max_bytes \(4096\), not 4097"):
        penstock.go(lent_bytes, pool, 4097).result(timeout=30)


def test_aacquire_waits_in_an_event_loop_and_passes_on_what_it_was_lent_too_late() -> None:
    pool = BufferPool(64)

    async def main() -> None:
        assert await lent_bytes(pool, 64) == 64
        held = pool.acquire(64)
        with pytest.raises(TimeoutError, match="64 bytes"):
            await pool.aacquire(64, timeout=0.01)
        gone, next = (asyncio.create_task(lent_bytes(pool, 64)) for _ in range(2))
        await asyncio.sleep(0)
        held.release()
        gone.cancel()
        assert await next == 64
        assert gone.cancelled()

    asyncio.run(asyncio.wait_for(main(), 30))
    check(pool, 0)


def test_what_is_cached_in_other_sizes_is_no_reason_to_wait() -> None:
    pool = BufferPool(65_536)
    for nbytes in (64, 65_536, 1000, 30_000, 65_536):
        pool.acquire(nbytes, timeout=0).release()
        assert pool.stats().reserved <= 65_536


def test_many_threads_share_a_limit() -> None:
    pool = BufferPool(4 * 4096)
    errors: list[BaseException] = []

    def work(mark: int) -> None:
        try:
            for _ in range(300):
                with pool.acquire(4096, timeout=30) as buffer:
                    buffer[:] = bytes([mark]) * 4096
                    assert bytes(buffer) == bytes([mark]) * 4096
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    check(pool, 0)
    assert pool.stats().reserved_peak <= 4 * 4096


def test_buffers_may_be_released_on_other_threads() -> None:
    pool = BufferPool()
    for _ in range(3):
        buffers = [pool.acquire(1000) for _ in range(200)]
        thread = threading.Thread(target=lambda lent: [one.release() for one in lent], args=(buffers,))
        thread.start()
        thread.join()
        check(pool, 0, 200 * 1024)


def test_release_and_export_race_on_one_buffer() -> None:
    pool = BufferPool()
    """Whichever comes first decides: an export that was granted keeps its memory."""
    for _ in range(200):
        buffer = pool.acquire(64)
        buffer[:] = b"a" * 64
        barrier = threading.Barrier(2)
        seen: list[bytes] = []

        def export(buffer: Buffer = buffer, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                view = memoryview(buffer)
            except ValueError:
                return
            seen.append(bytes(view))
            view.release()

        thread = threading.Thread(target=export)
        thread.start()
        barrier.wait()
        try:
            buffer.release()
        except BufferError:
            thread.join()
            buffer.release()
        else:
            with pool.acquire(64) as other:
                other[:] = b"b" * 64
            thread.join()
        assert seen in ([], [b"a" * 64])
    check(pool, 0)


# Arguments, and what every public object has


@pytest.mark.parametrize("nbytes", [-1, -(1 << 80)])
def test_a_negative_size_is_a_value_error(nbytes: int) -> None:
    pool = BufferPool()
    with pytest.raises(ValueError, match="nbytes must be an int >= 0, not -"):
        pool.acquire(nbytes)


@pytest.mark.parametrize("nbytes", [1.5, "1", None])
def test_a_size_that_is_no_int_is_a_type_error(nbytes: object) -> None:
    pool = BufferPool()
    with pytest.raises(TypeError, match="nbytes must be an int >= 0"):
        pool.acquire(nbytes)  # type: ignore[arg-type]


@pytest.mark.parametrize("max_bytes", [0, -5])
def test_a_limit_below_one_is_a_value_error(max_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"max_bytes must be None or an int >= 1, not {max_bytes}"):
        BufferPool(max_bytes)


@pytest.mark.parametrize("zero", [1, None, "no"])
def test_zero_is_a_bool(zero: object) -> None:
    with pytest.raises(TypeError, match=f"zero must be a bool, not {zero!r}"):
        BufferPool(zero=zero)  # type: ignore[arg-type]


def test_other_bad_arguments() -> None:
    pool = BufferPool()
    with pytest.raises(TypeError, match="max_bytes"):
        BufferPool("many")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        pool.acquire(1, timeout=-1)
    with pytest.raises(TypeError):
        pool.acquire()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pool.acquire(1, None, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pool.acquire(1, size=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Buffer()
    pool.acquire(nbytes=1, timeout=None).release()
    with pytest.raises(MemoryError):
        pool.acquire(1 << 62)


def objects() -> Iterator[object]:
    pool = BufferPool()
    yield pool
    yield pool.acquire(10)


@pytest.mark.parametrize("thing", list(objects()), ids=lambda thing: type(thing).__name__)
def test_pickling_and_copying_are_type_errors_that_say_why(thing: object) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            attempt(thing)


def test_weak_references() -> None:
    pool = BufferPool()
    buffer = pool.acquire(10)
    to_pool, to_buffer = weakref.ref(pool), weakref.ref(buffer)
    del pool
    assert to_pool() is not None  # the buffer keeps its pool
    del buffer
    gc.collect()
    assert to_buffer() is None
    assert to_pool() is None


def test_reprs_have_id_and_state() -> None:
    pool = BufferPool(max_bytes=4096)
    buffer = pool.acquire(100)
    assert repr(pool) == f"<penstock.BufferPool at {id(pool):#x}: 128 of 4096 bytes in use, 0 cached>"
    assert repr(buffer) == f"<penstock.Buffer at {id(buffer):#x}: 100 bytes, in use>"
    view = memoryview(buffer)
    assert repr(buffer).endswith("in use, 1 export>")
    view.release()
    buffer.release()
    assert repr(buffer).endswith("released>")


def test_the_default_pool() -> None:
    assert isinstance(penstock.buffers, BufferPool)
    with penstock.buffers.acquire(65_536) as buffer:
        assert len(buffer) == 65_536


def test_signatures_can_be_inspected() -> None:
    assert str(inspect.signature(BufferPool.acquire)) == "(self, /, nbytes, node=None, *, timeout=None)"
    assert str(inspect.signature(BufferPool.aacquire)) == "(self, /, nbytes, node=None, *, timeout=None)"
    assert str(inspect.signature(Buffer.release)) == "(self, /)"
