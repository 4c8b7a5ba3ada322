"""Calls that block outside of penstock's knowledge: `blocking`, `ablocking`, and tasks that block without saying so."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import Cancelled, Group, ablocking, blocking, go

LIMIT = 30.0  # seconds; only a hang reaches it

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def call_in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return blocking(function, *args)


def call_in_task(function: Callable[..., Any], *args: Any) -> Any:
    return go(blocking, function, *args).result(timeout=LIMIT)


def call_in_async_task(function: Callable[..., Any], *args: Any) -> Any:
    async def body() -> Any:
        return await ablocking(function, *args)

    return go(body).result(timeout=LIMIT)


def call_in_asyncio(function: Callable[..., Any], *args: Any) -> Any:
    async def body() -> Any:
        return await ablocking(function, *args)

    return asyncio.run(body())


CALLS = [call_in_thread, call_in_task, call_in_async_task, call_in_asyncio]
callers = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__.removeprefix("call_in_"))


# What comes back


@callers
def test_a_call_returns_what_the_function_did(call: Callable[..., Any]) -> None:
    made = object()
    assert call(lambda: made) is made


@callers
def test_a_call_runs_on_a_named_daemon_thread_of_its_own(call: Callable[..., Any]) -> None:
    thread = call(threading.current_thread)
    assert isinstance(thread, threading.Thread)
    assert thread.name.startswith("penstock-blocking-")
    assert thread.daemon
    assert thread is not threading.current_thread()


@callers
@pytest.mark.parametrize(
    "kind", [ValueError, KeyError, SystemExit, KeyboardInterrupt, Cancelled, GeneratorExit]
)
def test_a_call_raises_the_very_exception_that_the_function_did(
    call: Callable[..., Any], kind: type[BaseException]
) -> None:
    failure = kind("of the function")

    def fail() -> None:
        raise failure

    def catch() -> BaseException | None:
        try:
            blocking(fail)
        except BaseException as error:
            return error
        return None

    async def acatch() -> BaseException | None:
        try:
            await ablocking(fail)
        except BaseException as error:
            return error
        return None

    if call is call_in_thread:
        assert catch() is failure
    elif call is call_in_task:
        assert go(catch).result(timeout=LIMIT) is failure
    elif call is call_in_async_task:
        assert go(acatch).result(timeout=LIMIT) is failure
    else:
        assert asyncio.run(acatch()) is failure


def test_the_traceback_shows_the_function_that_failed() -> None:
    def the_culprit() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here") as caught:
        blocking(the_culprit)
    assert caught.traceback[-1].name == "the_culprit"


def stop() -> None:
    raise StopIteration(5)


def test_stop_iteration_passes_through_a_plain_call() -> None:
    for call in (call_in_thread, call_in_task):
        with pytest.raises(StopIteration) as caught:
            call(stop)
        assert caught.value.value == 5


def a_call() -> Awaitable[Any]:
    return ablocking(stop)


def a_task() -> Awaitable[Any]:
    return go(stop)


@pytest.mark.parametrize("awaited", [a_call, a_task])
def test_stop_iteration_does_not_look_like_the_result_of_an_await(
    awaited: Callable[[], Awaitable[Any]],
) -> None:
    async def body() -> None:
        with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
            await awaited()
        assert isinstance(caught.value.__cause__, StopIteration)

    go(body).result(timeout=LIMIT)
    asyncio.run(body())


@callers
def test_a_call_gets_all_arguments(call: Callable[..., Any]) -> None:
    assert call(lambda *args, **kwargs: (args, kwargs)) == ((), {})
    assert call(lambda *args: args, 1, None, "x") == (1, None, "x")
    assert blocking(lambda *args, **kwargs: (args, kwargs), 1, fn=2, timeout=3) == (
        (1,),
        {"fn": 2, "timeout": 3},
    )


def test_a_coroutine_that_a_plain_function_makes_is_its_result() -> None:
    async def later() -> int:
        return 7

    assert asyncio.run(blocking(lambda: later())) == 7


@callers
def test_a_call_runs_in_a_copy_of_the_callers_context(call: Callable[..., Any]) -> None:
    def change() -> str:
        seen = variable.get()
        variable.set("by the call")
        return seen

    def in_a_context() -> None:
        variable.set("by the caller")
        assert call(change) == "by the caller"
        assert variable.get() == "by the caller"

    contextvars.copy_context().run(in_a_context)


def test_a_context_does_not_leak_from_one_call_into_the_next() -> None:
    def change() -> str:
        seen = variable.get()
        variable.set("by an earlier call")
        return seen

    empty = contextvars.Context()
    assert {empty.run(blocking, change) for _ in range(20)} == {"unset"}


# What is refused


@pytest.mark.parametrize("function", [blocking, ablocking], ids=["blocking", "ablocking"])
def test_only_plain_callables_are_called(function: Callable[..., Any]) -> None:
    async def coroutine_function() -> None: ...

    with pytest.raises(TypeError, match="fn must be callable, not 5"):
        function(5)
    with pytest.raises(TypeError, match=rf"fn must be a plain callable.*{function.__name__}\(\).*await it"):
        function(coroutine_function)
    coroutine = coroutine_function()
    with pytest.raises(TypeError, match="fn must be a plain callable"):
        function(coroutine)
    coroutine.close()
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) missing required argument 'fn'"):
        function()


def test_the_plain_form_in_an_async_task_names_the_awaitable_one_and_calls_nothing() -> None:
    called: list[int] = []

    async def body() -> None:
        blocking(called.append, 1)

    with pytest.raises(RuntimeError, match="ablocking"):
        go(body).result(timeout=LIMIT)
    assert call_in_thread(list, called) == []


def test_an_awaitable_call_begins_when_it_is_awaited_and_only_once() -> None:
    called: list[int] = []

    async def body() -> None:
        before = len(called)
        awaitable = ablocking(called.append, 1)
        await penstock.asleep(0.001)
        assert len(called) == before
        await awaitable
        with pytest.raises(RuntimeError, match="awaited once"):
            await awaitable

    go(body).result(timeout=LIMIT)
    asyncio.run(body())
    assert called == [1, 1]
    awaitable = ablocking(called.append, 1)
    with pytest.raises(RuntimeError, match="coroutine of asyncio or trio"):
        next(iter(awaitable.__await__()))
    del awaitable
    assert called == [1, 1]


# What goes on meanwhile


def test_a_task_parks_while_its_call_blocks() -> None:
    gates = [threading.Event() for _ in range(20)]
    tasks = [go(blocking, gate.wait, LIMIT) for gate in gates]
    assert [go(int, "7").result(timeout=LIMIT) for _ in range(50)] == [7] * 50
    for gate in reversed(gates):
        gate.set()
    assert all(task.result(timeout=LIMIT) for task in tasks)


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_ten_thousand_calls_at_once(colour: str) -> None:
    called: list[int] = []

    def sleep(number: int) -> None:
        time.sleep(0.01)
        called.append(number)

    async def acall(number: int) -> None:
        await ablocking(sleep, number)

    with Group() as group:
        for number in range(10_000):
            if colour == "plain":
                group.go(blocking, sleep, number)
            else:
                group.go(acall, number)
    assert sorted(called) == list(range(10_000))


def test_many_threads_call_at_once(threads: Any) -> None:
    sums: list[int] = []

    def caller(offset: int) -> None:
        sums.append(sum(blocking(sum, (i, offset)) for i in range(200)))

    for offset in range(8):
        threads.start(caller, offset)
    threads.join()
    assert sorted(sums) == [19900 + 200 * offset for offset in range(8)]


@pytest.mark.thread_unsafe(reason="takes all threads of the pool")
def test_at_most_512_calls_run_at_once_and_more_wait_for_their_turn(wait_until: Any) -> None:
    gate = threading.Event()
    running: list[int] = []

    def block(number: int) -> None:
        running.append(number)
        gate.wait(LIMIT)

    with Group() as group:
        try:
            for number in range(600):
                group.go(blocking, block, number)
            wait_until(lambda: len(running) == 512)
            ours = [t for t in threading.enumerate() if t.name.startswith("penstock-blocking-")]
            assert len(ours) == 512
            last = go(blocking, running.append, -1)  # queued behind them: abandoned there, it is never made
            wait_until(lambda: repr(last).count("parked"))
            last.cancel()
            with pytest.raises(Cancelled):
                last.result(timeout=LIMIT)
        finally:
            gate.set()
    assert sorted(running) == list(range(600))


def test_a_call_may_call() -> None:
    assert blocking(blocking, go(lambda: 3).result) == 3


@pytest.mark.thread_unsafe(reason="takes all threads of the pool at once")
def test_calls_that_all_call_again_do_not_wait_for_themselves() -> None:
    together = threading.Barrier(512, timeout=LIMIT)

    def outer(number: int) -> int:
        together.wait()  # from here on no thread is free, until some of these have ended
        return blocking(abs, -number)

    with Group() as group:
        tasks = [group.go(blocking, outer, number) for number in range(512)]
    assert [task.result() for task in tasks] == list(range(512))


def test_a_call_that_counts_on_a_thread_which_does_not_start_is_refused_too(run_program: Any) -> None:
    run_program(
        """
        import penstock
        from penstock import *
        async def acall():
            return await ablocking(int, "7")
        go(int).result(timeout=30)
        runtime = penstock.default_runtime()
        wait_until(lambda: runtime.stats().threads == 2)  # so one more is allowed, for calls
        start = threading.Thread.start
        def fails(thread):
            global task
            parks = runtime.stats().parks
            task = go(acall)
            wait_until(lambda: runtime.stats().parks > parks)
            raise RuntimeError("can't start new thread")
        threading.Thread.start = fails
        for refused in (lambda: blocking(int, "7"), lambda: task.result(timeout=30)):
            try:
                refused()
            except RuntimeError as error:
                print(error)
        threading.Thread.start = start
        print(blocking(int, "7"), go(acall).result(timeout=30))
        """,
        env={"PENSTOCK_MAX_THREADS": "3", "PENSTOCK_WORKERS": "1"},
        stdout="can't start new thread\nthere is no thread for the call: PENSTOCK_MAX_THREADS allows no more\n7 7\n",
    )


def test_a_nested_call_without_a_thread_is_made_on_the_callers_in_a_context_of_its_own(
    run_program: Any,
) -> None:
    run_program(
        """
        import contextvars, penstock
        from penstock import *
        variable = contextvars.ContextVar("variable", default="unset")
        def inner(number):
            assert variable.get() == "outer's"
            variable.set("inner's")
            if number:
                raise ValueError(number)
            return threading.get_ident()
        def outer():
            variable.set("outer's")
            assert blocking(inner, 0) == threading.get_ident()
            try:
                blocking(inner, 3)
            except ValueError as error:
                assert error.args == (3,)
            else:
                raise AssertionError("not raised")
            assert blocking(blocking, blocking, inner, 0) == threading.get_ident()
            try:  # a thread is needed only where the caller may go on before the end
                with timeout(0.001):
                    blocking(time.sleep, 3600)
            except TimeoutError:
                pass
            return variable.get()
        print(blocking(outer), variable.get())
        """,
        env={"PENSTOCK_MAX_THREADS": "1"},
        stdout="outer's unset\n",
    )


def test_threads_for_calls_count_among_those_that_are_allowed(run_program: Any) -> None:
    run_program(
        """
        import penstock
        from penstock import *
        most = 0
        def call(number):
            global most
            most = max(most, threading.active_count() - 1)
            return number
        with Group() as group:
            tasks = [group.go(blocking, call, number) for number in range(200)]
        assert [task.result() for task in tasks] == list(range(200))
        print(most <= 6)
        """,
        env={"PENSTOCK_MAX_THREADS": "6", "PENSTOCK_WORKERS": "2"},
        stdout="True\n",
    )


def test_a_call_for_which_no_thread_is_allowed_is_refused(run_program: Any) -> None:
    run_program(
        """
        import asyncio, penstock
        from penstock import *
        called = []
        def refused():
            try:
                blocking(called.append, 1)
            except RuntimeError as error:
                return str(error)
        async def arefused():
            try:
                await ablocking(called.append, 1)
            except RuntimeError as error:
                return str(error)
        answers = {go(refused).result(timeout=30), go(arefused).result(timeout=30), refused(), asyncio.run(arefused())}
        print(answers, called)
        """,
        env={"PENSTOCK_MAX_THREADS": "1"},
        stdout="{'there is no thread for the call: PENSTOCK_MAX_THREADS allows no more'} []\n",
    )


def test_an_idle_thread_takes_the_next_call(run_program: Any) -> None:
    run_program(
        """
        import penstock
        seen = set()
        for _ in range(50):
            seen.add(penstock.blocking(threading.current_thread).name)
            # Without the GIL a caller may come before the thread of its last call has come to rest.
            wait_until(lambda: all(not t.name.startswith("penstock-b") or sys._current_frames().get(t.ident)
                                   for t in threading.enumerate()))
        print(len(seen) <= 3, seen if len(seen) > 3 else "")
        """,
        stdout="True \n",
    )


def test_idle_threads_end(run_program: Any) -> None:
    run_program(
        """
        import penstock
        def ours():
            return sum(thread.name.startswith("penstock-blocking-") for thread in threading.enumerate())
        gate = threading.Event()
        with penstock.Group() as group:
            for _ in range(50):
                group.go(penstock.blocking, gate.wait)
            wait_until(lambda: ours() == 50)
            gate.set()
        wait_until(lambda: ours() == 0, limit=50)
        print(penstock.blocking(int, "7"))
        """,
        stdout="7\n",
    )


# Who goes on before the end


@pytest.mark.parametrize("colour", ["plain", "async"])
def test_a_cancelled_caller_goes_on_and_its_call_is_abandoned(
    colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)
    started, gate, ended = threading.Event(), threading.Event(), threading.Event()

    class Failure(Exception):
        """Whose end shows that the call is gone."""

    def call() -> None:
        started.set()
        gate.wait(LIMIT)
        failure = Failure()
        weakref.finalize(failure, ended.set)
        raise failure

    def plain() -> str:
        try:
            blocking(call)
        except Cancelled:
            return "went on"
        return "waited"

    async def coroutine() -> str:
        try:
            await ablocking(call)
        except Cancelled:
            return "went on"
        return "waited"

    task: penstock.Task[str] = go(plain) if colour == "plain" else go(coroutine)
    assert started.wait(LIMIT)
    task.cancel()
    assert task.result(timeout=LIMIT) == "went on"
    gate.set()
    for _ in range(3000):
        if ended.wait(0.01):
            break
        gc.collect()
    assert ended.is_set()
    assert reported == []


def test_a_caller_cancelled_before_does_not_make_the_call() -> None:
    called: list[int] = []
    ready, gate = threading.Event(), threading.Event()

    def plain() -> None:
        ready.set()
        gate.wait(LIMIT)
        blocking(called.append, 1)

    async def coroutine() -> None:
        ready.set()
        gate.wait(LIMIT)
        await ablocking(called.append, 2)

    for body in (plain, coroutine):
        ready.clear()
        gate.clear()
        task: penstock.Task[None] = go(body)
        assert ready.wait(LIMIT)
        task.cancel()
        gate.set()
        with pytest.raises(Cancelled):
            task.result(timeout=LIMIT)
    assert call_in_thread(list, called) == []


def test_an_asyncio_task_that_is_cancelled_goes_on(wait_until: Any) -> None:
    gate, started = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        gate.wait(LIMIT)

    async def main() -> None:
        task = asyncio.ensure_future(ablocking(call))
        await ablocking(started.wait, LIMIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ablocking(gate.wait, LIMIT), 0.01)

    try:
        asyncio.run(main())
    finally:
        gate.set()


def test_a_group_cancels_its_blocked_callers() -> None:
    gate, started = threading.Event(), threading.Semaphore(0)

    def call() -> None:
        started.release()
        gate.wait(LIMIT)

    def fail() -> None:
        for _ in range(10):
            assert started.acquire(timeout=LIMIT)
        raise ValueError("now")

    try:
        with pytest.raises(ExceptionGroup) as caught, Group() as group:
            for _ in range(10):
                group.go(blocking, call)
            group.go(blocking, fail)
        assert [type(error) for error in caught.value.exceptions] == [ValueError]
    finally:
        gate.set()


# Tasks that block without saying so


@pytest.mark.thread_unsafe(reason="takes a thousand threads")
@pytest.mark.parametrize("parking", ["auto", "thread"])
def test_a_thousand_tasks_in_time_sleep_sleep_at_once(run_program: Any, parking: str) -> None:
    """Ten times as many seconds as the contract's three, because the machine may be busy; one by one it were 1,000."""
    run_program(
        f"""
        import penstock
        penstock.configure(parking={parking!r})
        began = time.monotonic()
        with penstock.Group() as group:
            for _ in range(1000):
                group.go(time.sleep, 1)
        took = time.monotonic() - began
        assert took < 30, took
        print("slept")
        """,
        stdout="slept\n",
    )


