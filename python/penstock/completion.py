"""Waiting for several tasks: `wait`, `await_` and `as_completed`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import Generic, NamedTuple, Self, TypeVar

from penstock import _core, _forked
from penstock._core import Task

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "as_completed", "await_", "wait"]

T = TypeVar("T")


class DoneAndNotDone(NamedTuple, Generic[T]):
    """What `wait` returns."""

    done: set[Task[T]]
    not_done: set[Task[T]]


class Endings(Generic[T]):
    """The tasks that have ended, of those that were `add`ed, in that order.

    Whoever finds none waits for the *gate*: a task that never runs. To cancel it opens it, and it can be
    waited for as any task, by tasks, threads and event loops. It is of the runtime of a task that is waited
    for, so that none is started for it.
    """

    def __init__(self) -> None:
        # As in a group: held for a few lines, and a collection in those may end a task.
        self._lock = threading.RLock()
        self._ended: deque[Task[T]] = deque()
        self._gate: Task[object] | None = None
        self._callbacks: dict[Task[T], _core._Callback] = {}  # of those not taken; the owner's only
        self._forks = _forked.forks

    def _adopt(self) -> None:
        """In a forked child: nobody opens the gate there, and a thread of the parent may hold the lock."""
        if self._forks == _forked.forks:
            return
        with _forked.adopting:
            if self._forks != _forked.forks:
                self._lock = threading.RLock()
                self._gate = None
                self._forks = _forked.forks

    def add(self, task: Task[T]) -> None:
        callback = _core._Callback.add(task, self._note)
        if callback is not None:
            self._callbacks[task] = callback

    def _note(self, task: Task[T]) -> None:
        with self._lock:
            self._ended.append(task)
            gate, self._gate = self._gate, None
        if gate is not None:
            gate.cancel()

    def take(self) -> Task[T] | None:
        """The next one, if there is one now."""
        self._adopt()
        with self._lock:
            task = self._ended.popleft() if self._ended else None
        if task is not None:
            self._callbacks.pop(task, None)
        return task

    def gate(self) -> Task[object]:
        """What opens when there is one; open already if there is. There is a task that was not taken.

        Raises:
            RuntimeError: this is a forked child, and the task is of its parent.
        """
        self._adopt()
        with self._lock:
            new = (self._ended[0] if self._ended else next(iter(self._callbacks)))._gate()
            if not self._ended:
                self._gate = self._gate or new
                return self._gate
        new.cancel()
        return new

    def close(self) -> None:
        """Forgets the tasks that have not ended."""
        callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            callback.remove()


def _tasks_of(tasks: Iterable[Task[T]]) -> set[Task[T]]:
    found = set(tasks)
    for task in found:
        if not isinstance(task, Task):
            raise TypeError(f"tasks must be an iterable of penstock tasks, and this is in it: {task!r}")
    return found


def _deadline(timeout: float | None) -> float | None:
    """When ``timeout`` seconds are over, by the monotonic clock."""
    return None if timeout is None else time.monotonic() + _core._seconds(timeout, "timeout")


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


class _Wait(Generic[T]):
    """One call of `wait` or `await_`: what it still waits for."""

    def __init__(self, tasks: Iterable[Task[T]], timeout: float | None, return_when: str) -> None:
        if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
            allowed = "ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION"
            raise ValueError(f"return_when must be {allowed}, not {return_when!r}")
        self._return_when = return_when
        self._deadline = _deadline(timeout)
        self._not_done = _tasks_of(tasks)
        self._done: set[Task[T]] = set()
        self._endings = Endings[T]()
        for task in self._not_done:
            self._endings.add(task)

    def gate(self) -> Task[object] | None:
        """What to wait for next; ``None`` if that is nothing."""
        enough = False
        while (task := self._endings.take()) is not None:
            self._not_done.discard(task)
            self._done.add(task)
            enough |= self._return_when == FIRST_COMPLETED
            enough |= self._return_when == FIRST_EXCEPTION and task._failed()
        return None if enough or not self._not_done else self._endings.gate()

    @property
    def left(self) -> float | None:
        return _left(self._deadline)

    def result(self) -> DoneAndNotDone[T]:
        return DoneAndNotDone(self._done, self._not_done)

    def close(self) -> None:
        self._endings.close()


def wait(
    tasks: Iterable[Task[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[T]:
    """Wait for tasks as `concurrent.futures.wait` does, and return the sets ``(done, not_done)``.

    It waits for all of them, or with ``return_when`` for the first that ends (``FIRST_COMPLETED``) or that
    fails (``FIRST_EXCEPTION``; for all where none does). A task that was cancelled has ended, and not failed.

    After ``timeout`` seconds it returns what there is, and raises nothing; 0 looks once. The tasks go on in
    any case, and their exceptions still want to be retrieved. Parks a task, blocks a thread; `await_` is the
    awaitable form.

    Raises:
        ValueError, TypeError: ``timeout`` is negative, ``return_when`` unknown, or something is no task.
        TimeoutError: the time of a `timeout` or `move_on_after` around the call is up.
        Cancelled: the caller was cancelled while it waited.

    >>> import penstock
    >>> tasks = [penstock.go(pow, 2, n) for n in range(3)]
    >>> done, not_done = penstock.wait(tasks, timeout=10)
    >>> sorted(task.result() for task in done), not_done
    ([1, 2, 4], set())
    """
    waiting = _Wait(tasks, timeout, return_when)
    try:
        while (gate := waiting.gate()) is not None:
            if not gate._join("penstock.wait()", "await penstock.await_()", waiting.left):
                break
        return waiting.result()
    finally:
        waiting.close()


async def await_(
    tasks: Iterable[Task[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[T]:
    """The awaitable form of `wait`, in an ``async def`` task or in asyncio.

    >>> import penstock
    >>> async def main() -> int:
    ...     done, _ = await penstock.await_([penstock.go(pow, 2, 5)])
    ...     return done.pop().result()
    >>> penstock.go(main).result()
    32
    """
    waiting = _Wait(tasks, timeout, return_when)
    try:
        while (gate := waiting.gate()) is not None:
            try:
                await gate._ajoin(waiting.left)
            except TimeoutError as error:
                if _is_of_a_scope(error):
                    raise
                break
        return waiting.result()
    finally:
        waiting.close()


def _is_of_a_scope(error: TimeoutError) -> bool:
    """Whether it is that of a deadline around the call, not of the call's own ``timeout=``."""
    return getattr(error, "_scope", None) is not None


