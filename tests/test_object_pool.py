"""Pools of objects: each sentence of the contract has a test that names it."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import penstock
import pytest
import trio
from penstock import Borrowed, Cancelled, Channel, Event, ObjectPool, ObjectStats, go

LIMIT = 60.0


class Parser:
    """Something that is costly to make, and has a state."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.other: object = None


def clear(parser: Parser) -> None:
    parser.lines.clear()


def numbers(pool: ObjectPool[Any]) -> tuple[int, int, int]:
    stats = pool.stats()
    return stats.in_use, stats.idle, stats.created


# Lending


def test_an_object_that_came_back_is_lent_again() -> None:
    pool = ObjectPool(Parser)
    first = pool.acquire()
    assert type(first) is Parser
    assert numbers(pool) == (1, 0, 1)
    pool.release(first)
    assert numbers(pool) == (0, 1, 1)
    assert pool.acquire() is first
    assert numbers(pool) == (1, 0, 1)


def test_the_one_that_came_back_last_is_lent_first() -> None:
    pool = ObjectPool(Parser)
    first, second = pool.acquire(), pool.acquire()
    pool.release(first)
    pool.release(second)
    assert pool.acquire() is second
    assert pool.acquire() is first


def test_borrow_lends_for_the_length_of_a_with() -> None:
    pool = ObjectPool(Parser)
    with pool.borrow() as parser:
        assert numbers(pool) == (1, 0, 1)
    assert numbers(pool) == (0, 1, 1)
    with pool.borrow() as again:
        assert again is parser


def test_blocks_inside_one_another_have_different_objects() -> None:
    pool = ObjectPool(Parser)
    with pool.borrow() as outer, pool.borrow() as inner:
        assert inner is not outer
        assert numbers(pool) == (2, 0, 2)
    assert numbers(pool) == (0, 2, 2)


def test_async_with_lends_too_in_asyncio_and_in_a_task() -> None:
    pool = ObjectPool(Parser)

    async def use() -> Parser:
        async with pool.borrow() as parser:
            assert numbers(pool) == (1, 0, 1)
            return parser

    first = asyncio.run(use())
    assert go(use).result(LIMIT) is first
    assert numbers(pool) == (0, 1, 1)


def test_a_borrowed_that_was_left_can_be_entered_again_but_not_twice_at_once() -> None:
    pool = ObjectPool(Parser)
    borrowed = pool.borrow()
    with pytest.raises(RuntimeError, match="not entered"):
        borrowed.__exit__(None, None, None)
    with borrowed as first:
        with pytest.raises(RuntimeError, match="entered already"):
            borrowed.__enter__()
        assert numbers(pool) == (1, 0, 1)
    with borrowed as second:
        assert second is first
    assert numbers(pool) == (0, 1, 1)


def test_the_block_gets_its_object_back_however_it_ends() -> None:
    pool = ObjectPool(Parser, clear)
    with pytest.raises(KeyError), pool.borrow() as parser:
        parser.lines.append("half a line")
        raise KeyError
    assert parser.lines == []
    assert numbers(pool) == (0, 1, 1)


def test_a_cancelled_body_gives_back() -> None:
    pool, entered, never = ObjectPool(Parser, clear), Event(), Channel[None]()

    def hold() -> None:
        with pool.borrow() as parser:
            parser.lines.append("half a line")
            entered.set()
            never.recv()

    task = go(hold)
    assert entered.wait(LIMIT)
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(LIMIT)
    assert numbers(pool) == (0, 1, 1)
    assert pool.acquire().lines == []


def test_what_asyncio_cancels_in_the_body_gives_back() -> None:
    pool = ObjectPool(Parser, clear)

    async def main() -> None:
        inside = asyncio.Event()

        async def hold() -> None:
            async with pool.borrow():
                inside.set()
                await asyncio.get_running_loop().create_future()

        holding = asyncio.ensure_future(hold())
        await inside.wait()
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding

    asyncio.run(main())
    assert numbers(pool) == (0, 1, 1)


def test_a_block_that_trio_cancels_before_it_begins_gives_back() -> None:
    pool = ObjectPool(Parser)

    async def main() -> None:
        async with pool.borrow() as parser:
            assert type(parser) is Parser
        with trio.CancelScope() as scope:
            scope.cancel()
            async with pool.borrow():
                raise AssertionError("the block begins")
        assert scope.cancelled_caught

    trio.run(main)
    assert numbers(pool) == (0, 1, 1)


