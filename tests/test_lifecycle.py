"""How programs end, fork and are interrupted. Each test is a program in a process of its own."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

parkings = pytest.mark.parametrize("parking", ["auto", "thread"])


def configured(parking: str, source: str) -> str:
    """The program with its way of parking set first."""
    return (
        f"import penstock\npenstock.configure(parking={parking!r}, workers=2)\nfrom penstock import *\n"
        + source
    )


# Exit


@parkings
def test_exit_with_a_thousand_parked_tasks_waits_for_nothing(run_program: Any, parking: str) -> None:
    run_program(
        configured(
            parking,
            dedent(
                """
                gate = Channel()
                def body():
                    try:
                        gate.recv()
                    finally:
                        print("a finally ran")
                tasks = [go(body) for _ in range(1000)]
                wait_until(lambda: gate.stats().recv_waits == 1000)
                print("end of main")
                """
            ),
        ),
        stdout="end of main\n",
    )


def test_exit_with_a_thousand_parked_async_tasks_waits_for_nothing(run_program: Any) -> None:
    run_program(
        """
        from penstock import *
        gate = Channel()
        async def body():
            try:
                await gate.arecv()
            finally:
                print("a finally ran")
        tasks = [go(body) for _ in range(1000)]
        wait_until(lambda: gate.stats().recv_waits == 1000)
        print("end of main")
        """,
        stdout="end of main\n",
    )


@parkings
def test_exit_with_a_task_in_time_sleep_does_not_wait_for_it(run_program: Any, parking: str) -> None:
    run_program(
        configured(
            parking,
            dedent(
                """
                started = Channel(1)
                def body():
                    started.send(None)
                    time.sleep(3600)
                task = go(body)
                started.recv()
                print("end of main")
                """
            ),
        ),
        stdout="end of main\n",
        limit=30.0,
    )


@parkings
def test_exit_with_running_workers_leaves_them(run_program: Any, parking: str) -> None:
    run_program(
        configured(
            parking,
            dedent(
                """
                started = Channel(4)
                def body():
                    started.send(None)
                    while True:
                        sum(range(100))
                tasks = [go(body) for _ in range(2)]
                for _ in tasks:
                    started.recv()
                print("end of main")
                """
            ),
        ),
        stdout="end of main\n",
        limit=30.0,
    )


def test_exit_with_tasks_in_a_ping_pong_leaves_them(run_program: Any) -> None:
    run_program(
        """
        from penstock import *
        a, b = Channel(), Channel()
        def left():
            while True:
                a.send(b.recv())
        def right():
            while True:
                b.send(1)
                a.recv()
        async def asleeper():
            while True:
                await asleep(0.001)
        tasks = [go(left), go(right), go(asleeper)]
        wait_until(lambda: a.stats().received > 100)
        print("end of main")
        """,
        stdout="end of main\n",
        env={"PENSTOCK_WORKERS": "4"},
    )


def test_queued_tasks_never_run_at_exit_and_their_coroutines_are_closed(run_program: Any) -> None:
    run_program(
        """
        from penstock import *
        async def queued():
            print("ran")
        gate = Channel()
        group = Group(limit=1)
        group.__enter__()
        group.go(gate.recv)
        tasks = [group.go(queued) for _ in range(10)] + [group.go(print, "ran") for _ in range(10)]
        wait_until(lambda: gate.stats().recv_waits == 1)
        print("end of main")
        """,
        stdout="end of main\n",
    )


@parkings
def test_exit_with_runtimes_that_nobody_left_waits_for_nothing(run_program: Any, parking: str) -> None:
    run_program(
        f"""
        import penstock
        from penstock import *
        gate = Channel()
        runtimes = [Runtime(workers=2, parking={parking!r}) for _ in range(3)]
        def parked():
            try:
                gate.recv()
            finally:
                print("a finally ran")
        async def aparked():
            try:
                await gate.arecv()
            finally:
                print("a finally ran")
        def blocked():
            go(parked)
            time.sleep(3600)
        def busy():
            while True:
                sum(range(100))
        tasks = []
        for runtime in runtimes:
            for own_thread in (False, True):
                for body in (parked, aparked, blocked, busy):
                    tasks.append(runtime.spawn(body, own_thread=own_thread))
        wait_until(lambda: gate.stats().recv_waits == 18)
        runtimes[0].shutdown(wait=False)
        print("end of main")
        """,
        stdout="end of main\n",
        limit=30.0,
    )


def test_exit_right_after_go_is_silent(run_program: Any) -> None:
    run_program(
        """
        import penstock
        async def work():
            await penstock.asleep(0.01)
        for i in range(200):
            penstock.go(work)
            penstock.go(penstock.sleep, 0.01)
            penstock.go(int)
        """,
        stdout="",
    )


def test_calls_after_the_end_raise_runtime_error(run_program: Any) -> None:
    """A module that outlives the runtime: its `__del__` runs while the interpreter takes itself down."""
    run_program(
        """
        import penstock
        class Late:
            def __init__(self, go, write):
                self.go, self.write = go, write
            def __del__(self):
                try:
                    self.go(int)
                except RuntimeError:
                    self.write(1, b"RuntimeError\\n")
        penstock.go(int).result()
        sys.modules["keeps it to the end"] = Late(penstock.go, os.write)
        """,
        stdout="RuntimeError\n",
    )


def test_an_exit_handler_sees_a_working_runtime_or_a_runtime_error_never_a_hang(run_program: Any) -> None:
    run_program(
        """
        import atexit, penstock
        @atexit.register
        def late():
            try:
                print(penstock.go(int, "7").result(timeout=10))
            except RuntimeError:
                print(7)
        penstock.go(int).result()
        """,
        stdout="7\n",
    )


def test_sys_exit_and_errors_in_main_keep_their_status(run_program: Any) -> None:
    parked = "import penstock\ntask = penstock.go(penstock.Channel().recv)\n"
    run_program(parked + "sys.exit(3)", returncode=3)
    ended = run_program(parked + "raise KeyError('of main')", returncode=1, stderr=None)
    assert ended.stderr.count("Traceback") == 1
    assert "of main" in ended.stderr


def test_threads_that_are_not_needed_any_more_end_in_silence(run_program: Any) -> None:
    run_program(
        configured(
            "thread",
            dedent(
                """
                def ours():
                    return sum(thread.name.startswith("penstock-") for thread in threading.enumerate())
                gate = Channel()
                tasks = [go(gate.recv) for _ in range(50)]
                wait_until(lambda: gate.stats().recv_waits == 50)
                assert ours() >= 50, ours()
                for i in range(50):
                    gate.send(i, timeout=30)
                assert sorted(task.result(timeout=30) for task in tasks) == list(range(50))
                wait_until(lambda: ours() < 10, limit=50)
                print(go(int).result(timeout=30))
                """
            ),
        ),
        stdout="0\n",
    )


def test_a_process_that_only_imported_the_package_has_no_threads_of_it(run_program: Any) -> None:
    run_program(
        """
        import penstock
        channel = penstock.Channel(1)
        channel.send(1)
        channel.recv()
        print(len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1)
        """,
        stdout="1\n",
    )


def test_a_multiprocessing_spawn_child_starts_without_a_runtime(run_program: Any, tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        dedent(
            """
            import multiprocessing, threading, penstock
            def child(queue):
                before = threading.active_count()
                queue.put((before <= 2, penstock.go(int, "5").result(timeout=30)))
            if __name__ == "__main__":
                task = penstock.go(penstock.Channel().recv)
                context = multiprocessing.get_context("spawn")
                queue = context.SimpleQueue()
                process = context.Process(target=child, args=(queue,))
                process.start()
                print(queue.get())
                process.join()
                print(process.exitcode)
            """
        )
    )
    run_program(
        f"import runpy; sys.argv = [{str(program)!r}]; runpy.run_path({str(program)!r}, run_name='__main__')",
        stdout="(True, 5)\n0\n",
    )


# Fork

FORK = """
import penstock, warnings
from penstock import *
warnings.filterwarnings("ignore", message=".*multi-threaded.*fork.*", category=DeprecationWarning)

