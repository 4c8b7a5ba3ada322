"""The end of a forked child in which a task went on as the main thread's call."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn


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
