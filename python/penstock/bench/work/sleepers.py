"""What it costs that very many tasks block for a second without saying so."""

from __future__ import annotations

from threading import Thread
from time import perf_counter_ns as now
from time import sleep

from . import Sides

SECONDS = 1.0


def unannounced(count: int) -> int:
    """Plain tasks that block all at once: each takes its thread with it."""
    from penstock import go

    start = now()
    for task in [go(sleep, SECONDS) for _ in range(count)]:
        task.result()
    return now() - start


def sleeping_threads(count: int) -> int:
    """As many threads, started and joined."""
    threads = [Thread(target=sleep, args=(SECONDS,)) for _ in range(count)]
    start = now()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return now() - start


SIDES: Sides = {"penstock": {"sleepers": unannounced}, "stdlib": {"sleepers": sleeping_threads}}
