"""Structured concurrency: a group of tasks that ends as one."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from penstock import _core
from penstock._core import Task
from penstock.exceptions import Cancelled, Deadlock

if TYPE_CHECKING:
    import asyncio

__all__ = ["Group"]

P = ParamSpec("P")
T = TypeVar("T")


class Group:
    """Tasks that are waited for together.

    Leaving the block waits for all of them. The first failure, of a task or of the block itself, cancels the
    rest, a blocked block too; leaving then raises an ``ExceptionGroup`` of all failures (a
    ``BaseExceptionGroup`` where one is no ``Exception``). A task's own `Cancelled` is no failure. Cancelled
    from outside, the group leaves with `Cancelled` once all of its tasks have ended. On Ctrl-C it cancels
    its tasks, waits for them, and raises ``KeyboardInterrupt``; a second one leaves at once. A `Deadlock` is
    handled like the first.

    ``limit`` bounds how many run at once; `go` over it queues, and returns the task all the same.

    >>> import penstock
    >>> with penstock.Group() as group:
    ...     first = group.go(pow, 2, 10)
    ...     second = group.go(pow, 3, 4)
    >>> first.result() + second.result()
    1105
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and not isinstance(limit, int):
            raise TypeError(f"limit must be None or an int >= 1, not {limit!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be None or an int >= 1, not {limit!r}")
        self._limit = limit
        # Held for a few lines each time, never while anything waits: the lock of `threading` is right here.
        self._lock = threading.Lock()
        self._tasks: set[Task[Any]] = set()  # those that have not ended
        self._queue: deque[Task[Any]] = deque()  # those of them that `limit` keeps back
        self._running = 0
        self._failures: list[BaseException] = []
        self._caller: _core._Caller | _AsyncioCaller | None = None
        self._state = "new"

    @overload
    def go(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[T]: ...

    @overload
    def go(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]: ...

    def go(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Run ``fn(*args, **kwargs)`` as a task of this group, and return it at once. Never waits.

        Any task or thread may call it while the group is open. In a group that is being cancelled the task
        is cancelled before it starts.

        Raises:
            RuntimeError: the group is not open.
        """
        if self._state not in ("open", "leaving", "cancelled"):
            raise RuntimeError(f"go() needs an open group: this one is {self._state}")
        task = _core._new_task(fn, *args, **kwargs)
        with self._lock:
            self._tasks.add(task)
            starts = self._limit is None or self._running < self._limit
            if starts:
                self._running += 1
            else:
                self._queue.append(task)
        if self._state == "cancelled":
            task.cancel()
        task.add_done_callback(self._ended)
        if starts:
            _core._submit(task)
        return task

    def cancel(self) -> None:
        """Cancel every task of the group. Never waits."""
        self._state = "cancelled"
        with self._lock:
            tasks = list(self._tasks)
        for task in tasks:
            task.cancel()

    def _ended(self, task: Task[Any]) -> None:
        failure = None if task.cancelled() else task.exception(timeout=0)
        with self._lock:
            self._tasks.discard(task)
            try:
                self._queue.remove(task)
            except ValueError:
                self._running -= 1
            # Once the group is being cancelled nothing starts: what is queued waits for `cancel` to reach it.
            following = self._queue.popleft() if self._queue and self._state != "cancelled" else None
            if following is not None:
                self._running += 1
            first = failure is not None and not self._failures
            if failure is not None:
                self._failures.append(failure)
        if following is not None:
            _core._submit(following)
        if first:
            self.cancel()
            if self._caller is not None:
                self._caller.interrupt(self)

    def _enter(self, caller: _core._Caller | _AsyncioCaller) -> Group:
        if self._state != "new":
            raise RuntimeError(f"a group is entered once: this one is {self._state}")
        self._caller = caller
        self._state = "open"
        return self

    def __enter__(self) -> Group:
        return self._enter(_core._Caller.here())

    async def __aenter__(self) -> Group:
        return self._enter(_AsyncioCaller.here() or _core._Caller.here())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        leaving = _Leaving(self, error)
        waits = True
        while waits:
            try:  # around the whole loop: Ctrl-C may come between two waits
                while (task := self._next()) is not None:
                    task._join()
                waits = False
            except (Cancelled, Deadlock, KeyboardInterrupt) as interruption:
                leaving.interrupted_by(interruption)
        return leaving.outcome()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        leaving = _Leaving(self, error)
        while (task := self._next()) is not None:
            try:
                await task._ajoin()
            except _cancellations() as interruption:
                leaving.interrupted_by(interruption)
        return leaving.outcome()

    def _next(self) -> Task[Any] | None:
        with self._lock:
            return next(iter(self._tasks), None)

    def __repr__(self) -> str:
        return f"<penstock.Group at {id(self):#x}: {self._state}, {len(self._tasks)} tasks>"

    def __reduce__(self) -> str:
        raise TypeError("a Group cannot be pickled or copied: its tasks run in this process only")


def _cancellations() -> tuple[type[BaseException], ...]:
    """What says "cancelled" here: ours, and asyncio's where that is in use."""
    asyncio = sys.modules.get("asyncio")
    return (Cancelled,) if asyncio is None else (Cancelled, asyncio.CancelledError)


class _AsyncioCaller:
    """An asyncio task whose ``async with`` block a group may interrupt: by its loop's own cancellation."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._loop = task.get_loop()
        self._pending = False  # asked for, and not seen yet; touched in the loop's thread only
        self._closed = False

    @classmethod
    def here(cls) -> _AsyncioCaller | None:
        asyncio = sys.modules.get("asyncio")
        if asyncio is None:  # nobody has imported it, so no loop of it runs
            return None
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs here
            return None
        return None if task is None else cls(task)

    def interrupt(self, _scope: object) -> None:
        try:
            self._loop.call_soon_threadsafe(self._interrupt)
        except RuntimeError:
            pass  # the loop was closed, and the block with it

    def _interrupt(self) -> None:
        if not self._closed:
            self._pending = True
            self._task.cancel()

    def take(self) -> bool:
        """Whether the cancellation that was just raised was the group's; undoes it if so."""
        was_ours, self._pending = self._pending, False
        if was_ours:
            self._task.uncancel()
        return was_ours

    def forget(self, _scope: object) -> None:
        self._closed = True
        self.take()


class _Leaving:
    """What a group leaves with: told of each interruption while it waits for its tasks."""

    def __init__(self, group: Group, error: BaseException | None) -> None:
        self._group = group
        self._error = error  # what the block raised, and what is left of it to raise
        self._outside: BaseException | None = None
        if group._state == "open":
            group._state = "leaving"
        if error is None:
            return
        if isinstance(error, (*_cancellations(), Deadlock, KeyboardInterrupt)):
            self._error = None
            self.interrupted_by(error)
            return
        with group._lock:
            group._failures.insert(0, error)
        group.cancel()

    def interrupted_by(self, interruption: BaseException) -> None:
        # Our own doing: a task has failed, and its failure is what counts.
        if getattr(interruption, "_scope", None) is self._group:
            return
        caller = self._group._caller
        if (
            isinstance(caller, _AsyncioCaller)
            and not isinstance(interruption, KeyboardInterrupt)
            and caller.take()
        ):
            return
        if isinstance(interruption, KeyboardInterrupt) and self._outside is not None:
            raise interruption
        self._outside = interruption
        self._group.cancel()

    def outcome(self) -> bool:
        group = self._group
        if group._caller is not None:
            group._caller.forget(group)
            group._caller = None
        group._state = "closed"
        failures, group._failures = group._failures, []
        if self._outside is not None and (not failures or isinstance(self._outside, KeyboardInterrupt)):
            raise self._outside
        if failures:
            message = f"{len(failures)} of the group's tasks failed"
            raise BaseExceptionGroup(message, failures)
        return True
