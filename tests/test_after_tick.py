"""`after` and `tick`: when they deliver, to whom, and that nothing is left of them.

The moments are those of `time.monotonic()`. That a tick is not early is exact; how late it may be received is ten
times what is usual, because the machine may be busy. What happens between two ticks is asked of the ticks
themselves, or of `rust/core/src/channel/timer/tests.rs`, where time is told.
"""

from __future__ import annotations

import functools
import gc
import math
import time
import weakref
from collections.abc import Callable
from typing import Any

import penstock
import pytest
from penstock import Cancelled, Channel, ChannelClosed, Empty, after, go, tick

LIMIT = 30.0  # seconds; only a hang reaches it
STEP = 0.02
LATE = 10.0  # seconds; ten times what a busy machine needs to wake a receiver


def in_the_thread(function: Callable[[], Any]) -> Any:
    return function()


def in_a_task(function: Callable[[], Any]) -> Any:
    return go(function).result(timeout=LIMIT)


def in_another_thread(function: Callable[[], Any]) -> Any:
    return penstock.go(penstock.blocking, function).result(timeout=LIMIT)


everywhere = pytest.mark.parametrize("place", [in_the_thread, in_a_task, in_another_thread])
Place = Callable[[Callable[[], Any]], Any]


# When


@everywhere
def test_after_delivers_its_moment_once_and_closes(place: Place) -> None:
    def body() -> None:
        start = time.monotonic()
        channel = after(STEP)
        made = time.monotonic()
        value = channel.recv()
        end = time.monotonic()
        assert start + STEP <= value <= min(made + STEP, end) + 1e-6
        assert end - value < LATE
        with pytest.raises(ChannelClosed):
            channel.recv()
        assert channel.closed
        assert list(channel) == []
        stats = channel.stats()
        assert (stats.sent, stats.received, stats.dropped) == (1, 1, 0)

    place(body)


@everywhere
def test_ticks_come_at_multiples_of_the_period_and_never_drift(place: Place) -> None:
    def body() -> None:
        start = time.monotonic()
        channel = tick(STEP)
        made = time.monotonic()
        for _ in range(10):
            value = channel.recv()
            assert 0 <= time.monotonic() - value < LATE
            number = round((value - start) / STEP)
            assert start + number * STEP <= value <= made + number * STEP + 1e-6
        channel.close()
        assert list(channel) == []

    place(body)


def test_async_tasks_receive_and_iterate() -> None:
    async def body() -> tuple[list[float], list[float]]:
        start = time.monotonic()
        once = [value - start async for value in after(STEP)]
        channel = tick(STEP)
        many = [await channel.arecv() - start]
        async for value in channel:
            many.append(value - start)
            if len(many) == 5:
                channel.close()
        return once, many

    once, many = go(body).result(timeout=LIMIT)
    assert len(once) == 1
    assert once[0] >= STEP
    assert many == sorted(many)
    assert len(set(many)) == 5


def test_after_no_time_at_all_it_is_there() -> None:
    before = time.monotonic()
    channel = after(0)
    assert (len(channel), channel.closed, channel.capacity) == (1, True, 1)
    assert before <= channel.recv_nowait() <= time.monotonic()


def test_the_main_thread_of_a_program_without_a_runtime_may_wait(run_program: Any) -> None:
    """Longer than a deadlock takes to be noticed; and the time is the only thread."""
    run_program(
        """
        import penstock
        start = time.monotonic()
        value = penstock.after(1.6).recv()
        print(value - start >= 1.6, threading.active_count())
        print(sum(1 for _ in zip(range(3), penstock.tick(0.001))))
        """,
        stdout="True 1\n3\n",
    )


def test_a_main_thread_that_waits_for_a_tasks_tick_is_in_no_deadlock(run_program: Any) -> None:
    run_program(
        """
        import penstock
        channel = penstock.after(1.6)
        print(penstock.go(channel.recv).result() > 0)
        """,
        stdout="True\n",
    )


@pytest.mark.parametrize("timeout", [0, 0.001])
@everywhere
def test_a_timeout_shorter_than_the_tick_ends_the_wait_and_takes_nothing(
    place: Place, timeout: float
) -> None:
    def body() -> None:
        channel = tick(3600)
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match="the channel stayed empty"):
            channel.recv(timeout=timeout)
        assert time.monotonic() - begun < LATE
        with pytest.raises(Empty):
            channel.recv_nowait()
        with penstock.move_on_after(0.001) as scope:
            channel.recv()
        assert scope.expired
        assert channel.stats().received == 0

    place(body)


