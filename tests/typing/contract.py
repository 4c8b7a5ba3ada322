"""What a type checker must see. Never run: `mypy --strict` and pyright read it (see `test_typing.py`)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal, assert_type

from penstock import (
    AtomicBool,
    AtomicInt,
    AtomicRef,
    Barrier,
    Channel,
    Condition,
    Event,
    Group,
    Lock,
    Once,
    Rate,
    Receiver,
    RuntimeStats,
    Selected,
    Semaphore,
    Sender,
    Task,
    WaitGroup,
    after,
    as_completed,
    aselect,
    asleep,
    await_,
    buffers,
    default_runtime,
    go,
    map,
    memviz,
    move_on_after,
    select,
    select_nowait,
    sleep,
    tick,
    timeout,
    wait,
    yield_now,
)


def plain(a: int, b: str = "") -> float:
    return a + len(b)


async def coloured(a: int) -> bytes:
    return bytes(a)


# go: the result type of plain callables and of coroutine functions, and the arguments checked

assert_type(go(plain, 1), Task[float])
assert_type(go(plain, 1, b="x"), Task[float])
assert_type(go(coloured, 1), Task[bytes])
assert_type(go(functools.partial(plain, 1)), Task[float])
go(plain, "1")  # type: ignore[call-overload]
go(plain)  # type: ignore[call-overload]
go(coloured, "1")  # type: ignore[call-overload]
go(3)  # type: ignore[call-overload]

# Task

task = go(plain, 1)
assert_type(task.result(), float)
assert_type(task.result(timeout=0.5), float)
assert_type(task.exception(), BaseException | None)
assert_type(task.done(), bool)
assert_type(task.cancelled(), bool)
assert_type(task.name, str)
assert_type(task.id, int)


def callback(ended: Task[float]) -> None: ...


task.add_done_callback(callback)
task.id = 3  # type: ignore[misc]

# Channel

channel = Channel[int](2, name="numbers")
assert_type(channel.recv(), int)
assert_type(channel.recv(timeout=1), int)
assert_type(channel.recv_nowait(), int)
assert_type(list(channel), list[int])
assert_type(len(channel), int)
assert_type(channel.capacity, int | None)
assert_type(channel.closed, bool)
assert_type(channel.stats().sent, int)
channel.send("x")  # type: ignore[arg-type]
channel.send_nowait("x")  # type: ignore[arg-type]
channel.send_many([1, 2])
channel.send_many(number for number in range(3))
channel.send_many(["x"])  # type: ignore[list-item]
assert_type(channel.recv_many(10), list[int])
Channel[int](2, overflow="drop_oldest", rate=Rate(10, burst=2))
Channel[int](2, overflow="drop")  # type: ignore[arg-type]
Channel[int](2, rate=10)  # type: ignore[arg-type]
assert_type(channel.stats().send_wait_seconds, float)
Rate(1).burst = 2  # type: ignore[misc]


def under_pressure(filled: Channel[int], pressure: str) -> None: ...


def of_another_type(filled: Channel[bytes], pressure: str) -> None: ...


channel.on_pressure(under_pressure, high=0.9, low=0.1)
channel.on_pressure(of_another_type)  # type: ignore[arg-type]
sender, receiver = channel.sender(), channel.receiver()
assert_type(sender, Sender[int])
assert_type(receiver, Receiver[int])
assert_type(receiver.recv(), int)
assert_type(list(receiver), list[int])
sender.send("x")  # type: ignore[arg-type]
sender.recv()  # type: ignore[attr-defined]
receiver.send(1)  # type: ignore[attr-defined]
of_bools: Sender[bool] = sender  # who takes any int takes a bool
of_objects: Receiver[object] = receiver
wrong: Sender[object] = sender  # type: ignore[assignment]
with channel.sender() as own:
    assert_type(own, Sender[int])
annotated: Channel[str] = Channel()
unbounded = Channel[int](None)
assert_type(after(1), Channel[float])
assert_type(tick(0.5).recv(), float)
assert_type(annotated.recv(), str)


async def awaits() -> None:
    assert_type(await go(plain, 1), float)
    assert_type(await go(coloured, 1), bytes)
    assert_type(await go(coloured, 1).aresult(), bytes)
    assert_type(await channel.arecv(), int)
    assert_type(await receiver.arecv(), int)
    assert_type([item async for item in receiver], list[int])
    await sender.asend("x")  # type: ignore[arg-type]
    assert_type([item async for item in channel], list[int])
    await channel.asend(1)
    await channel.asend_many([1, 2])
    assert_type(await channel.arecv_many(5), list[int])
    await channel.asend("x")  # type: ignore[arg-type]
    await asleep(1)
    async with Group(limit=2) as group:
        assert_type(group, Group)
        assert_type(group.go(coloured, 1), Task[bytes])


with Group() as group:
    assert_type(group, Group)
    assert_type(group.go(plain, 1), Task[float])
    group.go(plain, "1")  # type: ignore[call-overload]

sleep(0.5)
yield_now()
assert_type(default_runtime().stats(), RuntimeStats)
assert_type(default_runtime().stats().steals, int)

# deadlines: only `move_on_after` may swallow


def limited() -> int:
    with timeout(1):
        return 1


def moved_on() -> int:
    with move_on_after(1.5) as scope:
        return 1
    return int(scope.expired)


timeout("1")  # type: ignore[arg-type]

# many tasks

done, not_done = wait([go(plain, 1)], timeout=1, return_when="FIRST_COMPLETED")
assert_type(done, set[Task[float]])
assert_type([ended.result() for ended in as_completed([go(plain, 1)], timeout=1)], list[float])
assert_type(list(map(plain, [1], limit=3, ordered=False)), list[float])
assert_type(list(map(coloured, [1])), list[bytes])
map(coloured, ["1"])  # type: ignore[arg-type]


async def many() -> None:
    assert_type((await await_([go(plain, 1)])).done, set[Task[float]])
    async for ended in as_completed([go(plain, 1)]):
        assert_type(ended, Task[float])
    async for result in map(plain, [1]):
        assert_type(result, float)


# Locks

lock = Lock()
assert_type(lock.acquire(), bool)
assert_type(lock.acquire(timeout=0.5), bool)
assert_type(lock.release(), None)
with lock as locked, Semaphore(2) as permitted:
    assert_type(locked, bool)
    assert_type(permitted, bool)
assert_type(Event().wait(0.5), Literal[True])
assert_type(Barrier(2, action=lambda: None, timeout=1).wait(), int)
assert_type(WaitGroup().wait(), None)
assert_type(Once().do(lambda: 3), None)
condition = Condition(lock)
assert_type(condition.wait(), Literal[True])
assert_type(condition.wait_for(lambda: [1]), list[int])
Condition(3)  # type: ignore[arg-type]
Once().do(3)  # type: ignore[arg-type]


async def awaits_locks() -> None:
    async with lock, Semaphore(), condition:
        pass
    assert_type(await lock.aacquire(timeout=0.5), Literal[True])
    assert_type(await Event().await_(), Literal[True])
    assert_type(await Barrier(2).await_(), int)
    assert_type(await WaitGroup().await_(), None)
    assert_type(await condition.await_for(lambda: [1], timeout=1), list[int])
    assert_type(await Once().ado(awaits_locks), None)


# Atomics

counter = AtomicInt(3)
assert_type(counter.load(), int)
assert_type(counter.add(1), int)
assert_type(counter.compare_exchange(4, 5), bool)
assert_type(int(counter), int)
counter.add(1.5)  # type: ignore[arg-type]
assert_type(AtomicBool().swap(True), bool)
AtomicBool(1)  # type: ignore[arg-type]
reference = AtomicRef[str | None](None)
assert_type(reference.load(), str | None)
assert_type(reference.swap("x"), str | None)
reference.store(3)  # type: ignore[arg-type]


# select: the types of the received values go together; a send is a tuple

texts, figures = Channel[str](1), Channel[int](1)
assert_type(select(figures), Selected[int])
assert_type(select(figures, (texts, "x"), timeout=1.0, priority=True), Selected[int])
assert_type(select((texts, "x")), Selected[None])
assert_type(select(figures).value, int | None)
assert_type(select(figures).index, int)
assert_type(select(figures).closed, bool)
assert_type(select_nowait(figures), Selected[int] | None)
either: str | int | None = select(texts, figures).value  # type: ignore[assignment, unused-ignore]
select(None)  # type: ignore[call-overload]
select((texts,))  # type: ignore[arg-type]
select_nowait(figures, timeout=0)  # type: ignore[call-overload]


async def selects() -> None:
    assert_type(await aselect(figures), Selected[int])
    assert_type(await aselect((texts, "x")), Selected[None])


# memviz: any path of text, a pool by name

assert_type(memviz("heap.svg"), None)
memviz(Path("heap.svg"), pool=buffers)
memviz(b"heap.svg")  # type: ignore[arg-type]
memviz("heap.svg", buffers)  # type: ignore[call-arg, misc, unused-ignore]
