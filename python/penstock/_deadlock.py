"""Whether the main thread waits for what can never come, and who else does.

Called from there, when no scheduler has had anything to do for a second. What could still wake somebody
from outside: a thread of the program that does something else than wait here without a timeout, or a signal
handler. A deadline, a running event loop and a blocking call keep a scheduler or a thread busy, so they need
no look.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from penstock import _core
from penstock._core import Task
from penstock._threads import RuntimeThread
from penstock.exceptions import Deadlock


def find(call: str, subject: object, waiting_threads: int) -> Deadlock | None:
    """The error for the main thread, which waits in `call` on `subject`; None if something may come."""
    if _something_outside(waiting_threads):
        return None
    gc.collect()  # may close a channel, whose receivers then go on
    if _something_outside(waiting_threads):
        return None
    tasks: list[Task[Any]] = []
    lines = [
        f"every task is parked and nothing can wake one: the main thread waits in {shown(call, subject)}"
    ]
    for task, wait, frame in _parked():
        place = (
            ""
            if frame is None
            else f", at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        )
        tasks.append(task)
        lines.append(f"{task.name} waits in {wait}{place}")
    return Deadlock("\n  ".join(lines), tasks)


def _something_outside(waiting_threads: int) -> bool:
    main = threading.main_thread().ident
    ours = {thread.ident for thread in threading.enumerate() if isinstance(thread, RuntimeThread)}
    others = [ident for ident in sys._current_frames() if ident != main and ident not in ours]
    # The threads of an executor that have no call are ours as well: they wait for somebody to submit one.
    executors = sys.modules.get("penstock.executor")
    resting = 0 if executors is None else executors._exit.resting_threads()
    if resting is None:
        return True
    return len(others) - resting != waiting_threads or any(
        _may_act(number) for number in signal.valid_signals()
    )


def _may_act(number: int) -> bool:
    handler = signal.getsignal(number)
    return (
        callable(handler)
        and handler is not signal.default_int_handler
        and not isinstance(handler, signal.Handlers)
    )


def shown(call: str, subject: object) -> str:
    return call if subject is None else f"{call} on {subject!r}"


def _parked() -> Iterator[tuple[Task[Any], str, FrameType | None]]:
    """Each parked task, what it waits for, and where."""
    frames = sys._current_frames()
    idents = {thread.native_id: thread.ident for thread in threading.enumerate()}
    for task, call, subject, greenlet, thread in _core._parked_tasks():
        frame = greenlet.gr_frame if greenlet is not None else frames.get(idents.get(thread) or 0)
        yield task, shown(call, subject), frame
    for task, call, subject, frame in suspended(_all_objects()):
        yield task, shown(call, subject), frame


def suspended(objects: Iterable[object]) -> Iterator[tuple[Task[Any], str, object, FrameType | None]]:
    """Each coroutine task that is parked: in an operation that the innermost of its coroutines awaits."""
    for awaiting in objects:
        operation, frame = _SUSPENDED.get(type(awaiting), ("", ""))
        if operation:
            found = _core._wait_of(getattr(awaiting, operation))
            if found is not None:
                yield *found, getattr(awaiting, frame)


def _all_objects() -> list[object]:
    """What the collector knows, with what `gc.freeze` has taken out of its sight.

    To see that, all of it is frozen anew: with what was made since, and survived the collection just before.
    """
    frozen = gc.get_freeze_count() != 0
    if frozen:
        gc.unfreeze()
    try:
        return gc.get_objects()
    finally:
        if frozen:
            gc.freeze()


_SUSPENDED: dict[type, tuple[str, str]] = {
    CoroutineType: ("cr_await", "cr_frame"),
    AsyncGeneratorType: ("ag_await", "ag_frame"),
    GeneratorType: ("gi_yieldfrom", "gi_frame"),
}
"""Where an object that is suspended says what it awaits, and where."""
