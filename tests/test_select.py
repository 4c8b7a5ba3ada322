"""`select`: which case, exactly one, from everywhere, whatever happens meanwhile.

The part named for Go asks of plain tasks, threads and `async def` tasks what the select programs of Go's own test suite
ask of goroutines. What has no counterpart here: nil channels (`None` is an error), the order in which a select
statement evaluates its operands (arguments are evaluated before the call), `break` out of a select.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import random
import sys
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import penstock
import pytest
from penstock import (
    Cancelled,
    Channel,
    ChannelClosed,
    Empty,
    Full,
    Group,
    Rate,
    Selected,
    Task,
    after,
    aselect,
    asleep,
    go,
    select,
    select_nowait,
    tick,
    yield_now,
)

LIMIT = 30.0  # seconds; only a hang reaches it


class Marker:
    """An object that can be weakly referenced."""


def in_the_thread(*cases: Any, **options: Any) -> Any:
    return select(*cases, **options)


def in_a_task(*cases: Any, **options: Any) -> Any:
    return go(select, *cases, **options).result(timeout=LIMIT)


def in_an_async_task(*cases: Any, **options: Any) -> Any:
    return go(awaits_select, *cases, **options).result(timeout=LIMIT)


async def awaits_select(*cases: Any, **options: Any) -> Any:
    return await aselect(*cases, **options)


Select = Callable[..., Any]
everywhere = pytest.mark.parametrize("do_select", [in_the_thread, in_a_task, in_an_async_task])
kinds = pytest.mark.parametrize("capacity", [0, 1])
selects_as_a_task = pytest.mark.parametrize("function", [select, awaits_select])


def waits(*channels: Channel[Any]) -> int:
    """How many waits there have been at these channels: a select waits at each of its own."""
    stats = [channel.stats() for channel in channels]
    return sum(one.send_waits + one.recv_waits for one in stats)


def parked(wait_until: Any, function: Callable[..., Any], *cases: Any, **options: Any) -> Task[Any]:
    """A task that waits in a select with `cases`."""
    channels = {id(channel): channel for channel in map(channel_of, cases)}.values()
    wanted = waits(*channels) + len(cases)
    task = go(function, *cases, **options)
    wait_until(lambda: waits(*channels) >= wanted)
    return task


def channel_of(case: Any) -> Channel[Any]:
    channel: Channel[Any] = case[0] if isinstance(case, tuple) else case
    return channel


def filled(capacity: int, *values: object) -> Channel[Any]:
    channel = Channel[Any](capacity)
    for value in values:
        channel.send_nowait(value)
    return channel


# What it returns


@everywhere
def test_a_ready_receive_gives_its_value_and_which_it_was(do_select: Select) -> None:
    empty, ready = Channel[int](1), filled(1, 7)
    selected = do_select(empty, ready)
    assert selected == (1, 7, ready, False)
    assert (selected.index, selected.value, selected.closed) == (1, 7, False)
    assert selected.channel is ready
    assert len(ready) == 0


@everywhere
def test_a_ready_send_is_done(do_select: Select) -> None:
    full, ready = filled(1, 0), Channel[int](1)
    assert do_select((full, 1), (ready, 2)) == (1, None, ready, False)
    assert ready.recv() == 2
    assert full.recv() == 0
    assert len(full) == 0


def test_the_result_is_a_named_tuple() -> None:
    channel = filled(1, 7)
    selected = select(channel)
    assert isinstance(selected, Selected)
    assert isinstance(selected, tuple)
    index, value, passed, closed = selected
    assert (index, value, passed, closed) == (0, 7, channel, False)
    assert repr(selected) == f"Selected(index=0, value=7, channel={channel!r}, closed=False)"
    assert hash(selected) == hash((0, 7, channel, False))
    match selected:
        case Selected(at, 7, closed=False):
            assert at == 0
        case _:
            raise AssertionError(selected)
    with pytest.raises(AttributeError):
        selected.value = 8  # type: ignore[misc]
    assert Selected(0, 7, channel, closed=False) == selected == copy.copy(selected)
    assert type(copy.copy(selected)) is Selected
    with pytest.raises(TypeError):
        Selected(0, 7)  # type: ignore[call-arg]


def test_results_are_told_apart_and_let_go_of_what_they_held() -> None:
    """Their memory is used again."""
    channel = Channel[Any](1)
    for _ in range(3):
        results, gone = [], []
        for number in range(200):
            value = Marker()
            gone.append(weakref.ref(value))
            channel.send(value)
            results.append((number, select(channel)))
            assert hash(results[-1][1]) == hash((0, value, channel, False))
            del value
        assert all(gone[number]() is result.value for number, result in results)
        del results
        gc.collect()
        assert not any(reference() for reference in gone)


def test_a_long_chain_of_results_is_let_go_of() -> None:
    channel = Channel[Any](1)
    gone = weakref.ref(last := Marker())
    result: object = last
    del last
    for _ in range(200_000):
        channel.send(result)
        result = select(channel)
    assert gone() is not None
    del result
    assert gone() is None or gc.collect() >= 0
    assert gone() is None


def test_a_cycle_through_a_result_is_collected() -> None:
    marker = Marker()
    gone = weakref.ref(marker)
    channel = filled(1, marker)
    marker.result = select(channel)  # type: ignore[attr-defined]
    del marker
    gc.collect()
    assert gone() is None


def test_many_cases_are_told_apart() -> None:
    channels = [Channel[int](1) for _ in range(3000)]
    for expected in (0, 7, 8, 300, 2999):
        channels[expected].send(expected)
        selected = select(*channels)
        assert (selected.index, selected.value) == (expected, expected)


# What it refuses


@pytest.mark.parametrize("function", [select, select_nowait, aselect])
def test_no_case_is_an_error(function: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=rf"{function.__name__}\(\) needs at least one case"):
        function()


@pytest.mark.parametrize("function", [select, select_nowait, aselect])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (None, TypeError),
        (3, TypeError),
        ("channel", TypeError),
        ((None, 1), TypeError),
        ((1, 2), TypeError),
        ([Channel(1), 1], TypeError),
        ((Channel(1),), ValueError),
        ((Channel(1), 1, 2), ValueError),
        ((), ValueError),
        (Channel, TypeError),
    ],
    ids=repr,
)
def test_what_is_no_case_is_an_error_and_nothing_is_done(
    function: Callable[..., object], wrong: object, error: type[Exception]
) -> None:
    ready = filled(1, 7)
    for cases in [(ready, wrong), (*[ready] * 20, wrong)]:
        with pytest.raises(error) as raised:
            function(*cases)
        assert "a channel or receiver (to receive), or a tuple of a channel or sender and a value" in str(
            raised.value
        )
        assert f"case {len(cases) - 1} is {wrong!r}" in str(raised.value)
    assert len(ready) == 1


@pytest.mark.parametrize("function", [select, aselect])
def test_wrong_options_are_errors(function: Callable[..., object]) -> None:
    channel = filled(1, 7)
    for timeout in (-1, -0.5, float("nan")):
        with pytest.raises(
            ValueError, match=rf"timeout must be None or a number of seconds >= 0, not {timeout}"
        ):
            function(channel, timeout=timeout)
    with pytest.raises(TypeError, match="timeout must be None or a number of seconds >= 0, not 'soon'"):
        function(channel, timeout="soon")
    with pytest.raises(TypeError, match="priority must be True or False, not 1"):
        function(channel, priority=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'default'"):
        function(channel, default=None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'timeout'"):
        select_nowait(channel, timeout=0)  # type: ignore[call-overload]
    assert len(channel) == 1


# Which of several


@pytest.mark.parametrize("number", [4, 12])
@everywhere
def test_the_choice_among_ready_cases_is_uniform(do_select: Select, number: int) -> None:
    """Also where those that are not ready stand between them."""
    rounds = 400 * number
    channels = [filled(1, 0) for _ in range(number)]
    ready = range(0, number, 2)
    for unready in set(range(number)).difference(ready):
        channels[unready].recv()
    counts = Counter[int]()
    for _ in range(rounds):
        chosen = do_select(*channels).index
        counts[chosen] += 1
        channels[chosen].send(0)
    assert set(counts) == set(ready)
    # Each is binomial with mean 800; seven standard deviations.
    assert all(abs(counts[at] - 800) < 200 for at in ready), counts


@everywhere
def test_with_priority_the_first_ready_case_is_taken(do_select: Select) -> None:
    channels = [Channel[int](1) for _ in range(12)]
    for channel in channels[3:]:
        channel.send(0)
    taken = [do_select(*channels, priority=True).index for _ in range(9)]
    assert taken == list(range(3, 12))
    assert do_select((channels[0], 1), (channels[1], 1), priority=True).index == 0
    assert do_select(channels[1], channels[0], priority=True).index == 1


# Closed channels


@everywhere
@kinds
def test_a_receive_from_a_closed_channel_is_ready(do_select: Select, capacity: int) -> None:
    empty, closed = Channel[int](capacity), filled(1, 7) if capacity else Channel[int](0)
    closed.close()
    if capacity:
        assert do_select(empty, closed) == (1, 7, closed, False)
    for _ in range(3):
        assert do_select(empty, closed) == (1, None, closed, True)


@everywhere
@kinds
def test_a_send_on_a_closed_channel_raises(do_select: Select, capacity: int) -> None:
    empty, closed = Channel[int](capacity), Channel[int](capacity)
    closed.close()
    with pytest.raises(ChannelClosed, match="the channel of case 1 is closed"):
        do_select(empty, (closed, 1))


@kinds
@selects_as_a_task
def test_a_close_ends_the_wait_of_a_receive(function: Any, capacity: int, wait_until: Any) -> None:
    one, other = Channel[int](capacity), Channel[int](capacity)
    task = parked(wait_until, function, one, other)
    other.close()
    assert task.result(timeout=LIMIT) == (1, None, other, True)
    with pytest.raises(Full) if capacity == 0 else does_not_raise():
        one.send_nowait(1)  # nobody waits there any more


@kinds
@selects_as_a_task
def test_a_close_ends_the_wait_of_a_send(function: Any, capacity: int, wait_until: Any) -> None:
    one, other = filled(capacity, *range(capacity)), filled(capacity, *range(capacity))
    task = parked(wait_until, function, (one, 7), (other, 8))
    one.close()
    with pytest.raises(ChannelClosed, match="the channel of case 0 is closed"):
        task.result(timeout=LIMIT)
    for channel in (one, other):
        assert [value for value in taken(channel)] == list(range(capacity))


class does_not_raise:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def value_of(selected: Selected[int]) -> int | None:
    return selected.value


def taken(channel: Channel[Any]) -> Iterator[Any]:
    """What is in the channel now."""
    while True:
        try:
            yield channel.recv_nowait()
        except (Empty, ChannelClosed):
            return


# Waiting


@kinds
@selects_as_a_task
@pytest.mark.parametrize("served", range(4))
def test_a_waiting_select_is_served_by_any_of_its_cases(
    function: Any, served: int, capacity: int, wait_until: Any
) -> None:
    receives = [Channel[int](capacity) for _ in range(2)]
    sends = [filled(capacity, *range(capacity)) for _ in range(2)]
    channels = [*receives, *sends]
    task = parked(wait_until, function, *receives, (sends[0], 10), (sends[1], 11))
    if served < 2:
        channels[served].send_nowait(7)
        assert task.result(timeout=LIMIT) == (served, 7, channels[served], False)
    else:
        got = [channels[served].recv_nowait() for _ in range(capacity + 1)]
        assert got == [*range(capacity), 8 + served]
        assert task.result(timeout=LIMIT) == (served, None, channels[served], False)
    # It waits at none of the others any more, and sends to none of them.
    for at, channel in enumerate(channels):
        if at == served:
            continue
        if at < 2:
            with pytest.raises(Full) if capacity == 0 else does_not_raise():
                channel.send_nowait(1)
        else:
            assert list(taken(channel)) == list(range(capacity))


def test_a_thread_waits_too(threads: Any, wait_until: Any) -> None:
    one, other = Channel[int](), Channel[int]()
    got: list[object] = []
    threads.start(lambda: got.append(select(one, other)))
    wait_until(lambda: waits(one, other) == 2)
    other.send(3)
    threads.join()
    assert got == [(1, 3, other, False)]
    sender = go(one.send, 4)
    assert select(other, one) == (1, 4, one, False)
    sender.result(timeout=LIMIT)


def test_selects_stand_in_the_line_of_each_channel(wait_until: Any) -> None:
    """First come, first served, with plain receives before and behind."""
    channel, never = Channel[int](), Channel[int]()
    lines: list[Task[Any]] = []
    for number in range(6):
        cases: tuple[Any, ...] = (channel.recv,) if number % 3 == 0 else (select, never, channel)
        function = awaits_select if number % 3 == 2 else cases[0]
        lines.append(go(function, *cases[1:]))
        wait_until(lambda wanted=number + 1: channel.stats().recv_waits == wanted)
    for value in range(6):
        channel.send_nowait(value)
    results = [task.result(timeout=LIMIT) for task in lines]
    assert [one if isinstance(one, int) else one.value for one in results] == list(range(6))


def test_a_freed_slot_belongs_to_the_select_that_waits_for_it(wait_until: Any) -> None:
    full, never = filled(1, 0), Channel[int]()
    task = parked(wait_until, select, never, (full, 1))
    assert full.recv_nowait() == 0
    with pytest.raises(Full):
        full.send_nowait(2)
    assert task.result(timeout=LIMIT).index == 1
    assert full.recv_nowait() == 1


def test_one_channel_may_be_in_several_cases(wait_until: Any) -> None:
    channel = Channel[str]()
    task = parked(wait_until, select, channel, channel, (channel, "mine"))
    channel.send_nowait("theirs")
    assert task.result(timeout=LIMIT)[:2] in {(0, "theirs"), (1, "theirs")}
    task = parked(wait_until, select, channel, (channel, "mine"), channel)
    assert channel.recv_nowait() == "mine"
    assert task.result(timeout=LIMIT).index == 1
    assert waits(channel) == 6
    with pytest.raises(Empty):
        channel.recv_nowait()


@pytest.mark.parametrize("function", [select, awaits_select])
def test_a_select_never_meets_itself(function: Any, wait_until: Any) -> None:
    channel = Channel[str]()
    assert select_nowait(channel, (channel, "self")) is None
    task = parked(wait_until, function, channel, (channel, "self"))
    other = select(channel, (channel, "other"))
    mine = task.result(timeout=LIMIT)
    assert (mine[:2], other[:2]) in [((0, "other"), (1, None)), ((1, None), (0, "self"))]


# Channels without capacity, and of a clock


@everywhere
def test_an_unbounded_channel_is_always_ready_to_send_to(do_select: Select) -> None:
    channel = Channel[int](None)
    for value in range(100):
        assert do_select(Channel[int](), (channel, value)).index == 1
    assert [do_select(Channel[int](), channel).value for _ in range(100)] == list(range(100))
    assert select_nowait(channel) is None
    channel.close()
    assert do_select(channel).closed


@selects_as_a_task
def test_a_select_waits_at_an_unbounded_channel(function: Any, wait_until: Any) -> None:
    channel, other = Channel[int](None), Channel[int](None)
    task = parked(wait_until, function, other, channel)
    channel.send(7)
    assert task.result(timeout=LIMIT) == (1, 7, channel, False)
    other.send(8)
    assert (len(channel), len(other)) == (0, 1)


@everywhere
def test_after_is_a_timeout_among_the_cases(do_select: Select) -> None:
    never, start = Channel[int](), time.monotonic()
    expiry = after(0.01)
    index, moment, channel, closed = do_select(never, expiry)
    assert (index, channel, closed) == (1, expiry, False)
    assert moment >= start + 0.01
    assert do_select(never, expiry) == (1, None, expiry, True)
    with pytest.raises(TimeoutError):
        do_select(never, after(60), timeout=0.01)


@everywhere
def test_a_tick_is_received_again_and_again(do_select: Select) -> None:
    start = time.monotonic()
    never, ticks = Channel[int](), tick(0.002)
    moments = [do_select(never, ticks).value for _ in range(5)]
    assert all(moment >= start + 0.002 * number for number, moment in enumerate(moments, 1))
    assert moments == sorted(set(moments))


@selects_as_a_task
def test_the_value_of_an_after_goes_to_one_of_the_selects_that_wait_for_it(function: Any) -> None:
    never, expiry = Channel[int](), after(0.05)
    tasks = [go(function, never, expiry) for _ in range(20)]
    results = [task.result(timeout=LIMIT) for task in tasks]
    assert sorted(result.closed for result in results) == [False] + [True] * 19


@selects_as_a_task
def test_of_two_ticks_at_one_moment_one_is_taken_and_the_other_left(function: Any) -> None:
    for _ in range(20):
        both = [after(0.003), after(0.003)]
        results = [go(function, *both).result(timeout=LIMIT) for _ in range(2)]
        values = [result.value for result in results if not result.closed]
        left = [value for channel in both for value in channel]  # the second may be due a moment later
        assert len(values) + len(left) == 2


def test_a_tick_and_other_cases_take_turns(wait_until: Any) -> None:
    """What is sent meanwhile is not lost to the ticks that wake the select."""
    values, ticks = Channel[int](), tick(0.0005)

    def send() -> None:
        for value in range(300):
            values.send(value)
        values.close()

    sender, got = go(send), []
    while not (selected := select(values, ticks)).closed:
        if selected.channel is values:
            got.append(selected.value)
    sender.result(timeout=LIMIT)
    assert got == list(range(300))


@pytest.mark.parametrize("function", [select, select_nowait, aselect])
def test_nobody_sends_to_a_clock(function: Callable[..., object]) -> None:
    ready = filled(1, 7)
    for clock in (after(60), tick(60)):
        with pytest.raises(TypeError):
            function(ready, (clock, 1.0))
    assert len(ready) == 1


# Ending a wait


@everywhere
@kinds
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_ends_it_and_nothing_was_done(do_select: Select, capacity: int, timeout: float) -> None:
    empty, full = Channel[int](capacity), filled(capacity, *range(capacity))
    with pytest.raises(TimeoutError, match="no case became ready"):
        do_select(empty, (full, 9), timeout=timeout)
    assert list(taken(full)) == list(range(capacity))
    assert list(taken(empty)) == []


@everywhere
def test_a_ready_case_is_taken_without_any_patience(do_select: Select) -> None:
    assert do_select(Channel[int](1), filled(1, 7), timeout=0)[:2] == (1, 7)


@everywhere
def test_deadlines_apply(do_select: Select) -> None:
    never = Channel[int]()

    def waits_for_ever() -> None:
        with penstock.timeout(0.01):
            select(never, (never, 1))

    with pytest.raises(TimeoutError):
        if do_select is in_the_thread:
            waits_for_ever()
        elif do_select is in_a_task:
            go(waits_for_ever).result(timeout=LIMIT)
        else:

            async def awaits_for_ever() -> None:
                with penstock.timeout(0.01):
                    await aselect(never, (never, 1))

            go(awaits_for_ever).result(timeout=LIMIT)


@kinds
@selects_as_a_task
def test_a_cancelled_select_has_done_nothing(function: Any, capacity: int, wait_until: Any) -> None:
    empty, full = Channel[int](capacity), filled(capacity, *range(capacity))
    task = parked(wait_until, function, empty, (full, 9))
    neighbour = go(empty.recv)
    wait_until(lambda: empty.stats().recv_waits == 2)
    assert task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    empty.send_nowait(5)
    assert neighbour.result(timeout=LIMIT) == 5
    assert list(taken(full)) == list(range(capacity))


def test_a_group_that_fails_cancels_a_select() -> None:
    never = Channel[int]()

    def fail() -> None:
        raise ValueError("boo")

    with pytest.raises(ExceptionGroup) as raised, Group() as group:
        waiting = [group.go(select, never), group.go(awaits_select, never)]
        group.go(fail)
    assert [type(error) for error in raised.value.exceptions] == [ValueError]
    assert all(task.cancelled() for task in waiting)


def test_a_coroutine_is_told_to_await(wait_until: Any) -> None:
    never = Channel[int]()

    async def blocks() -> None:
        select(never)

    with pytest.raises(RuntimeError, match=r"select\(\) would have to wait.*'await penstock\.aselect\(\)'"):
        go(blocks).result(timeout=LIMIT)

    async def does_not_have_to() -> Selected[int]:
        return select(filled(1, 7))

    assert go(does_not_have_to).result(timeout=LIMIT).value == 7


def test_ctrl_c_ends_a_select_of_the_main_thread(run_program: Any) -> None:
    run_program(
        """
        import signal
        from penstock import Channel, select
        empty, full = Channel(), Channel(1)
        full.send(0)

        def interrupt():
            wait_until(lambda: empty.stats().recv_waits == 1)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            select(empty, (full, 1))
        except KeyboardInterrupt:
            print("interrupted")
        thread.join()
        print(full.recv_nowait(), len(full))
        """,
        stdout="interrupted\n0 0\n",
    )


# What is held, and let go of


def test_values_that_were_not_sent_are_let_go_of(wait_until: Any) -> None:
    for function in (select, awaits_select):
        full, other = filled(1, 0), Channel[Any](1)
        value = Marker()
        gone = weakref.ref(value)
        task = parked(wait_until, function, (full, value), other)
        del value
        gc.collect()
        assert gone() is not None
        other.send(1)
        assert task.result(timeout=LIMIT).index == 1
        del task
        wait_until(lambda gone=gone: gc.collect() >= 0 and gone() is None)


def test_channels_and_values_are_held_while_a_select_waits_and_no_longer(wait_until: Any) -> None:
    for function in (select, awaits_select):
        ended = []
        for way in ("cancel", "serve"):
            one, other = Channel[Any](), Channel[Any]()
            value = Marker()
            channel = weakref.ref(one)
            task = parked(wait_until, function, one, other, (one, value))
            gone = weakref.ref(value)
            del one, value
            gc.collect()
            assert gone() is not None
            assert channel() is not None
            if way == "cancel":
                task.cancel()
                with pytest.raises(Cancelled):
                    task.result(timeout=LIMIT)
            else:
                other.send(1)
                assert task.result(timeout=LIMIT).index == 1
            del task
            ended += [channel, gone]
        wait_until(lambda ended=ended: gc.collect() >= 0 and not any(one() for one in ended))


def test_a_cycle_through_the_values_of_a_channel_that_selects_sent_to_is_collected() -> None:
    channel = Channel[Any](2)
    marker = Marker()
    marker.channel = channel  # type: ignore[attr-defined]
    select((channel, marker), (channel, marker))
    gone = weakref.ref(channel)
    del channel, marker
    gc.collect()
    assert gone() is None


def test_an_awaitable_that_is_never_awaited_does_nothing() -> None:
    ready = filled(1, 7)
    for cases in [(ready,), ((ready, 1), ready)]:
        awaitable: Awaitable[object] | None = aselect(*cases)
        del awaitable
    gc.collect()
    assert len(ready) == 1


def test_a_coroutine_that_is_closed_in_a_select_lets_go_of_its_place(wait_until: Any) -> None:
    """As when its task is dropped at exit; a value that was on its way is not sent."""
    one, full = Channel[int](1), filled(1, 0)

    async def waits() -> None:
        await aselect(one, (full, 1))

    coroutine = waits()

    async def begins_and_drops() -> None:
        coroutine.send(None)
        coroutine.close()
        await asleep(0)

    go(begins_and_drops).result(timeout=LIMIT)
    one.send_nowait(1)
    assert (one.recv_nowait(), full.recv_nowait(), len(full)) == (1, 0, 0)


@pytest.mark.parametrize("refused", [pickle.dumps, copy.deepcopy])
def test_a_result_is_pickled_as_far_as_its_channel_is(refused: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="a Channel cannot be pickled or copied"):
        refused(select(filled(1, 7)))


# The process


def test_a_select_that_waits_at_exit_is_dropped_quietly(run_program: Any) -> None:
    run_program(
        """
        from penstock import Channel, aselect, go, select
        never, full = Channel(), Channel(1)
        full.send(0)
        async def awaits():
            try:
                await aselect(never, (full, 1))
            finally:
                print("not at exit")
        def waits():
            try:
                select(never, (full, 1))
            finally:
                print("not at exit")
        tasks = [go(awaits), go(waits), go(awaits), go(waits)]
        wait_until(lambda: never.stats().recv_waits == 4)
        print("over")
        """,
        stdout="over\n",
    )


def test_a_fork_leaves_the_selects_of_the_parent_behind(run_program: Any) -> None:
    run_program(
        """
        import warnings
        from penstock import Channel, aselect, go, select, select_nowait
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork.*", category=DeprecationWarning)
        channel, full = Channel(), Channel(1)
        full.send(0)
        async def awaits():
            return await aselect(channel, (full, 1))
        tasks = [go(select, channel, (full, 1)), go(awaits)]
        wait_until(lambda: channel.stats().recv_waits == 2)
        child = os.fork()
        if child == 0:
            assert select_nowait((channel, 1)) is None
            assert full.recv_nowait() == 0 and len(full) == 0
            task = go(select, channel, (channel, 5))
            assert select(channel, (channel, 6)).value in (5, None)
            task.result(timeout=30)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        channel.send(3)
        assert full.recv() == 0
        print(sorted(task.result(timeout=30).index for task in tasks))
        """,
        stdout="[0, 1]\n",
    )


def test_a_deadlock_names_the_channels_of_a_select(run_program: Any) -> None:
    run_program(
        """
        from penstock import Channel, Deadlock, aselect, go, select
        one, two = Channel(name="one"), Channel(name="two")
        async def awaits():
            await aselect(one, timeout=None)
        tasks = [go(select, one), go(awaits)]
        try:
            select(one, two)
        except Deadlock as deadlock:
            said = str(deadlock)
            print(said.count("select() on (<penstock.Channel 'one' at"), "'two'" in said, len(deadlock.tasks))
        for task in tasks:
            task.cancel()
        """,
        stdout="3 True 2\n",
    )


# Go's programs


def test_go_a_counter_and_two_sinks_share_out_every_number() -> None:
    """select.go: what sends one of two values to whichever channel takes it loses none of the bits."""
    counter, bits, more = iter(range(1, 200)), Channel[int](), Channel[int]()

    def send(first: Channel[int], second: Channel[int]) -> None:
        for number in counter:
            select((first, number), (second, number))
        first.close()
        second.close()

    sender = go(send, bits, more)
    got = []
    open_ends = [bits, more]
    while open_ends:
        selected = select(*open_ends)
        if selected.closed:
            open_ends.remove(selected.channel)
        else:
            got.append(selected.value)
    sender.result(timeout=LIMIT)
    assert got == list(range(1, 200))


def test_go_a_million_selects_leave_no_memory_behind(wait_until: Any) -> None:
    """select2.go: neither selects that are served at once nor those that waited at two channels."""
    number = 20_000
    one, other, done = Channel[int](), Channel[int](), Channel[int]()

    def sends(times: int) -> None:
        for _ in range(times):
            one.send(0)
        done.send(0)

    def receives(times: int) -> None:
        for _ in range(times):
            select(one, other)

    def run(times: int) -> int:
        tasks = [go(sends, times), go(receives, times)]
        done.recv(timeout=LIMIT)
        for task in tasks:
            task.result(timeout=LIMIT)
        del tasks, task
        gc.collect()
        return sys.getallocatedblocks()

    run(1000)
    before = run(1000)
    assert run(number) - before < number / 20


# select3.go: what waits and what does not, a table. True: the operation goes on at once.

TABLE: dict[str, tuple[Callable[[], tuple[Any, ...]], bool]] = {
    "receive from an open empty channel": (lambda: (Channel(0),), False),
    "receive from an open empty buffer": (lambda: (Channel(10),), False),
    "receive from a full buffer": (lambda: (filled(2, 1, 2),), True),
    "receive from a closed channel": (lambda: (closed_one(0),), True),
    "receive from a closed buffer": (lambda: (closed_one(10),), True),
    "send without a receiver": (lambda: ((Channel(0), 1),), False),
    "send to an empty buffer": (lambda: ((Channel(10), 1),), True),
    "send to a full buffer": (lambda: ((filled(1, 0), 1),), False),
    "two that wait": (lambda: (Channel(0), (Channel(0), 1)), False),
    "one that waits and one that does not": (lambda: (Channel(0), (Channel(1), 1)), True),
    "a send to and a receive from one empty channel": (lambda: both_ends(Channel(0)), False),
    "a send to and a receive from one empty buffer": (lambda: both_ends(Channel(1)), True),
    "a send to and a receive from one full buffer": (lambda: both_ends(filled(1, 0)), True),
}


def closed_one(capacity: int) -> Channel[Any]:
    channel = Channel[Any](capacity)
    channel.close()
    return channel


def both_ends(channel: Channel[Any]) -> tuple[Any, ...]:
    return channel, (channel, 1)


@pytest.mark.parametrize("what", TABLE)
@everywhere
def test_go_what_waits_and_what_does_not(what: str, do_select: Select) -> None:
    make, goes_on = TABLE[what]
    assert (select_nowait(*make()) is not None) == goes_on
    if goes_on:
        do_select(*make(), timeout=LIMIT)
    else:
        with pytest.raises(TimeoutError):
            do_select(*make(), timeout=0.001)


def test_go_a_send_on_a_closed_channel_does_not_wait() -> None:
    for capacity in (0, 10):
        with pytest.raises(ChannelClosed):
            select_nowait((closed_one(capacity), 1))


def test_go_who_waits_behind_a_select_that_was_served_elsewhere_is_served(wait_until: Any) -> None:
    """select6.go (issue 2075): a select's place in a line is taken out of the middle."""
    for _ in range(20):
        one, other = Channel[bool](), Channel[bool]()
        first = go(one.recv)
        wait_until(lambda one=one: one.stats().recv_waits == 1)
        chosen = parked(wait_until, select, other, one)
        last = go(one.recv)
        wait_until(lambda one=one: one.stats().recv_waits == 3)
        other.send(True)
        assert chosen.result(timeout=LIMIT).index == 0
        one.send(True)
        one.send(True)
        assert first.result(timeout=LIMIT)
        assert last.result(timeout=LIMIT)


