"""How much memory a parked task takes, its handle included, and that very many can be parked at once.

Each side is a function of a count that returns the bytes by which the process grew (its resident set)
while so many tasks were started and came to wait. All of them wait on one channel or future and are
counted there before the figure is taken, so that the count is also how many were parked at once; then all
are let go, and waited for. Ask each in a process of its own: memory that an earlier one has given back
would be used again.
"""

from contextvars import ContextVar

from .work.parked import parked_asyncio, parked_penstock, receiving_async

PATIENCE = 300.0  # seconds until all have parked

mark = ContextVar("mark")


def parked_penstock_async(count, *, own_context=False):
    """Tasks of an ``async def``."""
    return parked_penstock(count, make=receiving_async, own_context=own_context)


class Parked:
    """Bytes for each parked task: 10,000 plain ones, 100,000 of the others."""

    params = (["plain", "async def", "async def, own context", "asyncio.Task"],)
    param_names = ("kind",)
    unit = "bytes"
    number = 1
    timeout = 300

    def setup(self, kind):
        if kind != "asyncio.Task":
            from .versions import needs

            needs("go", "Channel")

    def track_bytes(self, kind):
        count = 10_000 if kind == "plain" else 100_000
        if kind == "plain":
            return parked_penstock(count) / count
        if kind == "asyncio.Task":
            return parked_asyncio(count) / count
        return parked_penstock_async(count, own_context="own" in kind) / count


class AtOnce:
    """Bytes for each parked task where there are as many as ever: 100,000 plain ones, a million others."""

    params = (["plain", "async def", "async def, own context"],)
    param_names = ("kind",)
    unit = "bytes"
    number = 1
    timeout = 600

    def setup(self, kind):
        from .versions import needs

        needs("go", "Channel")

    def track_bytes(self, kind):
        if kind == "plain":
            return parked_penstock(100_000) / 100_000
        return parked_penstock_async(1_000_000, own_context="own" in kind) / 1_000_000
