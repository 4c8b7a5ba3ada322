"""`go`, `Task`, `sleep`, `yield_now` and the error tree, from the main thread, from threads and from tasks."""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import functools
import gc
import inspect
import pickle
import queue
import sys
import sysconfig
import time
import weakref
from collections.abc import Callable
from typing import Any

import penstock
import pytest
from penstock import Cancelled, Channel, Group, Task, go

LIMIT = 30.0  # seconds; only a hang reaches it


class Marker:
    """An object that can be weakly referenced."""


class Custom(Exception):
    """An exception nothing else raises."""


def parked_task(gate: Channel[Any]) -> Task[Any]:
    """A task that has started and waits in `gate.recv()`, or is about to."""
    started = Channel[None](1)

    def wait() -> Any:
        started.send(None)
        return gate.recv()

    task = go(wait)
    started.recv(timeout=LIMIT)
    return task


# What go() runs


def test_go_passes_arguments_and_gives_the_result_back() -> None:
    def collect(*args: int, **kwargs: str) -> tuple[tuple[int, ...], dict[str, str]]:
        return args, kwargs

    assert go(collect, 1, 2, key="v", fn="other").result(timeout=LIMIT) == (
        (1, 2),
        {"key": "v", "fn": "other"},
    )


def test_go_runs_any_plain_callable() -> None:
    class Callable_:
        def __call__(self, value: int) -> int:
            return value + 1

    assert go(Callable_(), 1).result(timeout=LIMIT) == 2
    assert go(functools.partial(divmod, 7), 2).result(timeout=LIMIT) == (3, 1)
    assert go("a-b".split, "-").result(timeout=LIMIT) == ["a", "b"]
    assert go(dict, x=1).result(timeout=LIMIT) == {"x": 1}


def test_go_refuses_what_is_not_callable() -> None:
    with pytest.raises(TypeError, match="fn must be callable, not 42"):
        go(42)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="fn"):
        go()  # type: ignore[call-overload]


def test_go_refuses_a_coroutine_object_and_says_what_to_write() -> None:
    async def work() -> None: ...

    coroutine = work()
    try:
        with pytest.raises(TypeError, match=r"go\(fn, \*args\)"):
            go(coroutine)  # type: ignore[call-overload]
    finally:
        coroutine.close()


@pytest.mark.parametrize("wrap", ["plain", "partial", "marked", "method"])
def test_what_inspect_calls_a_coroutine_function_is_async(wrap: str) -> None:
    async def work(value: int) -> int:
        await penstock.asleep(0)
        return value + 1

    class Owner:
        async def method(self, value: int) -> int:
            await penstock.asleep(0)
            return value + 1

    def returns_one(value: int) -> Any:
        return work(value)

    function: Callable[..., Any]
    if wrap == "partial":
        function = functools.partial(work)
    elif wrap == "method":
        function = Owner().method
    elif wrap == "marked":
        if sys.version_info < (3, 12):
            function = functools.partial(functools.partial(work))  # 3.11 has no markcoroutinefunction
        else:
            function = inspect.markcoroutinefunction(returns_one)
    else:
        function = work
    assert inspect.iscoroutinefunction(function)
    assert go(function, 1).result(timeout=LIMIT) == 2


def test_a_plain_function_that_returns_a_coroutine_fails_and_the_coroutine_is_closed() -> None:
    made: list[Any] = []

    async def work() -> None: ...

    def forgot() -> Any:
        made.append(work())
        return made[0]

    task = go(forgot)
    with pytest.raises(TypeError):
        task.result(timeout=LIMIT)
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


def test_a_task_can_start_tasks() -> None:
    def add(n: int) -> int:
        if n == 0:
            return 0
        return n + go(add, n - 1).result()

    assert go(add, 50).result(timeout=LIMIT) == 50 * 51 // 2


