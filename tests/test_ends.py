"""Directional ends of channels: what the last sender and the last receiver do as they go, and when an end has gone."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import penstock
import pytest
from penstock import Cancelled, Channel, ChannelClosed, Empty, Full, Group, Rate, Receiver, Sender, go

LIMIT = 30.0  # seconds; only a hang reaches it

capacities = pytest.mark.parametrize("capacity", [0, 1, 3])


class Marker:
    """An object that can be weakly referenced."""


def in_a_task(function: Callable[[], object]) -> object:
    return go(function).result(timeout=LIMIT)


def in_the_thread(function: Callable[[], object]) -> object:
    return function()


def is_closed(channel: Channel[Any]) -> bool:
    """For a type checker, which takes a property for what it was the line before."""
    return channel.closed


everywhere = pytest.mark.parametrize("place", [in_the_thread, in_a_task])
Place = Callable[[Callable[[], object]], object]


# What goes through them


@everywhere
def test_what_a_sender_sends_a_receiver_gets(place: Place) -> None:
    channel = Channel[int](2)
    sender, receiver = channel.sender(), channel.receiver()

    def body() -> object:
        sender.send(1)
        sender.send_nowait(2)
        with pytest.raises(Full):
            sender.send_nowait(3)
        with pytest.raises(TimeoutError, match="the channel stayed full"):
            sender.send(3, timeout=0)
        assert (len(sender), len(receiver), len(channel)) == (2, 2, 2)
        got = [receiver.recv(), receiver.recv_nowait()]
        with pytest.raises(Empty):
            receiver.recv_nowait()
        with pytest.raises(TimeoutError, match="the channel stayed empty"):
            receiver.recv(timeout=0.001)
        return got

    assert place(body) == [1, 2]


@capacities
def test_ends_wait_as_their_channel_does(capacity: int, threads: Any) -> None:
    channel = Channel[int](capacity)
    sender, receiver = channel.sender(), channel.receiver()
    got: list[int] = []

    def produce() -> None:
        with sender:
            for i in range(100):
                sender.send(i)

    threads.start(produce)
    consumer = go(lambda: got.extend(receiver))
    consumer.result(timeout=LIMIT)
    threads.join()
    assert got == list(range(100))


@capacities
def test_ends_are_awaited_as_their_channel_is(capacity: int) -> None:
    channel = Channel[int](capacity)
    sender, receiver = channel.sender(), channel.receiver()

    async def produce() -> None:
        with sender:
            for i in range(100):
                await sender.asend(i)

    async def consume() -> list[int]:
        first = await receiver.arecv()
        return [first] + [value async for value in receiver]

    producer, consumer = go(produce), go(consume)
    assert consumer.result(timeout=LIMIT) == list(range(100))
    producer.result(timeout=LIMIT)


@pytest.mark.parametrize(
    "name",
    [
        *("send", "send_nowait", "asend", "send_many", "asend_many"),
        *("recv", "recv_nowait", "arecv", "recv_many", "arecv_many"),
    ],
)
def test_calls_look_as_those_of_the_channel(name: str) -> None:
    channel = Channel[int](1)
    end: object = channel.sender() if "send" in name else channel.receiver()
    assert inspect.signature(getattr(end, name)) == inspect.signature(getattr(channel, name))
    assert getattr(end, name).__doc__ == getattr(channel, name).__doc__


def test_bad_arguments_are_refused_as_by_the_channel() -> None:
    channel = Channel[Any](1)
    sender, receiver = channel.sender(), channel.receiver()
    with pytest.raises(TypeError, match="missing required argument 'value'"):
        sender.send()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'times'"):
        receiver.recv(times=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="timeout must be"):
        sender.send(1, timeout=-1)
    with pytest.raises(TypeError):
        sender.send_many(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_items must be an int >= 1, not 0"):
        receiver.recv_many(0)
    sender.send(value=1, timeout=None)
    assert receiver.recv(timeout=1) == 1


@everywhere
@pytest.mark.parametrize("make", [list, tuple, iter])
def test_batches_go_through_ends(make: Callable[[range], Any], place: Place) -> None:
    channel = Channel[int](8)
    sender, receiver = channel.sender(), channel.receiver()

    def body() -> object:
        sender.send_many(make(range(5)))
        return receiver.recv_many(3), receiver.recv_many(max_items=9)

    assert place(body) == ([0, 1, 2], [3, 4])


@capacities
def test_awaited_batches_go_through_ends(capacity: int) -> None:
    channel = Channel[int](capacity)
    receiver = channel.receiver()

    async def produce() -> None:
        await channel.sender().asend_many(range(100))  # the end goes with the call, and closes the channel

    async def consume() -> list[int]:
        got: list[int] = []
        with pytest.raises(ChannelClosed, match="the channel is closed"):
            while True:
                got += await receiver.arecv_many(7)
        return got

    producer, consumer = go(produce), go(consume)
    assert consumer.result(timeout=LIMIT) == list(range(100))
    producer.result(timeout=LIMIT)


Sends = Callable[[Sender[Any], object], object]


def awaiting(call: Callable[..., Any]) -> Callable[..., Any]:
    """As a plain call: the awaitable one in a coroutine of its own."""

    def run(*arguments: object) -> Any:
        async def main() -> Any:
            return await call(*arguments)

        return go(main).result(timeout=LIMIT)

    return run


every_send = pytest.mark.parametrize(
    "send",
    [
        Sender.send,
        Sender.send_nowait,
        awaiting(Sender.asend),
        lambda sender, value: sender.send_many([value]),
        lambda sender, value: sender.send_many(iter([value])),
        awaiting(lambda sender, value: sender.asend_many([value])),
    ],
    ids=["send", "nowait", "async", "many", "iterator", "async_many"],
)


@every_send
def test_a_sender_follows_the_policy_of_its_channel(send: Sends) -> None:
    overflow: Any
    for overflow, left in ("drop_newest", 1), ("drop_oldest", 2):
        channel = Channel[int](1, overflow=overflow)
        with channel.sender() as sender:
            send(sender, 1)
            send(sender, 2)
        assert list(channel) == [left]
        assert channel.stats().dropped == 1
    with Channel[int](1, overflow="error").sender() as sender:
        send(sender, 1)
        with pytest.raises(Full, match="the channel is full"):
            send(sender, 2)


@every_send
def test_a_sender_keeps_to_the_rate_and_tells_of_pressure(send: Sends) -> None:
    told: list[tuple[object, str]] = []
    channel = Channel[int](4, rate=Rate(1e-6, burst=2))
    channel.on_pressure(lambda *what: told.append(what), high=0.5, low=0.25)
    sender = channel.sender()
    for value in range(2):
        send(sender, value)
    assert told == [(channel, "high")]
    with pytest.raises(Full):
        sender.send_nowait(2)
    with pytest.raises(TimeoutError, match="rate"):
        sender.send(2, timeout=0)


@pytest.mark.parametrize(
    "receive",
    [
        Receiver.recv,
        Receiver.recv_nowait,
        next,
        awaiting(Receiver.arecv),
        awaiting(anext),
        lambda receiver: receiver.recv_many(1),
        awaiting(lambda receiver: receiver.arecv_many(1)),
        Receiver.close,
        lambda receiver: receiver.__exit__(None, None, None),
    ],
    ids=["recv", "nowait", "next", "async", "anext", "many", "async_many", "close", "exit"],
)
def test_a_receiver_tells_of_pressure(receive: Callable[[Receiver[int]], object]) -> None:
    told: list[tuple[object, str]] = []
    channel = Channel[int](2)
    receiver = channel.receiver()
    channel.on_pressure(lambda *what: told.append(what), high=1, low=0.5)
    channel.send_many([1, 2])
    receive(receiver)
    assert told == [(channel, "high"), (channel, "low")]


# The last sender


@capacities
def test_the_last_sender_to_go_closes_the_channel(capacity: int) -> None:
    channel = Channel[int](capacity)
    first, second = channel.sender(), channel.sender()
    first.close()
    assert not channel.closed
    third = channel.sender()
    second.close()
    assert not is_closed(channel)
    for i in range(capacity):
        third.send(i)
    third.close()
    assert is_closed(channel)
    assert list(channel) == list(range(capacity))


def test_without_a_sender_nobody_closes() -> None:
    channel = Channel[int](1)
    receiver = channel.receiver()
    channel.send(1)
    assert receiver.recv() == 1
    assert not channel.closed


def test_the_channel_itself_is_no_sender() -> None:
    channel = Channel[int](2)
    channel.send(1)
    channel.sender().send(2)
    with pytest.raises(ChannelClosed):
        channel.send(3)
    assert list(channel) == [1, 2]


@pytest.mark.parametrize("kind", ["task", "async task", "thread"])
def test_the_last_sender_wakes_those_who_wait_for_more(kind: str, wait_until: Any, threads: Any) -> None:
    channel = Channel[int]()
    sender = channel.sender()
    receiver = channel.receiver()
    ended: list[str] = []

    def wait() -> None:
        with pytest.raises(ChannelClosed):
            receiver.recv()
        assert list(receiver) == []
        ended.append(kind)

    async def await_() -> None:
        with pytest.raises(ChannelClosed):
            await receiver.arecv()
        assert [value async for value in receiver] == []
        ended.append(kind)

    task = None if kind == "thread" else go(wait if kind == "task" else await_)
    if kind == "thread":
        threads.start(wait)
    wait_until(lambda: channel.stats().recv_waits == 1)
    sender.close()
    threads.join()
    if task is not None:
        task.result(timeout=LIMIT)
    assert ended == [kind]


# The last receiver


@capacities
def test_after_the_last_receiver_sends_raise_and_what_is_left_is_dropped(capacity: int) -> None:
    channel = Channel[Marker](capacity)
    sender = channel.sender()
    first, second = channel.receiver(), channel.receiver()
    left = [Marker() for _ in range(capacity)]
    dead = [weakref.ref(marker) for marker in left]
    while left:
        sender.send(left.pop())
    first.close()
    assert (len(channel), channel.stats().dropped) == (capacity, 0)
    second.close()
    gc.collect()
    assert [ref() for ref in dead] == [None] * capacity
    assert (len(channel), channel.stats().dropped, channel.stats().received) == (0, capacity, 0)
    for send in (sender.send, sender.send_nowait, channel.send):
        with pytest.raises(ChannelClosed, match="the channel is closed"):
            send(Marker())
    with pytest.raises(ChannelClosed):
        channel.recv()


@capacities
def test_the_last_receiver_wakes_blocked_senders_and_gives_their_values_back(
    capacity: int, wait_until: Any, threads: Any
) -> None:
    channel = Channel[int](capacity)
    sender, receiver = channel.sender(), channel.receiver()
    for i in range(capacity):
        sender.send(i)

    def expect_closed() -> None:
        with pytest.raises(ChannelClosed):
            sender.send(-1)

    async def aexpect_closed() -> None:
        with pytest.raises(ChannelClosed):
            await sender.asend(-2)

    tasks = [go(expect_closed), go(aexpect_closed)]
    threads.start(expect_closed)
    wait_until(lambda: channel.stats().send_waits == 3)
    receiver.close()
    threads.join()
    for task in tasks:
        task.result(timeout=LIMIT)
    assert channel.stats().sent == channel.stats().dropped == capacity


@everywhere
def test_a_value_dropped_by_the_last_receiver_may_use_the_channel(place: Place) -> None:
    channel = Channel[Any](3)
    seen: list[object] = []

    class Uses:
        def __del__(self) -> None:
            try:
                channel.send("from a finalizer")
            except ChannelClosed:
                seen.append(len(channel))
            channel.receiver().close()

    def body() -> None:
        receiver = channel.receiver()
        for _ in range(3):
            channel.send(Uses())
        receiver.close()

    place(body)
    assert seen == [2, 1, 0]
    assert channel.stats().dropped == 3


# When an end has gone


def test_a_closed_sender_is_refused_though_the_channel_is_open() -> None:
    channel = Channel[int](5)
    sender, other = channel.sender(), channel.sender()
    sender.close()
    sender.close()  # does nothing
    assert sender.closed
    assert not other.closed
    for send in (sender.send, sender.send_nowait):
        with pytest.raises(ChannelClosed, match=r"^this sender is closed$"):
            send(1)
    with pytest.raises(ChannelClosed, match=r"^this sender is closed$"):
        sender.send_many([1])

    async def later() -> None:
        for operation in (sender.asend(1), sender.asend_many([1])):
            with pytest.raises(ChannelClosed, match=r"^this sender is closed$"):
                await operation

    go(later).result(timeout=LIMIT)
    other.send(2)
    assert channel.recv_nowait() == 2


def test_a_closed_receiver_is_refused_though_the_channel_is_open() -> None:
    channel = Channel[int](5)
    receiver, other = channel.receiver(), channel.receiver()
    channel.send(1)
    receiver.close()
    receiver.close()
    assert receiver.closed
    assert not other.closed
    for receive in (receiver.recv, receiver.recv_nowait):
        with pytest.raises(ChannelClosed, match=r"^this receiver is closed$"):
            receive()
    with pytest.raises(ChannelClosed, match=r"^this receiver is closed$"):
        receiver.recv_many(1)
    assert list(receiver) == []

    async def later() -> None:
        for operation in (receiver.arecv(), receiver.arecv_many(1)):
            with pytest.raises(ChannelClosed, match=r"^this receiver is closed$"):
                await operation
        assert [value async for value in receiver] == []

    go(later).result(timeout=LIMIT)
    assert other.recv() == 1


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_an_operation_made_before_its_end_was_closed_is_refused_when_awaited(overflow: Any) -> None:
    channel = Channel[int](5, overflow=overflow)
    sender, other = channel.sender(), channel.sender()
    receiver, another = channel.receiver(), channel.receiver()
    sends = [sender.asend(1), sender.asend_many([1])]
    receives: list[Any] = [receiver.arecv(), receiver.arecv_many(1)]
    step = receiver.__anext__()
    sender.close()
    receiver.close()

    async def later() -> None:
        for operation in sends:
            with pytest.raises(ChannelClosed, match="this sender is closed"):
                await operation
        assert len(other) == 0
        await other.asend(2)
        for operation in receives:
            with pytest.raises(ChannelClosed, match="this receiver is closed"):
                await operation
        with pytest.raises(StopAsyncIteration):
            await step

    go(later).result(timeout=LIMIT)
    assert another.recv_nowait() == 2


def test_with_closes_at_once_and_lets_the_exception_go_on() -> None:
    channel = Channel[int](5)
    kept: list[object] = []
    with channel.sender() as sender:
        kept.append(sender)
        sender.send(1)
        assert not is_closed(channel)
    assert is_closed(channel)
    other = Channel[int](5)
    sender = other.sender()
    with pytest.raises(KeyError), sender:
        raise KeyError
    assert other.closed


def test_dropping_the_last_reference_closes(wait_until: Any) -> None:
    channel = Channel[int](5)
    sender, other = channel.sender(), channel.sender()
    del sender
    gc.collect()
    assert not channel.closed
    del other
    wait_until(lambda: gc.collect() or channel.closed)
    other_way = Channel[int](5)
    receiver = other_way.receiver()
    other_way.send(1)
    del receiver
    wait_until(lambda: gc.collect() or other_way.closed)
    assert other_way.stats().dropped == 1


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("way", ["positional", "keyword"])
def test_whoever_waits_learns_that_a_worker_dropped_the_last_sender(kind: str, way: str) -> None:
    """Without the GIL too, where what a waiting thread has made is not dropped by others as a rule."""

    def produce(sender: Sender[int]) -> None:
        for i in range(10):
            sender.send(i)

    async def aproduce(sender: Sender[int]) -> None:
        for i in range(10):
            await sender.asend(i)

    for _ in range(20):
        channel = Channel[int](4)
        producer = produce if kind == "plain" else aproduce
        if way == "keyword":
            tasks = [go(producer, sender=channel.sender()) for _ in range(3)]
        else:
            tasks = [go(producer, channel.sender()) for _ in range(3)]
        got: list[int] = []
        with pytest.raises(ChannelClosed):
            while True:
                got.append(channel.recv(timeout=LIMIT))
        assert sorted(got) == sorted([*range(10)] * 3)
        del tasks


def test_a_stored_exception_keeps_the_end_and_with_closes_it() -> None:
    def fail(sender: Sender[int], *, closes: bool) -> None:
        if closes:
            with sender:
                raise KeyError
        raise KeyError

    for closes in (False, True):
        channel = Channel[int](5)
        task = go(fail, channel.sender(), closes=closes)
        error = task.exception(timeout=LIMIT)
        assert isinstance(error, KeyError)
        assert channel.closed is closes
        del task, error


@pytest.mark.thread_unsafe(reason="turns the collector off")
@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("ended_by", ["cancel", "failure", "context"])
def test_a_task_that_was_dropped_with_its_exception_drops_its_ends(
    kind: str, ended_by: str, wait_until: Any
) -> None:
    """Without the GIL too, where the worker that has made the exception sleeps, and no collection runs."""

    def fail() -> None:
        if ended_by == "context":
            try:
                raise KeyError
            except KeyError:
                int("x")
        if ended_by == "failure":
            int("x")

    def produce(sender: Sender[int], gate: Receiver[int]) -> None:
        gate.recv()
        fail()
        sender.send(1)

    async def aproduce(sender: Sender[int], gate: Receiver[int]) -> None:
        await gate.arecv()
        fail()
        await sender.asend(1)

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        channel, gate = Channel[int](), Channel[int](1)
        task = go(produce if kind == "plain" else aproduce, channel.sender(), gate.receiver())
        gate.send(1)
        if ended_by == "cancel":
            wait_until(lambda: channel.stats().send_waits == 1)
            task.cancel()
        wait_until(task.done)
        if ended_by != "cancel":
            task.exception()
        assert not channel.closed
        del task
        wait_until(lambda: channel.closed)
    finally:
        if was_enabled:
            gc.enable()


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_call_keeps_its_end_until_it_is_over(kind: str, wait_until: Any) -> None:
    channel = Channel[int]()

    async def send() -> None:
        await channel.sender().asend(7)

    task = go(send) if kind == "async" else go(lambda: channel.sender().send(7))
    wait_until(lambda: channel.stats().send_waits == 1)
    gc.collect()
    assert channel.recv(timeout=LIMIT) == 7
    task.result(timeout=LIMIT)
    wait_until(lambda: gc.collect() or channel.closed)


def test_who_waits_when_an_end_of_several_is_closed_is_served_still(wait_until: Any) -> None:
    """The call began while the end was open. It ends as any other: served, timed out, cancelled, or with the channel."""
    channel = Channel[int]()
    receiver, other = channel.receiver(), channel.receiver()
    served = go(receiver.recv)
    wait_until(lambda: channel.stats().recv_waits == 1)
    receiver.close()
    channel.send(1, timeout=LIMIT)
    assert served.result(timeout=LIMIT) == 1
    assert not other.closed


def test_an_awaited_batch_that_waits_when_its_end_is_closed_goes_on(wait_until: Any) -> None:
    channel = Channel[int](1)
    sender, other = channel.sender(), channel.sender()

    async def send() -> None:
        await sender.asend_many(range(4))

    task = go(send)
    wait_until(lambda: channel.stats().send_waits == 1)
    sender.close()
    assert [channel.recv(timeout=LIMIT) for _ in range(4)] == [0, 1, 2, 3]
    task.result(timeout=LIMIT)
    other.close()
    assert channel.closed


def test_a_cancelled_or_expired_call_leaves_the_end_open(wait_until: Any) -> None:
    channel = Channel[int]()
    sender, receiver = channel.sender(), channel.receiver()
    task = go(sender.send, 1)
    wait_until(lambda: channel.stats().send_waits == 1)
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    with pytest.raises(TimeoutError):
        receiver.recv(timeout=0.001)
    assert not channel.closed
    task = go(sender.send, 2)
    assert receiver.recv(timeout=LIMIT) == 2
    task.result(timeout=LIMIT)


# After the last


def test_a_sender_that_comes_after_the_last_is_one_of_a_closed_channel() -> None:
    channel = Channel[int](5)
    channel.sender().close()
    late = channel.sender()
    assert late.closed
    with pytest.raises(ChannelClosed, match="the channel is closed"):
        late.send(1)
    late.close()
    late.close()
    with channel.sender():
        pass
    assert channel.closed


def test_a_receiver_that_comes_after_close_drains_what_is_left() -> None:
    channel = Channel[int](5)
    channel.send(1)
    channel.send(2)
    channel.close()
    with channel.receiver() as receiver:
        assert receiver.closed
        assert receiver.recv() == 1
    assert channel.stats().dropped == 1
    assert list(channel.receiver()) == []


def test_a_sender_of_a_closed_channel_changes_nothing() -> None:
    channel = Channel[int](5)
    channel.send(1)
    channel.close()
    channel.sender().close()
    assert list(channel) == [1]


# Of other channels


def test_ends_of_a_channel_without_a_bound(wait_until: Any) -> None:
    channel = Channel[int](None)
    sender, receiver = channel.sender(), channel.receiver()
    for i in range(100):
        sender.send(i)
    assert (len(receiver), receiver.capacity) == (100, None)
    assert repr(sender).endswith(": open, 100/unbounded>")
    assert receiver.recv() == 0
    receiver.close()
    assert channel.stats().dropped == 99
    with pytest.raises(ChannelClosed):
        sender.send(1)


@pytest.mark.parametrize("way", ["plain", "async"])
def test_ends_of_a_ticker(way: str) -> None:
    ticks = penstock.tick(0.001)
    sender, receiver = ticks.sender(), ticks.receiver()
    with pytest.raises(TypeError):
        sender.send(1.0)
    with pytest.raises(TypeError):
        sender.send_many([1.0])

    def plain() -> None:
        assert [receiver.recv(timeout=LIMIT)] < receiver.recv_many(2) < [next(receiver)]
        receiver.close()
        with pytest.raises(ChannelClosed, match="this receiver is closed"):
            receiver.recv()
        with pytest.raises(ChannelClosed, match="this receiver is closed"):
            receiver.recv_many(2)

    async def coroutine() -> None:
        with pytest.raises(TypeError):
            await sender.asend(1.0)
        with pytest.raises(TypeError):
            await sender.asend_many([1.0])
        assert [await receiver.arecv()] < await receiver.arecv_many(2) < [await receiver.__anext__()]
        receiver.close()
        with pytest.raises(ChannelClosed, match="this receiver is closed"):
            await receiver.arecv()
        with pytest.raises(ChannelClosed, match="this receiver is closed"):
            await receiver.arecv_many(2)
        assert [tick async for tick in receiver] == []

    go(plain if way == "plain" else coroutine).result(timeout=LIMIT)
    assert ticks.closed


# Many at once


def test_an_end_that_comes_as_the_last_goes_is_in_time_or_too_late(threads: Any) -> None:
    """Whoever got a sender in time can send with it as long as it has it; whoever did not finds the channel closed."""
    for _ in range(200):
        channel = Channel[int](10)
        last = channel.sender()
        start = threading.Barrier(2)
        sent: list[bool] = []

        def late(
            channel: Channel[int] = channel, start: threading.Barrier = start, sent: list[bool] = sent
        ) -> None:
            start.wait()
            with channel.sender() as sender:
                for _ in range(3):
                    try:
                        sender.send(1)
                    except ChannelClosed:
                        sent.append(False)
                    else:
                        sent.append(True)

        thread = threads.start(late)
        start.wait()
        last.close()
        thread.join()
        assert sent in ([True] * 3, [False] * 3)
        assert channel.closed
        assert len(channel) == sum(sent)
    threads.join()


def test_an_end_closed_by_many_threads_is_counted_once(threads: Any) -> None:
    for _ in range(50):
        channel = Channel[int](1)
        sender, other = channel.sender(), channel.sender()
        start = threading.Barrier(4)

        def close(start: threading.Barrier = start, sender: Sender[int] = sender) -> None:
            start.wait()
            sender.close()

        for _ in range(4):
            threads.start(close)
        threads.join()
        assert not channel.closed
        other.close()
        assert channel.closed


def test_a_hundred_thousand_ends() -> None:
    channel = Channel[int](1)
    ends = [channel.sender() for _ in range(100_000)]
    for end in ends[1:]:
        end.close()
    assert not channel.closed
    del end
    first = ends.pop(0)
    ends.clear()
    first.send(1)
    first.close()
    assert list(channel) == [1]


@capacities
def test_producers_need_not_know_which_of_them_is_the_last(capacity: int, threads: Any) -> None:
    channel = Channel[tuple[int, int]](capacity)

    def produce(me: int, sender: Sender[tuple[int, int]]) -> None:
        with sender:
            for i in range(50):
                sender.send((me, i))

    async def aproduce(me: int, sender: Sender[tuple[int, int]]) -> None:
        with sender:
            for i in range(50):
                await sender.asend((me, i))

    def consume(receiver: Receiver[tuple[int, int]]) -> list[tuple[int, int]]:
        return list(receiver)

    receivers = [channel.receiver() for _ in range(3)]
    senders = [channel.sender() for _ in range(9)]
    consumers = [go(consume, receivers.pop()) for _ in range(3)]
    producers = []
    for me in range(9):
        if me % 3 == 0:
            threads.start(produce, me, senders.pop())
        else:
            producers.append(go(produce if me % 3 == 1 else aproduce, me, senders.pop()))
    got = [item for consumer in consumers for item in consumer.result(timeout=LIMIT)]
    for producer in producers:
        producer.result(timeout=LIMIT)
    threads.join()
    assert sorted(got) == [(me, i) for me in range(9) for i in range(50)]


def test_a_failing_consumer_ends_its_producers() -> None:
    channel = Channel[int](2)

    def produce(sender: Sender[int]) -> None:
        with sender:
            for i in range(1_000_000):
                sender.send(i)

    def consume(receiver: Receiver[int]) -> None:
        with receiver:
            for value in receiver:
                if value == 10:
                    return

    with pytest.raises(ExceptionGroup) as raised, Group() as group:
        group.go(produce, channel.sender())
        group.go(consume, channel.receiver())
    assert [type(error) for error in raised.value.exceptions] == [ChannelClosed]


# Garbage, exit, fork


@pytest.mark.thread_unsafe(reason="one collection at a time finds the garbage of all")
def test_an_end_in_a_cycle_with_its_channel_is_collected() -> None:
    channel = Channel[Any](2)
    sender, receiver = channel.sender(), channel.receiver()
    dead = [weakref.ref(thing) for thing in (channel, sender, receiver)]
    channel.send(sender)
    channel.send(receiver)
    del channel, sender, receiver
    gc.collect()
    assert [ref() for ref in dead] == [None, None, None]


@pytest.mark.thread_unsafe(reason="one collection at a time finds the garbage of all")
def test_an_end_that_the_collector_drops_closes_the_channel() -> None:
    channel = Channel[int](2)

    class Owner:
        def __init__(self) -> None:
            self.me = self
            self.sender = channel.sender()

    owner = Owner()
    dead = weakref.ref(owner)
    assert not channel.closed
    del owner
    gc.collect()
    assert dead() is None
    assert channel.closed


def test_an_end_keeps_its_channel_and_the_channel_no_end() -> None:
    channel = Channel[int](2)
    sender = channel.sender()
    dead = weakref.ref(channel)
    del channel
    gc.collect()
    assert dead() is not None
    sender.send(1)
    del sender
    gc.collect()
    assert dead() is None


def test_ends_that_are_left_at_exit_do_no_harm(run_program: Any) -> None:
    run_program(
        """
        from penstock import Channel, go

        class Item:
            def __del__(self):
                self.channel.receiver()

        channel = Channel(4)
        sender, receiver = channel.sender(), channel.receiver()
        item = Item()
        item.channel = channel
        sender.send(item)
        del item
        full = Channel(0)
        blocked = [go(full.sender().send, 1), go(full.receiver().recv)]
        waiting = Channel(0)
        end = waiting.sender()
        tasks = [go(waiting.recv) for _ in range(3)]
        threading.Thread(target=waiting.recv, daemon=True).start()
        wait_until(lambda: waiting.stats().recv_waits == 4)
        print("over")
        """,
        stdout="over\n",
    )


def test_ends_in_a_forked_child_are_its_own(run_program: Any) -> None:
    run_program(
        """
        import warnings
        from penstock import Channel, ChannelClosed, go
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork.*", category=DeprecationWarning)
        channel = Channel(4)
        sender = channel.sender()
        receiver = channel.receiver()
        sender.send(1)
        blocked = go(Channel(0).receiver().recv)
        waiting = Channel(0)
        only = waiting.sender()
        parked = go(waiting.recv)
        wait_until(lambda: waiting.stats().recv_waits == 1)
        child = os.fork()
        if child == 0:
            only.close()
            sender.close()
            assert list(receiver) == [1]
            with channel.sender() as late:
                try:
                    late.send(2)
                except ChannelClosed:
                    print("child: closed", flush=True)
            fresh = Channel(0)
            task = go(lambda: fresh.sender().send(3))
            assert fresh.recv() == 3
            task.result()
            del only, sender, receiver
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not channel.closed and not parked.done()
        sender.send(2)
        assert [receiver.recv(), receiver.recv()] == [1, 2]
        only.close()
        assert isinstance(parked.exception(timeout=10), ChannelClosed)
        print("parent: open")
        """,
        stdout="child: closed\nparent: open\n",
    )


# As objects


def test_repr_names_the_end_and_its_state() -> None:
    channel = Channel[int](3, name="lines")
    sender, receiver = channel.sender(), channel.receiver()
    sender.send(1)
    assert repr(sender) == f"<penstock.Sender 'lines' at {id(sender):#x}: open, 1/3>"
    assert repr(receiver) == f"<penstock.Receiver 'lines' at {id(receiver):#x}: open, 1/3>"
    sender.close()
    assert repr(sender) == f"<penstock.Sender 'lines' at {id(sender):#x}: closed, 1/3>"
    assert repr(receiver) == f"<penstock.Receiver 'lines' at {id(receiver):#x}: its channel is closed, 1/3>"
    assert repr(Channel[int]().sender()).startswith("<penstock.Sender at 0x")


def test_an_end_shows_what_its_channel_is() -> None:
    channel = Channel[int](3, name="lines")
    for end in (channel.sender(), channel.receiver()):
        assert (end.capacity, end.name, len(end), bool(end)) == (3, "lines", 0, True)
        assert isinstance(end, (penstock.Sender, penstock.Receiver))
        assert weakref.ref(end)() is end
        assert hash(end) == hash(end)
        assert end != channel.sender()
        assert not hasattr(end, "__dict__")


@pytest.mark.parametrize("make", [Channel[int].sender, Channel[int].receiver])
def test_an_end_cannot_be_pickled_or_copied(make: Callable[[Channel[int]], Any]) -> None:
    end = make(Channel[int](1))
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(
            TypeError, match=r"^a (Sender|Receiver) cannot be pickled or copied: it is counted"
        ):
            way(end)


def test_ends_are_made_by_channels_only() -> None:
    for kind in (Sender, Receiver):
        with pytest.raises(TypeError, match="cannot create"):
            kind()
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Derived", (kind,), {})
        assert kind[int].__origin__ is kind


def test_only_what_its_direction_can_do_is_there() -> None:
    channel = Channel[int](1)
    sending = {"send", "send_nowait", "asend", "send_many", "asend_many"}
    receiving = {
        "recv",
        "recv_nowait",
        "arecv",
        "recv_many",
        "arecv_many",
        "__iter__",
        "__aiter__",
        "__next__",
    }
    assert not receiving & set(dir(channel.sender()))
    assert not sending & set(dir(channel.receiver()))
