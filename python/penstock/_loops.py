"""What an operation that is awaited in asyncio or trio says in the terms of that library.

Neither is imported here: where nobody else has imported a library, its loop does not run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio


class _Wait(Protocol):
    def take_back(self) -> bool:
        """Ends the wait. ``False``: a peer has ended it, and will resume the coroutine."""
        ...


def _trio() -> Any:
    """The module, which somebody has imported; without types, which nobody needs to have installed."""
    return sys.modules["trio"]


# --- asyncio ---


def call_in_asyncio(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> bool:
    """Has ``loop`` call ``function``, from any thread. ``False``: it is closed."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        if not loop.is_closed():
            raise
        return False
    return True


def steps_in_asyncio(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a task of ``loop`` is in its step on this thread: then the loop does not wait for events."""
    asyncio = sys.modules["asyncio"]
    return asyncio._get_running_loop() is loop and asyncio.current_task(loop) is not None


# --- trio ---


def is_in_trio() -> bool:
    """Whether a task of trio calls this, and not one of an asyncio loop that runs in it."""
    lowlevel = _trio().lowlevel
    if hasattr(lowlevel, "in_trio_task"):
        if not lowlevel.in_trio_task():
            return False
    else:  # an older release
        try:
            lowlevel.current_task()
        except RuntimeError:
            return False
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return True
    return asyncio.current_task() is None


def trio_token() -> Any:
    """What stands for trio's run.

    Raises:
        RuntimeError: trio does not run here, and neither does anything else that could wait.
    """
    if "trio.lowlevel" not in sys.modules or not is_in_trio():
        raise _no_loop()
    return _trio().lowlevel.current_trio_token()


def trio_task() -> Any:
    """The task that calls this."""
    return _trio().lowlevel.current_task()


def call_in_trio(token: Any, function: Callable[[], object]) -> bool:
    """Has trio call ``function``, from any thread. ``False``: its run is over."""
    try:
        token.run_sync_soon(function)
    except _trio().RunFinishedError:
        return False
    return True


def steps_in_trio(token: Any) -> bool:
    """Whether a task of that run is in its step on this thread."""
    return is_in_trio() and _trio().lowlevel.current_trio_token() is token


def reschedule_in_trio(task: Any) -> None:
    """Resumes a task that is in `wait_in_trio`."""
    _trio().lowlevel.reschedule(task)


def wait_in_trio(wait: _Wait, seconds: float | None) -> Generator[Any, Any, None]:
    """What the task steps through until somebody resumes it, or for ``seconds``."""
    return _wait_in_trio(wait, seconds).__await__()


async def _wait_in_trio(wait: _Wait, seconds: float | None) -> None:
    def abort(_: object) -> Any:
        # Where a peer was first, the call returns what it got; the cancellation comes at the next checkpoint.
        return _trio().lowlevel.Abort.SUCCEEDED if wait.take_back() else _trio().lowlevel.Abort.FAILED

    if seconds is None:
        await _trio().lowlevel.wait_task_rescheduled(abort)
    else:
        with _trio().move_on_after(seconds):
            await _trio().lowlevel.wait_task_rescheduled(abort)


def checkpoint_in_trio(done: bool) -> Generator[Any, Any, None]:
    """What trio wants of each call: it can be cancelled before it has done anything, and lets others run."""
    lowlevel = _trio().lowlevel
    checkpoint = lowlevel.cancel_shielded_checkpoint if done else lowlevel.checkpoint_if_cancelled
    steps: Generator[Any, Any, None] = checkpoint().__await__()
    return steps


# --- either ---


def sleep(seconds: float) -> Generator[Any, Any, None]:
    """What a coroutine steps through for ``seconds``.

    Raises:
        RuntimeError: no loop runs here.
    """
    library: Any
    if "trio.lowlevel" in sys.modules and is_in_trio():
        library = _trio()
    else:
        library = sys.modules.get("asyncio")
        if library is None or library._get_running_loop() is None:
            raise _no_loop()
    steps: Generator[Any, Any, None] = library.sleep(seconds).__await__()
    return steps


def _no_loop() -> RuntimeError:
    message = "penstock's awaitables need an async penstock task, or a coroutine of asyncio or trio"
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        try:
            message = f"{message}; this is one of {sniffio.current_async_library()}"
        except sniffio.AsyncLibraryNotFoundError:
            pass
    return RuntimeError(message)
