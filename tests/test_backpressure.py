"""What a channel does when its senders are too fast: overflow policies, rates, and who is told."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import pickle
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pytest
from penstock import (
    Cancelled,
    Channel,
    ChannelClosed,
    Full,
    Group,
    Rate,
    asleep,
    go,
    timeout,
)

LIMIT = 30.0  # seconds; only a hang reaches it
NEVER = 1e-6  # tokens a second: none comes while a test runs

Overflow = Literal["block", "drop_newest", "drop_oldest", "error"]


class Marker:
    """An object that can be weakly referenced."""


def in_a_task(function: Callable[[], Any]) -> Any:
    return go(function).result(timeout=LIMIT)


def in_the_thread(function: Callable[[], Any]) -> Any:
    return function()


def in_a_coroutine(function: Callable[[], Any]) -> Any:
    async def call() -> Any:
        return function()

    return go(call).result(timeout=LIMIT)


everywhere = pytest.mark.parametrize("place", [in_the_thread, in_a_task, in_a_coroutine])
Place = Callable[[Callable[[], Any]], Any]


def send_later(channel: Channel[Any], value: object) -> None:
    """The awaitable form of `send`, in a coroutine of its own."""

    async def send() -> None:
        await channel.asend(value)

    go(send).result(timeout=LIMIT)


ways = pytest.mark.parametrize(
    "send",
    [
        Channel.send,
        Channel.send_nowait,
        lambda channel, value: channel.send(value, timeout=0),
        lambda channel, value: channel.send_many([value]),
        lambda channel, value: channel.send_many(iter([value])),
        send_later,
    ],
    ids=["send", "send_nowait", "timeout", "send_many", "send_many_iter", "asend"],
)
Send = Callable[[Channel[Any], object], object]


def drain(channel: Channel[Any]) -> list[Any]:
    channel.close()
    return list(channel)


@contextmanager
def unraisable() -> Iterator[list[Any]]:
    """What reaches `sys.unraisablehook` meanwhile."""
    caught: list[Any] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda event: caught.append((event.exc_type, event.object))
    try:
        yield caught
    finally:
        sys.unraisablehook = before


# Policies


@pytest.mark.parametrize("bad", ["", "drop", "BLOCK", "drop-oldest"])
def test_an_unknown_policy_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"overflow must be 'block', .* or 'error', not '{bad}'"):
        Channel[int](1, overflow=bad)


@pytest.mark.parametrize("bad", [None, 1, b"error"])
def test_a_policy_is_a_string(bad: Any) -> None:
    with pytest.raises(TypeError, match=rf"overflow must be .*, not {bad!r}"):
        Channel[int](1, overflow=bad)


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_a_rendezvous_has_nothing_to_drop(overflow: Overflow) -> None:
    with pytest.raises(
        ValueError, match=rf"overflow='{overflow}' needs a capacity of at least 1, not capacity=0"
    ):
        Channel[int](overflow=overflow)


@everywhere
@ways
def test_the_newest_is_dropped(place: Place, send: Send) -> None:
    channel = Channel[int](3, overflow="drop_newest")

    def body() -> None:
        for number in range(10):
            channel.send(number) if send is send_later else send(channel, number)

    place(body)
    stats = channel.stats()
    assert (stats.sent, stats.dropped, stats.send_waits, len(channel)) == (3, 7, 0, 3)
    assert channel.recv() == 0
    send(channel, 10)
    assert drain(channel) == [1, 2, 10]


@ways
@pytest.mark.parametrize("capacity", [1, 2, 3, 100])
def test_the_oldest_makes_way(send: Send, capacity: int) -> None:
    channel = Channel[int](capacity, overflow="drop_oldest")
    for number in range(3 * capacity):
        send(channel, number)
    stats = channel.stats()
    assert (stats.sent, stats.received, stats.dropped) == (3 * capacity, 0, 2 * capacity)
    assert (stats.send_waits, len(channel)) == (0, capacity)
    assert drain(channel) == list(range(2 * capacity, 3 * capacity))
    assert channel.stats().received == capacity


@ways
@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_an_error_instead_of_a_wait(send: Send, capacity: int) -> None:
    channel = Channel[int](capacity, overflow="error")
    for number in range(capacity):
        send(channel, number)
    with pytest.raises(Full):
        send(channel, 99)
    with pytest.raises(Full):
        channel.send(99, timeout=LIMIT)
    assert (channel.stats().send_waits, channel.stats().dropped) == (0, 0)
    assert drain(channel) == list(range(capacity))


@pytest.mark.parametrize("make", [list, tuple, iter])
def test_a_batch_over_the_limit_keeps_its_beginning(make: Callable[[range], Iterable[int]]) -> None:
    channel = Channel[int](3, overflow="error")
    with pytest.raises(Full):
        channel.send_many(make(range(10)))
    assert drain(channel) == [0, 1, 2]


@ways
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "error"])
def test_a_closed_channel_is_closed_under_every_policy(send: Send, overflow: Overflow) -> None:
    channel = Channel[int](1, overflow=overflow)
    channel.send(1)
    channel.close()
    with pytest.raises(ChannelClosed):
        send(channel, 2)
    assert list(channel) == [1]
    assert channel.stats().dropped == 0


@ways
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "error"])
def test_a_waiting_receiver_is_served_under_every_policy(
    send: Send, overflow: Overflow, wait_until: Any
) -> None:
    channel = Channel[int](1, overflow=overflow)
    receiver = go(channel.recv)
    wait_until(lambda: channel.stats().recv_waits == 1)
    send(channel, 1)
    assert receiver.result(timeout=LIMIT) == 1
    send(channel, 2)
    assert channel.recv() == 2
    assert channel.stats().dropped == 0


def test_an_error_at_a_rendezvous_needs_a_receiver(wait_until: Any) -> None:
    channel = Channel[int](overflow="error")
    receiver = go(channel.recv)
    wait_until(lambda: channel.stats().recv_waits == 1)
    channel.send(1)
    assert receiver.result(timeout=LIMIT) == 1


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_what_is_dropped_is_let_go_of_at_once(overflow: Overflow) -> None:
    channel = Channel[Marker](1, overflow=overflow)
    markers = [Marker(), Marker()]
    references = [weakref.ref(marker) for marker in markers]
    for _ in range(2):
        channel.send(markers.pop(0))
    gc.collect()
    left = [reference() is not None for reference in references]
    assert left == ([True, False] if overflow == "drop_newest" else [False, True])


def test_a_dropped_value_may_use_its_channel_and_wait() -> None:
    """Its `__del__` runs outside of every lock, and where a task may park."""
    channel, other = Channel[Any](1, overflow="drop_oldest"), Channel[int]()
    seen: list[int] = []

    class Talkative:
        def __del__(self) -> None:
            seen.append(len(channel))
            channel.send("from a destructor")
            seen.append(other.recv())

    def body() -> None:
        channel.send(Talkative())
        channel.send("another")

    task = go(body)
    other.send(5, timeout=LIMIT)
    task.result(timeout=LIMIT)
    assert seen == [1, 5]
    assert drain(channel) == ["from a destructor"]


@pytest.mark.parametrize("capacity", [1, 3, 64])
def test_senders_that_drop_the_oldest_lose_nothing_else(capacity: int, threads: Any) -> None:
    channel = Channel[tuple[int, int]](capacity, overflow="drop_oldest")
    each = 3000
    got: list[tuple[int, int]] = []

    def receive() -> None:
        got.extend(channel)

    def send(producer: int) -> None:
        for number in range(each):
            channel.send((producer, number))

    threads.start(receive)
    with Group() as group:
        for producer in range(3):
            group.go(send, producer)
    channel.close()
    threads.join()
    stats = channel.stats()
    assert (stats.sent, stats.received + stats.dropped) == (3 * each, 3 * each)
    assert (stats.received, stats.send_waits) == (len(got), 0)
    last: defaultdict[int, int] = defaultdict(lambda: -1)
    for producer, number in got:
        assert number > last[producer]
        last[producer] = number
    assert max(last.values()) == each - 1


# Rates


@pytest.mark.parametrize("bad", [0, -1, -0.5, float("inf"), float("nan"), 10**400])
def test_a_bad_rate_names_the_argument_and_its_value(bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"per_second must be a finite number > 0, not {bad}"):
        Rate(bad)


@pytest.mark.parametrize("bad", ["10", None, [], 1j])
def test_a_rate_is_a_number(bad: Any) -> None:
    with pytest.raises(TypeError, match="per_second must be a number, not"):
        Rate(bad)


def test_a_bad_burst_names_the_argument_and_its_value() -> None:
    for bad in (0, -5):
        with pytest.raises(ValueError, match=rf"burst must be an int >= 1, not {bad}"):
            Rate(10, bad)
    for wrong in (1.5, "3", None):
        with pytest.raises(TypeError, match="burst must be an int >= 1, not"):
            Rate(10, burst=wrong)  # type: ignore[arg-type]


def test_a_rate_is_a_value() -> None:
    rate = Rate(per_second=10, burst=3)
    assert repr(rate) == "Rate(per_second=10.0, burst=3)"
    assert rate == Rate(10.0, 3) != Rate(10)
    assert len({rate, Rate(10, 3)}) == 1
    assert Rate(2).burst == 1
    assert copy.copy(rate) == pickle.loads(pickle.dumps(rate)) == rate
    with pytest.raises(dataclasses.FrozenInstanceError):
        rate.burst = 4  # type: ignore[misc]


@pytest.mark.parametrize("bad", [10, 2.5, (10, 1)])
def test_the_rate_of_a_channel_is_a_rate(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"rate must be None or a penstock\.Rate, not"):
        Channel[int](1, rate=bad)


@everywhere
def test_a_bucket_starts_full_and_a_send_without_a_token_takes_nothing(place: Place) -> None:
    channel = Channel[int](10, rate=Rate(NEVER, burst=3))

    def body() -> None:
        channel.send(0)
        channel.send_nowait(1)
        channel.send(2, timeout=0)
        with pytest.raises(Full, match="rate"):
            channel.send_nowait(3)
        with pytest.raises(TimeoutError, match="rate"):
            channel.send(3, timeout=0)

    place(body)
    assert drain(channel) == [0, 1, 2]


@ways
@pytest.mark.parametrize("capacity", [1, 10])
def test_sends_come_no_faster_than_the_rate(send: Send, capacity: int) -> None:
    channel = Channel[int](capacity, rate=Rate(200, burst=2))
    start = time.monotonic()
    for number in range(8):
        while True:
            try:
                send(channel, number)
            except (Full, TimeoutError):
                continue
            break
        assert channel.recv() == number
    assert time.monotonic() - start >= 6 / 200


def test_a_burst_without_bound_is_allowed() -> None:
    channel = Channel[int](5, rate=Rate(1e300, burst=10**30))
    channel.send_many(range(5))
    assert len(channel) == 5


def test_each_channel_has_a_bucket_of_its_own() -> None:
    rate = Rate(NEVER)
    for channel in (Channel[int](1, rate=rate), Channel[int](1, rate=rate)):
        channel.send_nowait(1)


def test_a_send_that_fails_takes_no_token() -> None:
    channel = Channel[int](1, overflow="error", rate=Rate(NEVER, burst=2))
    channel.send(1)
    for send in (channel.send, channel.send_nowait):
        with pytest.raises(Full, match="channel is full"):
            send(2)
    assert channel.recv() == 1
    channel.send(3)
    assert channel.recv() == 3
    with pytest.raises(Full, match="rate"):
        channel.send_nowait(4)


def test_a_send_that_waits_for_room_and_gives_up_takes_no_token(wait_until: Any) -> None:
    channel = Channel[int](1, rate=Rate(NEVER, burst=2))
    channel.send(1)
    with pytest.raises(TimeoutError, match="channel stayed full"):
        channel.send(2, timeout=0.01)
    cancelled = go(channel.send, 3)
    wait_until(lambda: channel.stats().send_waits == 2)
    cancelled.cancel()
    with pytest.raises(Cancelled):
        cancelled.result(timeout=LIMIT)
    assert channel.recv() == 1
    channel.send_nowait(4)
    assert drain(channel) == [4]


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_a_send_that_drops_takes_a_token(overflow: Overflow) -> None:
    channel = Channel[int](1, overflow=overflow, rate=Rate(NEVER, burst=2))
    channel.send_many([1, 2])
    with pytest.raises(Full):
        channel.send_nowait(3)
    assert channel.stats().dropped == 1


def test_senders_wait_for_tokens_in_the_order_they_came(wait_until: Any, threads: Any) -> None:
    channel = Channel[int](100, rate=Rate(20))
    channel.send(-1)

    async def send_awaited(value: int) -> None:
        await channel.asend(value)

    for i in range(9):
        if i % 3 == 0:
            threads.start(channel.send, i)
        elif i % 3 == 1:
            go(channel.send, i)
        else:
            go(send_awaited, i)
        wait_until(lambda n=i: channel.stats().send_waits >= n + 1 or channel.stats().sent >= n + 2)
    assert [channel.recv(timeout=LIMIT) for _ in range(10)] == list(range(-1, 9))


@pytest.mark.parametrize("cancelled_one", [0, 1, 2])
def test_a_cancelled_sender_passes_its_turn_on(cancelled_one: int, wait_until: Any) -> None:
    channel = Channel[int](10, rate=Rate(10))
    channel.send(-1)
    senders = []
    for i in range(3):
        senders.append(go(channel.send, i))
        wait_until(lambda n=i: channel.stats().send_waits >= n + 1 or channel.stats().sent >= n + 2)
    senders[cancelled_one].cancel()
    for i, sender in enumerate(senders):
        try:
            sender.result(timeout=LIMIT)
        except Cancelled:
            assert i == cancelled_one
    expected = [i for i, sender in enumerate(senders) if not sender.cancelled()]
    assert drain(channel) == [-1, *expected]


@pytest.mark.parametrize("place", [in_the_thread, in_a_task])
def test_a_sender_that_runs_out_of_time_passes_its_turn_on(place: Place, wait_until: Any) -> None:
    channel = Channel[int](10, rate=Rate(NEVER))
    channel.send(0)

    def body() -> None:
        with pytest.raises(TimeoutError, match="rate"):
            channel.send(1, timeout=0.01)
        with pytest.raises(TimeoutError), timeout(0.01):
            channel.send(1)

    holder = go(channel.send, 1)
    wait_until(lambda: channel.stats().send_waits == 1)
    place(body)  # behind it in line
    holder.cancel()
    with pytest.raises(Cancelled):
        holder.result(timeout=LIMIT)
    place(body)  # alone
    assert drain(channel) == [0]


def test_a_deadline_beyond_the_next_token_does_not_hurt() -> None:
    channel = Channel[int](10, rate=Rate(100))
    with timeout(LIMIT):
        for number in range(4):
            channel.send(number, timeout=LIMIT)
    assert drain(channel) == [0, 1, 2, 3]


def test_a_close_wakes_those_who_wait_for_tokens(wait_until: Any, threads: Any) -> None:
    channel = Channel[int](10, rate=Rate(NEVER))
    channel.send(0)
    ended: list[type[BaseException]] = []

    def send() -> None:
        try:
            channel.send(1)
        except ChannelClosed as error:
            ended.append(type(error))

    async def send_awaited() -> None:
        with pytest.raises(ChannelClosed):
            await channel.asend(1)

    tasks = [go(send), go(send_awaited), go(send_awaited)]
    threads.start(send)
    wait_until(lambda: channel.stats().send_waits == 4)
    channel.close()
    for task in tasks:
        task.result(timeout=LIMIT)
    threads.join()
    assert ended == [ChannelClosed, ChannelClosed]
    with pytest.raises(ChannelClosed):
        channel.send(2)


def test_coroutines_wait_for_tokens_and_go_on_meanwhile() -> None:
    channel = Channel[int](100, rate=Rate(100))

    async def send(value: int) -> None:
        await channel.asend(value)

    async def tick() -> int:
        await asleep(0.001)
        return 1

    with Group() as group:
        for i in range(10):
            group.go(send, i)
        ticks = [group.go(tick) for _ in range(20)]
    assert sum(task.result() for task in ticks) == 20
    assert sorted(drain(channel)) == list(range(10))


def test_a_coroutine_runs_out_of_time_before_its_token() -> None:
    channel = Channel[int](10, rate=Rate(NEVER))

    async def body() -> None:
        await channel.asend(0)
        with pytest.raises(TimeoutError, match="rate"):
            await channel.asend(1, timeout=0.01)
        with pytest.raises(TimeoutError, match="rate"):
            await channel.asend(1, timeout=0)

    go(body).result(timeout=LIMIT)
    assert drain(channel) == [0]


def test_a_coroutine_that_gave_up_has_passed_its_turn_on_whoever_keeps_its_operation() -> None:
    channel = Channel[int](1, rate=Rate(NEVER, burst=3))

    async def body() -> None:
        await channel.asend(0)
        for_room = channel.asend(1, timeout=0.01)
        with pytest.raises(TimeoutError, match="channel stayed full"):
            await for_room
        assert channel.recv() == 0
        channel.send_nowait(2)
        assert channel.recv() == 2
        channel.send_nowait(3)
        closed = channel.asend(4, timeout=0.01)
        for_token = channel.asend(4, timeout=0.01)
        with pytest.raises(TimeoutError, match="rate"):
            await for_token
        channel.close()
        with pytest.raises(ChannelClosed):
            await closed
        del for_room, for_token, closed

    go(body).result(timeout=LIMIT)
    assert list(channel) == [3]


def test_a_kept_operation_does_not_keep_the_turn_of_a_failed_send() -> None:
    channel = Channel[int](1, overflow="error", rate=Rate(NEVER, burst=2))

    async def body() -> None:
        await channel.asend(0)
        failed = channel.asend(1)
        with pytest.raises(Full, match="channel is full"):
            await failed
        assert channel.recv() == 0
        channel.send_nowait(2)
        del failed

    go(body).result(timeout=LIMIT)
    assert drain(channel) == [2]


def test_a_rate_at_a_rendezvous(wait_until: Any) -> None:
    channel = Channel[int](rate=Rate(100))
    sender = go(channel.send_many, range(4))
    assert [channel.recv(timeout=LIMIT) for _ in range(4)] == [0, 1, 2, 3]
    sender.result(timeout=LIMIT)
    with pytest.raises(Full):
        channel.send_nowait(9)


def test_a_wait_for_a_token_is_no_deadlock(run_program: Any) -> None:
    run_program(
        """
        import penstock
        channel = penstock.Channel(10, rate=penstock.Rate(0.7))
        tasks = [penstock.go(channel.send, i) for i in range(2)]
        wait_until(lambda: channel.stats().send_waits == 1)
        channel.send(2)
        print(sorted(channel.recv_many(10)))
        """,
        stdout="[0, 1, 2]\n",
    )


def test_control_c_ends_a_wait_for_a_token_and_a_child_has_the_turn(run_program: Any) -> None:
    run_program(
        """
        import signal, warnings
        import penstock
        warnings.simplefilter("ignore")
        channel = penstock.Channel(10, rate=penstock.Rate(1e-6, burst=2))
        channel.send(0)
        holder = threading.Thread(target=lambda: penstock.Channel.send_many(blocked, [1, 2]), daemon=True)
        blocked = penstock.Channel(1, rate=penstock.Rate(1e-6, burst=3))
        holder.start()
        wait_until(lambda: blocked.stats().send_waits == 1)
        child = os.fork()
        if child == 0:
            assert blocked.recv() == 1
            blocked.send_nowait(3)
            assert blocked.recv() == 3
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        channel.send(1)

        def interrupt():
            wait_until(lambda: channel.stats().send_waits == 1)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            channel.send(2)
        except KeyboardInterrupt:
            print("interrupted", channel.recv_many(9))
        """,
        stdout="interrupted [0, 1]\n",
    )


def test_a_million_sends_with_a_generous_rate_need_no_wait_each() -> None:
    channel = Channel[int](1024, rate=Rate(1e12, burst=10**9))

    def send() -> None:
        channel.send_many(range(200_000))
        channel.close()

    sender = go(send)
    assert sum(1 for _ in channel) == 200_000
    sender.result(timeout=LIMIT)


# Times


def test_stats_tell_how_long_senders_and_receivers_waited() -> None:
    channel = Channel[int](1)
    with pytest.raises(TimeoutError):
        channel.recv(timeout=0.1)
    channel.send(1)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            channel.send(2, timeout=0.1)
    stats = channel.stats()
    assert stats.recv_wait_seconds > 0.08
    assert stats.send_wait_seconds > 0.16
    assert (stats.send_waits, stats.recv_waits) == (2, 1)
    assert channel.stats() == stats


def test_those_who_wait_now_count(wait_until: Any) -> None:
    channel = Channel[int]()
    receivers = [go(channel.recv) for _ in range(10)]
    wait_until(lambda: channel.stats().recv_wait_seconds > 0.05)
    channel.close()
    for receiver in receivers:
        with pytest.raises(ChannelClosed):
            receiver.result(timeout=LIMIT)
    total = channel.stats().recv_wait_seconds
    assert channel.stats().recv_wait_seconds == total


def test_waits_for_tokens_count_as_waits_of_senders() -> None:
    channel = Channel[int](5, rate=Rate(3))
    channel.send_many([1, 2])
    stats = channel.stats()
    assert stats.send_waits == 1
    assert stats.send_wait_seconds > 0.05


# Who is told


def send_each(channel: Channel[int], count: int) -> None:
    for number in range(count):
        channel.send(number)


class Told:
    """A callback that keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, channel: Channel[Any], pressure: str) -> None:
        self.calls.append((pressure, len(channel)))

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.calls]


