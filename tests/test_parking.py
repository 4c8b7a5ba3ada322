"""A plain function may block anywhere: what parks with it, what must not, and what stays as it was."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import importlib
import logging
import sys
import textwrap
import threading
import types
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any

import greenlet
import penstock
import pytest
from penstock import Cancelled, Channel, Group, go

LIMIT = 30.0  # seconds; only a hang reaches it


def feed(channel: Channel[Any], items: Any) -> None:
    for item in items:
        channel.send(item, timeout=LIMIT)


# Under C frames


def test_a_task_parks_inside_the_key_of_a_sort() -> None:
    keys = [Channel[int]() for _ in range(20)]
    tasks = [go(sorted, range(10), key=lambda i, keys=keys[n]: keys.recv()) for n in range(20)]
    for n in range(10):
        for keys_of_one in keys:
            keys_of_one.send(-n, timeout=LIMIT)
    assert [task.result(timeout=LIMIT) for task in tasks] == [list(range(9, -1, -1))] * 20


def test_a_task_parks_inside_eq_of_a_dict_lookup() -> None:
    answers = Channel[bool]()

    class Key:
        def __init__(self, name: str) -> None:
            self.name = name

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return answers.recv()

    table = {Key("a"): "a"}
    tasks = [go(table.get, Key("b")) for _ in range(10)]
    feed(answers, [True] * 5 + [False] * 5)
    got = [task.result(timeout=LIMIT) for task in tasks]
    assert sorted(got, key=str) == [None] * 5 + ["a"] * 5


def test_a_task_parks_inside_generators_and_comprehensions() -> None:
    channel = Channel[int]()

    def numbers() -> Generator[int, None, None]:
        for _ in range(5):
            yield channel.recv()

    def chain(depth: int) -> Generator[int, None, None]:
        if depth:
            yield from chain(depth - 1)
        else:
            yield from numbers()

    tasks = [go(lambda: sum(x for x in chain(10))) for _ in range(10)]
    feed(channel, [1] * 50)
    assert [task.result(timeout=LIMIT) for task in tasks] == [5] * 10


def test_a_generator_started_in_one_task_goes_on_in_another() -> None:
    channel = Channel[int]()

    def numbers() -> Generator[int, None, None]:
        while True:
            yield channel.recv()

    shared = numbers()
    for i in range(5):
        task = go(next, shared)
        channel.send(i, timeout=LIMIT)
        assert task.result(timeout=LIMIT) == i


def test_a_generator_parked_in_one_task_is_executing_for_another() -> None:
    channel = Channel[int]()

    def numbers() -> Generator[int, None, None]:
        started.send(None)
        yield channel.recv()

    started = Channel[None]()
    shared = numbers()
    task = go(next, shared)
    started.recv(timeout=LIMIT)
    with pytest.raises(ValueError, match="already executing"):
        next(shared)
    channel.send(1, timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 1


@pytest.mark.parametrize("depth", [10, 300])
def test_tasks_park_at_the_bottom_of_deep_recursion(depth: int) -> None:
    gate = Channel[int]()

    def descend(n: int) -> int:
        return gate.recv() if n == 0 else 1 + descend(n - 1)

    tasks = [go(descend, depth) for _ in range(50)]
    feed(gate, [0] * 50)
    assert [task.result(timeout=LIMIT) for task in tasks] == [depth] * 50


def test_tasks_park_at_every_level_of_deep_recursion() -> None:
    gate = Channel[int](1)

    def descend(n: int) -> int:
        got = gate.recv()
        return got if n == 0 else got + descend(n - 1) + gate.recv()

    task = go(descend, 100)
    feed(gate, [1] * 201)
    assert task.result(timeout=LIMIT) == 201


def test_recursion_depth_is_the_tasks_own_after_a_thousand_others_parked() -> None:
    """Parked tasks do not use up the recursion limit of the thread they are parked on."""
    gate = Channel[int]()
    parked = [go(gate.recv) for _ in range(1000)]

    def descend(n: int) -> int:
        return 0 if n == 0 else 1 + descend(n - 1)

    def overflow(n: int) -> int:
        return overflow(n + 1)

    assert go(descend, 500).result(timeout=LIMIT) == 500
    assert isinstance(go(overflow, 0).exception(timeout=LIMIT), RecursionError)
    feed(gate, range(1000))
    assert sorted(task.result(timeout=LIMIT) for task in parked) == list(range(1000))


# What belongs to the task


def test_the_exception_being_handled_is_the_tasks_own() -> None:
    first, second = Channel[None](), Channel[None]()

    def handles_a_key_error() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            first.recv()
            assert sys.exc_info()[1] is error
            with pytest.raises(ValueError, match="new") as caught:
                raise ValueError("new")
            assert caught.value.__context__ is error
        assert sys.exc_info() == (None, None, None)

    def handles_a_type_error() -> None:
        assert sys.exc_info() == (None, None, None)
        try:
            raise TypeError("second")
        except TypeError as error:
            second.recv()
            assert sys.exc_info()[1] is error
            assert error.__context__ is None

    tasks = [go(handles_a_key_error), go(handles_a_type_error), go(handles_a_key_error)]
    feed(first, [None, None])
    feed(second, [None])
    for task in tasks:
        task.result(timeout=LIMIT)


def test_an_error_raised_after_a_park_has_no_strangers_context() -> None:
    gate = Channel[None]()

    def fails() -> None:
        gate.recv()
        raise RuntimeError("clean")

    def handles() -> None:
        try:
            raise KeyError("a stranger")
        except KeyError:
            gate.recv()

    tasks = [go(handles), go(fails), go(handles)]
    feed(gate, [None] * 3)
    error = tasks[1].exception(timeout=LIMIT)
    assert isinstance(error, RuntimeError)
    assert error.__context__ is None


def test_context_variables_are_the_tasks_own_across_parks() -> None:
    variable = contextvars.ContextVar("variable", default=-1)
    gates = [Channel[None]() for _ in range(200)]

    def body(i: int) -> list[int]:
        seen = [variable.get()]
        variable.set(i)
        gates[i].recv()
        seen.append(variable.get())
        return seen

    tasks = [go(body, i) for i in range(200)]
    for gate in reversed(gates):
        gate.send(None, timeout=LIMIT)
    assert [task.result(timeout=LIMIT) for task in tasks] == [[-1, i] for i in range(200)]
    assert variable.get() == -1


def test_context_run_around_a_park_stays_entered() -> None:
    variable = contextvars.ContextVar("variable", default=0)
    gate = Channel[None]()
    context = contextvars.copy_context()

    def body() -> int:
        variable.set(7)
        gate.recv()
        return variable.get()

    task = go(context.run, body)
    gate.send(None, timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 7
    assert context[variable] == 7


def test_current_thread_works_and_stays_the_same_inside_a_task() -> None:
    gate = Channel[None]()

    def body() -> bool:
        before = threading.current_thread(), threading.get_ident()
        gate.recv()
        return before == (threading.current_thread(), threading.get_ident()) and before[0].is_alive()

    tasks = [go(body) for _ in range(20)]
    feed(gate, [None] * 20)
    assert all(task.result(timeout=LIMIT) for task in tasks)


def test_with_fibers_a_parked_task_runs_on_under_the_same_thread_with_no_thread_created(
    run_program: Any,
) -> None:
    run_program(
        """
        import penstock
        from penstock import *
        penstock.configure(parking="fiber", workers=1)
        gate = Channel()
        def body():
            before = threading.get_ident()
            gate.recv()
            return before == threading.get_ident()
        warm = go(body)
        gate.send(None, timeout=30)
        assert warm.result(timeout=30)
        def threads():
            return {thread.ident for thread in threading.enumerate()}
        waits = gate.stats().recv_waits  # none, if the send came first
        tasks = [go(body) for _ in range(500)]
        wait_until(lambda: gate.stats().recv_waits == waits + 500)
        parked_on = threads()
        parks = penstock.default_runtime().stats().parks
        assert parks >= 500, parks
        assert len(parked_on) < 20, parked_on
        for _ in tasks:
            gate.send(None, timeout=30)
        print(all(task.result(timeout=30) for task in tasks))
        """,
        stdout="True\n",
    )


def test_stacks_of_a_burst_are_given_back_and_parking_goes_on(run_program: Any) -> None:
    run_program(
        """
        import gc, greenlet, penstock
        from penstock import *
        penstock.configure(parking="fiber", workers=1)
        gate = Channel()
        def loops():
            return sum(isinstance(it, greenlet.greenlet) for it in gc.get_objects())
        for burst in range(2):
            waits = gate.stats().recv_waits
            tasks = [go(gate.recv) for _ in range(1000)]
            wait_until(lambda: gate.stats().recv_waits == waits + 1000)
            assert loops() >= 1000, loops()
            for i in range(1000):
                gate.send(i, timeout=30)
            assert sorted(task.result(timeout=30) for task in tasks) == list(range(1000))
            wait_until(lambda: loops() < 100)
        print("ok")
        """,
        stdout="ok\n",
    )


@pytest.mark.parametrize("parking", ["fiber", "thread"])
def test_both_ways_of_parking_behave_the_same(run_program: Any, parking: str) -> None:
    run_program(
        f"""
        import penstock
        from penstock import *
        penstock.configure(parking={parking!r}, workers=2)
        gate, out = Channel(), Channel(4)
        def body(i):
            try:
                raise KeyError(i)
            except KeyError as error:
                got = sorted(range(3), key=lambda _: -gate.recv())
                assert sys.exc_info()[1] is error
            out.send((i, len(got)))
        tasks = [go(body, i) for i in range(100)]
        feeder = go(lambda: [gate.send(n) for n in range(300)])
        assert sorted(out.recv(timeout=30) for _ in range(100)) == [(i, 3) for i in range(100)]
        feeder.result(timeout=30)
        tasks = [go(gate.recv) for _ in range(100)]
        for task in tasks:
            task.cancel()
        for task in tasks:
            try:
                task.result(timeout=30)
            except Cancelled:
                pass
        print(sum(task.cancelled() for task in tasks))
        """,
        stdout="100\n",
    )


# Where a wait blocks the thread instead of parking


def test_a_wait_in_a_finalizer_during_a_collection_blocks_the_thread_and_a_later_collection_works() -> None:
    channel = Channel[str]()
    log: list[str] = []

    class Cyclic:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            log.append(channel.recv())

    def collect() -> int:
        before = threading.get_ident()
        Cyclic()
        gc.collect()
        assert threading.get_ident() == before
        return len(log)

    task = go(collect)
    channel.send("from outside", timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 1
    assert log == ["from outside"]
    for _ in range(3):
        cycle: list[Any] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() >= 1


@pytest.mark.parametrize("runs_in", ["a coroutine", "an event loop"])
def test_who_only_runs_the_collector_is_not_refused_a_finalizers_wait(runs_in: str) -> None:
    channel = Channel[str]()
    log: list[str] = []

    class Cyclic:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            log.append(channel.recv())

    async def collect() -> int:
        Cyclic()
        gc.collect()
        return len(log)

    task = go(collect) if runs_in == "a coroutine" else go(lambda: asyncio.run(collect()))
    channel.send("from outside", timeout=LIMIT)
    assert task.result(timeout=LIMIT) == 1
    assert log == ["from outside"]


class Finalized:
    """A cycle that calls something when it is collected, and takes it that an interrupt may end that."""

    def __init__(self, call: Any) -> None:
        self.me = self
        self.call = call

    def __del__(self) -> None:
        with contextlib.suppress(Cancelled, TimeoutError):
            self.call()


@pytest.mark.parametrize(
    "wait",
    [lambda: Channel[None]().recv(), lambda: penstock.sleep(0), lambda: penstock.blocking(str)],
    ids=["recv", "sleep", "blocking"],
)
def test_a_cancel_that_a_finalizer_in_a_collection_saw_is_raised_again_after_it(wait: Any) -> None:
    started, cancelled = threading.Event(), threading.Event()
    log: list[str] = []

    def finalize() -> None:
        started.set()
        assert cancelled.wait(LIMIT)
        with pytest.raises(Cancelled):
            wait()
        penstock.sleep(0.001)  # once: the clean-up may wait
        log.append("finalized")

    def collect() -> None:
        Finalized(finalize)
        gc.collect()
        log.append("collected")
        for _ in range(2):
            try:
                penstock.sleep(0)
            except Cancelled:
                log.append("cancelled")

    task = go(collect)
    assert started.wait(LIMIT)
    task.cancel()
    cancelled.set()
    task.result(timeout=LIMIT)
    assert log == ["finalized", "collected", "cancelled"]


@pytest.mark.parametrize("in_task", [False, True])
def test_a_deadline_that_passes_in_a_collection_is_raised_again_after_it(in_task: bool) -> None:
    log: list[str] = []

    def finalize() -> None:
        with pytest.raises(TimeoutError, match="block around"):
            Channel[None]().recv()
        with pytest.raises(TimeoutError, match="stayed empty"):
            Channel[None]().recv(timeout=0.01)  # its own
        log.append("finalized")

    def collect() -> None:
        with penstock.timeout(LIMIT), penstock.move_on_after(0.01) as inner:
            Finalized(finalize)
            gc.collect()
            assert inner.expired
            with pytest.raises(TimeoutError, match=r"0\.01 s of the block around"):
                penstock.sleep(LIMIT)
            penstock.sleep(0.001)  # once

    go(collect).result(timeout=LIMIT) if in_task else collect()
    assert log == ["finalized"]


def test_a_failed_group_ends_its_body_after_a_collection_that_saw_it_first() -> None:
    log: list[str] = []
    started = Channel[None]()

    def fails() -> None:
        started.recv()
        raise ValueError

    def finalize() -> None:
        started.send(None)
        with pytest.raises(Cancelled):
            Channel[None]().recv()
        log.append("finalized")

    def body() -> None:
        with penstock.Group() as group:
            group.go(fails)
            with penstock.timeout(LIMIT):
                Finalized(finalize)
                gc.collect()
                log.append("collected")
                penstock.sleep(LIMIT)
            raise AssertionError

    def bodies() -> None:
        for _ in range(2):
            with pytest.raises(ExceptionGroup) as caught:
                body()
            assert [type(error) for error in caught.value.exceptions] == [ValueError]
        penstock.sleep(0)  # nothing is left of it

    go(bodies).result(timeout=LIMIT)
    assert log == ["finalized", "collected"] * 2


def test_a_wait_in_a_finalizer_outside_a_collection_parks() -> None:
    channel = Channel[int]()
    got: list[int] = []

    class Plain:
        def __del__(self) -> None:
            got.append(channel.recv())

    def drop() -> None:
        value = Plain()
        del value

    tasks = [go(drop) for _ in range(10)]
    feed(channel, range(10))
    for task in tasks:
        task.result(timeout=LIMIT)
    assert sorted(got) == list(range(10))


@pytest.mark.thread_unsafe(reason="imports a module that the test puts into sys.path")
def test_a_wait_during_an_import_blocks_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    channel = Channel[int]()
    shared: Any = types.ModuleType("penstock_test_shared")
    shared.channel = channel
    monkeypatch.setitem(sys.modules, "penstock_test_shared", shared)
    (tmp_path / "penstock_test_waits.py").write_text(
        "import penstock_test_shared\nvalue = penstock_test_shared.channel.recv()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def load() -> Any:
        return importlib.import_module("penstock_test_waits").value

    tasks = [go(load) for _ in range(3)]  # the import lock makes the others wait for the first
    wait_until(lambda: channel.stats().recv_waits == 1)
    channel.send(5, timeout=LIMIT)
    assert [task.result(timeout=LIMIT) for task in tasks] == [5] * 3
    assert channel.stats().recv_waits == 1
    monkeypatch.delitem(sys.modules, "penstock_test_waits")


def test_a_wait_inside_a_logging_handler_blocks_the_thread_so_the_handlers_lock_stays_its_own() -> None:
    channel = Channel[str]()
    log: list[str] = []

    class Waiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.append(f"{record.getMessage()} begins")
            channel.recv()
            log.append(f"{record.getMessage()} ends")

    logger = logging.Logger("of this test")
    logger.addHandler(Waiting())
    tasks = [go(logger.warning, f"{i}") for i in range(3)]
    feed(channel, ["go"] * 3)
    for task in tasks:
        task.result(timeout=LIMIT)
    pairs = [log[i : i + 2] for i in range(0, 6, 2)]
    assert all(begin.split()[0] == end.split()[0] for begin, end in pairs), log


# Other code that switches greenlets


def test_a_wait_inside_a_users_greenlet_comes_back_to_that_greenlet() -> None:
    """SQLAlchemy's `greenlet_spawn` runs a synchronous library in a greenlet of its own, inside the task."""
    channel = Channel[int]()

    def spawn(function: Any, *args: Any) -> Any:
        child = greenlet.greenlet(function)
        result = child.switch(*args)
        while not child.dead:
            result = child.switch(result)
        return result

    def library(i: int) -> tuple[int, int]:
        before = greenlet.getcurrent()
        got = channel.recv()
        assert greenlet.getcurrent() is before
        back: int = before.parent.switch(got)  # the library awaits something of the user's
        return i, back + channel.recv()

    tasks = [go(spawn, library, i) for i in range(20)]
    feed(channel, [1] * 40)
    assert [task.result(timeout=LIMIT) for task in tasks] == [(i, 2) for i in range(20)]