def test_a_timeout_in_a_coroutine_ends_the_wait_and_leaves_the_line(wait_until: Any) -> None:
    channel = tick(STEP)
    others = [go(list, channel) for _ in range(3)]
    wait_until(lambda: channel.stats().recv_waits >= 3)
    kept = []

    async def body() -> None:
        for _ in range(20):
            receive = channel.arecv(timeout=STEP / 2)
            kept.append(receive)  # an operation that is over holds no place in line
            try:
                await receive
            except TimeoutError:
                pass

    go(body).result(timeout=LIMIT)
    wait_until(lambda: channel.stats().sent > 25)
    channel.close()
    received = sum(len(task.result(timeout=LIMIT)) for task in others)
    stats = channel.stats()
    assert stats.received <= stats.sent
    assert received >= 3


def test_a_receive_with_time_enough_gets_the_tick() -> None:
    assert after(STEP).recv(timeout=LIMIT) > 0
    with penstock.timeout(LIMIT):
        assert tick(STEP).recv() > 0


# What was not taken


def test_a_tick_that_nobody_took_is_held_and_those_after_it_are_dropped(wait_until: Any) -> None:
    start = time.monotonic()
    channel = tick(STEP)
    wait_until(lambda: channel.stats().sent >= 4)
    assert len(channel) == 1
    stats = channel.stats()
    assert stats.dropped == stats.sent - 1 >= 3
    first, second = channel.recv(), channel.recv()
    assert round((first - start) / STEP) == 1
    assert round((second - first) / STEP) >= 3
    assert len(channel) <= 1


def test_close_stops_it_and_what_was_due_is_drained(wait_until: Any) -> None:
    channel = tick(STEP)
    wait_until(lambda: len(channel) == 1)
    channel.close()
    channel.close()
    assert channel.closed
    assert len(list(channel)) == 1
    stopped = after(3600)
    stopped.close()
    assert list(stopped) == []
    with pytest.raises(ChannelClosed):
        stopped.recv_nowait()


def test_close_wakes_everyone_who_waits(wait_until: Any, threads: Any) -> None:
    channel = tick(3600)
    waiting = [go(list, channel) for _ in range(3)]
    ended: list[list[float]] = []
    threads.start(lambda: ended.append(list(channel)))

    async def iterate() -> list[float]:
        return [value async for value in channel]

    waiting.append(go(iterate))
    wait_until(lambda: channel.stats().recv_waits == 5)
    channel.close()
    assert [task.result(timeout=LIMIT) for task in waiting] == [[]] * 4
    threads.join()
    assert ended == [[]]


# To whom


def test_receivers_are_served_in_the_order_they_came(wait_until: Any) -> None:
    channel = tick(STEP)
    receivers = []
    while channel.stats().recv_waits < 6:
        waits = channel.stats().recv_waits
        receivers.append(go(channel.recv))
        wait_until(lambda waits=waits: channel.stats().recv_waits > waits or receivers[-1].done())
    got = [receiver.result(timeout=LIMIT) for receiver in receivers]
    assert got == sorted(got)
    assert len(set(got)) == len(got)


def test_what_after_delivers_reaches_one_and_the_others_find_it_closed(wait_until: Any, threads: Any) -> None:
    channel = after(STEP * 5)
    got: list[float | None] = []

    def receive() -> None:
        try:
            got.append(channel.recv())
        except ChannelClosed:
            got.append(None)

    tasks = [go(receive) for _ in range(5)]
    for _ in range(5):
        threads.start(receive)
    for task in tasks:
        task.result(timeout=LIMIT)
    threads.join()
    assert sum(value is not None for value in got) == 1
    assert len(got) == 10


def test_many_receivers_share_the_ticks_and_none_comes_twice(threads: Any) -> None:
    channel = tick(0.001)
    got: list[float] = []

    def receive() -> None:
        got.extend(channel.recv() for _ in range(20))

    async def receive_awaiting() -> None:
        for _ in range(20):
            value = await channel.arecv()
            got.append(value)

    tasks = [go(receive) for _ in range(4)] + [go(receive_awaiting) for _ in range(4)]
    for _ in range(4):
        threads.start(receive)
    for task in tasks:
        task.result(timeout=LIMIT)
    threads.join()
    assert len(got) == len(set(got)) == 12 * 20
    stats = channel.stats()
    assert stats.received == 12 * 20
    assert stats.sent >= stats.received + stats.dropped


def test_a_cancelled_receiver_passes_its_tick_to_the_next(wait_until: Any) -> None:
    channel = tick(STEP)
    for _ in range(10):
        begun = channel.stats().recv_waits
        cancelled, next_one = go(channel.recv), go(channel.recv)
        wait_until(lambda begun=begun: channel.stats().recv_waits >= begun + 2 or next_one.done())
        cancelled.cancel()
        try:
            cancelled.result(timeout=LIMIT)
        except Cancelled:
            pass
        assert next_one.result(timeout=LIMIT) > 0
    stats = channel.stats()
    assert stats.sent == stats.received + stats.dropped + len(channel)


