"""What Go's own tests of channels check, in our words: a goroutine is a plain task, an `async def` task or a thread.

Each test is one program for all of them. A goroutine's body is a generator that yields what it wants to do, a send say,
and is driven by plain calls or by awaits; `World` starts it in the way that is being tested, or in all ways in turn.

Of Go's tests (test/chan, test/closedchan.go, test/chancap.go, test/range.go, runtime/chan_test.go, test/ken) these do not
apply:

- nil channels (parts of closedchan and of select): there is no channel that is none; `None` is refused as a case.
- perm: Go's compiler checks directions; here they are classes, see test_ends.py and tests/typing/contract.py.
- zerosize, the sizes in nonblock, TestChanSendInterface, chanbarrier_test: a value is a reference, of one size.
- race/testdata: they test the race detector.
- a second close panics in Go; here it does nothing, and the contract says so.

Those of select (select*, doubleselect, TestSelect*, TestSelfSelect, TestNonblockSelectRace*, TestPseudoRandomSend, sieve2)
are select's.
"""

from __future__ import annotations

import gc
import itertools
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import penstock
import pytest
from penstock import Channel, ChannelClosed, Empty, Full, Task, go

LIMIT = 30.0  # seconds; only a hang reaches it
T = TypeVar("T")


# The language: what a body can yield


@dataclass(frozen=True)
class Send:
    channel: Channel[Any]
    value: Any

    def call(self) -> None:
        self.channel.send(self.value)

    def awaitable(self) -> Awaitable[None]:
        return self.channel.asend(self.value)


@dataclass(frozen=True)
class Recv:
    channel: Channel[Any]

    def call(self) -> Any:
        return self.channel.recv()

    def awaitable(self) -> Awaitable[Any]:
        return self.channel.arecv()


END = object()


@dataclass(frozen=True)
class Next:
    """A step of Go's `range` over a channel: the next value, or `END`."""

    channel: Channel[Any]

    def call(self) -> Any:
        return next(self.channel, END)

    async def awaitable(self) -> Any:
        try:
            return await self.channel.__anext__()
        except StopAsyncIteration:
            return END


@dataclass(frozen=True)
class GiveUpTurn:
    """Go's Gosched."""

    def call(self) -> None:
        penstock.yield_now()

    def awaitable(self) -> Awaitable[None]:
        return penstock.asleep(0)


Body = Generator["Send | Recv | Next | GiveUpTurn", Any, T]


def each(channel: Channel[Any], do: Callable[[Any], Body[None]]) -> Body[None]:
    while (value := (yield Next(channel))) is not END:
        yield from do(value)


def drive(body: Body[T]) -> T:
    step = body.send
    argument: Any = None
    while True:
        try:
            wish = step(argument)
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            step, argument = body.send, wish.call()
        except ChannelClosed as error:
            step, argument = body.throw, error


async def adrive(body: Body[T]) -> T:
    step = body.send
    argument: Any = None
    while True:
        try:
            wish = step(argument)
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            step, argument = body.send, await wish.awaitable()
        except ChannelClosed as error:
            step, argument = body.throw, error


def start_task(body: Body[T]) -> Task[T]:
    return go(drive, body)


def start_coroutine(body: Body[T]) -> Task[T]:
    return go(adrive, body)


def start_thread(body: Body[T]) -> Future[T]:
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(drive(body))
        except BaseException as error:  # the test raises it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


WAYS: dict[str, list[Callable[[Body[Any]], Any]]] = {
    "plain tasks": [start_task],
    "async tasks": [start_coroutine],
    "threads": [start_thread],
    "all ways": [start_coroutine, start_thread, start_task, start_coroutine, start_task],
}


