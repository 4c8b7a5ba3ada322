"""`map`: results in order, at most so many at once, read at most so far ahead, and nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import penstock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock import Cancelled, Channel, go

LIMIT = 30.0  # seconds; only a hang reaches it


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def in_task(function: Callable[..., Any], *args: Any) -> Any:
    return go(function, *args).result(timeout=LIMIT)


PLACES = pytest.mark.parametrize("run", [in_thread, in_task])
ORDERED = pytest.mark.parametrize("ordered", [True, False])


def double(x: int) -> int:
    penstock.yield_now()
    return 2 * x


async def async_double(x: int) -> int:
    await penstock.asleep(0)
    return 2 * x


async def listed(*args: Any, **kwargs: Any) -> list[Any]:
    return [result async for result in penstock.map(*args, **kwargs)]


def in_thread_list(*args: Any, **kwargs: Any) -> list[Any]:
    return list(penstock.map(*args, **kwargs))


LISTS = pytest.mark.parametrize(
    "results",
    [
        in_thread_list,
        lambda *args, **kwargs: in_task(lambda: in_thread_list(*args, **kwargs)),
        lambda *args, **kwargs: go(listed, *args, **kwargs).result(timeout=LIMIT),
        lambda *args, **kwargs: asyncio.run(listed(*args, **kwargs)),
    ],
    ids=["thread", "task", "async task", "asyncio"],
)


@LISTS
@ORDERED
@pytest.mark.parametrize("fn", [double, async_double])
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_every_item_gives_its_result(results: Any, ordered: bool, fn: Any, limit: int | None) -> None:
    got = results(fn, range(50), limit=limit, ordered=ordered)
    assert (got if ordered else sorted(got)) == [2 * x for x in range(50)]
    assert results(fn, [], limit=limit, ordered=ordered) == []


@PLACES
@ORDERED
@settings(max_examples=40, deadline=None)
@given(items=st.lists(st.integers(0, 3), max_size=20), limit=st.integers(1, 4))
def test_bounds_hold_for_any_work(run: Any, ordered: bool, items: list[int], limit: int) -> None:
    lock = threading.Lock()
    running, most, taken = [0], [0], [0]

    def work(turns: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        for _ in range(turns):
            penstock.yield_now()
        with lock:
            running[0] -= 1
        return turns

    def source() -> Iterator[int]:
        for item in items:
            taken[0] += 1
            yield item

    def consume() -> list[int]:
        got = []
        for result in penstock.map(work, source(), limit=limit, ordered=ordered):
            got.append(result)
            assert taken[0] - len(got) < 2 * limit
        return got

    got = run(consume)
    assert (got if ordered else sorted(got)) == (items if ordered else sorted(items))
    assert most[0] <= limit


@ORDERED
@pytest.mark.parametrize("awaits", [False, True])
def test_a_result_that_is_there_costs_one_item(ordered: bool, awaits: bool, wait_until: Any) -> None:
    taken: list[int] = []
    gate = penstock.Event()

    def source() -> Iterator[int]:
        for item in itertools.count(1):
            taken.append(item)
            if item == 4:
                gate.set()
            yield item

    results = penstock.map(lambda _: gate.wait(), source(), limit=4, ordered=ordered)

    async def anext_result() -> None:
        await anext(results)

    for number in range(20):
        before = len(taken)
        go(anext_result).result(timeout=LIMIT) if awaits else next(results)
        assert number == 0 or len(taken) == before + 1
        wait_until(lambda: len(results._endings._ended) == len(results._unfinished))
    results.close()


@ORDERED
@pytest.mark.parametrize("awaits", [False, True])
def test_a_call_that_ends_with_cancelled_ends_the_others_first(ordered: bool, awaits: bool) -> None:
    started, ended = Channel[None](), threading.Event()

    def call(item: int) -> None:
        if item == 0:
            started.recv()
            raise Cancelled
        try:
            started.send(None)
            penstock.sleep(LIMIT)
        finally:
            penstock.sleep(0.001)
            ended.set()

    results = penstock.map(call, range(2), limit=2, ordered=ordered)

    def next_raises() -> None:
        with pytest.raises(Cancelled):
            next(results)
        assert ended.is_set()

    async def anext_raises() -> None:
        with pytest.raises(Cancelled):
            await anext(results)
        assert ended.is_set()

    go(anext_raises if awaits else next_raises).result(timeout=LIMIT)


@ORDERED
def test_nothing_is_read_before_a_result_is_asked_for_and_the_iterable_may_be_endless(ordered: bool) -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for item in itertools.count():
            taken.append(item)
            yield item

    results = penstock.map(double, source(), limit=3, ordered=ordered)
    assert taken == []
    got = [next(results) for _ in range(20)]
    assert len(set(got)) == 20
    assert len(taken) <= 20 + 6
    results.close()
    assert list(results) == []


def test_a_slow_item_holds_up_its_successors_results_but_not_their_calls(wait_until: Any) -> None:
    gate = Channel[None]()
    ended: list[int] = []

    def work(x: int) -> int:
        if x == 0:
            gate.recv()
        ended.append(x)
        return x

    results = penstock.map(work, range(100), limit=2)
    task = go(next, results)
    wait_until(lambda: len(ended) == 3)  # 2 * limit are taken, and the first of them waits
    gate.send(None, timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 0
    assert list(results) == list(range(1, 100))


def test_unordered_results_come_as_they_are_ready() -> None:
    gate = Channel[None]()

    def work(x: int) -> int:
        if x == 0:
            gate.recv()
        return x

    results = penstock.map(work, range(5), limit=2, ordered=False)
    assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
    gate.send(None, timeout=LIMIT)
    assert list(results) == [0]


def test_a_result_that_is_ready_does_not_wait_for_many_items() -> None:
    """A channel as the source: one item ahead is enough to go on."""
    source = Channel[int](2)
    source.send(1)
    source.send(2)
    results = penstock.map(lambda x: x, source, limit=50)
    with penstock.move_on_after(0.05):
        next(results)  # may take more than one item while the first call has not ended
    source.send(3)
    source.close()
    rest = list(results)
    assert rest in ([1, 2, 3], [2, 3])


# Failures


@LISTS
@ORDERED
def test_what_fn_raises_comes_out_and_the_rest_has_ended_by_then(results: Any, ordered: bool) -> None:
    log: list[str] = []

    def work(x: int) -> int:
        if x == 2:
            raise ValueError(x)
        if x > 2:
            log.append("begins")
            try:
                Channel[None]().recv()
            finally:
                penstock.sleep(0.001)
                log.append("ends")
        return x

    with pytest.raises(ValueError, match="2"):
        results(work, range(10), limit=6, ordered=ordered)
    assert log.count("begins") == log.count("ends")


def test_an_error_comes_in_its_turn_and_then_it_is_over() -> None:
    def work(x: int) -> int:
        if x == 3:
            raise ValueError(x)
        return x

    results = penstock.map(work, range(10), limit=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert list(results) == []


@LISTS
@ORDERED
def test_what_the_iterable_raises_comes_after_the_results_before_it(results: Any, ordered: bool) -> None:
    got: list[int] = []

    def source() -> Iterator[int]:
        yield from range(5)
        raise ValueError("source")

    def work(x: int) -> int:
        penstock.yield_now()
        got.append(x)
        return x

    with pytest.raises(ValueError, match="source"):
        results(work, source(), limit=10, ordered=ordered)
    assert sorted(got) == list(range(5))


def test_nothing_is_reported_of_what_nobody_can_get(run_program: Any) -> None:
    run_program(
        """
        import gc, penstock
        ended = []
        def work(x):
            try:
                if x == 0:
                    penstock.sleep(0.02)  # so that others are begun
                    return x
                if x == 1:
                    raise ValueError(x)
                penstock.Channel().recv()
            finally:
                ended.append(x)
                if x > 1:
                    raise KeyError(x)
        def first():
            for result in penstock.map(work, range(10), limit=5):
                return result
        print(first())
        wait_until(lambda: len(ended) >= 5)
        try:
            list(penstock.map(work, [2, 1, 1, 1], limit=4, ordered=False))
        except (ValueError, KeyError):
            print("raised")
        async def part():
            async for _ in penstock.map(work, [0, 1, 1], limit=3):
                break
        penstock.go(part).result()
        gc.collect()
        """,
        stdout="0\nraised\n",
    )


# Left early


def test_dropped_what_runs_is_cancelled(wait_until: Any) -> None:
    log: list[str] = []

    def work(x: int) -> int:
        if x == 0:
            return x
        log.append("begins")
        try:
            Channel[None]().recv()
        except Cancelled:
            log.append("cancelled")
            raise
        return x

    for result in penstock.map(work, range(10), limit=4):
        assert result == 0
        break
    wait_until(lambda: log.count("begins") == log.count("cancelled"))


@pytest.mark.parametrize("is_async", [False, True])
def test_close_waits_for_the_end_of_what_runs(is_async: bool) -> None:
    log: list[str] = []
    started = Channel[None](9)

    def work(x: int) -> int:
        if x:
            started.send(None)
            try:
                Channel[None]().recv()
            finally:
                penstock.sleep(0.005)
                log.append("ended")
        return x

    async def use() -> None:
        results = penstock.map(work, range(4), limit=4, ordered=False)
        assert await anext(results) == 0
        for _ in range(len(results._unfinished)):
            await started.arecv(timeout=LIMIT)
        running = len(results._unfinished)
        await results.aclose()
        assert log == ["ended"] * running
        assert [result async for result in results] == []

    if is_async:
        go(use).result(timeout=LIMIT)
        return
    results = penstock.map(work, range(4), limit=4, ordered=False)
    assert next(results) == 0
    running = len(results._unfinished)
    for _ in range(running):
        started.recv(timeout=LIMIT)
    results.close()
    assert log == ["ended"] * running
    assert list(results) == []


@PLACES
def test_a_wait_that_is_cut_short_loses_nothing(run: Any) -> None:
    def use() -> list[int]:
        gate = Channel[None]()

        def work(x: int) -> int:
            gate.recv()
            return x

        results = penstock.map(work, range(3), limit=2)
        with penstock.move_on_after(0.01) as scope:
            next(results)
        assert scope.expired
        gate.close()
        gate = Channel[None](3)
        for _ in range(3):
            gate.send(None)
        with pytest.raises(penstock.ChannelClosed):
            next(results)
        return list(results)

    assert run(use) == []


@PLACES
def test_a_deadline_in_the_reading_of_the_iterable_is_not_a_failure_of_it(run: Any) -> None:
    source = Channel[int](1)

    def use() -> list[int]:
        results = penstock.map(double, source)
        with penstock.move_on_after(0.01) as scope:
            next(results)
        assert scope.expired
        source.send(4)
        source.close()
        return list(results)

    assert run(use) == [8]


# async


def test_async_for_takes_an_asynchronous_iterable_too() -> None:
    async def source() -> AsyncIterator[int]:
        for x in range(20):
            await penstock.asleep(0)
            yield x

    assert go(listed, async_double, source(), limit=3).result(timeout=LIMIT) == [2 * x for x in range(20)]
    channel = Channel[int]()

    def produce() -> None:
        for x in range(20):
            channel.send(x)
        channel.close()

    go(produce)
    assert go(listed, double, channel).result(timeout=LIMIT) == [2 * x for x in range(20)]
    with pytest.raises(TypeError, match="async for"):
        list(penstock.map(double, source()))


def test_a_synchronous_iteration_in_a_coroutine_names_the_awaitable_form() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"map\(\).*use 'async for'"):
            next(penstock.map(lambda _: Channel[None]().recv(), [1]))

    go(main).result(timeout=LIMIT)


# Arguments


def test_bad_arguments_are_refused_at_the_call() -> None:
    with pytest.raises(TypeError, match="fn must be callable, not 3"):
        penstock.map(3, [])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="iterable must be an iterable, not 3"):
        penstock.map(double, 3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="limit must be None or an int >= 1, not 0"):
        penstock.map(double, [], limit=0)
    with pytest.raises(TypeError, match="limit must be None or an int >= 1, not 'x'"):
        penstock.map(double, [], limit="x")  # type: ignore[call-overload]


def test_what_a_map_shows() -> None:
    results = penstock.map(double, [])
    assert repr(results) == f"<penstock.map at {id(results):#x}: 0 running>"
    assert weakref.ref(results)() is results
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        pickle.dumps(results)


def test_results_that_are_there_at_exit_are_silent(run_program: Any) -> None:
    run_program(
        """
        import penstock
        gate = penstock.Channel()
        results = penstock.map(lambda n: gate.recv() if n else n, range(3))
        next(results)
        results.itself = results  # dropped by the last collection, when no module can be imported
        """
    )


@pytest.mark.parametrize("way", ["results.close()", "asyncio.run(results.aclose())"])
def test_a_map_that_a_forked_child_closes_waits_for_no_call_of_the_parent(way: str, run_program: Any) -> None:
    run_program(
        f"""
        import asyncio, warnings, penstock
        warnings.simplefilter("ignore", DeprecationWarning)
        gate, second = penstock.Channel(), penstock.Channel()
        def call(number):
            if number == 0:
                second.recv()  # no result before another call is on its way
                return 0
            if number == 1:
                second.send(None)
            return gate.recv()
        results = penstock.map(call, range(3))
        print(next(results))
        wait_until(lambda: gate.stats().recv_waits > 0)
        child = os.fork()
        if child == 0:
            {way}
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        gate.close()
        """,
        stdout="0\n7\n",
    )
