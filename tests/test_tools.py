"""Tools that watch a program line by line: they see what tasks do, whichever stack and thread they go on on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

# Lines are counted from here. Each one is run, but for those that say so.
TRACED = """
from penstock import *
from threading import Event

channel = Channel()
asleep_too = Channel()


def receives(n):
    n += 1
    value = channel.recv()
    if value:
        n += 1
    else:
        n = "never"
    yield_now()
    return n


def sends():
    channel.send(1)
    sleep(0.001)
    return 3


def sleeps(seconds):
    sleep(seconds)
    return inner(seconds)


def inner(seconds):
    return 4


async def awaits():
    await asleep(0.001)
    return 5


def blocks():
    return 6


tasks = [go(receives, 1), go(sends), go(awaits), go(sleeps, 0.01), go(sleeps, 0.02), go(sleeps, 0.03)]
tasks.append(go(blocking, blocks))
print([task.result() for task in tasks])
"""


@pytest.mark.parametrize("parking", ["fiber", "thread"])
def test_coverage_sees_each_line_of_a_task(run_program: Any, tmp_path: Path, parking: str) -> None:
    settings = tmp_path / "settings"
    settings.write_text("[run]\nconcurrency = thread, greenlet\n")
    program, report = tmp_path / "program.py", tmp_path / "report.json"
    source = TRACED.replace("Event\n", f"Event\nconfigure(parking={parking!r})\n", 1)
    program.write_text(source)
    ended = run_program(
        f"""
        import json, subprocess
        def coverage(*arguments):
            command = [sys.executable, "-m", "coverage", *arguments, "--rcfile", {str(settings)!r}]
            return subprocess.run(command, cwd={str(tmp_path)!r}, check=True, capture_output=True, text=True).stdout
        print(coverage("run", {str(program)!r}) , end="")
        coverage("json", "-o", {str(report)!r})
        """
    )
    assert ended.stdout == "[3, 3, 5, 4, 4, 4, 6]\n"
    (seen,) = json.loads(report.read_text())["files"].values()
    lines = source.splitlines()
    assert [lines[number - 1].strip() for number in seen["missing_lines"]] == ['n = "never"']


def test_trace_of_the_standard_library_counts_each_line_of_a_task(run_program: Any, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TRACED)
    run_program(
        f"""
        import trace
        program = compile(open({str(program)!r}).read(), {str(program)!r}, "exec")
        tracer = trace.Trace(count=True, trace=False)
        names = {{"__name__": "program", "__file__": {str(program)!r}}}  # it looks where that is
        tracer.runctx(program, names, names)
        counts = {{line: times for (file, line), times in tracer.results().counts.items() if file == {str(program)!r}}}
        lines = open({str(program)!r}).read().splitlines()
        def times(text):
            return [counts.get(number) for number, line in enumerate(lines, 1) if line.strip() == text]
        print(times("return 3"), times("return n"), times("return 5"), times("return 4"), times("return 6"),
              times('n = "never"'), times("return inner(seconds)"))
        """,
        stdout="[3, 3, 5, 4, 4, 4, 6]\n[1] [1] [1] [3] [1] [None] [3]\n",
    )


# What debugpy does in a program that runs: it sets a trace function in all threads, from a thread of its own.
ATTACH = """
import penstock
from penstock import *
seen = {"called": [], "starts": [], "steps": []}
def line(frame):
    name, number = frame.f_code.co_name, frame.f_lineno - frame.f_code.co_firstlineno
    if name in seen and frame.f_code.co_filename == "<string>":
        seen[name].append(number)
channel = Channel()
def called(n):
    n += 1
    return n
def goes_on():
    n = channel.recv()
    return called(n)
async def steps():
    n = await channel.arecv()
    return called(n)
def starts():
    n = channel.recv()
    n += 1
    return n
parked = [go(goes_on), go(steps)]
wait_until(lambda: channel.stats().recv_waits == 2)
ATTACH
attacher = threading.Thread(target=attach)
attacher.start()
attacher.join()
new = go(starts)
for n in range(3):
    channel.send(n)
print(sorted(task.result(timeout=30) for task in parked), new.result(timeout=30))
print(seen["called"], seen["starts"])
detach()
"""
BY_SETTRACE = """
def trace(frame, event, argument):
    if event == "line":
        line(frame)
    return trace
def attach():
    threading.settrace_all_threads(trace)
def detach():
    threading.settrace_all_threads(None)
"""
BY_MONITORING = """
monitoring = sys.monitoring
def on_line(code, number):
    line(sys._getframe(1))
def attach():
    monitoring.use_tool_id(monitoring.DEBUGGER_ID, "test")
    monitoring.register_callback(monitoring.DEBUGGER_ID, monitoring.events.LINE, on_line)
    monitoring.set_events(monitoring.DEBUGGER_ID, monitoring.events.LINE)
def detach():
    monitoring.set_events(monitoring.DEBUGGER_ID, 0)
    print(seen["steps"])
"""


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="3.11 has no way to set a trace function in all threads"
)
@pytest.mark.parametrize("parking", ["fiber", "thread"])
@pytest.mark.parametrize("way", ["settrace", "monitoring"])
def test_a_debugger_that_attaches_sees_what_parked_and_new_tasks_do_from_then_on(
    run_program: Any, way: str, parking: str
) -> None:
    source = ATTACH.replace("ATTACH", BY_SETTRACE if way == "settrace" else BY_MONITORING)
    said = run_program(
        f"import penstock\npenstock.configure(parking={parking!r}, workers=1)\n{source}"
    ).stdout
    results, seen, *parked = said.splitlines()
    assert results == "[1, 2] 3"
    assert seen == "[1, 2, 1, 2] [1, 2, 3]"
    # A frame that was there before has no trace function; `sys.monitoring` sees a coroutine's.
    assert parked == (["[2]"] if way == "monitoring" else [])