def test_cancel_reaches_a_wait_inside_a_users_greenlet() -> None:
    channel, started = Channel[int](), Channel[None](1)

    def library() -> None:
        started.send(None)
        channel.recv()

    task = go(lambda: greenlet.greenlet(library).switch())
    started.recv(timeout=LIMIT)
    task.cancel()
    with pytest.raises(Cancelled):
        task.result(timeout=LIMIT)


# Rule 8: what a parked frame refers to stays alive


def _churn() -> list[Any]:
    kept: list[Any] = []
    for i in range(300):
        namespace: dict[str, Any] = {}
        exec(f"def stranger(*args):\n    return 'stranger {i}'\nclass Stranger:\n    pass\n", namespace)
        kept.append(namespace)
    return kept


@pytest.mark.thread_unsafe(reason="redefines functions of a module while tasks call them")
@pytest.mark.parametrize("kind", ["function", "class"])
def test_a_redefined_callable_still_gets_the_call_it_was_parked_for(kind: str) -> None:
    source = {
        "function": "def target(value):\n    return ('old', value)\n",
        "class": "class target:\n    def __new__(cls, value):\n        return ('old', value)\n",
    }[kind]
    namespace: dict[str, Any] = {"channel": Channel[int]()}
    exec(source + "def body():\n    return target(channel.recv())\n", namespace)
    channel = namespace["channel"]
    tasks = [go(namespace["body"]) for _ in range(50)]
    while channel.stats().recv_waits < 50:
        penstock.sleep(0.001)
    exec(source.replace("old", "new"), namespace)
    gc.collect()
    kept = _churn()
    gc.collect()
    feed(channel, range(50))
    assert sorted(task.result(timeout=LIMIT) for task in tasks) == [("old", i) for i in range(50)]
    assert len(kept) == 300
    assert namespace["target"](1) == ("new", 1)


