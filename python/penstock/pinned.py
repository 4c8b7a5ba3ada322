"""Keeping an ``async def`` task on its thread."""

from __future__ import annotations

from types import TracebackType

from penstock import _core
from penstock._core import Task

__all__ = ["Pinned", "pinned"]


def pinned() -> Pinned:
    """Keep the ``async def`` task that enters it on this thread: ``with penstock.pinned():``.

    Between two steps such a task may move to another worker. Inside the block it goes on where it is: for
    what belongs to a thread, as `threading.local`, a `threading.RLock` and much of C do. Other tasks may
    run on the thread while it is parked. Blocks nest; the outermost one counts. Entering and leaving never
    wait.

    Plain tasks stay on their thread anyway, and so do coroutines of asyncio: there, as in an ordinary thread,
    it changes nothing.

    Raises:
        RuntimeError: it is entered twice, or left by another task than the one that entered it.

    >>> import threading
    >>> import penstock
    >>> async def body() -> bool:
    ...     with penstock.pinned():
    ...         before = threading.get_ident()
    ...         await penstock.asleep(0.001)
    ...         return threading.get_ident() == before
    >>> penstock.go(body).result()
    True
    """
    return Pinned()


class Pinned:
    """A block in which an ``async def`` task stays on its thread; made by `pinned`."""

    __slots__ = ("__weakref__", "_state", "_task")

    def __init__(self) -> None:
        self._state = "new"
        self._task: Task[object] | None = None

    def __enter__(self) -> None:
        if self._state != "new":
            raise RuntimeError(f"pinned() is entered once: this one is {self._state}")
        self._task = _core._pin()
        self._state = "entered"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._state != "entered":
            raise RuntimeError(f"pinned() is left once, after it was entered: this one is {self._state}")
        if self._task is not None:
            _core._unpin(self._task)
            self._task = None
        self._state = "left"

    def __repr__(self) -> str:
        task = "" if self._task is None else f", {self._task.name}"
        return f"<penstock.Pinned at {id(self):#x}: {self._state}{task}>"

    def __reduce__(self) -> str:
        raise TypeError("a Pinned block cannot be pickled or copied: it belongs to a task of this process")
