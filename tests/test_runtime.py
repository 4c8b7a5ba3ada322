"""Runtimes beside each other: their tasks, their ends, their settings, and tasks with a thread of their own."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib.util
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import penstock
import pytest
from penstock import Cancelled, Channel, Group, Node, Runtime, Topology, go

LIMIT = 30.0  # seconds; only a hang reaches it


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime(workers=2, name="tested") as runtime:
        yield runtime


def thread_name() -> str:
    return threading.current_thread().name


# Where tasks run


@pytest.mark.thread_unsafe(
    reason="the fixture gives all threads the same runtime, and this counts its tasks or threads"
)
def test_tasks_run_on_the_threads_of_their_runtime(runtime: Runtime) -> None:
    assert runtime.go(thread_name).result(timeout=LIMIT).startswith("penstock-tested-")
    assert not go(thread_name).result(timeout=LIMIT).startswith("penstock-tested-")


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_go_and_a_group_inside_a_task_use_its_runtime(runtime: Runtime, colour: str) -> None:
    def parent() -> list[str]:
        with Group() as group:
            names = [group.go(thread_name), go(thread_name)]
        return [task.result(timeout=LIMIT) for task in names]

    async def async_parent() -> list[str]:
        async with Group() as group:
            names = [group.go(thread_name), go(thread_name)]
        return [await task for task in names]

    task = runtime.go(parent) if colour == "plain" else runtime.go(async_parent)
    assert all(name.startswith("penstock-tested-") for name in task.result(timeout=LIMIT))


def test_a_task_may_start_tasks_of_another_runtime(runtime: Runtime) -> None:
    def there() -> str:
        return runtime.go(thread_name).result(timeout=LIMIT)

    assert go(there).result(timeout=LIMIT).startswith("penstock-tested-")


def test_go_and_spawn_pass_arguments_and_the_context(runtime: Runtime) -> None:
    variable = ContextVar("variable", default="unset")

    def seen(*args: object, **kwargs: object) -> tuple[object, ...]:
        return args, kwargs, variable.get()

    variable.set("set")
    expected = ((1, 2), {"three": 3}, "set")
    assert runtime.go(seen, 1, 2, three=3).result(timeout=LIMIT) == expected
    assert runtime.spawn(seen, (1, 2), {"three": 3}).result(timeout=LIMIT) == expected
    assert runtime.spawn(seen, args=iter([1, 2]), kwargs={"three": 3}).result(timeout=LIMIT) == expected
    assert runtime.spawn(seen).result(timeout=LIMIT) == ((), {}, "set")


def test_spawn_names_a_task(runtime: Runtime) -> None:
    gate = Channel[int]()
    task = runtime.spawn(gate.recv, name="the one that waits")
    assert task.name == "the one that waits"
    assert "the one that waits" in repr(task)
    task.cancel()
    with pytest.raises(Cancelled, match="the one that waits"):
        task.result(timeout=LIMIT)
    assert runtime.spawn(int, name=None).name.startswith("Task-")


@pytest.mark.parametrize(
    ("argument", "value"),
    [("args", 3), ("kwargs", [1]), ("name", 3), ("own_thread", "yes"), ("fn", 3)],
)
def test_spawn_names_a_bad_argument(runtime: Runtime, argument: str, value: Any) -> None:
    arguments: dict[str, Any] = {"fn": int, argument: value}
    with pytest.raises(TypeError) as raised:
        runtime.spawn(**arguments)
    assert repr(value) in str(raised.value)
    assert argument == "fn" or argument in str(raised.value)


def test_tasks_of_two_runtimes_talk_over_channels(runtime: Runtime) -> None:
    """Each wake crosses from one scheduler to the other."""
    rounds = 300
    with Runtime(workers=1) as other:
        there, back = Channel[int](), Channel[int]()

        def left() -> int:
            for i in range(rounds):
                there.send(i)
                assert back.recv() == i
            there.close()
            return rounds

        async def right() -> None:
            async for i in there:
                await back.asend(i)

        tasks = [runtime.go(left), other.go(right)]
        assert tasks[0].result(timeout=LIMIT) == rounds
        tasks[1].result(timeout=LIMIT)


def test_many_runtimes_run_at_once() -> None:
    runtimes = [Runtime(workers=1) for _ in range(8)]
    inboxes = [Channel[int]() for _ in runtimes]

    def relay(at: int) -> int:
        value = inboxes[at].recv() + 1
        if at + 1 < len(inboxes):
            inboxes[at + 1].send(value)
        return value

    tasks = [runtime.go(relay, at) for at, runtime in enumerate(runtimes)]
    inboxes[0].send(0, timeout=LIMIT)
    assert [task.result(timeout=LIMIT) for task in tasks] == list(range(1, 9))
    assert all(runtime.shutdown(timeout=LIMIT) for runtime in runtimes)


# The end


def test_leaving_waits_for_all_tasks_and_what_they_start() -> None:
    ended = []

    def leaf() -> None:
        penstock.sleep(0.01)
        ended.append("leaf")

    async def aleaf() -> None:
        await penstock.asleep(0.01)
        ended.append("async leaf")

    def parent(depth: int) -> None:
        penstock.yield_now()
        if depth:
            go(parent, depth - 1)
        go(leaf)
        go(aleaf)

    with Runtime(workers=2) as runtime:
        runtime.go(parent, 3)
        runtime.spawn(leaf, own_thread=True)
    assert sorted(ended) == ["async leaf"] * 4 + ["leaf"] * 5
    stats = runtime.stats()
    assert (stats.tasks_live, stats.tasks_started) == (0, stats.tasks_finished)


def test_what_a_done_callback_starts_is_waited_for_too() -> None:
    ended = threading.Event()
    with Runtime(workers=1) as runtime:
        gate = Channel[int]()
        task = runtime.go(gate.recv)
        task.add_done_callback(lambda _: go(ended.set))
        gate.send(1, timeout=LIMIT)
    assert ended.is_set()


@pytest.mark.parametrize("loop", ["asyncio", "penstock"])
def test_async_with_waits_and_lets_the_loop_run(loop: str) -> None:
    async def main() -> list[str]:
        order = []
        async with Runtime(workers=1) as runtime:
            runtime.go(penstock.sleep, 0.02).add_done_callback(lambda _: order.append("slept"))
        order.append("left")
        assert await runtime.ashutdown()
        return order

    result = asyncio.run(main()) if loop == "asyncio" else go(main).result(timeout=LIMIT)
    assert result == ["slept", "left"]


def test_shutdown_says_whether_all_ended_and_may_be_called_again() -> None:
    runtime = Runtime(workers=1)
    gate = Channel[int]()
    task = runtime.go(gate.recv)
    assert runtime.shutdown(wait=False) is False
    assert runtime.shutdown(timeout=0) is False
    assert runtime.shutdown(timeout=0.01) is False
    assert "shutting down" in repr(runtime)
    gate.send(7, timeout=LIMIT)
    assert runtime.shutdown(timeout=LIMIT) is True
    assert runtime.shutdown(wait=False) is True
    assert task.result(timeout=0) == 7
    assert "shut down" in repr(runtime)


def test_ashutdown_times_out_without_raising() -> None:
    async def main() -> tuple[bool, bool, bool]:
        runtime = Runtime(workers=1)
        gate = Channel[int]()
        runtime.go(gate.recv)
        nothing = await runtime.ashutdown(wait=False), await runtime.ashutdown(timeout=0.01)
        await go(gate.send, 0)
        return *nothing, await runtime.ashutdown(timeout=LIMIT)

    assert go(main).result(timeout=LIMIT) == (False, False, True)
    assert asyncio.run(main()) == (False, False, True)


def test_a_runtime_that_never_started_is_shut_down_at_once() -> None:
    runtime = Runtime()
    assert "not started" in repr(runtime)
    assert runtime.shutdown() is True
    with pytest.raises(RuntimeError, match=runtime.name):
        runtime.go(int)


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan")])
def test_shutdown_refuses_a_timeout_that_is_none(timeout: float) -> None:
    runtime = Runtime()
    with pytest.raises(ValueError, match="timeout"):
        runtime.shutdown(timeout=timeout)
    assert runtime.go(int).result(timeout=LIMIT) == 0, "it goes on"
    assert runtime.shutdown(timeout=LIMIT)


CALLS: list[Callable[[Runtime], object]] = [
    lambda runtime: runtime.go(int),
    lambda runtime: runtime.spawn(int),
    lambda runtime: runtime.spawn(int, own_thread=True),
    lambda runtime: setattr(runtime, "workers", 2),
    lambda runtime: runtime.__enter__(),
]


@pytest.mark.parametrize("call", CALLS, ids=["go", "spawn", "own_thread", "workers", "with"])
def test_calls_after_shutdown_raise_runtime_error(call: Callable[[Runtime], object]) -> None:
    runtime = Runtime(workers=1)
    runtime.go(int).result(timeout=LIMIT)
    assert runtime.shutdown(timeout=LIMIT)
    with pytest.raises(RuntimeError, match="shut down"):
        call(runtime)


def test_while_it_shuts_down_its_tasks_may_start_others_and_nobody_else() -> None:
    runtime = Runtime(workers=1)
    gate = Channel[int]()

    def child(value: int) -> int:
        return value + 1

    def parent() -> int:
        return go(child, gate.recv()).result() + runtime.go(child, 1).result()

    task = runtime.go(parent)
    assert runtime.shutdown(wait=False) is False
    with pytest.raises(RuntimeError, match="shut down"):
        runtime.go(int)
    gate.send(4, timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 7
    assert runtime.shutdown(timeout=LIMIT)


def test_a_group_on_a_runtime_that_was_shut_down_is_told_and_ends(run_program: Any) -> None:
    run_program(
        """
        import penstock
        penstock.go(int).result(timeout=30)
        assert penstock.default_runtime().shutdown(timeout=30)
        try:
            with penstock.Group() as group:
                group.go(int)
        except* RuntimeError as errors:
            assert "shut down" in str(errors.exceptions[0]), errors.exceptions
            print("told")
        """,
        stdout="told\n",
    )


@pytest.mark.parametrize("form", ["shutdown", "with", "ashutdown"])
def test_a_task_cannot_wait_for_the_end_of_its_own_runtime(form: str) -> None:
    runtime = Runtime(workers=1)

    def leaves() -> None:
        with runtime:
            pass

    call: dict[str, Callable[[], Any]] = {
        "shutdown": runtime.shutdown,
        "with": leaves,
        "ashutdown": runtime.ashutdown,
    }
    with pytest.raises(RuntimeError, match="cannot wait"):
        runtime.go(call[form]).result(timeout=LIMIT)
    assert runtime.go(runtime.shutdown, wait=False).result(timeout=LIMIT) is False
    assert runtime.shutdown(timeout=LIMIT)


def test_an_exception_in_the_block_is_raised_after_the_wait() -> None:
    ended = []

    def body() -> None:
        penstock.sleep(0.02)
        ended.append(True)

    with pytest.raises(ZeroDivisionError), Runtime(workers=1) as runtime:
        runtime.go(body)
        raise ZeroDivisionError
    assert ended == [True]


def test_a_task_that_is_cancelled_while_it_leaves_goes_on_with_cancelled() -> None:
    inner, gate = Runtime(workers=1), Channel[int]()
    waits = Channel[int](1)

    def leaves() -> None:
        with inner:
            inner.go(gate.recv)
            waits.send(1)

    task = go(leaves)
    waits.recv(timeout=LIMIT)
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    with pytest.raises(RuntimeError, match="shut down"):
        inner.go(int)
    gate.send(0, timeout=LIMIT)
    assert inner.shutdown(timeout=LIMIT)


@pytest.mark.parametrize("where", ["body", "wait"])
def test_ctrl_c_leaves_without_a_wait(run_program: Any, where: str) -> None:
    run_program(
        f"""
        import signal, penstock
        gate = penstock.Channel()
        def interrupt():
            wait_until(lambda: gate.stats().recv_waits == 1)
            os.kill(os.getpid(), signal.SIGINT)
        thread = threading.Thread(target=interrupt)
        try:
            with penstock.Runtime(workers=2, name="left") as runtime:
                runtime.go(gate.recv)
                thread.start()
                if {where!r} == "body":
                    penstock.Channel().recv()
        except KeyboardInterrupt:
            print(repr(runtime).split(": ")[1])
        thread.join()
        """,
        stdout="shutting down, 2 workers, 1 tasks>\n",
    )


def test_the_threads_of_a_runtime_end_with_it(wait_until: Any) -> None:
    with Runtime(workers=3, name="ends") as runtime:
        gate = Channel[int]()
        tasks = [runtime.go(gate.recv) for _ in range(20)]
        for _ in tasks:
            gate.send(0, timeout=LIMIT)
        assert any(thread.name.startswith("penstock-ends-") for thread in threading.enumerate())
    wait_until(lambda: not any(thread.name.startswith("penstock-ends-") for thread in threading.enumerate()))


def test_a_runtime_nobody_refers_to_ends_when_its_tasks_have(wait_until: Any) -> None:
    runtime = Runtime(workers=1, name="dropped")
    gate = Channel[int]()
    task = runtime.go(gate.recv)
    wait_until(lambda: gate.stats().recv_waits == 1)
    gone = weakref.ref(runtime)
    del runtime
    gc.collect()
    assert gone() is None
    gate.send(5, timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 5
    wait_until(
        lambda: not any(thread.name.startswith("penstock-dropped-") for thread in threading.enumerate())
    )


def test_a_task_submitted_while_the_runtime_shuts_down_runs_or_is_refused(threads: Any) -> None:
    for _ in range(20):
        runtime = Runtime(workers=2)
        runtime.go(int).result(timeout=LIMIT)
        tasks: list[Any] = []

        def submit(runtime: Runtime = runtime, tasks: list[Any] = tasks) -> None:
            try:
                while True:
                    tasks.append(runtime.go(int))
            except RuntimeError:
                pass

        threads.start(submit)
        assert runtime.shutdown(timeout=LIMIT)
        done = [task.done() for task in tasks]
        assert all(done), "a task that was taken did not run before the end"
        threads.join()
        assert all(task.done() for task in tasks)


# Settings and figures


def test_workers_can_be_changed_in_both_directions_while_tasks_run() -> None:
    stop, total = Channel[int](), 0
    with Runtime(workers=2) as runtime:

        def resize() -> None:
            for workers in (1, 6, 3, 1, 8, 2) * 20:
                runtime.workers = workers
                assert runtime.workers == workers == runtime.stats().workers
                penstock.sleep(0.001)
            stop.close()

        def pairs() -> int:
            there, back, turns = Channel[int](), Channel[int](), 0

            def echo() -> None:
                for value in there:
                    back.send(value)

            go(echo)
            while not stop.closed:
                there.send(turns)
                assert back.recv() == turns
                turns += 1
                if turns % 50 == 0:
                    penstock.sleep(0.0001)
            there.close()
            return turns

        tasks = [runtime.go(pairs) for _ in range(6)]
        go(resize).result(timeout=60)
        total = sum(task.result(timeout=LIMIT) for task in tasks)
    assert total > 0


def test_workers_set_before_the_start_are_those_it_starts_with() -> None:
    runtime = Runtime(workers=1)
    runtime.workers = 5
    assert (runtime.workers, "not started" in repr(runtime)) == (5, True)
    with runtime:
        assert runtime.go(lambda: runtime.stats().workers).result(timeout=LIMIT) == 5


@pytest.mark.parametrize("value", [0, -1, 4097, 1.5, "2", None])
def test_workers_that_are_no_number_of_workers_are_refused(runtime: Runtime, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="workers must be an int from 1 to 4096"):
        runtime.workers = value
    assert runtime.workers == 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("workers", 0),
        ("workers", "2"),
        ("parking", "coroutine"),
        ("parking", None),
        ("prewarm_tasks", -1),
        ("prewarm_tasks", None),
        ("prewarm_tasks", 1 << 20),
        ("name", 3),
    ],
)
def test_a_bad_setting_is_named(argument: str, value: Any) -> None:
    arguments: dict[str, Any] = {argument: value}
    with pytest.raises((TypeError, ValueError)) as raised:
        Runtime(**arguments)
    assert argument in str(raised.value)
    assert repr(value) in str(raised.value)


def test_the_first_tasks_of_a_runtime_may_come_from_many_threads_at_once(threads: Any) -> None:
    """One was refused for want of a thread while another was starting the runtime."""
    for _ in range(40):
        with Runtime(workers=1) as runtime:
            barrier = threading.Barrier(4)

            def first(runtime: Runtime = runtime, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(LIMIT)
                assert runtime.spawn(int, ("7",), own_thread=True).result(timeout=LIMIT) == 7

            for _ in range(4):
                threads.start(first)
            threads.join()


@pytest.mark.thread_unsafe(
    reason="the fixture gives all threads the same runtime, and this counts its tasks or threads"
)
def test_each_runtime_has_figures_of_its_own(runtime: Runtime) -> None:
    before = penstock.default_runtime().stats().tasks_started
    for task in [runtime.go(int) for _ in range(10)]:
        task.result(timeout=LIMIT)
    assert runtime.stats().tasks_started == 10
    assert penstock.default_runtime().stats().tasks_started >= before
    assert isinstance(penstock.default_runtime(), Runtime)


def test_a_runtime_shows_itself_and_is_neither_copied_nor_pickled() -> None:
    runtime = Runtime(workers=2, name="shown")
    assert repr(runtime) == f"<penstock.Runtime 'shown' at {id(runtime):#x}: not started>"
    with runtime:
        gate = Channel[int]()
        task = runtime.go(gate.recv)
        assert repr(runtime).endswith(": running, 2 workers, 1 tasks>")
        gate.close()
        task.exception(timeout=LIMIT)
    assert runtime.name == "shown"
    assert Runtime().name != Runtime().name
    assert weakref.ref(runtime)() is runtime
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            refused(runtime)


def test_the_default_runtime_can_be_shut_down(run_program: Any) -> None:
    run_program(
        """
        import penstock
        runtime = penstock.default_runtime()
        done = []
        def body():
            penstock.sleep(0.05)
            done.append(True)
        penstock.go(body)
        print(runtime.shutdown(timeout=30), done)
        for call in (lambda: penstock.go(int), lambda: penstock.configure(workers=1)):
            try:
                call()
            except RuntimeError:
                print("RuntimeError")
        wait_until(lambda: threading.active_count() == 1)
        """,
        stdout="True [True]\nRuntimeError\nRuntimeError\n",
    )


def test_prewarmed_tasks_need_no_new_memory(run_program: Any) -> None:
    """`getallocatedblocks` counts what the interpreter has handed out, set aside or not."""
    run_program(
        """
        import gc, penstock
        count = 20_000
        penstock.configure(workers=1, prewarm_tasks=count)
        gc.disable()
        before = sys.getallocatedblocks()
        penstock.default_runtime().stats()
        warm = sys.getallocatedblocks() - before
        tasks = [None] * count
        before = sys.getallocatedblocks()
        for i in range(count):
            tasks[i] = penstock._core._new_task(int)
        used = sys.getallocatedblocks() - before
        assert warm >= count, warm
        assert used < count / 10, used
        print("ok")
        """,
        stdout="ok\n",
    )


# A thread of one's own


@pytest.fixture
def one_worker() -> Iterator[Runtime]:
    with Runtime(workers=1) as runtime:
        yield runtime


def test_a_plain_task_keeps_its_own_thread_to_its_end(one_worker: Runtime) -> None:
    gate, local = Channel[int](), threading.local()

    def body(number: int) -> list[int]:
        local.number = number
        threads = []
        for _ in range(5):
            threads.append(threading.get_ident())
            gate.recv()
            penstock.yield_now()
            penstock.sleep(0)
            assert local.number == number
        return threads

    tasks = [one_worker.spawn(body, (n,), own_thread=True) for n in range(100)]
    for _ in range(500):
        gate.send(0, timeout=LIMIT)
    seen = [task.result(timeout=LIMIT) for task in tasks]
    assert all(len(set(threads)) == 1 for threads in seen)
    assert len({threads[0] for threads in seen}) == 100, "all were alive at once"


def test_an_async_task_is_resumed_on_its_own_thread_only(one_worker: Runtime) -> None:
    gate = Channel[int]()

    async def body() -> list[int]:
        threads = []
        for _ in range(5):
            threads.append(threading.get_ident())
            await gate.arecv()
            threads.append(threading.get_ident())
            await penstock.asleep(0)
            threads.append(threading.get_ident())
            await penstock.asleep(0.001)
            threads.append(threading.get_ident())
            await go(int)
        return threads

    tasks = [one_worker.spawn(body, own_thread=True) for _ in range(20)]
    for _ in range(100):
        gate.send(0, timeout=LIMIT)
    seen = [task.result(timeout=LIMIT) for task in tasks]
    assert all(len(set(threads)) == 1 for threads in seen)
    assert len({threads[0] for threads in seen}) == 20


def test_no_other_task_runs_on_an_own_thread(one_worker: Runtime) -> None:
    gate = Channel[int]()

    def lonely() -> int:
        children = [go(threading.get_ident) for _ in range(20)]
        me = threading.get_ident()
        assert me not in {child.result(timeout=LIMIT) for child in children}
        gate.recv()
        return me

    task = one_worker.spawn(lonely, own_thread=True)
    others = {one_worker.go(threading.get_ident).result(timeout=LIMIT) for _ in range(50)}
    gate.send(0, timeout=LIMIT)
    assert task.result(timeout=LIMIT) not in others


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_a_task_with_its_own_thread_can_be_cancelled_and_fail(one_worker: Runtime, colour: str) -> None:
    gate, waits = Channel[int](), Channel[int](1)

    def body() -> None:
        waits.send(0)
        gate.recv()

    async def abody() -> None:
        await waits.asend(0)
        await gate.arecv()

    task = one_worker.spawn(body if colour == "plain" else abody, own_thread=True)
    waits.recv(timeout=LIMIT)
    assert task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    failed = one_worker.spawn(int, ("x",), own_thread=True)
    assert isinstance(failed.exception(timeout=LIMIT), ValueError)


def test_an_asyncio_loop_runs_in_a_task_with_its_own_thread(one_worker: Runtime) -> None:
    async def main() -> tuple[int, str]:
        slept = await asyncio.gather(*(asyncio.sleep(0.001, result=i) for i in range(10)))
        with pytest.raises(RuntimeError, match="event loop"):
            Channel[int]().recv(timeout=1)
        return sum(slept), await go(str, "from a task")

    task = one_worker.spawn(asyncio.run, (main(),), own_thread=True)
    assert one_worker.go(int, "7").result(timeout=LIMIT) == 7, "others run meanwhile"
    assert task.result(timeout=LIMIT) == (45, "from a task")


def test_own_threads_end_with_their_tasks(wait_until: Any) -> None:
    before = threading.active_count()
    with Runtime(workers=1) as runtime:
        for _ in range(3):
            for task in [runtime.spawn(penstock.sleep, (0.001,), own_thread=True) for _ in range(10)]:
                task.result(timeout=LIMIT)
            wait_until(lambda: threading.active_count() <= before + 8)


# Out of threads and memory


def test_beyond_max_threads_calls_queue(run_program: Any) -> None:
    """Ten tasks that block their threads at once would take ten threads: three run at a time, and all end."""
    run_program(
        """
        import penstock
        lock, inside, most = threading.Lock(), 0, 0
        def body():
            global inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.05)
            with lock:
                inside -= 1
        tasks = [penstock.go(body) for _ in range(10)]
        for task in tasks:
            task.result(timeout=30)
        assert most <= 3, most
        assert penstock.default_runtime().stats().threads <= 3
        print("ok")
        """,
        stdout="ok\n",
        env={"PENSTOCK_MAX_THREADS": "3", "PENSTOCK_WORKERS": "2"},
    )


def test_parked_threads_beyond_the_limit_make_others_wait_not_fail(run_program: Any) -> None:
    run_program(
        """
        import penstock
        penstock.configure(parking="thread", workers=2)
        gate = penstock.Channel(100)
        tasks = [penstock.go(gate.recv) for _ in range(20)]
        for i in range(20):
            gate.send(i)
        print(sum(task.result(timeout=30) for task in tasks))
        """,
        stdout="190\n",
        env={"PENSTOCK_MAX_THREADS": "4"},
    )


def test_an_own_thread_beyond_the_limit_is_an_error_and_nothing_is_lost(run_program: Any) -> None:
    run_program(
        """
        import penstock
        gate = penstock.Channel()
        with penstock.Runtime(workers=1) as runtime:
            tasks = [runtime.go(gate.recv)]
            try:
                while True:
                    tasks.append(runtime.spawn(gate.recv, own_thread=True))
            except RuntimeError as error:
                assert "PENSTOCK_MAX_THREADS" in str(error), error
            assert runtime.stats().tasks_live == len(tasks), (runtime.stats(), len(tasks))
            for i in range(len(tasks)):
                gate.send(1, timeout=30)
            assert sum(task.result(timeout=30) for task in tasks) == len(tasks)
            wait_until(lambda: threading.active_count() < 6)
            runtime.spawn(int, own_thread=True).result(timeout=30)  # there is room again
        print("ok")
        """,
        stdout="ok\n",
        env={"PENSTOCK_MAX_THREADS": "6"},
    )


@pytest.mark.parametrize("value", ["0", "-3", "many", "", "99999999"])
@pytest.mark.parametrize("variable", ["PENSTOCK_MAX_THREADS", "PENSTOCK_WORKERS"])
def test_a_bad_variable_is_named(run_program: Any, variable: str, value: str) -> None:
    run_program(
        f"""
        import penstock
        try:
            penstock.go(int)
        except ValueError as error:
            assert {variable!r} in str(error) and {value!r} in str(error), error
            print("refused")
        """,
        stdout="refused\n",
        env={variable: value},
    )


def test_where_no_thread_is_to_be_had_go_raises_and_later_works(run_program: Any) -> None:
    run_program(
        """
        import penstock
        from penstock import _threads
        real = threading.Thread.start
        def refuse(self):
            raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        for start in (lambda: penstock.go(int), lambda: penstock.default_runtime().spawn(int, own_thread=True)):
            try:
                start()
            except RuntimeError as error:
                print(error)
        threading.Thread.start = real
        print(penstock.go(int, "7").result(timeout=30), penstock.default_runtime().stats().tasks_live)
        """,
        stdout="there is no thread for the task: the system or PENSTOCK_MAX_THREADS allows no more\n" * 2
        + "7 0\n",
    )


# `_testcapi` is not in every interpreter; without the GIL the first allocation of a park is another.
@pytest.mark.skipif(
    importlib.util.find_spec("_testcapi") is None or "t" in sys.abiflags,
    reason="nothing takes the memory away here",
)
@pytest.mark.parametrize("call", ["gate.recv()", "penstock.yield_now()"])
def test_no_memory_for_a_stack_is_an_error_at_the_wait_and_parked_tasks_stay(
    run_program: Any, call: str
) -> None:
    run_program(
        f"""
        import _testcapi, penstock
        penstock.configure(workers=1, parking="fiber")
        gate = penstock.Channel()
        parked = [penstock.go(gate.recv) for _ in range(3)]
        wait_until(lambda: gate.stats().recv_waits == 3)
        def body():
            other = penstock.go(int, "7")
            _testcapi.set_nomemory(0, 1)
            try:
                {call}
            except MemoryError:
                return other
            finally:
                _testcapi.remove_mem_hooks()
        other = penstock.go(body).result(timeout=30)
        print(other.result(timeout=30))
        for i in range(3):
            gate.send(i, timeout=30)
        print([task.result(timeout=30) for task in parked])
        """,
        stdout="7\n[0, 1, 2]\n",
    )


# NUMA


@pytest.fixture
def made_up() -> Topology:
    """Two nodes with one CPU each; the second may well not be there."""
    near = Node(3, cpus=[0], memory=0, distances={3: 10, 8: 21})
    far = Node(8, cpus=[1], memory=0, distances={3: 21, 8: 10})
    return Topology([near, far])


def test_a_task_for_a_node_runs_and_an_unknown_node_is_refused(made_up: Topology) -> None:
    with Runtime(workers=2, numa=made_up) as runtime:
        for node in (3, 8, None):
            assert runtime.spawn(int, ("7",), node=node).result(timeout=LIMIT) == 7
            assert runtime.spawn(int, ("7",), node=node, own_thread=True).result(timeout=LIMIT) == 7
        for unknown in (0, 4, -1, 1 << 70):
            with pytest.raises(ValueError, match=r"node must be .* \[3, 8\]") as raised:
                runtime.spawn(int, node=unknown)
            assert str(unknown) in str(raised.value)
        with pytest.raises(TypeError, match="node must be"):
            runtime.spawn(int, node="3")  # type: ignore[call-overload]
    assert runtime.stats().remote_steals <= runtime.stats().steals


def test_with_numa_off_there_is_one_node() -> None:
    with Runtime(workers=2, numa="off") as runtime:
        assert runtime.spawn(int, node=0).result(timeout=LIMIT) == 0
        with pytest.raises(ValueError, match="node must be"):
            runtime.spawn(int, node=1)


def test_a_node_that_loses_its_workers_loses_none_of_its_tasks(made_up: Topology) -> None:
    with Runtime(workers=4, numa=made_up) as runtime:
        for workers in (1, 4, 1, 2) * 5:
            tasks = [runtime.spawn(int, node=node) for node in (3, 8) * 20]
            runtime.workers = workers
            for task in tasks:
                task.result(timeout=LIMIT)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no thread to a CPU")
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_pinned_workers_run_on_their_core_and_the_caller_stays_where_it_was(
    run_program: Any, how: str
) -> None:
    run_program(
        f"""
        import penstock
        def cores(cpus):
            for cpu in cpus:
                try:
                    with open(f"/sys/devices/system/cpu/cpu{{cpu}}/topology/thread_siblings_list") as file:
                        parts = [part.split("-") for part in file.read().strip().split(",")]
                    yield {{cpu for first, *last in parts for cpu in range(int(first), int((last or [first])[0]) + 1)}}
                except OSError:
                    yield {{cpu}}
        mine = os.sched_getaffinity(0)
        with penstock.Runtime(workers=1, pin="core" if {how!r} == "argument" else None) as runtime:
            bound = runtime.go(os.sched_getaffinity, 0).result(timeout=30)
            alone = runtime.spawn(os.sched_getaffinity, (0,), own_thread=True).result(timeout=30)
        core = next(core for core in cores(mine) if bound <= core)
        assert bound == alone == core & mine, (bound, alone, core, mine)
        assert os.sched_getaffinity(0) == mine, "the thread that asked is where it was"
        print("ok")
        """,
        stdout="ok\n",
        env={"PENSTOCK_PIN": "core"} if how == "environment" else {},
    )


@pytest.mark.parametrize(
    ("argument", "value"), [("numa", "on"), ("numa", None), ("pin", "socket"), ("pin", True)]
)
def test_a_bad_placement_is_named(argument: str, value: Any) -> None:
    arguments: dict[str, Any] = {argument: value}
    with pytest.raises((TypeError, ValueError)) as raised:
        Runtime(**arguments)
    assert argument in str(raised.value)
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("variable", ["PENSTOCK_NUMA", "PENSTOCK_PIN"])
def test_a_bad_placement_variable_is_named(run_program: Any, variable: str) -> None:
    run_program(
        f"""
        import penstock
        try:
            penstock.go(int)
        except ValueError as error:
            assert {variable!r} in str(error) and "sideways" in str(error), error
            print("refused")
        """,
        stdout="refused\n",
        env={variable: "sideways"},
    )


def test_numa_can_be_turned_off_by_the_environment(run_program: Any) -> None:
    run_program(
        """
        import penstock
        try:
            penstock.default_runtime().spawn(int, node=penstock.Topology.detect().nodes[0].id + 1)
        except ValueError as error:
            assert "[0]" in str(error), error
            print("one node")
        """,
        stdout="one node\n",
        env={"PENSTOCK_NUMA": "off"},
    )


@pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="takes one of two CPUs away"
)
def test_workers_by_default_follow_the_cpus_that_the_process_may_use(run_program: Any) -> None:
    run_program(
        """
        import penstock
        from penstock import *
        cpus = os.sched_getaffinity(0)
        followers = [default_runtime(), Runtime(name="follows")]
        keepers = [Runtime(workers=len(cpus), name="argument"), Runtime(name="set later")]
        stops = Channel()
        def runs():
            while not stops.closed:
                sleep(0.02)
        tasks = [runtime.go(runs) for runtime in followers + keepers]
        keepers[1].workers = len(cpus)
        os.environ["PENSTOCK_WORKERS"] = str(len(cpus))
        keepers.append(Runtime(name="environment"))
        tasks.append(keepers[2].go(runs))
        for mask in ({min(cpus)}, cpus, {max(cpus)}):
            os.sched_setaffinity(0, mask)
            wait_until(lambda: all(runtime.workers == len(mask) for runtime in followers))
            assert [runtime.workers for runtime in keepers] == [len(cpus)] * 3
        stops.close()
        for task in tasks:
            task.result(timeout=30)
        """
    )
