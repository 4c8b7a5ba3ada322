"""What the objects that a program keeps cost its tasks, beside asyncio's.

The collector looks at all of them now and then, and how often depends on how many objects tasks make: half
of what an asyncio task costs on a large heap is spent there. The collector stays on, on both sides.
"""

import gc

from .task import spawn_asyncio, spawn_penstock


class Heap:
    """How the time for 20,000 empty tasks grows with the objects alive beside them."""

    params = (["penstock", "asyncio.gather"], [0, 100_000, 1_000_000, 4_000_000])
    param_names = ("side", "objects")
    count = 20_000
    number = 1

    def setup(self, side, objects):
        if side == "penstock":
            from .versions import needs

            needs("go")
        self.run = {"penstock": spawn_penstock, "asyncio.gather": spawn_asyncio}[side]
        gc.disable()
        self.kept = [[] for _ in range(objects)]
        gc.enable()
        gc.collect()

    def time_spawn(self, side, objects):
        self.run(self.count)