@pytest.mark.parametrize("delay", [0, 1, 5])
@pytest.mark.parametrize("way", ["nowait", "select", "select with another case", "plain"])
@pytest.mark.parametrize("sends", [True, False])
def test_go_a_select_in_a_loop_meets_a_plain_end(way: str, sends: bool, delay: int) -> None:
    """select7.go: the two ends of a rendezvous come at different times, by every form of the operation."""
    channel, never = Channel[int](), Channel[int]()
    case: Any = (channel, 1) if sends else channel

    def one_end() -> int | None:
        for _ in range(delay):
            yield_now()
        return one_call(receives=sends)

    def one_call(*, receives: bool) -> int | None:
        if receives:
            return channel.recv()
        channel.send(1)
        return None

    def other_end() -> int | None:
        if way == "plain":
            return one_call(receives=not sends)
        if way == "select":
            return value_of(in_the_thread(case))
        if way == "select with another case":
            return value_of(in_the_thread(never, case))
        selected: Any = None
        while selected is None:
            yield_now()
            selected = select_nowait(case)
        return value_of(selected)

    ends = [go(one_end), go(other_end)]
    got = [task.result(timeout=LIMIT) for task in ends]
    assert sorted(value for value in got if value is not None) == [1]


@kinds
def test_go_every_number_leaves_by_one_of_four_channels_once(capacity: int) -> None:
    """doubleselect.go: a sender that selects over four, forwarded by four to one that looks for doubles."""
    number = 2_000
    lanes = [Channel[int](capacity) for _ in range(4)]
    collected = Channel[int](capacity)

    def sender() -> None:
        for value in range(number):
            select(*((lane, value) for lane in lanes))
        for lane in lanes:
            lane.close()

    def forward(lane: Channel[int]) -> None:
        for value in lane:
            collected.send(value)

    async def forward_async(lane: Channel[int]) -> None:
        async for value in lane:
            await collected.asend(value)

    tasks = [go(sender)] + [go(forward if at % 2 else forward_async, lane) for at, lane in enumerate(lanes)]
    got = [collected.recv(timeout=LIMIT) for _ in range(number)]
    assert sorted(got) == list(range(number))
    for task in tasks:
        task.result(timeout=LIMIT)


