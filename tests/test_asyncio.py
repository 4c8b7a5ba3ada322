"""Operations awaited in asyncio's coroutines, on its own loops and on uvloop's."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import importlib.util
import random
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import penstock
import pytest
from penstock import BufferPool, Channel, ChannelClosed, Rate, go

LIMIT = 60.0  # seconds; only a hang reaches it

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None


def new_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": new_uvloop,
}

Run = Callable[..., Any]


@pytest.fixture(
    params=[
        "asyncio",
        pytest.param("uvloop", marks=pytest.mark.skipif(not HAS_UVLOOP, reason="uvloop is not installed")),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an ``async def`` in a loop of its own, under a limit."""

    def run(main: Callable[[], Coroutine[Any, Any, Any]], *, debug: bool = False) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(LIMIT):
                return await main()

        with asyncio.Runner(debug=debug, loop_factory=FACTORIES[request.param]) as runner:
            return runner.run(limited())

    return run


async def turns(count: int = 3) -> None:
    """Lets the loop's other tasks run until they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


async def parked(*awaitables: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    """Tasks that wait, in their order."""
    tasks = []
    for awaitable in awaitables:
        tasks.append(asyncio.ensure_future(awaitable))
        await turns()
    return tasks


# The operations


@pytest.mark.parametrize("capacity", [0, 1, 16])
def test_values_pass_between_two_coroutines_in_order(run: Run, capacity: int) -> None:
    async def main() -> None:
        channel = Channel[int](capacity)

        async def produce() -> None:
            for i in range(300):
                await channel.asend(i)
            channel.close()

        producer = asyncio.create_task(produce())
        assert [item async for item in channel] == list(range(300))
        await producer
        with pytest.raises(ChannelClosed):
            await channel.arecv()
        with pytest.raises(ChannelClosed):
            await channel.asend(1)

    run(main)
    run(main, debug=True)


def test_close_ends_the_waits(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int]()

        async def iterate() -> list[int]:
            return [item async for item in channel]

        receiver, iterating = await parked(channel.arecv(), iterate())
        channel.close()
        with pytest.raises(ChannelClosed):
            await receiver
        assert await iterating == []
        full = Channel[int](1)
        full.send(1)
        (sender,) = await parked(full.asend(2))
        full.close()
        with pytest.raises(ChannelClosed):
            await sender
        assert list(full) == [1]

    run(main)


def test_a_timeout_raises_and_leaves_nothing_behind(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int](1)
        for seconds in (0, 0.001):
            with pytest.raises(TimeoutError, match="empty"):
                await channel.arecv(timeout=seconds)
        await channel.asend(1, timeout=0)
        for seconds in (0, 0.001):
            with pytest.raises(TimeoutError, match="full"):
                await channel.asend(2, timeout=seconds)
        assert await channel.arecv(timeout=LIMIT) == 1
        assert len(channel) == 0
        (receiver,) = await parked(channel.arecv(timeout=LIMIT))
        await channel.asend(3)
        assert await receiver == 3

    run(main)


def test_joins_sleeps_and_calls_of_the_pool_are_awaited(run: Run) -> None:
    gate = Channel[int]()

    async def main() -> None:
        assert await go(pow, 2, 5) == 32
        waiting = go(gate.recv)
        with pytest.raises(TimeoutError):
            await waiting.aresult(timeout=0.001)
        (joining,) = await parked(waiting.aresult())
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        assert not waiting.done(), "the task goes on"
        await gate.asend(7)
        assert await waiting == 7
        assert await waiting.aexception() is None
        await penstock.asleep(0.001)
        await penstock.asleep(0)
        assert await penstock.ablocking(str, 7) == "7"
        release = threading.Event()
        (calling,) = await parked(penstock.ablocking(release.wait))
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        release.set()
        with pytest.raises(ZeroDivisionError):
            await penstock.ablocking(lambda: 1 // 0)

    run(main)


def test_a_pools_buffer_is_waited_for(run: Run) -> None:
    async def main() -> None:
        pool = BufferPool(64)
        held = pool.acquire(64)
        waiting, gone, last = await parked(pool.aacquire(64), pool.aacquire(64), pool.aacquire(64))
        gone.cancel()
        held.release()
        (await waiting).release()
        (await last).release()
        assert pool.stats().in_use == 0

    run(main)


def test_a_plain_call_that_would_wait_blocks_the_loops_thread_only(threads: Any) -> None:
    channel = Channel[int]()

    async def main() -> int:
        return channel.recv(timeout=LIMIT)

    threads.start(channel.send, 3)
    assert asyncio.run(main()) == 3


# As asyncio sees it


def test_an_operation_is_a_coroutine_to_asyncio(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int](1)
        assert isinstance(channel.arecv(), collections.abc.Coroutine)
        received = asyncio.create_task(channel.arecv())
        assert "Task pending" in repr(received)
        await asyncio.create_task(channel.asend(1))
        assert await received == 1
        async with asyncio.TaskGroup() as group:
            first = group.create_task(channel.arecv())
            group.create_task(channel.asend(2))
        assert first.result() == 2
        assert await asyncio.gather(channel.asend(3), channel.arecv()) == [None, 3]

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_wait_and_go_on() -> None:
    async def main() -> None:
        factory: Any = getattr(asyncio, "eager_task_factory", None)
        asyncio.get_running_loop().set_task_factory(factory)
        channel = Channel[int](1)
        receiver = asyncio.create_task(channel.arecv())
        ready = asyncio.create_task(channel.asend(5))
        assert ready.done(), "it did not wait"
        assert await receiver == 5

    asyncio.run(main())


def test_wait_for_timeouts_and_groups_cancel_a_wait(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int]()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.arecv(), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await channel.asend(1)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(channel.arecv())
                await turns()
                group.create_task(channel.arecv(timeout=0))
        assert isinstance(caught.value.exceptions[0], TimeoutError)
        assert waiting.cancelled()
        with pytest.raises(penstock.Full):
            channel.send_nowait(1)  # nobody waits any more
        with pytest.raises(penstock.Empty):
            channel.recv_nowait()

    run(main)


def test_an_operation_that_is_thrown_into_or_closed_takes_its_wait_back(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int](1)
        for end in ("throw", "close"):
            operation = channel.arecv()
            assert asyncio.isfuture(operation.send(None))
            if end == "throw":
                with pytest.raises(KeyError):
                    operation.throw(KeyError("thrown"))
            else:
                operation.close()
            channel.send_nowait(1)
            assert len(channel) == 1, "nobody was handed it"
            assert channel.recv_nowait() == 1
            with pytest.raises(RuntimeError, match="awaited once"):
                operation.send(None)
        with pytest.raises(TypeError):
            channel.arecv().throw(7)  # type: ignore[call-overload]

    run(main)


def test_without_a_loop_a_wait_says_what_it_needs() -> None:
    channel = Channel[int](1)
    operation = channel.arecv()
    with pytest.raises(RuntimeError, match="an async penstock task, or a coroutine of asyncio or trio"):
        operation.send(None)
    channel.send(1)
    with pytest.raises(StopIteration) as stopped:
        channel.arecv().send(None)
    assert stopped.value.value == 1


def test_batches_pass_between_coroutines(run: Run) -> None:
    async def main() -> None:
        for capacity in (0, 1, 16):
            channel = Channel[int](capacity)
            sender, receiver = channel.sender(), channel.receiver()

            async def produce(sender: penstock.Sender[int]) -> None:
                with sender:
                    await sender.asend_many(number for number in range(100))

            got: list[int] = []
            producer = asyncio.ensure_future(produce(sender))
            with pytest.raises(ChannelClosed):
                while True:
                    got += await receiver.arecv_many(8)
            await producer
            assert got == list(range(100))

    run(main)


def test_coroutines_keep_to_a_rate_and_the_loop_goes_on_meanwhile(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int](8, rate=Rate(per_second=50, burst=1))
        loop = asyncio.get_running_loop()
        start = loop.time()
        waits = [asyncio.ensure_future(channel.asend(number)) for number in range(4)]
        await turns()
        assert [task.done() for task in waits] == [True, False, False, False]
        waits[1].cancel()  # it passes its turn on, and takes no token
        await asyncio.gather(waits[0], waits[2], waits[3])
        assert loop.time() - start >= 0.039  # of loops whose clock is in milliseconds
        assert waits[1].cancelled()
        assert channel.recv_many(9) == [0, 2, 3]
        hardly = Channel[int](2, rate=Rate(1e-6))
        await hardly.asend(1)
        with pytest.raises(TimeoutError, match="rate"):
            await hardly.asend(2, timeout=0.01)

    run(main)


# Cancelled at the moment of a hand-over


def test_what_a_cancelled_batch_was_handed_is_received_first(run: Run) -> None:
    async def main() -> None:
        told: list[str] = []
        channel = Channel[int](2)
        channel.on_pressure(lambda _, pressure: told.append(pressure), high=1, low=0.5)
        gone = await parked(channel.arecv_many(5), channel.arecv())
        for value in range(4):
            channel.send_nowait(value)
        for task in reversed(gone):
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert all(task.cancelled() for task in gone)
        assert len(channel) == 4
        assert channel.stats().received == 0
        assert await channel.arecv_many(1) == [0]
        assert channel.recv_many(9) == [1, 2, 3]
        assert told == ["high", "low"]
        assert channel.stats().received == 4

    run(main)


def test_the_oldest_in_the_channel_makes_way_and_what_came_back_stays(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int](1, overflow="drop_oldest")
        (gone,) = await parked(channel.arecv())
        channel.send_many([0, 1])
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        channel.send(2)
        assert len(channel) == 2
        assert await channel.arecv_many(9) == [0, 2]
        stats = channel.stats()
        assert (stats.sent, stats.received, stats.dropped) == (3, 2, 1)

    run(main)


def test_what_a_cancelled_receive_was_handed_is_received_first(run: Run) -> None:
    async def main() -> None:
        for capacity in (0, 1):
            channel = Channel[int](capacity)
            tasks = await parked(*(channel.arecv() for _ in range(3)))
            for value in range(3):
                channel.send_nowait(value)
            for value in range(3, 3 + capacity):
                channel.send_nowait(value)
            for task in reversed(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert all(task.cancelled() for task in tasks)
            assert len(channel) == 3 + capacity > capacity
            assert channel.stats().received == 0
            channel.close()
            assert [item async for item in channel] == list(range(3 + capacity))
            stats = channel.stats()
            assert stats.sent == stats.received == 3 + capacity
            assert stats.dropped == 0

    run(main)


def test_what_a_cancelled_receive_was_handed_goes_to_who_waits(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int]()
        gone, next = await parked(channel.arecv(), channel.arecv())
        channel.send_nowait(1)
        gone.cancel()
        assert await next == 1
        assert gone.cancelled()

    run(main)


def test_a_cancelled_send_was_delivered_once_or_never_appears(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int]()
        never, handed = await parked(channel.asend(1), channel.asend(2))
        never.cancel()
        with pytest.raises(asyncio.CancelledError):
            await never
        assert channel.recv_nowait() == 2
        handed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handed
        with pytest.raises(penstock.Empty):
            channel.recv_nowait()
        assert channel.stats().sent == 1

    run(main)


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_random_cancels_lose_and_repeat_nothing(run: Run, capacity: int, threads: Any) -> None:
    """Receivers and senders in the loop are cancelled at any moment while threads and tasks use the other end."""
    count = 4000
    channel = Channel[int](capacity)
    chance = random.Random(capacity)
    got: list[int] = []

    def send() -> None:
        for value in range(count):
            channel.send(value, timeout=LIMIT)

    async def receive() -> None:
        got.append(await channel.arecv())  # no await in between: it has it, or was cancelled

    async def main() -> None:
        threads.start(send)
        waiting: list[asyncio.Task[None]] = []
        while len(got) < count:
            waiting = [task for task in waiting if not task.done()]
            while len(waiting) < 4:
                waiting.append(asyncio.create_task(receive()))
            await asyncio.sleep(0)
            if chance.random() < 0.3:
                chance.choice(waiting).cancel()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(main)
    assert sorted(got) == list(range(count))
    assert len(channel) == 0
    stats = channel.stats()
    assert (stats.sent, stats.received, stats.dropped) == (count, count, 0)

    sent = 0
    taken: list[int] = []

    def take() -> None:
        taken.extend(channel)

    async def send_all() -> None:
        nonlocal sent
        taker = go(take)
        for value in range(count):
            operation = channel.asend(value)
            task = asyncio.ensure_future(operation)
            await turns(chance.randrange(3))
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
        sent = channel.stats().sent - count
        channel.close()
        await taker

    run(send_all)
    assert len(taken) == sent
    assert taken == sorted(set(taken))


# Any mix of ends


def in_thread(
    function: Callable[[], Any], forms: Callable[[], Coroutine[Any, Any, Any]]
) -> Callable[[], Any]:
    return function


def in_task(function: Callable[[], Any], forms: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
    return lambda: go(function).result(timeout=LIMIT)


def in_async_task(function: Callable[[], Any], forms: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: go(forms).result(timeout=LIMIT)


def in_asyncio(
    function: Callable[[], Any], forms: Callable[[], Coroutine[Any, Any, Any]]
) -> Callable[[], Any]:
    return lambda: asyncio.run(forms())


def in_trio(function: Callable[[], Any], forms: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
    import trio

    return lambda: trio.run(forms)


KINDS = [in_thread, in_task, in_async_task, in_asyncio, in_trio]


@pytest.mark.parametrize("capacity", [0, 2])
@pytest.mark.parametrize("receivers", KINDS)
@pytest.mark.parametrize("senders", KINDS)
def test_any_two_kinds_of_ends_pass_values_in_order(
    senders: Any, receivers: Any, capacity: int, threads: Any
) -> None:
    count = 200
    channel = Channel[tuple[int, int]](capacity)
    got: list[tuple[int, int]] = []

    def send(number: int) -> None:
        for value in range(count):
            channel.send((number, value), timeout=LIMIT)

    async def asend(number: int) -> None:
        for value in range(count):
            await channel.asend((number, value), timeout=LIMIT)

    def receive() -> None:
        got.extend(channel)

    async def areceive() -> None:
        async for item in channel:
            got.append(item)  # noqa: PERF401 - the other ends look at it meanwhile

    receiver = threads.start(receivers(receive, areceive))
    ends = [threads.start(senders(partial(send, number), partial(asend, number))) for number in range(2)]
    for end in ends:
        end.join(LIMIT)
    channel.close()
    receiver.join(LIMIT)
    threads.join()
    for number in range(2):
        assert [value for sender, value in got if sender == number] == list(range(count))
    assert len(got) == 2 * count


def test_coroutines_stand_in_one_line_with_tasks_and_threads(
    run: Run, threads: Any, wait_until: Callable[..., None]
) -> None:
    channel = Channel[int]()
    got: dict[str, int] = {}
    waits = 0

    async def waits_more() -> None:
        nonlocal waits
        waits += 1
        while channel.stats().recv_waits < waits:  # noqa: ASYNC110 - no event says that a thread waits
            await asyncio.sleep(0)

    def receive(name: str) -> None:
        got[name] = channel.recv(timeout=LIMIT)

    async def areceive(name: str) -> None:
        got[name] = await channel.arecv()

    async def main() -> None:
        starts: list[Callable[[str], object]] = [
            lambda name: threads.start(receive, name),
            lambda name: asyncio.ensure_future(areceive(name)),
            lambda name: go(receive, name),
            lambda name: go(areceive, name),
        ]
        kept = []
        for number in range(8):
            kept.append(starts[number % 4](f"{number}"))
            await waits_more()
        for number in range(8):
            channel.send_nowait(number)
        while len(got) < 8:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)

    run(main)
    assert got == {f"{number}": number for number in range(8)}


def test_several_loops_share_a_channel(run: Run, threads: Any) -> None:
    loops, count = 4, 250
    channel = Channel[int](3)
    got: list[int] = []

    async def main(number: int) -> None:
        async def produce() -> None:
            for value in range(count):
                await channel.asend(number * count + value)

        async def consume() -> None:
            for _ in range(count):
                got.append(await channel.arecv())  # noqa: PERF401 - several do

        await asyncio.gather(produce(), consume())

    for number in range(loops):
        threads.start(lambda number=number: run(lambda: main(number)))
    threads.join()
    assert sorted(got) == list(range(loops * count))
    assert len(channel) == 0


# Wake-ups


class Counting(asyncio.SelectorEventLoop):
    """Counts the calls that write to its pipe."""

    calls = 0

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        self.calls += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


def test_a_burst_from_a_thread_is_one_call_of_the_loop(threads: Any) -> None:
    channel = Channel[int]()

    async def main(loop: Counting) -> None:
        def send() -> None:
            for value in range(100):
                channel.send_nowait(value)

        tasks = await parked(*(channel.arecv() for _ in range(100)))
        before = loop.calls
        sender = threads.start(send)
        sender.join()  # the loop stands meanwhile
        assert loop.calls == before + 1
        assert await asyncio.gather(*tasks) == list(range(100))
        assert loop.calls == before + 1

    with asyncio.Runner(loop_factory=Counting) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Counting)
        runner.run(main(loop))


def test_a_task_of_the_loop_wakes_another_without_the_loops_pipe() -> None:
    channel = Channel[int](1)

    async def main(loop: Counting) -> None:
        before = loop.calls
        for value in range(50):
            receiver, *_ = await parked(channel.arecv())
            await channel.asend(value)
            assert await receiver == value
        assert loop.calls == before

    with asyncio.Runner(loop_factory=Counting) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Counting)
        runner.run(main(loop))


def test_a_wake_up_through_a_plain_callback_of_the_loop_arrives(run: Run) -> None:
    channel = Channel[int](1)

    async def main() -> int:
        asyncio.get_running_loop().call_later(0.01, channel.send_nowait, 4)
        return await channel.arecv()

    assert run(main) == 4


@pytest.mark.thread_unsafe(reason="it replaces sys.unraisablehook")
def test_the_caller_of_a_send_never_sees_an_error_of_the_loop(threads: Any) -> None:
    class Broken(asyncio.SelectorEventLoop):
        broken = False

        def call_soon_threadsafe(  # type: ignore[override]
            self, callback: Any, *args: Any, context: Any = None
        ) -> asyncio.Handle:
            if self.broken:
                raise ZeroDivisionError
            return super().call_soon_threadsafe(callback, *args, context=context)

    channel = Channel[int](1)
    loop = Broken()
    seen: list[Any] = []

    async def main() -> None:
        (gone,) = await parked(channel.arecv())
        loop.broken = True
        hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: seen.append(unraisable.exc_type)
        try:
            threads.start(channel.send_nowait, 1).join()
        finally:
            sys.unraisablehook = hook
            loop.broken = False
        assert set(seen) == {ZeroDivisionError}
        assert channel.recv_nowait() == 1, "given back: the loop will not resume the receiver"
        gone.cancel()

    try:
        loop.run_until_complete(main())
    finally:
        loop.run_until_complete(turns())
        loop.close()


# Closed loops, and what is dropped


@pytest.mark.parametrize("capacity", [0, 2])
def test_what_was_handed_to_a_closed_loop_is_not_lost(run_program: Any, capacity: int) -> None:
    run_program(
        f"""
        import asyncio, gc, penstock
        from penstock import Channel

        def park(loop, *awaitables):
            async def main():
                tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
                for task in tasks:
                    task._log_destroy_pending = False  # that is asyncio's own word on it
                for _ in range(3):
                    await asyncio.sleep(0)
                return tasks
            return loop.run_until_complete(main())

        channel = Channel({capacity})
        # Handed over before the loop was closed, and after.
        for order in ("before", "after"):
            loop = asyncio.new_event_loop()
            tasks = park(loop, *(channel.arecv() for _ in range(500)))
            if order == "before":
                for value in range(2):
                    channel.send_nowait(value)
                sender = threading.Thread(target=channel.send_nowait, args=(2,))
                sender.start(), sender.join()
            loop.close()
            if order == "after":
                channel.send_nowait(0)
            handed = len(channel)
            assert handed == (3 if order == "before" else 1), handed
            assert [channel.recv(timeout=10) for _ in range(handed)] == list(range(handed))
            del tasks
            gc.collect()
            assert len(channel) == 0
            assert channel.stats().received == channel.stats().sent

        # A receiver of another loop gets it, whose loop runs.
        loop = asyncio.new_event_loop()
        tasks = park(loop, channel.arecv())
        loop.close()
        other = penstock.go(channel.recv)
        wait_until(lambda: channel.stats().recv_waits >= 1002)
        channel.send_nowait(9)
        assert other.result(timeout=10) == 9

        # A send that is taken when its loop is closed was delivered once; dropped before that, it never appears.
        loop = asyncio.new_event_loop()
        tasks = park(loop, *(channel.asend(value) for value in range({capacity} + 3)))
        loop.close()
        assert channel.recv(timeout=10) == 0
        del tasks
        gc.collect()
        channel.close()
        assert list(channel) == list(range(1, 1 + {capacity}))
        print("ok")
        """,
        stdout="ok\n",
    )


def test_a_waiting_coroutine_lives_as_long_as_its_channel(run: Run) -> None:
    class Witness:
        pass

    async def wait(channel: Channel[int], witness: Witness) -> int:
        return await channel.arecv()

    async def main() -> None:
        channel = Channel[int]()
        witness = Witness()
        gone = weakref.ref(witness)
        asyncio.ensure_future(wait(channel, witness))  # noqa: RUF006 - nobody keeps it but the channel
        del witness
        await turns()
        gc.collect()
        assert gone() is not None, "the channel may still get a value"
        channel.send_nowait(1)
        await turns()
        gc.collect()
        assert gone() is None

    run(main)


def test_a_coroutine_that_waits_on_what_nobody_has_is_collected(run_program: Any) -> None:
    run_program(
        """
        import asyncio, gc, weakref
        from penstock import Channel

        class Witness: pass

        async def wait(witness, way):
            channel = Channel()
            await (channel.arecv() if way == "arecv" else channel.asend(witness))

        async def main():
            seen = []
            for way in ("arecv", "asend"):
                for _ in range(10):
                    witness = Witness()
                    seen.append(weakref.ref(witness))
                    asyncio.ensure_future(wait(witness, way))._log_destroy_pending = False
                    del witness
            for _ in range(3):
                await asyncio.sleep(0)
            assert all(one() is not None for one in seen)
            gc.collect(), gc.collect()
            assert all(one() is None for one in seen)

        asyncio.run(main())
        """
    )


def test_an_awaitable_that_nobody_awaits_is_dropped_silently(run: Run) -> None:
    async def main() -> None:
        channel = Channel[int]()
        for _ in range(100):
            unused = channel.arecv()
            operation = channel.asend(1)
            operation.send(None)
            del operation, unused
        with pytest.raises(penstock.Empty):
            channel.recv_nowait()

    run(main)


def test_many_loops_one_after_the_other_leave_nothing(run: Run) -> None:
    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        channel = Channel[int](1)
        (receiver,) = await parked(channel.arecv())
        channel.send_nowait(1)
        await receiver
        return weakref.ref(asyncio.get_running_loop())

    loops = [run(main) for _ in range(30)]
    gc.collect()
    assert all(loop() is None for loop in loops)


# Signals and forks


@pytest.mark.parametrize(
    "loop",
    [
        "asyncio",
        pytest.param("uvloop", marks=pytest.mark.skipif(not HAS_UVLOOP, reason="uvloop is not installed")),
    ],
)
def test_ctrl_c_ends_a_wait_and_loses_nothing(run_program: Any, loop: str) -> None:
    run_program(
        f"""
        import asyncio, signal, penstock
        if {loop!r} == "uvloop":
            import uvloop
        factory = uvloop.new_event_loop if {loop!r} == "uvloop" else asyncio.new_event_loop
        channel = penstock.Channel()

        async def main():
            asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
            try:
                await channel.arecv()
            finally:
                print("cleaned up")

        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        try:
            channel.send_nowait(1)
        except penstock.Full:
            print("nobody waits")
        """,
        stdout="cleaned up\ninterrupted\nnobody waits\n",
    )


def test_a_signal_handler_wakes_a_loop_that_sleeps(run_program: Any) -> None:
    run_program(
        """
        import asyncio, signal, penstock
        channel = penstock.Channel(1)
        signal.signal(signal.SIGUSR1, lambda *_: channel.send_nowait("signalled"))

        async def main():
            waiting = asyncio.ensure_future(channel.arecv())
            await asyncio.sleep(0)
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            print(await waiting)  # nothing else would wake the loop

        asyncio.run(main())
        """,
        stdout="signalled\n",
    )


def test_interrupts_while_a_thread_wakes_a_loop_lose_no_wake_up(run_program: Any) -> None:
    run_program(
        """
        import asyncio, signal, penstock
        there, back = penstock.Channel(), penstock.Channel()

        async def echo():
            async for value in there:
                await back.asend(value)

        loop = threading.Thread(target=lambda: asyncio.run(echo()))
        loop.start()
        interrupts, armed = 0, False
        def interrupt(*_):
            global interrupts, armed
            if armed:
                interrupts += 1
                armed = False
                raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
        until = time.monotonic() + 2
        value = 0
        while time.monotonic() < until:
            try:
                armed = True
                there.send(value)
                time.sleep(0)  # here comes one that was put off, because the value was delivered
                armed = False
            except KeyboardInterrupt:
                pass
            if there.stats().sent > value:
                assert back.recv(timeout=20) == value
                value += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert interrupts and value, (interrupts, value)
        there.close()
        back.close()
        loop.join(20)
        assert not loop.is_alive()
        print("ok")
        """,
        stdout="ok\n",
    )


def test_a_forked_child_has_a_loop_of_its_own(run_program: Any) -> None:
    run_program(
        """
        import asyncio, gc, warnings, penstock
        warnings.simplefilter("ignore", DeprecationWarning)
        channel = penstock.Channel(2)

        async def receive():
            return await channel.arecv()

        parent = asyncio.new_event_loop()
        async def park():
            tasks = [asyncio.ensure_future(receive()) for _ in range(3)]
            await asyncio.sleep(0), await asyncio.sleep(0)
            return tasks
        tasks = parent.run_until_complete(park())
        pid = os.fork()
        if pid == 0:
            for task in tasks:
                task._log_destroy_pending = False
            del tasks, task
            gc.collect()
            channel.send_nowait(1)
            assert len(channel) == 1, "the parent's waiters are not there"
            assert asyncio.run(receive()) == 1
            async def both():
                waiting = asyncio.ensure_future(receive())
                await asyncio.sleep(0)
                await channel.asend(2)
                return await waiting
            assert asyncio.run(both()) == 2
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        for value in range(3):
            channel.send_nowait(value)
        assert parent.run_until_complete(asyncio.gather(*tasks)) == [0, 1, 2]
        parent.close()
        """
    )
