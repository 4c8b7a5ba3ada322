"""A line for each task of a runtime, behind those for its workers and threads: ``schedtrace=N,detail``."""

from __future__ import annotations

import gc
import os

from penstock import _core
from penstock._deadlock import shown, suspended


def show(scheduler: int) -> None:
    """Write them to the standard error, in one write.

    Tasks that are queued are not among them, and coroutines are found by way of the collector: one that
    `gc.freeze` has frozen is not either.
    """
    lines: list[tuple[int, str]] = []
    for task, call, subject, machine in _core._on_stacks(scheduler):
        state = "running" if call is None else f"waiting in {shown(call, subject)}"
        lines.append((task.id, f"{state} machine={machine} name={task.name}"))
    for task, call, subject, _frame in suspended(gc.get_objects()):
        if _core._is_of(task, scheduler):
            lines.append((task.id, f"waiting in {shown(call, subject)} machine=none name={task.name}"))
    text = "".join(f"  G{number}: {line}\n" for number, line in sorted(lines))
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # there is nobody to tell that the standard error is closed
