"""`async def` tasks on the workers, and the awaitable forms inside asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import penstock
import pytest
from penstock import Cancelled, Channel, ChannelClosed, Task, go

LIMIT = 30.0  # seconds; only a hang reaches it


class Custom(Exception):
    """An exception nothing else raises."""


async def failing() -> None:
    await penstock.asleep(0)
    raise Custom


def run(main: Callable[[], Any], place: str) -> Any:
    """Runs an `async def` in asyncio or as a task of the workers."""
    if place == "asyncio":
        return asyncio.run(asyncio.wait_for(main(), LIMIT))
    return go(main).result(timeout=LIMIT)


both = pytest.mark.parametrize("place", ["asyncio", "task"])


# Awaiting tasks


@both
def test_awaiting_a_task_gives_its_result_or_raises_its_error(place: str) -> None:
    gate = Channel[int](1)

    async def main() -> None:
        task = go(gate.recv)
        await gate.asend(4)
        assert await task == 4
        assert await task == 4, "a finished task may be awaited again"
        with pytest.raises(Custom):
            await go(failing)

    run(main, place)


@both
def test_awaiting_a_cancelled_task_raises_cancelled(place: str) -> None:
    gate = Channel[int]()

    async def main() -> None:
        task = go(gate.recv)
        task.cancel()
        with pytest.raises(Cancelled):
            await task

    run(main, place)


@both
def test_aresult_takes_a_timeout(place: str) -> None:
    gate = Channel[int]()

    async def main() -> int:
        task = go(gate.recv)
        with pytest.raises(TimeoutError):
            await task.aresult(timeout=0.01)
        with pytest.raises(TimeoutError):
            await task.aresult(timeout=0)
        await gate.asend(1)
        return await task.aresult(timeout=LIMIT)

    assert run(main, place) == 1


def test_several_loops_await_one_task(threads: Any) -> None:
    gate = Channel[str]()
    task = go(gate.recv)
    waiting = threading.Barrier(4)

    async def main() -> None:
        waiting.wait(LIMIT)
        assert await task == "for all"

    for _ in range(3):
        threads.start(lambda: asyncio.run(main()))
    waiting.wait(LIMIT)
    gate.send("for all", timeout=LIMIT)
    threads.join()


# Channels


@both
@pytest.mark.parametrize("capacity", [0, 1, 16])
def test_asend_and_arecv_pass_items_in_order(place: str, capacity: int) -> None:
    channel = Channel[int](capacity)

    async def produce() -> None:
        for i in range(200):
            await channel.asend(i)
        channel.close()

    async def main() -> list[int]:
        producer = go(produce)
        items = [item async for item in channel]
        await producer
        return items

    assert run(main, place) == list(range(200))


@both
def test_the_awaitable_forms_raise_what_the_plain_ones_do(place: str) -> None:
    channel = Channel[int](1)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await channel.arecv(timeout=0)
        await channel.asend(1, timeout=0)
        with pytest.raises(TimeoutError):
            await channel.asend(2, timeout=0.01)
        with pytest.raises(ValueError, match="timeout"):
            await channel.arecv(timeout=-1)
        channel.close()
        with pytest.raises(ChannelClosed):
            await channel.asend(3)
        assert await channel.arecv() == 1
        with pytest.raises(ChannelClosed):
            await channel.arecv()

    run(main, place)


@both
def test_close_wakes_what_awaits(place: str, wait_until: Any) -> None:
    channel = Channel[int]()

    def close_later() -> None:
        wait_until(lambda: channel.stats().recv_waits == 1)
        channel.close()

    async def main() -> None:
        with pytest.raises(ChannelClosed):
            await channel.arecv()

    closer = threading.Thread(target=close_later)
    closer.start()
    run(main, place)
    closer.join(LIMIT)


@both
def test_an_async_generator_may_await_a_channel(place: str) -> None:
    channel = Channel[int](2)

    async def pairs() -> AsyncIterator[tuple[int, int]]:
        while True:
            try:
                yield await channel.arecv(), await channel.arecv()
            except ChannelClosed:
                return

    def produce() -> None:
        for i in range(6):
            channel.send(i)
        channel.close()

    async def main() -> list[tuple[int, int]]:
        producer = go(produce)
        got = [pair async for pair in pairs()]
        await producer
        return got

    assert run(main, place) == [(0, 1), (2, 3), (4, 5)]


# async def tasks


@pytest.mark.parametrize("wait", ["arecv", "asend", "asleep", "task", "group"])
def test_cancel_interrupts_every_await(wait: str) -> None:
    channel = Channel[int]()
    started = Channel[None](1)
    log: list[str] = []

    async def body() -> None:
        await started.asend(None)
        try:
            if wait == "arecv":
                await channel.arecv()
            elif wait == "asend":
                await channel.asend(1)
            elif wait == "asleep":
                await penstock.asleep(3600)
            elif wait == "task":
                await go(list, channel)  # ends quietly when the test closes the channel
            else:
                async with penstock.Group() as group:
                    group.go(channel.recv)
        except Cancelled:
            await penstock.asleep(0)  # raised once: clean-up may wait
            log.append("cleaned up")
            raise

    task = go(body)
    started.recv(timeout=LIMIT)
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert log == ["cleaned up"]
    channel.close()


@pytest.mark.parametrize("end", ["dropped", "finished"])
@pytest.mark.parametrize("operation", ["arecv", "asend"])
def test_an_operation_begun_by_hand_is_finished_or_dropped_before_the_next(operation: str, end: str) -> None:
    """Two of one task at once would mix up whose wait has ended."""
    first, second = Channel[int](), Channel[int](1)

    async def main() -> None:
        begun = (first.arecv() if operation == "arecv" else first.asend(1)).__await__()
        next(begun)
        with pytest.raises(RuntimeError, match="has begun another operation"):
            await second.arecv()
        if end == "finished":
            if operation == "arecv":
                first.send_nowait(3)
            else:
                assert first.recv_nowait() == 1
            with pytest.raises(StopIteration):
                next(begun)
        del begun
        with pytest.raises(TimeoutError):
            await second.arecv(timeout=0.01)
        with pytest.raises(penstock.Empty):
            first.recv_nowait()
        with pytest.raises(penstock.Full):
            first.send_nowait(4)

    go(main).result(timeout=LIMIT)


def test_an_operation_that_outlives_its_task_still_can_be_dropped() -> None:
    channel = Channel[int]()
    left: list[Any] = []

    async def main() -> None:
        left.append(channel.arecv().__await__())
        next(left[0])

    go(main).result(timeout=LIMIT)
    gc.collect()
    left.clear()
    gc.collect()  # without the GIL the operation goes when the thread that made it is asked to, as here
    with pytest.raises(penstock.Full):
        channel.send_nowait(1)


@pytest.mark.parametrize("keeps_operation", [False, True])
def test_a_received_value_is_not_kept_alive_by_what_brought_it(keeps_operation: bool) -> None:
    class Value:
        pass

    channel = Channel[Value](1)

    async def main() -> weakref.ref[Value]:
        operation = channel.arecv()
        channel.send_nowait(Value())
        if keeps_operation:
            reference = weakref.ref(await operation)
            await penstock.asleep(0)
        else:
            del operation
            reference = weakref.ref(await channel.arecv())
        return reference

    reference = go(main).result(timeout=LIMIT)
    gc.collect()
    assert reference() is None


def test_a_result_taken_by_hand_leaves_no_trace_in_the_next() -> None:
    channel = Channel[int](2)

    async def main() -> None:
        caught: list[StopIteration] = []
        for number in range(3):
            channel.send_nowait(number)
            try:
                next(channel.arecv().__await__())
            except StopIteration as stop:
                caught.append(stop)
            channel.send_nowait(number + 10)
            assert await channel.arecv() == number + 10
            channel.send_nowait(number + 20)
            with pytest.raises(StopIteration) as raised:
                next(channel.arecv().__await__())
            assert raised.value.value == number + 20
            assert raised.value.__context__ is None
        assert [stop.value for stop in caught] == [0, 1, 2]
        assert len({id(stop) for stop in caught}) == 3

    go(main).result(timeout=LIMIT)


def test_a_failure_of_an_async_task_is_raised_by_result() -> None:
    with pytest.raises(Custom) as caught:
        go(failing).result(timeout=LIMIT)
    assert "failing" in [entry.name for entry in caught.traceback]


def test_each_async_task_keeps_its_own_context_across_awaits() -> None:
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("creator")
    gates = [Channel[int]() for _ in range(100)]

    async def body(i: int) -> bool:
        inherited = variable.get() == "creator"
        variable.set(f"task {i}")
        await gates[i].arecv()
        return inherited and variable.get() == f"task {i}"

    tasks = [go(body, i) for i in range(100)]
    for gate in reversed(gates):
        gate.send(1, timeout=LIMIT)
    assert all(task.result(timeout=LIMIT) for task in tasks)
    assert variable.get() == "creator"


def test_a_coroutine_is_never_entered_twice(run_program: Any) -> None:
    """Two async tasks wake each other from several workers as fast as they can: RUNNING, PARKED, NOTIFIED."""
    run_program(
        """
        import penstock
        tasks = []
        for _ in range(8):
            first, second = penstock.Channel(1), penstock.Channel(1)
            async def ping(a=first, b=second):
                for i in range(2000):
                    await a.asend(i)
                    assert await b.arecv() == i
            async def pong(a=first, b=second):
                for i in range(2000):
                    await b.asend(await a.arecv())
            tasks += [penstock.go(ping), penstock.go(pong)]
        for task in tasks:
            task.result(timeout=50)
        print("ok")
        """,
        env={"PENSTOCK_WORKERS": "4"},
        stdout="ok\n",
    )


def test_ten_thousand_parked_coroutines_all_resume() -> None:
    gate = Channel[int]()

    async def body(i: int) -> int:
        return i + await gate.arecv()

    tasks = [go(body, i) for i in range(10_000)]

    def feed() -> None:
        for _ in tasks:
            gate.send(0)

    feeder = go(feed)
    got = [task.result(timeout=LIMIT) for task in tasks]
    feeder.result(timeout=LIMIT)
    assert got == list(range(10_000))


def test_async_tasks_start_tasks_and_await_them() -> None:
    async def fibonacci(n: int) -> int:
        if n < 2:
            return n
        left: Task[int] = go(fibonacci, n - 1)
        right: Task[int] = go(fibonacci, n - 2)
        return await left + await right

    assert go(fibonacci, 12).result(timeout=LIMIT) == 144


# What an async task refuses


def test_awaiting_a_foreign_future_is_a_type_error_that_says_what_to_do() -> None:
    loop = asyncio.new_event_loop()
    future: asyncio.Future[int] = loop.create_future()

    async def body() -> int:
        return await future

    try:
        with pytest.raises(TypeError) as caught:
            go(body).result(timeout=LIMIT)
        assert "Future" in str(caught.value)
        assert len(str(caught.value)) > 40, "it says what to do"
    finally:
        loop.close()


def test_a_task_may_catch_the_foreign_future_error_and_go_on() -> None:
    loop = asyncio.new_event_loop()
    future: asyncio.Future[int] = loop.create_future()

    async def body() -> str:
        try:
            await future
        except TypeError:
            await penstock.asleep(0)
            return "went on"
        return "never"

    try:
        assert go(body).result(timeout=LIMIT) == "went on"
    finally:
        loop.close()


REFUSED: list[tuple[str, Callable[[Channel[int], Task[int]], object]]] = [
    ("arecv", lambda channel, task: channel.recv()),
    ("asend", lambda channel, task: channel.send(1)),
    ("aresult", lambda channel, task: task.result()),
    ("aexception", lambda channel, task: task.exception()),
    ("asleep(0)", lambda channel, task: penstock.yield_now()),
    ("asleep", lambda channel, task: penstock.sleep(0.01)),
    ("async for", lambda channel, task: list(channel)),
]


@pytest.mark.parametrize(("form", "call"), REFUSED, ids=[form for form, _ in REFUSED])
def test_a_plain_call_that_would_wait_names_its_awaitable_form(
    form: str, call: Callable[[Channel[int], Task[int]], object]
) -> None:
    channel, other = Channel[int](), Channel[int]()
    waiting = go(other.recv)

    async def body() -> None:
        call(channel, waiting)

    error = go(body).exception(timeout=LIMIT)
    assert isinstance(error, RuntimeError)
    assert form in str(error) or (form == "async for" and "arecv" in str(error))
    other.send(1, timeout=LIMIT)
    waiting.result(timeout=LIMIT)


def test_a_plain_call_that_need_not_wait_is_fine_in_an_async_task() -> None:
    channel = Channel[int](1)
    ended = go(int)
    ended.result(timeout=LIMIT)

    async def body() -> int:
        channel.send(1)
        return channel.recv() + ended.result()

    assert go(body).result(timeout=LIMIT) == 1


def test_a_plain_task_may_run_an_event_loop_whose_coroutines_await_tasks() -> None:
    async def main() -> int:
        await asyncio.sleep(0)
        return await go(pow, 2, 3)

    assert go(lambda: asyncio.run(main())).result(timeout=LIMIT) == 8


def test_a_plain_call_that_would_park_under_a_running_loop_is_refused() -> None:
    channel = Channel[int]()

    async def main() -> int:
        return channel.recv()

    error = go(lambda: asyncio.run(main())).exception(timeout=LIMIT)
    assert isinstance(error, RuntimeError)
    assert "arecv" in str(error)


def test_a_coroutine_that_was_never_awaited_warns_for_users_only(recwarn: pytest.WarningsRecorder) -> None:
    for _ in range(20):
        go(failing).exception(timeout=LIMIT)
    gc.collect()
    assert [str(w.message) for w in recwarn if "never awaited" in str(w.message)] == []


# asleep


@pytest.mark.thread_unsafe(reason="short sleeps end in their order only while the machine has time for each")
@both
def test_asleep_waits_and_lets_others_run(place: str) -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def late() -> None:
            await penstock.asleep(0.2)
            order.append("late")

        async def soon() -> None:
            await penstock.asleep(0.01)
            order.append("soon")

        first, second = go(late), go(soon)
        await first
        await second
        await penstock.asleep(0)
        return order

    assert run(main, place) == ["soon", "late"]


@both
def test_asleep_refuses_what_is_no_duration(place: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="seconds"):
            await penstock.asleep(-1)

    run(main, place)
