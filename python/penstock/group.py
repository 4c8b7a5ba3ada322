"""Structured concurrency: a group of tasks that ends as one."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from penstock import _core, _forked
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
    from outside, the group leaves with `Cancelled` once all of its tasks have ended; where the time of a
    `timeout` or `move_on_after` around it is up, with that ``TimeoutError``. Failures that come up then go
    before both. On Ctrl-C it cancels its tasks, waits for them, and raises ``KeyboardInterrupt``; a second
    one leaves at once. A `Deadlock`, and anything else that a signal handler raises, is treated like it. In a
    forked child the group goes on without the tasks that it had in the parent, which do not exist there.

    ``limit`` bounds how many run at once; `go` over it queues, and returns the task all the same.

    >>> import penstock
    >>> with penstock.Group() as group:
    ...     first = group.go(pow, 2, 10)
    ...     second = group.go(pow, 3, 4)
    >>> first.result() + second.result()
    1105
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = checked_limit(limit)
        # Held for a few lines each time, never while anything waits: the lock of `threading` is right here.
        # One that its holder may take again: a collection in those lines may end a task of the group.
        self._lock = threading.RLock()
        self._state = "new"  # then open, leaving, cancelled, closed; it becomes closed under the lock
        self._tasks: set[Task[Any]] = set()  # those that have not ended
        self._running: set[Task[Any]] = set()  # those of them that were submitted
        self._queue: deque[Task[Any]] = deque()  # the others, and some that were cancelled meanwhile
        self._failures: list[BaseException] = []
        self._scope: _core._Scope | _AsyncioScope | None = None  # while the block runs
        self._forks = _forked.forks

    def _adopt(self) -> None:
        """In a forked child: of the tasks that the parent started none is there."""
        if self._forks == _forked.forks:
            return
        with _forked.adopting:
            if self._forks != _forked.forks:
                self._lock = threading.RLock()  # as it is, one of the parent's threads may hold it
                self._tasks, self._running, self._queue = set(), set(), deque()
                self._forks = _forked.forks

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
        task = _core._new_task(fn, *args, **kwargs)
        self._adopt()
        with self._lock:
            state = self._state
            starts = self._limit is None or len(self._running) < self._limit
            if state not in ("new", "closed"):
                self._tasks.add(task)
                if starts:
                    self._running.add(task)
                else:
                    self._queue.append(task)
        if state in ("new", "closed"):
            raise RuntimeError(f"go() needs an open group: this one is {state}")
        if self._state == "cancelled":
            task.cancel()
        task.add_done_callback(self._ended)
        if starts:
            _core._submit(task)
        return task

    def cancel(self) -> None:
        """Cancel every task of the group. Never waits."""
        self._adopt()
        with self._lock:
            if self._state in ("open", "leaving"):
                self._state = "cancelled"
            tasks = list(self._tasks)
        for task in tasks:
            task.cancel()

    def _ended(self, task: Task[Any]) -> None:
        failure = None if task.cancelled() else task.exception(timeout=0)
        following = None
        with self._lock:
            if failure is not None:
                self._failures.append(failure)
            first = failure is not None and len(self._failures) == 1
            if task in self._running:
                self._running.discard(task)
                following = self._start_next()
            scope = self._scope
            self._tasks.discard(task)  # last: the group may be left now
        if following is not None:
            _core._submit(following)
        if first:
            self.cancel()
            if scope is not None:
                scope.interrupt()

    def _start_next(self) -> Task[Any] | None:
        """Take the next task out of the queue, under the lock.

        Once the group is being cancelled nothing starts: what is queued waits for `cancel` to reach it.
        """
        while self._queue and self._state != "cancelled":
            task = self._queue.popleft()
            if task in self._tasks and not task.done():  # else it was cancelled in the queue
                self._running.add(task)
                return task
        return None

    def _enter(self, scope: _core._Scope | _AsyncioScope) -> Group:
        if self._state != "new":
            raise RuntimeError(f"a group is entered once: this one is {self._state}")
        self._scope = scope
        self._state = "open"
        return self

    def __enter__(self) -> Group:
        return self._enter(_core._Scope.here())

    async def __aenter__(self) -> Group:
        return self._enter(_AsyncioScope.here() or _core._Scope.here())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        leaving = _Leaving(self, error)
        interruption = None
        waits = True
        while waits:
            try:  # around all of it: Ctrl-C may come between two waits, and while another one is dealt with
                if interruption is not None:
                    leaving.interrupted_by(interruption)
                    interruption = None
                while tasks := leaving.unfinished():
                    for task in tasks:
                        task._join("leaving a group", "async with group")
                waits = False
            except BaseException as raised:
                if leaving.has_left:
                    raise
                interruption = raised
        return leaving.outcome()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        leaving = _Leaving(self, error)
        if isinstance(error, GeneratorExit):
            leaving.at_once(error)  # a coroutine that is closed can wait for nothing
        while tasks := leaving.unfinished():
            try:
                for task in tasks:
                    await task._ajoin()
            except GeneratorExit as closing:
                leaving.at_once(closing)
            except BaseException as interruption:  # noqa: BLE001 - raised at the end
                leaving.interrupted_by(interruption)
        return leaving.outcome()

    def __repr__(self) -> str:
        return f"<penstock.Group at {id(self):#x}: {self._state}, {len(self._tasks)} tasks>"

    def __reduce__(self) -> str:
        raise TypeError("a Group cannot be pickled or copied: its tasks run in this process only")


def checked_limit(limit: int | None) -> int | None:
    """What a ``limit=`` argument says."""
    if limit is not None and not isinstance(limit, int):
        raise TypeError(f"limit must be None or an int >= 1, not {limit!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be None or an int >= 1, not {limit!r}")
    return limit


def _cancellations() -> tuple[type[BaseException], ...]:
    """What says "cancelled" here: ours, and asyncio's where that is in use."""
    asyncio = sys.modules.get("asyncio")
    return (Cancelled,) if asyncio is None else (Cancelled, asyncio.CancelledError)