@pytest.mark.parametrize(
    ("high", "low"), [(0.5, 0.6), (0, 0), (0.8, 0), (1.1, 0.5), (0.8, -1), (float("nan"), 0.5)]
)
def test_bad_marks_are_named_with_their_values(high: float, low: float) -> None:
    with pytest.raises(ValueError, match=rf"0 < low <= high <= 1, not high={float(high)}, low={float(low)}"):
        Channel[int](10).on_pressure(print, high=high, low=low)


def test_wrong_arguments_are_type_errors() -> None:
    channel: Any = Channel[int](10)
    with pytest.raises(TypeError, match="callback must be callable, not 3"):
        channel.on_pressure(3)
    with pytest.raises(TypeError, match="high must be a number, not 'x'"):
        channel.on_pressure(print, high="x")
    with pytest.raises(TypeError, match="low must be a number, not None"):
        channel.on_pressure(print, low=None)
    with pytest.raises(TypeError):
        channel.on_pressure()


def test_a_channel_without_room_has_no_pressure() -> None:
    with pytest.raises(ValueError, match=r"capacity of at least 1, .* capacity=0"):
        Channel[int]().on_pressure(print)
    with pytest.raises(ValueError, match=r"capacity of at least 1, .* capacity=None"):
        Channel[int](None).on_pressure(print)