@pytest.mark.thread_unsafe(reason="redefines functions of a module while tasks run them")
def test_a_redefined_function_finishes_the_call_it_is_parked_in() -> None:
    source = (
        "class Helper:\n    name = 'old'\n"
        "def target():\n    kind = Helper\n    value = channel.recv()\n    return (kind.name, Helper.name, value)\n"
    )
    namespace: dict[str, Any] = {"channel": Channel[int]()}
    exec(source + "def body():\n    return target()\n", namespace)
    channel = namespace["channel"]
    tasks = [go(namespace["body"]) for _ in range(50)]
    while channel.stats().recv_waits < 50:
        penstock.sleep(0.001)
    exec(source.replace("'old'", "'new'") + "def body():\n    return None\n", namespace)
    gc.collect()
    kept = _churn()
    gc.collect()
    feed(channel, range(50))
    assert sorted(task.result(timeout=LIMIT) for task in tasks) == [("old", "new", i) for i in range(50)]
    assert len(kept) == 300


def test_what_a_parked_task_refers_to_survives_a_collection_and_is_collected_after_it() -> None:
    class Node:
        other: Node

    gate = Channel[None]()
    references = []

    def body() -> bool:
        one, two = Node(), Node()
        one.other, two.other = two, one
        references.append(weakref.ref(one))
        del two
        gate.recv()
        return one.other.other is one

    tasks = [go(body) for _ in range(200)]
    while gate.stats().recv_waits < 200:
        penstock.sleep(0.001)
    for _ in range(3):
        gc.collect()
    assert all(reference() is not None for reference in references)
    feed(gate, [None] * 200)
    assert all(task.result(timeout=LIMIT) for task in tasks)
    gc.collect()
    assert all(reference() is None for reference in references)


