"""What a task costs from its creation to its end, beside asyncio's and the thread pool's.

Each side is a function of a count that returns the nanoseconds it took, its loop included. Handles
are kept until the clock has stopped and dropped after it; the collector stays on. Every side waits for each
of its tasks, as Go's waits on a WaitGroup.
"""

import gc
from contextvars import ContextVar
from time import perf_counter_ns as now

from .work.task import empty, empty_coroutine, spawn_asyncio, spawn_executor, spawn_penstock

WORKERS = 2  # threads of the thread pool, as many as the other sides have workers

mark = ContextVar("mark")


def spawn_group(count, *, fn=empty):
    """Spawn into a group, which waits for its children when it is left."""
    from penstock import Group, go

    def spawn():
        start = now()
        with Group() as group:
            handles = [group.go(fn) for _ in range(count)]
        elapsed = now() - start
        del handles
        return elapsed

    return go(spawn).result()


class Spawn:
    """Time to spawn, run and finish 100,000 empty tasks from inside one, by the creator's context."""

    params = (["penstock", "asyncio.gather"], ["empty", "one variable"])
    param_names = ("side", "context")
    count = 100_000
    number = 1

    def setup(self, side, context):
        if side == "penstock":
            from .versions import needs

            needs("go")
        self.run = {"penstock": spawn_penstock, "asyncio.gather": spawn_asyncio}[side]
        gc.collect()

    def time_spawn(self, side, context):
        self.run(self.count, own_context=context == "one variable")


class Tasks:
    """How the cost of tasks grows with how many there are at once: time, and the process's peak memory."""

    params = ([1_000, 10_000, 100_000, 1_000_000],)
    param_names = ("count",)
    number = 1
    timeout = 120

    def setup(self, count):
        from .versions import needs

        needs("go")
        gc.collect()

    def time_spawn(self, count):
        spawn_penstock(count)

    def peakmem_spawn(self, count):
        spawn_penstock(count)


class SpawnForms:
    """Time for the same 100,000 tasks by what is spawned and who waits, the thread pool beside."""

    params = (["go of a function", "go of an async def", "Group", "ThreadPoolExecutor"],)
    param_names = ("form",)
    count = 100_000
    number = 1

    def setup(self, form):
        if form != "ThreadPoolExecutor":
            from .versions import needs

            needs("go", *["Group"] * (form == "Group"))
        gc.collect()

    def time_spawn(self, form):
        if form == "go of a function":
            spawn_penstock(self.count)
        elif form == "go of an async def":
            spawn_penstock(self.count, fn=empty_coroutine)
        elif form == "Group":
            spawn_group(self.count)
        else:
            spawn_executor(self.count)