# Exit, fork, signals, no more threads


@pytest.mark.parametrize("how", ["blocking(time.sleep, 3600)", "blocking(lambda: gate.recv())"])
def test_exit_with_calls_in_flight_is_silent(run_program: Any, how: str) -> None:
    run_program(
        f"""
        from penstock import *
        gate = Channel()
        def ours():
            return sum(thread.name.startswith("penstock-blocking-") for thread in threading.enumerate())
        tasks = [go(lambda: {how}) for _ in range(600)]
        wait_until(lambda: ours() == 512)
        print("end of main")
        """,
        stdout="end of main\n",
        limit=30.0,
    )


def test_exit_while_calls_come_and_go_is_silent(run_program: Any) -> None:
    run_program(
        """
        from penstock import *
        def body():
            while True:
                blocking(time.sleep, 0.0001)
        async def abody():
            while True:
                await ablocking(time.sleep, 0.0001)
        tasks = [go(body) for _ in range(20)] + [go(abody) for _ in range(20)]
        blocking(time.sleep, 0.2)
        print("end of main")
        """,
        stdout="end of main\n",
        limit=30.0,
    )


def test_calls_after_the_end_raise_runtime_error(run_program: Any) -> None:
    run_program(
        """
        import atexit, penstock
        penstock.blocking(int)
        @atexit.register
        def late():
            try:
                penstock.blocking(int)
            except RuntimeError as error:
                print(error)
        """,
        stdout="penstock has stopped: the interpreter is about to exit\n",
    )


