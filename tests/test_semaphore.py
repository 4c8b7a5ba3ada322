"""`Semaphore`: permits go to the longest waiter, one each."""

from __future__ import annotations

import copy
import pickle
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from penstock import Cancelled, Runtime, Semaphore, go, move_on_after, sleep, yield_now

LIMIT = 30.0  # seconds; only a hang reaches it
WaitForWaiters = Callable[[object, int], None]


def test_there_are_as_many_permits_as_asked_for() -> None:
    semaphore = Semaphore(2)
    assert semaphore.acquire()
    assert semaphore.acquire(blocking=False)
    assert not semaphore.acquire(blocking=False)
    with pytest.raises(TimeoutError, match="no permit"):
        semaphore.acquire(timeout=0)
    semaphore.release()
    with semaphore as acquired:
        assert acquired is True
        assert not semaphore.acquire(False)
    assert Semaphore().acquire(blocking=False), "the default is one"


def test_anybody_may_give_permits_and_more_than_there_were() -> None:
    semaphore = Semaphore(0)
    go(semaphore.release, 3).result(timeout=LIMIT)
    assert [semaphore.acquire(blocking=False) for _ in range(4)] == [True, True, True, False]
    semaphore.release(n=1)
    assert semaphore.acquire(timeout=0)


@pytest.mark.parametrize("value", [-1, -(2**70), 2**62 + 1])
def test_a_value_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=rf"value must be an int from 0 to 2\*\*62, not {value}"):
        Semaphore(value)


@pytest.mark.parametrize("value", [1.5, "2", None])
def test_a_value_that_is_no_int_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"value must be an int from 0 to 2**62, not {value!r}")):
        Semaphore(value)