def test_an_async_with_that_does_not_begin_gives_back() -> None:
    pool = ObjectPool(Parser)
    entering = pool.borrow().__aenter__()
    assert numbers(pool) == (1, 0, 1)
    del entering
    assert numbers(pool) == (0, 1, 1)


def test_a_generator_that_is_dropped_gives_back() -> None:
    pool = ObjectPool(Parser)

    def lines() -> Any:
        with pool.borrow() as parser:
            yield parser

    generator = lines()
    next(generator)
    assert numbers(pool) == (1, 0, 1)
    del generator
    assert numbers(pool) == (0, 1, 1)


def test_a_task_may_park_with_an_object_and_release_it_on_another_worker() -> None:
    async def use(pool: ObjectPool[Parser], number: int) -> None:
        async with pool.borrow() as parser:
            for step in range(5):
                parser.lines.append(f"{number} {step}")
                await penstock.asleep(0)
            assert parser.lines == [f"{number} {step}" for step in range(5)]

    pool = ObjectPool(Parser, clear)
    with penstock.Runtime(workers=4) as runtime:
        tasks = [runtime.go(use, pool, number) for number in range(200)]
    assert [task.exception() for task in tasks].count(None) == 200
    in_use, idle, created = numbers(pool)
    assert (in_use, idle) == (0, created)


def test_what_one_thread_acquires_another_may_release() -> None:
    pool = ObjectPool(Parser)
    first = pool.acquire()
    thread = threading.Thread(target=pool.release, args=(first,))
    thread.start()
    thread.join()
    assert numbers(pool) == (0, 1, 1)
    assert pool.acquire() is first


def test_an_idle_object_is_lent_to_whichever_thread_needs_one() -> None:
    pool = ObjectPool(Parser)
    pool.release(pool.acquire())
    lent: list[Parser] = []
    thread = threading.Thread(target=lambda: lent.append(pool.acquire()))
    thread.start()
    thread.join()
    assert numbers(pool) == (1, 0, 1)
    pool.release(lent.pop())


# What is refused


def test_an_object_that_is_not_out_is_refused() -> None:
    pool, other = ObjectPool(Parser), ObjectPool(Parser)
    with pytest.raises(ValueError, match=r"obj must be an object that this pool lent .*, not <.*Parser"):
        pool.release(Parser())
    theirs = other.acquire()
    with pytest.raises(ValueError, match="obj must be"):
        pool.release(theirs)
    ours = pool.acquire()
    pool.release(ours)
    with pytest.raises(ValueError, match="obj must be"):
        pool.release(ours)
    assert numbers(pool) == (0, 1, 1)
    assert numbers(other) == (1, 0, 1)


def test_of_an_object_released_inside_its_block_the_end_of_the_block_says_so() -> None:
    pool = ObjectPool(Parser)
    with pytest.raises(ValueError, match="obj must be"), pool.borrow() as parser:
        pool.release(parser)
    assert numbers(pool) == (0, 1, 1)


def test_an_address_that_is_used_again_does_not_hide_a_second_release() -> None:
    pool = ObjectPool(Parser)
    for _ in range(100):
        pool.acquire()  # dropped: the next has its address
    parser = pool.acquire()
    pool.release(parser)
    with pytest.raises(ValueError, match="obj must be"):
        pool.release(parser)
    assert pool.acquire() is parser
    assert pool.acquire() is not parser


def test_an_object_that_the_factory_makes_twice_comes_back_twice() -> None:
    only = Parser()
    pool = ObjectPool(lambda: only)
    assert pool.acquire() is pool.acquire()
    assert numbers(pool) == (2, 0, 2)
    pool.release(only)
    pool.release(only)
    with pytest.raises(ValueError, match="obj must be"):
        pool.release(only)


@pytest.mark.parametrize("number", [None, 0, "text", ()])
def test_objects_that_everybody_shares_can_be_pooled(number: object) -> None:
    pool = ObjectPool(lambda: number)
    with pool.borrow() as first, pool.borrow() as second:
        assert first is second is number
    assert numbers(pool) == (0, 2, 2)


async def make_later() -> Parser:
    return Parser()


