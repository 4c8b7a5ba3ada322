"""`Condition`: who waits has the lock again whatever ended the wait, and no notify is lost."""

from __future__ import annotations

import copy
import pickle
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from penstock import Cancelled, Condition, Event, Group, Lock, Runtime, Task, asleep, go, move_on_after

LIMIT = 30.0  # seconds; only a hang reaches it
WaitForWaiters = Callable[[object, int], None]


def waits(condition: Condition, kind: str, seconds: float | None = None) -> Task[bool]:
    """A task that waits in the condition's block, and sees to it that it has the lock when the wait is over."""

    def owner() -> str:
        found = re.search(r"locked by Task-\d+", repr(condition))
        assert found is not None, condition
        return found[0]

    def plain() -> bool:
        with condition:
            me = owner()
            try:
                assert condition.wait(seconds) is True
            finally:
                assert owner() == me
        return True

    async def coroutine() -> bool:
        async with condition:
            me = owner()
            try:
                assert await condition.await_(seconds) is True
            finally:
                assert owner() == me
        return True

    return go(plain) if kind == "plain" else go(coroutine)


kinds = pytest.mark.parametrize("kind", ["plain", "async"])


@kinds
def test_a_notified_waiter_has_the_lock(kind: str, wait_for_waiters: WaitForWaiters) -> None:
    condition = Condition()
    task = waits(condition, kind)
    wait_for_waiters(condition, 1)
    with condition:
        condition.notify()
        assert not task.done()
    assert task.result(timeout=LIMIT)
    assert repr(condition).endswith(": unlocked>")


def test_notify_lets_the_longest_waiters_go_on(wait_for_waiters: WaitForWaiters, threads: Any) -> None:
    condition = Condition()
    order: list[str] = []

    def plain(name: str) -> None:
        with condition:
            condition.wait()
            order.append(name)

    async def coroutine(name: str) -> None:
        async with condition:
            await condition.await_()
            order.append(name)

    tasks = [go(plain, "task")]
    wait_for_waiters(condition, 1)
    threads.start(plain, "thread")
    wait_for_waiters(condition, 2)
    tasks.append(go(coroutine, "coroutine"))
    wait_for_waiters(condition, 3)
    tasks.append(go(plain, "last"))
    wait_for_waiters(condition, 4)
    with condition:
        condition.notify()
    tasks[0].result(timeout=LIMIT)
    assert order == ["task"]
    with condition:
        condition.notify(0)
        condition.notify(n=2)
    threads.join()
    tasks[1].result(timeout=LIMIT)
    assert sorted(order) == ["coroutine", "task", "thread"]
    with condition:
        condition.notify_all()
        condition.notify_all()
        condition.notify(5)
    tasks[2].result(timeout=LIMIT)
    assert order[-1] == "last"


@kinds
@pytest.mark.parametrize("seconds", [0, 0.001])
def test_who_times_out_has_the_lock(kind: str, seconds: float) -> None:
    condition = Condition()
    with pytest.raises(TimeoutError, match="not notified in time"):
        waits(condition, kind, seconds).result(timeout=LIMIT)
    assert repr(condition).endswith(": unlocked>")


@kinds
def test_a_wait_without_time_lets_others_have_the_lock(kind: str, wait_for_waiters: WaitForWaiters) -> None:
    lock = Lock()
    condition = Condition(lock)
    order: list[str] = []

    def other() -> None:
        with lock:
            order.append("other")

    def plain() -> None:
        with pytest.raises(TimeoutError):
            condition.wait(timeout=0)
        order.append("waiter")

    async def coroutine() -> None:
        async with condition:
            task = go(other)
            while "1 waiting" not in repr(lock):
                await asleep(0)
            with pytest.raises(TimeoutError):
                await condition.await_(timeout=0)
            order.append("waiter")
        await task

    if kind == "plain":
        with lock:
            task = go(other)
            wait_for_waiters(lock, 1)
            plain()
        task.result(timeout=LIMIT)
    else:
        go(coroutine).result(timeout=LIMIT)
    assert order == ["other", "waiter"]


