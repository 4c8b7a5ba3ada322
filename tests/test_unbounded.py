"""Unbounded channels: what is theirs alone. The rest they share with the others: `tests/model/test_channel.py`."""

from __future__ import annotations

import gc
import re
import weakref
from collections import Counter
from typing import Any

import pytest
from penstock import Cancelled, Channel, ChannelClosed, Empty, go

LIMIT = 30.0  # seconds; only a hang reaches it


class Marker:
    """An object that can be weakly referenced."""


def test_capacity_is_none_and_the_length_has_no_bound() -> None:
    channel = Channel[int](None, name="lines")
    assert channel.capacity is None
    assert re.fullmatch(r"<penstock\.Channel 'lines' at 0x[0-9a-f]+: open, 0/unbounded>", repr(channel))
    for number in range(100_000):
        channel.send_nowait(number)
    assert len(channel) == 100_000
    assert [channel.recv() for _ in range(100_000)] == list(range(100_000))
    stats = channel.stats()
    assert (stats.sent, stats.received, stats.dropped, stats.send_waits) == (100_000, 100_000, 0, 0)


@pytest.mark.parametrize("capacity", ["3", 1.5, []])
def test_a_capacity_that_is_neither_an_integer_nor_none_is_refused(capacity: Any) -> None:
    with pytest.raises(
        TypeError,
        match=rf"capacity must be None or an int from 0 to \d+, not {re.escape(repr(capacity))}",
    ):
        Channel[int](capacity)


def test_a_send_never_waits_wherever_it_comes_from() -> None:
    """Also with a timeout of 0, and in a coroutine, which a send that waited would park."""
    channel = Channel[int](None)

    async def produce() -> None:
        for number in range(1000):
            channel.send(number)  # not awaited: it could not wait here
            await channel.asend(number)

    channel.send(-1, timeout=0)
    go(produce).result(timeout=LIMIT)
    assert channel.recv() == -1
    assert [channel.recv() for _ in range(2000)] == [number for number in range(1000) for _ in range(2)]


def test_waiting_receivers_are_served_in_order_and_directly(wait_until: Any) -> None:
    channel = Channel[int](None)
    receivers = []
    for place in range(5):
        receivers.append(go(channel.recv))
        wait_until(lambda place=place: channel.stats().recv_waits == place + 1)
    for number in range(5):
        channel.send(number)
        assert len(channel) == 0
    assert [receiver.result(timeout=LIMIT) for receiver in receivers] == list(range(5))


def test_close_wakes_receivers_and_lets_them_drain(wait_until: Any) -> None:
    channel = Channel[int](None)
    waiting = [go(list, channel) for _ in range(3)]
    wait_until(lambda: channel.stats().recv_waits == 3)
    channel.close()
    channel.close()
    assert [task.result(timeout=LIMIT) for task in waiting] == [[], [], []]
    full = Channel[int](None)
    for number in range(1000):
        full.send(number)
    full.close()
    for refused in (full.send, full.send_nowait):
        with pytest.raises(ChannelClosed):
            refused(1)
    assert list(full) == list(range(1000))
    for empty in (full.recv, full.recv_nowait):
        with pytest.raises(ChannelClosed):
            empty()


def test_a_receive_that_is_cancelled_or_timed_out_loses_nothing(wait_until: Any) -> None:
    channel = Channel[int](None)
    with pytest.raises(TimeoutError, match="the channel stayed empty"):
        channel.recv(timeout=0.001)
    with pytest.raises(Empty):
        channel.recv_nowait()
    cancelled, patient = go(channel.recv), go(channel.recv)
    wait_until(lambda: channel.stats().recv_waits == 3)
    cancelled.cancel()
    with pytest.raises(Cancelled):
        cancelled.result(timeout=LIMIT)
    channel.send(1)
    assert patient.result(timeout=LIMIT) == 1
    channel.send(2)
    assert channel.recv() == 2


def test_items_are_held_exactly_as_long_as_they_are_in_the_channel() -> None:
    channel = Channel[Any](None)
    items = [Marker() for _ in range(100)]
    dead = [weakref.ref(item) for item in items]
    for item in items:
        channel.send(item)
    items.clear()
    del item
    assert all(reference() is not None for reference in dead)
    for _ in range(40):
        channel.recv()
    gc.collect()
    assert [reference() is None for reference in dead] == [True] * 40 + [False] * 60
    del channel
    gc.collect()
    assert all(reference() is None for reference in dead)


def test_a_cycle_through_an_unbounded_channel_is_collected() -> None:
    class Owner:
        def __init__(self) -> None:
            self.channel = Channel[Any](None)
            for _ in range(70):  # more than two blocks
                self.channel.send(self)
            self.channel.recv()

    owner = Owner()
    dead = weakref.ref(owner)
    del owner
    gc.collect()
    assert dead() is None


def test_a_channel_that_held_a_million_items_and_was_drained_is_small_again(run_program: Any) -> None:
    """Asks the C library's allocator, which has all that the channel's blocks are made of."""
    run_program(
        """
        import ctypes, penstock
        class Info(ctypes.Structure):
            _fields_ = [(name, ctypes.c_size_t) for name in
                        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
        library = ctypes.CDLL(None)
        if not hasattr(library, "mallinfo2"):
            print("small again")
            raise SystemExit
        library.mallinfo2.restype = Info
        def used():
            info = library.mallinfo2()
            return info.uordblks + info.hblkhd
        channel = penstock.Channel(None)
        channel.send(None), channel.recv()
        before = used()
        for _ in range(1_000_000):
            channel.send(None)
        held = used() - before
        for _ in range(1_000_000):
            channel.recv()
        after = used() - before
        print("small again" if held > 8_000_000 and after < 100_000 else (held, after))
        """,
        stdout="small again\n",
    )


def test_many_tasks_and_threads_lose_and_double_nothing(threads: Any) -> None:
    channel = Channel[tuple[int, int]](None)
    got: list[list[tuple[int, int]]] = []
    each = 2_000

    def produce(producer: int) -> None:
        for number in range(each):
            channel.send((producer, number))

    consumers = [go(list, channel) for _ in range(3)]
    for _ in range(2):
        threads.start(lambda: got.append(list(channel)))
    producers = [go(produce, producer) for producer in range(3)]
    for producer in (3, 4):
        threads.start(produce, producer)
    for task in producers:
        task.result(timeout=LIMIT)
    deadline = 5 * each
    while channel.stats().sent < deadline:
        go(int).result(timeout=LIMIT)  # the threads' share
    channel.close()
    threads.join()
    got.extend(task.result(timeout=LIMIT) for task in consumers)
    assert Counter(item for part in got for item in part) == Counter(
        (producer, number) for producer in range(5) for number in range(each)
    )
    for part in got:
        for producer in range(5):
            numbers = [number for sender, number in part if sender == producer]
            assert numbers == sorted(numbers)


def test_after_a_fork_the_child_has_the_items_and_no_waiters(run_program: Any) -> None:
    run_program(
        """
        import penstock, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # CPython's, about threads
        channel, empty = penstock.Channel(None), penstock.Channel(None)
        for number in range(100):
            channel.send(number)
        waiting = penstock.go(empty.recv)
        wait_until(lambda: empty.stats().recv_waits == 1)
        child = os.fork()
        if child == 0:
            channel.close()
            right = list(channel) == list(range(100))
            empty.send("mine")
            os._exit(0 if right and empty.recv(timeout=20) == "mine" else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        empty.send("the parent's")
        print(status, waiting.result(timeout=20), len(channel))
        """,
        stdout="0 the parent's 100\n",
    )