def wait_for(pid):
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status

def busy(gate):
    while True:
        try:
            gate.recv(timeout=0.01)
            return
        except TimeoutError:
            pass
"""


@parkings
def test_a_fork_from_main_with_live_workers_leaves_the_child_a_fresh_runtime(
    run_program: Any, parking: str
) -> None:
    run_program(
        configured(
            parking,
            FORK
            + dedent(
                """
                gate, parked = Channel(), Channel()
                tasks = [go(busy, gate) for _ in range(4)] + [go(parked.recv) for _ in range(20)]
                wait_until(lambda: parked.stats().recv_waits == 20)
                pid = os.fork()
                if pid == 0:
                    echo = Channel()
                    answer = go(lambda: echo.recv() + 1)
                    echo.send(1, timeout=30)
                    assert answer.result(timeout=30) == 2
                    async def work():
                        await asleep(0.001)
                        return 5
                    assert go(work).result(timeout=30) == 5
                    with Group() as group:
                        for _ in range(100):
                            group.go(sleep, 0.001)
                    sys.exit(0)
                wait_for(pid)
                for _ in range(4):
                    gate.send(1, timeout=30)
                for _ in range(20):
                    parked.send(1, timeout=30)
                assert all(task.result(timeout=30) in (None, 1) for task in tasks)
                print("parent goes on")
                """
            ),
        ),
        stdout="parent goes on\n",
    )


@parkings
def test_a_fork_from_a_task_goes_on_as_an_ordinary_call_of_the_childs_main_thread(
    run_program: Any, parking: str
) -> None:
    run_program(
        configured(
            parking,
            FORK
            + dedent(
                """
                gate, step = Channel(), Channel(1)
                others = [go(busy, gate) for _ in range(4)]
                def body():
                    step.send("parked once")
                    assert step.recv() == "parked once"
                    yield_now()
                    parent = os.getpid()
                    pid = os.fork()
                    if pid == 0:
                        assert os.getppid() == parent
                        assert threading.current_thread() is threading.main_thread()
                        assert threading.active_count() == 1, threading.enumerate()
                        echo = Channel()
                        answer = go(echo.recv)
                        echo.send(3, timeout=30)
                        assert answer.result(timeout=30) == 3
                        sleep(0.001)
                        yield_now()
                        os._exit(0)
                    wait_for(pid)
                    return "parent's task goes on"
                print(go(body).result(timeout=50))
                for _ in others:
                    gate.send(1, timeout=30)
                for other in others:
                    other.result(timeout=30)
                """
            ),
        ),
        stdout="parent's task goes on\n",
    )


@parkings
def test_a_forked_task_that_returns_or_raises_ends_the_child(run_program: Any, parking: str) -> None:
    """Nothing of the parent's main thread runs in the child: its stack is not the one that forked."""
    run_program(
        configured(
            parking,
            FORK
            + dedent(
                """
                def returns():
                    if os.fork() == 0:
                        return None
                    os.wait()
                go(returns).result(timeout=50)
                def exits():
                    pid = os.fork()
                    if pid == 0:
                        sys.exit(7)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                print(go(exits).result(timeout=50))
                print("main ends", flush=True)
                """
            ),
        ),
        stdout="7\nmain ends\n",
    )