class World:
    """Goroutines of one kind, and the channels between them."""

    def __init__(self, ways: list[Callable[[Body[Any]], Any]]) -> None:
        self._next_way = itertools.cycle(ways)
        self._started: list[Any] = []
        self._channels: list[Channel[Any]] = []
        self._over = False
        self._lock = threading.Lock()
        self.many = start_thread not in ways  # whether thousands are cheap

    def chan(self, capacity: int | None = 0) -> Channel[Any]:
        channel = Channel[Any](capacity)  # type: ignore[arg-type,unused-ignore]
        with self._lock:
            self._channels.append(channel)
            if self._over:
                channel.close()
        return channel

    def go(self, body: Body[T]) -> Any:
        with self._lock:
            way = next(self._next_way)
        started = way(body)
        with self._lock:
            self._started.append(started)
        return started

    def run(self, body: Body[T]) -> T:
        result: T = self.go(body).result(timeout=LIMIT)
        return result

    def end(self) -> None:
        """All that was started has ended, and without an error."""
        for started in self._started:
            started.result(timeout=LIMIT)

    def close_all(self) -> None:
        """The end of a program that in Go ends with its main: who waits still is told that all is closed."""
        with self._lock:
            self._over = True
        for channel in self._channels:
            channel.close()
        for started in self._started:
            assert isinstance(started.exception(timeout=LIMIT), ChannelClosed | None)


@pytest.fixture(params=WAYS)
def world(request: pytest.FixtureRequest) -> World:
    return World(WAYS[request.param])


def _unbounded() -> list[int | None]:
    try:
        Channel[int](None)  # type: ignore[arg-type,unused-ignore]
    except TypeError:
        return []  # not there yet
    return [None]


CAPACITIES: list[int | None] = [0, 1, 2, 17, *_unbounded()]
BOUNDED = [capacity for capacity in CAPACITIES if capacity is not None]
BUFFERED = [capacity for capacity in CAPACITIES if capacity != 0]
capacities = pytest.mark.parametrize("capacity", CAPACITIES)
bounded = pytest.mark.parametrize("capacity", BOUNDED)
buffered = pytest.mark.parametrize("capacity", BUFFERED)


def refused(wish: Send | Recv) -> Body[bool]:
    """Whether it raises `ChannelClosed`."""
    try:
        yield wish
    except ChannelClosed:
        return True
    return False


# closedchan.go


def looks_closed(channel: Channel[Any]) -> Body[None]:
    for _ in range(3):
        assert (yield from refused(Recv(channel)))
        assert (yield Next(channel)) is END
        with pytest.raises(ChannelClosed):
            channel.recv_nowait()
    with pytest.raises(ChannelClosed):
        channel.send_nowait(1)
    assert (yield from refused(Recv(channel))), "the value of the send that failed was kept"
    assert (yield from refused(Send(channel, 2)))
    assert (yield from refused(Recv(channel))), "the value of the send that failed was kept"
    channel.close()  # Go panics; here it is idempotent
    assert channel.closed
    assert len(channel) == 0


@capacities
def test_a_closed_channel_refuses_sends_and_ends_receives(world: World, capacity: int | None) -> None:
    channel = world.chan(capacity)
    channel.close()
    world.run(looks_closed(channel))


@buffered
@pytest.mark.parametrize("way", ["recv", "recv_nowait", "next"])
def test_the_last_value_is_there_still_after_close(world: World, capacity: int | None, way: str) -> None:
    channel = world.chan(capacity)

    def main() -> Body[None]:
        yield Send(channel, 1)
        channel.close()
        if way == "recv":
            assert (yield Recv(channel)) == 1
        elif way == "recv_nowait":
            assert channel.recv_nowait() == 1
        else:
            assert (yield Next(channel)) == 1
        yield from looks_closed(channel)

    world.run(main())


# chan_test.go: TestChan


@capacities
def test_a_receive_from_an_empty_channel_waits_and_the_impatient_one_does_not(
    world: World, capacity: int | None, wait_until: Any
) -> None:
    channel = world.chan(capacity)
    received: list[int] = []

    def receive() -> Body[None]:
        received.append((yield Recv(channel)))

    world.go(receive())
    world.go(receive())
    wait_until(lambda: channel.stats().recv_waits == 2)
    assert received == []
    with pytest.raises(Empty):
        channel.recv_nowait()
    channel.send(0, timeout=LIMIT)
    channel.send(0, timeout=LIMIT)
    world.end()
    assert received == [0, 0]


