"""What more workers are worth: for tasks that compute, and for the cost of starting tasks.

Each side is a function of a count that returns the nanoseconds it took, its loop included. The runtime is
made before the clock starts and ended after it stopped. Without the GIL two workers compute twice as
much, and starting tasks must not get dearer with them; with it, one worker runs Python at a time.
"""

from time import perf_counter_ns as now

from .work.workers import computing_executor, computing_penstock, spawn_inside, spawn_outside

STEPS = 20_000  # of a task that computes: about a millisecond


def spawn_tree(count, *, workers, look=None):
    """Tasks that start two tasks each, until there are ``count``. One task gathers them, from the root.

    Before it ends the runtime is shown to ``look``.
    """
    from penstock import Runtime

    with Runtime(workers=workers) as runtime:
        go = runtime.go

        def branch(size):
            """The root of a tree of ``size`` tasks, itself included; the trees it starts."""
            left = (size - 1) // 2
            return [go(branch, part) for part in (left, size - 1 - left) if part]

        def gather():
            start = now()
            unseen, seen = [go(branch, count)], 0
            while unseen:
                unseen += unseen.pop().result()
                seen += 1
            elapsed = now() - start
            if seen != count:
                raise AssertionError(f"{seen} of {count} tasks ran")
            return elapsed

        elapsed = go(gather).result()
        if look is not None:
            look(runtime)
        return elapsed


class Computing:
    """Time for 100 tasks that compute a millisecond each, by how many workers run them."""

    params = (["penstock", "ThreadPoolExecutor"], [1, 2, 4, 8])
    param_names = ("side", "workers")
    count = 100
    number = 1

    def setup(self, side, workers):
        if side == "penstock":
            from .versions import needs

            needs("Runtime")
        self.run = {"penstock": computing_penstock, "ThreadPoolExecutor": computing_executor}[side]

    def time_computing(self, side, workers):
        self.run(self.count, workers=workers)


class SpawnFrom:
    """Time to start and finish 50,000 empty tasks, by who starts them and how many workers there are."""

    params = (["outside", "one task", "a tree of tasks"], [1, 2, 4, 8])
    param_names = ("place", "workers")
    count = 50_000
    number = 1

    def setup(self, place, workers):
        from .versions import needs

        needs("Runtime")
        self.run = {"outside": spawn_outside, "one task": spawn_inside, "a tree of tasks": spawn_tree}[place]

    def time_spawn(self, place, workers):
        self.run(self.count, workers=workers)


class Traffic:
    """What 50,000 tasks of a tree cause between workers, for each task: thefts, and parks of tasks."""

    params = ([1, 2, 4, 8],)
    param_names = ("workers",)
    count = 50_000
    unit = "per task"

    def setup(self, workers):
        from .versions import needs

        needs("Runtime")
        seen = []
        spawn_tree(self.count, workers=workers, look=lambda runtime: seen.append(runtime.stats()))
        (self.stats,) = seen

    def track_steals(self, workers):
        return self.stats.steals / self.count

    def track_parks(self, workers):
        return self.stats.parks / self.count