@parkings
def test_after_a_fork_each_runtime_starts_anew_when_it_is_used(run_program: Any, parking: str) -> None:
    """One that was shut down stays so; the parent's go on."""
    run_program(
        f"""
        import penstock, warnings
        from penstock import *
        warnings.simplefilter("ignore")
        gate = Channel(10)
        used = Runtime(workers=2, parking={parking!r}, name="used")
        closing, ended = Runtime(workers=1, name="closing"), Runtime(workers=1, name="ended")
        tasks = [runtime.spawn(gate.recv, own_thread=own) for runtime in (used, closing) for own in (False, True)]
        tasks.append(go(gate.recv))
        ended.go(int).result(timeout=30)
        assert ended.shutdown(timeout=30) and not closing.shutdown(wait=False)
        wait_until(lambda: gate.stats().recv_waits == 5)
        child = os.fork()
        if child == 0:
            def name():
                return threading.current_thread().name
            assert threading.active_count() == 1
            assert used.go(name).result(timeout=30).startswith("penstock-used-")
            assert used.spawn(name, own_thread=True).result(timeout=30).startswith("penstock-used-")
            assert go(name).result(timeout=30).startswith("penstock-")
            for runtime in (closing, ended):
                assert runtime.shutdown(timeout=30) is True, "nothing of it is here"
                try:
                    runtime.go(int)
                except RuntimeError:
                    continue
                raise AssertionError("taken")
            assert used.stats().tasks_started == 2
            assert used.shutdown(timeout=30)
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        for _ in tasks:
            gate.send(1, timeout=30)
        assert [task.result(timeout=30) for task in tasks] == [1] * 5
        assert used.shutdown(timeout=30) and closing.shutdown(timeout=30)
        print("ok")
        """,
        stdout="ok\n",
    )


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_a_task_with_its_own_thread_may_fork(run_program: Any, colour: str) -> None:
    run_program(
        f"""
        import penstock, warnings
        warnings.simplefilter("ignore")
        def forks():
            child = os.fork()
            if child == 0:
                assert penstock.go(int, "7").result(timeout=30) == 7
                sys.exit(5)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        async def aforks():
            return forks()
        function = forks if {colour!r} == "plain" else aforks
        with penstock.Runtime(workers=1) as runtime:
            task = runtime.spawn(function, own_thread=True)
        print(task.result())
        """,
        stdout="5\n",
    )