# select_nowait


def test_select_nowait_gives_none_or_a_result() -> None:
    empty, ready = Channel[int](1), filled(1, 7)
    assert select_nowait(empty) is None
    assert select_nowait(empty, ready) == (1, 7, ready, False)
    assert select_nowait(empty, ready) is None
    assert select_nowait((empty, 1)) == (0, None, empty, False)
    assert select_nowait((empty, 1)) is None
    ready.close()
    assert select_nowait(ready) == (0, None, ready, True)


def test_what_moves_between_two_channels_is_never_missed(threads: Any) -> None:
    """At each moment one of the two has a value."""
    one, other, stop = Channel[int](4), Channel[int](4), Channel[None](1)
    one.send(0)

    def moves() -> None:
        here, there = one, other
        for number in count(1):
            there.send(number)
            here.recv()
            here, there = there, here
            if len(stop):
                return

    threads.start(moves)
    missed = 0
    for _ in range(5_000):
        selected = select_nowait(one, other)
        if selected is None:
            missed += 1
        else:
            selected.channel.send(selected.value)  # what `moves` is about to take is there
    stop.send(None)
    threads.join()
    assert missed == 0


# All at once


def test_two_loops_that_meet_only_each_other_get_on() -> None:
    one, other, number = Channel[int](), Channel[int](), 1_000

    def loop(mine: Channel[int], theirs: Channel[int]) -> list[int]:
        return [select((mine, 1), theirs).index for _ in range(number)]

    async def loop_async(mine: Channel[int], theirs: Channel[int]) -> list[int]:
        return [(await aselect(theirs, (mine, 1))).index for _ in range(number)]

    seconds: list[Any] = [loop, loop_async]
    for second in seconds:
        tasks: list[Task[list[int]]] = [go(loop, one, other), go(second, other, one)]
        here, there = (task.result(timeout=LIMIT) for task in tasks)
        sent_there = there.count(0) if second is loop else there.count(1)
        assert here.count(0) == number - sent_there
        assert here.count(1) == sent_there