@everywhere
def test_each_crossing_is_told_once(place: Place) -> None:
    channel, told = Channel[int](10), Told()
    channel.on_pressure(told)

    def body() -> None:
        for _ in range(2):
            for number in range(10):
                channel.send(number)
            for _ in range(3):
                channel.recv()
            for number in range(3):
                channel.send_nowait(number)
            for _ in range(10):
                channel.recv_nowait()

    place(body)
    assert told.calls == [("high", 8), ("low", 5)] * 2


@ways
def test_every_way_to_send_tells(send: Send) -> None:
    channel, told = Channel[int](4), Told()
    channel.on_pressure(told, high=0.5, low=0.25)
    for number in range(4):
        send(channel, number)
    assert told.calls == [("high", 2)]


@pytest.mark.parametrize(
    "way", ["recv", "timeout", "nowait", "many", "next", "async", "async_many", "async_for"]
)
def test_every_way_to_receive_tells(way: str) -> None:
    channel, told = Channel[int](4), Told()
    channel.on_pressure(told, high=1, low=0.25)
    channel.send_many(range(4))
    assert told.words == ["high"]

    async def receive() -> None:
        if way == "async":
            await channel.arecv()
        elif way == "async_many":
            await channel.arecv_many(1)
        else:
            async for _ in channel:
                break

    calls: dict[str, Callable[[], object]] = {
        "recv": channel.recv,
        "timeout": lambda: channel.recv(timeout=LIMIT),
        "nowait": channel.recv_nowait,
        "many": lambda: channel.recv_many(1),
        "next": lambda: next(channel),
    }
    for _ in range(3):
        assert told.words == ["high"]
        calls.get(way, lambda: go(receive).result(timeout=LIMIT))()
    assert told.calls == [("high", 4), ("low", 1)]


