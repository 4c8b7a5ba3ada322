"""What a round trip between two tasks costs: two parks and two wake-ups, beside asyncio's and threads'.

Each side is a function of a count that returns the nanoseconds it took, its loop included. The first end
starts the other one before the clock, as Go's does, so a runtime may keep the two together; the other ends
by itself. Ours meet on rendezvous channels; asyncio and threads have none, so theirs are queues that never
fill, the cheapest they offer.
"""

from .work.pingpong import pingpong_asyncio, pingpong_penstock, pingpong_penstock_async, pingpong_threads


class RoundTrip:
    """Time for 5,000 round trips between two tasks."""

    params = (["plain tasks", "async def tasks", "asyncio.Queue", "threads, SimpleQueue"],)
    param_names = ("side",)
    count = 5_000
    number = 1

    def setup(self, side):
        if side in {"plain tasks", "async def tasks"}:
            from .versions import needs

            needs("go", "Channel")
        self.run = {
            "plain tasks": pingpong_penstock,
            "async def tasks": pingpong_penstock_async,
            "asyncio.Queue": pingpong_asyncio,
            "threads, SimpleQueue": pingpong_threads,
        }[side]

    def time_round_trip(self, side):
        self.run(self.count)


class Parks:
    """How often a task gives up its worker for each round trip: at least twice, once on either side."""

    params = (["plain tasks", "async def tasks"],)
    param_names = ("side",)
    count = 5_000
    unit = "parks"

    def setup(self, side):
        from .versions import needs

        needs("go", "Channel", "default_runtime")
        self.run = {"plain tasks": pingpong_penstock, "async def tasks": pingpong_penstock_async}[side]

    def track_parks(self, side):
        from penstock import default_runtime

        before = default_runtime().stats().parks
        self.run(self.count)
        return (default_runtime().stats().parks - before) / self.count
