"""The log's line about a task that keeps the thread on which others are parked."""

from __future__ import annotations

import logging
import sys
import threading

from penstock._core import Task

_logger = logging.getLogger("penstock")


def report(task: Task[object], native_id: int, waiting: int, limit: float) -> None:
    """`task` has kept the thread of that number for more than `limit` seconds; `waiting` are parked there."""
    frames = sys._current_frames()
    idents = (thread.ident for thread in threading.enumerate() if thread.native_id == native_id)
    frame = next((frames[ident] for ident in idents if ident in frames), None)
    code = None if frame is None else frame.f_code
    place = (
        "" if frame is None or code is None else f" at {code.co_filename}:{frame.f_lineno} in {code.co_name}"
    )
    others = "1 parked task has" if waiting == 1 else f"{waiting} parked tasks have"
    _logger.warning(
        "%s has kept its thread for more than %g s%s: %s to wait for it (PENSTOCK_STALL sets the limit)",
        task.name,
        limit,
        place,
        others,
    )