@pytest.mark.parametrize("forker", ["main", "task", "call"])
def test_a_forked_child_has_a_pool_of_its_own(run_program: Any, forker: str) -> None:
    run_program(
        f"""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from penstock import *
        gate = threading.Event()
        others = [go(blocking, gate.wait) for _ in range(20)]
        wait_until(lambda: sum(t.name.startswith("penstock-blocking-") for t in threading.enumerate()) == 20)
        def fork():
            child = os.fork()
            if child == 0:
                assert blocking(int, "7") == 7
                assert go(blocking, int, "7").result(timeout=30) == 7
                return "in the child"
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert blocking(int, "7") == 7
            return f"the child ended with {{status}}"
        ended = {{"main": fork, "task": lambda: go(fork).result(timeout=30), "call": lambda: blocking(fork)}}[{forker!r}]()
        print(ended)
        gate.set()
        """,
        stdout="in the child\nthe child ended with 0\n" if forker == "main" else "the child ended with 0\n",
    )


def test_a_call_that_fails_in_a_forked_child_ends_it_as_a_program_ends(run_program: Any) -> None:
    run_program(
        """
        import warnings, penstock
        warnings.simplefilter("ignore", DeprecationWarning)
        def fork(status):
            child = os.fork()
            if child == 0:
                sys.exit(status)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(penstock.blocking(fork, 3), penstock.go(penstock.blocking, fork, 4).result(timeout=30))
        """,
        stdout="3 4\n",
    )


