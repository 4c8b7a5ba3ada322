"""How late a ticker is beside a load that retains objects, on a heap of a gigabyte.

A thread wants to run every millisecond, as a frame, a heartbeat or a request does that must not wait.
Beside it a task makes objects, a batch at a time, keeps nearly all of them, and sleeps for a millisecond. The
collector sees a heap that grows, and by default looks at all of it again and again. A tick that comes late
delays the next ones, and each of them counts: the longest lateness is the longest stop, and the percentile
says how much of the time was spent behind one.

The count is the objects on the heap before the load begins; it retains more than as many again, so that the
default collector makes at least three full collections. A run with fewer has no figure.
"""

from __future__ import annotations

import gc
import math
import sys
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Thread
from time import monotonic, sleep

from . import Sides, library

INTERVAL = 0.001  # seconds between ticks, and the pause of the load
SWITCH = 0.0005  # seconds: half a tick, so that the load's turns of the GIL do not hide the collector's stops
BATCH = 2_000  # objects that the load makes at a time
CYCLES = 50  # of them in cycles that nobody keeps
GROWTH = 1.4  # what the load makes, as a share of what was there
FULL_COLLECTIONS = 3
WHOLE_HEAP = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
"""Whether each collection is a full one, whatever it is called: free-threaded builds."""

Managed = AbstractContextManager[object]


class Ticker:
    """A thread that wants to run every millisecond, and notes how late it was."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._stopped = False
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()

    def _run(self) -> None:
        due = monotonic()
        while not self._stopped:
            due += INTERVAL
            early = due - monotonic()
            if early > 0:
                sleep(early)
            self.late.append(monotonic() - due)

    def percentile(self, share: float) -> float:
        """The lateness that this share of ticks does not exceed, in nanoseconds."""
        late = sorted(self.late)
        return late[min(len(late) - 1, math.ceil(share * len(late)) - 1)] * 1e9


def load(kept: list[object], count: int) -> None:
    """Make ``count`` objects in batches, keep nearly all, and sleep between batches."""
    from penstock import sleep

    for _ in range(0, count, BATCH):
        kept.append([[number] for number in range(BATCH)])
        for _ in range(CYCLES):
            cycle: list[object] = []
            cycle.append(cycle)
        sleep(INTERVAL)


def lateness(count: int, *, managed: bool = True, frozen: bool = False) -> dict[str, float]:
    """The longest lateness, and the one that 99.9 in 100 ticks do not exceed, in nanoseconds."""
    penstock = library("penstock")
    full = 0

    def stopped(phase: str, info: dict[str, int]) -> None:
        nonlocal full
        full += phase == "stop" and (WHOLE_HEAP or info["generation"] == 2)

    gc.disable()
    heap: list[object] = [[number] for number in range(count)]
    gc.enable()
    gc.collect()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    manager: Managed = penstock.manage_gc() if managed else nullcontext()
    if frozen:
        gc.freeze()
    try:
        with manager:
            gc.callbacks.append(stopped)
            with Ticker() as ticker:
                penstock.go(load, heap, int(count * GROWTH)).result()
            gc.callbacks.remove(stopped)
    finally:
        sys.setswitchinterval(interval)
        if frozen:
            gc.unfreeze()
    if not managed and not frozen and full < FULL_COLLECTIONS:
        raise AssertionError(
            f"the default collector made {full} full collections, and not {FULL_COLLECTIONS}"
        )
    return {"worst": ticker.percentile(1.0), "late": ticker.percentile(0.999)}


SIDES: Sides = {
    "penstock": {
        "gc": lateness,
        "gc_default": partial(lateness, managed=False),
        "gc_frozen": partial(lateness, managed=False, frozen=True),
    }
}
