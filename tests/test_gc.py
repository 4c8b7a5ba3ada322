"""Garbage-collection pacing: each sentence of the contract has a test that names it.

There is one collector, so whatever enters a block here runs in a process of its own, or on one thread.
"""

from __future__ import annotations

import copy
import gc
import pickle
import sysconfig
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import penstock
import pytest
from penstock import GcPauses, GcPolicy, gc_pacing, manage_gc

IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
DEFAULT = gc.get_threshold()
TRIGGERS = {"idle", "growth", "manual", "automatic"}
one_collector = pytest.mark.thread_unsafe(reason="there is one collector")


class Node:
    """May be part of a cycle, and tells when it is gone."""

    def __init__(self) -> None:
        self.other: Any = self


@pytest.fixture
def collector() -> Iterator[None]:
    """Whatever a test leaves behind would be the next one's collector."""
    before = state()
    yield
    now = state()
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(*DEFAULT)
    assert now == before


def state() -> tuple[object, ...]:
    return gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), list(gc.callbacks)


def garbage(count: int = 1) -> weakref.ref[Node]:
    """Makes cycles that nobody refers to, and tells of the first."""
    first = weakref.ref(Node())
    for _ in range(count - 1):
        Node()
    return first


def make_until(done: Callable[[], bool], limit: int = 3_000_000) -> list[list[int]]:
    """Retains objects until something happens because of it."""
    kept: list[list[int]] = []
    for number in range(limit):
        kept.append([number])
        if number % 1000 == 0 and done():
            return kept
    raise AssertionError(f"not after {limit} objects")


# The policy


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert GcPolicy() == GcPolicy(freeze=True, pause_budget=0.005, growth=2.0, growth_min=100_000)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"freeze": 1}, TypeError),
        ({"freeze": None}, TypeError),
        ({"pause_budget": "5"}, TypeError),
        ({"pause_budget": None}, TypeError),
        ({"pause_budget": 0}, ValueError),
        ({"pause_budget": -1}, ValueError),
        ({"pause_budget": float("nan")}, ValueError),
        ({"pause_budget": float("inf")}, ValueError),
        ({"growth": []}, TypeError),
        ({"growth": 0.2}, ValueError),
        ({"growth": float("inf")}, ValueError),
        ({"growth": 10**400}, ValueError),
        ({"growth_min": 1e6}, TypeError),
        ({"growth_min": 999}, ValueError),
        ({"growth_min": 1 << 63}, ValueError),
    ],
)
def test_a_bad_field_names_itself_its_value_and_what_is_allowed(
    fields: dict[str, Any], error: type[Exception]
) -> None:
    ((name, value),) = fields.items()
    with pytest.raises(error) as raised:
        GcPolicy(**fields)
    assert f"{name} must be " in str(raised.value)
    assert repr(value) in str(raised.value)


def test_a_policy_that_is_none_is_the_default_and_anything_else_an_error() -> None:
    assert manage_gc().policy == manage_gc(None).policy == GcPolicy()
    with pytest.raises(TypeError, match="policy must be None or a GcPolicy, not 3"):
        manage_gc(3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("version", "free_threaded", "collector"),
    [
        ((3, 11, 0), False, "generational"),
        ((3, 13, 9), False, "generational"),
        ((3, 14, 0), False, "incremental"),
        ((3, 14, 4), False, "incremental"),
        ((3, 14, 5), False, "generational"),
        ((3, 14, 0), True, "whole-heap"),
        ((3, 14, 7), True, "whole-heap"),
    ],
)
def test_the_collector_is_told_by_version_and_build(
    version: tuple[int, int, int], free_threaded: bool, collector: str
) -> None:
    assert gc_pacing._collector(version, free_threaded) == collector


# What a manager is


def test_a_manager_shows_its_state_and_is_neither_pickled_nor_copied() -> None:
    manager = manage_gc()
    assert repr(manager).startswith("<penstock.GcManager at 0x")
    assert "new, " in repr(manager)
    assert "collector, 0 pauses>" in repr(manager)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a GcManager cannot be pickled or copied"):
            attempt(manager)