@pytest.mark.parametrize(
    ("capacity", "high", "low", "expected"),
    [
        (1, 0.8, 0.5, [("high", 1), ("low", 0)]),
        (2, 0.5, 0.5, [("high", 1), ("low", 0)]),
        (3, 1, 1, [("high", 3), ("low", 2)]),
        (100, 0.07, 0.05, [("high", 7), ("low", 5)]),
        (10, 0.01, 0.01, [("high", 1), ("low", 0)]),
    ],
)
def test_marks_are_rounded_so_that_both_can_be_reached(
    capacity: int, high: float, low: float, expected: list[tuple[str, int]]
) -> None:
    channel, told = Channel[int](capacity), Told()
    channel.on_pressure(told, high, low)
    for number in range(capacity):
        channel.send(number)
    for _ in range(capacity):
        channel.recv()
    assert told.calls == expected


def test_a_channel_that_is_full_already_is_told_at_once() -> None:
    channel, told = Channel[int](4), Told()
    channel.send_many(range(4))
    channel.on_pressure(told)
    assert told.calls == [("high", 4)]


def heard(seen: list[int], number: int, *_: object) -> None:
    seen.append(number)


def test_several_callbacks_are_called_in_the_order_they_came() -> None:
    channel = Channel[int](2)
    seen: list[int] = []
    for number in range(50):
        channel.on_pressure(partial(heard, seen, number), high=1)
    channel.send_many([1, 2])
    assert seen == list(range(50))