def test_ctrl_c_interrupts_a_call_of_the_main_thread(run_program: Any) -> None:
    """Ten times the contract's 100 ms, because the machine may be busy."""
    run_program(
        """
        import signal, penstock
        sent = []
        def interrupt():
            time.sleep(0.05)  # so that the main thread has come to its wait, most likely; any other moment is as good
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(3600)
        try:
            penstock.blocking(interrupt)
        except KeyboardInterrupt:
            took = time.monotonic() - sent[0]
            assert took < 1.0, took
            print("interrupted")
        print(penstock.blocking(int, "7"))
        """,
        stdout="interrupted\n7\n",
    )


@pytest.mark.parametrize("order", ["before", "after"])
def test_ctrl_c_while_a_thread_starts_reaches_the_program_and_the_pool_goes_on(
    run_program: Any, order: str
) -> None:
    run_program(
        f"""
        import penstock
        interrupt_next_thread_start({order!r})
        try:
            penstock.blocking(time.sleep, 3600)
            print("lost")
        except KeyboardInterrupt:
            print("interrupted")
        print([penstock.blocking(int, "7") for _ in range(3)])
        """,
        stdout="interrupted\n[7, 7, 7]\n",
    )


def test_without_threads_the_caller_gets_the_error_and_nothing_is_lost(run_program: Any) -> None:
    run_program(
        """
        import asyncio, penstock
        from penstock import *
        start = threading.Thread.start
        called = []
        def refuse(thread):
            raise RuntimeError("can't start new thread")
        async def acall():
            return await ablocking(called.append, 1)
        penstock.go(int).result(timeout=30)
        for refused in (lambda: blocking(called.append, 1), lambda: asyncio.run(acall()),
                        lambda: go(acall).result(timeout=30), lambda: go(blocking, called.append, 1).result(timeout=30)):
            threading.Thread.start = refuse
            try:
                refused()
                print("made")
            except RuntimeError as error:
                print(error)
            finally:
                threading.Thread.start = start
        print(called, blocking(int, "7"))
        # Where a thread is there, it comes to the call, also if it is at another one now.
        threading.Thread.start = refuse
        print(blocking(int, "7"), go(acall).result(timeout=30), called)
        gate, busy = threading.Event(), threading.Event()
        first = go(blocking, lambda: (busy.set(), gate.wait(30)))
        busy.wait(30)
        second = go(acall)
        go(int).result(timeout=30)  # the other has begun its call
        gate.set()
        print(first.result(timeout=30)[1], second.result(timeout=30), called)
        """,
        stdout="can't start new thread\n" * 4 + "[] 7\n7 None [1]\nTrue None [1, 1]\n",
    )


def test_the_memory_of_a_call_is_given_back() -> None:
    class Argument:
        """Whose end is seen."""

    argument = Argument()
    gone = weakref.ref(argument)
    blocking(lambda value: None, argument)
    del argument
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads where Linux shows them")
def test_a_process_that_makes_no_calls_has_no_thread_for_them(run_program: Any) -> None:
    run_program(
        """
        import penstock
        penstock.go(int).result()
        print(sum(t.name.startswith("penstock-blocking-") for t in threading.enumerate()))
        """,
        stdout="0\n",
    )
