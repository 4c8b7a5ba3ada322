"""`timeout` and `move_on_after`: every wait below them is over in time, and each expiry belongs to one of them."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib
import logging
import pickle
import sys
import threading
import time
import types
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import Cancelled, Channel, Group, Task, go

LIMIT = 30.0  # seconds; only a hang reaches it
SHORT = 0.01


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def in_task(function: Callable[..., Any], *args: Any) -> Any:
    return go(function, *args).result(timeout=LIMIT)


PLACES = pytest.mark.parametrize("run", [in_thread, in_task])


def endless() -> Task[None]:
    """A task that ends when it is cancelled."""
    return go(Channel[None]().recv)


# Every call that waits


def leave_a_group() -> None:
    with Group() as group:
        group.go(Channel[None]().recv)


def acquire_two() -> None:
    pool = penstock.BufferPool(max_bytes=65536)
    held = [pool.acquire(65536)]
    held.append(pool.acquire(65536))


WAITS: dict[str, Callable[[], object]] = {
    "recv": lambda: Channel[int]().recv(),
    "send": lambda: Channel[int]().send(1),
    "recv with a longer timeout": lambda: Channel[int]().recv(timeout=LIMIT),
    "iteration": lambda: next(Channel[int]()),
    "sleep": lambda: penstock.sleep(LIMIT),
    "result": lambda: endless().result(),
    "exception": lambda: endless().exception(timeout=LIMIT),
    "acquire": acquire_two,
    "group": leave_a_group,
    "wait": lambda: penstock.wait([endless()]),
    "as_completed": lambda: next(penstock.as_completed([endless()])),
    "map": lambda: next(penstock.map(lambda _: Channel[int]().recv(), [1])),
}


@PLACES
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_call_that_waits_longer_raises_timeout_error(run: Any, wait: Callable[[], object]) -> None:
    def limited() -> BaseException:
        with pytest.raises(TimeoutError) as caught, penstock.timeout(SHORT) as scope:
            wait()
        assert scope.expired
        return caught.value

    error = run(limited)
    assert type(error) is TimeoutError
    assert "0.01 s of the block around this call" in str(error)


async def leave_a_group_in_async() -> None:
    async with Group() as group:
        group.go(Channel[None]().recv)


async def next_of_map() -> None:
    await anext(penstock.map(lambda _: Channel[int]().recv(), [1]))


AWAITS: dict[str, Callable[[], Awaitable[object]]] = {
    "arecv": lambda: Channel[int]().arecv(),
    "asend": lambda: Channel[int]().asend(1),
    "arecv with a longer timeout": lambda: Channel[int]().arecv(timeout=LIMIT),
    "async iteration": lambda: anext(Channel[int]()),
    "asleep": lambda: penstock.asleep(LIMIT),
    "await task": endless,
    "aresult": lambda: endless().aresult(timeout=LIMIT),
    "aexception": lambda: endless().aexception(),
    "group": leave_a_group_in_async,
    "await_": lambda: penstock.await_([endless()]),
    "as_completed": lambda: anext(penstock.as_completed([endless()])),
    "map": next_of_map,
}


@pytest.mark.parametrize("wait", AWAITS.values(), ids=AWAITS)
def test_an_awaited_call_that_waits_longer_raises_timeout_error(
    wait: Callable[[], Awaitable[object]],
) -> None:
    async def limited() -> BaseException:
        with pytest.raises(TimeoutError) as caught, penstock.timeout(SHORT) as scope:
            await wait()
        assert scope.expired
        return caught.value

    error = in_task(limited)
    assert type(error) is TimeoutError
    assert "0.01 s of the block around this call" in str(error)


@PLACES
def test_move_on_after_ends_the_block_and_the_program_goes_on(run: Any) -> None:
    def limited() -> list[object]:
        log: list[object] = []
        with penstock.move_on_after(SHORT) as scope:
            log.append(scope.expired)
            try:
                Channel[int]().recv()
            except TimeoutError:
                log.append(scope.expired)
                raise
        log.append(scope.expired)
        return log

    assert run(limited) == [False, True, True]


@PLACES
def test_a_block_that_is_left_in_time_has_not_expired(run: Any) -> None:
    def limited() -> tuple[bool, bool]:
        with penstock.timeout(LIMIT) as one, penstock.move_on_after(LIMIT) as other:
            penstock.sleep(0.001)
            penstock.yield_now()
        return one.expired, other.expired

    assert run(limited) == (False, False)


@PLACES
def test_a_call_that_need_not_wait_goes_on_after_the_deadline(run: Any) -> None:
    """A hand-over that came first wins; so do a channel with room and a task that is done."""

    def limited() -> list[int]:
        channel = Channel[int](2)
        done = go(int)
        done.result(timeout=LIMIT)
        with penstock.timeout(0) as scope:
            channel.send(1)
            got = [channel.recv(), done.result()]
            assert not scope.expired
            for waits in (penstock.yield_now, lambda: penstock.sleep(0)):
                with pytest.raises(TimeoutError), penstock.timeout(0):
                    waits()
        return got

    assert run(limited) == [1, 0]


@PLACES
def test_a_timeout_of_zero_tries_once_and_raises_its_own_error(run: Any) -> None:
    def limited() -> None:
        with penstock.move_on_after(0) as scope:
            with pytest.raises(TimeoutError, match="stayed empty"):
                Channel[int]().recv(timeout=0)
            assert not scope.expired

    run(limited)


@PLACES
def test_a_calls_own_timeout_is_not_the_scopes(run: Any) -> None:
    def limited() -> bool:
        with penstock.move_on_after(LIMIT) as scope:
            Channel[int]().recv(timeout=SHORT)
        return scope.expired

    with pytest.raises(TimeoutError, match="stayed empty"):
        run(limited)


@PLACES
def test_an_inner_move_on_after_does_not_swallow_the_outer_timeout(run: Any) -> None:
    scopes: list[Any] = []

    def limited() -> None:
        with penstock.timeout(SHORT) as outer, penstock.move_on_after(LIMIT) as inner:
            scopes.extend((outer, inner))
            Channel[int]().recv()

    with pytest.raises(TimeoutError):
        run(limited)
    assert [scope.expired for scope in scopes] == [True, False]


@PLACES
def test_an_inner_deadline_leaves_the_outer_one_in_force(run: Any) -> None:
    def limited() -> list[bool]:
        with penstock.move_on_after(0.05) as outer:
            with penstock.move_on_after(SHORT) as inner:
                Channel[int]().recv()
            Channel[int]().recv()
        return [outer.expired, inner.expired]

    assert run(limited) == [True, True]


@PLACES
def test_of_deadlines_that_have_passed_already_the_outermost_counts(run: Any) -> None:
    def limited() -> list[bool]:
        with penstock.move_on_after(LIMIT) as far:
            with penstock.move_on_after(0) as outer:
                with penstock.move_on_after(0) as inner:
                    penstock.yield_now()
                raise AssertionError("the outer deadline has passed too")
            penstock.yield_now()
        return [far.expired, outer.expired, inner.expired]

    assert run(limited) == [False, True, False]


@PLACES
def test_it_is_raised_once_so_clean_up_may_wait(run: Any) -> None:
    answers = Channel[int]()

    def limited() -> int | None:
        cleaned = None
        with penstock.move_on_after(SHORT), penstock.move_on_after(LIMIT):
            try:
                Channel[int]().recv()
            finally:
                helper = go(answers.send, 7)
                cleaned = answers.recv()
                helper.result()
        return cleaned

    assert run(limited) == 7


@PLACES
def test_an_outer_deadline_still_limits_the_clean_up(run: Any) -> None:
    def limited() -> list[bool]:
        with penstock.move_on_after(0.5) as outer, penstock.move_on_after(SHORT) as inner:
            try:
                Channel[int]().recv()
            finally:
                Channel[int]().recv()
        return [outer.expired, inner.expired]

    assert run(limited) == [True, True]


@PLACES
def test_clean_up_may_have_a_deadline_of_its_own(run: Any) -> None:
    def limited() -> list[bool]:
        with penstock.move_on_after(0) as outer:
            try:
                penstock.yield_now()
            finally:
                with penstock.move_on_after(SHORT) as own:
                    Channel[int]().recv()
        return [outer.expired, own.expired]

    assert run(limited) == [True, True]


def test_a_cancellation_is_not_lost_in_a_clean_up_that_takes_longer_than_the_block_has() -> None:
    started, finish = Channel[None](), Channel[None]()
    log: list[str] = []

    def work() -> None:
        with penstock.move_on_after(1) as scope:  # by then it is cancelled
            try:
                started.send(None)
                Channel[None]().recv()
            finally:
                finish.recv()
                penstock.sleep(1)  # past the end of the block
                log.append(f"clean, expired: {scope.expired}")
        log.append("went on")

    task = go(work)
    started.recv(timeout=LIMIT)
    assert task.cancel()
    finish.send(None, timeout=LIMIT)
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)
    assert log == ["clean, expired: False"]


@PLACES
def test_go_does_not_inherit_a_deadline(run: Any) -> None:
    gate = Channel[int]()

    def limited() -> int:
        with penstock.timeout(SHORT):
            task = go(gate.recv)
            with pytest.raises(TimeoutError):
                task.result()
        gate.send(3, timeout=LIMIT)
        return task.result(timeout=LIMIT)

    assert run(limited) == 3


def test_a_deadline_belongs_to_its_task_not_to_the_thread_below() -> None:
    def limited() -> None:
        with penstock.timeout(0):
            gate.recv()

    gate = Channel[None](1)

    def holds() -> None:
        with penstock.move_on_after(LIMIT):
            penstock.sleep(SHORT)

    others = [go(holds) for _ in range(8)]
    failing = [go(limited) for _ in range(8)]
    for task in failing:
        assert isinstance(task.exception(timeout=LIMIT), TimeoutError)
    for task in others:
        task.result(timeout=LIMIT)
    penstock.sleep(0.001)  # nothing is left for this thread either


def test_an_expired_deadline_leaves_the_item_to_others() -> None:
    channel = Channel[int]()
    with penstock.move_on_after(SHORT) as scope:
        channel.send(1)
    assert scope.expired
    with pytest.raises(penstock.Empty):
        channel.recv_nowait()
    task = go(channel.recv)
    channel.send(2, timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 2


# Groups


@PLACES
@pytest.mark.parametrize("waits_in", ["body", "leaving"])
def test_a_group_in_the_block_cancels_its_tasks_and_leaves_with_the_bare_error(
    run: Any, waits_in: str
) -> None:
    log: list[str] = []

    def child() -> None:
        try:
            Channel[None]().recv()
        finally:
            penstock.sleep(0.02)  # clean-up may wait
            log.append("child ended")

    def limited() -> None:
        with penstock.timeout(0.05) as scope:
            try:
                with Group() as group:
                    group.go(child)
                    group.go(child)
                    if waits_in == "body":
                        Channel[None]().recv()
            finally:
                log.append(f"group left, expired: {scope.expired}")

    with pytest.raises(TimeoutError) as caught:
        run(limited)
    assert type(caught.value) is TimeoutError
    assert log == ["child ended", "child ended", "group left, expired: True"]


@pytest.mark.parametrize("waits_in", ["body", "leaving"])
def test_an_async_group_does_the_same(waits_in: str) -> None:
    log: list[str] = []

    async def child() -> None:
        try:
            await Channel[None]().arecv()
        finally:
            await penstock.asleep(0.02)
            log.append("child ended")

    async def limited() -> bool:
        with penstock.move_on_after(0.05) as scope:
            async with Group() as group:
                group.go(child)
                if waits_in == "body":
                    await Channel[None]().arecv()
        log.append("group left")
        return scope.expired

    assert in_task(limited)
    assert log == ["child ended", "group left"]


@PLACES
def test_nested_groups_all_leave_and_only_the_deadline_that_expired_ends_it(run: Any) -> None:
    def limited() -> list[bool]:
        with penstock.move_on_after(SHORT) as outer, Group() as one:
            one.go(Channel[None]().recv)
            with penstock.move_on_after(LIMIT) as inner, Group() as two:
                two.go(Channel[None]().recv)
            raise AssertionError("the inner scope has taken the outer one's expiry")
        return [outer.expired, inner.expired]

    assert run(limited) == [True, False]


@PLACES
def test_a_deadline_in_a_group_is_an_ordinary_failure_of_the_body(run: Any) -> None:
    def limited() -> None:
        with Group() as group:
            child = group.go(Channel[None]().recv)
            tasks.append(child)
            with penstock.timeout(SHORT):
                Channel[None]().recv()

    tasks: list[Task[None]] = []
    with pytest.raises(ExceptionGroup) as caught:
        run(limited)
    assert [type(error) for error in caught.value.exceptions] == [TimeoutError]
    assert tasks[0].cancelled()


@PLACES
def test_a_failure_that_comes_up_in_the_clean_up_is_not_lost(run: Any) -> None:
    begun: list[bool] = []

    def child() -> None:
        begun.append(True)
        try:
            Channel[None]().recv()
        finally:
            raise ValueError("clean-up")

    def limited(seconds: float) -> list[type[BaseException]]:
        failures: list[type[BaseException]] = []
        scope = penstock.move_on_after(seconds)
        try:
            with scope, Group() as group:
                group.go(child)
        except ExceptionGroup as error:
            failures = [type(one) for one in error.exceptions]
        assert scope.expired
        return failures

    seconds, failures = SHORT, run(lambda: limited(SHORT))
    while not begun:  # the child was not in time
        seconds *= 10
        failures = run(lambda: limited(seconds))
    assert failures == [ValueError]


@PLACES
def test_an_error_of_another_tasks_deadline_is_an_ordinary_failure(run: Any) -> None:
    def expires() -> None:
        with penstock.timeout(0):
            penstock.yield_now()

    def limited() -> bool:
        with penstock.move_on_after(LIMIT) as scope:
            failed = go(expires)
            penstock.wait([failed], timeout=LIMIT)
            with pytest.raises(ExceptionGroup), Group():
                failed.result(timeout=LIMIT)
            with pytest.raises(TimeoutError):
                failed.result()
        return scope.expired

    assert not run(limited)


def test_the_outer_group_still_gets_the_cancellation_when_a_deadline_is_in_between() -> None:
    """A child of the outer group fails while the inner one, in a scope of its own, waits for its child."""

    def body() -> None:
        with Group() as outer:
            with penstock.move_on_after(LIMIT) as scope:
                scopes.append(scope)
                with Group() as inner:
                    inner.go(Channel[None]().recv)
                    outer.go(int, "x")
            raise AssertionError("not reached")

    scopes: list[Any] = []
    with pytest.raises(ExceptionGroup) as caught:
        in_task(body)
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert not scopes[0].expired


# Waits that block their thread


def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: Callable[[], object]) -> object:
    """Waits while a module is imported."""
    (tmp_path / "penstock_test_deadline.py").write_text(
        "import penstock_test_hook\npenstock_test_hook.wait()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    hook = types.ModuleType("penstock_test_hook")
    hook.wait = wait  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "penstock_test_hook", hook)
    sys.modules.pop("penstock_test_deadline", None)
    return importlib.import_module("penstock_test_deadline")


def logged(_path: Path, _patch: pytest.MonkeyPatch, wait: Callable[[], object]) -> None:
    """Waits in a logging handler."""

    class Waiting(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            wait()

    logger = logging.Logger("of this test")
    logger.addHandler(Waiting())
    logger.warning("now")


def collected(_path: Path, _patch: pytest.MonkeyPatch, wait: Callable[[], object]) -> None:
    """Waits in a finalizer that a collection runs, and raises what came of it."""
    errors: list[BaseException] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            try:
                wait()
            except BaseException as error:
                errors.append(error)

    Cycle()
    gc.collect()
    if errors:
        raise errors[0]


BLOCKING = pytest.mark.parametrize("blocked", [imported, logged, collected])


@pytest.mark.thread_unsafe(reason="changes sys.modules")
@BLOCKING
def test_cancel_reaches_a_task_that_blocks_its_thread(
    blocked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    gate = Channel[None]()
    task = go(blocked, tmp_path, monkeypatch, gate.recv)
    wait_until(lambda: gate.stats().recv_waits == 1)
    assert task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)


@pytest.mark.thread_unsafe(reason="changes sys.modules")
@BLOCKING
def test_cancel_is_raised_at_the_first_wait_of_a_task_that_blocks_its_thread(
    blocked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = threading.Event()
    cancelled = threading.Event()

    def wait() -> None:
        started.set()
        assert cancelled.wait(LIMIT)
        with pytest.raises(Cancelled):
            Channel[None]().recv()
        penstock.sleep(0.001)  # once

    task = go(blocked, tmp_path, monkeypatch, wait)
    assert started.wait(LIMIT)
    task.cancel()
    cancelled.set()
    task.result(timeout=LIMIT)


@pytest.mark.thread_unsafe(reason="changes sys.modules")
@BLOCKING
def test_a_groups_interrupt_reaches_a_body_that_blocks_its_thread(
    blocked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    gate, fail = Channel[None](), threading.Event()

    def child() -> None:
        assert fail.wait(LIMIT)
        raise ValueError("child")

    def body() -> None:
        with Group() as group:
            group.go(child)
            blocked(tmp_path, monkeypatch, gate.recv)

    task = go(body)
    wait_until(lambda: gate.stats().recv_waits == 1)
    fail.set()
    error = task.exception(timeout=LIMIT)
    assert isinstance(error, ExceptionGroup)
    assert [type(one) for one in error.exceptions] == [ValueError]


@pytest.mark.thread_unsafe(reason="changes sys.modules")
@BLOCKING
def test_a_deadline_holds_for_a_task_that_blocks_its_thread(
    blocked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited() -> bool:
        with penstock.move_on_after(SHORT) as scope:
            blocked(tmp_path, monkeypatch, Channel[None]().recv)
        return scope.expired

    assert in_task(limited)


# Entering and leaving


@pytest.mark.parametrize("scope", [penstock.timeout, penstock.move_on_after])
@pytest.mark.parametrize(
    ("seconds", "kind"), [(-1, ValueError), (float("nan"), ValueError), ("3", TypeError), (None, TypeError)]
)
def test_seconds_are_a_number_that_is_not_negative(scope: Any, seconds: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=rf"seconds must be a number of seconds >= 0, not {seconds!r}"):
        scope(seconds)


@PLACES
def test_a_deadline_may_be_later_than_anyone_waits(run: Any) -> None:
    def limited() -> None:
        with penstock.timeout(float("inf")), penstock.timeout(10**300), penstock.move_on_after(3):
            penstock.sleep(0.001)

    run(limited)


def test_a_deadline_is_entered_once() -> None:
    scope = penstock.timeout(LIMIT)
    with scope, pytest.raises(RuntimeError, match="entered once"), scope:
        pass


@pytest.mark.parametrize("scope", [penstock.timeout, penstock.move_on_after])
def test_in_an_asyncio_coroutine_it_names_the_loops_own(scope: Any) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=rf"{scope.__name__}.*use the loop's own \(asyncio.timeout"):
            scope(1).__enter__()

    asyncio.run(main())
    in_task(lambda: asyncio.run(main()))
    with penstock.timeout(LIMIT):
        penstock.sleep(0)


@pytest.mark.thread_unsafe(reason="changes sys.modules")
def test_in_a_trio_coroutine_it_names_the_loops_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without trio: only what is asked of it is there."""
    runs = [True]

    def current_task() -> object:
        if not runs:
            raise RuntimeError("must be called from async context")
        return object()

    trio = types.ModuleType("trio")
    trio.lowlevel = types.SimpleNamespace(current_task=current_task)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trio", trio)
    with pytest.raises(RuntimeError, match=r"use the loop's own \(trio.fail_after"):
        penstock.timeout(1).__enter__()
    runs.clear()
    with penstock.timeout(LIMIT):
        penstock.sleep(0)