async def clear_later(parser: Parser) -> None:
    parser.lines.clear()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "factory must be a plain callable, not 3"),
        ((make_later,), TypeError, "factory must be a plain callable, not <function make_later"),
        ((Parser, 3), TypeError, "reset must be None or a plain callable, not 3"),
        ((Parser, clear_later), TypeError, "reset must be None or a plain callable, not <function clear_"),
        ((Parser, None, -1), ValueError, "max_idle must be an int >= 0, not -1"),
        ((Parser, None, 1.5), TypeError, "max_idle must be an int >= 0, not 1.5"),
        ((Parser, None, None), TypeError, "max_idle must be an int >= 0, not None"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ObjectPool(*arguments)


@pytest.mark.parametrize(
    ("number", "error"), [(-1, ValueError), (4, ValueError), ("3", TypeError), (1.0, TypeError)]
)
def test_warm_takes_a_number_that_can_be_idle(number: Any, error: type[Exception]) -> None:
    pool = ObjectPool(Parser, max_idle=3)
    with pytest.raises(error, match=r"n must be an int from 0 to max_idle \(3\), not"):
        pool.warm(number)


# The factory and reset


def test_what_the_factory_raises_is_raised_and_nothing_is_counted() -> None:
    def refuse() -> Parser:
        raise ConnectionError("no answer")

    pool = ObjectPool(refuse)
    with pytest.raises(ConnectionError, match="no answer"):
        pool.acquire()
    with pytest.raises(ConnectionError), pool.borrow():
        raise AssertionError("the block begins")
    with pytest.raises(ConnectionError):
        pool.warm(3)
    assert numbers(pool) == (0, 0, 0)


def test_reset_runs_on_release() -> None:
    seen: list[tuple[Parser, ObjectStats]] = []
    pool = ObjectPool(Parser, reset=lambda parser: seen.append((parser, pool.stats())))
    parser = pool.acquire()
    assert seen == []
    pool.release(parser)
    assert [it for it, _ in seen] == [parser]
    assert (seen[0][1].in_use, seen[0][1].idle) == (1, 0)
    assert numbers(pool) == (0, 1, 1)


def test_an_object_whose_reset_raises_is_discarded_and_the_error_propagates() -> None:
    def fail(parser: Parser) -> None:
        raise OSError("cannot be cleared")

    pool = ObjectPool(Parser, reset=fail)
    parser = pool.acquire()
    with pytest.raises(OSError, match="cannot be cleared"):
        pool.release(parser)
    assert numbers(pool) == (0, 0, 1)
    with pytest.raises(ValueError, match="obj must be"):
        pool.release(parser)
    gone = weakref.ref(parser)
    del parser
    gc.collect()
    assert gone() is None
    with pytest.raises(OSError, match="cannot be cleared") as raised, pool.borrow():
        raise KeyError("in the body")
    assert isinstance(raised.value.__context__, KeyError)
    assert numbers(pool) == (0, 0, 2)


def test_an_object_is_not_lent_before_its_reset_is_over_nor_released_twice() -> None:
    def reset(parser: Parser) -> None:
        with pytest.raises(ValueError, match="obj must be"):
            pool.release(parser)
        others.append(pool.acquire())

    others: list[Parser] = []
    pool = ObjectPool(Parser, reset)
    parser = pool.acquire()
    pool.release(parser)
    assert others[0] is not parser
    assert numbers(pool) == (1, 1, 2)


def test_factory_and_reset_may_wait_and_park_the_task() -> None:
    may_make, may_reset, steps = Channel[None](), Channel[None](), Channel[str](capacity=None)

    def make() -> Parser:
        steps.send("makes")
        may_make.recv()
        return Parser()

    def reset(parser: Parser) -> None:
        steps.send("resets")
        may_reset.recv()

    pool = ObjectPool(make, reset)

    def use() -> None:
        with pool.borrow():
            steps.send("uses")

    with penstock.Runtime(workers=1) as runtime:
        task = runtime.go(use)
        assert steps.recv(LIMIT) == "makes"
        assert runtime.go(lambda: "goes on").result(LIMIT) == "goes on"
        may_make.send(None)
        assert [steps.recv(LIMIT), steps.recv(LIMIT)] == ["uses", "resets"]
        assert runtime.go(numbers, pool).result(LIMIT) == (1, 0, 1)
        may_reset.send(None)
        task.result(LIMIT)
    assert numbers(pool) == (0, 1, 1)


def test_the_factory_may_come_back_to_the_pool() -> None:
    depth = 0

    def make() -> Parser:
        nonlocal depth
        depth += 1
        parser = Parser()
        if depth < 3:
            with pool.borrow() as inner:
                parser.other = inner
        return parser

    pool = ObjectPool(make)
    pool.release(pool.acquire())
    assert numbers(pool) == (0, 3, 3)


# What is idle


def test_at_most_max_idle_are_kept_over_all_threads() -> None:
    pool = ObjectPool(Parser, max_idle=10)
    parsers = [pool.acquire() for _ in range(40)]
    shares = [parsers[start::4] for start in range(4)]
    every = [weakref.ref(parser) for parser in parsers]
    del parsers

    def give_back(share: list[Parser]) -> None:
        while share:
            pool.release(share.pop())

    threads = [threading.Thread(target=give_back, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(pool) == (0, 10, 40)
    gc.collect(0)
    assert sum(parser() is not None for parser in every) == 10


def test_nothing_is_kept_with_a_max_idle_of_zero() -> None:
    pool = ObjectPool(Parser, max_idle=0)
    with pool.borrow() as first:
        pass
    with pool.borrow() as second:
        assert second is not first
    assert numbers(pool) == (0, 0, 2)


def test_warm_makes_objects_until_so_many_are_idle() -> None:
    resets: list[Parser] = []
    pool = ObjectPool(Parser, resets.append, max_idle=20)
    pool.warm(0)
    pool.warm(10)
    assert numbers(pool) == (0, 10, 10)
    pool.warm(10)
    assert numbers(pool) == (0, 10, 10)
    with pool.borrow():
        pool.warm(20)
        assert numbers(pool) == (1, 20, 21)
    assert numbers(pool) == (0, 20, 21)
    assert len(resets) == 1


def test_what_the_factory_made_before_it_failed_stays_warm() -> None:
    left = iter(range(3))

    def make() -> int:
        return next(left) + 1000

    pool = ObjectPool(make)
    with pytest.raises(StopIteration):
        pool.warm(5)
    assert numbers(pool) == (0, 3, 3)


# Full collections


@pytest.fixture(autouse=True, scope="module")
def no_collection_but_those_asked_for() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.thread_unsafe(reason="counts full collections, which every thread may begin")
def test_what_is_idle_over_two_full_collections_is_let_go() -> None:
    gc.collect()
    pool = ObjectPool(Parser)
    parser = pool.acquire()
    pool.release(parser)
    idle = weakref.ref(parser)
    del parser
    gc.collect()
    assert numbers(pool) == (0, 1, 1)
    gc.collect()
    assert numbers(pool) == (0, 0, 1)
    assert idle() is None


@pytest.mark.thread_unsafe(reason="counts full collections, which every thread may begin")
def test_a_collection_of_the_young_ages_nothing_but_without_the_gil_where_each_is_of_all() -> None:
    pool = ObjectPool(Parser)
    pool.warm(3)
    for _ in range(2):
        gc.collect(0)
    kept = 0 if sysconfig.get_config_var("Py_GIL_DISABLED") else 3
    assert numbers(pool) == (0, kept, 3)


@pytest.mark.thread_unsafe(reason="counts full collections, which every thread may begin")
def test_use_makes_young() -> None:
    pool = ObjectPool(Parser)
    pool.warm(3)
    for _ in range(3):
        with pool.borrow():
            pass
        gc.collect()
    assert numbers(pool) == (0, 1, 3)


@pytest.mark.thread_unsafe(reason="counts full collections, which every thread may begin")
def test_what_other_threads_left_is_let_go_too() -> None:
    pool = ObjectPool(Parser)
    ready, leave = threading.Barrier(3), threading.Event()

    def use() -> None:
        parser = pool.acquire()
        ready.wait()
        pool.release(parser)
        ready.wait()
        leave.wait(LIMIT)

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait()
    ready.wait()
    assert numbers(pool) == (0, 2, 2)
    gc.collect()
    gc.collect()
    assert numbers(pool) == (0, 0, 2)
    leave.set()
    for thread in threads:
        thread.join()


@pytest.mark.thread_unsafe(reason="counts full collections, which every thread may begin")
def test_a_finalizer_of_what_is_let_go_may_use_the_pool_and_wait() -> None:
    class Ends:
        def __del__(self) -> None:
            gc.collect()
            ended.append(numbers(pool))
            with pool.borrow() as other:
                kept.append(other)
            penstock.sleep(0.001)

    ended: list[tuple[int, int, int]] = []
    kept: list[Ends] = []
    pool = ObjectPool(Ends)

    def let_go() -> None:
        pool.release(pool.acquire())
        gc.collect()
        gc.collect()

    go(let_go).result(LIMIT)
    assert ended == [(0, 0, 1)]
    assert numbers(pool) == (0, 1, 2)
    Ends.__del__ = lambda self: None  # type: ignore[method-assign]


@pytest.mark.thread_unsafe(reason="counts full collections, which every thread may begin")
def test_an_error_in_the_finalizer_of_what_is_let_go_is_shown_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fails:
        def __del__(self) -> None:
            raise OSError("at the end")

    shown: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda raised: shown.append(str(raised.exc_value)))
    pool = ObjectPool(Fails)
    pool.warm(2)
    gc.collect()
    gc.collect()
    assert shown == ["at the end"] * 2
    assert numbers(pool) == (0, 0, 2)


# Its own end


@pytest.mark.thread_unsafe(reason="weak references to what other threads hold for a moment")
def test_idle_objects_go_with_the_pool_and_one_that_is_out_does_not() -> None:
    pool = ObjectPool(Parser)
    out = pool.acquire()
    pool.warm(1)
    idle = pool.acquire()
    gone = weakref.ref(idle)
    pool.release(idle)
    del idle
    pool_is_gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert pool_is_gone() is None
    assert out.lines == []


def cycle_through_an_idle_object() -> ObjectPool[Parser]:
    pool = ObjectPool(Parser)
    with pool.borrow() as parser:
        parser.other = pool
    return pool


def cycle_through_the_factory() -> ObjectPool[Parser]:
    holder: list[Any] = []

    def make() -> Parser:
        holder.append(None)
        return Parser()

    holder.append(ObjectPool(make))
    return holder[0]  # type: ignore[no-any-return]


def cycle_through_reset() -> ObjectPool[Parser]:
    holder: list[Any] = []
    holder.append(ObjectPool(Parser, lambda parser: holder.clear()))
    return holder[0]  # type: ignore[no-any-return]


def cycle_through_a_borrowed() -> ObjectPool[Parser]:
    pool = ObjectPool(Parser)
    borrowed = pool.borrow()
    borrowed.__enter__().other = borrowed
    return pool


@pytest.mark.parametrize(
    "make",
    [
        cycle_through_an_idle_object,
        cycle_through_the_factory,
        cycle_through_reset,
        cycle_through_a_borrowed,
    ],
)
@pytest.mark.thread_unsafe(reason="one collection has to be enough")
def test_a_cycle_through_the_pool_is_collected(make: Callable[[], ObjectPool[Parser]]) -> None:
    gc.collect()
    gone = weakref.ref(make())
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_a_borrowed_that_is_dropped_while_entered_gives_nothing_back_and_counts_no_more() -> None:
    pool = ObjectPool(Parser)
    borrowed = pool.borrow()
    parser = borrowed.__enter__()
    del borrowed
    assert numbers(pool) == (0, 0, 1)
    with pytest.raises(ValueError, match="obj must be"):
        pool.release(parser)


def test_a_million_borrows_leave_one_object() -> None:
    pool = ObjectPool(lambda: bytearray(16))
    borrow = pool.borrow
    for _ in range(1_000_000):
        with borrow():
            pass
    assert numbers(pool) == (0, 1, 1)


def test_a_million_objects_out_at_once_come_back() -> None:
    pool = ObjectPool(object, max_idle=1_000_000)
    out = [pool.acquire() for _ in range(1_000_000)]
    assert numbers(pool) == (1_000_000, 0, 1_000_000)
    for each in out:
        pool.release(each)
    assert numbers(pool) == (0, 1_000_000, 1_000_000)


def test_many_pools_come_and_go() -> None:
    for _ in range(10_000):
        pool = ObjectPool(Parser)
        pool.release(pool.acquire())


# How it shows


def test_the_repr_has_id_and_state() -> None:
    pool = ObjectPool(Parser, max_idle=7)
    with pool.borrow():
        pool.warm(2)
        assert repr(pool) == f"<penstock.ObjectPool at {id(pool):#x}: 1 in use, 2 of 7 idle>"
    borrowed = pool.borrow()
    shown = f"<penstock.Borrowed at {id(borrowed):#x}: %s, of the pool at {id(pool):#x}>"
    assert repr(borrowed) == shown % "not entered"
    with borrowed:
        assert repr(borrowed) == shown % "entered"


def test_stats_are_frozen_and_compare() -> None:
    pool = ObjectPool(Parser)
    stats = pool.stats()
    assert stats == ObjectPool(Parser).stats()
    assert repr(stats) == "ObjectStats(in_use=0, idle=0, created=0)"
    with pytest.raises(AttributeError):
        stats.idle = 3  # type: ignore[misc]
    pool.warm(1)
    assert stats != pool.stats()


def test_it_is_generic_weakly_referenceable_and_not_to_be_copied() -> None:
    pool = ObjectPool[Parser](Parser)
    assert weakref.ref(pool)() is pool
    for each in (pool, pool.borrow()):
        for refused in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                refused(each)
    assert str(inspect.signature(ObjectPool)) == "(factory, reset=None, max_idle=1024)"
    assert str(Borrowed[int]) == "penstock.Borrowed[int]"


# Many threads


def test_no_object_has_two_users_on_many_threads() -> None:
    class Used:
        def __init__(self) -> None:
            self.users = penstock.AtomicInt()

    pool = ObjectPool(Used, max_idle=3)
    handed_on = Channel[Used](capacity=4)

    def use() -> None:
        for round_ in range(2_000):
            one = pool.acquire()
            assert one.users.add(1) == 1
            assert one.users.sub(1) == 0
            if round_ % 7:
                pool.release(one)
            else:
                handed_on.send(one)

    def release() -> None:
        for one in handed_on:
            pool.release(one)

    users = [threading.Thread(target=use) for _ in range(4)]
    releasing = threading.Thread(target=release)
    releasing.start()
    for thread in users:
        thread.start()
    for thread in users:
        thread.join()
    handed_on.close()
    releasing.join()
    in_use, idle, _ = numbers(pool)
    assert in_use == 0
    assert idle <= 3


def test_of_many_threads_that_release_the_same_object_one_succeeds() -> None:
    pool = ObjectPool(Parser)
    for _ in range(50):
        parser, together = pool.acquire(), threading.Barrier(4)
        refused: list[ValueError] = []

        def release(parser: Parser = parser, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                pool.release(parser)
            except ValueError as error:
                refused.append(error)

        threads = [threading.Thread(target=release) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 3
        refused.clear()
    assert numbers(pool) == (0, 1, 1)


# Processes


def test_a_forked_child_goes_on_with_what_it_has(run_program: Callable[..., Any]) -> None:
    run_program(
        """
        import gc, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where threads run
        from penstock import ObjectPool, go
        pool = ObjectPool(list, list.clear)
        kept = go(pool.acquire).result()
        pool.warm(2)
        stop = threading.Event()
        def churn():
            while not stop.is_set():
                with pool.borrow() as words:
                    words.append(1)
        threads = [threading.Thread(target=churn) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                pool.release(kept)
                with pool.borrow(), pool.borrow(), pool.borrow():
                    pass
                gc.collect()
                gc.collect()
                assert pool.stats().idle == 0, pool
                assert go(lambda: pool.acquire()).result() == []
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        pool.release(kept)
        print(pool.stats().in_use)
        """,
        stdout="0\n",
    )


def test_ctrl_c_ends_a_long_warm(run_program: Callable[..., Any]) -> None:
    run_program(
        """
        import signal
        from penstock import ObjectPool
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        pool = ObjectPool(lambda: None, max_idle=10**12)
        seen = 0
        try:
            pool = ObjectPool(bytes, max_idle=10**12)  # no Python code runs in it
            pool.warm(10**12)
        except KeyboardInterrupt:
            print("interrupted", pool.stats().idle > 0)
        """,
        stdout="interrupted True\n",
    )


def test_a_pool_that_is_in_use_at_exit_disturbs_nothing(run_program: Callable[..., Any]) -> None:
    run_program(
        """
        import gc, penstock
        class Noisy:
            def __del__(self):
                gc.collect()
        pool = penstock.ObjectPool(Noisy, lambda one: penstock.sleep(0.001))
        pool.warm(3)
        held = pool.borrow()
        held.__enter__()
        def churn():
            while True:
                with pool.borrow():
                    penstock.sleep(0.001)
        for _ in range(3):
            penstock.go(churn)
        threading.Thread(target=churn, daemon=True).start()
        penstock.sleep(0.05)
        print("ends")
        """,
        stdout="ends\n",
    )