def test_ten_thousand_tasks_each_run_once() -> None:
    def same(i: int) -> int:
        return i

    tasks = [go(same, i) for i in range(10_000)]
    assert [task.result(timeout=LIMIT) for task in tasks] == list(range(10_000))


# result(), exception(), done()


def test_a_failure_is_raised_by_result_and_returned_by_exception() -> None:
    error = Custom("no")

    def fail() -> None:
        raise error

    task = go(fail)
    with pytest.raises(Custom) as caught:
        task.result(timeout=LIMIT)
    assert caught.value is error
    assert task.exception(timeout=LIMIT) is error
    assert task.done()
    assert not task.cancelled()


def test_the_traceback_of_a_failure_shows_the_function_that_failed() -> None:
    def the_culprit() -> None:
        raise Custom

    with pytest.raises(Custom) as caught:
        go(the_culprit).result(timeout=LIMIT)
    assert "the_culprit" in [entry.name for entry in caught.traceback]


def test_exception_is_none_after_success() -> None:
    task = go(int)
    assert task.exception(timeout=LIMIT) is None
    assert task.result(timeout=0) == 0


def test_a_task_is_done_only_once_it_ended() -> None:
    gate = Channel[int]()
    task = parked_task(gate)
    assert not task.done()
    assert not task.cancelled()
    gate.send(3, timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 3
    assert task.done()


@pytest.mark.parametrize("method", ["result", "exception"])
@pytest.mark.parametrize("timeout", [0, 0.0, 0.02])
def test_waiting_for_a_task_times_out(method: str, timeout: float) -> None:
    gate = Channel[int]()
    task = parked_task(gate)
    with pytest.raises(TimeoutError):
        getattr(task, method)(timeout=timeout)
    gate.send(1, timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 1


def test_waiting_for_a_task_times_out_inside_a_task() -> None:
    gate = Channel[int]()
    task = parked_task(gate)

    def wait() -> str:
        try:
            task.result(timeout=0.02)
        except TimeoutError:
            return "expired"
        return "ended"

    assert go(wait).result(timeout=LIMIT) == "expired"
    gate.send(1, timeout=LIMIT)
    task.result(timeout=LIMIT)


@pytest.mark.parametrize("method", ["result", "exception"])
def test_a_bad_timeout_names_the_argument_and_its_value(method: str) -> None:
    task = go(int)
    with pytest.raises(ValueError, match=r"timeout.*-1"):
        getattr(task, method)(timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        getattr(task, method)(timeout=float("nan"))
    with pytest.raises(TypeError, match="timeout"):
        getattr(task, method)(timeout="soon")
    task.result(timeout=LIMIT)


def test_every_waiter_gets_the_same_result(threads: Any) -> None:
    gate = Channel[object]()
    task = parked_task(gate)
    value = object()
    seen: list[object] = []
    for _ in range(4):
        threads.start(lambda: seen.append(task.result(timeout=LIMIT)))
    waiting = [go(task.result) for _ in range(8)]
    gate.send(value, timeout=LIMIT)
    threads.join()
    assert [waiter.result(timeout=LIMIT) is value for waiter in waiting] == [True] * 8
    assert [got is value for got in seen] == [True] * 4


def test_system_exit_in_a_task_is_an_ordinary_failure_of_it() -> None:
    task: Task[Any] = go(sys.exit, 3)
    assert isinstance(task.exception(timeout=LIMIT), SystemExit)


def test_the_arguments_and_the_function_are_released_when_the_task_ends() -> None:
    argument = Marker()
    dead = weakref.ref(argument)

    def use(value: Marker) -> None:
        penstock.yield_now()

    task = go(use, argument)
    task.result(timeout=LIMIT)
    del argument
    gc.collect()
    assert dead() is None
    assert task.done()


def test_a_result_lives_as_long_as_its_task() -> None:
    task = go(Marker)
    dead = weakref.ref(task.result(timeout=LIMIT))
    gc.collect()
    assert dead() is not None
    del task
    gc.collect()
    assert dead() is None


# cancel()


def test_a_parked_task_is_cancelled_at_its_wait() -> None:
    task = parked_task(Channel())
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    with pytest.raises(Cancelled):
        task.exception(timeout=LIMIT)
    assert task.done()
    assert task.cancelled()


def _wait_in_recv(channel: Channel[int]) -> None:
    channel.recv()


def _wait_in_send(channel: Channel[int]) -> None:
    channel.send(1)


def _wait_in_sleep(channel: Channel[int]) -> None:
    penstock.sleep(3600)


def _wait_in_result(channel: Channel[int]) -> None:
    go(list, channel).result()  # ends quietly when the test closes the channel


def _wait_in_iteration(channel: Channel[int]) -> None:
    for _ in channel:
        pass


def _wait_in_group(channel: Channel[int]) -> None:
    with Group() as group:
        group.go(channel.recv)


@pytest.mark.parametrize(
    "wait",
    [_wait_in_recv, _wait_in_send, _wait_in_sleep, _wait_in_result, _wait_in_iteration, _wait_in_group],
)
def test_cancel_interrupts_every_call_that_waits(wait: Callable[[Channel[int]], None]) -> None:
    channel = Channel[int]()
    started = Channel[None](1)

    def body() -> None:
        started.send(None)
        wait(channel)

    task = go(body)
    started.recv(timeout=LIMIT)
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert task.cancelled()
    channel.close()


@pytest.mark.parametrize("point", ["yield_now", "sleep0"])
def test_yield_now_and_sleep_zero_always_count_as_waiting(point: str) -> None:
    box = Channel[Any](1)

    def body() -> str:
        box.recv().cancel()
        try:
            if point == "yield_now":
                penstock.yield_now()
            else:
                penstock.sleep(0)
        except Cancelled:
            return "cancelled there"
        return "went through"

    task = go(body)
    box.send(task)
    assert task.result(timeout=LIMIT) == "cancelled there"


def test_a_call_that_need_not_wait_does_not_raise_cancelled() -> None:
    box = Channel[Any](1)
    items = Channel[int](2)
    log: list[object] = []

    def body() -> None:
        box.recv().cancel()
        items.send(1)
        items.send(2)
        log.append(items.recv())
        log.append(items.recv_nowait())
        items.send_nowait(3)
        try:
            penstock.sleep(3600)
        except Cancelled:
            log.append("at the wait")
            raise

    task = go(body)
    box.send(task)
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert log == [1, 2, "at the wait"]
    assert items.recv_nowait() == 3


def test_cancelled_is_raised_once_so_clean_up_may_block() -> None:
    gate = Channel[str]()
    clean_up = Channel[str]()
    started = Channel[None](1)
    log: list[str] = []

    def body() -> None:
        started.send(None)
        try:
            gate.recv()
        finally:
            log.append(clean_up.recv())
            penstock.sleep(0)
            penstock.yield_now()

    task = go(body)
    started.recv(timeout=LIMIT)
    task.cancel()
    clean_up.send("cleaned", timeout=LIMIT)
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert log == ["cleaned"]


def test_a_task_that_swallows_cancelled_ends_with_its_value() -> None:
    started = Channel[None](1)

    def body() -> str:
        started.send(None)
        try:
            penstock.sleep(3600)
        except Cancelled:
            return "value"
        return "never"

    task = go(body)
    started.recv(timeout=LIMIT)
    task.cancel()
    assert task.result(timeout=LIMIT) == "value"
    assert not task.cancelled()


def test_a_second_cancel_is_raised_again() -> None:
    started = Channel[str](2)
    log: list[str] = []

    def body() -> None:
        try:
            started.send("first")
            penstock.sleep(3600)
        except Cancelled:
            log.append("first")
        started.send("second")
        penstock.sleep(3600)

    task = go(body)
    assert started.recv(timeout=LIMIT) == "first"
    task.cancel()
    assert started.recv(timeout=LIMIT) == "second"
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert log == ["first"]


def test_a_hand_over_that_came_first_wins_over_cancel(wait_until: Any) -> None:
    channel = Channel[str]()
    gate = Channel[None]()
    log: list[str] = []

    def body() -> None:
        log.append(channel.recv())
        try:
            gate.recv()
        except Cancelled:
            log.append("cancelled at the next point")
            raise

    task = go(body)
    wait_until(lambda: channel.stats().recv_waits == 1)
    while True:
        try:
            channel.send_nowait("handed over")
        except penstock.Full:  # counted as waiting, not yet in line
            continue
        break
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert log == ["handed over", "cancelled at the next point"]


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_a_task_cancelled_before_it_started_never_runs(colour: str, recwarn: pytest.WarningsRecorder) -> None:
    ran: list[int] = []
    gate = Channel[None]()

    async def work() -> None:
        ran.append(1)

    with Group(limit=1) as group:  # the second is queued while the first runs
        group.go(gate.recv)
        task = group.go(work) if colour == "async" else group.go(ran.append, 1)
        task.cancel()
        gate.send(None)
    assert task.cancelled()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert ran == []
    gc.collect()
    assert [str(w.message) for w in recwarn if "never awaited" in str(w.message)] == []


def test_cancelling_a_finished_task_changes_nothing() -> None:
    task = go(int)
    task.result(timeout=LIMIT)
    task.cancel()
    assert task.result(timeout=LIMIT) == 0
    assert not task.cancelled()


def test_cancelling_a_task_does_not_cancel_what_it_started() -> None:
    gate = Channel[str]()
    children = Channel[Any](1)

    def parent() -> None:
        child = go(gate.recv)
        children.send(child)
        child.result()

    task = go(parent)
    child = children.recv(timeout=LIMIT)
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    gate.send("alive", timeout=LIMIT)
    assert child.result(timeout=LIMIT) == "alive"


# Callbacks, names, identity


def test_done_callbacks_get_the_task_once_it_is_done() -> None:
    gate = Channel[int]()
    calls: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
    task = parked_task(gate)
    task.add_done_callback(lambda ended: calls.put((ended.done(), ended)))
    task.add_done_callback(lambda ended: calls.put((ended.done(), ended)))
    assert calls.empty()
    gate.send(1, timeout=LIMIT)
    for _ in range(2):
        done, ended = calls.get(timeout=LIMIT)
        assert done
        assert ended is task


def test_a_callback_added_to_a_finished_task_is_called() -> None:
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    task = go(int)
    task.result(timeout=LIMIT)
    task.add_done_callback(calls.put)
    assert calls.get(timeout=LIMIT) is task


def test_callbacks_of_a_cancelled_task_are_called() -> None:
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    task = parked_task(Channel())
    task.add_done_callback(calls.put)
    task.cancel()
    ended = calls.get(timeout=LIMIT)
    assert ended is task
    assert ended.cancelled()


@pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook")
def test_an_error_in_a_callback_stops_neither_the_task_nor_the_other_callbacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    gate = Channel[int]()
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    task = parked_task(gate)

    def bad(ended: Task[int]) -> None:
        raise Custom

    task.add_done_callback(bad)
    task.add_done_callback(calls.put)
    gate.send(1, timeout=LIMIT)
    assert calls.get(timeout=LIMIT) is task
    assert task.result(timeout=LIMIT) == 1


def test_a_callback_must_be_callable() -> None:
    task = go(int)
    with pytest.raises(TypeError, match="fn must be callable, not 3"):
        task.add_done_callback(3)  # type: ignore[arg-type]
    task.result(timeout=LIMIT)


def test_ids_are_unique_and_names_are_strings() -> None:
    tasks = [go(int) for _ in range(100)]
    for task in tasks:
        task.result(timeout=LIMIT)
    assert len({task.id for task in tasks}) == 100
    assert {type(task.id) for task in tasks} == {int}
    assert {type(task.name) for task in tasks} == {str}
    assert all(task.name for task in tasks)


def test_the_repr_has_name_id_and_state() -> None:
    gate = Channel[int]()
    task = parked_task(gate)
    waiting = repr(task)
    assert task.name in waiting
    assert str(task.id) in waiting
    gate.send(1, timeout=LIMIT)
    task.result(timeout=LIMIT)
    assert repr(task) == f"<penstock.Task {task.name} finished>"
    assert str(task.id) in task.name
    failed, cancelled = go(int, "x"), parked_task(Channel())
    assert isinstance(failed.exception(timeout=LIMIT), ValueError)
    cancelled.cancel()
    with pytest.raises(Cancelled):
        cancelled.result(timeout=LIMIT)
    assert [repr(failed).split()[-1], repr(cancelled).split()[-1]] == ["failed>", "cancelled>"]


def test_a_task_is_weakly_referenceable_and_is_neither_copied_nor_pickled() -> None:
    task = go(int)
    task.result(timeout=LIMIT)
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Task"):
            refused(task)
    reference = weakref.ref(task)
    assert reference() is task
    del task
    gc.collect()
    assert reference() is None


def test_a_task_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        Task()


def test_task_and_group_and_channel_are_generic_at_run_time() -> None:
    assert Task[int] is not None
    assert Channel[int](2).capacity == 2


@pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook")
def test_an_exception_nobody_retrieved_is_reported_when_the_task_is_dropped(
    monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    reports: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reports.append(unraisable.exc_value))

    def fail(error: Exception) -> None:
        raise error

    dropped = go(fail, Custom("dropped"))
    wait_until(dropped.done)
    assert reports == []
    del dropped
    gc.collect()
    wait_until(lambda: len(reports) == 1)
    assert str(reports[0]) == "dropped"


def test_an_exception_that_is_collected_with_its_task_is_reported_whole(run_program: Any) -> None:
    """The collector may clear the exception first: to show it then ended the process."""
    run_program(
        """
        import gc, penstock
        class Lost(Exception):
            pass
        def fail(error, box):
            own_task = box.recv()  # the cycle goes through the traceback
            raise error
        def start(number):
            error = Lost(f"number {number}")  # before its task, so that the collector comes to it first
            box = penstock.Channel(1)
            task = penstock.go(fail, error, box)
            box.send(task)
            wait_until(task.done)
        reports = []
        sys.unraisablehook = lambda unraisable: reports.append(str(unraisable.exc_value))
        gc.disable()  # it would find some before they are all there
        for _ in range(3):
            for number in range(20):
                start(number)
            assert reports == [], "nothing but the collector finds them"
            gc.collect()
            assert sorted(reports) == sorted(f"number {number}" for number in range(20)), reports
            reports.clear()
        gc.collect()
        print("seen" if not reports else reports)
        """,
        stdout="seen\n",
    )


@pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook")
@pytest.mark.parametrize("how", ["result", "exception", "cancelled"])
def test_an_exception_somebody_retrieved_is_not_reported(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reports.append(unraisable.exc_value))

    def fail() -> None:
        raise Custom

    if how == "cancelled":
        task: Task[Any] = parked_task(Channel())
        task.cancel()
        with pytest.raises(Cancelled):
            task.result(timeout=LIMIT)
    elif how == "result":
        task = go(fail)
        with pytest.raises(Custom):
            task.result(timeout=LIMIT)
    else:
        task = go(fail)
        assert isinstance(task.exception(timeout=LIMIT), Custom)
    del task
    gc.collect()
    assert reports == []


def test_an_exception_that_was_awaited_is_not_reported(run_program: Any) -> None:
    """The reports would show on standard error, which has to stay empty."""
    run_program(
        """
        import asyncio, gc, penstock
        def fail():
            raise ValueError
        async def main():
            for awaitable in (penstock.go(fail), penstock.go(fail).aresult(), penstock.go(fail).aexception()):
                try:
                    await awaitable
                except ValueError:
                    pass
        penstock.go(main).result()
        asyncio.run(main())
        gc.collect()
        """
    )


def test_a_subclass_of_cancelled_ends_a_task_as_cancelled() -> None:
    class Stop(Cancelled):
        pass

    def body() -> None:
        raise Stop("why")

    task = go(body)
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert task.cancelled()


# Context


def test_a_task_gets_a_copy_of_its_creators_context() -> None:
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("creator")

    def read_and_set() -> str:
        seen = variable.get()
        variable.set("task")
        penstock.yield_now()
        assert variable.get() == "task"
        return seen

    task = go(read_and_set)
    variable.set("later")
    assert task.result(timeout=LIMIT) == "creator"
    assert variable.get() == "later"
    assert go(variable.get).result(timeout=LIMIT) == "later"


def test_the_context_of_one_task_does_not_leak_into_the_next() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    def change(i: int) -> int:
        before = variable.get()
        variable.set(i + 1)
        return before

    tasks = [go(change, i) for i in range(500)]
    assert {task.result(timeout=LIMIT) for task in tasks} == {0}


async def read_and_change(variable: contextvars.ContextVar[int]) -> int:
    before = variable.get()
    variable.set(-1)
    await penstock.asleep(0)
    assert variable.get() == -1
    return before


def test_each_task_of_a_task_gets_a_copy_of_what_its_creator_has_by_then() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    def change(i: int) -> int:
        before = variable.get()
        variable.set(-i)
        return before

    def spawn() -> list[int]:
        tasks = []
        for i in range(100):
            if i % 5 == 0:
                variable.set(i)
            tasks.append(go(change, i))
            tasks.append(go(read_and_change, variable))
        seen = [task.result(timeout=LIMIT) for task in tasks]
        assert variable.get() == 95
        return seen

    seen = go(spawn).result(timeout=LIMIT)
    assert seen == [i // 5 * 5 for i in range(100) for _ in range(2)]


def test_tasks_that_wait_to_start_have_one_context_in_common() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    def contexts() -> int:
        return sum(isinstance(thing, contextvars.Context) for thing in gc.get_objects())

    def spawn() -> int:
        variable.set(1)
        before = contexts()
        tasks = [go(variable.get) for _ in range(1000)]
        more = contexts() - before
        assert [task.result(timeout=LIMIT) for task in tasks] == [1] * 1000
        return more

    assert go(spawn).result(timeout=LIMIT) < 100


def test_what_a_context_holds_goes_with_the_last_task_that_has_it(wait_until: Any) -> None:
    class Value:
        pass

    variable = contextvars.ContextVar[Value]("variable")

    def spawn() -> weakref.ref[Value]:
        value = Value()
        variable.set(value)
        go(variable.get).result(timeout=LIMIT)
        return weakref.ref(value)

    reference = go(spawn).result(timeout=LIMIT)
    wait_until(lambda: gc.collect() >= 0 and reference() is None)


def test_tasks_that_other_threads_have_run_are_freed(wait_until: Any) -> None:
    def spawn() -> list[weakref.ref[penstock.Task[int]]]:
        tasks = [go(int) for _ in range(5000)]
        assert [task.result(timeout=LIMIT) for task in tasks] == [0] * 5000
        return [weakref.ref(task) for task in tasks]

    references = go(spawn).result(timeout=LIMIT)
    wait_until(lambda: not any(reference() is not None for reference in references))


# sleep and yield_now


def test_sleep_waits_at_least_as_long_as_asked() -> None:
    def nap() -> float:
        began = time.monotonic()
        penstock.sleep(0.05)
        return time.monotonic() - began

    assert go(nap).result(timeout=LIMIT) >= 0.05
    assert nap() >= 0.05


def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    order = Channel[int](3)

    def nap(i: int, seconds: float) -> None:
        penstock.sleep(seconds)
        order.send(i)

    tasks = [go(nap, i, seconds) for i, seconds in enumerate((0.9, 0.5, 0.1))]
    for task in tasks:
        task.result(timeout=LIMIT)
    assert [order.recv() for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("seconds", [-1, -0.5, float("nan")])
def test_sleep_refuses_what_is_no_duration(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        penstock.sleep(seconds)


def test_yield_now_lets_others_run() -> None:
    """Two tasks that only ever yield to each other both end."""
    turn = [0]

    def take_turns(me: int) -> None:
        for _ in range(200):
            while turn[0] % 2 != me:
                penstock.yield_now()
            turn[0] += 1

    tasks = [go(take_turns, 0), go(take_turns, 1)]
    for task in tasks:
        task.result(timeout=LIMIT)
    assert turn[0] == 400


def test_sleep_and_yield_now_work_in_ordinary_threads(threads: Any) -> None:
    threads.start(penstock.yield_now)
    threads.start(penstock.sleep, 0)
    threads.start(penstock.sleep, 0.01)
    threads.join()
    penstock.yield_now()
    penstock.sleep(0)


# Errors


def test_the_error_tree_is_the_one_users_catch() -> None:
    assert issubclass(penstock.PenstockError, Exception)
    assert issubclass(penstock.ChannelClosed, penstock.PenstockError)
    assert issubclass(penstock.Full, penstock.PenstockError)
    assert issubclass(penstock.Full, queue.Full)
    assert issubclass(penstock.Empty, penstock.PenstockError)
    assert issubclass(penstock.Empty, queue.Empty)
    assert issubclass(Cancelled, BaseException)
    assert not issubclass(Cancelled, Exception)


@pytest.mark.parametrize("name", ["PenstockError", "ChannelClosed", "Full", "Empty", "Cancelled"])
def test_exceptions_pickle(name: str) -> None:
    kind = getattr(penstock, name)
    again = pickle.loads(pickle.dumps(kind("why")))
    assert type(again) is kind
    assert again.args == ("why",)


def test_exceptions_that_were_raised_pickle_with_what_was_added_to_them() -> None:
    channel = Channel[int]()
    raised: list[BaseException] = []
    with pytest.raises(ExceptionGroup), Group() as group:
        group.go(divmod, 1, 0)
        try:
            channel.recv()
        except Cancelled as cancelled:  # it refers to its group, which cannot be pickled
            cancelled.add_note("in this test")
            raised.append(cancelled)
            raise
    channel.close()
    for call in (channel.recv, channel.recv_nowait, lambda: channel.send(1)):
        try:
            call()
        except penstock.ChannelClosed as closed:
            raised.append(closed)
    for error in raised:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.args) == (type(error), error.args)
        assert copy.copy(error).args == error.args
    assert pickle.loads(pickle.dumps(raised[0])).__notes__ == ["in this test"]
    assert len(raised) == 4


def test_what_is_not_there_yet_is_absent_and_not_stubbed() -> None:
    absent = "spawn tasks leaks trace"
    assert [name for name in absent.split() if hasattr(penstock, name)] == []


def test_what_the_package_exports_is_there_and_documented() -> None:
    for name in penstock.__all__:
        value = getattr(penstock, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert value.__doc__, f"{name} has no docstring"
            assert value.__module__.split(".")[0] == "penstock", f"{name} says it lives in {value.__module__}"


# The runtime as a whole


def test_configure_after_the_first_use_is_refused() -> None:
    go(int).result(timeout=LIMIT)
    with pytest.raises(RuntimeError):
        penstock.configure(workers=2)


def test_the_stats_are_a_frozen_dataclass_with_the_promised_fields() -> None:
    go(int).result(timeout=LIMIT)
    stats = penstock.default_runtime().stats()
    names = {field.name for field in dataclasses.fields(stats)}
    promised = [
        "workers",
        "tasks_started",
        "tasks_finished",
        "tasks_live",
        "parks",
        "wakes",
        "steals",
        "remote_steals",
        "handoffs",
    ]
    assert set(promised) <= names
    assert all(isinstance(getattr(stats, name), int) for name in promised)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.workers = 3  # type: ignore[misc]


def test_the_runtime_shows_itself_without_starting_and_is_neither_copied_nor_pickled(
    run_program: Any,
) -> None:
    run_program(
        """
        import atexit, copy, pickle, weakref, penstock
        runtime = penstock.default_runtime()
        print(repr(runtime).split(": ")[1])
        print(runtime._state, len(threading.enumerate()))
        for refused in (pickle.dumps, copy.copy, copy.deepcopy):
            try:
                refused(runtime)
            except TypeError as error:
                assert "runtime" in str(error), error
            else:
                raise AssertionError("accepted")
        assert weakref.ref(runtime)() is runtime
        assert hex(id(runtime)) in repr(runtime) and "default" in repr(runtime)
        penstock.go(int).result()
        print(repr(runtime).split(": ")[1])
        atexit.register(lambda: print(repr(runtime).split(": ")[1]))
        """,
        stdout="not started>\nnot started 1\nrunning, 2 workers, 0 tasks>\nstopped>\n",
        env={"PENSTOCK_WORKERS": "2"},
    )


def test_configure_before_the_first_use_sets_the_workers(run_program: Any) -> None:
    run_program(
        """
        import penstock
        penstock.configure(workers=3)
        penstock.go(int).result()
        print(penstock.default_runtime().stats().workers)
        """,
        stdout="3\n",
    )


def test_the_environment_sets_the_workers(run_program: Any) -> None:
    run_program(
        """
        import penstock
        penstock.go(int).result()
        print(penstock.default_runtime().stats().workers)
        """,
        env={"PENSTOCK_WORKERS": "3"},
        stdout="3\n",
    )


@pytest.mark.parametrize(
    ("argument", "value"),
    [("workers", 0), ("workers", -1), ("workers", "2"), ("parking", "coroutine"), ("parking", 3)],
)
def test_configure_names_a_bad_argument(run_program: Any, argument: str, value: object) -> None:
    run_program(
        f"""
        import penstock
        try:
            penstock.configure({argument}={value!r})
        except (ValueError, TypeError) as error:
            assert {argument!r} in str(error) and repr({value!r}) in str(error), error
        else:
            raise AssertionError("accepted")
        """
    )


def test_importing_the_package_leaves_the_gil_as_it_was(run_program: Any) -> None:
    gil_enabled = not sysconfig.get_config_var("Py_GIL_DISABLED")
    run_program(
        """
        import penstock
        print(getattr(sys, "_is_gil_enabled", lambda: True)())
        """,
        stdout=f"{gil_enabled}\n",
    )


def test_the_memory_of_a_burst_is_used_again_and_given_back_later(run_program: Any) -> None:
    run_program(
        """
        import gc
        from penstock import *
        def burst(count):
            tasks = [go(int) for _ in range(count)]
            assert [task.result(timeout=30) for task in tasks] == [0] * count
        def blocks():
            gc.collect()
            burst(1)
            return sys.getallocatedblocks()
        burst(1)
        before = blocks()
        burst(50_000)
        wait_until(lambda: blocks() < before + 10_000)
        print("given back")
        """,
        stdout="given back\n",
    )


def test_a_reused_task_has_nothing_of_the_one_before(wait_until: Any) -> None:
    for round in range(3):
        tasks = [go(pow, round, 2) for _ in range(100)]
        references = [weakref.ref(task) for task in tasks]
        ids = {task.id for task in tasks}
        assert len(ids) == 100
        assert [task.result(timeout=LIMIT) for task in tasks] == [round**2] * 100
        assert all(reference() is task for reference, task in zip(references, tasks, strict=True))
        del tasks
        # A worker that has ended a task may hold it for a moment more.
        wait_until(lambda refs=references: not any(reference() for reference in refs))