@pytest.mark.parametrize("capacities", [(0, 0, 0), (1, 2, 3), (0, 1, 8)], ids=str)
def test_nothing_is_lost_or_doubled(capacities: tuple[int, ...], threads: Any) -> None:
    """Loops of selects with random cases, patience and cancellations, in tasks, async tasks and threads."""
    rounds = 400
    channels = [Channel[int](capacity) for capacity in capacities]
    numbers = count()
    sent: list[int] = []
    received: list[int] = []

    def cases(dice: random.Random, value: int) -> list[Any]:
        chosen = [dice.choice(channels) for _ in range(dice.randint(1, 5))]
        return [channel if dice.random() < 0.5 else (channel, value) for channel in chosen]

    def note(selected: Any, cases: list[Any], value: int) -> None:
        if selected is None:
            return
        if isinstance(cases[selected.index], tuple):
            sent.append(value)
        else:
            assert selected.value is not None
            received.append(selected.value)

    def loop(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(rounds):
            value = next(numbers)
            chosen = cases(dice, value)
            patience = dice.choice([None, 0, 0.0001, 0.001])
            try:
                if patience is None:
                    note(select_nowait(*chosen), chosen, value)
                else:
                    note(select(*chosen, timeout=patience, priority=dice.random() < 0.5), chosen, value)
            except TimeoutError:
                pass

    async def loop_async(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(rounds):
            value = next(numbers)
            chosen = cases(dice, value)
            try:
                note(await aselect(*chosen, timeout=dice.choice([0, 0.0001, 0.001])), chosen, value)
            except TimeoutError:
                pass

    def cancelled_loop(seed: int) -> None:
        """Tasks of one select each, cancelled while others serve them."""
        dice = random.Random(seed)
        for _ in range(rounds // 4):
            value = next(numbers)
            chosen = cases(dice, value)

            def once(value: int = value, chosen: list[Any] = chosen) -> None:
                note(select(*chosen), chosen, value)

            async def once_async(value: int = value, chosen: list[Any] = chosen) -> None:
                note(await aselect(*chosen), chosen, value)

            task = go(once if dice.random() < 0.5 else once_async)
            for _ in range(dice.randint(0, 3)):
                yield_now()
            task.cancel()
            try:
                task.result(timeout=LIMIT)
            except Cancelled:
                pass

    tasks = [go(loop, 1), go(loop, 2), go(loop_async, 3), go(loop_async, 4), go(cancelled_loop, 5)]
    for seed in (6, 7):
        threads.start(loop, seed)
    for task in tasks:
        task.result(timeout=LIMIT)
    threads.join()
    left = [value for channel in channels for value in taken(channel)]
    assert Counter(sent) == Counter(received + left)
    assert len(sent) == len(set(sent))
    assert sent


# ---- directional ends ----


def test_ends_are_cases_and_are_what_selected_names() -> None:
    channel = Channel[int](2)
    sender, receiver = channel.sender(), channel.receiver()
    sent = select((sender, 7))
    assert (sent.index, sent.channel) == (0, sender)
    received = select(receiver)
    assert (received.value, received.channel, received.closed) == (7, receiver, False)


def test_an_end_of_the_other_direction_is_refused() -> None:
    channel = Channel[int](2)
    sender, receiver = channel.sender(), channel.receiver()
    with pytest.raises(TypeError, match=r"case 0 is <penstock\.Sender"):
        select(sender)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="case 1 is"):
        select(receiver, (receiver, 1))  # type: ignore[arg-type]


def test_a_closed_end_is_ready_though_its_channel_is_open() -> None:
    channel = Channel[int](2)
    senders, receivers = [channel.sender() for _ in range(2)], [channel.receiver() for _ in range(2)]
    senders[0].close()
    receivers[0].close()
    channel.send(1)
    assert not channel.closed
    assert select(receivers[0]) == (0, None, receivers[0], True)
    with pytest.raises(ChannelClosed):
        select((senders[0], 1))
    assert select(receivers[1]).value == 1
    assert select((senders[1], 2)).index == 0


# ---- what came back from an event loop ----


@pytest.mark.parametrize("capacity", [0, 1, None])
def test_a_value_that_came_back_is_ready_for_a_select(capacity: int | None) -> None:
    """Also on a closed channel that holds nothing else: to look at its index words alone went round for ever."""
    channel = Channel[int](capacity)

    async def main() -> None:
        receiver = asyncio.ensure_future(channel.arecv())
        await asyncio.sleep(0)
        channel.send(7)
        receiver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiver

    asyncio.run(main())
    channel.close()
    assert len(channel) == 1
    assert select(channel).value == 7
    assert select(channel).closed


@pytest.mark.parametrize("capacity", [0, 1, None])
def test_what_an_aselect_was_handed_too_late_comes_back(capacity: int | None) -> None:
    channel, other = Channel[int](capacity), Channel[int](0)

    async def main() -> None:
        selecting = asyncio.ensure_future(aselect(other, channel))
        await asyncio.sleep(0)
        channel.send(7)
        selecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await selecting

    asyncio.run(main())
    assert len(channel) == 1
    assert channel.recv(timeout=0) == 7


def test_a_waiting_select_gets_what_comes_back(wait_until: Callable[..., None]) -> None:
    channel = Channel[int](0)
    task = None

    async def main() -> None:
        nonlocal task
        receiver = asyncio.ensure_future(channel.arecv())
        await asyncio.sleep(0)
        channel.send(7)
        task = go(select, channel)
        wait_until(lambda: channel.stats().recv_waits == 2)  # the loop stands meanwhile
        receiver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiver

    asyncio.run(main())
    assert task is not None
    assert task.result(timeout=30).value == 7


# Channels with a policy, a rate, or somebody who is told of pressure


@everywhere
def test_a_send_on_a_channel_that_drops_is_always_ready(do_select: Select) -> None:
    overflow: Any
    for overflow, left in ("drop_newest", [1, 2]), ("drop_oldest", [2, 3]):
        channel = Channel[int](2, overflow=overflow)
        channel.send_many([1, 2])
        with channel.sender() as sender:
            assert do_select(Channel[int](), (sender, 3)) == (1, None, sender, False)
        assert list(channel) == left
        assert channel.stats().dropped == 1


@pytest.mark.parametrize("do_select", [in_the_thread, in_a_task])
def test_what_a_select_throws_away_is_let_go_of_and_may_use_the_channel(do_select: Select) -> None:
    channel = Channel[Any](1, overflow="drop_oldest")
    seen: list[Any] = []

    class Talkative:
        def __del__(self) -> None:
            seen.append(channel.recv_nowait())
            penstock.sleep(0.001)  # it may park its task
            seen.append(len(channel))

    channel.send(Talkative())
    assert do_select((channel, 7)).index == 0
    assert seen == [7, 0]
    channel.send(Talkative())
    assert select_nowait((channel, 8)) is not None
    assert seen == [7, 0, 8, 0]


@selects_as_a_task
def test_a_send_that_would_raise_full_is_not_ready_until_there_is_room(
    function: Any, wait_until: Any
) -> None:
    channel = Channel[int](1, overflow="error")
    channel.send(1)
    assert select_nowait((channel, 2)) is None
    task = parked(wait_until, function, (channel, 2))
    with pytest.raises(Full):
        channel.send(3)
    assert channel.recv() == 1
    assert task.result(timeout=LIMIT) == (0, None, channel, False)
    assert channel.recv() == 2


@everywhere
def test_a_select_tells_of_pressure(do_select: Select) -> None:
    told: list[tuple[object, str]] = []
    channel = Channel[int](2)
    channel.on_pressure(lambda *what: told.append(what), high=1, low=0.5)
    sender, receiver = channel.sender(), channel.receiver()
    for sends, receives in (channel, channel), (sender, receiver):
        told.clear()
        do_select((sends, 1))
        do_select((sends, 2))
        assert told == [(channel, "high")]
        do_select(Channel[int](), receives)
        assert told == [(channel, "high"), (channel, "low")]
        assert select_nowait((sends, 3)) is not None
        assert select_nowait(receives) is not None
        assert told == [(channel, "high"), (channel, "low")] * 2
        channel.recv()


@selects_as_a_task
def test_pressure_is_told_once_where_a_select_waited(function: Any, wait_until: Any) -> None:
    told: list[str] = []
    channel = Channel[int](1)
    task = parked(wait_until, function, channel, Channel[int]())
    channel.on_pressure(lambda _, pressure: told.append(pressure))
    channel.send(1)  # from hand to hand
    task.result(timeout=LIMIT)
    assert told == []
    channel.send(2)
    task = parked(wait_until, function, (channel, 3), Channel[int]())
    assert told == ["high"]
    assert channel.recv_many(9) == [2, 3]
    task.result(timeout=LIMIT)
    assert told == ["high", "low"]


@selects_as_a_task
def test_the_time_that_selects_wait_counts(function: Any, wait_until: Any) -> None:
    empty, full = Channel[int](), filled(1, 0)
    task = parked(wait_until, function, empty, (full, 1))
    wait_until(lambda: empty.stats().recv_wait_seconds > 0 and full.stats().send_wait_seconds > 0)
    full.recv()
    assert task.result(timeout=LIMIT).index == 1
    for channel in empty, full:
        before, after = channel.stats(), channel.stats()
        assert before == after, "nobody waits any more"
    assert full.recv() == 1


# Channels with a rate

NEVER = 1e-6  # per second: no second token in a test


def without_a_token(capacity: int | None = 9, **settings: Any) -> Channel[Any]:
    """A channel whose one token was taken."""
    channel = Channel[Any](capacity, rate=Rate(NEVER), **settings)
    channel.send_nowait(0)
    channel.recv()
    return channel


@everywhere
def test_a_send_with_a_token_is_ready_and_takes_it(do_select: Select) -> None:
    channel = Channel[int](9, rate=Rate(NEVER, burst=2))
    with channel.sender() as sender:
        assert do_select(Channel[int](), (sender, 1)) == (1, None, sender, False)
        assert select_nowait((sender, 2)) == (0, None, sender, False)
        assert select_nowait((sender, 3), Channel[int]()) is None
        with pytest.raises(TimeoutError):
            do_select((sender, 3), timeout=0)
        with pytest.raises(TimeoutError):
            do_select((sender, 3), Channel[int](), timeout=0.01)
    assert list(channel) == [1, 2]


@everywhere
def test_a_case_that_was_not_taken_takes_no_token(do_select: Select) -> None:
    channel = Channel[int](9, rate=Rate(NEVER))
    full = Channel[int](0, rate=Rate(NEVER))
    assert do_select(filled(1, 7), (channel, 1), priority=True).index == 0
    assert select_nowait((full, 2)) is None
    with pytest.raises(TimeoutError):
        do_select((full, 2), timeout=0.01)
    channel.send_nowait(3)
    receiver = go(full.recv)
    full.send(4, timeout=LIMIT)
    assert (channel.recv(), receiver.result(timeout=LIMIT)) == (3, 4)


@everywhere
@pytest.mark.parametrize("capacity", [0, 1, 9, None])
def test_a_send_becomes_ready_when_its_token_comes(
    do_select: Select, capacity: int | None, threads: Any
) -> None:
    channel = Channel[int](capacity, rate=Rate(100))
    got: list[int] = []
    threads.start(lambda: got.extend(channel))
    start = time.monotonic()
    for number in range(4):
        assert do_select((channel, number), Channel[int]()).index == 0
    assert time.monotonic() - start >= 0.03
    channel.close()
    threads.join()
    assert got == [0, 1, 2, 3]


def test_selects_and_senders_wait_for_tokens_in_the_order_they_came(wait_until: Any) -> None:
    channel = Channel[int](100, rate=Rate(20))
    channel.send(-1)
    ways: list[Callable[[int], Any]] = [
        channel.send,
        lambda value: select((channel, value), Channel[int]()),
        lambda value: go(awaits_select, Channel[int](), (channel, value)).result(),
    ]
    for number in range(9):
        go(ways[number % 3], number)
        wait_until(lambda n=number: channel.stats().send_waits > n or channel.stats().sent > n + 1)
    assert [channel.recv(timeout=LIMIT) for _ in range(10)] == list(range(-1, 9))


@selects_as_a_task
@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("end", ["another case", "cancel", "timeout", "close"])
def test_a_select_that_ends_otherwise_passes_its_turn_on(
    function: Any, tokens: int, end: str, wait_until: Any
) -> None:
    channel = Channel[int](1, rate=Rate(NEVER, burst=1 + tokens))
    channel.send_nowait(0)  # full: the select waits for room, or for a token
    other = Channel[int]()
    options = {"timeout": 0.05} if end == "timeout" else {}
    task = parked(wait_until, function, (channel, 1), other, **options)
    behind = go(channel.send, 2)
    if end == "another case":
        other.send(7)
        assert task.result(timeout=LIMIT) == (1, 7, other, False)
    elif end == "close":
        other.close()
        assert task.result(timeout=LIMIT) == (1, None, other, True)
    else:
        if end == "cancel":
            wait_until(lambda: channel.stats().send_waits >= 2)
            task.cancel()
        with pytest.raises(Cancelled if end == "cancel" else TimeoutError):
            task.result(timeout=LIMIT)
    if tokens:
        assert channel.recv() == 0
        behind.result(timeout=LIMIT)
        assert channel.recv() == 2
    else:
        behind.cancel()
        with pytest.raises(Cancelled):
            behind.result(timeout=LIMIT)
    with pytest.raises(Full, match="rate"):
        channel.send_nowait(3)


@selects_as_a_task
@pytest.mark.parametrize("in_line", [False, True])
def test_a_close_reaches_a_select_that_waits_for_a_token(
    function: Any, in_line: bool, wait_until: Any
) -> None:
    channel = without_a_token()
    ahead = go(channel.send, 1) if in_line else None
    wait_until(lambda: channel.stats().send_waits == in_line)
    task = parked(wait_until, function, Channel[int](), (channel, 2))
    channel.close()
    with pytest.raises(ChannelClosed, match="case 1"):
        task.result(timeout=LIMIT)
    if ahead is not None:
        with pytest.raises(ChannelClosed):
            ahead.result(timeout=LIMIT)
    with pytest.raises(ChannelClosed):
        select_nowait((channel, 3))


@selects_as_a_task
def test_the_turn_reaches_a_select_that_goes_on_to_wait_for_its_token(function: Any, wait_until: Any) -> None:
    channel, other = without_a_token(), Channel[int]()
    ahead = go(channel.send, 1)
    wait_until(lambda: channel.stats().send_waits == 1)
    task = parked(wait_until, function, (channel, 2), other)
    waited = waits(other)
    ahead.cancel()
    wait_until(lambda: waits(other) > waited)  # with the turn it stands in the other line once more
    assert not task.done()
    other.send(7)
    assert task.result(timeout=LIMIT).index == 1


@selects_as_a_task
def test_cases_on_one_channel_share_a_turn(function: Any, wait_until: Any) -> None:
    channel = Channel[int](1, rate=Rate(NEVER, burst=9))
    channel.send_nowait(0)
    seen = Counter[int]()
    for _ in range(8):
        waited = channel.stats().send_waits
        task = go(function, (channel, 1), (channel, 2))
        wait_until(lambda n=waited: channel.stats().send_waits > n)
        channel.recv()
        seen[task.result(timeout=LIMIT).index] += 1
    assert sum(seen.values()) == 8
    assert channel.recv() in (1, 2)
    with pytest.raises(Full, match="rate"):
        channel.send_nowait(3)


@everywhere
def test_a_select_may_meet_itself_on_no_channel_with_a_rate(do_select: Select) -> None:
    channel = Channel[int](0, rate=Rate(NEVER))
    with pytest.raises(TimeoutError):
        do_select(channel, (channel, 1), timeout=0.01)
    receiver = go(channel.recv)
    assert do_select((channel, 1), timeout=LIMIT).index == 0
    assert receiver.result(timeout=LIMIT) == 1


@everywhere
def test_a_send_that_drops_waits_for_its_token(do_select: Select) -> None:
    overflow: Any
    for overflow, left in ("drop_newest", [0]), ("drop_oldest", [1]):
        channel = Channel[int](1, overflow=overflow, rate=Rate(200))
        channel.send(0)
        assert select_nowait((channel, 1)) is None
        assert do_select((channel, 1), Channel[int](), timeout=LIMIT).index == 0
        assert channel.stats().dropped == 1
        assert channel.recv_many(9) == left


@pytest.mark.parametrize("closes", [False, True])
def test_the_turn_of_a_select_that_asyncio_cancelled_is_passed_on(closes: bool, wait_until: Any) -> None:
    channel = Channel[int](1, rate=Rate(NEVER, burst=2))
    channel.send_nowait(0)

    async def main() -> None:
        task = asyncio.ensure_future(awaits_select((channel, 1), Channel[int]()))
        while channel.stats().send_waits < 2:  # for the turn, then for room
            await asyncio.sleep(0)
            if channel.stats().send_waits == 1:
                break
        if closes:
            return  # asyncio.run cancels it
        assert channel.recv() == 0  # and so the select has sent, and is told later
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    if closes:
        assert channel.recv() == 0
        channel.send_nowait(2)
        assert channel.recv() == 2
    else:
        assert channel.recv() == 1, "it was delivered, once"
    with pytest.raises(Full, match="rate"):
        channel.send_nowait(3)


def test_selects_and_senders_on_channels_with_a_rate_lose_nothing(threads: Any) -> None:
    lanes = [Channel[int](1, rate=Rate(1e5, burst=3)) for _ in range(3)]
    numbers = range(200)
    got = Channel[int](None)

    def sends(first: int) -> None:
        for number in numbers[first::4]:
            if first == 0:
                lanes[number % 3].send(number)
            elif first == 1:
                while select_nowait(*((lane, number) for lane in lanes)) is None:
                    yield_now()
            else:
                select(*((lane, number) for lane in lanes))

    async def sends_awaited(first: int) -> None:
        for number in numbers[first::4]:
            await aselect(*((lane, number) for lane in lanes))

    def receives() -> None:
        for _ in numbers:
            got.send(select(*lanes, timeout=LIMIT).value or 0)

    tasks = [go(receives), go(sends, 0), go(sends, 1), go(sends_awaited, 3)]
    threads.start(sends, 2)
    for task in tasks:
        task.result(timeout=LIMIT)
    threads.join()
    got.close()
    assert sorted(got) == list(numbers)


def test_a_select_that_waits_for_a_token_is_no_deadlock(run_program: Any) -> None:
    result = run_program("""
        import penstock

        channel = penstock.Channel(10, rate=penstock.Rate(0.7))
        channel.send(1)
        print(penstock.select((channel, 2), penstock.Channel()).index)
    """)
    assert (result.stdout, result.stderr) == ("0\n", "")