@bounded
def test_a_send_to_a_full_channel_waits_and_the_impatient_one_does_not(
    world: World, capacity: int, wait_until: Any
) -> None:
    channel = world.chan(capacity)
    for i in range(capacity):
        channel.send(i)
    sent: list[bool] = []

    def send() -> Body[None]:
        yield Send(channel, capacity)
        sent.append(True)

    world.go(send())
    wait_until(lambda: channel.stats().send_waits == 1)
    assert sent == []
    with pytest.raises(Full):
        channel.send_nowait(-1)
    assert [channel.recv(timeout=LIMIT) for _ in range(capacity + 1)] == list(range(capacity + 1))
    world.end()
    assert sent == [True]


@buffered
def test_what_is_left_in_a_closed_channel_comes_out_in_order(world: World, capacity: int | None) -> None:
    count = 20 if capacity is None else capacity
    channel = world.chan(capacity)

    def main() -> Body[None]:
        for i in range(count):
            yield Send(channel, i)
        channel.close()
        for i in range(count):
            assert (yield Recv(channel)) == i
        yield from looks_closed(channel)

    world.run(main())


@capacities
def test_close_ends_a_receive_that_waits(world: World, capacity: int | None, wait_until: Any) -> None:
    channel = world.chan(capacity)
    receivers = [world.go(refused(Recv(channel))) for _ in range(3)]
    wait_until(lambda: channel.stats().recv_waits == 3)
    channel.close()
    assert [receiver.result(timeout=LIMIT) for receiver in receivers] == [True] * 3


@bounded
def test_close_ends_a_send_that_waits(world: World, capacity: int, wait_until: Any) -> None:
    """Go's tests leave this open; there the sender panics."""
    channel = world.chan(capacity)
    for i in range(capacity):
        channel.send(i)
    senders = [world.go(refused(Send(channel, -1))) for _ in range(3)]
    wait_until(lambda: channel.stats().send_waits == 3)
    channel.close()
    assert [sender.result(timeout=LIMIT) for sender in senders] == [True] * 3
    assert list(channel) == list(range(capacity))


@capacities
def test_a_hundred_values_arrive_whole_and_in_order(world: World, capacity: int | None) -> None:
    channel = world.chan(capacity)

    def send() -> Body[None]:
        for i in range(100):
            yield Send(channel, i)

    def receive() -> Body[list[int]]:
        got = []
        for _ in range(100):
            got.append((yield Recv(channel)))  # noqa: PERF401 - a comprehension cannot yield
        return got

    for _ in range(2):
        world.go(send())
        assert world.run(receive()) == list(range(100))
    world.end()


@capacities
def test_four_senders_and_four_receivers_lose_and_double_nothing(world: World, capacity: int | None) -> None:
    channel = world.chan(capacity)
    each_sends = 250

    def send() -> Body[None]:
        for i in range(each_sends):
            yield Send(channel, i)

    def receive() -> Body[Counter[int]]:
        got: Counter[int] = Counter()
        for _ in range(each_sends):
            got[(yield Recv(channel))] += 1
        return got

    for _ in range(4):
        world.go(send())
    receivers = [world.go(receive()) for _ in range(4)]
    total: Counter[int] = Counter()
    for receiver in receivers:
        total += receiver.result(timeout=LIMIT)
    assert total == Counter(dict.fromkeys(range(each_sends), 4))
    world.end()


@capacities
def test_len_and_capacity(capacity: int | None) -> None:
    channel = Channel[int](capacity)  # type: ignore[arg-type,unused-ignore]
    assert (len(channel), channel.capacity) == (0, capacity)
    count = 20 if capacity is None else capacity
    for i in range(count):
        channel.send(i)
    assert (len(channel), channel.capacity) == (count, capacity)


# chan_test.go: the rest