@parkings
def test_channels_keep_their_items_and_lose_their_waiters_in_a_forked_child(
    run_program: Any, parking: str
) -> None:
    run_program(
        configured(
            parking,
            FORK
            + dedent(
                """
                full, empty = Channel(2), Channel()
                full.send(1)
                full.send(2)
                senders = [go(full.send, 3 + i) for i in range(3)]
                receivers = [go(empty.recv) for _ in range(3)]
                wait_until(lambda: full.stats().send_waits == 3 and empty.stats().recv_waits == 3)
                pid = os.fork()
                if pid == 0:
                    assert len(full) == 2
                    assert [full.recv(timeout=30), full.recv(timeout=30)] == [1, 2]
                    try:
                        full.recv_nowait()
                    except Empty:
                        pass
                    else:
                        raise AssertionError("a waiter of the parent sent")
                    try:
                        empty.send_nowait("to nobody")
                    except Full:
                        pass
                    else:
                        raise AssertionError("a waiter of the parent received")
                    answer = go(empty.recv)
                    empty.send("to the child's", timeout=30)
                    assert answer.result(timeout=30) == "to the child's"
                    sys.exit(0)
                wait_for(pid)
                assert sorted(full.recv(timeout=30) for _ in range(5)) == [1, 2, 3, 4, 5]
                for _ in receivers:
                    empty.send(9, timeout=30)
                print([receiver.result(timeout=30) for receiver in receivers])
                """
            ),
        ),
        stdout="[9, 9, 9]\n",
    )


