"""Bounded and rendezvous channels: order, waiting, closing, from tasks and from ordinary threads."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import re
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from penstock import Cancelled, Channel, ChannelClosed, Empty, Full, Group, go

LIMIT = 30.0  # seconds; only a hang reaches it


class Marker:
    """An object that can be weakly referenced."""


def in_a_task(function: Callable[[], object]) -> object:
    return go(function).result(timeout=LIMIT)


def in_the_thread(function: Callable[[], object]) -> object:
    return function()


everywhere = pytest.mark.parametrize("place", [in_the_thread, in_a_task])
Place = Callable[[Callable[[], object]], object]


# Making one


@pytest.mark.parametrize("capacity", [-1, -(2**70)])
def test_a_negative_capacity_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=rf"capacity.*{capacity}"):
        Channel[int](capacity)


def test_a_capacity_that_no_memory_is_there_for_is_refused(run_program: Any) -> None:
    with pytest.raises(ValueError, match=r"capacity must be None or an int from 0 to \d+, not 4294967296"):
        Channel[int](1 << 32)
    run_program(
        """
        import resource, penstock
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        try:
            penstock.Channel(4_000_000_000)
        except MemoryError as error:
            print(error)
        """,
        stdout="there is no memory for a channel with capacity=4000000000\n",
    )


def test_a_name_is_a_string_or_none() -> None:
    assert Channel[int](name="lines").name == "lines"
    assert Channel[int]().name is None
    with pytest.raises(TypeError, match="name must be None or a string, not 3"):
        Channel[int](name=3)  # type: ignore[arg-type]


def test_the_default_is_a_rendezvous() -> None:
    channel = Channel[int]()
    assert channel.capacity == 0
    assert len(channel) == 0
    assert not channel.closed


def test_capacity_and_length_are_as_asked() -> None:
    channel = Channel[int](capacity=3)
    assert channel.capacity == 3
    for i in range(3):
        assert len(channel) == i
        channel.send(i)
    assert len(channel) == 3


def test_the_repr_has_the_name_the_id_and_the_state() -> None:
    channel = Channel[int](2, name="lines")
    channel.send(1)
    assert re.fullmatch(r"<penstock\.Channel 'lines' at 0x[0-9a-f]+: open, 1/2>", repr(channel))
    assert repr(channel) != repr(Channel[int](2, name="lines"))
    channel.close()
    assert repr(channel).endswith(": closed, 1/2>")
    assert re.fullmatch(r"<penstock\.Channel at 0x[0-9a-f]+: open, 0/0>", repr(Channel[int]()))


def test_what_is_not_there_yet_is_absent_and_not_stubbed() -> None:
    for name in ("send_many", "recv_many", "asend_many", "arecv_many", "on_pressure"):
        assert not hasattr(Channel, name)
    for argument in ("overflow", "rate"):
        with pytest.raises(TypeError, match=argument):
            Channel[int](1, **{argument: None})


def test_a_channel_is_weakly_referenceable_and_is_neither_copied_nor_pickled() -> None:
    channel = Channel[int](1)
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Channel"):
            refused(channel)
    reference = weakref.ref(channel)
    assert reference() is channel
    del channel
    gc.collect()
    assert reference() is None


# Order and hand-over


@everywhere
@pytest.mark.parametrize("capacity", [1, 2, 7, 64])
def test_items_come_out_in_the_order_they_went_in(place: Place, capacity: int) -> None:
    channel = Channel[int](capacity)

    def body() -> list[int]:
        got: list[int] = []
        for turn in range(5):  # past the end of the ring
            for i in range(capacity):
                channel.send(turn * capacity + i)
            got.extend(channel.recv() for _ in range(capacity))
        return got

    assert place(body) == list(range(5 * capacity))


@pytest.mark.parametrize("capacity", [0, 1, 16])
def test_a_task_and_a_thread_pass_every_item_once_in_order(capacity: int) -> None:
    there, back = Channel[int](capacity), Channel[int](capacity)

    def forward() -> None:
        for value in there:
            back.send(value)
        back.close()

    def produce() -> None:
        for i in range(1000):
            there.send(i)
        there.close()

    tasks = [go(forward), go(produce)]
    assert list(back) == list(range(1000))
    for task in tasks:
        task.result(timeout=LIMIT)


def test_any_object_may_be_sent_and_comes_out_as_the_same_object() -> None:
    channel = Channel[Any](4)
    for value in (None, Marker(), channel, Exception):
        channel.send(value)
        assert channel.recv() is value


@everywhere
def test_a_rendezvous_waits_until_the_item_is_taken(place: Place, wait_until: Any) -> None:
    channel = Channel[str]()
    sender = go(channel.send, "item")
    wait_until(lambda: channel.stats().send_waits == 1)
    assert not sender.done()
    assert len(channel) == 0
    assert place(lambda: channel.recv(timeout=LIMIT)) == "item"
    assert sender.result(timeout=LIMIT) is None


def test_blocked_receivers_are_served_in_order(wait_until: Any) -> None:
    channel = Channel[int]()
    receivers = []
    for i in range(20):
        receivers.append(go(channel.recv))
        wait_until(lambda n=i: channel.stats().recv_waits == n + 1)
    for i in range(20):
        channel.send(i, timeout=LIMIT)
    assert [receiver.result(timeout=LIMIT) for receiver in receivers] == list(range(20))


@pytest.mark.parametrize("capacity", [0, 1, 4])
def test_blocked_senders_are_served_in_order(wait_until: Any, capacity: int) -> None:
    channel = Channel[int](capacity)
    for i in range(capacity):
        channel.send(i)
    senders = []
    for i in range(20):
        senders.append(go(channel.send, capacity + i))
        wait_until(lambda n=i: channel.stats().send_waits == n + 1)
    assert [channel.recv(timeout=LIMIT) for _ in range(capacity + 20)] == list(range(capacity + 20))
    for sender in senders:
        sender.result(timeout=LIMIT)


def test_blocked_threads_and_tasks_stand_in_one_line(wait_until: Any, threads: Any) -> None:
    channel = Channel[int]()
    for i in range(6):
        if i % 2:
            threads.start(channel.send, i)
        else:
            go(channel.send, i)
        wait_until(lambda n=i: channel.stats().send_waits == n + 1)
    assert [channel.recv(timeout=LIMIT) for _ in range(6)] == list(range(6))


def test_a_freed_slot_belongs_to_the_longest_blocked_sender(wait_until: Any) -> None:
    channel = Channel[str](1)
    channel.send("first")
    blocked = go(channel.send, "second")
    wait_until(lambda: channel.stats().send_waits == 1)
    assert channel.recv() == "first"
    with pytest.raises(Full):
        channel.send_nowait("overtaking")
    assert channel.recv(timeout=LIMIT) == "second"
    blocked.result(timeout=LIMIT)
    channel.send_nowait("now there is room")


# Without waiting


@everywhere
def test_nowait_calls_say_full_and_empty(place: Place) -> None:
    channel = Channel[int](2)

    def body() -> None:
        with pytest.raises(Empty):
            channel.recv_nowait()
        channel.send_nowait(1)
        channel.send_nowait(2)
        with pytest.raises(Full):
            channel.send_nowait(3)
        assert channel.recv_nowait() == 1
        assert channel.recv_nowait() == 2
        with pytest.raises(Empty):
            channel.recv_nowait()

    place(body)


@everywhere
def test_nowait_calls_on_a_rendezvous_need_a_waiting_peer(place: Place) -> None:
    channel = Channel[int]()

    def body() -> None:
        with pytest.raises(Full):
            channel.send_nowait(1)
        with pytest.raises(Empty):
            channel.recv_nowait()

    place(body)


def test_nowait_calls_meet_a_waiting_peer(wait_until: Any) -> None:
    channel = Channel[int]()

    def succeeds(call: Callable[[], object]) -> bool:
        try:
            call()
        except (Full, Empty):
            return False
        return True

    receiver = go(channel.recv)
    wait_until(lambda: succeeds(lambda: channel.send_nowait(1)))
    assert receiver.result(timeout=LIMIT) == 1
    sender = go(channel.send, 2)
    got: list[int] = []
    wait_until(lambda: succeeds(lambda: got.append(channel.recv_nowait())))
    assert got == [2]
    sender.result(timeout=LIMIT)


# Timeouts


@everywhere
@pytest.mark.parametrize("timeout", [0, 0.02])
@pytest.mark.parametrize("capacity", [0, 1])
def test_a_send_that_timed_out_never_appears(place: Place, timeout: float, capacity: int) -> None:
    channel = Channel[int](capacity)
    for i in range(capacity):
        channel.send(i)

    def body() -> None:
        with pytest.raises(TimeoutError):
            channel.send(99, timeout=timeout)

    place(body)
    assert len(channel) == capacity
    channel.close()
    assert list(channel) == list(range(capacity))


@everywhere
@pytest.mark.parametrize("timeout", [0, 0.02])
@pytest.mark.parametrize("capacity", [0, 1])
def test_a_receive_that_timed_out_loses_nothing(place: Place, timeout: float, capacity: int) -> None:
    channel = Channel[int](capacity)

    def body() -> None:
        with pytest.raises(TimeoutError):
            channel.recv(timeout=timeout)

    place(body)
    sender = go(channel.send, 5)
    assert channel.recv(timeout=LIMIT) == 5
    sender.result(timeout=LIMIT)


@everywhere
def test_a_timeout_of_zero_tries_once(place: Place) -> None:
    channel = Channel[int](1)

    def body() -> object:
        channel.send(1, timeout=0)
        return channel.recv(timeout=0)

    assert place(body) == 1


def test_a_wait_with_a_timeout_still_gets_its_item() -> None:
    channel = Channel[int]()
    receiver = go(channel.recv, timeout=LIMIT)
    channel.send(1, LIMIT)
    assert receiver.result(timeout=LIMIT) == 1


@everywhere
def test_a_bad_timeout_names_the_argument_and_its_value(place: Place) -> None:
    channel = Channel[int](1)

    def body() -> None:
        with pytest.raises(ValueError, match=r"timeout.*-2"):
            channel.send(1, timeout=-2)
        with pytest.raises(ValueError, match=r"timeout.*-2"):
            channel.recv(timeout=-2)
        with pytest.raises(ValueError, match="timeout"):
            channel.recv(timeout=float("nan"))
        with pytest.raises(TypeError, match="timeout"):
            channel.recv(timeout="1")  # type: ignore[arg-type]
        assert len(channel) == 0

    place(body)


def test_wrong_arguments_are_type_errors() -> None:
    channel: Any = Channel[int](1)
    calls: tuple[Callable[[], object], ...] = (
        lambda: channel.send(),
        lambda: channel.send(1, 2, 3),
        lambda: channel.send(1, wait=2),
        lambda: channel.recv(1, 2),
        lambda: channel.recv(limit=1),
        lambda: channel.send_nowait(),
        lambda: channel.recv_nowait(1),
    )
    for call in calls:
        with pytest.raises(TypeError):
            call()
    assert len(channel) == 0


# Closing


@everywhere
@pytest.mark.parametrize("capacity", [0, 2])
def test_sending_on_a_closed_channel_fails_and_close_is_idempotent(place: Place, capacity: int) -> None:
    channel = Channel[int](capacity)
    channel.close()
    channel.close()
    assert channel.closed

    def body() -> None:
        with pytest.raises(ChannelClosed):
            channel.send(1)
        with pytest.raises(ChannelClosed):
            channel.send(1, timeout=0)
        with pytest.raises(ChannelClosed):
            channel.send_nowait(1)

    place(body)


@everywhere
def test_receiving_drains_what_is_left_then_says_closed(place: Place) -> None:
    channel = Channel[int](3)
    for i in range(3):
        channel.send(i)
    channel.close()

    def body() -> list[int]:
        got = [channel.recv(), channel.recv_nowait(), channel.recv(timeout=0)]
        for receive in (channel.recv, channel.recv_nowait, lambda: channel.recv(timeout=1)):
            with pytest.raises(ChannelClosed):
                receive()
        return got

    assert place(body) == [0, 1, 2]


@pytest.mark.parametrize("capacity", [0, 2])
def test_close_wakes_every_blocked_receiver(wait_until: Any, threads: Any, capacity: int) -> None:
    channel = Channel[int](capacity)
    tasks = [go(channel.recv) for _ in range(10)]

    def expect_closed() -> None:
        with pytest.raises(ChannelClosed):
            channel.recv()

    for _ in range(3):
        threads.start(expect_closed)
    wait_until(lambda: channel.stats().recv_waits == 13)
    channel.close()
    for task in tasks:
        assert isinstance(task.exception(timeout=LIMIT), ChannelClosed)
    threads.join()


@pytest.mark.parametrize("capacity", [0, 2])
def test_close_fails_every_blocked_sender_and_keeps_only_what_was_sent(
    wait_until: Any, threads: Any, capacity: int
) -> None:
    channel = Channel[int](capacity)
    for i in range(capacity):
        channel.send(i)
    tasks = [go(channel.send, 100 + i) for i in range(10)]

    def expect_closed() -> None:
        with pytest.raises(ChannelClosed):
            channel.send(200)

    for _ in range(3):
        threads.start(expect_closed)
    wait_until(lambda: channel.stats().send_waits == 13)
    channel.close()
    for task in tasks:
        assert isinstance(task.exception(timeout=LIMIT), ChannelClosed)
    threads.join()
    assert list(channel) == list(range(capacity))


@everywhere
def test_iteration_ends_when_closed_and_drained(place: Place) -> None:
    channel = Channel[int](3)

    def produce() -> None:
        for i in range(50):
            channel.send(i)
        channel.close()

    producer = go(produce)
    assert place(lambda: list(channel)) == list(range(50))
    producer.result(timeout=LIMIT)
    assert place(lambda: list(channel)) == []


def test_several_iterators_share_the_items() -> None:
    channel = Channel[int](4)
    consumers = [go(list, channel) for _ in range(4)]
    for i in range(400):
        channel.send(i, timeout=LIMIT)
    channel.close()
    parts: list[list[int]] = [consumer.result(timeout=LIMIT) for consumer in consumers]
    assert sorted(value for part in parts for value in part) == list(range(400))
    assert all(part == sorted(part) for part in parts)


# Cancellation


def test_a_cancelled_receive_loses_nothing(wait_until: Any) -> None:
    channel = Channel[int]()
    for i in range(50):
        cancelled = go(channel.recv)
        wait_until(lambda n=i: channel.stats().recv_waits >= n + 1)
        sender = go(channel.send, i)
        cancelled.cancel()
        try:
            got = cancelled.result(timeout=LIMIT)
        except Cancelled:
            got = channel.recv(timeout=LIMIT)
        assert got == i
        sender.result(timeout=LIMIT)


@pytest.mark.parametrize("capacity", [0, 1])
def test_a_cancelled_send_is_delivered_or_raises_cancelled_never_both(capacity: int) -> None:
    channel = Channel[int](capacity)
    senders = [go(channel.send, i) for i in range(200)]
    got: list[int] = []
    for i, sender in enumerate(senders):
        if i % 2:
            sender.cancel()
        if i % 3 == 0:
            got.append(channel.recv(timeout=LIMIT))
    for sender in senders:
        sender.cancel()
    delivered: set[int] = set()
    for i, sender in enumerate(senders):
        try:
            sender.result(timeout=LIMIT)
        except Cancelled:
            continue
        delivered.add(i)
    channel.close()
    got.extend(channel)
    assert len(got) == len(set(got))
    assert set(got) == delivered


def test_a_cancelled_waiter_passes_its_turn_to_the_next(wait_until: Any) -> None:
    channel = Channel[int](1)
    receivers = []
    for i in range(3):
        receivers.append(go(channel.recv))
        wait_until(lambda n=i: channel.stats().recv_waits == n + 1)
    receivers[0].cancel()
    with pytest.raises(Cancelled):
        receivers[0].result(timeout=LIMIT)
    channel.send(1, timeout=LIMIT)
    assert receivers[1].result(timeout=LIMIT) == 1
    channel.send(2, timeout=LIMIT)
    assert receivers[2].result(timeout=LIMIT) == 2


# Many ends


@pytest.mark.parametrize("capacity", [0, 1, 8, 256])
def test_many_tasks_and_threads_lose_and_double_nothing(capacity: int, threads: Any, wait_until: Any) -> None:
    channel = Channel[tuple[int, int]](capacity)
    producers, per_producer = 8, 250
    results: list[list[tuple[int, int]]] = []

    def produce(me: int) -> None:
        for i in range(per_producer):
            channel.send((me, i))

    async def aproduce(me: int) -> None:
        for i in range(per_producer):
            await channel.asend((me, i))

    def consume() -> None:
        results.append(list(channel))

    async def aconsume() -> None:
        results.append([item async for item in channel])

    consumers = [go(consume), go(consume), go(aconsume), go(aconsume)]
    threads.start(consume)
    senders = []
    for me in range(producers):
        if me % 4 == 0:
            threads.start(produce, me)
        else:
            senders.append(go(aproduce, me) if me % 2 else go(produce, me))
    for sender in senders:
        sender.result(timeout=LIMIT)

    wait_until(lambda: channel.stats().sent == producers * per_producer)
    channel.close()
    for consumer in consumers:
        consumer.result(timeout=LIMIT)
    threads.join()
    counted = Counter(item for result in results for item in result)
    assert counted == Counter((me, i) for me in range(producers) for i in range(per_producer))
    for result in results:
        for me in range(producers):
            mine = [i for producer, i in result if producer == me]
            assert mine == sorted(mine), "one sender's items came out of order"


def test_the_stats_count_what_went_through(wait_until: Any) -> None:
    channel = Channel[int](2)
    names = {field.name for field in dataclasses.fields(channel.stats())}
    assert {"sent", "received", "dropped", "send_waits", "recv_waits"} <= names
    channel.send(1)
    channel.send_nowait(2)
    with pytest.raises(Full):
        channel.send_nowait(3)
    blocked = go(channel.send, 3)
    wait_until(lambda: channel.stats().send_waits == 1)
    assert [channel.recv() for _ in range(3)] == [1, 2, 3]
    blocked.result(timeout=LIMIT)
    stats = channel.stats()
    assert (stats.sent, stats.received, stats.dropped) == (3, 3, 0)
    assert (stats.send_waits, stats.recv_waits) == (1, 0)
    receiver = go(channel.recv)
    wait_until(lambda: channel.stats().recv_waits == 1)
    channel.send(4)
    receiver.result(timeout=LIMIT)
    assert channel.stats().received == 4


# What a channel keeps alive


def test_an_item_is_held_exactly_as_long_as_it_is_in_the_channel() -> None:
    channel = Channel[Marker](2)
    item = Marker()
    dead = weakref.ref(item)
    channel.send(item)
    del item
    gc.collect()
    assert dead() is not None
    channel.recv()
    gc.collect()
    assert dead() is None


def test_items_are_dropped_with_their_channel() -> None:
    channel = Channel[Marker](2)
    item = Marker()
    dead = weakref.ref(item)
    channel.send(item)
    del item, channel
    gc.collect()
    assert dead() is None


def test_the_item_of_a_failed_send_is_released() -> None:
    channel = Channel[Marker]()
    item = Marker()
    dead = weakref.ref(item)
    with pytest.raises(TimeoutError):
        channel.send(item, timeout=0.001)
    with pytest.raises(Full):
        channel.send_nowait(item)
    del item
    gc.collect()
    assert dead() is None


def test_a_cycle_through_a_channel_is_collected() -> None:
    class Owner:
        def __init__(self) -> None:
            self.channel = Channel[Any](1)
            self.channel.send(self)

    owner = Owner()
    dead = weakref.ref(owner)
    del owner
    gc.collect()
    assert dead() is None


@everywhere
def test_items_whose_finalizer_uses_the_channel_do_no_harm(place: Place) -> None:
    channel = Channel[Any](4)

    class Resender:
        def __del__(self) -> None:
            channel.send_nowait("from a finalizer")

    def body() -> None:
        channel.send(Resender())
        channel.recv()
        gc.collect()

    place(body)
    assert channel.recv(timeout=LIMIT) == "from a finalizer"


def test_a_group_of_stages_ends_by_closing_its_channels() -> None:
    numbers, squares = Channel[int](4), Channel[int](4)
    got: list[int] = []

    def produce() -> None:
        for i in range(100):
            numbers.send(i)
        numbers.close()

    def square() -> None:
        for n in numbers:
            squares.send(n * n)
        squares.close()

    with Group() as group:
        group.go(produce)
        group.go(square)
        group.go(lambda: got.extend(squares))
    assert got == [i * i for i in range(100)]