def test_a_deadline_of_the_thread_does_not_reach_into_an_event_loop_that_runs_in_it() -> None:
    async def main() -> str:
        await asyncio.sleep(0.03)
        return str(await go(str, "done"))

    with penstock.timeout(SHORT) as scope:
        assert asyncio.run(main()) == "done"
        assert not scope.expired


def test_left_before_one_that_was_entered_in_it() -> None:
    def entering() -> Iterator[None]:
        with penstock.timeout(LIMIT):
            yield
            penstock.sleep(0)

    generator = entering()
    with pytest.raises(RuntimeError, match="left before one that was entered in it"), penstock.timeout(LIMIT):
        next(generator)
    assert next(generator, None) is None  # the inner one is left in its turn
    penstock.sleep(0.001)


def test_left_by_another_task_or_thread(threads: Any) -> None:
    scope = penstock.timeout(0)
    scope.__enter__()
    refused: list[RuntimeError] = []

    def leave() -> None:
        with pytest.raises(RuntimeError, match="left by another task or thread") as caught:
            scope.__exit__(None, None, None)
        refused.append(caught.value)

    threads.start(leave)
    threads.join()
    assert refused
    penstock.sleep(0.001)  # and it is left all the same


def test_left_by_another_task() -> None:
    scope = penstock.move_on_after(LIMIT)
    entered, left = Channel[None](), Channel[None]()

    def enter() -> None:
        scope.__enter__()
        entered.send(None)
        left.recv()
        penstock.sleep(0.001)

    task = go(enter)
    entered.recv(timeout=LIMIT)
    with pytest.raises(RuntimeError, match="left by another task or thread"):
        scope.__exit__(None, None, None)
    left.send(None, timeout=LIMIT)
    task.result(timeout=LIMIT)


