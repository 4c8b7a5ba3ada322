"""Many items by one call: `send_many`, `recv_many` and their awaitable forms."""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
from penstock import (
    Cancelled,
    Channel,
    ChannelClosed,
    Group,
    after,
    asleep,
    go,
    move_on_after,
    sleep,
    tick,
    timeout,
    yield_now,
)

LIMIT = 30.0  # seconds; only a hang reaches it


class Marker:
    """An object that can be weakly referenced."""


def in_a_task(function: Callable[[], Any]) -> Any:
    return go(function).result(timeout=LIMIT)


def in_the_thread(function: Callable[[], Any]) -> Any:
    return function()


everywhere = pytest.mark.parametrize("place", [in_the_thread, in_a_task])
Place = Callable[[Callable[[], Any]], Any]


def drain(channel: Channel[Any]) -> list[Any]:
    channel.close()
    return list(channel)


# Order, and how many


@everywhere
@pytest.mark.parametrize("make", [list, tuple, iter, lambda items: (item for item in items)])
def test_items_of_any_iterable_go_in_in_order(place: Place, make: Callable[[range], Iterable[int]]) -> None:
    channel = Channel[int](1000)
    assert place(lambda: channel.send_many(make(range(700)))) is None
    assert place(lambda: channel.recv_many(300)) == list(range(300))
    assert place(lambda: channel.recv_many(1000)) == list(range(300, 700))
    assert channel.stats().sent == channel.stats().received == 700


@everywhere
def test_nothing_is_as_good_as_something(place: Place) -> None:
    channel = Channel[int]()
    nothings: list[Iterable[int]] = [[], (), iter([]), set()]
    for nothing in nothings:
        assert place(partial(channel.send_many, nothing)) is None


@pytest.mark.parametrize("capacity", [0, 1, 7, 64, 300])
@pytest.mark.parametrize("make", [list, iter])
def test_more_than_fits_waits_for_room(capacity: int, make: Callable[[range], Iterable[int]]) -> None:
    channel = Channel[int](capacity)
    sender = go(channel.send_many, make(range(2000)))
    got: list[int] = []
    sizes = itertools.cycle([1, 2, 50, 1000])
    while len(got) < 2000:
        got += channel.recv_many(next(sizes))
    assert got == list(range(2000))
    assert sender.result(timeout=LIMIT) is None


def test_a_batch_takes_at_most_what_was_asked_for_and_what_is_there() -> None:
    channel = Channel[int](4)
    channel.send_many([1, 2, 3])
    assert channel.recv_many(1) == [1]
    assert channel.recv_many(sys.maxsize) == [2, 3]
    channel.send_many((4,))
    assert channel.recv_many(max_items=2**70) == [4]


@everywhere
@pytest.mark.parametrize("capacity", [0, 3])
def test_a_batch_receive_waits_for_one_item(place: Place, capacity: int, wait_until: Any) -> None:
    channel = Channel[int](capacity)
    receiver = go(channel.recv_many, 5)
    wait_until(lambda: channel.stats().recv_waits == 1)
    place(lambda: channel.send(1))
    assert receiver.result(timeout=LIMIT) == [1]


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_a_batch_receive_lets_blocked_senders_in_in_order(capacity: int, wait_until: Any) -> None:
    channel = Channel[int](capacity)
    channel.send_many(range(capacity))
    senders = []
    for i in range(6):
        senders.append(go(channel.send, capacity + i))
        wait_until(lambda n=i: channel.stats().send_waits == n + 1)
    got = channel.recv_many(capacity + 4)
    assert got == list(range(capacity + 4))
    for sender in senders[:4]:
        sender.result(timeout=LIMIT)
    assert channel.recv_many(100) == [capacity + 4, capacity + 5]
    for sender in senders:
        sender.result(timeout=LIMIT)


def test_a_batch_send_serves_waiting_receivers_first(wait_until: Any) -> None:
    channel = Channel[int](10)
    receivers = []
    for i in range(3):
        receivers.append(go(channel.recv))
        wait_until(lambda n=i: channel.stats().recv_waits == n + 1)
    channel.send_many(range(5))
    assert [receiver.result(timeout=LIMIT) for receiver in receivers] == [0, 1, 2]
    assert channel.recv_many(5) == [3, 4]


def test_what_is_sent_is_the_object_itself_and_nothing_is_kept() -> None:
    channel = Channel[Any](8)
    markers = [Marker(), None, channel]
    reference = weakref.ref(markers[0])
    channel.send_many(markers)
    got = channel.recv_many(8)
    assert all(one is other for one, other in zip(got, markers, strict=True))
    del got, markers
    gc.collect()
    assert reference() is None


