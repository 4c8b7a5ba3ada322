"""The threads that run tasks and blocking calls."""

from __future__ import annotations

import threading

from penstock import _core


class RuntimeThread(threading.Thread):
    """A thread of ours, so that nobody takes it for one of the program's."""


def start(machine: int, name: str) -> None:
    """Start the thread of the machine at that address.

    A `threading.Thread`, so that tracing, debuggers and `faulthandler` see it; a daemon, because exit waits
    for no task.
    """
    RuntimeThread(target=_core._machine_main, args=(machine,), name=name, daemon=True).start()


def start_blocking(number: int) -> None:
    """Start the thread for blocking calls with that number: a daemon as above."""
    RuntimeThread(
        target=_core._blocking_main, args=(number,), name=f"penstock-blocking-{number}", daemon=True
    ).start()
