"""Awaiting a task or a sleep in an asyncio coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock._core import Task


def wait(task: Task[Any] | None, timeout: float | None) -> Iterator[Any]:
    """What ``await`` steps through in a loop: until ``task`` has ended, or for ``timeout`` seconds.

    Raises:
        RuntimeError: no event loop runs here.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        message = "penstock's awaitables need an async penstock task or a running asyncio loop"
        raise RuntimeError(message) from None
    if task is None:
        return asyncio.sleep(timeout or 0).__await__()
    ended = loop.create_future()

    def settle() -> None:
        if not ended.done():
            ended.set_result(None)

    def wake(_: Task[Any]) -> None:
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            pass  # the loop was closed meanwhile, and its coroutine with it

    task.add_done_callback(wake)
    if timeout is not None:
        loop.call_later(timeout, settle)
    return ended.__await__()
