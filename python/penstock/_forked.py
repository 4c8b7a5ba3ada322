"""What our Python modules have to know of forks, and the end of a child in which a task went on.

A forked child has the memory of threads that do not exist there: a lock of ours may be held by one of
them, for ever. So an object with such a lock compares `forks` with the number that was right when it was
made, before it takes the lock.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn

forks: int = 0
"""How many forks lie between this process and the one that first imported penstock."""
adopting: threading.Lock = threading.Lock()
"""Held while something of the parent's is made the child's own."""


def _entered_child() -> None:
    global forks, adopting  # noqa: PLW0603 - the parent's lock may be held
    forks += 1
    adopting = threading.Lock()


os.register_at_fork(after_in_child=_entered_child)


def end_child(error: BaseException | None) -> NoReturn:
    """End the process as a program ends: errors shown, exit handlers run, streams flushed.

    Not by the interpreter's own finalization, which goes back to the state of the main thread: that of the
    parent's, which was freed at the fork where a task of another thread forked.
    """
    status = 0
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            status = error.code
        elif error.code is not None:
            print(error.code, file=sys.stderr)  # noqa: T201 - as the interpreter shows it
            status = 1
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined] # waits for the threads that the child started
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass  # there is none, or it is closed
        os._exit(status & 0xFF)
