"""Several workers: a task that blocks delays nobody, work is stolen, and the counters add up."""

from __future__ import annotations

import threading
from typing import Any

import penstock
import pytest
from penstock import Channel, Group, go

LIMIT = 30.0  # seconds; only a hang reaches it


@pytest.mark.parametrize("colour", ["plain", "async"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_in_time_sleep_does_not_delay_a_thousand_queued_ones(
    run_program: Any, workers: int, colour: str
) -> None:
    """The sleeper queues the thousand on its own worker, then blocks: they finish before it wakes."""
    run_program(
        f"""
        from penstock import *
        done, lock = [0], threading.Lock()
        ended = threading.Event()
        def count():
            with lock:
                done[0] += 1
                if done[0] == 1000:
                    ended.set()
        async def acount():
            count()
        function = count if {colour!r} == "plain" else acount
        def sleeper():
            tasks = [go(function) for _ in range(1000)]
            before = done[0]
            time.sleep(1)
            return before, done[0], tasks
        task = go(sleeper)
        assert ended.wait(30)
        assert not task.done(), "the thousand waited for the sleeper"
        before, after, tasks = task.result(timeout=30)
        for one in tasks:
            one.result(timeout=30)
        print(after)
        """,
        stdout="1000\n",
        env={"PENSTOCK_WORKERS": str(workers)},
    )


def test_timers_of_a_worker_whose_task_blocks_are_taken_over(run_program: Any) -> None:
    run_program(
        """
        from penstock import *
        order = []
        def sleeper():
            tasks = [go(timed, i) for i in range(20)]
            yield_now()
            time.sleep(1)
            order.append("sleeper")
            return tasks
        async def timed(i):
            await asleep(0.05)
            order.append(i)
        task = go(sleeper)
        for one in task.result(timeout=30):
            one.result(timeout=30)
        print(order.index("sleeper"))
        """,
        stdout="20\n",
        env={"PENSTOCK_WORKERS": "1"},
    )


def test_a_thousand_plain_tasks_may_be_in_time_sleep_at_once(run_program: Any) -> None:
    """`workers` bounds how many run, not how many block: all are inside at the same time."""
    run_program(
        """
        from penstock import *
        lock, inside, most = threading.Lock(), [0], [0]
        def body():
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            while most[0] < 1000:
                time.sleep(0.2)
            with lock:
                inside[0] -= 1
        tasks = [go(body) for _ in range(1000)]
        for task in tasks:
            task.result(timeout=100)
        print(most[0], inside[0])
        """,
        stdout="1000 0\n",
        env={"PENSTOCK_WORKERS": "2"},
        limit=120.0,
    )


def test_a_blocked_worker_is_counted_as_a_handoff(run_program: Any) -> None:
    run_program(
        """
        import penstock
        from penstock import *
        ran = threading.Event()
        def blocks():
            other = go(ran.set)
            assert ran.wait(30), "nobody took over"
            return other
        go(blocks).result(timeout=50).result(timeout=30)
        print(penstock.default_runtime().stats().handoffs >= 1)
        """,
        stdout="True\n",
        env={"PENSTOCK_WORKERS": "1"},
    )


def test_work_is_stolen_where_workers_run_at_once(run_program: Any) -> None:
    """Without the GIL two tasks meet that one worker queued; with it one worker runs Python, and they meet too."""
    run_program(
        """
        import penstock
        from penstock import *
        free_threaded = hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled()
        def spin(barrier):
            deadline = time.monotonic() + 30
            barrier.append(threading.get_ident())
            while len(set(barrier)) < 2:
                assert time.monotonic() < deadline, "the two never ran at once"
        def parent():
            barrier = []
            return [go(spin, barrier) for _ in range(2)]
        def burn(n):
            total = 0
            for i in range(20_000):
                total += i
            return n
        def spread():
            return [go(burn, i) for i in range(400)]
        if free_threaded:
            for task in go(parent).result(timeout=50):
                task.result(timeout=50)
            for task in go(spread).result(timeout=50):
                task.result(timeout=50)
        else:
            assert [task.result(timeout=50) for task in go(spread).result(timeout=50)] == list(range(400))
        stats = penstock.default_runtime().stats()
        assert stats.remote_steals <= stats.steals
        print(stats.steals >= 1 if free_threaded else True)
        """,
        stdout="True\n",
        env={"PENSTOCK_WORKERS": "2"},
    )


def test_the_counters_equal_what_was_counted_outside(run_program: Any) -> None:
    run_program(
        """
        import penstock
        from penstock import *
        runtime = penstock.default_runtime()
        go(int).result(timeout=30)
        before = runtime.stats()
        gate = Channel()
        async def aparks():
            await gate.arecv()
        tasks = [go(gate.recv) for _ in range(100)] + [go(aparks) for _ in range(100)]
        wait_until(lambda: gate.stats().recv_waits == 200)
        wait_until(lambda: runtime.stats().parks - before.parks == 200)
        middle = runtime.stats()
        assert middle.tasks_started - before.tasks_started == 200, middle
        assert middle.tasks_finished == before.tasks_finished, middle
        assert middle.tasks_live - before.tasks_live == 200, middle
        for _ in tasks:
            gate.send(None, timeout=30)
        for task in tasks:
            task.result(timeout=30)
        wait_until(lambda: runtime.stats().tasks_finished - before.tasks_finished == 200)
        after = runtime.stats()
        assert after.parks - before.parks == 200, after
        assert after.wakes - before.wakes >= 200, after
        assert after.tasks_live == before.tasks_live, after
        assert after.tasks_started - after.tasks_finished == after.tasks_live, after
        print("ok")
        """,
        stdout="ok\n",
        env={"PENSTOCK_WORKERS": "2"},
    )


def test_a_task_that_starts_itself_again_starves_nobody(run_program: Any) -> None:
    run_program(
        """
        from penstock import *
        stop = threading.Event()
        def again():
            if not stop.is_set():
                go(again)
        async def aagain():
            if not stop.is_set():
                go(aagain)
        go(again)
        go(aagain)
        others = [go(int) for _ in range(100)]
        for other in others:
            other.result(timeout=30)
        stop.set()
        print("ok")
        """,
        stdout="ok\n",
        env={"PENSTOCK_WORKERS": "1"},
    )


def test_two_tasks_in_a_ping_pong_starve_nobody(run_program: Any) -> None:
    """Run-next is capped: two tasks that only wake each other let the others run."""
    run_program(
        """
        from penstock import *
        ping, pong = Channel(), Channel()
        def left():
            for i in ping:
                pong.send(i)
            pong.close()
        def right():
            while not stop.is_set():
                ping.send(1)
                pong.recv()
            ping.close()
        stop = threading.Event()
        pair = [go(left), go(right)]
        wait_until(lambda: ping.stats().received > 10)
        for other in [go(int) for _ in range(100)]:
            other.result(timeout=30)
        stop.set()
        for task in pair:
            task.result(timeout=30)
        print("ok")
        """,
        stdout="ok\n",
        env={"PENSTOCK_WORKERS": "1"},
    )


def test_a_busy_task_lets_tasks_from_other_threads_run(threads: Any) -> None:
    stop = threading.Event()

    def busy() -> int:
        turns = 0
        while not stop.is_set():
            turns += 1
        return turns

    spinner = go(busy)
    results: list[int] = []

    def submit() -> None:
        results.extend(go(int, str(i)).result(timeout=LIMIT) for i in range(50))

    for _ in range(2):
        threads.start(submit)
    threads.join()
    stop.set()
    assert spinner.result(timeout=LIMIT) > 0
    assert sorted(results) == sorted([*range(50)] * 2)


def test_a_tree_of_tasks_finishes_whatever_steals_it() -> None:
    def tree(depth: int) -> int:
        if depth == 0:
            return 1
        with Group() as group:
            children = [group.go(tree, depth - 1) for _ in range(3)]
        return sum(child.result() for child in children)

    assert go(tree, 6).result(timeout=LIMIT) == 3**6


def test_wakes_from_ordinary_threads_are_never_lost(threads: Any) -> None:
    """Idle workers are woken each time: the last task of every burst finds one asleep."""
    channel = Channel[int]()
    total = 300

    def one_at_a_time() -> None:
        for i in range(total):
            task = go(channel.recv)
            channel.send(i, timeout=LIMIT)
            assert task.result(timeout=LIMIT) >= 0

    for _ in range(2):
        threads.start(one_at_a_time)
    threads.join()
    assert channel.stats().received == 2 * total
    assert penstock.default_runtime().stats().wakes > 0