@pytest.mark.thread_unsafe(reason="counts references that other threads would make too")
def test_a_batch_neither_keeps_nor_loses_a_reference() -> None:
    channel, item = Channel[Any](100), Marker()
    items = [item] * 50
    before = sys.getrefcount(item)
    for make in (list, tuple, iter):
        channel.send_many(make(items))
        channel.recv_many(100)
    channel.send_many(items)
    channel.close()
    with pytest.raises(ChannelClosed):
        channel.send_many(items)
    del channel
    gc.collect()
    assert sys.getrefcount(item) == before


def test_batches_of_an_unbounded_channel_never_wait_for_room() -> None:
    channel = Channel[int](None)
    for make in (list, iter):
        channel.send_many(make(range(5000)))
    assert channel.recv_many(10**6) == [*range(5000), *range(5000)]
    assert channel.stats().send_waits == 0


@everywhere
def test_a_channel_of_a_clock_gives_batches_of_one_and_takes_none(place: Place) -> None:
    async def receive_awaited() -> list[float]:
        return await tick(0.001).arecv_many(5)

    def body() -> None:
        assert len(tick(0.001).recv_many(5)) == 1
        once = after(0)
        assert len(once.recv_many(5)) == 1
        with pytest.raises(ChannelClosed):
            once.recv_many(5)
        for refused in (once.send_many, once.asend_many):
            with pytest.raises(TypeError, match="clock"):
                refused([1.0])
        with pytest.raises(ValueError, match="clock"):
            once.on_pressure(print)

    place(body)
    assert len(go(receive_awaited).result(timeout=LIMIT)) == 1


# The iterable does as it likes


@everywhere
def test_what_an_iterable_gave_before_it_failed_stays_sent(place: Place) -> None:
    channel = Channel[int](10)

    def failing() -> Iterator[int]:
        yield from (1, 2, 3)
        raise LookupError("no more pages")

    def body() -> None:
        with pytest.raises(LookupError, match="no more pages"):
            channel.send_many(failing())

    place(body)
    assert drain(channel) == [1, 2, 3]


@everywhere
def test_an_iterable_may_use_the_channel_it_is_sent_to(place: Place) -> None:
    """Each item is sent before the next is asked for: read ahead, this would wait for itself for ever."""
    channel = Channel[int](1)

    def echo() -> Iterator[int]:
        for number in range(500):
            yield number
            assert channel.recv() == number

    place(lambda: channel.send_many(echo()))
    assert len(channel) == 0


def test_an_endless_iterable_ends_with_the_channel() -> None:
    channel = Channel[int](5)
    sender = go(channel.send_many, itertools.count())
    assert [channel.recv() for _ in range(100)] == list(range(100))
    channel.close()
    with pytest.raises(ChannelClosed):
        sender.result(timeout=LIMIT)


def test_an_iterable_may_wait(wait_until: Any) -> None:
    channel, source = Channel[int](10), Channel[int]()
    sender = go(channel.send_many, source)
    for i in range(5):
        source.send(i)
        wait_until(lambda n=i: len(channel) == n + 1)
    source.close()
    sender.result(timeout=LIMIT)
    assert channel.recv_many(10) == [0, 1, 2, 3, 4]


def test_a_list_that_changes_meanwhile_is_sent_as_a_loop_over_it_would(wait_until: Any) -> None:
    channel = Channel[int](1)
    for change, expected in ((list.clear, 400), (lambda items: items.extend([7] * 10), 1010)):
        items = [7] * 1000
        sender = go(channel.send_many, items)
        wait_until(lambda: len(channel) == 1)
        got = 0
        while not sender.done():
            with move_on_after(LIMIT):
                got += len(channel.recv_many(1))
            if got == 1:
                change(items)
            wait_until(lambda: len(channel) == 1 or sender.done())
        got += len(channel)
        while len(channel):
            channel.recv()
        # How far it had read when the list shrank is its own affair, and bounded.
        assert got == expected if expected > 1000 else got <= expected


@pytest.mark.parametrize("nothing_to_read", [3, None, object()])
def test_what_is_no_iterable_is_refused(nothing_to_read: Any) -> None:
    channel = Channel[int](1)
    with pytest.raises(TypeError, match="iterable"):
        channel.send_many(nothing_to_read)
    with pytest.raises(TypeError, match="iterable"):
        _ = channel.asend_many(nothing_to_read)


@pytest.mark.parametrize("call", ["recv_many", "arecv_many"])
def test_a_bad_max_items_names_the_argument_and_its_value(call: str) -> None:
    channel: Any = Channel[int](1)
    channel.send(1)
    for bad in (0, -3, -(2**80)):
        with pytest.raises(ValueError, match=rf"max_items must be an int >= 1, not {bad}"):
            getattr(channel, call)(bad)
    for wrong in (1.5, "3", None):
        with pytest.raises(TypeError, match=r"max_items must be an int >= 1, not"):
            getattr(channel, call)(wrong)
    with pytest.raises(TypeError):
        getattr(channel, call)()
    assert channel.recv_many(1) == [1]


