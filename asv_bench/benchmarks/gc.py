"""How late a 1 ms ticker is beside a thread that keeps what it makes, while the collector looks at the heap.

A side is a function of a number of objects. It builds a heap of that many, collects once, and then makes
almost as many again, so that CPython's collector, at a quarter more each time, looks at the whole heap three
times. A tick that was missed because of a pause counts with its own lateness, so a pause of a second is a
thousand late ticks and not one.

Ask each side in a process of its own, and both with the same switch interval: `gc_lateness.py` does.
"""

import gc
import sys
import threading
from contextlib import nullcontext
from resource import RUSAGE_SELF, getrusage
from time import perf_counter

TICK = 0.001
SWITCH_INTERVAL = 0.0005
BATCH = 10_000
GROWTH = 1.0  # 1.25 ** 3 is 1.95: three collections of the whole heap
FEW = 200_000


def lateness_penstock(objects, **load):
    """With `penstock.manage_gc` and its defaults."""
    from penstock import manage_gc

    return lateness(objects, manage_gc, **load)


def lateness_default(objects, **load):
    """With CPython's collector as it comes."""
    return lateness(objects, nullcontext, **load)


def lateness(objects, manage, *, growth=GROWTH, cycles=0):
    """By how many seconds ticks were late, and what the collector did meanwhile.

    With each ``cycles``-th object comes a piece of garbage that only the collector can free.
    """
    from penstock import go

    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        heap = [[number] for number in range(1000, 1000 + objects)]
        gc.collect()
        with manage() as manager, Pauses() as pauses:
            ended = threading.Event()
            ticker = go(tick, ended)
            started = perf_counter()
            loader = threading.Thread(target=retain, args=(heap, int(objects * growth), cycles))
            loader.start()
            loader.join()
            took = perf_counter() - started
            ended.set()
            late = sorted(ticker.result())
            by_trigger = manager.pauses().by_trigger if manager is not None else {}
    finally:
        sys.setswitchinterval(before)
    return {
        "worst": late[-1],
        "p99.9": late[int(len(late) * 0.999)],
        "median": late[len(late) // 2],
        "ticks": len(late),
        "seconds": took,
        "whole": pauses.whole,
        "pauses": pauses.lengths,
        "by_trigger": by_trigger,
        "peak_bytes": getrusage(RUSAGE_SELF).ru_maxrss * 1024,
    }


def tick(ended):
    """The ticks' lateness, until ``ended``."""
    from penstock import sleep

    late = []
    due = perf_counter() + TICK
    while not ended.is_set():
        sleep(max(0.0, due - perf_counter()))
        now = perf_counter()
        while due <= now:
            late.append(now - due)
            due += TICK
    return late


def retain(heap, count, cycles):
    """Keep ``count`` new objects."""
    for start in range(0, count, BATCH):
        for number in range(start, min(start + BATCH, count)):
            heap.append([number])
            if cycles and number % cycles == 0:
                loop = []
                loop.append(loop)


class Pauses:
    """Measures collections as the collector tells of them."""

    def __enter__(self):
        self.lengths = []
        self.whole = 0
        gc.callbacks.append(self.note)
        return self

    def __exit__(self, *failure):
        gc.callbacks.remove(self.note)

    def note(self, phase, info):
        if phase == "start":
            self.began = perf_counter()
        else:
            self.lengths.append(perf_counter() - self.began)
            self.whole += info["generation"] == 2


class TickLateness:
    """Worst lateness of a 1 ms ticker, in milliseconds, by who manages the collector."""

    params = (["penstock.manage_gc", "default"], [FEW])
    param_names = ("side", "objects")
    unit = "ms"
    timeout = 120

    def setup(self, side, objects):
        from .versions import needs

        needs("go", "sleep", *(["manage_gc"] if side == "penstock.manage_gc" else []))

    def track_worst(self, side, objects):
        ask = lateness_penstock if side == "penstock.manage_gc" else lateness_default
        return ask(objects)["worst"] * 1000