@parkings
def test_unfinished_tasks_of_the_parent_do_not_exist_in_a_forked_child_and_say_so(
    run_program: Any, parking: str
) -> None:
    run_program(
        configured(
            parking,
            FORK
            + dedent(
                """
                import asyncio
                gate = Channel()
                done, parked = go(int, "7"), go(gate.recv)
                done.result(timeout=30)
                wait_until(lambda: gate.stats().recv_waits == 1)
                later = as_completed([parked])
                begun = Channel()
                def call(n):
                    if n == 0:
                        return begun.recv()
                    begun.send("the next one has begun")
                    return gate.recv()
                results = penstock.map(call, range(2))
                assert next(results) == "the next one has begun"
                pid = os.fork()
                if pid == 0:
                    async def awaits():
                        await parked
                    def refused(call, *args):
                        try:
                            call(*args)
                        except RuntimeError as error:
                            assert "does not exist in this process" in str(error), error
                        else:
                            raise AssertionError(f"{call} did not say so")
                    for ask in (parked.result, parked.exception):
                        refused(ask)
                        refused(ask, 0)
                    refused(parked.add_done_callback, print)
                    refused(wait, [done, parked])
                    refused(as_completed, [done, parked])
                    refused(next, later)
                    refused(next, results)
                    refused(asyncio.run, awaits())
                    refused(go(awaits).result, 30)
                    assert not parked.cancel() and not parked.done() and "of another process" in repr(parked)
                    results.close()
                    assert done.result() == 7 and wait([done]).done == {done}
                    assert "finished" in repr(done)
                    sys.exit(0)
                wait_for(pid)
                for _ in range(2):
                    gate.send(1, timeout=30)
                print(parked.result(timeout=30), next(later) is parked, list(results))
                """
            ),
        ),
        stdout="1 True [1]\n",
    )


@parkings
@pytest.mark.parametrize(
    "call",
    [
        "body(leaves)",
        "go(body, leaves).result(timeout=50)",
        "default_runtime().spawn(body, (leaves,), own_thread=True).result(timeout=50)",
    ],
    ids=["main", "task", "own_thread"],
)
def test_a_group_is_left_in_a_forked_child_without_the_tasks_it_had_in_the_parent(
    run_program: Any, parking: str, call: str
) -> None:
    run_program(
        configured(
            parking,
            FORK
            + dedent(
                """
                gate = Channel()
                def failing():
                    raise ValueError("of the child's own task")
                def body(leaves):
                    try:
                        with Group(limit=1) as group:
                            for _ in range(3):
                                group.go(gate.recv)
                            wait_until(lambda: gate.stats().recv_waits)
                            pid = os.fork()
                            if pid == 0:
                                assert group.go(int, "7").result(timeout=30) == 7
                                if leaves == "failing":
                                    group.go(failing)
                                    sleep(3600)  # which the failure interrupts
                                if leaves == "raising":
                                    raise ValueError("of the body")
                            else:
                                wait_for(pid)
                                for n in range(3):
                                    gate.send(n, timeout=30)
                    except ExceptionGroup as errors:
                        assert pid == 0 and [type(error) for error in errors.exceptions] == [ValueError]
                        os._exit(0)
                    if pid == 0:
                        os._exit(0 if leaves == "well" else 1)
                for leaves in ("well", "failing", "raising"):
                    CALL
                    print(leaves)
                """
            ).replace("CALL", call),
        ),
        stdout="well\nfailing\nraising\n",
    )