# The self-test at start

LYING = """
counts, references_to = {{}}, _core._references_to
def lying(target):
    call = counts[target] = counts.get(target, 0) + 1
    return references_to(target) + (isinstance(target, type) == {of_class} and {lie})
_core._references_to = lying
"""

BREAKAGES = {
    "frames": ("_core._frames_match = lambda: False", "frames are laid out otherwise"),
    "a park that raises": (
        """
def leave_for(target):
    raise OSError("no stack")
_core._leave_for = leave_for
""",
        "raised OSError('no stack')",
    ),
    "a sort that comes back wrong": (
        "_parking.sorted = lambda values, key: [value for value in values if key(value) is not None]",
        "the order [0, 1, 2]",
    ),
    "another call than the one on the stack": (
        "leave = _core._leave_for; _core._leave_for = lambda target: (leave(target), 'a stranger')[1]",
        "a function that was defined anew meanwhile did not get the call",
    ),
    "a function that is not held": (
        LYING.format(of_class=False, lie="-(call == 2)"),
        "does not keep the function",
    ),
    "a class that is not held": (
        LYING.format(of_class=True, lie="-(call == 2)"),
        "does not keep the type",
    ),
    "a class that is held for ever": (
        LYING.format(of_class=True, lie="(call == 3)"),
        "a stack keeps the type",
    ),
    "the GIL": ("sys.abiflags = 't'; sys._is_gil_enabled = lambda: True", "the GIL of this free-threaded"),
}


