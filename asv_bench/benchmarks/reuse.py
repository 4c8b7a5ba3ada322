"""What each stage of the three-stage reuse is worth to a service, by itself and together.

The service keeps a heap of 300,000 objects, and answers requests one after the other. Each takes two pieces
of memory, fills the head of them, and leaves cyclic garbage behind. The stages: buffers are pooled and made
before the first request (`warm`); a scope returns them, whatever the request forgot (`scope`); collections
wait for the service to be idle, and leave the heap alone (`manage_gc`). "fresh" is a ``bytearray`` each time
and the interpreter's own collections.
"""

import gc
from contextlib import nullcontext
from time import perf_counter_ns as now

HEAP = 300_000
NBYTES = 64 * 1024
STAGES = {
    "fresh": None,
    "pooled": (),
    "warm": ("warm",),
    "scope": ("scope",),
    "manage_gc": ("manage_gc",),
    "all three": ("warm", "scope", "manage_gc"),
}
NEEDS = {
    "warm": ("BufferPool.warm",),
    "scope": ("BufferPool.scope",),
    "manage_gc": ("manage_gc", "GcPolicy"),
}


def leave_garbage():
    """Cycles that only a collection finds, as callbacks and exceptions leave them."""
    for _ in range(10):
        cycle = []
        cycle.append(cycle)


def answer_fresh():
    """Answer with memory that is made for the request."""
    head, body = bytearray(NBYTES), bytearray(NBYTES // 2)
    head[:5] = body[:5] = b"hello"
    leave_garbage()


def answer_pooled(pool):
    """Answer with buffers that the request releases itself."""
    with pool.acquire(NBYTES) as head, pool.acquire(NBYTES // 2) as body:
        head[:5] = body[:5] = b"hello"
        leave_garbage()


def answer_in_scope(pool):
    """Answer with buffers that go back with the request's scope."""
    with pool.scope() as scope:
        head, body = scope.acquire(NBYTES), scope.acquire(NBYTES // 2)
        head[:5] = body[:5] = b"hello"
        leave_garbage()


def serve(count, stages):
    """Answer ``count`` requests; the nanoseconds each of them took."""
    if stages is None:
        answer, managed = answer_fresh, nullcontext()
    else:
        import penstock

        pool = penstock.BufferPool()
        answer_with = answer_in_scope if "scope" in stages else answer_pooled
        if "warm" in stages:
            pool.warm(NBYTES, 2)
            pool.warm(NBYTES // 2, 2)
        managed = penstock.manage_gc(penstock.GcPolicy()) if "manage_gc" in stages else nullcontext()

        def answer():
            answer_with(pool)

    took = []
    gc.collect()
    with managed:
        for _ in range(count):
            start = now()
            answer()
            took.append(now() - start)
    return took


class Stages:
    """Of 5,000 requests the mean, the worst and the first, and the peak memory, by the stages in use."""

    params = (list(STAGES),)
    param_names = ("stages",)
    count = 5_000
    timeout = 120

    def setup(self, stages):
        self.heap = [[number] for number in range(HEAP)]
        from .versions import needs

        names = STAGES[stages]
        if names is not None:
            needs("BufferPool", *(need for name in names for need in NEEDS[name]))

    def track_mean_us(self, stages):
        return sum(serve(self.count, STAGES[stages])) / self.count / 1000

    def track_worst_us(self, stages):
        return max(serve(self.count, STAGES[stages])) / 1000

    def track_first_us(self, stages):
        return serve(1, STAGES[stages])[0] / 1000

    def peakmem_requests(self, stages):
        serve(self.count, STAGES[stages])


Stages.track_mean_us.unit = Stages.track_worst_us.unit = Stages.track_first_us.unit = "us"