def test_a_callback_is_given_the_channel_and_runs_in_the_thread_that_crossed() -> None:
    channel = Channel[int](1)
    seen: list[Any] = []
    channel.on_pressure(lambda *arguments: seen.append((*arguments, threading.get_ident())))
    channel.send(1)
    assert seen == [(channel, "high", threading.get_ident())]


@pytest.mark.thread_unsafe(reason="puts its own hook in the place of sys.unraisablehook")
def test_errors_of_a_callback_go_to_the_hook_and_nowhere_else() -> None:
    channel, told = Channel[int](1), Told()

    def failing(_: object, __: object) -> None:
        raise LookupError

    channel.on_pressure(failing)
    channel.on_pressure(told)
    with unraisable() as caught:
        channel.send(1)
        assert channel.recv() == 1
    assert caught == [(LookupError, failing)] * 2
    assert told.words == ["high", "low"]


@everywhere
def test_a_callback_may_use_the_channel_and_hears_of_that_afterwards(place: Place) -> None:
    channel = Channel[int](4)
    depth, words = 0, []

    def empty_it(channel: Channel[int], pressure: str) -> None:
        nonlocal depth
        depth += 1
        assert depth == 1, "called in itself"
        words.append(pressure)
        if pressure == "high":
            channel.recv_many(4)
        depth -= 1

    channel.on_pressure(empty_it)

    def body() -> None:
        for number in range(8):
            channel.send(number)

    place(body)
    assert words == ["high", "low"] * 2
    assert len(channel) == 0