def test_only_cpythons_own_warning_shows_at_a_fork(run_program: Any) -> None:
    ended = run_program(
        """
        import penstock
        penstock.go(int).result()
        pid = os.fork()
        if pid == 0:
            penstock.go(int).result(timeout=30)
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
        stdout="0\n",
        stderr=None,
    )
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert all("DeprecationWarning" in line or "os.fork()" in line for line in lines), ended.stderr


def test_a_subprocess_started_from_a_task_obeys_sigterm(run_program: Any) -> None:
    """Workers block no signal: the mask would be inherited."""
    run_program(
        """
        import penstock, subprocess
        def body():
            child = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            child.stdout.readline()
            child.terminate()
            status = child.wait(timeout=30)
            child.stdin.close()
            child.stdout.close()
            return status
        print(penstock.go(body).result(timeout=50))
        """,
        stdout="-15\n",
    )


# Ctrl-C

WAITS = {
    "recv": "Channel().recv()",
    "send": "Channel().send(1)",
    "result": "go(Channel().recv).result()",
    "sleep": "sleep(3600)",
    "iteration": "list(Channel())",
    "recv with a timeout": "Channel().recv(timeout=3600)",
    "group": "with Group() as group:\n        group.go(Channel().recv)",
}


@pytest.mark.parametrize("sent_by", ["kernel", "main", "other"])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c_interrupts_the_main_thread_whichever_thread_gets_the_signal(
    run_program: Any, wait: str, sent_by: str
) -> None:
    """Ten times the contract's 100 ms, because the machine may be busy."""
    send = {
        "kernel": "os.kill(os.getpid(), signal.SIGINT)",
        "main": "signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)",
        "other": "signal.raise_signal(signal.SIGINT)",
    }[sent_by]
    source = f"""
import signal, penstock
from penstock import *

async def arecv():
    await Channel().arecv()

go(int).result()
frames = sys._current_frames
sent = None

def interrupt():
    global sent
    main = threading.main_thread().ident
    # The main thread stands in the wait once its frame keeps still on that line.
    wait_until(lambda: waiting.is_set())
    last = None
    still = 0
    def stands():
        nonlocal last, still
        frame = frames()[main]
        here = (id(frame), frame.f_lasti)
        still = still + 1 if here == last else 0
        last = here
        return still > 50
    wait_until(stands)
    sent = time.monotonic()
    {send}

waiting = threading.Event()
threading.Thread(target=interrupt, daemon=True).start()
try:
    waiting.set()
    {wait}
except KeyboardInterrupt:
    took = time.monotonic() - sent
    assert took < 1.0, took
    print("interrupted")
assert go(int, "3").result(timeout=30) == 3
"""
    run_program(source, stdout="interrupted\n", env={"PENSTOCK_WORKERS": "2"})


@pytest.mark.parametrize("order", ["before", "after"])
def test_ctrl_c_while_a_thread_of_ours_starts_reaches_the_program(run_program: Any, order: str) -> None:
    """`Thread.start()` waits in Python code, where the handler may run."""
    run_program(
        f"""
        import penstock
        interrupt_next_thread_start({order!r})
        try:
            task = penstock.go(int, "7")
            task.result(timeout=30)
            print("lost")
        except KeyboardInterrupt:
            print("interrupted")
        print([penstock.go(int, "7").result(timeout=30) for _ in range(3)])
        """,
        stdout="interrupted\n[7, 7, 7]\n",
        env={"PENSTOCK_WORKERS": "2"},
    )


def test_a_signal_handler_runs_while_the_main_thread_waits_and_the_wait_goes_on(run_program: Any) -> None:
    run_program(
        """
        import signal
        from penstock import *
        channel = Channel()
        signal.signal(signal.SIGUSR1, lambda number, frame: channel.close())
        def interrupt():
            wait_until(lambda: channel.stats().recv_waits == 1)
            os.kill(os.getpid(), signal.SIGUSR1)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            channel.recv()
        except ChannelClosed:
            print("closed by the handler")
        """,
        stdout="closed by the handler\n",
    )


def test_an_interrupted_receive_loses_nothing(run_program: Any) -> None:
    run_program(
        """
        import signal
        from penstock import *
        channel = Channel()
        got = []
        waits = False
        def interrupt(*_):  # where `waits` is true an interrupt is expected; elsewhere it would end the program
            global waits
            if waits:
                waits = False
                raise KeyboardInterrupt
        signal.signal(signal.SIGINT, interrupt)
        def produce():
            for i in range(300):
                channel.send(i)
                if i % 10 == 0:
                    os.kill(os.getpid(), signal.SIGINT)
        producer = go(produce)
        # A KeyboardInterrupt may also come between the return of `recv` and `append`: then this program loses the
        # item, not the channel. So the count is the channel's own.
        while channel.stats().received < 300:
            try:
                waits = True
                got.append(channel.recv(timeout=30))
                waits = False
            except KeyboardInterrupt:
                pass
        producer.result(timeout=30)
        stats = channel.stats()
        print(stats.sent, stats.received, got == sorted(got))
        """,
        stdout="300 300 True\n",
    )
