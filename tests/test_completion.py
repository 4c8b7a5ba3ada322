"""`wait`, `await_` and `as_completed` against what `concurrent.futures` does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import penstock
import pytest
from penstock import Channel, Task, go

LIMIT = 30.0  # seconds; only a hang reaches it


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def in_task(function: Callable[..., Any], *args: Any) -> Any:
    return go(function, *args).result(timeout=LIMIT)


def awaited_in_a_task(*args: Any, **kwargs: Any) -> Any:
    async def main() -> Any:
        return await penstock.await_(*args, **kwargs)

    return go(main).result(timeout=LIMIT)


def awaited_in_asyncio(*args: Any, **kwargs: Any) -> Any:
    return asyncio.run(penstock.await_(*args, **kwargs))


def waited_in_a_task(*args: Any, **kwargs: Any) -> Any:
    return go(lambda: penstock.wait(*args, **kwargs)).result(timeout=LIMIT)


WAITS = pytest.mark.parametrize(
    "wait", [penstock.wait, waited_in_a_task, awaited_in_a_task, awaited_in_asyncio]
)


class Gates:
    """Tasks that end when the test says so."""

    def __init__(self, count: int) -> None:
        self.channels = [Channel[Any](1) for _ in range(count)]
        self.tasks = [go(self._run, channel) for channel in self.channels]

    @staticmethod
    def _run(channel: Channel[Any]) -> Any:
        value = channel.recv()
        if isinstance(value, Exception):
            raise value
        return value

    def end(self, which: int, value: Any = None) -> None:
        self.channels[which].send_nowait(value)

    def end_all(self) -> None:
        for channel in self.channels:
            channel.close()
        for task in self.tasks:
            task.exception(timeout=LIMIT)


@WAITS
def test_waits_for_all(wait: Any) -> None:
    tasks = [go(pow, 2, n) for n in range(20)]
    done, not_done = wait(tasks)
    assert done == set(tasks)
    assert not_done == set()
    assert sorted(task.result(timeout=0) for task in done) == [2**n for n in range(20)]


@WAITS
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_gives_what_there_is_and_raises_nothing(wait: Any, timeout: float) -> None:
    gates = Gates(3)
    gates.end(1)
    gates.tasks[1].result(timeout=LIMIT)
    outcome = wait(gates.tasks, timeout=timeout)
    assert outcome.done == {gates.tasks[1]}
    assert outcome.not_done == {gates.tasks[0], gates.tasks[2]}
    gates.end_all()


@WAITS
def test_first_completed(wait: Any) -> None:
    gates = Gates(3)
    threading.Timer(0.01, gates.end, (2,)).start()
    done, not_done = wait(gates.tasks, return_when=penstock.FIRST_COMPLETED)
    assert done == {gates.tasks[2]}
    assert not_done == set(gates.tasks[:2])
    assert wait(gates.tasks, return_when=penstock.FIRST_COMPLETED).done == {gates.tasks[2]}
    gates.end_all()


@WAITS
def test_first_exception(wait: Any) -> None:
    gates = Gates(4)
    gates.end(0)
    gates.tasks[1].cancel()  # no exception
    threading.Timer(0.01, gates.end, (2, ValueError("third"))).start()
    done, not_done = wait(gates.tasks, return_when=penstock.FIRST_EXCEPTION)
    assert done == set(gates.tasks[:3])
    assert not_done == {gates.tasks[3]}
    assert isinstance(gates.tasks[2].exception(timeout=0), ValueError)
    gates.channels[3].close()
    gates.tasks[3].exception(timeout=LIMIT)


@WAITS
def test_first_exception_waits_for_all_where_none_fails(wait: Any) -> None:
    tasks = [go(int) for _ in range(3)]
    assert wait(tasks, return_when="FIRST_EXCEPTION").done == set(tasks)


@WAITS
def test_nothing_to_wait_for(wait: Any) -> None:
    for return_when in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"):
        assert wait([], return_when=return_when) == (set(), set())


@WAITS
def test_a_task_given_twice_counts_once(wait: Any) -> None:
    task = go(int)
    assert wait(iter([task, task])) == ({task}, set())


def test_the_names_are_those_of_concurrent_futures() -> None:
    for name in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"):
        assert getattr(penstock, name) == getattr(concurrent.futures, name)


@WAITS
def test_bad_arguments_are_refused(wait: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds >= 0, not -1"):
        wait([], timeout=-1)
    with pytest.raises(TypeError, match="timeout must be a number"):
        wait([], timeout="x")
    with pytest.raises(ValueError, match=r"return_when must be ALL_COMPLETED.*not 'SOME'"):
        wait([], return_when="SOME")
    with pytest.raises(TypeError, match=r"tasks must be an iterable of penstock tasks.*: 3"):
        wait([3])


def test_waiting_does_not_retrieve(run_program: Any) -> None:
    run_program(
        """
        import penstock
        sys.unraisablehook = lambda seen: print("seen", seen.exc_value)
        def fail():
            raise ValueError("x")
        tasks = [penstock.go(fail)]
        penstock.wait(tasks)
        penstock.wait(tasks, return_when=penstock.FIRST_EXCEPTION)
        list(penstock.as_completed(tasks))
        del tasks
        """,
        stdout="seen x\n",
    )


def test_a_synchronous_wait_in_a_coroutine_names_the_awaitable_form() -> None:
    gates = Gates(1)

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"penstock.wait\(\).*use 'await penstock.await_\(\)'"):
            penstock.wait(gates.tasks)
        with pytest.raises(RuntimeError, match=r"as_completed\(\).*use 'async for'"):
            next(penstock.as_completed(gates.tasks))

    go(main).result(timeout=LIMIT)
    gates.end_all()


@WAITS
def test_a_wait_that_is_over_leaves_nothing_on_the_tasks(wait: Any, wait_until: Any) -> None:
    gates = Gates(1)
    wait_until(lambda: gates.channels[0].stats().recv_waits == 1)
    kept: list[weakref.ref[Any]] = []

    before = penstock._core._references_to(gates.tasks[0])
    for _ in range(5):
        wait(gates.tasks, timeout=0)
        iterator = penstock.as_completed(gates.tasks)
        kept.append(weakref.ref(iterator))
        del iterator
    gc.collect()
    assert all(ref() is None for ref in kept)
    after = penstock._core._references_to(gates.tasks[0])
    assert after == before
    gates.end_all()


def test_a_cancelled_wait_ends() -> None:
    gates = Gates(2)
    reached = Channel[None]()

    def waits() -> None:
        reached.send(None)
        penstock.wait(gates.tasks)

    task = go(waits)
    reached.recv(timeout=LIMIT)
    task.cancel()
    with pytest.raises(penstock.Cancelled):
        task.result(timeout=LIMIT)
    gates.end_all()


# as_completed


def listed_in_thread(*args: Any, **kwargs: Any) -> list[Task[Any]]:
    return list(penstock.as_completed(*args, **kwargs))


def listed_in_a_task(*args: Any, **kwargs: Any) -> Any:
    return in_task(lambda: listed_in_thread(*args, **kwargs))


async def _listed(*args: Any, **kwargs: Any) -> list[Task[Any]]:
    return [task async for task in penstock.as_completed(*args, **kwargs)]


def listed_in_an_async_task(*args: Any, **kwargs: Any) -> Any:
    return in_task(lambda: go(_listed, *args, **kwargs).result(timeout=LIMIT))


def listed_in_asyncio(*args: Any, **kwargs: Any) -> Any:
    return asyncio.run(_listed(*args, **kwargs))


LISTS = pytest.mark.parametrize(
    "listed", [listed_in_thread, listed_in_a_task, listed_in_an_async_task, listed_in_asyncio]
)


@LISTS
def test_each_task_comes_once(listed: Any) -> None:
    tasks = [go(pow, 2, n) for n in range(30)]
    got = listed([*tasks, tasks[0]])
    assert len(got) == 30
    assert set(got) == set(tasks)
    assert listed([]) == []


@pytest.mark.parametrize("run", [in_thread, in_task])
def test_they_come_as_they_end(run: Any) -> None:
    gates = Gates(3)

    def iterate() -> list[int]:
        order = []
        coming = iter(penstock.as_completed(gates.tasks))
        for which in (1, 2, 0):
            gates.end(which)
            order.append(gates.tasks.index(next(coming)))
        assert next(coming, None) is None
        return order

    assert run(iterate) == [1, 2, 0]


@LISTS
def test_a_timeout_raises_after_those_that_have_ended(listed: Any) -> None:
    gates = Gates(3)
    gates.end(1)
    gates.tasks[1].result(timeout=LIMIT)
    with pytest.raises(TimeoutError, match=r"2 \(of 3\) tasks have not ended in time"):
        listed(gates.tasks, timeout=0.01)
    gates.end_all()


def test_the_timeout_runs_from_the_call_and_zero_gives_those_that_have_ended() -> None:
    gates = Gates(2)
    gates.end(1)
    gates.tasks[1].result(timeout=LIMIT)
    coming = penstock.as_completed(gates.tasks, timeout=0)
    assert next(coming) is gates.tasks[1]
    with pytest.raises(TimeoutError):
        next(coming)
    gates.end_all()


def test_a_wait_that_is_cut_short_loses_nothing() -> None:
    gates = Gates(2)
    coming = penstock.as_completed(gates.tasks)
    with penstock.move_on_after(0.01) as scope:
        next(coming)
    assert scope.expired
    gates.end_all()
    assert set(coming) == set(gates.tasks)


def test_what_as_completed_shows() -> None:
    gates = Gates(2)
    coming = penstock.as_completed(gates.tasks)
    assert repr(coming) == f"<penstock.as_completed at {id(coming):#x}: 2 of 2 tasks left>"
    assert weakref.ref(coming)() is coming
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        pickle.dumps(coming)
    with pytest.raises(TypeError, match="penstock tasks"):
        penstock.as_completed([3])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        penstock.as_completed([], -1)
    gates.end_all()


def test_many_tasks_from_many_threads(threads: Any) -> None:
    tasks = [go(pow, 3, n) for n in range(2000)]

    def check() -> None:
        assert penstock.wait(tasks, timeout=LIMIT).not_done == set()
        assert len(list(penstock.as_completed(tasks, timeout=LIMIT))) == 2000

    for _ in range(4):
        threads.start(check)
    threads.join()


def test_what_needs_no_runtime_starts_none(run_program: Any) -> None:
    run_program(
        """
        import penstock
        def started():
            return "not started" not in repr(penstock.default_runtime())
        penstock.wait([])
        list(penstock.as_completed([]))
        list(penstock.map(str, []))
        with penstock.Runtime(workers=1) as runtime:
            gate = penstock.Channel()
            tasks = [runtime.go(gate.recv) for _ in range(6)]
            assert penstock.wait(tasks[:2], timeout=0.001).not_done == set(tasks[:2])
            later = penstock.as_completed(tasks)
            def opens():
                for n in range(6):
                    gate.send(n)
            runtime.go(opens)
            assert sorted(task.result() for task in later) == list(range(6))
            assert penstock.wait(tasks).done == set(tasks)
            with penstock.Group():
                pass
        assert not started()
        penstock.go(int).result()
        assert started()
        """
    )


@pytest.mark.parametrize("how", ["await_", "async for"])
def test_a_deadline_around_a_wait_of_a_coroutine_is_raised_and_not_taken_for_the_waits_own(how: str) -> None:
    gate = Channel[int]()
    task = go(gate.recv)

    async def main() -> None:
        with penstock.timeout(0.01):
            if how == "await_":
                await penstock.await_([task], timeout=3600)
            else:
                async for _ in penstock.as_completed([task], timeout=3600):
                    pass

    with pytest.raises(TimeoutError, match="of the block around this call are over"):
        go(main).result(timeout=60)
    gate.send(1)
    assert task.result(timeout=60) == 1
