"""What only the stack of a parked task refers to is there when the task goes on.

Without the GIL, references on the evaluation stack to functions, classes and code are not counted, and
the collector of 3.14 does not see the stack of a parked fiber. Each test parks tasks with something on the
stack, defines that anew, collects, fills the freed memory with strangers of the same shape, and resumes. It
runs as a program of its own, because what it guards against is a crash. Builds with the GIL run it too.
"""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

# `definitions` make `task`, which waits on `channel` before or inside what is defined anew.
PROGRAM = '''
import gc, weakref
import penstock

DEFINITIONS = """
{definitions}
"""
TASKS = 16

def strangers():
    made = []
    for number in range(1500):
        names = {{}}
        exec(
            "def stranger(*args):\\n  return 'stranger'\\n"
            "class Stranger:\\n  def __init__(self, *args):\\n    self.value = 'stranger'",
            names,
        )
        made.append(names)
    return made

channel = penstock.Channel(0)
for _ in range(3):
    tasks, gone = [], []
    for _ in range(TASKS):
        names = {{"channel": channel}}
        exec(DEFINITIONS, names)
        gone.append(weakref.ref(names["target"]))
        tasks.append((penstock.go(names["task"]), names))
    wait_until(lambda: channel.stats().recv_waits >= TASKS * {waits})
    for _, names in tasks:
        names.pop("task")
        names["target"] = lambda *args: "defined anew"
    for _ in range(3):
        gc.collect()
    kept = strangers()
    gc.collect()
    for value in range(TASKS):
        channel.send(value, timeout=30)
    got = sorted((task.result(timeout=30) for task, _ in tasks), key=str)
    assert got == sorted([("right", value) for value in range(TASKS)], key=str), got
    tasks.clear()
    # `names` and the loop variables are the last to hold a namespace.
    del names, kept, got, _
    wait_until(lambda: not (gc.collect(), [ref for ref in gone if ref() is not None])[1])
    channel = penstock.Channel(0)
print("right")
'''

CASES = {
    "a function as its argument is awaited": """
        def target(value):
            return ("right", value)
        def task():
            return target(channel.recv())
    """,
    "a class as its argument is awaited": """
        class target:
            def __init__(self, value):
                self.value = ("right", value)
        def task():
            return target(channel.recv()).value
    """,
    "a function that is running": """
        def target():
            value = channel.recv()
            def inner(value):
                return ("right", value)
            return inner(value)
        def task():
            return target()
    """,
    "a function in a local variable": """
        def target(value):
            return ("right", value)
        def task():
            function = target
            value = channel.recv()
            return function(value)
    """,
    "a function on the stack of a running generator": """
        def target(value):
            return ("right", value)
        def values():
            yield target(channel.recv())
        def task():
            for value in values():
                return value
    """,
    "a function below C frames": """
        def target(value):
            return ("right", value)
        def task():
            return target(max([0], key=lambda item: item) or next(map(lambda item: channel.recv(), [0])))
    """,
}


@pytest.mark.parametrize("parking", ["auto", "fiber"])
@pytest.mark.parametrize("case", CASES)
def test_a_parked_task_keeps_what_is_defined_anew_and_no_longer(
    case: str, parking: str, run_program: Any
) -> None:
    definitions = textwrap.dedent(CASES[case]).strip()
    program = textwrap.dedent(PROGRAM).format(definitions=definitions, waits=1)
    configure = f"import penstock; penstock.configure(parking={parking!r})\n"
    run_program(configure + program, stdout="right\n", limit=120)
