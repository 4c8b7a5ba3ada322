"""Rounds of everything at once, for as long as asked: what is sent arrives once, whatever it parks inside.

    python tests/stress/stress.py --seconds 60 --workers 2

First a million items go through ten producers and ten consumers of mixed kinds (mixed.py; `--items 0` leaves them out,
`--only-mixed` the rest). Then each round starts pairs of a producer and a consumer. A consumer parks in one of several awkward places (the `KINDS`
below); beside them run a mesh of tasks on one channel, cancelled tasks, collections, and tasks parked in functions that
are redefined meanwhile, and on another channel everybody is cancelled, timed out and closed at random (mixed.py).
A round ends when all its tasks have; then every account must balance. Not collected by pytest.
"""

from __future__ import annotations

import argparse
import contextvars
import faulthandler
import gc
import os
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

PAIRS = 120  # producer and consumer pairs a round
ITEMS = 20  # items each pair passes
ROUND_LIMIT = 120.0  # seconds after which a round counts as hung


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parking", choices=["auto", "fiber", "thread"], default="auto")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--only-mixed", action="store_true")
    return parser.parse_args()


options = parse()
os.environ["PENSTOCK_WORKERS"] = str(options.workers)

sys.path.append(str(Path(__file__).parents[2]))

import penstock  # noqa: E402  (the environment comes first)
from penstock import Cancelled, Channel, Empty, Full, Task, go  # noqa: E402

from tests.stress import mixed  # noqa: E402

Item = tuple[int, int, list[int]]
mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark", default=0)
unraisable: list[str] = []


# How a consumer receives `ITEMS` items: each returns the numbers it got, in order.


def in_order(channel: Channel[Item]) -> list[int]:
    return [channel.recv()[1] for _ in range(ITEMS)]


def in_a_sort(channel: Channel[Item]) -> list[int]:
    got: list[int] = []

    def key(_: int) -> int:
        got.append(channel.recv()[1])
        return -got[-1]

    assert sorted(range(ITEMS), key=key) == list(range(ITEMS - 1, -1, -1))
    return got


def in_eq(channel: Channel[Item]) -> list[int]:
    got: list[int] = []

    class Asks:
        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            got.append(channel.recv()[1])
            return False

    for _ in range(ITEMS):
        assert {Asks(): 1}.get(Asks()) is None
    return got


def in_generators(channel: Channel[Item]) -> list[int]:
    def numbers(depth: int) -> Iterator[int]:
        if depth:
            yield from numbers(depth - 1)
        else:
            for _ in range(ITEMS):
                yield channel.recv()[1]

    return [number for number in numbers(5)]


def in_recursion(channel: Channel[Item]) -> list[int]:
    def descend(depth: int) -> int:
        return descend(depth - 1) if depth else channel.recv()[1]

    return [descend(i * 7 % 100) for i in range(ITEMS)]


def in_nested_sorts(channel: Channel[Item]) -> list[int]:
    def descend(depth: int) -> int:
        if depth == 0:
            return channel.recv()[1]
        got: list[int] = []

        def key(_: int) -> int:
            got.append(descend(depth - 1))
            return 0

        sorted([0], key=key)
        return got[0]

    return [descend(i % 5) for i in range(ITEMS)]


def with_an_exception_in_flight(channel: Channel[Item]) -> list[int]:
    got: list[int] = []
    for i in range(ITEMS):
        try:
            try:
                raise KeyError(i)
            except KeyError as error:
                got.append(channel.recv()[1])
                assert sys.exc_info()[1] is error
                raise
        except KeyError as error:
            assert error.args == (i,)
            assert error.__context__ is None
    assert sys.exc_info() == (None, None, None)
    return got


def in_a_finalizer(channel: Channel[Item]) -> list[int]:
    got: list[int] = []

    class Receives:
        def __del__(self) -> None:
            got.append(channel.recv()[1])

    for _ in range(ITEMS):
        value = Receives()
        del value
    return got


def with_timeouts(channel: Channel[Item]) -> list[int]:
    got: list[int] = []
    while len(got) < ITEMS:
        try:
            got.append(channel.recv(timeout=random.choice((0, 0.0005, 10)))[1])
        except TimeoutError:
            penstock.yield_now()
    return got


def without_waiting(channel: Channel[Item]) -> list[int]:
    got: list[int] = []
    while len(got) < ITEMS:
        try:
            got.append(channel.recv_nowait()[1])
        except Empty:
            penstock.sleep(0)
    return got