def test_what_a_deadline_shows() -> None:
    scope = penstock.timeout(LIMIT)
    assert repr(scope) == f"<penstock.timeout(30) at {id(scope):#x}: new>"
    with scope:
        assert ": open, " in repr(scope)
    assert repr(scope).endswith(": left in time>")
    moved = penstock.move_on_after(0)
    with moved:
        penstock.sleep(0)
    assert repr(moved) == f"<penstock.move_on_after(0) at {id(moved):#x}: expired>"
    assert weakref.ref(scope)() is scope
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a timeout cannot be pickled or copied"):
            refused(scope)


def test_the_errors_pickle_and_are_then_nobodys() -> None:
    with pytest.raises(TimeoutError) as caught, penstock.timeout(0):
        penstock.sleep(0)
    for copied in (pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
        assert type(copied) is TimeoutError
        assert str(copied) == str(caught.value)
        with pytest.raises(TimeoutError), penstock.move_on_after(LIMIT):
            raise copied


def test_an_error_that_comes_back_later_is_not_taken_for_another_scopes() -> None:
    errors: list[TimeoutError] = []
    with penstock.move_on_after(0):
        try:
            penstock.sleep(0)
        except TimeoutError as error:
            errors.append(error)
            raise
    with pytest.raises(TimeoutError), penstock.move_on_after(LIMIT) as scope:
        raise errors[0]
    assert not scope.expired


def test_a_scope_that_swallowed_nothing_keeps_no_reference_to_the_error() -> None:
    class Held:
        pass

    def limited() -> weakref.ref[Held]:
        held = Held()
        with penstock.move_on_after(0):
            penstock.sleep(0)
        return weakref.ref(held)

    gc.disable()
    try:
        assert limited()() is None
    finally:
        gc.enable()


def test_ctrl_c_comes_through_a_deadline(run_program: Any) -> None:
    run_program(
        """
        import penstock, signal
        gate = penstock.Channel()
        def interrupt():
            wait_until(lambda: gate.stats().recv_waits == 1)
            signal.raise_signal(signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            with penstock.move_on_after(60) as scope:
                gate.recv()
        except KeyboardInterrupt:
            print("interrupted", scope.expired)
        """,
        stdout="interrupted False\n",
    )


@pytest.mark.parametrize("place", ["main", "task"])
def test_a_forked_child_goes_on_under_the_deadline(run_program: Any, place: str) -> None:
    run_program(
        """
        import penstock
        def work():
            with penstock.move_on_after(0.2) as scope:
                child = os.fork()
                if child == 0:
                    penstock.Channel().recv()
            if child == 0:
                os._exit(7 if scope.expired else 1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), scope.expired)
        """
        + ("work()" if place == "main" else "penstock.go(work).result()"),
        env={"PYTHONWARNINGS": "ignore"},
        stdout="7 False\n",
    )


def test_an_open_deadline_does_not_outlive_its_thread(threads: Any) -> None:
    """It is left behind by a generator that is never closed, in a thread that ends."""

    def entering() -> Generator[None]:
        with penstock.timeout(LIMIT):
            yield

    kept: list[Generator[None]] = []

    def run() -> None:
        generator = entering()
        next(generator)
        kept.append(generator)

    threads.start(run)
    threads.join()
    with pytest.raises(RuntimeError, match="another task or thread"):
        kept[0].close()


def test_cancel_is_raised_once_however_close_the_next_wait_is() -> None:
    """The task may see the cancellation by itself before the one who cancels looks whether it waits."""
    rounds = 2000
    seen = [0]
    gate, started, stop = Channel[None](), Channel[None](), Channel[None]()

    def work() -> None:
        started.send(None)
        while True:
            chosen = seen[0]
            try:
                gate.recv(timeout=0.0005)
            except TimeoutError:
                continue
            except Cancelled:
                seen[0] = chosen + 1
                if seen[0] == rounds:
                    break
        stop.recv()

    task = go(work)
    started.recv(timeout=LIMIT)
    for expected in range(1, rounds + 1):
        task.cancel()
        while seen[0] < expected:
            time.sleep(0)
    stop.send(None, timeout=LIMIT)
    task.result(timeout=LIMIT)
    assert seen[0] == rounds
