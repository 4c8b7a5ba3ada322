"""The error tree.

Errors are a `PenstockError` and the standard class that a user would catch. `Cancelled` is no error:
it is how a task learns that it should end, and like `KeyboardInterrupt` it passes ``except Exception``.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock._core import Task

__all__ = ["BarrierTimeout", "Cancelled", "ChannelClosed", "Deadlock", "Empty", "Full", "PenstockError"]


class PenstockError(Exception):
    """The base of all errors that penstock raises of its own."""


class ChannelClosed(PenstockError):
    """The channel is closed: nothing can be sent, and what was in it has been received."""


class Full(PenstockError, queue.Full):
    """The channel has no room now; also a `queue.Full`."""


class Empty(PenstockError, queue.Empty):
    """The channel has nothing now; also a `queue.Empty`."""


class BarrierTimeout(PenstockError, threading.BrokenBarrierError, TimeoutError):
    """A wait at a barrier took longer than its ``timeout=``, and so the barrier is broken."""


class Deadlock(PenstockError, RuntimeError):
    """Every task is parked and nothing outside could wake one; also a ``RuntimeError``.

    Raised in the main thread, by any of its waits without a timeout, once nothing has happened for a second.
    The message names each parked task, what it waits for and where; `tasks` is the list of them. Switched off
    by ``PENSTOCK_DEADLOCK=off``, for programs whose tasks are woken by threads that Python does not know.
    """

    def __init__(self, message: str = "", tasks: list[Task[Any]] | None = None) -> None:
        super().__init__(message)
        self.tasks: list[Task[Any]] = tasks or []

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self.args)  # the tasks run in their own process only


class Cancelled(BaseException):
    """Raised in a task that was cancelled, and by ``result()`` of one that ended so."""
