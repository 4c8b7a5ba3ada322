"""The threads that run tasks and blocking calls."""

from __future__ import annotations

import threading

from penstock import _core


def start(machine: int, number: int) -> None:
    """Start the thread of the machine at that address.

    A `threading.Thread`, so that tracing, debuggers and `faulthandler` see it; a daemon, because exit waits
    for no task.
    """
    threading.Thread(
        target=_core._machine_main, args=(machine,), name=f"penstock-{number}", daemon=True
    ).start()


def start_blocking(number: int) -> None:
    """Start the thread for blocking calls with that number: a `threading.Thread` and a daemon, as above."""
    threading.Thread(
        target=_core._blocking_main, args=(number,), name=f"penstock-blocking-{number}", daemon=True
    ).start()