def test_bad_numbers_of_permits_are_refused() -> None:
    semaphore = Semaphore(1)
    for n in (0, -1, 2**63):
        with pytest.raises(ValueError, match=rf"n must be an int from 1 to 2\*\*62, not {n}"):
            semaphore.release(n)
    with pytest.raises(TypeError, match="n must be"):
        semaphore.release(1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at most 2\*\*62 permits"):
        semaphore.release(2**62)
    assert repr(semaphore).endswith(": value 1>"), "nothing was given"
    with pytest.raises(ValueError, match="with blocking=False, not 1"):
        semaphore.acquire(blocking=False, timeout=1)


def test_permits_go_to_the_longest_waiters(wait_for_waiters: WaitForWaiters, threads: Any) -> None:
    semaphore = Semaphore(0)
    order: list[str] = []

    def plain(name: str) -> None:
        semaphore.acquire()
        order.append(name)

    async def coroutine(name: str) -> None:
        async with semaphore:
            order.append(name)

    tasks = [go(plain, "task")]
    wait_for_waiters(semaphore, 1)
    threads.start(plain, "thread")
    wait_for_waiters(semaphore, 2)
    tasks.append(go(coroutine, "coroutine"))
    wait_for_waiters(semaphore, 3)
    tasks.append(go(plain, "last"))
    wait_for_waiters(semaphore, 4)
    semaphore.release()
    tasks[0].result(timeout=LIMIT)
    semaphore.release()
    threads.join()
    semaphore.release()  # given back by the coroutine's block
    for task in tasks:
        task.result(timeout=LIMIT)
    assert order == ["task", "thread", "coroutine", "last"]
    assert repr(semaphore).endswith(": value 0>")


def test_nobody_overtakes_who_waits(wait_for_waiters: WaitForWaiters) -> None:
    semaphore = Semaphore(0)
    waiters = [go(semaphore.acquire) for _ in range(2)]
    wait_for_waiters(semaphore, 2)
    semaphore.release(2)
    assert not semaphore.acquire(blocking=False)
    assert [waiter.result(timeout=LIMIT) for waiter in waiters] == [True, True]
    assert not semaphore.acquire(blocking=False)


def test_a_cancelled_waiter_takes_no_permit(wait_for_waiters: WaitForWaiters) -> None:
    semaphore = Semaphore(0)
    gone = go(semaphore.acquire)
    wait_for_waiters(semaphore, 1)
    next_one = go(semaphore.acquire)
    wait_for_waiters(semaphore, 2)
    gone.cancel()
    with pytest.raises(Cancelled):
        gone.result(timeout=LIMIT)
    wait_for_waiters(semaphore, 1)
    semaphore.release()
    assert next_one.result(timeout=LIMIT)
    assert repr(semaphore).endswith(": value 0>")


def test_deadlines_apply() -> None:
    semaphore = Semaphore(0)

    def body() -> bool:
        with move_on_after(0.001) as scope:
            semaphore.acquire()
        return scope.expired

    assert go(body).result(timeout=LIMIT)
    assert body()
    semaphore.release()
    assert semaphore.acquire(blocking=False)


def test_it_bounds_how_many_are_at_something(wait_for_waiters: WaitForWaiters) -> None:
    semaphore = Semaphore(0)
    inside = peak = 0

    def plain() -> None:
        nonlocal inside, peak
        with semaphore:
            inside += 1
            peak = max(peak, inside)
            yield_now()
            inside -= 1

    async def coroutine() -> None:
        nonlocal inside, peak
        async with semaphore:
            inside += 1
            peak = max(peak, inside)
            inside -= 1

    with Runtime(workers=1) as runtime:  # the counts need no lock
        for _ in range(100):
            runtime.go(plain)
            runtime.go(coroutine)
        wait_for_waiters(semaphore, 200)
        semaphore.release(3)
    assert 1 <= peak <= 3
    assert repr(semaphore).endswith(": value 3>")


def test_permits_are_neither_lost_nor_made(threads: Any) -> None:
    semaphore = Semaphore(2)

    def rounds() -> None:
        for _ in range(300):
            with semaphore:
                pass

    tasks = [go(rounds) for _ in range(3)]
    for _ in range(3):
        threads.start(rounds)
    threads.join()
    for task in tasks:
        task.result(timeout=LIMIT)
    assert repr(semaphore).endswith(": value 2>")


def test_a_hand_over_that_came_first_wins_against_a_cancellation() -> None:
    semaphore = Semaphore(0)
    taken: list[bool] = []

    def waits() -> None:
        taken.append(semaphore.acquire())
        sleep(LIMIT)

    def drives() -> None:
        waiter = go(waits)
        while not repr(semaphore).endswith("1 waiting>"):
            yield_now()
        semaphore.release()
        waiter.cancel()

    with Runtime(workers=1) as runtime:
        runtime.go(drives)
    assert taken == [True]


def test_a_plain_call_that_would_have_to_wait_in_a_coroutine_names_the_awaitable_form() -> None:
    async def body() -> None:
        Semaphore(0).acquire()

    with pytest.raises(RuntimeError, match=r"await semaphore\.aacquire\(\)"):
        go(body).result(timeout=LIMIT)


def test_aacquire_times_out() -> None:
    async def body() -> None:
        await Semaphore(0).aacquire(timeout=0.001)

    with pytest.raises(TimeoutError, match="no permit"):
        go(body).result(timeout=LIMIT)


def test_the_object(wait_for_waiters: WaitForWaiters) -> None:
    semaphore = Semaphore(2)
    assert re.fullmatch(r"<penstock\.Semaphore at 0x[0-9a-f]+: value 2>", repr(semaphore))
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Semaphore cannot be pickled or copied"):
            refused(semaphore)
    assert weakref.ref(semaphore)() is semaphore


def test_after_a_fork_permits_are_kept_and_waiters_forgotten(run_program: Any) -> None:
    run_program(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from penstock import Semaphore, go
        semaphore = Semaphore(0)
        waiter = go(semaphore.acquire)
        wait_until(lambda: "1 waiting" in repr(semaphore))
        pid = os.fork()
        if pid == 0:
            assert "waiting" not in repr(semaphore), semaphore
            semaphore.release()
            assert semaphore.acquire(timeout=0), "it did not go to one that is not there"
            child_s = go(semaphore.acquire)
            wait_until(lambda: "1 waiting" in repr(semaphore))
            semaphore.release()
            assert child_s.result(timeout=5)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        semaphore.release()
        print(waiter.result(timeout=5))
        """,
        stdout="True\n",
    )