# Closing, cancelling, running out of time


@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("capacity", [0, 3])
def test_a_close_ends_a_batch_send_and_what_was_sent_stays(
    make: Callable[[range], Iterable[int]], capacity: int, wait_until: Any
) -> None:
    channel = Channel[int](capacity)
    sender = go(channel.send_many, make(range(100)))
    wait_until(lambda: channel.stats().send_waits == 1)
    channel.close()
    with pytest.raises(ChannelClosed):
        sender.result(timeout=LIMIT)
    assert list(channel) == list(range(capacity))
    with pytest.raises(ChannelClosed):
        channel.recv_many(1)


def test_a_closed_channel_is_drained_by_batches_too() -> None:
    channel = Channel[int](5)
    channel.send_many(range(5))
    channel.close()
    assert channel.recv_many(3) == [0, 1, 2]
    assert channel.recv_many(3) == [3, 4]
    with pytest.raises(ChannelClosed):
        channel.recv_many(3)


def test_a_close_wakes_a_batch_receive(wait_until: Any) -> None:
    channel = Channel[int](5)
    receiver = go(channel.recv_many, 3)
    wait_until(lambda: channel.stats().recv_waits == 1)
    channel.close()
    with pytest.raises(ChannelClosed):
        receiver.result(timeout=LIMIT)


@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("capacity", [0, 3])
def test_a_cancelled_batch_has_sent_its_beginning_and_no_more(
    make: Callable[[range], Iterable[int]], capacity: int, wait_until: Any
) -> None:
    channel = Channel[int](capacity)
    sender = go(channel.send_many, make(range(100)))
    got = [channel.recv() for _ in range(10)]
    wait_until(lambda: channel.stats().sent >= 10 + capacity and channel.stats().send_waits > 0)
    sender.cancel()
    with pytest.raises(Cancelled):
        sender.result(timeout=LIMIT)
    channel.close()
    got += list(channel)
    assert got == list(range(len(got)))
    assert len(got) in (10 + capacity, 11 + capacity)


def test_a_cancelled_batch_receive_has_taken_nothing(wait_until: Any) -> None:
    channel = Channel[int](5)
    receiver = go(channel.recv_many, 3)
    wait_until(lambda: channel.stats().recv_waits == 1)
    receiver.cancel()
    with pytest.raises(Cancelled):
        receiver.result(timeout=LIMIT)
    channel.send(1)
    assert channel.recv_many(3) == [1]


@everywhere
def test_a_deadline_ends_a_batch_and_what_was_sent_stays(place: Place) -> None:
    channel = Channel[int](3)

    def body() -> None:
        with pytest.raises(TimeoutError), timeout(0.02):
            channel.send_many(range(10))
        assert channel.recv_many(10) == [0, 1, 2]
        with pytest.raises(TimeoutError), timeout(0.02):
            channel.recv_many(10)

    place(body)
    assert len(channel) == 0


def test_control_c_ends_a_batch(run_program: Any) -> None:
    run_program(
        """
        import itertools, signal
        import penstock
        channel = penstock.Channel(3, overflow="drop_oldest")
        full = penstock.Channel(3)

        def interrupt_when(condition):
            def wait():
                wait_until(condition)
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=wait).start()

        for call, condition in (
            (lambda: full.send_many(range(100)), lambda: full.stats().send_waits > 0),
            (lambda: full.send_many(iter(range(100))), lambda: full.stats().send_waits > 1),
            (lambda: channel.send_many(itertools.repeat(1)), lambda: channel.stats().dropped > 100_000),
        ):
            interrupt_when(condition)
            try:
                call()
            except KeyboardInterrupt:
                print("interrupted")
        print(full.recv_many(10))
        """,
        stdout="interrupted\ninterrupted\ninterrupted\n[0, 1, 2]\n",
    )


def test_a_forked_child_sends_and_receives_batches(run_program: Any) -> None:
    run_program(
        """
        import warnings
        import penstock
        warnings.simplefilter("ignore")
        channel = penstock.Channel(4)
        blocked = penstock.go(channel.send_many, list(range(100)))
        wait_until(lambda: channel.stats().send_waits == 1)
        child = os.fork()
        if child == 0:
            assert channel.recv_many(100) == [0, 1, 2, 3]
            channel.send_many([7, 8])
            assert channel.recv_many(100) == [7, 8]
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert [channel.recv() for _ in range(100)] == list(range(100))
        blocked.result()
        """,
    )


# Awaited


