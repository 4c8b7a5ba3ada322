"""`Executor` is a drop-in `concurrent.futures` executor: CPython's own tests say so, and what they do not ask."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import importlib.util
import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import Executor, go

LIMIT = 30.0  # seconds; only a hang reaches it
HERE = Path(__file__).resolve().parent


def folders_of_cpythons_tests() -> list[str]:
    """Where they are, if not with this interpreter."""
    if importlib.util.find_spec("test.test_concurrent_futures") is not None:
        return []
    tool = HERE.parent / "tools" / "cpython_tests.py"
    found = subprocess.run([sys.executable, tool], capture_output=True, text=True, timeout=200, check=False)
    if found.returncode:
        pytest.skip(f"this interpreter came without CPython's tests. {found.stderr.strip()}")
    return [found.stdout.strip()]


@pytest.mark.thread_unsafe(reason="runs CPython's tests in a process of their own")
def test_cpythons_own_tests_of_a_thread_pool_pass(tmp_path: Path) -> None:
    """Which of them do not apply, and why, is in `cpython/executor.py`."""
    command = [sys.executable, str(HERE / "cpython" / "executor.py"), *folders_of_cpythons_tests()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path, check=False)
    shown = ended.stdout + ended.stderr
    assert ended.returncode == 0, shown
    ran = int(ended.stdout.splitlines()[-1].split(" ran")[0])
    assert ran >= 40, shown


# What asks for an executor


def test_an_asyncio_loop_takes_it_for_a_call_and_as_its_default() -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        with Executor(2, thread_name_prefix="one") as executor:
            name = await loop.run_in_executor(executor, lambda: threading.current_thread().name)
        loop.set_default_executor(Executor(2, thread_name_prefix="default"))
        default = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        return [name, default, await asyncio.to_thread(int, "7")]

    assert asyncio.run(main()) == ["one_0", "default_0", 7]


def test_dask_computes_on_it(run_program: Any) -> None:
    run_program(
        """
        import dask, dask.threaded, penstock
        graph = {("square", i): (pow, i, 2) for i in range(100)}
        graph["sum"] = (sum, [("square", i) for i in range(100)])
        with penstock.Executor(4) as executor:
            print(dask.get(graph, "sum", pool=executor), dask.threaded.get(graph, "sum", pool=executor))
            with dask.config.set(pool=executor):
                where = dask.delayed(lambda: threading.current_thread().name)()
                print(where.compute(scheduler="threads").rpartition("_")[0])
        """,
        stdout="328350 328350\nExecutor-0\n",
    )


def test_wait_and_as_completed_of_the_standard_library_take_its_futures() -> None:
    with Executor(4) as executor:
        futures = [executor.submit(pow, i, 2) for i in range(20)]
        assert all(type(future) is concurrent.futures.Future for future in futures)
        assert {future.result() for future in concurrent.futures.as_completed(futures, LIMIT)} == {
            i * i for i in range(20)
        }
        assert concurrent.futures.wait(futures, LIMIT).not_done == set()


def test_a_task_may_submit_and_wait() -> None:
    with Executor(2) as executor:

        def body(n: int) -> int:
            return executor.submit(pow, n, 2).result(LIMIT)

        assert [task.result(timeout=LIMIT) for task in [go(body, n) for n in range(20)]] == [
            n * n for n in range(20)
        ]


def test_calls_may_use_the_runtime_to_their_end(run_program: Any) -> None:
    """Work that was submitted is finished at exit, when the runtime would start no more tasks."""
    run_program(
        """
        import penstock
        def call(n):
            time.sleep(0.05)
            print(penstock.go(pow, n, 2).result(timeout=30), flush=True)
        executor = penstock.Executor(1)
        for n in range(3):
            executor.submit(call, n)
        print("end of main")
        """,
        stdout="end of main\n0\n1\n4\n",
    )


# How many threads, and which


def test_at_most_max_workers_run_at_once_and_each_has_a_thread() -> None:
    gate, running = threading.Event(), threading.Semaphore(0)
    names: set[str] = set()

    def block() -> None:
        names.add(threading.current_thread().name)
        running.release()
        gate.wait(LIMIT)

    with Executor(3, thread_name_prefix="of this test") as executor:
        futures = [executor.submit(block) for _ in range(10)]
        for _ in range(3):
            assert running.acquire(timeout=LIMIT)
        assert names == {f"of this test_{i}" for i in range(3)}
        assert sum(future.running() for future in futures) == 3
        assert repr(executor).endswith(": open, 3 of 3 threads, 7 waiting>")
        gate.set()
    assert all(future.done() for future in futures)
    assert len(names) == 3


def test_many_threads_submit_at_once(threads: Any) -> None:
    sums: list[int] = []

    def submit(offset: int) -> None:
        sums.append(sum(f.result(LIMIT) for f in [executor.submit(pow, i + offset, 1) for i in range(200)]))

    with Executor(4) as executor:
        for offset in range(8):
            threads.start(submit, offset)
        threads.join()
        assert len(executor._threads) <= 4
    assert sorted(sums) == [19900 + 200 * offset for offset in range(8)]


@pytest.mark.parametrize("shut", ["again", "by two threads", "while calls run"])
def test_shutdown_may_come_more_than_once(shut: str, threads: Any) -> None:
    executor = Executor(4)
    futures = [executor.submit(pow, i, 2) for i in range(50)]
    if shut == "by two threads":
        threads.start(executor.shutdown)
        threads.start(executor.shutdown)
    if shut == "while calls run":
        executor.shutdown(wait=False)
    executor.shutdown()
    executor.shutdown()
    threads.join()
    assert [future.result(timeout=0) for future in futures] == [i * i for i in range(50)]
    assert not any(thread.is_alive() for thread in executor._threads)
    assert ": shut down, " in repr(executor)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)


def test_an_executor_that_is_dropped_finishes_its_calls_and_ends_its_threads() -> None:
    executor = Executor(2)
    futures = [executor.submit(pow, i, 2) for i in range(50)]
    threads, gone = executor._threads, weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    assert [future.result(LIMIT) for future in futures] == [i * i for i in range(50)]
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_failed_call_keeps_nothing_alive() -> None:
    class Argument:
        """Whose end is seen."""

    def fail(argument: Argument) -> None:
        raise ValueError

    gc.collect()
    gc.disable()
    try:
        with Executor(1) as executor:
            argument = Argument()
            gone = weakref.ref(argument)
            future = executor.submit(fail, argument)
            assert isinstance(future.exception(LIMIT), ValueError)
            executor.submit(int).result(LIMIT)  # the thread has let go of the call before
            del argument, future
        if not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled():
            assert gone() is None
    finally:
        gc.enable()
    gc.collect()
    assert gone() is None


# Failures around it


def test_a_broken_executor_says_so() -> None:
    def fail() -> None:
        raise ValueError("in the initializer")

    executor = Executor(1, initializer=fail)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        executor.submit(int).result(LIMIT)
    with pytest.raises(concurrent.futures.thread.BrokenThreadPool, match="initializer failed"):
        executor.submit(int)
    assert ": broken, " in repr(executor)
    executor.shutdown()


def test_without_threads_the_caller_gets_the_error_and_the_call_is_not_made(run_program: Any) -> None:
    run_program(
        """
        import penstock
        start, called = threading.Thread.start, []
        def refuse(thread):
            raise RuntimeError("can't start new thread")
        executor = penstock.Executor(2)
        threading.Thread.start = refuse
        try:
            executor.submit(called.append, 1)
        except RuntimeError as error:
            print(error)
        threading.Thread.start = start
        print(executor.submit(int, "7").result(timeout=30), called)
        gate = threading.Event()
        executor.submit(gate.wait)
        threading.Thread.start = refuse  # now there is a thread: it comes to the call
        future = executor.submit(called.append, 2)
        gate.set()
        future.result(timeout=30)
        print(called)
        """,
        stdout="can't start new thread\n7 []\n[2]\n",
    )


@pytest.mark.parametrize("order", ["before", "after"])
def test_ctrl_c_while_a_thread_starts_leaves_a_working_executor(run_program: Any, order: str) -> None:
    run_program(
        f"""
        import penstock
        interrupt_next_thread_start({order!r})
        with penstock.Executor(1) as executor:
            try:
                executor.submit(time.sleep, 0.01)
                print("lost")
            except KeyboardInterrupt:
                print("interrupted")
            print([executor.submit(int, "7").result(timeout=30) for _ in range(3)])
        """,
        stdout="interrupted\n[7, 7, 7]\n",
    )


def test_a_signal_handler_may_submit_while_its_thread_does(run_program: Any) -> None:
    run_program(
        """
        import signal, penstock
        handled = []
        def handler(number, frame):
            handled.append(executor.submit(int, "7"))
        with penstock.Executor(2) as executor:
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            futures = []
            while len(handled) < 50:
                futures.append(executor.submit(int, "7"))
            signal.setitimer(signal.ITIMER_REAL, 0)
            print({future.result(timeout=30) for future in futures + handled})
        """,
        stdout="{7}\n",
    )


def test_a_forked_child_does_not_wait_for_its_parents_threads(run_program: Any) -> None:
    run_program(
        """
        import warnings, penstock
        warnings.simplefilter("ignore", DeprecationWarning)
        executor = penstock.Executor(2)
        gate = threading.Event()
        blocked = [executor.submit(gate.wait) for _ in range(2)]
        wait_until(lambda: all(future.running() for future in blocked))
        child = os.fork()
        if child == 0:
            with penstock.Executor(2) as another:
                assert another.submit(int, "7").result(timeout=30) == 7
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        gate.set()
        """,
        stdout="3\n",
    )


def test_a_forked_child_goes_on_with_threads_of_its_own_and_parents_calls_fail_there(
    run_program: Any,
) -> None:
    run_program(
        """
        import warnings, penstock
        warnings.simplefilter("ignore", DeprecationWarning)
        executor = penstock.Executor(2)
        gate = threading.Event()
        called = []
        blocked = [executor.submit(gate.wait) for _ in range(3)]
        blocked[0].add_done_callback(called.append)
        wait_until(lambda: sum(future.running() for future in blocked) == 2)
        child = os.fork()
        if child == 0:
            for future in blocked:
                assert "not made in this process" in str(future.exception(timeout=30)), future
            assert not called, "that is of the parent"
            assert [executor.submit(abs, -n).result(timeout=30) for n in range(3)] == [0, 1, 2]
            executor.shutdown()
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        gate.set()
        assert all(future.result(timeout=30) for future in blocked)
        """,
        stdout="3\n",
    )


@pytest.mark.parametrize("ends", ["sys.exit(5)", "return 5", "raise ValueError(5)"])
def test_a_call_may_fork_and_goes_on_as_the_childs_main_thread(run_program: Any, ends: str) -> None:
    ended = run_program(
        f"""
        import warnings, penstock
        warnings.simplefilter("ignore", DeprecationWarning)
        def forks():
            child = os.fork()
            if child == 0:
                assert threading.current_thread() is threading.main_thread()
                {ends}
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with penstock.Executor(1) as executor:
            print(executor.submit(forks).result(timeout=30))
            print(executor.submit(int, "7").result(timeout=30))
        """,
        stderr=None,
    )
    status = {"sys.exit(5)": 5, "return 5": 0, "raise ValueError(5)": 1}[ends]
    assert ended.stdout == f"{status}\n7\n"
    assert ended.stderr.count("ValueError: 5") == (1 if status == 1 else 0)


# The object


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "max_workers must be greater than 0, not 0", {"max_workers": 0}),
        (ValueError, "max_workers must be greater than 0, not -1", {"max_workers": -1}),
        (TypeError, "max_workers must be None or an int > 0, not '2'", {"max_workers": "2"}),
        (TypeError, "initializer must be a callable or None, not 3", {"initializer": 3}),
    ],
)
def test_bad_arguments_are_named(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        Executor(**arguments)


def test_an_executor_is_weakly_referenceable_and_is_neither_copied_nor_pickled() -> None:
    with Executor(1) as executor:
        assert weakref.ref(executor)() is executor
        assert repr(executor).startswith("<penstock.Executor 'Executor-")
        for refused in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                refused(executor)
    assert isinstance(executor, concurrent.futures.Executor)


def test_the_default_number_of_threads_is_that_of_the_standard_executor() -> None:
    standard = concurrent.futures.ThreadPoolExecutor()
    assert penstock.Executor()._max_workers == standard._max_workers
