"""`Event`: set lets everybody go on who waits."""

from __future__ import annotations

import copy
import pickle
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from penstock import Cancelled, Event, go, move_on_after

LIMIT = 30.0  # seconds; only a hang reaches it
WaitForWaiters = Callable[[object, int], None]


def test_it_is_set_and_cleared() -> None:
    event = Event()
    assert event.is_set() is False
    event.set()
    event.set()
    assert event.is_set() is True
    assert event.wait() is True
    assert event.wait(timeout=0) is True
    event.clear()
    event.clear()
    assert not event.is_set()
    with pytest.raises(TimeoutError, match="not set in time"):
        event.wait(timeout=0)
    with pytest.raises(TimeoutError, match="not set in time"):
        event.wait(0.001)
    with pytest.raises(ValueError, match=r"timeout must be .*, not -1"):
        event.wait(-1)


def test_a_bad_timeout_is_an_error_also_where_it_is_set() -> None:
    event = Event()
    event.set()
    with pytest.raises(ValueError, match="timeout"):
        event.wait(timeout=-1)


def test_set_lets_everybody_go_on_whatever_it_is(wait_for_waiters: WaitForWaiters, threads: Any) -> None:
    event = Event()

    async def coroutine() -> bool:
        return await event.await_()

    tasks = [go(event.wait) for _ in range(3)] + [go(coroutine) for _ in range(3)]
    got: list[bool] = []
    for _ in range(2):
        threads.start(lambda: got.append(event.wait()))
    wait_for_waiters(event, 8)
    event.set()
    assert [task.result(timeout=LIMIT) for task in tasks] == [True] * 6
    threads.join()
    assert got == [True, True]
    wait_for_waiters(event, 0)


def test_who_waits_when_it_is_set_goes_on_though_it_is_cleared(wait_for_waiters: WaitForWaiters) -> None:
    event = Event()
    task = go(event.wait)
    wait_for_waiters(event, 1)
    event.set()
    event.clear()
    assert task.result(timeout=LIMIT) is True
    later = go(event.wait)
    wait_for_waiters(event, 1)
    assert not later.done()
    event.set()
    assert later.result(timeout=LIMIT) is True


def test_a_cancelled_waiter_is_no_waiter(wait_for_waiters: WaitForWaiters) -> None:
    event = Event()
    gone, stays = go(event.wait), go(event.wait)
    wait_for_waiters(event, 2)
    gone.cancel()
    with pytest.raises(Cancelled):
        gone.result(timeout=LIMIT)
    wait_for_waiters(event, 1)
    event.set()
    assert stays.result(timeout=LIMIT) is True


def test_timeouts_and_deadlines_apply_to_coroutines() -> None:
    event = Event()

    async def body() -> bool:
        with pytest.raises(TimeoutError, match="not set in time"):
            await event.await_(timeout=0.001)
        with move_on_after(0.001) as scope:
            await event.await_()
        return scope.expired

    assert go(body).result(timeout=LIMIT)
    assert repr(event).endswith(": not set>")


def test_a_plain_call_that_would_have_to_wait_in_a_coroutine_names_the_awaitable_form() -> None:
    event = Event()

    async def body() -> None:
        event.wait()

    with pytest.raises(RuntimeError, match=r"await event\.await_\(\)"):
        go(body).result(timeout=LIMIT)
    event.set()
    go(body).result(timeout=LIMIT)


def test_what_came_before_set_is_seen(threads: Any) -> None:
    for _ in range(200):
        event, box = Event(), list[int]()

        def read(event: Event = event, box: list[int] = box) -> None:
            event.wait()
            assert box == [1]

        threads.start(read)
        box.append(1)
        event.set()
        threads.join()


def test_many_wait_for_one_event(wait_for_waiters: WaitForWaiters) -> None:
    event = Event()
    count = 20_000

    async def waits() -> bool:
        return await event.await_()

    tasks = [go(waits) for _ in range(count)]
    wait_for_waiters(event, count)
    event.set()
    assert all(task.result(timeout=LIMIT) for task in tasks)


def test_the_object() -> None:
    event = Event()
    assert re.fullmatch(r"<penstock\.Event at 0x[0-9a-f]+: not set>", repr(event))
    event.set()
    assert re.fullmatch(r"<penstock\.Event at 0x[0-9a-f]+: set>", repr(event))
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Event cannot be pickled or copied"):
            refused(event)
    assert weakref.ref(event)() is event


def test_ctrl_c_ends_a_wait_of_the_main_thread(run_program: Any) -> None:
    run_program(
        """
        import signal
        from penstock import Event
        event = Event()
        def interrupt():
            wait_until(lambda: "1 waiting" in repr(event))
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            event.wait()
        except KeyboardInterrupt:
            print(repr(event).endswith(": not set>"))
        """,
        stdout="True\n",
    )


def test_an_event_that_nobody_sets_is_a_deadlock(run_program: Any) -> None:
    run_program(
        """
        from penstock import Deadlock, Event
        try:
            Event().wait()
        except Deadlock as error:
            print("Event.wait() on <penstock.Event" in str(error))
        """,
        stdout="True\n",
    )