def _broken(breakage: str, source: str) -> str:
    head = "import penstock, warnings\nfrom penstock import _core, _parking\n"
    return head + breakage + "\n" + textwrap.dedent(source)


@pytest.mark.parametrize(("breakage", "reason"), BREAKAGES.values(), ids=BREAKAGES.keys())
def test_where_the_self_test_fails_tasks_park_on_threads_after_one_warning_that_says_why(
    run_program: Any, breakage: str, reason: str
) -> None:
    source = """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            channel = penstock.Channel()
            task = penstock.go(channel.recv)
            channel.send(5)
            print(task.result(timeout=30), penstock.default_runtime()._uses_fibers())
        assert [warning.category for warning in caught] == [RuntimeWarning], caught
        print(caught[0].message)
    """
    ended = run_program(_broken(breakage, source))
    first, second = ended.stdout.splitlines()
    assert first == "5 False"
    assert reason in second
    assert "thread" in second


@pytest.mark.parametrize(("breakage", "reason"), BREAKAGES.values(), ids=BREAKAGES.keys())
def test_where_the_self_test_fails_fibers_that_were_asked_for_are_an_error_that_says_why(
    run_program: Any, breakage: str, reason: str
) -> None:
    source = """
        penstock.configure(parking="fiber")
        try:
            penstock.go(int)
        except RuntimeError as error:
            print(error)
        penstock.configure(parking="thread")  # nothing has started, so it may still be chosen
        assert penstock.go(int, 7).result(timeout=30) == 7
        assert not penstock.default_runtime()._uses_fibers()
    """
    ended = run_program(_broken(breakage, source))
    assert reason in ended.stdout
    assert "fiber" in ended.stdout