@buffered
def test_an_impatient_receive_never_finds_a_channel_empty_that_is_closed_with_a_value(
    world: World, capacity: int | None
) -> None:
    """TestNonblockRecvRace: at each moment there is a value, or the channel is closed."""

    def receive(channel: Channel[int]) -> Body[int]:
        yield GiveUpTurn()
        try:
            return channel.recv_nowait()  # raises `Empty` where it is wrong
        except ChannelClosed:
            return 0

    def main() -> Body[None]:
        for _ in range(100 if world.many else 20):
            channel = world.chan(capacity)
            yield Send(channel, 1)
            racing = world.go(receive(channel))
            channel.close()
            try:
                taken = channel.recv_nowait()
            except ChannelClosed:
                taken = 0
            taken_from.append((racing, taken))

    taken_from: list[tuple[Any, int]] = []
    world.run(main())
    for racing, taken in taken_from:
        assert racing.result(timeout=LIMIT) + taken == 1


@capacities
def test_many_consumers_pass_everything_on(world: World, capacity: int | None) -> None:
    """TestMultiConsumer: a feeder, workers that range over one channel and send to another, a collector."""
    primes = [2, 3, 7, 11, 13, 17, 19, 23, 27, 31]
    work, results = world.chan(capacity), world.chan(capacity)
    workers, count = (23, 2000) if world.many else (7, 500)

    def worker(me: int) -> Body[None]:
        def pass_on(value: int) -> Body[None]:
            if primes[me % len(primes)] == value:
                yield GiveUpTurn()
            yield Send(results, value)

        yield from each(work, pass_on)

    def feeder() -> Body[int]:
        expected = 0
        for i in range(count):
            value = primes[i % len(primes)]
            expected += value
            yield Send(work, value)
        work.close()
        return expected

    def collector() -> Body[tuple[int, int]]:
        seen = total = 0
        while (value := (yield Next(results))) is not END:
            seen += 1
            total += value
        return seen, total

    running = [world.go(worker(me)) for me in range(workers)]
    collected = world.go(collector())
    expected = world.run(feeder())
    for one in running:
        one.result(timeout=LIMIT)
    results.close()
    assert collected.result(timeout=LIMIT) == (count, expected)


def test_a_sender_may_use_much_stack_between_its_sends(world: World) -> None:
    """TestShrinkStackDuringBlockedSend: what lies on a stack is whole after a wait and a collection."""
    channel = world.chan()

    def deep(n: int) -> int:
        return max([n], key=lambda _: deep(n - 1)) if n else 0

    def send() -> Body[None]:
        for i in range(10):
            yield Send(channel, i)
            assert deep(20) == 20

    def receive() -> Body[None]:
        for i in range(10):
            assert (yield Recv(channel)) == i
            yield GiveUpTurn()
            gc.collect(0)

    world.go(send())
    world.run(receive())
    world.end()


# nonblock.go


@pytest.mark.parametrize("value", [123, 1 << 80, True, "hello", None, 1.5, (), [1]])
@pytest.mark.parametrize("capacity", [0, 1])
def test_who_does_not_wait_meets_who_does(world: World, capacity: int, value: Any, wait_until: Any) -> None:
    channel = world.chan(capacity)
    with pytest.raises(Empty):
        channel.recv_nowait()

    def receive() -> Body[Any]:
        return (yield Recv(channel))

    def send() -> Body[None]:
        yield Send(channel, value)

    receiver = world.go(receive())
    wait_until(lambda: channel.stats().recv_waits == 1)
    channel.send_nowait(value)
    assert receiver.result(timeout=LIMIT) is value
    sender = world.go(send())
    if capacity:
        sender.result(timeout=LIMIT)
    else:
        wait_until(lambda: channel.stats().send_waits == 1)
    assert channel.recv_nowait() is value
    sender.result(timeout=LIMIT)


# fifo.go


@buffered
def test_a_buffered_channel_is_a_fifo(world: World, capacity: int | None) -> None:
    channel = world.chan(capacity)
    count = 10 if capacity is None else capacity

    def main() -> Body[None]:
        for _ in range(3):
            for i in range(count):
                yield Send(channel, i)
            for i in range(count):
                assert (yield Recv(channel)) == i

    world.run(main())