# Nobody sends on one


def test_a_send_is_refused_and_says_why() -> None:
    async def asend(channel: Channel[float]) -> None:
        await channel.asend(1.0)

    for channel, name in ((after(3600), "after(3600)"), (tick(0.5), "tick(0.5)")):
        refusals: list[Callable[[], object]] = [
            functools.partial(channel.send, 1.0),
            functools.partial(channel.send, 1.0, timeout=0),
            functools.partial(channel.send_nowait, 1.0),
            functools.partial(in_a_task, functools.partial(asend, channel)),
        ]
        for refusal in refusals:
            with pytest.raises(TypeError) as refused:
                refusal()
            assert str(refused.value) == (
                f"cannot send on the channel of {name}: its values come from a clock"
            )
        channel.close()
        with pytest.raises(TypeError, match="clock"):
            channel.send(1.0)
        assert isinstance(channel, Channel)
        assert repr(name) in repr(channel)


# Bad times


@pytest.mark.parametrize("make", [after, tick])
@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, -math.inf])
def test_a_time_that_is_negative_or_no_number_is_refused(
    make: Callable[[float], Any], seconds: float
) -> None:
    with pytest.raises(ValueError, match=rf"seconds must be a number >=? 0.*, not {seconds!r}"):
        make(seconds)


@pytest.mark.parametrize("seconds", [0, 0.0, -0.0, 1e-12])
def test_a_tick_without_a_period_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be a number > 0, and at least a nanosecond"):
        tick(seconds)


@pytest.mark.parametrize("make", [after, tick])
@pytest.mark.parametrize("seconds", ["1", None, [], 1j])
def test_a_time_of_another_type_is_refused(make: Callable[[Any], Any], seconds: object) -> None:
    with pytest.raises(TypeError, match="seconds must be a number"):
        make(seconds)


@pytest.mark.parametrize("make", [after, tick])
@pytest.mark.parametrize("seconds", [math.inf, 1e300, 1e18, 10**9 * 3])
def test_a_time_beyond_all_clocks_never_comes(make: Callable[[float], Any], seconds: float) -> None:
    channel = make(seconds)
    assert (len(channel), channel.closed) == (0, False)
    with pytest.raises(TimeoutError):
        channel.recv(timeout=0.001)
    channel.close()
    assert list(channel) == []


# Nothing is left


def test_a_hundred_thousand_that_are_dropped_leave_nothing(run_program: Any) -> None:
    """Not a thread, not a block of memory, and no wait at the exit."""
    run_program(
        """
        import gc, penstock
        def make(count):
            for make in (penstock.after, penstock.tick):
                for _ in range(count):
                    channel = make(60)
        make(1000)
        gc.collect()
        before = sys.getallocatedblocks()
        make(50_000)
        gc.collect()
        print(sys.getallocatedblocks() - before < 100, threading.active_count())
        kept = [penstock.after(3600), penstock.tick(3600)]
        waiting = penstock.go(kept[0].recv)
        wait_until(lambda: kept[0].stats().recv_waits == 1)
        """,
        stdout="True 1\n",
        limit=300.0,
    )


def waits(channel: weakref.ref[Channel[float]]) -> bool:
    alive = channel()
    return alive is not None and alive.stats().recv_waits == 1


def test_one_that_a_task_waits_on_is_gone_once_the_task_is(wait_until: Any) -> None:
    channel = after(3600)
    gone = weakref.ref(channel)
    task = go(channel.recv)
    wait_until(functools.partial(waits, gone))
    del channel
    gc.collect()
    assert gone() is not None
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    del task
    wait_until(lambda: gc.collect() >= 0 and gone() is None)


def test_ctrl_c_interrupts_the_main_thread_that_waits_for_one(run_program: Any) -> None:
    run_program(
        """
        import penstock, signal
        channel = penstock.tick(3600)
        def interrupt():
            wait_until(lambda: channel.stats().recv_waits == 1)
            os.kill(os.getpid(), signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=interrupt).start()
        try:
            channel.recv()
        except KeyboardInterrupt:
            print("interrupted", channel.stats().received)
        """,
        stdout="interrupted 0\n",
    )


def test_after_a_fork_it_goes_on_in_the_child_without_the_parents_waiters(run_program: Any) -> None:
    run_program(
        """
        import penstock, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # CPython's, about threads
        channel = penstock.tick(0.02)
        waiting = penstock.go(list, channel)
        wait_until(lambda: channel.stats().received >= 2)
        child = os.fork()
        if child == 0:
            first = channel.recv(timeout=20)
            task = penstock.go(channel.recv)
            os._exit(0 if task.result(timeout=20) > first else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        channel.close()
        got = waiting.result(timeout=20)
        print(status, got == sorted(set(got)))
        """,
        stdout="0 True\n",
    )
