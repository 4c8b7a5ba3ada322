"""What it costs a program to use penstock at all: each time in an interpreter of its own."""


class Start:
    """Time from the start of an interpreter until it has done so much, and ended."""

    def timeraw_import(self):
        return "import penstock"

    def timeraw_import_asyncio(self):
        return "import asyncio"

    def timeraw_first_task(self):
        return "import penstock; penstock.go(int).result()"

    def timeraw_first_task_asyncio(self):
        return "import asyncio; asyncio.run(asyncio.sleep(0))"
