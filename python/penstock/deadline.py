"""Deadlines: blocks whose waits have to be over in time."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from penstock import _core

__all__ = ["move_on_after", "timeout"]


class _Deadline:
    """What `timeout` and `move_on_after` share: the compiled module watches the clock, and raises."""

    __slots__ = ("__weakref__", "_ends", "_expired", "_scope", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = _core._seconds(seconds, "seconds")
        self._scope: _core._Scope | None = None
        self._ends: float | None = None  # by the monotonic clock, while it is open; for people only
        self._expired = False

    @property
    def expired(self) -> bool:
        """Whether a call in the block was cut short because its time was up. Stays so after the block."""
        return self._expired or (self._scope is not None and self._scope.has_expired())

    def __enter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError("a deadline is entered once: make another one")
        loop = _running_loop()
        if loop is not None:
            raise RuntimeError(
                f"penstock.{type(self).__name__}() has no power over an {loop} coroutine: use the loop's own"
                f" ({_LOOPS_OWN[loop]})"
            )
        self._scope = _core._Scope.here()
        self._ends = time.monotonic() + self._seconds
        self._scope.start(self._seconds)
        return self

    def _leave(self) -> _core._Scope:
        if self._scope is None:
            raise RuntimeError("a deadline is left that was never entered")
        self._ends = None
        self._expired = self._scope.end()
        return self._scope

    def __repr__(self) -> str:
        if self._scope is None:
            state = "new"
        elif self.expired:
            state = "expired"
        elif self._ends is None:
            state = "left in time"
        else:
            state = f"open, {max(0.0, self._ends - time.monotonic()):.3f} s left"
        return f"<penstock.{type(self).__name__}({self._seconds:g}) at {id(self):#x}: {state}>"

    def __reduce__(self) -> str:
        name = type(self).__name__
        raise TypeError(f"a {name} cannot be pickled or copied: it belongs to a running task or thread")


class timeout(_Deadline):  # noqa: N801 - used like a function
    """A block with so many seconds: ``with penstock.timeout(seconds)``.

    The call in the block that would wait longer raises ``TimeoutError``: every blocking call of this package,
    in functions called from there too, and in an ``async def`` task every awaited one (a plain ``with`` there
    as well). Calls that need not wait go on; so does code that computes, or blocks outside of this package.

    It is raised once, so the clean-up on the way out may wait as long as it has to; give it a deadline of its
    own where it must not. Deadlines nest: the one that comes first ends the wait, and those inside it are
    without effect from then on, as all are once the task is cancelled. A `Group` that is open in the block
    cancels its tasks, waits for them, and leaves with the ``TimeoutError`` itself.

    It belongs to the task that entered it, or to the thread outside of one: `go` does not pass it on, and an
    event loop that runs in the block has its own. Do not yield from a generator inside one.

    ``seconds=0`` has the first call raise that would have to wait.

    Raises:
        RuntimeError: entered in a coroutine of asyncio or trio, or twice; left by another task or thread
            than it was entered by, or before one that was entered in it.
        ValueError, TypeError: ``seconds`` is negative, or no number.

    >>> import penstock
    >>> answers = penstock.Channel[int]()
    >>> with penstock.timeout(0.01):
    ...     answers.recv()
    Traceback (most recent call last):
        ...
    TimeoutError: the 0.01 s of the block around this call are over
    """

    __slots__ = ()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()


class move_on_after(_Deadline):  # noqa: N801 - used like a function
    """A block that is left early once its time is up: ``with penstock.move_on_after(seconds) as scope``.

    As `timeout`, but the ``TimeoutError`` ends at the block: the program goes on behind it, and
    ``scope.expired`` tells. Any other exception passes, the ``TimeoutError`` of another deadline or of a
    call's own ``timeout=`` too.

    >>> import penstock
    >>> answers = penstock.Channel[int]()
    >>> with penstock.move_on_after(0.01) as scope:
    ...     answers.recv()
    >>> scope.expired
    True
    """

    __slots__ = ()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        scope = self._leave()
        return error is not None and scope.raised(error)


_LOOPS_OWN = {"asyncio": "asyncio.timeout()", "trio": "trio.fail_after() or trio.move_on_after()"}


def _running_loop() -> str | None:
    """The library whose event loop runs in this thread; a library that nobody has imported runs none."""
    asyncio = sys.modules.get("asyncio.events")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return "asyncio"
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:  # this is no task of trio's
            return None
        return "trio"
    return None
