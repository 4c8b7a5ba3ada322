"""What an operation that is awaited in asyncio or trio says in the terms of that library.

Each function is called by the compiled module, in a loop of its library or for one. So the imports in them import
nothing: where nobody else has imported a library, its loop does not run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    import trio


class _Wait(Protocol):
    def take_back(self) -> bool:
        """Ends the wait. ``False``: a peer has ended it, and will resume the coroutine."""


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
    """Whether a task of ``loop`` is in its step on this thread, so that the loop does not wait for events."""
    import asyncio

    return asyncio._get_running_loop() is loop and asyncio.current_task(loop) is not None


# --- trio ---


def is_in_trio() -> bool:
    """Whether this is called by a task of trio, and not by one of an asyncio loop that runs in it (trio-asyncio)."""
    import trio

    if not trio.lowlevel.in_trio_task():
        return False
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return True
    return asyncio.current_task() is None


def trio_token() -> trio.lowlevel.TrioToken:
    """What stands for trio's run.

    Raises:
        RuntimeError: trio does not run here, and neither does anything else that could wait.
    """
    if "trio.lowlevel" not in sys.modules or not is_in_trio():
        raise _no_loop()
    import trio

    return trio.lowlevel.current_trio_token()


def trio_task() -> trio.lowlevel.Task:
    """The task that calls this."""
    import trio

    return trio.lowlevel.current_task()


def call_in_trio(token: trio.lowlevel.TrioToken, function: Callable[[], object]) -> bool:
    """Has trio call ``function``, from any thread. ``False``: its run is over."""
    import trio

    try:
        token.run_sync_soon(function)
    except trio.RunFinishedError:
        return False
    return True


def steps_in_trio(token: trio.lowlevel.TrioToken) -> bool:
    """Whether a task of that run is in its step on this thread."""
    import trio

    return trio.lowlevel.in_trio_task() and trio.lowlevel.current_trio_token() is token


def reschedule_in_trio(task: trio.lowlevel.Task) -> None:
    """Resumes a task that is in `wait_in_trio`."""
    import trio

    trio.lowlevel.reschedule(task)


def wait_in_trio(wait: _Wait, seconds: float | None) -> Generator[Any, Any, None]:
    """What the task steps through until somebody resumes it, or for ``seconds``."""
    return _wait_in_trio(wait, seconds).__await__()


async def _wait_in_trio(wait: _Wait, seconds: float | None) -> None:
    import trio

    def abort(_: object) -> trio.lowlevel.Abort:
        # Where a peer was first, the call returns what it got, and the cancellation comes with the next checkpoint.
        return trio.lowlevel.Abort.SUCCEEDED if wait.take_back() else trio.lowlevel.Abort.FAILED

    if seconds is None:
        await trio.lowlevel.wait_task_rescheduled(abort)
    else:
        with trio.move_on_after(seconds):
            await trio.lowlevel.wait_task_rescheduled(abort)


def checkpoint_in_trio(done: bool) -> Generator[Any, Any, None]:
    """trio's rule for each of its calls: it can be cancelled before it has done anything, and lets others run."""
    import trio

    if done:
        return trio.lowlevel.cancel_shielded_checkpoint().__await__()
    return trio.lowlevel.checkpoint_if_cancelled().__await__()


# --- either ---


def sleep(seconds: float) -> Generator[Any, Any, None]:
    """What a coroutine steps through for ``seconds``.

    Raises:
        RuntimeError: no loop runs here.
    """
    if "trio.lowlevel" in sys.modules and is_in_trio():
        import trio

        return trio.sleep(seconds).__await__()
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        raise _no_loop()
    steps: Generator[Any, Any, None] = asyncio.sleep(seconds).__await__()
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
