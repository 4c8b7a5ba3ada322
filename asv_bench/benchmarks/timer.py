"""What waiting for the time costs: many that sleep at once, and a deadline that is not reached."""

import asyncio
import itertools


def sleep_penstock(count):
    """``async def`` tasks that all sleep 1 ms."""
    from penstock import Group, asleep, go

    def start():
        with Group() as group:
            for _ in itertools.repeat(None, count):
                group.go(asleep, 0.001)

    go(start).result()


def sleep_asyncio(count):
    """The same in an asyncio loop."""

    async def start():
        await asyncio.gather(*(asyncio.sleep(0.001) for _ in itertools.repeat(None, count)))

    asyncio.run(start())


class Sleepers:
    """How the time for so many sleeps of 1 ms, all at once, grows."""

    params = (["penstock.asleep", "asyncio.sleep"], [100, 10_000, 100_000])
    param_names = ("side", "count")
    number = 1

    def setup(self, side, count):
        if side.startswith("penstock"):
            from .versions import needs

            needs("asleep", "Group")
        self.run = {"penstock.asleep": sleep_penstock, "asyncio.sleep": sleep_asyncio}[side]

    def time_sleep(self, side, count):
        self.run(count)


def deadlines_penstock(count):
    """From inside one task."""
    from penstock import go, timeout

    def enter():
        for _ in itertools.repeat(None, count):
            with timeout(60):
                pass

    go(enter).result()


def deadlines_asyncio(count):
    """``asyncio.timeout``."""

    async def enter():
        for _ in itertools.repeat(None, count):
            async with asyncio.timeout(60):  # noqa: ASYNC100 what is in it is not the question
                pass

    asyncio.run(enter())


class Deadline:
    """Time for 10,000 blocks under a deadline that is not reached."""

    params = (["penstock.timeout", "asyncio.timeout"],)
    param_names = ("side",)
    count = 10_000

    def setup(self, side):
        if side.startswith("penstock"):
            from .versions import needs

            needs("timeout")
        self.run = deadlines_penstock if side.startswith("penstock") else deadlines_asyncio

    def time_block(self, side):
        self.run(self.count)
