"""Operations awaited in trio's tasks, and in anyio's on either library."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import penstock
import pytest
import trio
import trio.testing
from penstock import BufferPool, Channel, ChannelClosed, go

LIMIT = 60.0  # seconds; only a hang reaches it


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def limited() -> Any:
        with trio.fail_after(LIMIT):
            return await main()

    return trio.run(limited)


@pytest.mark.parametrize("capacity", [0, 1, 16])
def test_values_pass_between_two_tasks_in_order(capacity: int) -> None:
    async def main() -> None:
        channel = Channel[int](capacity)

        async def produce() -> None:
            for i in range(200):
                await channel.asend(i)
            channel.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            assert [item async for item in channel] == list(range(200))
        with pytest.raises(ChannelClosed):
            await channel.arecv()
        with pytest.raises(ChannelClosed):
            await channel.asend(1)

    run(main)


def test_an_operation_is_a_coroutine_to_trio() -> None:
    async def main() -> None:
        channel = Channel[int]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.asend, 1)
            assert await channel.arecv() == 1

    run(main)


def test_a_timeout_raises_and_leaves_nothing_behind() -> None:
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

    run(main)


def test_joins_sleeps_and_calls_of_the_pool_are_awaited() -> None:
    gate = Channel[int]()

    async def main() -> None:
        assert await go(pow, 2, 5) == 32
        waiting = go(gate.recv)
        with pytest.raises(TimeoutError):
            await waiting.aresult(timeout=0.001)
        with trio.move_on_after(0.001) as scope:
            await waiting
        assert scope.cancelled_caught
        assert not waiting.done(), "the task goes on"
        await gate.asend(7)
        assert await waiting == 7
        await penstock.asleep(0.001)
        await penstock.asleep(0)
        assert await penstock.ablocking(lambda: "called") == "called"
        release = threading.Event()
        with trio.move_on_after(0.001) as scope:
            await penstock.ablocking(release.wait)
        assert scope.cancelled_caught
        release.set()
        pool = BufferPool(64)
        held = pool.acquire(64)
        with trio.move_on_after(0.001) as scope:
            await pool.aacquire(64)
        held.release()
        (await pool.aacquire(64)).release()
        assert pool.stats().in_use == 0

    run(main)


def test_cancelled_before_a_hand_over_nothing_has_happened() -> None:
    async def main() -> None:
        channel = Channel[int]()
        for wait in (channel.arecv, lambda: channel.asend(1)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        with pytest.raises(penstock.Full):
            channel.send_nowait(1)
        with pytest.raises(penstock.Empty):
            channel.recv_nowait()

    run(main)


def test_what_a_cancelled_receive_was_handed_is_not_lost() -> None:
    """trio lets a call that has happened say so: the receive returns, and the cancellation comes next."""

    async def main() -> None:
        channel = Channel[int]()
        got: list[int] = []

        async def receive() -> None:
            got.append(await channel.arecv())
            await trio.lowlevel.checkpoint()
            raise AssertionError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            sender = threading.Thread(target=channel.send_nowait, args=(1,))
            sender.start()
            sender.join()
            nursery.cancel_scope.cancel()
        assert got + [channel.recv_nowait() for _ in range(len(channel))] == [1]

    run(main)


def test_each_call_is_a_checkpoint() -> None:
    async def main() -> None:
        channel = Channel[int](1)
        with trio.testing.assert_checkpoints():
            await channel.asend(1)
        with trio.testing.assert_checkpoints():
            assert await channel.arecv() == 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.asend(2)
        assert scope.cancelled_caught
        assert len(channel) == 0, "cancelled before it did anything"

    run(main)


def test_a_deadline_is_that_of_trios_clock() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await Channel[int]().arecv(timeout=3600)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("capacity", [0, 2])
def test_random_cancels_lose_and_repeat_nothing(capacity: int, threads: Any) -> None:
    count = 2000
    channel = Channel[int](capacity)
    chance = random.Random(capacity)
    got: list[int] = []

    def send() -> None:
        for value in range(count):
            channel.send(value, timeout=LIMIT)
        channel.close()

    async def receive() -> None:
        async for value in channel:
            got.append(value)  # noqa: PERF401 - it may be cancelled in between

    async def main() -> None:
        threads.start(send)
        while len(got) < count:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(receive)
                for _ in range(chance.randrange(6)):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    run(main)
    assert sorted(got) == list(range(count))
    assert len(channel) == 0


@pytest.mark.thread_unsafe(reason="it counts calls of all runs")
def test_a_burst_from_a_thread_is_one_call_into_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    run_sync_soon = trio.lowlevel.TrioToken.run_sync_soon

    def counted(self: trio.lowlevel.TrioToken, *args: Any, **kwargs: Any) -> None:
        calls.append(args)
        run_sync_soon(self, *args, **kwargs)

    monkeypatch.setattr(trio.lowlevel.TrioToken, "run_sync_soon", counted)
    channel = Channel[int]()
    got: list[int] = []

    async def receive() -> None:
        got.append(await channel.arecv())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            sender = threading.Thread(target=lambda: list(map(channel.send_nowait, range(50))))
            sender.start()
            sender.join()
        assert sorted(got) == list(range(50))

    run(main)
    assert len(calls) == 1


def test_a_wait_of_a_run_that_is_over_gives_back_what_it_was_handed() -> None:
    channel = Channel[int]()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.arecv)
            await trio.testing.wait_all_tasks_blocked()
            channel.send_nowait(1)
            raise KeyError

    with pytest.raises(ExceptionGroup):
        run(main)
    assert len(channel) + channel.stats().received == 1


def test_trio_as_a_guest_of_asyncio_is_told_from_its_host() -> None:
    channel = Channel[str]()

    async def guest() -> str:
        return await channel.arecv()

    async def main() -> None:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
            done_callback=done.set_result,
        )
        await channel.asend("from the host", timeout=LIMIT)
        assert (await done).unwrap() == "from the host"

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_scopes_and_groups_work(backend: str, threads: Any) -> None:
    channel = Channel[int]()

    async def send() -> None:
        await channel.asend(3)

    async def main() -> None:
        with anyio.move_on_after(0.001) as scope:
            await channel.arecv()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0.001):
            await channel.asend(1)
        async with anyio.create_task_group() as group:
            group.start_soon(send)
            with anyio.fail_after(LIMIT):
                assert await channel.arecv() == 3
        threads.start(channel.send, 4)
        assert await channel.arecv() == 4

    anyio.run(main, backend=backend)
