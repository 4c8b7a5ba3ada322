"""`Deadlock`: raised when nothing can wake the main thread, and only then. Each case is a program of its own."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from penstock import Deadlock, PenstockError


@pytest.mark.parametrize("parking", ["fiber", "thread"])
def test_it_names_every_parked_task_what_it_waits_for_and_where(run_program: Any, parking: str) -> None:
    said = run_program(f"""
import penstock
begin = sys._getframe().f_lineno
penstock.configure(parking={parking!r})
numbers = penstock.Channel(name="numbers")
def receiver():
    return numbers.recv()
def joiner(task):
    return task.result()
async def coroutine():
    async for number in numbers:
        pass
first = penstock.go(receiver)
tasks = [first, penstock.go(joiner, first), penstock.go(coroutine)]
try:
    tasks[1].result()
except penstock.Deadlock as error:
    for offset, name in ((4, 'receiver'), (6, 'joiner'), (8, 'coroutine')):
        print(f", at <string>:{{begin + offset}} in {{name}}" in str(error))
    print(error)
    print(sorted(task.id for task in error.tasks) == sorted(task.id for task in tasks))
print([task.done() for task in tasks])
""").stdout
    *at, start = said.splitlines()[:4]
    assert at == ["True", "True", "True"]
    assert start.startswith(
        "every task is parked and nothing can wake one: the main thread waits in Task.result() on <penstock.Task"
    )
    assert "waits in Channel.recv() on <penstock.Channel 'numbers'" in said
    assert "waits in Task.result() on <penstock.Task Task-" in said
    assert "waits in Channel.arecv() on <penstock.Channel 'numbers'" in said
    assert said.splitlines()[-2:] == ["True", "[False, False, False]"]


def test_a_main_thread_that_waits_alone_is_one_too(run_program: Any) -> None:
    said = run_program("""
        import penstock
        try:
            penstock.Channel().recv()
        except penstock.Deadlock as error:
            print(error.tasks, isinstance(error, RuntimeError))
    """).stdout
    assert said == "[] True\n"


def test_threads_that_wait_in_penstock_for_ever_wake_nobody(run_program: Any) -> None:
    said = run_program("""
        import penstock
        import threading
        channel = penstock.Channel()
        threads = [threading.Thread(target=channel.send, args=(n,), daemon=True) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            penstock.Channel().recv()
        except penstock.Deadlock:
            print(sorted(channel.recv() for _ in range(3)))
    """).stdout
    assert said == "[0, 1, 2]\n"


def test_a_collection_that_wakes_somebody_comes_first(run_program: Any) -> None:
    said = run_program("""
        import penstock
        import gc
        gc.disable()
        class Closes:
            def __init__(self, channel):
                self.channel, self.myself = channel, self
            def __del__(self):
                self.channel.close()
        channel = penstock.Channel()
        Closes(channel)
        print(list(channel))
    """).stdout
    assert said == "[]\n"


def test_a_group_cancels_its_children_and_leaves_with_it(run_program: Any) -> None:
    said = run_program("""
        import penstock
        channel = penstock.Channel()
        ended = []
        def child():
            try:
                channel.recv()
            finally:
                ended.append(1)
        for wait in (lambda: None, channel.recv):
            try:
                with penstock.Group() as group:
                    tasks = [group.go(child) for _ in range(3)]
                    wait()
            except penstock.Deadlock as error:
                print(len(error.tasks), [task.cancelled() for task in tasks], len(ended))
    """).stdout
    assert said == "3 [True, True, True] 3\n3 [True, True, True] 6\n"


@pytest.mark.parametrize("waiting", [False, True])
def test_threads_of_an_executor_that_have_no_call_wake_nobody(run_program: Any, waiting: bool) -> None:
    said = run_program(f"""
        import penstock
        executor = penstock.Executor(3)
        barrier = threading.Barrier(3)
        for call in [executor.submit(barrier.wait) for _ in range(3)]:
            call.result()
        channel = penstock.Channel()
        if {waiting}:
            executor.submit(channel.recv)
            wait_until(lambda: channel.stats().recv_waits == 1)
        try:
            penstock.Channel().recv()
        except penstock.Deadlock:
            print("found")
        channel.close()
    """).stdout
    assert said == "found\n"


def test_frozen_coroutines_are_named_too_and_stay_frozen(run_program: Any) -> None:
    said = run_program("""
        import gc, penstock
        numbers = penstock.Channel(name="numbers")
        async def receiver():
            return await numbers.arecv()
        tasks = [penstock.go(receiver) for _ in range(2)]
        wait_until(lambda: numbers.stats().recv_waits == 2)
        gc.freeze()
        frozen = gc.get_freeze_count()
        try:
            tasks[0].result()
        except penstock.Deadlock as error:
            print({task.id for task in error.tasks} == {task.id for task in tasks})
        print(gc.get_freeze_count() >= frozen > 0)
    """).stdout
    assert said == "True\nTrue\n"


OUTSIDE = {
    "a deadline": "penstock.go(lambda: (penstock.sleep(1.6), channel.send(1)))",
    "a timeout": """
def waits_a_while():
    try:
        penstock.Channel().recv(timeout=1.6)
    except TimeoutError:
        channel.send(1)
penstock.go(waits_a_while)""",
    "a thread": "threading.Thread(target=lambda: (time.sleep(1.6), channel.send(1))).start()",
    "a thread that waits with a timeout": """
def waits_a_while():
    penstock.sleep(1.6)
    channel.send(1)
threading.Thread(target=waits_a_while).start()""",
    "a task that blocks its thread": "penstock.go(lambda: (time.sleep(1.6), channel.send(1)))",
    "a blocking call": "penstock.go(lambda: (penstock.blocking(time.sleep, 1.6), channel.send(1)))",
    "a deadline around the wait": """
try:
    with penstock.timeout(1.6):
        channel.recv()
except TimeoutError:
    channel = penstock.Channel(1)
    channel.send(1)""",
    "another runtime": """
runtime = penstock.Runtime(name="other")
runtime.go(lambda: (penstock.sleep(1.6), channel.send(1)))""",
    "a signal handler": """
signal.signal(signal.SIGALRM, lambda *_: channel.send_nowait(1) if len(channel) == 0 else None)
channel = penstock.Channel(1)
signal.setitimer(signal.ITIMER_REAL, 1.6)""",
    "a call of an executor": """
executor = penstock.Executor(2)
executor.submit(int).result()
executor.submit(lambda: (time.sleep(1.6), channel.send(1)))""",
    "an event loop": """
async def loop():
    await asyncio.sleep(1.6)
    channel.send_nowait(1)
channel = penstock.Channel(1)
threading.Thread(target=asyncio.run, args=(loop(),)).start()""",
}


@pytest.mark.parametrize("source", OUTSIDE)
def test_it_is_not_raised_while_something_outside_may_come(run_program: Any, source: str) -> None:
    program = "import asyncio, penstock, signal\nchannel = penstock.Channel()\n" + OUTSIDE[source]
    assert run_program(program + "\nprint(channel.recv())").stdout == "1\n"


def test_it_can_be_switched_off(run_program: Any) -> None:
    program = """
        import ctypes, penstock
        channel = penstock.Channel(1)
        library = ctypes.CDLL(None)
        # Nobody but a clock of the kernel's wakes this one: SIGALRM by its default action ends the process.
        library.alarm(2)
        channel.recv()
    """
    run_program(program, returncode=1, stderr=None)  # the deadlock came first
    run_program(program, env={"PENSTOCK_DEADLOCK": "off"}, returncode=-14)
    bad = run_program("import penstock", env={"PENSTOCK_DEADLOCK": "no"}, returncode=1, stderr=None)
    assert 'ValueError: PENSTOCK_DEADLOCK must be "on" or "off", not \'no\'' in bad.stderr


def test_a_wait_with_a_timeout_just_times_out(run_program: Any) -> None:
    said = run_program("""
        import penstock
        try:
            penstock.Channel().recv(timeout=1.5)
        except TimeoutError:
            print("timed out")
    """).stdout
    assert said == "timed out\n"


def test_the_command_line_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text("import penstock\ndef main():\n    penstock.Channel().recv()\n")
    finished = subprocess.run(
        [sys.executable, "-m", "penstock", "run", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 1
    assert "Deadlock: every task is parked" in finished.stderr
    assert "program.py:3 in main" in finished.stderr


def test_it_is_an_error_of_both_trees_and_pickles_without_the_tasks() -> None:
    error = Deadlock("nothing moves", [])
    assert isinstance(error, PenstockError)
    assert isinstance(error, RuntimeError)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.args, copy.tasks) == (("nothing moves",), [])


def test_ctrl_c_while_the_main_thread_looks_for_a_deadlock_is_raised(run_program: Any) -> None:
    """The search runs Python code, which may be where the signal is seen."""
    run_program(
        """
        import signal, penstock, penstock._deadlock
        def find(*arguments):
            signal.raise_signal(signal.SIGINT)
            for _ in range(1000):
                pass
            raise AssertionError
        penstock._deadlock.find = find
        try:
            penstock.Channel().recv()
        except KeyboardInterrupt:
            print("raised")
        """,
        stdout="raised\n",
    )