def test_a_manager_outside_of_its_block_does_nothing_but_tell_its_pauses() -> None:
    manager = manage_gc()
    assert manager.pauses() == GcPauses(0, 0.0, 0.0, 0.0, dict.fromkeys(TRIGGERS, 0))
    for call in (manager.collect, manager.freeze):
        with pytest.raises(RuntimeError, match="is for inside its block, and this manager is new"):
            call()


@one_collector
def test_a_manager_in_a_cycle_is_collected() -> None:
    manager: Any = manage_gc()
    manager.itself = manager
    gone = weakref.ref(manager)
    del manager
    gc.collect()
    assert gone() is None


# Entering and leaving


@one_collector
def test_it_collects_before_it_freezes(collector: None) -> None:
    gone = garbage()
    with manage_gc():
        assert gone() is None
        assert gc.get_freeze_count() > 1000


@one_collector
def test_leaving_restores_the_collector(collector: None) -> None:
    gc.set_threshold(801, 11, 12)
    before = state()
    with manage_gc() as manager:
        assert state() != before
    assert state() == before
    assert "left, " in repr(manager)
    with pytest.raises(RuntimeError, match="this manager is left"):
        manager.collect()
    gc.set_threshold(*DEFAULT)


@one_collector
def test_an_error_restores_it_too_and_comes_out(collector: None) -> None:
    before = state()
    with pytest.raises(ZeroDivisionError), manage_gc():
        _ = 1 // 0
    assert state() == before


@one_collector
@pytest.mark.parametrize("name", ["collect", "freeze", "get_freeze_count", "get_threshold"])
@pytest.mark.parametrize("which", [1, 2])
def test_an_interrupt_while_it_enters_leaves_nothing_behind(
    collector: None, monkeypatch: pytest.MonkeyPatch, name: str, which: int
) -> None:
    before = state()
    real, calls = getattr(gc, name), []

    def interrupted(*args: object) -> object:
        calls.append(args)
        if len(calls) == which:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(gc, name, interrupted)
    try:
        with manage_gc():
            pass
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    assert state() == before
    with manage_gc():
        pass


@one_collector
def test_nested_use_is_an_error_and_the_outer_block_goes_on(collector: None) -> None:
    def enter() -> str:
        with pytest.raises(RuntimeError) as raised, manage_gc():
            pass
        return str(raised.value)

    answers = []
    with manage_gc() as manager:
        answers.append(enter())
        thread = threading.Thread(target=lambda: answers.append(enter()))
        thread.start()
        thread.join()
        answers.append(penstock.go(enter).result())
        assert manager.collect() >= 0
    assert answers == ["penstock.manage_gc() is in use already: there is one collector to manage"] * 3


@one_collector
def test_a_manager_is_entered_once(collector: None) -> None:
    manager = manage_gc()
    with manager, pytest.raises(RuntimeError, match="entered once"):
        manager.__enter__()
    with pytest.raises(RuntimeError, match="entered once"), manager:
        pass


@one_collector
def test_many_blocks_one_after_the_other_leave_nothing(collector: None) -> None:
    for _ in range(50):
        with manage_gc(GcPolicy(freeze=False)) as manager:
            manager.freeze()


@one_collector
def test_what_was_frozen_before_stays_frozen(collector: None) -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    with manage_gc() as manager:
        assert gc.get_freeze_count() >= before
        manager.collect()
        assert gc.get_freeze_count() > before // 2
    assert gc.get_freeze_count() > before // 2
    gc.unfreeze()


@one_collector
def test_nothing_is_frozen_without_being_asked_for(collector: None) -> None:
    with manage_gc(GcPolicy(freeze=False)) as manager:
        assert gc.get_freeze_count() == 0
        manager.collect()
        assert gc.get_freeze_count() == 0


