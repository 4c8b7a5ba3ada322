"""What ``PENSTOCK_DEBUG`` and ``PENSTOCK_STALL`` switch on: each in a process of its own, which reads them at import."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

# ---- locks ----

LOCKS = {"PENSTOCK_DEBUG": "locks"}


@pytest.mark.parametrize("parking", ["fiber", "thread"])
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition", "Semaphore._cond"])
def test_a_task_that_parks_with_a_lock_in_hand_gets_an_error_that_names_both(
    run_program: Any, kind: str, parking: str
) -> None:
    made = {"Semaphore._cond": "threading.Semaphore()._cond"}.get(kind, f"threading.{kind}()")
    program = f"""
        import threading, penstock
        begin = sys._getframe().f_lineno
        penstock.configure(parking={parking!r})
        lock = {made}
        channel = penstock.Channel()
        def task():
            with lock:
                channel.recv()
        try:
            penstock.go(task).result()
        except RuntimeError as error:
            print(str(error).replace(f"<string>:{{begin + 5}}", "the line of the with"))
    """
    said = run_program(program, env=LOCKS).stdout
    assert "Channel.recv() would park a task that holds a threading." in said
    assert "taken at the line of the with" in said


def test_a_wait_without_a_lock_in_hand_is_as_ever(run_program: Any) -> None:
    program = """
        import threading, penstock
        lock = threading.Lock()
        again = threading.RLock()
        def task():
            with lock, again, again:
                pass
            assert lock.acquire(timeout=1) and not lock.acquire(blocking=False)
            lock.release()
            penstock.sleep(0.001)
            with lock:
                penstock.Channel(1).send(1)  # it need not wait
            return lock.locked()
        print(penstock.go(task).result())
        with lock:  # a thread may wait with any lock in hand
            penstock.sleep(0.001)
    """
    assert run_program(program, env=LOCKS).stdout == "False\n"


def test_a_coroutine_that_parks_with_a_lock_in_hand_gets_the_error_too(run_program: Any) -> None:
    program = """
        import threading, penstock
        begin = sys._getframe().f_lineno
        lock = threading.Lock()
        async def task():
            with lock:
                await penstock.asleep(1)
        print(repr(penstock.go(task).exception()).replace(f"<string>:{begin + 3}", "the line of the with"))
    """
    said = run_program(program, env=LOCKS).stdout
    assert "would park a task that holds a threading.Lock taken at the line of the with" in said


def test_a_lock_that_another_task_released_is_not_held(run_program: Any) -> None:
    program = """
        import threading, penstock
        lock = threading.Lock()
        taken, released = penstock.Channel(1), penstock.Channel(1)
        def holder():
            lock.acquire()
            taken.send(None)
            while lock.locked():
                pass
            penstock.sleep(0.001)
            return "parked"
        def other():
            taken.recv()
            lock.release()
        first = penstock.go(holder)
        other()
        print(first.result())
    """
    assert run_program(program, env=LOCKS).stdout == "parked\n"


def test_condition_waits_and_the_standard_library_work_with_watched_locks(run_program: Any) -> None:
    program = """
        import concurrent.futures, queue, threading, penstock
        condition = threading.Condition()
        ready = []
        def waiter():
            with condition, condition:
                condition.wait_for(lambda: ready, timeout=30)
        thread = threading.Thread(target=waiter)
        thread.start()
        with condition:
            ready.append(1)
            condition.notify_all()
        thread.join()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(abs, [-1, 2])) == [1, 2]
        numbers = queue.Queue()
        numbers.put(1)
        print(numbers.get(), repr(threading.RLock()).startswith("<penstock's watched"))
    """
    assert run_program(program, env=LOCKS).stdout == "1 True\n"


# ---- schedtrace ----

LINE = re.compile(
    r"SCHED \d+ms: workers=\d+ idle=\d+ threads=\d+ searching=\d+ spare=\d+ waiting=\d+ blocked=\d+ "
    r"injector=\d+ \[\d+( \d+)*\]"
)

TRACED = """
    import os, sys, penstock
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    penstock.go(int).result()
    lines = os.fdopen(reader)
    for _ in range({count}):
        sys.stdout.write(lines.readline())
    sys.stdout.flush()
    os._exit(0)