def test_a_callback_may_park_its_task() -> None:
    channel, other = Channel[int](1), Channel[int]()
    channel.on_pressure(lambda *_: other.recv())
    sender = go(channel.send, 1)
    other.send(1, timeout=LIMIT)
    sender.result(timeout=LIMIT)


def test_a_policy_and_a_callback_together() -> None:
    channel, told = Channel[int](4, overflow="drop_oldest"), Told()
    channel.on_pressure(told)
    channel.send_many(range(20))
    assert told.calls == [("high", 4)]
    assert channel.recv_many(9) == [16, 17, 18, 19]
    assert told.words == ["high", "low"]


def test_callbacks_are_told_what_they_hear_after_a_wait(wait_until: Any) -> None:
    channel, told = Channel[int](2), Told()
    channel.on_pressure(told, high=1, low=0.5)
    sender = go(channel.send_many, list(range(5)))
    wait_until(lambda: channel.stats().send_waits == 1)
    assert told.words == ["high"]
    got: list[int] = []
    while len(got) < 5:
        got += channel.recv_many(5)
    assert got == [0, 1, 2, 3, 4]
    sender.result(timeout=LIMIT)
    assert told.words == ["high", "low"] * (len(told.words) // 2)


def test_a_cycle_through_a_callback_is_collected() -> None:
    class Pipe:
        def __init__(self) -> None:
            self.channel = Channel[int](3)
            self.channel.on_pressure(self.slow_down)

        def slow_down(self, channel: Channel[int], pressure: str) -> None: ...

    reference = weakref.ref(Pipe())
    gc.collect()
    assert reference() is None


def test_a_callback_lives_as_long_as_its_channel() -> None:
    channel, marker = Channel[int](3), Told()
    reference = weakref.ref(marker)
    channel.on_pressure(marker)
    del marker
    gc.collect()
    assert reference() is not None
    del channel
    gc.collect()
    assert reference() is None


def test_a_channel_with_a_rate_and_waiters_is_collected(wait_until: Any) -> None:
    class Owner:
        channel: Channel[Any]

    owner = Owner()
    owner.channel = Channel[Any](3, rate=Rate(NEVER))
    owner.channel.send(owner)
    operation = owner.channel.asend_many([owner])
    reference = weakref.ref(owner)
    del owner, operation
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("capacity", [1, 2, 16])
def test_crossings_alternate_and_end_where_the_channel_does(capacity: int, threads: Any) -> None:
    channel, told = Channel[int](capacity), Told()
    inside: list[int] = []
    most = 0

    def one_at_a_time(channel: Channel[int], pressure: str) -> None:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        told(channel, pressure)
        inside.pop()

    channel.on_pressure(one_at_a_time, high=1, low=0.5)
    for _ in range(3):
        threads.start(send_each, channel, 1500)
        threads.start(lambda: [channel.recv() for _ in range(1500)])
    threads.join()
    for number in range(capacity):
        channel.send(number)
    assert told.words[-1] == "high"
    channel.recv_many(capacity)
    assert most == 1
    assert told.words == ["high", "low"] * (len(told.words) // 2)


def test_many_senders_without_a_receiver_cross_once(threads: Any) -> None:
    channel, told = Channel[int](3000), Told()
    channel.on_pressure(told)
    for _ in range(3):
        threads.start(send_each, channel, 1000)
    threads.join()
    assert told.words == ["high"]
    for _ in range(3):
        threads.start(lambda: list(itertools.islice(iter(channel), 1000)))
    threads.join()
    assert told.words == ["high", "low"]


def test_control_c_in_a_callback_reaches_the_program(run_program: Any) -> None:
    run_program(
        """
        import signal
        import penstock
        channel = penstock.Channel(1)

        def interrupted(channel, pressure):
            signal.raise_signal(signal.SIGINT)

        channel.on_pressure(interrupted)
        try:
            channel.send(1)
            for _ in range(1000):
                pass
        except KeyboardInterrupt:
            print("interrupted", len(channel))
        """,
        stdout="interrupted 1\n",
    )
