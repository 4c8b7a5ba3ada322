"""What a select costs that finds a case ready, beside what asyncio offers for it.

Each side is a function of a count that returns the nanoseconds it took, its loop included. A turn makes one
of the cases ready, each in its turn, and selects over all of them: on the side of Go too.
"""

from .work.selects import ready_asyncio, ready_penstock


class Ready:
    """Time for 10,000 selects over four cases of which one is ready."""

    params = (["penstock.select", "asyncio.wait"],)
    param_names = ("side",)
    count = 10_000

    def setup(self, side):
        if side == "penstock.select":
            from .versions import needs

            needs("go", "Channel", "select")
        self.run = {"penstock.select": ready_penstock, "asyncio.wait": ready_asyncio}[side]

    def time_ready(self, side):
        self.run(self.count)


class Cases:
    """Time for one select over so many cases of which one is ready, a send on its channel included."""

    params = ([1, 2, 4, 8, 9, 16, 64, 256, 1000],)
    param_names = ("cases",)

    def setup(self, cases):
        from .versions import needs

        needs("Channel", "select")
        from penstock import Channel, select

        self.select = select
        self.channels = [Channel(1) for _ in range(cases)]
        self.send = self.channels[cases // 2].send

    def time_select(self, cases):
        self.send(None)
        self.select(*self.channels)


class Waiting:
    """Time for 2,000 selects over so many cases that each wait to be served by another task."""

    params = ([1, 4, 100],)
    param_names = ("cases",)
    count = 2_000

    def setup(self, cases):
        from .versions import needs

        needs("go", "Channel", "select")
        from penstock import Channel

        self.channels = [Channel(0) for _ in range(cases)]

    def time_waiting(self, cases):
        from penstock import go, select

        def serve():
            send = self.channels[cases // 2].send
            for _ in range(self.count):
                send(None)

        def choose():
            for _ in range(self.count):
                select(*self.channels)

        tasks = [go(choose), go(serve)]
        for task in tasks:
            task.result()