"""


def test_schedtrace_prints_a_line_each_interval_also_while_nothing_runs(run_program: Any) -> None:
    lines = run_program(TRACED.format(count=3), env={"PENSTOCK_DEBUG": "schedtrace=20"}).stdout.splitlines()
    assert len(lines) == 3
    assert all(LINE.fullmatch(line) for line in lines), lines


def test_schedtrace_with_detail_has_a_line_for_each_worker_and_thread(run_program: Any) -> None:
    lines = run_program(
        TRACED.format(count=3), env={"PENSTOCK_DEBUG": "schedtrace=20,detail"}
    ).stdout.splitlines()
    assert LINE.fullmatch(lines[0])
    assert re.fullmatch(r"  P0: (idle|running|blocked) machine=(\d+|none) turn=\d+ queue=\d+", lines[1]), (
        lines
    )
    assert re.fullmatch(r"  (P1: .*|M0: \w+ parked=\d+)", lines[2]), lines


@pytest.mark.parametrize("parking", ["fiber", "thread"])
def test_schedtrace_with_detail_has_a_line_for_each_task_with_what_it_waits_for(
    run_program: Any, parking: str
) -> None:
    said = run_program(
        f"""
        import penstock
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        penstock.configure(parking={parking!r})
        channel = penstock.Channel(name="numbers")
        async def coroutine():
            await channel.arecv()
        runtime = penstock.default_runtime()
        tasks = [
            runtime.spawn(channel.recv, name="plain"),
            runtime.spawn(coroutine, name="async"),
            runtime.spawn(time.sleep, (3600,), name="blocks"),
            runtime.spawn(channel.recv, name="alone", own_thread=True),
        ]
        wait_until(lambda: channel.stats().recv_waits == 3)
        ids = {{task.name: task.id for task in tasks}}
        lines = os.fdopen(reader)
        seen = []
        while len(seen) < len(tasks):
            while not lines.readline().startswith("SCHED"):
                pass
            seen = []
            while not (line := lines.readline()).startswith("SCHED"):
                if line.startswith("  G"):
                    seen.append(line)
        for line in seen:
            for name, number in ids.items():
                line = line.replace(f"G{{number}}:", f"G({{name}}):")
            print(line, end="")
        sys.stdout.flush()
        os._exit(0)
        """,
        env={"PENSTOCK_DEBUG": "schedtrace=100,detail"},
    ).stdout
    wait = r"on <penstock\.Channel 'numbers' [^\n]*>"
    assert re.search(rf"  G\(plain\): waiting in Channel\.recv\(\) {wait} machine=\d+ name=plain\n", said), (
        said
    )
    assert re.search(
        rf"  G\(async\): waiting in Channel\.arecv\(\) {wait} machine=none name=async\n", said
    ), said
    assert re.search(r"  G\(blocks\): running machine=\d+ name=blocks\n", said), said
    assert re.search(rf"  G\(alone\): waiting in Channel\.recv\(\) {wait} machine=\d+ name=alone\n", said), (
        said
    )


# ---- stalls ----

STALLED = """
    import logging, sys, threading, penstock
    logging.basicConfig(format="%(name)s %(levelname)s %(message)s", stream=sys.stdout)
    penstock.configure(workers=1, parking="fiber")
    heard = threading.Event()
    class Handler(logging.Handler):
        def emit(self, record):
            heard.set()
    logging.getLogger().addHandler(Handler())  # behind the one that prints
    channel, threads = penstock.Channel(), []
    def parks():
        threads.append(threading.get_ident())
        return channel.recv()
    parked = [penstock.go(parks) for _ in range(2)]
    def blocks():
        behind = threads.count(threading.get_ident())
        if behind:
            heard.wait(30)  # blocks the thread: an Event of threading
        return behind
    while not (behind := (task := penstock.go(blocks)).result()):  # until it is on a thread of theirs
        pass
    for _ in parked:
        channel.send(1)
    assert [one.result() for one in parked] == [1, 1]
    print(task.name, behind)
"""


@pytest.mark.parametrize("limit", ["0.05", "1"])
def test_a_stall_is_logged_once_with_the_task_its_line_and_how_many_wait(
    run_program: Any, limit: str
) -> None:
    *lines, about = run_program(STALLED, env={"PENSTOCK_STALL": limit}).stdout.splitlines()
    name, behind = about.split()
    # A busy machine may keep others from going on for as long as the shorter limit, too.
    (said,) = [line for line in lines if name in line]
    assert said.startswith(f"penstock WARNING {name} has kept its thread for more than {limit} s at ")
    waiting = {"1": "1 parked task has", "2": "2 parked tasks have"}[behind]
    assert re.search(rf"threading\.py:\d+ in \w+: {waiting} to wait for it", said), said


@pytest.mark.skipif("t" in sys.abiflags, reason="holds the GIL to let the report come at a known moment")
def test_a_stall_is_not_reported_once_the_interpreter_is_about_to_exit(run_program: Any) -> None:
    """The monitor has sent a machine with the report, which waits for the GIL until the end has begun."""
    run_program(
        """
        import penstock
        penstock.configure(workers=1, parking="fiber")
        channel, threads = penstock.Channel(), []
        def parks():
            threads.append(threading.get_ident())
            channel.recv()
        def blocks():
            if threading.get_ident() not in threads:
                return False
            sys.setswitchinterval(3600)
            sleeps.set()
            time.sleep(3600)
        sleeps = threading.Event()
        parked = [penstock.go(parks) for _ in range(2)]
        while not sleeps.is_set():
            task = penstock.go(blocks)
            try:
                task.result(timeout=0.2)
            except TimeoutError:
                pass
        # The exit waits for this one, with the GIL let go of. It begins right after the report was sent.
        threading.Thread(target=time.sleep, args=(1,)).start()
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            pass
        """,
        env={"PENSTOCK_STALL": "0.5"},
    )


# ---- bad values ----


@pytest.mark.parametrize("value", ["schedtrace", "schedtrace=0", "schedtrace=x", "detail", "lock", "locks=1"])
def test_a_bad_debug_variable_is_refused_at_import(run_program: Any, value: str) -> None:
    finished = run_program("import penstock", env={"PENSTOCK_DEBUG": value}, returncode=1, stderr=None)
    assert "ValueError: PENSTOCK_DEBUG must be of schedtrace=N" in finished.stderr
    assert repr(value) in finished.stderr


@pytest.mark.parametrize("value", ["0", "-1", "x", "nan", ""])
def test_a_bad_stall_variable_is_refused_at_the_first_use(run_program: Any, value: str) -> None:
    finished = run_program(
        "import penstock; penstock.go(int)", env={"PENSTOCK_STALL": value}, returncode=1, stderr=None
    )
    assert f'ValueError: PENSTOCK_STALL must be a number of seconds > 0, not "{value}"' in finished.stderr
