"""What a task costs from its creation to its end.

Handles are kept until the clock has stopped, where there are any; the collector stays on. Every side waits
for each of its tasks, as Go's waits on a WaitGroup.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from threading import Thread
from time import perf_counter_ns as now
from typing import Any

from . import Sides, library

THREADS = 2  # of the thread pool: as many as the other sides have workers

mark = ContextVar[str]("mark")


def empty() -> None:
    """Do nothing: what is left is the cost of the task."""


async def empty_coroutine() -> None:
    """Do nothing, as a coroutine."""


def spawn_penstock(count: int, *, fn: Callable[[], Any] = empty, own_context: bool = False) -> int:
    """Spawn from inside one task. The last task is waited for first.

    A new task goes to the run-next slot and the older ones before it in the queue, so waiting from the
    last to the first parks the spawner a few times; from the first to the last would park it once per
    task, and a counter in the tasks would measure the counter.
    """
    from penstock import go

    def spawn() -> int:
        if own_context:
            mark.set("of the spawner")
        start = now()
        handles = [go(fn) for _ in range(count)]
        for handle in reversed(handles):
            handle.result()
        return now() - start

    return go(spawn).result()


def spawn_asyncio(count: int, *, own_context: bool = False, run: Callable[[Any], Any] = asyncio.run) -> int:
    """``asyncio.gather`` with the default task factory."""

    async def spawn() -> int:
        if own_context:
            mark.set("of the spawner")
        start = now()
        handles = [asyncio.ensure_future(empty_coroutine()) for _ in range(count)]
        await asyncio.gather(*handles)
        return now() - start

    elapsed: int = run(spawn())
    return elapsed


def spawn_uvloop(count: int) -> int:
    """The same in uvloop's loop."""
    return spawn_asyncio(count, run=library("uvloop").run)


def spawn_executor(count: int) -> int:
    """``ThreadPoolExecutor.submit`` with its threads already running."""
    with ThreadPoolExecutor(THREADS) as executor:
        list(executor.map(id, range(THREADS)))
        start = now()
        handles = [executor.submit(empty) for _ in range(count)]
        for handle in reversed(handles):
            handle.result()
        return now() - start


def spawn_threads(count: int) -> int:
    """A thread for each, started and joined. An empty one ends before the next has started."""
    start = now()
    threads = [Thread(target=empty) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return now() - start


def spawn_gevent(count: int) -> int:
    """``gevent.spawn`` and ``joinall``, the spawner being a greenlet itself."""
    gevent = library("gevent")

    def spawn() -> int:
        start = now()
        handles = [gevent.spawn(empty) for _ in range(count)]
        gevent.joinall(handles)
        return now() - start

    elapsed: int = gevent.spawn(spawn).get()
    return elapsed


def spawn_trio(count: int) -> int:
    """A nursery, which keeps no handles."""
    trio = library("trio")

    async def spawn() -> int:
        start = now()
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(empty_coroutine)
        return now() - start

    elapsed: int = trio.run(spawn)
    return elapsed


def spawn_anyio(count: int) -> int:
    """A task group on asyncio, which keeps no handles either."""
    anyio = library("anyio")

    async def spawn() -> int:
        start = now()
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(empty_coroutine)
        return now() - start

    elapsed: int = anyio.run(spawn)
    return elapsed


def spawn_tonio(count: int) -> int:
    """TonIO's ``spawn`` of all, awaited together."""
    from .peers import tonio_runtime

    tonio = library("tonio.colored")

    async def spawn() -> int:
        start = now()
        await tonio.spawn(*(empty_coroutine() for _ in range(count)))
        return now() - start

    elapsed: int = tonio_runtime().run_until_complete(spawn())
    return elapsed


SIDES: Sides = {
    "penstock": {
        "spawn": spawn_penstock,
        "spawn_context": partial(spawn_penstock, own_context=True),
        "spawn_async": partial(spawn_penstock, fn=empty_coroutine),
    },
    "asyncio": {"spawn": spawn_asyncio, "spawn_context": partial(spawn_asyncio, own_context=True)},
    "uvloop": {"spawn": spawn_uvloop},
    "stdlib": {"spawn": spawn_executor, "spawn_threads": spawn_threads},
    "gevent": {"spawn": spawn_gevent},
    "trio": {"spawn": spawn_trio},
    "anyio": {"spawn": spawn_anyio},
    "tonio": {"spawn": spawn_tonio},
}