def test_a_rendezvous_is_a_fifo(world: World) -> None:
    """A daisy chain: each link takes its value after the link before has."""
    channel, start = world.chan(), world.chan()

    def link(value: int, before: Channel[int], after: Channel[int]) -> Body[None]:
        yield Recv(before)
        assert (yield Recv(channel)) == value
        yield Send(after, 1)

    def main() -> Body[None]:
        before = start
        for i in range(10):
            after = world.chan()
            world.go(link(i, before, after))
            before = after
        yield Send(start, 0)
        for i in range(10):
            yield Send(channel, i)
        yield Recv(before)

    world.run(main())
    world.end()


# goroutines.go, ken/chan1.go, sendstmt.go, chancap.go


def test_a_value_passes_through_a_long_chain(world: World) -> None:
    def link(left: Channel[int], right: Channel[int]) -> Body[None]:
        yield Send(left, (yield Recv(right)) + 1)

    def main() -> Body[int]:
        leftmost = left = world.chan()
        for _ in range(length):
            right = world.chan()
            world.go(link(left, right))
            left = right
        yield Send(left, 0)
        passed: int = yield Recv(leftmost)
        return passed

    length = 3000 if world.many else 30
    assert world.run(main()) == length
    world.end()


@capacities
def test_each_value_is_received_as_often_as_it_was_sent(world: World, capacity: int | None) -> None:
    """Everybody sends everything: ken/chan1."""
    count, everybody = 100, 5
    channel = world.chan(capacity)

    def send() -> Body[None]:
        for i in range(count):
            yield Send(channel, i)
            if i % 7 == 0:
                yield GiveUpTurn()

    def receive() -> Body[Counter[int]]:
        seen: Counter[int] = Counter()
        while (value := (yield Next(channel))) is not END:
            seen[value] += 1
        return seen

    receivers = [world.go(receive()) for _ in range(everybody)]
    senders = [world.go(send()) for _ in range(everybody)]
    for sender in senders:
        sender.result(timeout=LIMIT)
    channel.close()
    total: Counter[int] = Counter()
    for receiver in receivers:
        total += receiver.result(timeout=LIMIT)
    assert total == Counter(dict.fromkeys(range(count), everybody))


@buffered
def test_a_channel_of_channels(world: World, capacity: int | None) -> None:
    channels, inner = world.chan(capacity), world.chan(capacity)

    def main() -> Body[None]:
        yield Send(channels, inner)
        yield Send((yield Recv(channels)), 2)
        assert (yield Recv(inner)) == 2

    world.run(main())


@pytest.mark.parametrize("capacity", [-1, -(1 << 31), 1 << 62])
def test_a_capacity_that_is_none_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity must be"):
        Channel[int](capacity)


# Sending to oneself


@buffered
def test_who_sends_to_itself_goes_on_while_there_is_room(world: World, capacity: int | None) -> None:
    channel = world.chan(capacity)

    def main() -> Body[None]:
        for i in range(50):
            yield Send(channel, i)
            assert (yield Recv(channel)) == i

    world.run(main())


@bounded
def test_who_sends_to_itself_without_room_can_be_helped_by_anybody(
    world: World, capacity: int, wait_until: Any
) -> None:
    channel = world.chan(capacity)

    def main() -> Body[int]:
        for i in range(capacity + 1):
            yield Send(channel, i)  # the last one waits for somebody else
        total = 0
        for _ in range(capacity):
            total += yield Recv(channel)
        return total

    talks_to_itself = world.go(main())
    wait_until(lambda: channel.stats().send_waits == 1)
    assert channel.recv(timeout=LIMIT) == 0
    assert talks_to_itself.result(timeout=LIMIT) == sum(range(capacity + 1))


def test_who_sends_to_itself_for_ever_is_a_deadlock_as_in_go(run_program: Any) -> None:
    run_program(
        """
        from penstock import Channel, Deadlock, go
        alone = Channel(1)
        def main():
            alone.send(1)
            alone.send(2)
            alone.recv()
        try:
            go(main).result()
        except Deadlock as error:
            print([task.name.startswith("main") or "main" in str(error) for task in error.tasks])
        """,
        stdout="[True]\n",
    )


