"""Locks that park: the compiled ones, and what of the others is shorter in Python."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

from penstock._core import (
    Event,
    Lock,
    Semaphore,
    WaitGroup,
    _Barrier,
    _Condition,
    _Once,
    _outranks,
    _seconds,
)
from penstock._owners import loop_task_here

__all__ = ["Barrier", "Condition", "Event", "Lock", "Once", "Semaphore", "WaitGroup"]

T = TypeVar("T")


class Barrier(_Barrier):
    """A number of parties that wait for each other, as in ``threading.Barrier``.

    The last of ``parties`` to arrive calls ``action``, a plain function, and then all go on; after that it
    can be used again. A barrier breaks when a party that waits times out or is cancelled, when ``action``
    raises, and by `abort`: then everybody who waits or comes gets a ``threading.BrokenBarrierError``, until
    `reset`. ``timeout`` holds for each `wait` that has none of its own, in seconds.

    >>> from penstock import Barrier, go
    >>> barrier = Barrier(3, action=lambda: print("all there"))
    >>> sorted(task.result() for task in [go(barrier.wait) for _ in range(3)])
    all there
    [0, 1, 2]
    """

    __slots__ = ()

    async def await_(self, timeout: float | None = None) -> int:
        """The awaitable form of `wait`, for ``async def`` tasks and event loops."""
        index = await self._arrive(timeout)
        return index if index >= 0 else self._lead(index)


class Condition(_Condition):
    """Waiting for something that a lock guards to change, as in ``threading.Condition``.

    Made on a `Lock`, or with one of its own. Who has the lock and finds things not as it needs them calls
    `wait`, which lets go of the lock; who has the lock and has changed something calls `notify`.

    >>> from penstock import Condition, go
    >>> items: list[int] = []
    >>> changed = Condition()
    >>> def take() -> int:
    ...     with changed:
    ...         changed.wait_for(lambda: items)
    ...         return items.pop()
    >>> task = go(take)
    >>> with changed:
    ...     items.append(7)
    ...     changed.notify()
    >>> task.result()
    7
    """

    __slots__ = ()

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until ``predicate()`` is true, and return what it gave.

        It is called with the lock, before the first `wait` and after each.

        Raises:
            TimeoutError: ``timeout`` seconds passed and it was not true. Otherwise as `wait`.
        """
        patience = _Patience(timeout)
        while not (result := predicate()):
            super().wait(patience.left())
        return result

    async def await_(self, timeout: float | None = None) -> Literal[True]:
        """The awaitable form of `wait`, for ``async def`` tasks and event loops."""
        owner = self._owner()
        interrupt: BaseException | None = None
        try:
            await self._notified(timeout)
        except GeneratorExit:
            raise  # nobody goes on here, so nobody needs the lock
        except BaseException as error:  # noqa: BLE001 - raised below
            interrupt = error
        was_notified = interrupt is None
        try:
            if not self._is_held_by(owner):
                interrupt = await self._take_again(owner, interrupt)
            if interrupt is not None:
                raise interrupt  # noqa: TRY301 - one way out for all that end it
        except BaseException:
            if was_notified:
                self._pass_on()  # this waiter does not act on it
            raise
        finally:
            interrupt = None  # its traceback refers to this frame
        return True

    async def _take_again(self, owner: int, interrupt: BaseException | None) -> BaseException | None:
        """Take the lock for ``owner``, and give what is to be raised then: the outermost interrupt."""
        with _shield():
            while not self._is_held_by(owner):
                try:
                    await self._reacquire(owner)
                except (GeneratorExit, RuntimeError):
                    raise  # there is no lock to come
                except BaseException as error:  # noqa: BLE001 - given back
                    if interrupt is None or _outranks(error, interrupt):
                        interrupt = error
        return interrupt

    async def await_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """The awaitable form of `wait_for`, for ``async def`` tasks and event loops."""
        patience = _Patience(timeout)
        while not (result := predicate()):
            await self.await_(patience.left())
        return result


class Once(_Once):
    """A call that is made once, however many ask for it; Go's ``sync.Once``.

    >>> from penstock import Once, go
    >>> once = Once()
    >>> def connect() -> None:
    ...     print("connected")
    >>> for task in [go(once.do, connect) for _ in range(3)]:
    ...     task.result()
    connected
    """

    __slots__ = ()

    async def ado(self, fn: Callable[[], Awaitable[object] | object], /) -> None:
        """The awaitable form of `do`, for ``async def`` tasks and event loops; ``fn`` may be async, too."""
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}")
        if not self._claim():
            await self._done()
            return
        try:
            result = fn()
            if inspect.isawaitable(result):
                await result
        finally:
            self._finish()


class _Patience:
    """What is left of a timeout."""

    __slots__ = ("_deadline",)

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + _seconds(timeout, "timeout")

    def left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


def _shield() -> AbstractContextManager[Any]:
    """Keeps trio and anyio, which cancel again at each await, from doing so for a moment."""
    if loop_task_here() is not None:
        for name in ("anyio", "trio"):
            if library := sys.modules.get(name):
                shield: AbstractContextManager[Any] = library.CancelScope(shield=True)
                return shield
    return nullcontext()