async def awaiting(channel: Channel[Item]) -> list[int]:
    got = [(await channel.arecv())[1] for _ in range(ITEMS // 2)]

    async def rest() -> AsyncIterator[int]:
        for _ in range(ITEMS - ITEMS // 2):
            yield (await channel.arecv())[1]

    return got + [number async for number in rest()]


KINDS: list[Callable[[Channel[Item]], Any]] = [
    in_order,
    in_a_sort,
    in_eq,
    in_generators,
    in_recursion,
    in_nested_sorts,
    with_an_exception_in_flight,
    in_a_finalizer,
    with_timeouts,
    without_waiting,
    awaiting,
]


# Pairs


def produce(channel: Channel[Item], me: int) -> None:
    mark.set(me)
    for i in range(ITEMS):
        if me % 5 == 0:
            while True:
                try:
                    channel.send_nowait((me, i, [i]))
                except Full:
                    penstock.yield_now()
                else:
                    break
        else:
            channel.send((me, i, [i] * 3))
        assert mark.get() == me


async def aproduce(channel: Channel[Item], me: int) -> None:
    mark.set(me)
    for i in range(ITEMS):
        await channel.asend((me, i, [i] * 3))
        assert mark.get() == me


def consume(kind: Callable[[Channel[Item]], list[int]], channel: Channel[Item], me: int) -> None:
    mark.set(-me)
    got = kind(channel)
    assert got == list(range(ITEMS)), (kind.__name__, got)
    assert mark.get() == -me


async def aconsume(kind: Callable[[Channel[Item]], Any], channel: Channel[Item], me: int) -> None:
    mark.set(-me)
    got = await kind(channel)
    assert got == list(range(ITEMS)), (kind.__name__, got)
    assert mark.get() == -me


def send_all(channel: Channel[Any], items: Iterable[Any]) -> None:
    for item in items:
        channel.send(item)


# Cancels: what a receiver lost or a sender sent twice shows in the sums


def cancels() -> None:
    """Senders and receivers of one channel, half of them cancelled at any moment."""
    channel = Channel[int](random.choice((0, 1, 3)))
    receivers = [go(channel.recv) for _ in range(30)]
    senders = [go(channel.send, i) for i in range(30)]
    for task in random.sample([*receivers, *senders], 30):
        task.cancel()
        if random.random() < 0.3:
            penstock.yield_now()
    for task in (*receivers, *senders):  # the rest may wait for peers that are gone
        if random.random() < 0.5:
            penstock.yield_now()
        task.cancel()
    got: list[int] = []
    sent: list[int] = []
    for receiver in receivers:
        try:
            got.append(receiver.result())
        except Cancelled:
            pass
    for i, sender in enumerate(senders):
        try:
            sender.result()
        except Cancelled:
            continue
        sent.append(i)
    channel.close()
    got.extend(channel)
    assert sorted(got) == sent, ("cancel", sorted(got), sent)


# Collections


def collects_a_cycle_that_waits() -> None:
    """A finalizer that waits inside a collection blocks its thread; the one who serves it is another thread's."""
    if random.random() < 0.9:
        gc.collect()
        return
    channel = Channel[int](1)
    channel.send(1)
    got: list[int] = []

    class Cyclic:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            got.append(channel.recv(timeout=5))
            try:
                channel.recv(timeout=0.001)  # has to wait, and to block the thread
            except (TimeoutError, Cancelled):  # cancelled where a task of `cancels` is the one that collects
                got.append(2)

    Cyclic()
    deadline = time.monotonic() + 30  # another thread's collection may have taken the cycle
    while got != [1, 2]:
        assert time.monotonic() < deadline, got
        gc.collect()  # does nothing while another thread collects, so once is not enough
        penstock.sleep(0.001)


# Rule 8: functions and classes redefined while a task is parked in `f(ch.recv())` and inside `f`

SOURCE = """
class Result:
    version = {version}
    def __init__(self, value):
        self.value = value
        self.made_by = {version}

def finish(value):
    make = Result
    extra = channel.recv()
    return make(value + extra)

def body():
    return finish(channel.recv())
"""


def redefinition() -> None:
    namespace: dict[str, Any] = {"channel": Channel[int]()}
    channel: Channel[int] = namespace["channel"]
    exec(SOURCE.format(version=0), namespace)
    parked: list[tuple[int, Task[Any]]] = []
    for version in range(1, 4):
        parked.append((version - 1, go(namespace["body"])))
        while channel.stats().recv_waits < version:
            penstock.yield_now()
        exec(SOURCE.format(version=version), namespace)
        gc.collect(0 if random.random() < 0.8 else 2)
        for i in range(50):
            exec(f"def f{i}(): return {i}\nclass C{i}: pass", {})
    feeder = go(send_all, channel, [1] * (2 * len(parked)))
    for version, task in parked:
        result = task.result()
        # `finish` was on the stack when it was replaced: its code is the old one. `Result` it looks up when it runs.
        assert result.value == 2, result
        assert result.made_by == type(result).version
        assert version <= result.made_by <= 3
    feeder.result()


# Rounds


def run_round() -> int:
    tasks: list[tuple[str, Task[Any]]] = []

    def start() -> None:
        for me in range(1, PAIRS + 1):
            channel = Channel[Item](random.choice((0, 0, 1, 4)))
            kind = KINDS[me % len(KINDS)]
            if kind is without_waiting and channel.capacity == 0 and me % 5 == 0:
                channel = Channel[Item](1)  # two ends that both refuse to wait never meet on a rendezvous
            producer = produce if random.random() < 0.6 else aproduce
            consumer = aconsume if kind is awaiting else consume
            tasks.append((producer.__name__, go(producer, channel, me)))
            tasks.append((kind.__name__, go(consumer, kind, channel, me)))
            if me % 20 == 0:
                tasks.append(("collect", go(collects_a_cycle_that_waits)))
            if me % 30 == 0:
                tasks.append(("redefinition", go(redefinition)))
                tasks.append(("cancels", go(cancels)))

    go(start).result(timeout=ROUND_LIMIT)

    mesh = Channel[int](random.choice((0, 1, 2)))
    producers = [go(send_all, mesh, range(n * 100, n * 100 + 20)) for n in range(30)]
    consumers = [go(lambda: [mesh.recv() for _ in range(20)]) for _ in range(30)]
    from_threads: list[list[int]] = []

    def ordinary() -> None:
        from_threads.append([mesh.recv(timeout=ROUND_LIMIT) for _ in range(20)])

    threads = [threading.Thread(target=ordinary) for _ in range(2)]
    for thread in threads:
        thread.start()
    more = [go(send_all, mesh, range(n * 100, n * 100 + 20)) for n in (30, 31)]

    for name, task in tasks:
        try:
            task.result(timeout=ROUND_LIMIT)
        except BaseException as error:
            raise AssertionError(f"{name}: {error!r}; {task!r}") from error
    for task in (*producers, *more):
        task.result(timeout=ROUND_LIMIT)
    got = [value for consumer in consumers for value in consumer.result(timeout=ROUND_LIMIT)]
    for thread in threads:
        thread.join(ROUND_LIMIT)
        assert not thread.is_alive(), "a thread hangs in recv"
    got += [value for part in from_threads for value in part]
    assert sorted(got) == sorted(n * 100 + i for n in range(32) for i in range(20)), (
        "the mesh lost or doubled an item"
    )
    assert not unraisable, unraisable[:3]
    return len(tasks) + len(producers) + len(consumers) + len(more)


def main() -> int:
    faulthandler.enable()
    sys.unraisablehook = lambda report: unraisable.append(f"{report.exc_value!r} in {report.object!r}")
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    random.seed(seed)
    penstock.configure(parking=options.parking)
    print(
        f"seed {seed}, {options.workers} workers, parking {options.parking}, {sys.version.split()[0]}",
        flush=True,
    )
    began = time.monotonic()
    rounds = tasks = 0
    cut = 0
    if options.items:
        faulthandler.dump_traceback_later(2 * mixed.LIMIT, exit=True)
        for share, capacity in ((2, 1024), (4, 8), (8, 1), (8, 0)):
            mixed.run_items(options.items // share, capacity)
        print(f"{options.items} items: {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
    while time.monotonic() - began < options.seconds:
        faulthandler.dump_traceback_later(2 * ROUND_LIMIT, exit=True)
        cut += mixed.run_chaos(random.randrange(2**32))
        if not options.only_mixed:
            tasks += run_round()
        assert not unraisable, unraisable[:3]
        faulthandler.cancel_dump_traceback_later()
        rounds += 1
        if rounds % 20 == 0:
            print(f"round {rounds}: {time.monotonic() - began:.0f} s, {tasks} tasks", flush=True)
    print(f"{rounds} rounds, {tasks} tasks, {cut} waits of the mixed ones cut short, no error", flush=True)
    print(penstock.default_runtime().stats(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
