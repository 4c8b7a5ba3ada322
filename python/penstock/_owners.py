"""Numbers and names for those who take locks and are no tasks of ours: threads, and event loops' tasks."""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from typing import Any

_next = itertools.count(1)
_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""Of the tasks of event loops that have taken a lock. A task's number is set by the task itself."""


def loop_task_here() -> int | None:
    """The number of the task that asyncio or trio runs on this thread now; None where neither does."""
    task = _running()
    if task is None:
        return None
    number = _numbers.get(task)
    if number is None:
        number = _numbers[task] = next(_next)
    return number


def _running() -> Any:
    # A library that nobody has imported runs no loop.
    if asyncio := sys.modules.get("asyncio"):
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is not None:
            return task
    if trio := sys.modules.get("trio"):
        try:
            return trio.lowlevel.current_task()
        except RuntimeError:
            return None
    return None


def loop_task_name(number: int) -> str:
    """What the task with that number is called."""
    for task, known in list(_numbers.items()):
        if known == number:
            name = task.get_name() if hasattr(task, "get_name") else getattr(task, "name", "")
            return f"event loop task {name!r}"
    return "an event loop's task that is gone"


def thread_name(number: int) -> str:
    """What the thread with that number of the kernel's is called."""
    for thread in threading.enumerate():
        if thread.native_id == number:
            return f"thread {thread.name!r}"
    return f"a thread that is gone ({number})"
