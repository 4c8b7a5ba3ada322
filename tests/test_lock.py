"""`Lock`: whose it is, who gets it next, and what becomes of a wait that ends otherwise."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib.util
import pickle
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from penstock import (
    Cancelled,
    Group,
    Lock,
    Runtime,
    Semaphore,
    Task,
    asleep,
    go,
    move_on_after,
    sleep,
    timeout,
    yield_now,
)

HERE = Path(__file__).parent
LIMIT = 30.0  # seconds; only a hang reaches it
WaitForWaiters = Callable[[object, int], None]


def in_a_task(function: Callable[[], object]) -> object:
    return go(function).result(timeout=LIMIT)


def in_the_thread(function: Callable[[], object]) -> object:
    return function()


everywhere = pytest.mark.parametrize("place", [in_the_thread, in_a_task])
Place = Callable[[Callable[[], object]], object]


# Taking and releasing


@everywhere
def test_a_lock_is_locked_between_acquire_and_release(place: Place) -> None:
    def body() -> list[bool]:
        lock = Lock()
        before = lock.locked()
        acquired = lock.acquire()
        during = lock.locked()
        lock.release()
        return [before, acquired, during, lock.locked()]

    assert place(body) == [False, True, True, False]


@everywhere
def test_a_with_block_has_the_lock_also_where_it_raises(place: Place) -> None:
    lock = Lock()

    def body() -> None:
        with lock as acquired:
            assert acquired is True
            assert lock.locked()
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        place(body)
    assert not lock.locked()


def test_an_async_with_block_has_the_lock_also_where_it_raises() -> None:
    lock = Lock()

    async def body() -> None:
        async with lock as acquired:
            assert acquired is True
            assert lock.locked()
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        go(body).result(timeout=LIMIT)
    assert not lock.locked()


@everywhere
def test_who_may_not_wait_is_told_so_by_a_bool(place: Place) -> None:
    lock = Lock()

    def body() -> list[bool]:
        return [lock.acquire(blocking=False), lock.acquire(False), lock.acquire(blocking=0)]  # type: ignore[arg-type]

    assert place(body) == [True, False, False]


@everywhere
@pytest.mark.parametrize("seconds", [0, 0.001])
def test_an_expired_timeout_raises(place: Place, seconds: float) -> None:
    lock = Lock()

    def body() -> None:
        lock.acquire()
        lock.acquire(timeout=seconds)

    with pytest.raises(TimeoutError, match="stayed locked"):
        place(body)
    assert re.search("locked by [^,]*>$", repr(lock)), "nobody is left waiting"


def test_a_timeout_that_is_not_needed_does_nothing() -> None:
    lock = Lock()
    assert lock.acquire(timeout=0)
    lock.release()
    assert lock.acquire(timeout=1e300)
    lock.release()
    assert lock.acquire(True, 5)


def test_bad_arguments_name_the_argument_its_value_and_what_is_allowed() -> None:
    lock = Lock()
    with pytest.raises(ValueError, match=r"timeout must be None or a number of seconds >= 0, not -1"):
        lock.acquire(timeout=-1)
    with pytest.raises(ValueError, match="timeout must be None with blocking=False, not 2"):
        lock.acquire(blocking=False, timeout=2)
    with pytest.raises(TypeError, match=r"timeout must be .*, not 'soon'"):
        lock.acquire(timeout="soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'wait'"):
        lock.acquire(wait=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="at most 2"):
        lock.acquire(True, 1, 2)  # type: ignore[call-arg]
    assert not lock.locked()


@pytest.mark.thread_unsafe(reason="runs CPython's tests in a process of their own")
def test_cpythons_own_tests_of_the_locks_of_threading_pass(tmp_path: Path) -> None:
    """Which of them do not apply, and why, is in `cpython/locks.py`."""
    folders: list[str] = []
    if importlib.util.find_spec("test.lock_tests") is None:
        tool = HERE.parent / "tools" / "cpython_tests.py"
        found = subprocess.run(
            [sys.executable, tool], capture_output=True, text=True, timeout=200, check=False
        )
        if found.returncode:
            pytest.skip(f"this interpreter came without CPython's tests. {found.stderr.strip()}")
        folders = [found.stdout.strip()]
    command = [sys.executable, str(HERE / "cpython" / "locks.py"), *folders]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path, check=False)
    shown = ended.stdout + ended.stderr
    assert ended.returncode == 0, shown
    assert int(ended.stdout.splitlines()[-1].split(" ran")[0]) >= 40, shown


# Whose it is


def test_only_who_has_it_may_release_it(threads: Any) -> None:
    lock = Lock()
    with pytest.raises(RuntimeError, match="not locked"):
        lock.release()
    task = go(lock.acquire)
    task.result(timeout=LIMIT)
    with pytest.raises(RuntimeError, match=rf"by thread .*: Task-{task.id} has it"):
        lock.release()

    def in_another_task() -> int:
        with pytest.raises(RuntimeError, match=rf": Task-{task.id} has it"):
            lock.release()
        return 1

    assert go(in_another_task).result(timeout=LIMIT) == 1
    assert lock.locked(), "a task that ended with it leaves it locked"
    mine = Lock()
    mine.acquire()
    holder = repr(threading.current_thread().name)

    def in_a_thread() -> None:
        with pytest.raises(RuntimeError, match=re.escape(f"thread {holder} has it")):
            mine.release()

    threads.start(in_a_thread)
    threads.join()
    mine.release()


def test_a_coroutine_has_what_it_took_across_its_awaits() -> None:
    lock = Lock()

    async def body() -> None:
        async with lock:
            await asleep_a_little()
        assert await lock.aacquire() is True
        lock.release()

    async def asleep_a_little() -> None:
        await asleep(0.001)

    with Runtime(workers=4) as runtime:
        tasks = [runtime.go(body) for _ in range(50)]
    assert [task.result(timeout=0) for task in tasks] == [None] * 50
    assert not lock.locked()


def test_in_an_event_loop_the_loops_task_has_it() -> None:
    lock = Lock()

    async def main() -> None:
        async with lock:
            assert "event loop task 'first'" in repr(lock)
            with pytest.raises(
                RuntimeError, match="event loop task 'second': event loop task 'first' has it"
            ):
                await asyncio.create_task(release(), name="second")
        assert not lock.locked()
        assert await lock.aacquire()
        lock.release()

    async def release() -> None:
        lock.release()

    async def named() -> None:
        await asyncio.create_task(main(), name="first")

    asyncio.run(named())
    gc.collect()
    assert not lock.locked()


# Who gets it next


def test_the_longest_waiter_gets_it_next_whatever_it_is(
    wait_for_waiters: WaitForWaiters, threads: Any
) -> None:
    lock = Lock()
    order: list[str] = []

    def plain(name: str) -> None:
        with lock:
            order.append(name)

    async def coroutine(name: str) -> None:
        async with lock:
            order.append(name)

    with lock:
        go(plain, "task")
        wait_for_waiters(lock, 1)
        threads.start(plain, "thread")
        wait_for_waiters(lock, 2)
        go(coroutine, "coroutine")
        wait_for_waiters(lock, 3)
        last = go(plain, "last")
        wait_for_waiters(lock, 4)
    last.result(timeout=LIMIT)
    threads.join()
    assert order == ["task", "thread", "coroutine", "last"]
    assert not lock.locked()


def test_nobody_overtakes_who_waits(wait_for_waiters: WaitForWaiters) -> None:
    lock = Lock()
    lock.acquire()
    waiter = go(lock.acquire)
    wait_for_waiters(lock, 1)
    lock.release()
    assert not lock.acquire(blocking=False), "it is the waiter's, though that has not run yet"
    assert waiter.result(timeout=LIMIT) is True
    assert repr(lock).endswith(f"locked by Task-{waiter.id}>")


def test_increments_under_the_lock_are_not_lost(threads: Any) -> None:
    lock = Lock()
    total = 0

    def add() -> None:
        nonlocal total
        for _ in range(300):
            with lock:
                before = total
                if before % 50 == 0:
                    yield_now()
                total = before + 1

    async def add_async() -> None:
        nonlocal total
        for _ in range(300):
            async with lock:
                total += 1

    tasks: list[Task[None]] = []
    for _ in range(3):
        threads.start(add)
        tasks += [go(add), go(add_async)]
    for task in tasks:
        task.result(timeout=LIMIT)
    threads.join()
    assert total == 9 * 300
    assert repr(lock).endswith(": unlocked>")


# Waits that end otherwise


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_cancelled_waiter_leaves_the_lock_to_the_next(kind: str, wait_for_waiters: WaitForWaiters) -> None:
    lock = Lock()

    async def aacquire() -> bool:
        return await lock.aacquire()

    with lock:
        gone = go(lock.acquire if kind == "plain" else aacquire)
        wait_for_waiters(lock, 1)
        next_one = go(lock.acquire)
        wait_for_waiters(lock, 2)
        gone.cancel()
        with pytest.raises(Cancelled):
            gone.result(timeout=LIMIT)
        wait_for_waiters(lock, 1)
    assert next_one.result(timeout=LIMIT) is True


def test_a_hand_over_that_came_first_wins_against_a_cancellation() -> None:
    lock = Lock()
    seen: list[str] = []

    def waits() -> None:
        with lock:
            seen.append("has it")
            try:
                sleep(LIMIT)
            except Cancelled:
                seen.append("cancelled later")
                raise

    def drives() -> None:
        lock.acquire()
        waiter = go(waits)
        while not repr(lock).endswith("1 waiting>"):
            yield_now()
        lock.release()
        waiter.cancel()  # it was handed the lock, and has not run since: there is one worker

    with Runtime(workers=1) as runtime:
        runtime.go(drives)
    assert seen == ["has it", "cancelled later"]
    assert not lock.locked()


@everywhere
def test_deadlines_apply(place: Place) -> None:
    lock = Lock()

    def body() -> bool:
        with lock:
            with pytest.raises(TimeoutError, match=r"0\.001 s of the block"), timeout(0.001):
                lock.acquire()
            with move_on_after(0.001) as scope:
                lock.acquire()
            return scope.expired

    assert place(body) is True
    assert not lock.locked()


def test_a_failed_group_frees_who_waits_for_the_lock() -> None:
    lock = Lock()
    with lock, pytest.raises(ExceptionGroup), Group() as group:
        waiter = group.go(lock.acquire)
        group.go(int, "x")
    assert waiter.cancelled()
    assert not lock.locked()


def test_a_plain_call_that_would_have_to_wait_in_a_coroutine_names_the_awaitable_form() -> None:
    lock = Lock()

    async def body() -> str:
        with lock:  # need not wait
            try:
                lock.acquire()
            except RuntimeError as error:
                return str(error)
        return ""

    assert "await lock.aacquire()" in go(body).result(timeout=LIMIT)


def test_an_awaitable_that_is_dropped_takes_nothing(wait_for_waiters: WaitForWaiters) -> None:
    lock = Lock()
    del [lock.aacquire()][0]
    assert not lock.locked()

    async def body() -> None:
        await lock.aacquire()

    with lock:
        runtime = Runtime(workers=1)
        task = runtime.go(body)
        wait_for_waiters(lock, 1)
        task.cancel()
        runtime.shutdown()
    wait_for_waiters(lock, 0)
    assert not lock.locked()


def test_a_storm_of_cancellations_loses_neither_the_lock_nor_a_permit() -> None:
    lock, semaphore = Lock(), Semaphore(2)

    def plain() -> None:
        for _ in range(20):
            with semaphore, lock:
                yield_now()

    async def coroutine() -> None:
        for _ in range(20):
            async with semaphore, lock:
                await asleep(0)

    with Runtime(workers=4) as runtime:
        tasks = [runtime.go(plain) for _ in range(20)] + [runtime.go(coroutine) for _ in range(20)]
        for task in tasks[::2]:
            task.cancel()
            yield_now()
    for task in tasks[1::2]:
        task.result(timeout=0)
    assert repr(lock).endswith(": unlocked>")
    assert repr(semaphore).endswith(": value 2>")


# The object


def test_the_repr_has_the_id_and_the_state(wait_for_waiters: WaitForWaiters) -> None:
    lock = Lock()
    assert re.fullmatch(r"<penstock\.Lock at 0x[0-9a-f]+: unlocked>", repr(lock))
    with lock:
        name = threading.current_thread().name
        assert repr(lock).endswith(f": locked by thread {name!r}>")
        task = go(lock.acquire)
        wait_for_waiters(lock, 1)
        assert repr(lock).endswith(f": locked by thread {name!r}, 1 waiting>")
    task.result(timeout=LIMIT)


def test_a_lock_of_a_thread_that_is_gone_says_so(threads: Any) -> None:
    lock = Lock()
    threads.start(lock.acquire)
    threads.join()
    assert "a thread that is gone" in repr(lock)
    assert lock.locked()


def test_it_is_weakly_referenceable_and_neither_copied_nor_pickled() -> None:
    lock = Lock()
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Lock cannot be pickled or copied"):
            refused(lock)
    reference = weakref.ref(lock)
    del lock
    gc.collect()
    assert reference() is None


def test_a_task_that_waits_for_a_lock_that_nobody_knows_keeps_it_alive(
    wait_for_waiters: WaitForWaiters,
) -> None:
    lock = Lock()
    lock.acquire()
    task = go(lock.acquire)
    wait_for_waiters(lock, 1)
    reference = weakref.ref(lock)
    del lock
    gc.collect()
    kept = reference()
    assert kept is not None
    kept.release()
    assert task.result(timeout=LIMIT) is True


def test_an_uncontended_lock_allocates_nothing() -> None:
    lock = Lock()

    def rounds() -> None:
        for _ in range(100):
            lock.acquire()
            lock.release()
            with lock:
                pass

    rounds()
    before = sys.getallocatedblocks()
    rounds()
    if hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled():
        return  # counts nothing there
    assert sys.getallocatedblocks() - before < 20


def test_many_tasks_wait_for_one_lock(wait_for_waiters: WaitForWaiters) -> None:
    lock = Lock()
    count = 20_000
    entered = 0

    async def enter() -> None:
        nonlocal entered
        async with lock:
            entered += 1

    with lock:
        tasks = [go(enter) for _ in range(count)]
        wait_for_waiters(lock, count)
    for task in tasks:
        task.result(timeout=LIMIT)
    assert entered == count


# Programs


def test_a_task_may_park_with_a_lock_of_ours_where_locks_of_threading_are_watched(run_program: Any) -> None:
    run_program(
        """
        from penstock import Lock, go, sleep
        lock, held = Lock(), Lock()
        held.acquire()
        def parks():
            with lock:
                sleep(0.001)
            with threading.Lock():
                held.acquire()
        try:
            go(parks).result()
        except RuntimeError as error:
            print(str(error).partition(" that holds ")[0], lock.locked())
        """,
        env={"PENSTOCK_DEBUG": "locks"},
        stdout="Lock.acquire() would park a task False\n",
    )


def test_ctrl_c_ends_a_wait_of_the_main_thread(run_program: Any) -> None:
    run_program(
        """
        import signal
        from penstock import Lock, go
        lock = Lock()
        go(lock.acquire).result()
        def interrupt():
            wait_until(lambda: "1 waiting" in repr(lock))
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            lock.acquire()
        except KeyboardInterrupt:
            print("waiting" in repr(lock))
        """,
        stdout="False\n",
    )


def test_a_lock_taken_twice_by_one_is_a_deadlock_that_names_it(run_program: Any) -> None:
    run_program(
        """
        from penstock import Deadlock, Lock, go
        lock, held = Lock(), Lock()
        def twice():
            held.acquire()
            held.acquire()
        task = go(twice)
        wait_until(lambda: "1 waiting" in repr(held))
        async def waits():
            async with held:
                pass
        other = go(waits)
        wait_until(lambda: "2 waiting" in repr(held))
        name = f"Task-{task.id}"
        lock.acquire()
        try:
            lock.acquire()
        except Deadlock as error:
            main, *tasks = str(error).splitlines()
            assert "Lock.acquire() on <penstock.Lock" in main, main
            assert "locked by thread 'MainThread', 1 waiting>" in main, main
            assert len(tasks) == 2, tasks
            assert any(f"{name} waits in Lock.acquire() on <penstock.Lock" in line for line in tasks), tasks
            assert any("waits in Lock.aacquire() on <penstock.Lock" in line for line in tasks), tasks
            assert all(f"locked by {name}, 2 waiting>" in line for line in tasks), tasks
            print("named")
        """,
        stdout="named\n",
    )


def test_after_a_fork_who_forked_has_its_locks_and_waiters_are_forgotten(run_program: Any) -> None:
    run_program(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from penstock import Lock, go
        mine, theirs = Lock(), Lock()
        holder = go(theirs.acquire)
        holder.result()
        def in_child():
            assert "waiting" not in repr(mine), mine
            mine.release()
            assert mine.acquire(timeout=5)
            assert go(lambda: mine.locked()).result(timeout=5)
            mine.release()
            assert theirs.locked()
            try:
                theirs.acquire(timeout=0.01)
            except TimeoutError:
                os.write(1, b"child\\n")
            os._exit(0)
        mine.acquire()
        waiter = go(mine.acquire)
        wait_until(lambda: "1 waiting" in repr(mine))
        pid = os.fork()
        if pid == 0:
            in_child()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        mine.release()
        assert waiter.result(timeout=5)
        print("parent")
        """,
        stdout="child\nparent\n",
    )


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_after_a_fork_a_task_that_forked_has_its_locks(run_program: Any, kind: str) -> None:
    run_program(
        f"""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from penstock import Lock, go
        lock = Lock()
        {kind} forks():
            with lock:
                pid = os.fork()
            if pid == 0:
                assert not lock.locked()
                os.write(1, b"child\\n")
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(go(forks).result(timeout=20))
        """,
        stdout="child\n0\n",
    )