class as_completed(Generic[T]):  # noqa: N801 - used like a function
    """Iterate over tasks as they end, as `concurrent.futures.as_completed` does; ``async for`` does too.

    Each comes once, those that have ended already first. The tasks are not touched: leave early, and they go
    on. A wait that is cut short loses nothing: iterate on, and the rest comes.

    Raises:
        TimeoutError: not all have ended ``timeout`` seconds after the call; 0 gives those that have.
        ValueError, TypeError: ``timeout`` is negative, or something is no task.

    >>> import penstock
    >>> tasks = [penstock.go(penstock.sleep, seconds) for seconds in (0.05, 0.001)]
    >>> [tasks.index(task) for task in penstock.as_completed(tasks, timeout=10)]
    [1, 0]
    """

    def __init__(self, tasks: Iterable[Task[T]], timeout: float | None = None) -> None:
        self._deadline = _deadline(timeout)
        self._endings = Endings[T]()
        found = _tasks_of(tasks)
        self._all = self._left = len(found)
        for task in found:
            self._endings.add(task)

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def _take(self) -> Task[T] | None:
        task = self._endings.take()
        if task is not None:
            self._left -= 1
        return task

    def __next__(self) -> Task[T]:
        while (task := self._take()) is None:
            if not self._left:
                raise StopIteration
            gate, left = self._endings.gate(), _left(self._deadline)
            if not gate._join("iterating over as_completed()", "async for", left):
                raise self._time_is_up()
        return task

    async def __anext__(self) -> Task[T]:
        while (task := self._take()) is None:
            if not self._left:
                raise StopAsyncIteration
            try:
                await self._endings.gate()._ajoin(_left(self._deadline))
            except TimeoutError as error:
                if _is_of_a_scope(error):
                    raise
                raise self._time_is_up() from None
        return task

    def _time_is_up(self) -> TimeoutError:
        return TimeoutError(f"{self._left} (of {self._all}) tasks have not ended in time")

    def __del__(self) -> None:
        endings = getattr(self, "_endings", None)  # not there if the arguments were refused
        if endings is not None:
            endings.close()

    def __repr__(self) -> str:
        left = f"{self._left} of {self._all} tasks left"
        return f"<penstock.as_completed at {id(self):#x}: {left}>"

    def __reduce__(self) -> str:
        raise TypeError("an as_completed cannot be pickled or copied: it waits for tasks of this process")