@kinds
def test_who_is_cancelled_has_the_lock_first(kind: str, wait_for_waiters: WaitForWaiters) -> None:
    lock = Lock()
    condition = Condition(lock)
    task = waits(condition, kind)
    wait_for_waiters(condition, 1)
    with condition:
        task.cancel()
        wait_for_waiters(lock, 1)  # it waits for the lock, and not for the notify
        wait_for_waiters(condition, 0)
        condition.notify()  # there is nobody
        assert not task.done()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert not lock.locked()


@kinds
def test_a_notify_of_one_that_is_cancelled_before_it_has_the_lock_goes_to_another(
    kind: str, wait_for_waiters: WaitForWaiters
) -> None:
    lock = Lock()
    condition = Condition(lock)
    gone = waits(condition, kind)
    wait_for_waiters(condition, 1)
    stays = waits(condition, kind)
    wait_for_waiters(condition, 2)
    with condition:
        condition.notify()
        wait_for_waiters(lock, 1)
        gone.cancel()
        gone_twice = go(gone.cancel)
        gone_twice.result(timeout=LIMIT)
        assert not gone.done()
    with pytest.raises(Cancelled):
        gone.result(timeout=LIMIT)
    assert stays.result(timeout=LIMIT)
    assert not lock.locked()


@kinds
def test_a_deadline_that_ends_a_wait_leaves_the_lock_to_its_block(kind: str) -> None:
    condition = Condition()

    def plain() -> bool:
        with condition, move_on_after(0.001) as scope:
            condition.wait()
        return scope.expired

    async def coroutine() -> bool:
        async with condition:
            with move_on_after(0.001) as scope:
                await condition.await_()
        return scope.expired

    assert go(plain if kind == "plain" else coroutine).result(timeout=LIMIT)
    assert repr(condition).endswith(": unlocked>")


@kinds
def test_of_two_interrupts_the_one_that_leads_further_out_is_raised(
    kind: str, wait_for_waiters: WaitForWaiters
) -> None:
    lock = Lock()
    condition = Condition(lock)
    fails = Event()
    seen: list[str] = []

    def fail() -> None:
        fails.wait()
        raise KeyError("inside")

    def plain() -> None:
        with condition, Group() as group:
            group.go(fail)
            try:
                condition.wait()
            except Cancelled as error:
                seen.append(str(error))
                raise

    async def coroutine() -> None:
        async with condition, Group() as group:
            group.go(fail)
            try:
                await condition.await_()
            except Cancelled as error:
                seen.append(str(error))
                raise

    task = go(plain if kind == "plain" else coroutine)
    wait_for_waiters(condition, 1)
    with lock:
        fails.set()
        wait_for_waiters(lock, 1)  # its group was cancelled: now it waits for the lock
        task.cancel()
    assert task.exception(timeout=LIMIT) is not None
    assert seen == ["the task was cancelled"], "and not the group inside it"
    assert not lock.locked()


def test_wait_for_waits_until_it_is_so(wait_for_waiters: WaitForWaiters) -> None:
    condition = Condition()
    items: list[int] = []

    def plain() -> list[int]:
        with condition:
            return condition.wait_for(lambda: items[:2] if len(items) >= 2 else None) or []

    async def coroutine() -> list[int]:
        async with condition:
            return await condition.await_for(lambda: items[:2] if len(items) >= 2 else None) or []

    tasks = [go(plain), go(coroutine)]
    wait_for_waiters(condition, 2)
    for number in range(2):
        with condition:
            items.append(number)
            condition.notify_all()
        if number == 0:
            wait_for_waiters(condition, 2)
    assert [task.result(timeout=LIMIT) for task in tasks] == [[0, 1], [0, 1]]


