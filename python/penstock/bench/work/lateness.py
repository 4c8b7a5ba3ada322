"""How late a ticker is beside a load that retains objects, on a heap of a gigabyte.

A task wants to run every millisecond, as a frame, a heartbeat or a request does that must not wait. Beside
it a thread makes more objects than are on the heap and keeps them, so that the default collector, at a
quarter more each time, looks at all of it at least three times. A run with fewer full collections has no
figure. A tick that was missed during a pause counts with its own lateness: a pause of a second is a thousand.

The count is the objects on the heap before the load begins.
"""

from __future__ import annotations

import gc
import math
import sys
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Event, Thread
from time import monotonic

from . import Sides, library

TICK = 0.001  # seconds
SWITCH = (
    0.0005  # seconds: half a tick, so that the load's turns of the GIL do not hide the collector's pauses
)
BATCH = 10_000
GROWTH = 1.2  # what the load makes, as a share of what is there: 1.25 ** 3 is less than 2.2
FULL_COLLECTIONS = 3
MEANT = (
    1_000_000  # objects; on a smaller heap, of a quick run, the collector's other thresholds count as well
)
WHOLE_HEAP = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
"""Whether each collection is a full one, whatever it is called: free-threaded builds."""


def tick(ended: Event) -> list[float]:
    """By how many seconds each tick was late, until ``ended``."""
    from penstock import sleep

    late: list[float] = []
    due = monotonic() + TICK
    while not ended.is_set():
        sleep(max(0.0, due - monotonic()))
        now = monotonic()
        while due <= now:
            late.append(now - due)
            due += TICK
    return late


def retain(heap: list[object], count: int) -> None:
    """Keep ``count`` new objects."""
    starts = range(0, count, BATCH)
    heap.extend([[number] for number in range(start, min(start + BATCH, count))] for start in starts)


def lateness(count: int, *, managed: bool = True, frozen: bool = False) -> dict[str, float]:
    """The longest lateness, and the one that 99.9 in 100 ticks do not exceed, in nanoseconds."""
    penstock = library("penstock")
    full = 0

    def stopped(phase: str, info: dict[str, int]) -> None:
        nonlocal full
        full += phase == "stop" and (WHOLE_HEAP or info["generation"] == 2)

    heap: list[object] = []
    retain(heap, count)
    gc.collect()
    if frozen:
        gc.freeze()
    manager: AbstractContextManager[object] = penstock.manage_gc() if managed else nullcontext()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    try:
        with manager:
            ended, load = Event(), Thread(target=retain, args=(heap, int(count * GROWTH)))
            ticker = penstock.go(tick, ended)
            gc.callbacks.append(stopped)
            load.start()
            load.join()
            gc.callbacks.remove(stopped)
            ended.set()
            late: list[float] = sorted(ticker.result())
    finally:
        sys.setswitchinterval(interval)
        if frozen:
            gc.unfreeze()
    if not managed and not frozen and count >= MEANT and full < FULL_COLLECTIONS:
        raise AssertionError(
            f"the default collector made {full} full collections, and not {FULL_COLLECTIONS}"
        )
    return {"worst": late[-1] * 1e9, "late": late[math.ceil(0.999 * len(late)) - 1] * 1e9}


SIDES: Sides = {
    "penstock": {
        "gc": lateness,
        "gc_default": partial(lateness, managed=False),
        "gc_frozen": partial(lateness, managed=False, frozen=True),
    }
}