class _AsyncioScope:
    """The block of an asyncio task, for a group: what `_core._Scope` is elsewhere.

    It is interrupted by its loop's own cancellation.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._loop = task.get_loop()
        self._cancelling = task.cancelling()  # requests from before, which are none of the group's business
        self._pending = False  # asked for, and not seen yet; touched in the loop's thread only
        self._closed = False

    @classmethod
    def here(cls) -> _AsyncioScope | None:
        asyncio = sys.modules.get("asyncio")
        if asyncio is None:  # nobody has imported it, so no loop of it runs
            return None
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs here
            return None
        return None if task is None else cls(task)

    def interrupt(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._interrupt)
        except RuntimeError:
            pass  # the loop was closed, and the block with it

    def _interrupt(self) -> None:
        if not self._closed:
            self._pending = True
            self._task.cancel()

    def raised(self, error: BaseException) -> bool:
        """Whether the cancellation that was just raised was the group's alone; takes the group's back."""
        if not self._pending or isinstance(error, Cancelled):
            return False
        self._pending = False
        return self._task.uncancel() <= self._cancelling

    def lies_in(self, _error: BaseException) -> bool:
        return False  # no deadline of ours reaches into a loop

    def forget(self) -> None:
        self._closed = True
        if self._pending:
            self._pending = False
            self._task.uncancel()


class _Leaving:
    """What a group leaves with: told of each interruption while it waits for its tasks.

    An interruption leads to a scope outside the group, or out of the task. Of several the one that leads
    furthest is raised in the end: an inner scope would swallow its own, and the further one would be lost.
    """

    def __init__(self, group: Group, error: BaseException | None) -> None:
        if group._scope is None:
            raise RuntimeError(f"only an open group can be left: this one is {group._state}")
        self._group = group
        self._scope = group._scope
        self._interruption: BaseException | None = None
        self.has_left = False
        self._insists = False  # something has been raised that no scope of ours did
        group._adopt()
        with group._lock:
            if group._state == "open":
                group._state = "leaving"
        if error is None:
            return
        if self._is_from_outside(error) or isinstance(error, (Deadlock, KeyboardInterrupt, GeneratorExit)):
            self.interrupted_by(error)
            return
        with group._lock:
            group._failures.insert(0, error)
        group.cancel()

    def _is_from_outside(self, error: BaseException) -> bool:
        return isinstance(error, _cancellations()) or self._scope.lies_in(error)

    def unfinished(self) -> list[Task[Any]]:
        """The tasks to wait for. Where there are none the group is closed."""
        group = self._group
        with group._lock:
            if not group._tasks:
                group._state = "closed"
            return list(group._tasks)

    def interrupted_by(self, interruption: BaseException) -> None:
        if isinstance(interruption, _cancellations()) and self._scope.raised(interruption):
            return  # our own doing: a task has failed, and its failure is what counts
        if not self._is_from_outside(interruption):
            if self._insists or hasattr(interruption, _AT_ONCE):
                self.at_once(interruption)
            self._insists = True
        if self._interruption is None or _level(interruption) <= _level(self._interruption):
            self._interruption = interruption
        self._group.cancel()

    def at_once(self, interruption: BaseException) -> NoReturn:
        """Leaves without waiting, and has the groups around this one do the same."""
        self._group.cancel()
        self._close()
        self.has_left = True
        setattr(interruption, _AT_ONCE, True)
        raise interruption

    def _close(self) -> None:
        with self._group._lock:
            self._group._state = "closed"
            self._group._scope = None
        self._scope.forget()

    def outcome(self) -> bool:
        self._close()
        failures, self._group._failures = self._group._failures, []
        if self._interruption is not None and (self._insists or not failures):
            raise self._interruption
        if failures:
            message = f"{len(failures)} of the group's tasks failed"
            raise BaseExceptionGroup(message, failures)
        return True


_AT_ONCE = "_at_once"


def _level(interruption: BaseException) -> int:
    """How far out it leads: the smaller, the further. 0 is out of the task."""
    if not isinstance(interruption, (Cancelled, TimeoutError)):
        return -1
    mark = getattr(interruption, "_scope", None)
    return 0 if mark is None else mark.number