@kinds
@pytest.mark.parametrize("seconds", [0, 0.001])
def test_wait_for_times_out(kind: str, seconds: float) -> None:
    condition = Condition()

    def plain() -> None:
        with condition:
            condition.wait_for(lambda: 1, timeout=0)
            condition.wait_for(lambda: False, timeout=seconds)

    async def coroutine() -> None:
        async with condition:
            await condition.await_for(lambda: 1, timeout=0)
            await condition.await_for(lambda: False, timeout=seconds)

    with pytest.raises(TimeoutError, match="not notified in time"):
        go(plain if kind == "plain" else coroutine).result(timeout=LIMIT)
    assert repr(condition).endswith(": unlocked>")
    with condition, pytest.raises(ValueError, match=r"timeout must be .*, not -1"):
        condition.wait_for(lambda: True, timeout=-1)


def test_who_does_not_have_the_lock_may_neither_wait_nor_notify() -> None:
    condition = Condition()

    async def coroutine() -> None:
        await condition.await_()

    for call in (condition.wait, condition.notify, condition.notify_all, go(coroutine).result):
        with pytest.raises(RuntimeError, match="lock is not locked"):
            call()
    go(condition.acquire).result(timeout=LIMIT)
    for call in (
        condition.wait,
        condition.notify,
        condition.notify_all,
        condition.release,
        go(coroutine).result,
    ):
        with pytest.raises(RuntimeError, match=r"only who has it may"):
            call()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"lock must be None or a penstock\.Lock, not 3"):
        Condition(3)  # type: ignore[arg-type]
    condition = Condition()
    with condition:
        with pytest.raises(ValueError, match=r"n must be an int >= 0, not -1"):
            condition.notify(-1)
        with pytest.raises(TypeError, match=r"n must be an int >= 0, not 1\.5"):
            condition.notify(1.5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="timeout"):
            condition.wait(-1)
        assert condition.acquire(blocking=False) is False
        with pytest.raises(TimeoutError, match="stayed locked"):
            condition.acquire(timeout=0)


def test_a_plain_wait_in_a_coroutine_names_the_awaitable_form_and_keeps_the_lock() -> None:
    condition = Condition()

    async def body() -> None:
        async with condition:
            with pytest.raises(RuntimeError, match=r"await condition\.await_\(\)"):
                condition.wait()
            assert "locked by" in repr(condition)
        assert await condition.aacquire()
        condition.release()

    go(body).result(timeout=LIMIT)
    assert repr(condition).endswith(": unlocked>")


def test_a_bounded_buffer_between_plain_and_async_tasks_and_threads(threads: Any) -> None:
    lock = Lock()
    not_empty, not_full = Condition(lock), Condition(lock)
    items: list[int] = []
    got: list[int] = []
    count = 300

    def produce() -> None:
        for number in range(count):
            with lock:
                not_full.wait_for(lambda: len(items) < 3)
                items.append(number)
                not_empty.notify()

    async def aproduce() -> None:
        for number in range(count):
            async with lock:
                await not_full.await_for(lambda: len(items) < 3)
                items.append(number)
                not_empty.notify()

    def consume() -> None:
        for _ in range(count):
            with lock:
                not_empty.wait_for(lambda: items)
                got.append(items.pop(0))
                not_full.notify()

    async def aconsume() -> None:
        for _ in range(count):
            async with lock:
                await not_empty.await_for(lambda: items)
                got.append(items.pop(0))
                not_full.notify()

    with Runtime(workers=2) as runtime:
        tasks = [runtime.go(produce), runtime.go(aproduce), runtime.go(consume), runtime.go(aconsume)]
        threads.start(produce)
        threads.start(consume)
    for task in tasks:
        task.result(timeout=LIMIT)
    threads.join()
    assert sorted(got) == sorted(list(range(count)) * 3)
    assert not items


def test_a_dropped_wait_passes_its_notify_on(wait_for_waiters: WaitForWaiters) -> None:
    """An event loop may close a coroutine that was notified and has not run since."""
    condition = Condition()
    stays = waits(condition, "plain")
    wait_for_waiters(condition, 1)
    coroutine = condition.await_()
    coroutine.close()  # never started
    with condition:
        condition.notify()
    assert stays.result(timeout=LIMIT)