@pytest.mark.skipif("t" not in sys.abiflags, reason="with the GIL a stack counts its references itself")
def test_a_park_that_holds_nothing_is_found_out(run_program: Any) -> None:
    """As the rest of the interpreter sees it: without the hold, a collection would take the function."""
    breakage = "_core._leave_for = lambda target: (target.switch(), None)[1]"
    run_program(
        _broken(breakage, "print(_parking.obstacle())"),
        stdout="a parked stack does not keep the function that it is about to call\n",
    )


@pytest.mark.skipif("t" not in sys.abiflags, reason="it is always on")
def test_with_the_gil_turned_on_a_free_threaded_build_parks_on_threads(run_program: Any) -> None:
    ended = run_program(
        "import penstock; print(penstock.go(int).result(timeout=30), penstock.default_runtime()._uses_fibers())",
        env={"PYTHON_GIL": "1"},
        stdout="0 False\n",
        stderr=None,
    )
    assert ended.stderr.count("RuntimeWarning") == 1
    assert "PYTHON_GIL" in ended.stderr


def test_the_self_test_passes_runs_once_and_not_for_threads(run_program: Any) -> None:
    source = """
        calls = []
        frames = _core._frames_match
        _core._frames_match = lambda: (calls.append(1), frames())[1]
        penstock.configure(parking={parking!r})
        for _ in range(3):
            penstock.go(int).result(timeout=30)
        pid = os.fork() if {forks} else 0
        penstock.go(int).result(timeout=30)
        print(len(calls), penstock.default_runtime()._uses_fibers())
        os._exit(0 if not pid else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    for parking, said in (("auto", "1 True\n"), ("fiber", "1 True\n"), ("thread", "0 False\n")):
        run_program(_broken("", source.format(parking=parking, forks=False)), stdout=said)
    run_program(_broken("", source.format(parking="auto", forks=True)), stdout="1 True\n" * 2, stderr=None)


def test_a_runtime_may_start_inside_a_collection_an_import_and_a_greenlet(
    run_program: Any, tmp_path: Path
) -> None:
    (tmp_path / "starts_it.py").write_text(
        "import penstock\nvalue = penstock.go(int, 3).result(timeout=30)\n"
    )
    run_program(
        """
        import gc, penstock
        class Cyclic:
            def __del__(self):
                got.append(penstock.go(int, 3).result(timeout=30))
        got, cyclic = [], Cyclic()
        cyclic.me = cyclic
        del cyclic
        gc.collect()
        gc.collect()
        Cyclic.__del__, cyclic = lambda self: got.append(4), Cyclic()
        cyclic.me = cyclic
        del cyclic
        gc.collect()
        print(got, penstock.default_runtime()._uses_fibers())
        """,
        stdout="[3, 4] True\n",
    )
    run_program("import starts_it; print(starts_it.value)", stdout="3\n", env={"PYTHONPATH": str(tmp_path)})
    run_program(
        """
        import greenlet, penstock
        print(greenlet.greenlet(lambda: penstock.go(int, 3).result(timeout=30)).switch())
        """,
        stdout="3\n",
    )


def test_no_room_for_the_self_test_is_no_verdict(run_program: Any) -> None:
    run_program(
        """
        import penstock
        def descend():
            try:
                descend()
            except RecursionError:
                try:
                    penstock.go(int)
                except RecursionError:
                    seen.append(1)
                raise
        seen = []
        try:
            descend()
        except RecursionError:
            pass
        print(penstock.go(int, 3).result(timeout=30), penstock.default_runtime()._uses_fibers())
        """,
        stdout="3 True\n",
    )


# Tools


def test_settrace_sees_the_lines_of_a_task_in_order_across_parks(run_program: Any) -> None:
    run_program(
        """
        from penstock import *
        channel = Channel()
        lines = {"first": [], "second": []}
        def trace(frame, event, argument):
            name = frame.f_code.co_name
            if name not in lines:
                return None
            if event == "line":
                lines[name].append(frame.f_lineno - frame.f_code.co_firstlineno)
            return trace
        def first():
            x = 1
            x = channel.recv()
            x += 1
            return x
        def second():
            y = 1
            channel.send(y)
            y += 1
            return y
        threading.settrace(trace)  # before the first worker starts
        tasks = [go(first), go(second)]
        results = [task.result(timeout=30) for task in tasks]
        threading.settrace(None)
        print(results, lines)
        """,
        stdout="[2, 2] {'first': [1, 2, 3, 4], 'second': [1, 2, 3, 4]}\n",
        env={"PENSTOCK_WORKERS": "1"},
    )


def test_faulthandler_dumps_the_threads_while_tasks_are_parked(run_program: Any) -> None:
    ended = run_program(
        """
        from penstock import *
        gate = Channel()
        tasks = [go(gate.recv) for _ in range(100)]
        wait_until(lambda: gate.stats().recv_waits == 100)
        faulthandler.dump_traceback(file=sys.stdout.fileno(), all_threads=True)
        """,
    )
    assert "most recent call first" in ended.stdout


def test_a_group_of_parked_tasks_ends_in_any_order() -> None:
    gates = [Channel[int]() for _ in range(50)]
    with Group() as group:
        tasks = [group.go(gate.recv) for gate in gates]
        for i in (*range(1, 50, 2), *range(48, -1, -2)):
            gates[i].send(i)
    assert [task.result(timeout=0) for task in tasks] == list(range(50))
