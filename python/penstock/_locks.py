"""``PENSTOCK_DEBUG=locks``: finds tasks that park while they hold a lock of `threading`.

Such a lock belongs to the thread, or to nobody. Another task of the same worker that wants it blocks the
very thread on which its holder would go on: nothing says so, the program just stops. Here the classes of
`threading` are replaced by ones that note who holds what, and a task that is about to park with a lock in
hand gets a ``RuntimeError`` at that spot. Locks that were made before the import of penstock are not
seen.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from penstock import _core

_held: dict[int, dict[int, WatchedLock]] = {}
"""By task: the locks in its hands, by their address. A task's own entries are touched by it, or by whoever
releases its lock for it: single operations on a dict, which are atomic."""


def _caller_site() -> str:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in (__file__, threading.__file__):
        frame = frame.f_back
    return "an unknown place" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


class WatchedLock:
    """What `threading.Lock` makes while locks are watched: the same lock, and who has it."""

    _kind = "Lock"
    _make: Any = staticmethod(threading.Lock)

    def __init__(self) -> None:
        self._lock = self._make()
        self._holder: int | None = None  # the task, while one has it
        self._taken_at = ""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        acquired: bool = self._lock.acquire(blocking, timeout)
        if acquired:
            self._note()
        return acquired

    def release(self) -> None:
        self._forget()  # first: once it is released, it is the next holder's to note
        self._lock.release()

    def _note(self) -> None:
        task = _core._running_task()
        if task is not None:
            self._taken_at = _caller_site()
            self._holder = task
            _held.setdefault(task, {})[id(self)] = self

    def _forget(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            locks = _held.get(holder, {})
            locks.pop(id(self), None)
            if not locks:
                _held.pop(holder, None)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)  # `locked`, and what `threading` itself asks for

    def __repr__(self) -> str:
        return f"<penstock's watched {self._lock!r}>"


class WatchedRLock(WatchedLock):
    """The same for `threading.RLock`."""

    _kind = "RLock"
    _make: Any = staticmethod(threading.RLock)

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0  # touched by the holder only

    def _note(self) -> None:
        self._depth += 1
        if self._depth == 1:
            super()._note()

    def _forget(self) -> None:
        if self._lock._is_owned():  # else the release raises
            self._depth -= 1
            if self._depth == 0:
                super()._forget()

    # What a `threading.Condition` does around its wait.

    def _release_save(self) -> Any:
        depth, self._depth = self._depth, 0
        super()._forget()
        return depth, self._lock._release_save()

    def _acquire_restore(self, state: Any) -> None:
        depth, inner = state
        self._lock._acquire_restore(inner)
        super()._note()
        self._depth = depth


def watch() -> None:
    """From now on `threading` makes watched locks, and a task that parks is looked at. Called at import."""
    threading.Lock = WatchedLock  # type: ignore[assignment]
    threading.RLock = WatchedRLock  # type: ignore[assignment]
    _core._watch_locks(refuse)


def refuse(task: int, call: str) -> None:
    """`task` is about to park in `call`: raise if it holds a lock."""
    locks = list(_held.get(task, {}).values())
    if locks:
        shown = ", ".join(f"a threading.{lock._kind} taken at {lock._taken_at}" for lock in locks)
        raise RuntimeError(
            f"{call} would park a task that holds {shown}: another task that wants it would block this "
            "thread, and its holder with it"
        )