def test_the_object() -> None:
    lock = Lock()
    condition = Condition(lock)
    assert re.fullmatch(r"<penstock\.Condition at 0x[0-9a-f]+: unlocked>", repr(condition))
    with condition as acquired:
        assert acquired is True
        assert lock.locked()
        assert "locked by thread" in repr(condition)
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Condition cannot be pickled or copied"):
            refused(condition)
    assert weakref.ref(condition)() is condition


def test_ctrl_c_in_a_wait_is_raised_with_the_lock_if_that_is_free(run_program: Any) -> None:
    run_program(
        """
        import signal
        from penstock import Condition, Lock
        lock = Lock()
        condition = Condition(lock)
        def interrupt():
            wait_until(lambda: "1 waiting" in repr(condition))
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        with condition:
            try:
                condition.wait()
            except KeyboardInterrupt:
                print("MainThread" in repr(lock))
        print(lock.locked())
        """,
        stdout="True\nFalse\n",
    )


@pytest.mark.parametrize("notified", [False, True])
@pytest.mark.parametrize("block", ["condition", "lock"])
def test_ctrl_c_in_a_wait_is_raised_without_the_lock_where_that_is_not_to_be_had(
    notified: bool, block: str, run_program: Any
) -> None:
    """Whoever has the lock lets go of it once the interrupt was raised, and not before."""
    run_program(
        f"""
        import signal
        from penstock import Condition, Lock
        lock = Lock()
        condition = Condition(lock)
        raised = threading.Event()
        def interrupt():
            wait_until(lambda: "1 waiting" in repr(condition))
            with lock:
                if {notified}:
                    condition.notify()
                    wait_until(lambda: "1 waiting" in repr(lock))
                os.kill(os.getpid(), signal.SIGINT)
                raised.wait()
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with {block}:
                try:
                    condition.wait()
                finally:
                    print("MainThread" in repr(lock))
        except KeyboardInterrupt as error:
            print("raised", error.__context__)
        raised.set()
        thread.join()
        print(lock.locked())
        """,
        stdout="False\nraised None\nFalse\n",
    )


def test_a_notify_that_ctrl_c_meets_goes_to_another(run_program: Any) -> None:
    run_program(
        """
        import signal
        from penstock import Condition, go
        condition = Condition()
        raised, has_lock = threading.Event(), threading.Event()
        def second():
            wait_until(lambda: "1 waiting" in repr(condition))
            with condition:
                condition.wait()
                print("second")
        def interrupt():
            wait_until(lambda: "2 waiting" in repr(condition))
            with condition:
                condition.notify()
                os.kill(os.getpid(), signal.SIGINT)
                raised.wait()
        threads = [threading.Thread(target=one) for one in (second, interrupt)]
        for thread in threads:
            thread.start()
        try:
            with condition:
                condition.wait()
        except KeyboardInterrupt:
            raised.set()
        for thread in threads:
            thread.join()
        """,
        stdout="second\n",
    )


def test_a_block_that_lost_its_lock_hides_no_exception() -> None:
    async def awaited(lock: Any) -> None:
        async with lock:
            lock.release()
            raise KeyError

    for lock in Lock(), Condition():
        with pytest.raises(KeyError), lock:
            lock.release()
            raise KeyError
        with pytest.raises(RuntimeError, match="not locked"), lock:
            lock.release()
        with pytest.raises(KeyError):
            go(awaited, lock).result(timeout=LIMIT)


def test_a_wait_that_nobody_can_notify_is_a_deadlock(run_program: Any) -> None:
    run_program(
        """
        from penstock import Condition, Deadlock, go
        condition = Condition()
        with condition:
            try:
                condition.wait()
            except Deadlock as error:
                print("Condition.wait() on <penstock.Condition" in str(error), "MainThread" in repr(condition))
        def takes():
            with condition:
                condition.wait()
        async def atakes():
            async with condition:
                await condition.await_()
        go(takes), go(atakes)
        wait_until(lambda: "2 waiting" in repr(condition))
        condition.acquire()
        try:
            condition.wait()
        except Deadlock as error:
            _, *tasks = str(error).splitlines()
            print(sum("Condition.wait() on" in line for line in tasks), sum("Condition.await_() on" in line for line in tasks))
        """,
        stdout="True True\n1 1\n",
    )