@one_collector
def test_freeze_ends_a_warm_up_inside_the_block(collector: None) -> None:
    with manage_gc(GcPolicy(freeze=False)) as manager:
        gone = garbage()
        manager.freeze()
        assert gone() is None
        first = gc.get_freeze_count()
        kept = [[number] for number in range(5000)]
        manager.freeze()
        assert gc.get_freeze_count() >= first + len(kept) // 2
        assert manager.pauses().by_trigger["manual"] == 2


# The collector of others


@one_collector
@pytest.mark.parametrize("off", [gc.disable, lambda: gc.set_threshold(0)])
def test_a_collector_that_was_off_is_left_alone(off: Callable[[], None]) -> None:
    gone = garbage()
    off()
    before = state()
    try:
        with manage_gc(GcPolicy(growth_min=1000)) as manager:
            assert state()[:3] == before[:3]
            penstock.go(garbage, 10_000).result()
            kept = [[number] for number in range(50_000)]
            assert manager.pauses().count == 0
            assert gone() is not None
            assert manager.collect() >= 1
            assert gone() is None
            assert manager.pauses().by_trigger == {"idle": 0, "growth": 0, "manual": 1, "automatic": 0}
            assert gc.get_freeze_count() == 0
            del kept
        assert state() == before
    finally:
        gc.set_threshold(*DEFAULT)
        gc.enable()


@one_collector
def test_thresholds_that_the_block_sets_are_its_own(collector: None) -> None:
    with manage_gc(GcPolicy(growth_min=1000)):
        gc.set_threshold(901, 13, 14)
        kept = [[number] for number in range(20_000)]
        gc.collect()
        assert gc.get_threshold()[0] == 901
        del kept
    assert gc.get_threshold() == (901, 13, 14)
    gc.set_threshold(*DEFAULT)


@one_collector
def test_turning_the_collector_off_inside_is_respected_and_stays(collector: None) -> None:
    with manage_gc(GcPolicy(growth_min=1000)) as manager:
        gc.disable()
        kept = [[number] for number in range(100_000)]
        assert manager.pauses().count == 0
        del kept
    assert not gc.isenabled()
    gc.enable()


@one_collector
def test_a_callback_list_that_was_emptied_does_no_harm(collector: None) -> None:
    before = list(gc.callbacks)
    with manage_gc():
        gc.callbacks[:] = before


# Collections


@one_collector
def test_collect_looks_at_what_is_frozen_too(collector: None) -> None:
    node = Node()
    gone = weakref.ref(node)
    with manage_gc() as manager:
        del node
        gc.collect()
        assert gone() is not None
        assert manager.collect() >= 1
        assert gone() is None
        assert gc.get_freeze_count() > 1000


@one_collector
def test_garbage_goes_while_the_program_is_busy(collector: None) -> None:
    with manage_gc(GcPolicy(growth=0.25, growth_min=1000)) as manager:
        gone = garbage()
        make_until(lambda: gone() is None)
        by_trigger = manager.pauses().by_trigger
    # Without the GIL there are no slices: the bound is what starts a collection.
    assert by_trigger["growth" if IS_FREE_THREADED else "automatic"] >= 1
    assert by_trigger["idle"] == by_trigger["manual"] == 0


