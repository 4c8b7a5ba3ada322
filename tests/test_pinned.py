"""`with pinned():` an `async def` task stays on its thread; everywhere else it changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import penstock
import pytest
from penstock import Channel, asleep, blocking, go, pinned

LIMIT = 30.0  # seconds; only a hang reaches it

# Tasks that move the others about: each wakes a coroutine from another thread, and keeps workers busy.
SEVERAL_WORKERS = """
import penstock
penstock.configure(workers=4, parking={parking!r})
from penstock import *
"""

parkings = pytest.mark.parametrize("parking", ["auto", "thread"])


@parkings
def test_a_pinned_coroutine_goes_on_on_its_thread_whoever_wakes_it(run_program: Any, parking: str) -> None:
    """Unpinned ones move in the same program: each is woken from a thread of the blocking pool."""
    run_program(
        SEVERAL_WORKERS.format(parking=parking)
        + """if 1:
        moved = {True: 0, False: 0}

        async def body(pin):
            with pinned() if pin else memoryview(b""):
                for turn in range(60):
                    before = threading.get_ident()
                    if turn % 3 == 0:
                        await ablocking(int)
                    elif turn % 3 == 1:
                        await asleep(0.0001)
                    else:
                        await asleep(0)
                    moved[pin] += threading.get_ident() != before

        def busy():
            for _ in range(5):
                time.sleep(0.03)  # blocks its thread for so long that its worker goes elsewhere
                yield_now()

        with Group() as group:
            for i in range(40):
                group.go(body, i % 2 == 0)
                group.go(busy)
        assert moved[True] == 0, moved
        print("unpinned ones moved" if moved[False] else "nothing moved")
        """,
        stdout="unpinned ones moved\n",
    )


@parkings
def test_other_tasks_go_on_while_a_pinned_one_is_parked(run_program: Any, parking: str) -> None:
    run_program(
        f"""
        import penstock
        penstock.configure(workers=1, parking={parking!r})
        from penstock import *
        gate, parked = Channel(), Channel()

        async def body():
            with pinned():
                before = threading.get_ident()
                await parked.asend(None)
                await gate.arecv()
                return threading.get_ident() == before

        task = go(body)
        parked.recv(timeout=30)
        ping, pong = Channel(), Channel()
        def left():
            for i in range(100):
                ping.send(i)
                assert pong.recv() == i
        async def right():
            for _ in range(100):
                await pong.asend(await ping.arecv())
        for one in [go(left), go(right)]:
            one.result(timeout=30)
        # A plain task that waits for the pinned one, wherever either is.
        def wake():
            gate.send(None)
            return task.result()
        print(go(wake).result(timeout=30))
        """,
        stdout="True\n",
    )


@parkings
def test_two_pinned_tasks_talk_to_each_other_and_to_plain_ones(run_program: Any, parking: str) -> None:
    run_program(
        SEVERAL_WORKERS.format(parking=parking)
        + """if 1:
        def check(before):
            assert threading.get_ident() == before

        async def left(there, back):
            with pinned():
                here = threading.get_ident()
                for i in range(300):
                    await there.asend(i)
                    check(here)
                    assert await back.arecv() == i
                    check(here)

        async def right(there, back):
            with pinned():
                here = threading.get_ident()
                for _ in range(300):
                    value = await there.arecv()
                    check(here)
                    await back.asend(value)
                    check(here)

        def plain_right(there, back):
            for _ in range(300):
                back.send(there.recv())

        with Group() as group:
            for i in range(20):
                there, back = Channel(), Channel()
                group.go(left, there, back)
                group.go(right if i % 2 else plain_right, there, back)
        print("done")
        """,
        stdout="done\n",
    )


def test_one_that_gives_up_its_turn_lets_others_run(run_program: Any) -> None:
    run_program(
        """
        import penstock
        penstock.configure(workers=1)
        from penstock import *
        flag = []
        async def body():
            with pinned():
                go(flag.append, 1)
                while not flag:
                    await asleep(0)
        go(body).result(timeout=30)
        print("let through")
        """,
        stdout="let through\n",
    )


def test_one_whose_thread_is_blocked_by_another_task_goes_on_afterwards() -> None:
    gate = threading.Event()

    async def body() -> bool:
        with pinned():
            before = threading.get_ident()
            blocker = go(gate.wait, LIMIT)  # most likely on this thread, while this one sleeps
            await asleep(0.001)
            gate.set()
            await blocker
            return threading.get_ident() == before

    def release() -> None:
        threading.Timer(0.2, gate.set).start()

    release()
    assert go(body).result(timeout=LIMIT)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_blocks_nest_and_the_outermost_counts(times: int) -> None:
    async def body() -> None:
        with contextlib.ExitStack() as stack:
            blocks = [stack.enter_context(pinned()) for _ in range(times)]
            assert blocks == [None] * times
            here = threading.get_ident()
            with pinned():
                await asleep(0.0001)
            await asleep(0.0001)
            assert threading.get_ident() == here

    for task in [go(body) for _ in range(20)]:
        task.result(timeout=LIMIT)


def test_blocks_may_be_left_in_any_order() -> None:
    async def body() -> None:
        first, second = pinned(), pinned()
        first.__enter__()
        second.__enter__()
        here = threading.get_ident()
        first.__exit__(None, None, None)
        await blocking_elsewhere()
        assert threading.get_ident() == here
        second.__exit__(None, None, None)
        await blocking_elsewhere()

    async def blocking_elsewhere() -> None:
        await penstock.ablocking(int)

    for task in [go(body) for _ in range(20)]:
        task.result(timeout=LIMIT)


def test_an_exception_leaves_the_block_and_passes_through() -> None:
    async def body() -> None:
        with pinned():
            await asleep(0.0001)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        go(body).result(timeout=LIMIT)


def test_a_pinned_task_can_be_cancelled_and_time_out() -> None:
    gate, parked = Channel[int](), Channel[None](1)

    async def body() -> str:
        with pinned():
            here = threading.get_ident()
            with pytest.raises(TimeoutError):
                await gate.arecv(timeout=0.001)
            await parked.asend(None)
            try:
                await gate.arecv()
            except penstock.Cancelled:
                await asleep(0.0001)
                return "cancelled" if threading.get_ident() == here else "moved"
        return "received"

    task = go(body)
    parked.recv(timeout=LIMIT)
    task.cancel()
    assert task.result(timeout=LIMIT) == "cancelled"


def test_a_task_that_ends_inside_is_pinned_no_more() -> None:
    blocks: list[penstock.pinned.Pinned] = []  # type: ignore[name-defined,unused-ignore]

    async def body() -> None:
        block = pinned()
        block.__enter__()
        blocks.append(block)
        await asleep(0.0001)

    for task in [go(body) for _ in range(100)]:
        task.result(timeout=LIMIT)
    assert [go(int, "7").result(timeout=LIMIT) for _ in range(10)] == [7] * 10
    with pytest.raises(RuntimeError, match="left by another task"):
        blocks[0].__exit__(None, None, None)


def test_three_hundred_pinned_tasks_at_once() -> None:
    gate = Channel[int]()

    async def body() -> bool:
        with pinned():
            here = threading.get_ident()
            await gate.arecv()
            return threading.get_ident() == here

    tasks = [go(body) for _ in range(300)]
    for i in range(300):
        gate.send(i, timeout=LIMIT)
    assert all(task.result(timeout=LIMIT) for task in tasks)


def run_in_thread(body: Callable[[], None]) -> None:
    blocking(body)


def run_in_task(body: Callable[[], None]) -> None:
    go(body).result(timeout=LIMIT)


def run_in_asyncio(body: Callable[[], None]) -> None:
    async def main() -> None:
        with pinned():
            await asyncio.sleep(0)
            body()

    asyncio.run(main())


@pytest.mark.parametrize("run", [run_in_thread, run_in_task, run_in_asyncio])
def test_where_nothing_moves_it_changes_nothing(run: Callable[[Callable[[], None]], None]) -> None:
    seen: list[int] = []

    def body() -> None:
        with pinned(), pinned():
            seen.append(threading.get_ident())
        with pytest.raises(ValueError, match="inside"), pinned():
            raise ValueError("inside")
        seen.append(threading.get_ident())

    run(body)
    assert seen[0] == seen[1]


def test_a_block_is_entered_and_left_once() -> None:
    block = pinned()
    with pytest.raises(RuntimeError, match="this one is new"):
        block.__exit__(None, None, None)
    with block, pytest.raises(RuntimeError, match="entered once: this one is entered"), block:
        pass
    with pytest.raises(RuntimeError, match="entered once: this one is left"), block:
        pass


def test_a_block_shows_its_state_and_is_weakly_referenceable_and_neither_copied_nor_pickled() -> None:
    async def body(block: AbstractContextManager[None]) -> str:
        with block:
            return repr(block)

    pinned_block = pinned()
    assert repr(pinned_block).startswith("<penstock.Pinned at 0x")
    assert repr(pinned_block).endswith(": new>")
    assert ": entered, Task-" in go(body, pinned_block).result(timeout=LIMIT)
    assert repr(pinned_block).endswith(": left>")
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            refused(pinned_block)
    gone = weakref.ref(pinned_block)
    del pinned_block
    gc.collect()
    assert gone() is None


def test_exit_with_pinned_tasks_is_silent(run_program: Any) -> None:
    run_program(
        """
        from penstock import *
        gate = Channel()
        async def body():
            with pinned():
                await gate.arecv()
        tasks = [go(body) for _ in range(50)]
        wait_until(lambda: gate.stats().recv_waits == 50)
        print("end of main")
        """,
        stdout="end of main\n",
    )