# sieve1.go


@capacities
def test_the_prime_sieve(world: World, capacity: int | None) -> None:
    """A chain of filters, each started by the prime that came through all before it."""
    limit = 200 if world.many else 80

    def generate(out: Channel[int]) -> Body[None]:
        for i in range(2, limit):
            yield Send(out, i)
        out.close()

    def keep_from(source: Channel[int], out: Channel[int], prime: int) -> Body[None]:
        def keep(value: int) -> Body[None]:
            if value % prime:
                yield Send(out, value)

        yield from each(source, keep)
        out.close()

    def sieve(primes: Channel[int]) -> Body[None]:
        source = world.chan(capacity)
        world.go(generate(source))
        while (prime := (yield Next(source))) is not END:
            yield Send(primes, prime)
            kept = world.chan(capacity)
            world.go(keep_from(source, kept, prime))
            source = kept
        primes.close()

    def main() -> Body[list[int]]:
        primes = world.chan(capacity)
        world.go(sieve(primes))
        got: list[int] = []
        while (prime := (yield Next(primes))) is not END:
            got.append(prime)
        return got

    assert world.run(main()) == [n for n in range(2, limit) if all(n % d for d in range(2, n))]
    world.end()


# powser1.go: power series, each a task that computes a coefficient when it is asked for one


class Series:
    """A series on demand: a request and its answer are a rendezvous each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.requests, self.terms = world.chan(), world.chan()

    def get(self) -> Body[Fraction]:
        yield Send(self.requests, None)
        term: Fraction = yield Recv(self.terms)
        return term

    def put(self, term: Fraction) -> Body[None]:
        yield Recv(self.requests)
        yield Send(self.terms, term)

    def copy(self, source: Series) -> Body[None]:
        while True:
            yield Recv(self.requests)
            yield Send(self.terms, (yield from source.get()))


def series(world: World, body: Callable[[Series], Body[None]]) -> Series:
    made = Series(world)
    world.go(body(made))
    return made


def constant(world: World, term: Fraction) -> Series:
    def body(out: Series) -> Body[None]:
        while True:
            yield from out.put(term)

    return series(world, body)


def added(one: Series, other: Series) -> Series:
    def body(out: Series) -> Body[None]:
        while True:
            yield Recv(out.requests)
            yield Send(out.terms, (yield from one.get()) + (yield from other.get()))

    return series(one.world, body)


def scaled(factor: Fraction, source: Series) -> Series:
    def body(out: Series) -> Body[None]:
        while True:
            yield Recv(out.requests)
            yield Send(out.terms, factor * (yield from source.get()))

    return series(source.world, body)


def differentiated(source: Series) -> Series:
    def body(out: Series) -> Body[None]:
        yield Recv(out.requests)
        yield from source.get()
        for power in itertools.count(1):
            yield Send(out.terms, power * (yield from source.get()))
            yield Recv(out.requests)

    return series(source.world, body)


def integrated(first: Fraction, source: Series) -> Series:
    def body(out: Series) -> Body[None]:
        yield from out.put(first)
        for power in itertools.count(1):
            yield Recv(out.requests)
            yield Send(out.terms, (yield from source.get()) / power)

    return series(source.world, body)


def split(source: Series, into: tuple[Series, Series]) -> tuple[Series, Series]:
    """Two series of the same terms, read at any pace, the one perhaps to compute what the other waits for.

    Go's takes a select. This one has an owner who is asked, and who never waits for a term himself.
    """
    world = source.world
    messages, wanted = world.chan(4), world.chan(1)

    def fetch() -> Body[None]:
        while True:
            yield Recv(wanted)
            yield Send(messages, ((yield from source.get()), None))

    def owner() -> Body[None]:
        terms: list[Fraction] = []
        waiting: list[Channel[Fraction]] = []
        while True:
            what, answer = yield Recv(messages)
            if answer is None:
                terms.append(what)
                while waiting:
                    yield Send(waiting.pop(), what)
            elif what < len(terms):
                yield Send(answer, terms[what])
            else:
                if not waiting:
                    yield Send(wanted, None)
                waiting.append(answer)

    def branch(out: Series) -> Body[None]:
        answer = world.chan(1)
        for index in itertools.count():
            yield Recv(out.requests)
            yield Send(messages, (index, answer))
            yield Send(out.terms, (yield Recv(answer)))

    for body in (fetch(), owner(), branch(into[0]), branch(into[1])):
        world.go(body)
    return into


def multiplied(one: Series, other: Series) -> Series:
    """With U = u + xU' and V = v + xV':  UV = uv + x(uV' + vU') + x²U'V'."""
    world = one.world

    def body(out: Series) -> Body[None]:
        yield Recv(out.requests)
        u, v = (yield from one.get()), (yield from other.get())
        yield Send(out.terms, u * v)
        us, vs = split(one, (Series(world), Series(world))), split(other, (Series(world), Series(world)))
        middle = added(scaled(u, vs[0]), scaled(v, us[0]))
        yield Recv(out.requests)
        yield Send(out.terms, (yield from middle.get()))
        yield from out.copy(added(middle, multiplied(us[1], vs[1])))

    return series(world, body)


def exponential(source: Series) -> Series:
    """Z = ∫ Z·U': a series that is computed from itself."""
    own = Series(source.world), Series(source.world)
    return split(integrated(Fraction(1), multiplied(own[0], differentiated(source))), own)[1]