@one_collector
def test_garbage_that_has_grown_old_goes_before_the_heap_grows_past_its_bound(collector: None) -> None:
    with manage_gc(GcPolicy(growth=0.25, growth_min=1000)) as manager:
        live = gc.get_freeze_count()
        old = Node()
        gone = weakref.ref(old)
        kept = [[number] for number in range(live // 5)]
        del old
        kept += make_until(lambda: gone() is None)
        assert manager.pauses().by_trigger["growth"] >= 1
        assert len(kept) < 0.25 * live + live // 4 + 20_000, "its bound, a slice, and a nursery"


@one_collector
def test_a_cache_that_replaces_its_entries_is_no_growth(collector: None) -> None:
    with manage_gc(GcPolicy(growth=0.25, growth_min=50_000)) as manager:
        cache: deque[list[list[int]]] = deque(maxlen=3)
        for batch in range(400):
            cache.append([[number] for number in range(batch, batch + 3000)])
        assert manager.pauses().by_trigger["growth"] == 0


@one_collector
def test_every_collection_counts_with_who_wanted_it(collector: None) -> None:
    seen = []
    note = lambda phase, info: seen.append(info["generation"]) if phase == "stop" else None  # noqa: E731
    with manage_gc(GcPolicy(growth=0.25, growth_min=1000)) as manager:
        gc.callbacks.append(note)
        kept = [[number] for number in range(300_000)]
        gc.collect()
        gc.collect(0)
        manager.collect()
        gc.callbacks.remove(note)
        pauses = manager.pauses()
        del kept
    assert pauses.count == len(seen) == sum(pauses.by_trigger.values())
    assert pauses.by_trigger.keys() == TRIGGERS
    assert pauses.by_trigger["manual"] == 3
    assert pauses.by_trigger["growth"] >= 1
    assert 0 < pauses.p50 <= pauses.p99 <= pauses.max
    assert manager.pauses() == pauses, "also after the block"


@one_collector
def test_a_collection_that_was_asked_for_is_no_growth_though_that_is_due(collector: None) -> None:
    with manage_gc(GcPolicy(freeze=False, growth=0.25, growth_min=1000)) as manager:
        kept: list[list[int]] = []
        # Without the GIL growth has no moment between being due and being looked at.
        while gc.get_threshold()[2] != 0 and len(kept) < (1000 if IS_FREE_THREADED else 1_000_000):
            kept.append([len(kept)])
        manager.collect()
        by_trigger = manager.pauses().by_trigger
    assert (by_trigger["manual"], by_trigger["growth"]) == (1, 0)


@one_collector
def test_collect_from_many_threads_at_once(collector: None) -> None:
    with manage_gc() as manager:
        start = threading.Barrier(4)

        def collect() -> None:
            start.wait()
            for _ in range(10):
                garbage(100)
                manager.collect()
                manager.pauses()

        threads = [threading.Thread(target=collect) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert gc.get_freeze_count() > 1000


@one_collector
def test_a_finalizer_may_ask_for_a_collection(collector: None) -> None:
    answers = []

    class Last:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            answers.append(manager.collect())

    with manage_gc() as manager:
        Last()
        manager.collect()
    assert answers == [0], "there is one under way"


# Idle windows

IDLE = f"""
import gc, queue, weakref
import penstock

class Node:
    def __init__(self):
        self.other = self

kept, gone = [], []

def garbage():
    # More than half of what has the collector act on its own, and less than that.
    gone.append(weakref.ref(Node()))
    for _ in range(2_500):
        Node()
    if {IS_FREE_THREADED}:
        # A whole heap is looked at where half of the growth bound has been made.
        kept.append([[number] for number in range(60_000)])
"""


@pytest.mark.parametrize("work", ["work", "awork"])
def test_an_idle_scheduler_collects(run_program: Callable[..., Any], work: str) -> None:
    program = f"""
def work():
    garbage()
    penstock.Event().wait(timeout=60)

async def awork():
    garbage()
    await penstock.Event().await_(timeout=60)

with penstock.manage_gc() as manager:
    task = penstock.go({work})
    wait_until(lambda: gone and gone[0]() is None and manager.pauses().count)
    pauses = manager.pauses()
    assert pauses.by_trigger["idle"] == pauses.count, pauses
    task.cancel()
"""
    run_program(IDLE + program)


def test_an_idle_scheduler_leaves_a_collector_alone_that_is_not_its_own(
    run_program: Callable[..., Any],
) -> None:
    program = """
def collections(take):
    # Each rest is many times what a collection takes.
    with penstock.manage_gc() as manager:
        take()
        penstock.go(garbage).result()
        before = manager.pauses().count
        for _ in range(5):
            penstock.go(garbage).result()
            penstock.go(penstock.sleep, 0.3).result()
        gc.enable()
        return manager.pauses().count - before

counts = [collections(take) for take in (lambda: None, gc.disable, lambda: gc.set_threshold(1 << 30))]
assert counts[0] > 0 and counts[1:] == [0, 0], counts
"""
    run_program(IDLE + program)


def test_a_finalizer_in_an_idle_window_may_use_the_runtime(run_program: Callable[..., Any]) -> None:
    program = """
started, answers = [], queue.SimpleQueue()
gate, told = penstock.Event(), penstock.Channel(capacity=None)

class Last(Node):
    def __del__(self):
        # A new task, a message to one that waits, and a call that has to wait: it blocks this thread.
        started.append(penstock.go(gate.set))
        told.send("gone")
        gate.wait(timeout=30)
        answers.put(threading.current_thread().name)

def make():
    Last()
    garbage()

with penstock.manage_gc() as manager:
    listener = penstock.go(told.recv)
    penstock.go(make).result()
    name = answers.get(timeout=60)
    assert listener.result(timeout=30) == "gone"
    started[0].result(timeout=30)
    print(name)
"""
    result = run_program(IDLE + program)
    assert result.stdout.startswith("penstock"), result.stdout


# Forks and the end


def test_a_forked_child_goes_on_and_leaves_like_its_parent(run_program: Callable[..., Any]) -> None:
    program = """
import gc, penstock, warnings
warnings.simplefilter("ignore", DeprecationWarning)
before = gc.get_threshold(), list(gc.callbacks)
child = None
with penstock.manage_gc(penstock.GcPolicy(growth=0.25, growth_min=1000)) as manager:
    penstock.go(penstock.sleep, 0.001).result()
    manager.collect()
    child = os.fork()
    if child == 0:
        assert manager.pauses().count == 0, manager.pauses()
        kept = [[number] for number in range(200_000)]
        by_trigger = manager.pauses().by_trigger
        assert by_trigger["growth"] >= 1, by_trigger
        manager.collect()
        penstock.go(penstock.sleep, 0.001).result()
        try:
            penstock.manage_gc().__enter__()
        except RuntimeError:
            pass
        else:
            os._exit(7)
assert (gc.get_threshold(), list(gc.callbacks)) == before
assert gc.get_freeze_count() == 0
if child == 0:
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
"""
    run_program(program)


@pytest.mark.parametrize(
    "end",
    [
        "manager.__enter__()",
        "with manager: sys.exit(0)",
        "with manager:\n    penstock.go(work)\n    manager.__class__.__exit__ = lambda *error: None",
        "threading.Thread(target=run, daemon=True).start()\nentered.wait()",
    ],
)
def test_the_interpreter_ends_inside_a_block_without_a_word(
    run_program: Callable[..., Any], end: str
) -> None:
    program = f"""
import penstock

class Last:
    def __init__(self):
        self.itself = self
    def __del__(self):
        pass

def work():
    while True:
        for _ in range(3000):
            Last()
        penstock.sleep(0.001)

def run():
    with manager:
        entered.set()
        threading.Event().wait()

entered = threading.Event()
manager = penstock.manage_gc(penstock.GcPolicy(growth_min=1000))
penstock.go(work)
penstock.go(penstock.sleep, 0.01).result()
{end}
"""
    result = run_program(program)
    assert result.stderr == ""


def test_ctrl_c_leaves_the_block(run_program: Callable[..., Any]) -> None:
    program = """
import gc, penstock, signal
before = gc.get_threshold(), list(gc.callbacks)
try:
    with penstock.manage_gc():
        threading.Thread(target=signal.raise_signal, args=(signal.SIGINT,)).start()
        penstock.Event().wait(timeout=30)
except KeyboardInterrupt:
    assert (gc.get_threshold(), list(gc.callbacks)) == before
    assert gc.get_freeze_count() == 0
    print("interrupted")
"""
    assert run_program(program).stdout == "interrupted\n"