@pytest.mark.parametrize("capacity", [0, 1, 64])
@pytest.mark.parametrize("make", [list, tuple, iter])
def test_coroutines_pass_batches(capacity: int, make: Callable[[range], Iterable[int]]) -> None:
    channel = Channel[int](capacity)

    async def send() -> None:
        await channel.asend_many(make(range(1000)))
        channel.close()

    async def receive() -> list[int]:
        got: list[int] = []
        try:
            while True:
                batch = await channel.arecv_many(70)
                assert 1 <= len(batch) <= 70
                got += batch
        except ChannelClosed:
            return got

    sender = go(send)
    assert go(receive).result(timeout=LIMIT) == list(range(1000))
    sender.result(timeout=LIMIT)


def test_a_failing_iterable_fails_an_awaited_batch() -> None:
    channel = Channel[int](10)

    def failing() -> Iterator[int]:
        yield 1
        raise LookupError

    async def send() -> None:
        with pytest.raises(LookupError):
            await channel.asend_many(failing())

    go(send).result(timeout=LIMIT)
    assert drain(channel) == [1]


def test_a_cancelled_coroutine_has_sent_its_beginning(wait_until: Any) -> None:
    channel = Channel[int](3)

    async def send() -> None:
        await channel.asend_many(list(range(10)))

    async def receive() -> None:
        await Channel[int]().arecv_many(3)

    sender, receiver = go(send), go(receive)
    wait_until(lambda: channel.stats().send_waits == 1)
    for task in (sender, receiver):
        task.cancel()
        with pytest.raises(Cancelled):
            task.result(timeout=LIMIT)
    assert drain(channel) == [0, 1, 2]


def test_a_plain_batch_that_would_wait_in_a_coroutine_names_the_awaitable_form() -> None:
    async def body() -> None:
        channel = Channel[int](2)
        channel.send_many([1, 2])
        with pytest.raises(RuntimeError, match=r"await channel\.asend_many\(\)"):
            channel.send_many([3])
        assert channel.recv_many(5) == [1, 2]
        with pytest.raises(RuntimeError, match=r"await channel\.arecv_many\(\)"):
            channel.recv_many(5)

    go(body).result(timeout=LIMIT)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_an_awaitable_that_nobody_awaits_sends_nothing_and_is_freed() -> None:
    channel, marker = Channel[Any](5), Marker()
    reference = weakref.ref(marker)
    operation = channel.asend_many([marker])
    receiving = channel.arecv_many(3)
    del operation, receiving, marker
    gc.collect()
    assert reference() is None
    assert len(channel) == 0


# Many at once


@pytest.mark.parametrize("capacity", [0, 1, 50, 1000])
def test_batches_of_many_threads_and_tasks_lose_and_repeat_nothing(capacity: int, threads: Any) -> None:
    channel = Channel[tuple[int, int]](capacity)
    each, producers = 2000, 4
    got: list[list[tuple[int, int]]] = [[] for _ in range(4)]

    def send(producer: int) -> None:
        items = [(producer, number) for number in range(each)]
        for start in range(0, each, 500):
            part = items[start : start + 500]
            channel.send_many(part if start % 1000 else iter(part))
            yield_now()

    def receive(mine: list[tuple[int, int]]) -> None:
        sizes = itertools.cycle([1, 64, 500])
        while True:
            try:
                mine.extend(channel.recv_many(next(sizes)))
            except ChannelClosed:
                return

    for mine in got[:2]:
        threads.start(receive, mine)
    receivers = [go(receive, mine) for mine in got[2:]]
    with Group() as group:
        for producer in range(producers):
            group.go(send, producer)
    channel.close()
    threads.join()
    for receiver in receivers:
        receiver.result(timeout=LIMIT)
    everything = sorted(itertools.chain.from_iterable(got))
    assert everything == [(producer, number) for producer in range(producers) for number in range(each)]
    for mine in got:
        numbers: defaultdict[int, list[int]] = defaultdict(list)
        for producer, number in mine:
            numbers[producer].append(number)
        assert all(mine == sorted(mine) for mine in numbers.values())


def test_a_million_items_pass() -> None:
    channel = Channel[int](1024)

    def send() -> None:
        channel.send_many(list(range(1_000_000)))
        channel.close()

    sender = go(send)
    count = total = 0
    while True:
        try:
            batch = channel.recv_many(1000)
        except ChannelClosed:
            break
        count += len(batch)
        total += sum(batch)
    assert (count, total) == (1_000_000, 499_999_500_000)
    sender.result(timeout=LIMIT)


def test_sleeping_tasks_go_on_while_batches_pass() -> None:
    channel = Channel[int](10)

    async def tick() -> int:
        await asleep(0.001)
        return 1

    def pass_on() -> int:
        channel.send_many(range(10))
        sleep(0.001)
        return len(channel.recv_many(10))

    ticks = [go(tick) for _ in range(100)]
    passing = go(pass_on)
    assert sum(task.result(timeout=LIMIT) for task in ticks) == 100
    assert passing.result(timeout=LIMIT) == 10