def first_terms(source: Series, count: int) -> list[Fraction]:
    def body() -> Body[list[Fraction]]:
        terms = []
        for _ in range(count):
            terms.append((yield from source.get()))  # noqa: PERF401 - a comprehension cannot yield
        return terms

    return source.world.run(body())


def ones(world: World) -> Series:
    return constant(world, Fraction(1))


def twos(world: World) -> Series:
    return constant(world, Fraction(2))


SERIES: dict[str, tuple[Callable[[World], Series], list[str]]] = {
    "ones": (ones, ["1"] * 5),
    "add": (lambda world: added(ones(world), twos(world)), ["3"] * 10),
    "difference": (lambda world: added(ones(world), scaled(Fraction(-1), twos(world))), ["-1"] * 10),
    "derivative": (lambda world: differentiated(ones(world)), [str(n) for n in range(1, 11)]),
    "integral": (
        lambda world: integrated(Fraction(0), ones(world)),
        ["0", "1", "1/2", "1/3", "1/4", "1/5", "1/6"],
    ),
    "product": (lambda world: multiplied(ones(world), ones(world)), [str(n) for n in range(1, 8)]),
    "exponential": (
        lambda world: exponential(ones(world)),
        ["1", "1", "3/2", "13/6", "73/24", "167/40", "4051/720"],
    ),
}


@pytest.mark.thread_unsafe(reason="closes all channels of its world, which the threads of a test share")
@pytest.mark.parametrize("name", SERIES)
def test_power_series(world: World, name: str) -> None:
    make, expected = SERIES[name]
    count = len(expected) if world.many else min(len(expected), 4)
    assert [str(term) for term in first_terms(make(world), count)] == expected[:count]
    world.close_all()


# range.go


@capacities
def test_ranging_over_a_channel_sees_every_value_once(world: World, capacity: int | None) -> None:
    channel = world.chan(capacity)

    def send() -> Body[None]:
        for i in range(16):
            yield Send(channel, i)
        channel.close()

    def collect() -> Body[list[int]]:
        got: list[int] = []

        def keep(value: int) -> Body[None]:
            got.append(value)
            yield GiveUpTurn()

        yield from each(channel, keep)
        return got

    world.go(send())
    assert world.run(collect()) == list(range(16))
    world.end()


def _strings() -> Iterator[str]:
    yield from ("a", "b", "c")


def test_a_loop_may_leave_a_channel_and_another_go_on() -> None:
    """`break` takes nothing that it has not seen."""
    channel = Channel[str](3)
    for text in _strings():
        channel.send(text)
    channel.close()
    for text in channel:
        assert text == "a"
        break
    assert list(channel) == ["b", "c"]
