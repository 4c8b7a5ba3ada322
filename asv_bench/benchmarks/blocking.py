"""What a call on another thread costs that is waited for, beside ThreadPoolExecutor's.

Each side is a function of a count that returns the nanoseconds it took, its loop included. A call does
nothing: what is left is the way there and back.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from time import perf_counter_ns as now
from time import sleep


def round_trips(call, count):
    """One call after the other."""
    start = now()
    for _ in range(count):
        call()
    return now() - start


def burst(executor, count):
    """All calls at once, then all results."""
    start = now()
    futures = [executor.submit(int) for _ in range(count)]
    for future in futures:
        future.result()
    return now() - start


def blocking_in_a_thread(count):
    """`penstock.blocking` from an ordinary thread."""
    from penstock import blocking

    return round_trips(lambda: blocking(int), count)


def blocking_in_a_task(count):
    """`penstock.blocking` from a task, which parks each time."""
    from penstock import blocking, go

    return go(round_trips, lambda: blocking(int), count).result()


def thread_pool(count):
    """`submit` and `result` of the standard executor with one thread."""
    with ThreadPoolExecutor(1) as executor:
        return round_trips(lambda: executor.submit(int).result(), count)


def executor(count):
    """The same with ours."""
    from penstock import Executor

    with Executor(1) as ours:
        return round_trips(lambda: ours.submit(int).result(), count)


def burst_thread_pool(count):
    """A burst on the standard executor with one thread."""
    with ThreadPoolExecutor(1) as standard:
        return burst(standard, count)


def burst_executor(count):
    """The same with ours."""
    from penstock import Executor

    with Executor(1) as ours:
        return burst(ours, count)


def unannounced(count, *, seconds=1.0):
    """Plain tasks that block without saying so, all at once: each takes its thread with it."""
    from penstock import go

    start = now()
    for task in [go(sleep, seconds) for _ in range(count)]:
        task.result()
    return now() - start


def sleeping_threads(count, *, seconds=1.0):
    """As many threads, started and joined."""
    threads = [Thread(target=sleep, args=(seconds,)) for _ in range(count)]
    start = now()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return now() - start


SIDES = {
    "blocking in a thread": blocking_in_a_thread,
    "blocking in a task": blocking_in_a_task,
    "ThreadPoolExecutor": thread_pool,
    "Executor": executor,
    "burst ThreadPoolExecutor": burst_thread_pool,
    "burst Executor": burst_executor,
}


class Call:
    """Time for 1,000 calls on another thread."""

    params = tuple(SIDES)
    param_names = ("side",)

    def setup(self, side):
        from .versions import needs

        needs("blocking", "Executor")
        SIDES[side](100)

    def time_call(self, side):
        SIDES[side](1000)


class PoolThreads:
    """How the cost of 1,000 calls at once grows with the threads that make them."""

    params = (["Executor", "ThreadPoolExecutor"], [1, 4, 16, 64])
    param_names = ("side", "threads")
    count = 1000
    number = 1

    def setup(self, side, threads):
        if side == "Executor":
            from .versions import needs

            needs("Executor")
            from penstock import Executor

            self.executor = Executor(threads)
        else:
            self.executor = ThreadPoolExecutor(threads)
        burst(self.executor, self.count)  # starts the threads

    def teardown(self, side, threads):
        self.executor.shutdown()

    def time_burst(self, side, threads):
        burst(self.executor, self.count)


class BlockingTasks:
    """How the cost of 1,000 `blocking` calls grows with the tasks that make them at once."""

    params = ([1, 10, 100],)
    param_names = ("tasks",)
    count = 1000
    number = 1

    def setup(self, tasks):
        from .versions import needs

        needs("blocking", "go")
        self.time_blocking(tasks)  # starts the threads

    def time_blocking(self, tasks):
        from penstock import blocking, go

        def share():
            for _ in range(self.count // tasks):
                blocking(int)

        for task in [go(share) for _ in range(tasks)]:
            task.result()


class Unannounced:
    """Time for 1,000 tasks in ``time.sleep(1)`` that nobody was told of, and for as many threads."""

    params = (["tasks", "threads"],)
    param_names = ("side",)
    number = 1
    timeout = 120

    def setup(self, side):
        if side == "tasks":
            from .versions import needs

            needs("go")

    def time_sleep(self, side):
        (unannounced if side == "tasks" else sleeping_threads)(1000)
