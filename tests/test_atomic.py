"""Atomics: what one call does, and that many threads at once lose nothing."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from typing import Any, get_origin

import pytest
from penstock import AtomicBool, AtomicInt, AtomicRef, Group

LEAST, GREATEST = -(2**63), 2**63 - 1
THREADS = 4
LIMIT = 30.0  # seconds; only a hang reaches it


class Marker:
    """An object that can be weakly referenced."""


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    """With the GIL, threads that share it change places in the middle of things, and not once a test."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(threads: Any, *calls: Callable[[], object]) -> None:
    """Makes each call on a thread of its own; all begin together."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        barrier.wait(LIMIT)
        call()

    for call in calls:
        threads.start(run, call)
    threads.join()


# AtomicInt, one call


def test_an_integer_starts_where_it_is_told_to() -> None:
    assert AtomicInt().load() == 0
    assert AtomicInt(-7).load() == -7
    assert AtomicInt(value=GREATEST).load() == GREATEST


def test_add_and_sub_return_the_new_value_and_swap_the_previous_one() -> None:
    number = AtomicInt(10)
    assert number.add(5) == 15
    assert number.sub(20) == -5
    assert number.swap(3) == -5
    assert number.load() == 3
    assert number.store(4) is None  # type: ignore[func-returns-value]
    assert number.load() == 4


def test_arithmetic_wraps_as_in_go() -> None:
    assert AtomicInt(GREATEST).add(1) == LEAST
    assert AtomicInt(LEAST).sub(1) == GREATEST
    assert AtomicInt(LEAST).add(LEAST) == 0
    assert AtomicInt(0).sub(LEAST) == LEAST
    assert AtomicInt(-1).sub(GREATEST) == LEAST


def test_an_exchange_takes_place_only_on_the_expected_value() -> None:
    number = AtomicInt(1)
    assert number.compare_exchange(2, 3) is False
    assert number.load() == 1
    assert number.compare_exchange(1, 3) is True
    assert number.load() == 3
    assert number.compare_exchange(new=LEAST, expected=3) is True
    assert number.load() == LEAST


def test_fetch_max_and_fetch_min_compare_signed_and_return_the_previous_value() -> None:
    number = AtomicInt(0)
    assert [number.fetch_max(other) for other in (-1, 5, 3)] == [0, 0, 5]
    assert [number.fetch_min(other) for other in (9, -2, LEAST, 0)] == [5, 5, -2, LEAST]
    assert number.load() == LEAST


CALLS: dict[str, Callable[[Any], object]] = {
    "AtomicInt": AtomicInt,
    "store": AtomicInt().store,
    "add": AtomicInt().add,
    "sub": AtomicInt().sub,
    "swap": AtomicInt().swap,
    "fetch_max": AtomicInt().fetch_max,
    "fetch_min": AtomicInt().fetch_min,
    "expected": lambda value: AtomicInt().compare_exchange(value, 0),
    "new": lambda value: AtomicInt().compare_exchange(0, value),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**64, 10**100])
def test_an_argument_out_of_range_is_an_overflow_error(name: str, value: int) -> None:
    with pytest.raises(OverflowError, match=rf"must be an int from -2\*\*63 to 2\*\*63 - 1, not {value}$"):
        CALLS[name](value)


def test_a_number_too_long_to_be_shown_is_an_overflow_error_as_well() -> None:
    with pytest.raises(OverflowError, match="by must be an int"):
        AtomicInt().add(1 << 100_000)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", [1.0, "1", None, [1], -1.5])
def test_what_is_no_int_is_a_type_error_that_names_the_argument(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=r"^(value|by|other|expected|new) must be an int from ") as raised:
        CALLS[name](value)
    assert str(raised.value).endswith(f", not {value!r}")


def test_a_refused_argument_changes_nothing() -> None:
    number = AtomicInt(5)
    for call in (number.add, number.store, number.swap, number.fetch_max):
        with pytest.raises(OverflowError):
            call(2**63)
    with pytest.raises(OverflowError):
        number.compare_exchange(5, 2**63)
    assert number.load() == 5


def test_index_is_asked_before_the_change_and_what_it_raises_is_what_the_caller_sees() -> None:
    number = AtomicInt(1)

    class Self:
        def __index__(self) -> int:
            return number.add(1)

    class Broken:
        def __index__(self) -> int:
            raise LookupError("no number")

    assert number.add(Self()) == 4
    with pytest.raises(LookupError, match="no number"):
        number.add(Broken())
    assert number.add(True) == 5


def test_an_integer_counts_as_its_value_where_a_number_is_asked_for() -> None:
    assert int(AtomicInt(-3)) == -3
    assert not AtomicInt()
    assert AtomicInt(-1)


@pytest.mark.parametrize("arguments", [(), (1, 2, 3), (1,)])
def test_a_wrong_number_of_arguments_is_a_type_error(arguments: tuple[int, ...]) -> None:
    atomics: tuple[Any, ...] = (AtomicInt(), AtomicBool(), AtomicRef(None))
    for atomic in atomics:
        with pytest.raises(TypeError):
            atomic.compare_exchange(*arguments)
    with pytest.raises(TypeError):
        AtomicInt(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        AtomicRef()  # type: ignore[call-arg]


# AtomicBool, one call


def test_a_flag_does_what_it_says() -> None:
    flag = AtomicBool()
    assert flag.load() is False
    assert not flag
    flag.store(True)
    assert flag.load() is True
    assert flag
    assert flag.swap(False) is True
    assert flag.swap(True) is False
    assert flag.compare_exchange(False, True) is False
    assert flag.compare_exchange(expected=True, new=False) is True
    assert flag.load() is False
    assert AtomicBool(True).load() is AtomicBool(value=True).load() is True


@pytest.mark.parametrize("value", [0, 1, None, "yes", 1.0])
def test_what_is_merely_true_is_no_flag(value: Any) -> None:
    flag = AtomicBool()
    calls: tuple[Callable[[], object], ...] = (
        lambda: AtomicBool(value),
        lambda: flag.store(value),
        lambda: flag.swap(value),
        lambda: flag.compare_exchange(value, True),
        lambda: flag.compare_exchange(False, value),
    )
    for call in calls:
        with pytest.raises(TypeError, match=rf"(value|expected|new) must be True or False, not {value!r}$"):
            call()
    assert flag.load() is False


# AtomicRef, one call


class Equal:
    """Equal to everything, and not to be asked."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared by equality")

    def __bool__(self) -> bool:
        raise AssertionError("asked for its truth")


def test_a_reference_is_compared_by_identity_and_asks_no_object_anything() -> None:
    first, second, third = Equal(), Equal(), Equal()
    reference = AtomicRef(first)
    assert reference.load() is first
    assert reference.compare_exchange(second, third) is False
    assert reference.load() is first
    assert reference.compare_exchange(first, second) is True
    assert reference.swap(third) is second
    reference.store(first)
    assert reference.load() is first
    assert reference.compare_exchange(expected=first, new=third) is True


@pytest.mark.parametrize("how", ["store", "swap", "compare_exchange", "drop"])
def test_the_old_object_is_dropped_before_the_call_returns(how: str) -> None:
    old = Marker()
    alive = weakref.ref(old)
    reference = AtomicRef[Marker | None](old)
    if how == "compare_exchange":
        expected = [old]
        del old
        reference.compare_exchange(expected.pop(), None)
    else:
        del old
        if how == "store":
            reference.store(None)
        elif how == "swap":
            reference.swap(None)
        else:
            del reference
    assert alive() is None


def test_a_refused_exchange_keeps_nothing() -> None:
    new = Marker()
    alive = weakref.ref(new)
    reference = AtomicRef[object]("old")
    assert not reference.compare_exchange(new, new)
    del new
    assert alive() is None
    assert reference.load() == "old"


def test_the_dropped_object_may_use_the_reference_that_dropped_it() -> None:
    seen: list[object] = []

    class Last:
        def __del__(self) -> None:
            seen.append(reference.load())
            seen.append(reference.swap("from within"))

    reference = AtomicRef[object](Last())
    reference.store("new")
    assert seen == ["new", "new"]
    assert reference.load() == "from within"


def test_a_cycle_through_a_reference_is_collected() -> None:
    reference = AtomicRef[object](None)
    marker = Marker()
    marker.reference = reference  # type: ignore[attr-defined]
    reference.store(marker)
    itself = AtomicRef[object](None)
    itself.store(itself)
    alive: list[weakref.ref[Any]] = [weakref.ref(each) for each in (marker, reference, itself)]
    assert marker in gc.get_referents(reference)
    del marker, reference, itself
    gc.collect()
    assert [found() for found in alive] == [None] * 3


def test_a_long_chain_of_references_is_dropped() -> None:
    """Each drops the next one from within its own end: that must not take a stack frame for each."""
    first = Marker()
    alive = weakref.ref(first)
    last = AtomicRef[object](first)
    del first
    for _ in range(200_000):
        last = AtomicRef[object](last)
    del last
    assert alive() is None


def test_a_link_of_a_chain_that_somebody_holds_keeps_the_rest() -> None:
    held = AtomicRef[object]("end")
    middle = AtomicRef[object](held)
    first = AtomicRef[object](middle)
    weakly = weakref.ref(middle)
    del middle, first
    assert weakly() is None
    assert held.load() == "end"


# All three as objects

everyone = pytest.mark.parametrize("make", [AtomicInt, AtomicBool, lambda: AtomicRef("x")])
Make = Callable[[], Any]


@everyone
def test_an_atomic_is_itself_and_nothing_else(make: Make) -> None:
    one, other = make(), make()
    assert one != other
    assert len({one, other, one}) == 2
    with pytest.raises(AttributeError):
        one.value = 1
    assert weakref.ref(one)() is one


@everyone
def test_copying_an_atomic_is_a_type_error_that_says_why(make: Make) -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"an Atomic\w+ cannot be pickled or copied: it is shared"):
            attempt(make())


def test_no_class_derives_from_an_atomic() -> None:
    for base in (AtomicInt, AtomicBool, AtomicRef):
        with pytest.raises(TypeError):
            type("Derived", (base,), {})


def test_repr_shows_class_address_and_state() -> None:
    number, flag = AtomicInt(-5), AtomicBool(True)
    assert repr(number) == f"<penstock.AtomicInt at {id(number):#x}: -5>"
    assert repr(flag) == f"<penstock.AtomicBool at {id(flag):#x}: True>"
    held = Equal()
    reference = AtomicRef[object](held)
    assert repr(reference) == f"<penstock.AtomicRef at {id(reference):#x}: Equal object at {id(held):#x}>"
    reference.store(reference)
    assert "AtomicRef object" in repr(reference)


def test_a_type_of_a_reference_can_be_written_at_run_time() -> None:
    assert AtomicRef[int](3).load() == 3
    assert get_origin(AtomicRef[int]) is AtomicRef


# Many threads


def test_additions_of_many_threads_all_count_and_each_sum_comes_once(threads: Any) -> None:
    number = AtomicInt()
    sums: list[list[int]] = [[] for _ in range(THREADS)]

    def count(into: list[int]) -> None:
        into.extend(number.add(1) for _ in range(10_000))

    at_once(threads, *(lambda into=into: count(into) for into in sums))
    assert number.load() == THREADS * 10_000
    assert all(before < after for mine in sums for before, after in pairwise(mine))
    assert sorted(chain.from_iterable(sums)) == list(range(1, THREADS * 10_000 + 1))


def test_tasks_add_as_threads_do() -> None:
    number = AtomicInt()
    with Group() as group:
        for by in range(1000):
            group.go(number.add, by)
            group.go(number.sub, 1)
    assert number.load() == sum(range(1000)) - 1000


def test_exchanges_in_a_loop_lose_no_update(threads: Any) -> None:
    number = AtomicInt()

    def triple_step() -> None:
        for _ in range(2_000):
            while True:
                before = number.load()
                if number.compare_exchange(before, before + 3):
                    break

    at_once(threads, *[triple_step] * THREADS)
    assert number.load() == THREADS * 2_000 * 3


def test_the_extremes_of_many_threads_stay(threads: Any) -> None:
    low, high = AtomicInt(), AtomicInt()

    def stretch(sign: int) -> None:
        for step in range(5_000):
            high.fetch_max(step * sign)
            low.fetch_min(step * sign)

    at_once(threads, *[lambda: stretch(1), lambda: stretch(-1)] * 2)
    assert (low.load(), high.load()) == (-4_999, 4_999)


def test_swapped_tokens_are_neither_lost_nor_doubled(threads: Any) -> None:
    number = AtomicInt(0)
    reference = AtomicRef[int](0)
    taken: list[list[int]] = [[] for _ in range(THREADS)]
    tokens = 20_000

    def pass_on(at: int) -> None:
        mine = range(1 + tokens * at, 1 + tokens * (at + 1))
        taken[at] = [number.swap(token) for token in mine] + [reference.swap(token) for token in mine]

    at_once(threads, *(lambda at=at: pass_on(at) for at in range(THREADS)))
    found = Counter(chain.from_iterable(taken))
    found[number.load()] += 1
    found[reference.load()] += 1
    assert found == Counter(dict.fromkeys(range(tokens * THREADS + 1), 2))


def test_one_thread_wins_a_flag(threads: Any) -> None:
    flags = [AtomicBool() for _ in range(2_000)]
    wins = AtomicInt()

    def claim() -> None:
        for flag in flags:
            if flag.compare_exchange(False, True):
                wins.add(1)
            assert flag.swap(True) is True

    at_once(threads, *[claim] * THREADS)
    assert wins.load() == len(flags)


@pytest.mark.thread_unsafe(reason="two threads that wait for each other at each step need the processors")
def test_of_two_that_store_and_look_at_the_other_one_sees_it(threads: Any) -> None:
    """Needs one order of all operations: with stores that are merely released both may see nothing."""
    rounds = 2_000
    words = [[AtomicInt() for _ in range(rounds)] for _ in range(2)]
    begun = [AtomicInt(), AtomicInt()]
    seen: list[list[int]] = [[], []]

    def look(at: int) -> None:
        mine, other, into = words[at], words[1 - at], seen[at]
        for turn, (store, load) in enumerate(
            zip([w.store for w in mine], [w.load for w in other], strict=True)
        ):
            begun[at].store(turn)
            looks = 0
            while begun[1 - at].load() < turn:
                looks += 1
                if looks > 200:
                    os.sched_yield()
            store(1)
            into.append(load())

    at_once(threads, lambda: look(0), lambda: look(1))
    assert (0, 0) not in zip(*seen, strict=True)


class Whole:
    """Counts its ends; its two halves are equal as long as it is whole."""

    ended = AtomicInt()

    def __init__(self, number: int) -> None:
        self.left = self.right = [number]

    def __del__(self) -> None:
        self.left = []
        Whole.ended.add(1)


@pytest.mark.thread_unsafe(reason="counts the ends of all objects of a class")
def test_a_loaded_object_is_alive_while_others_store_and_the_collector_runs(threads: Any) -> None:
    Whole.ended.store(0)
    made = AtomicInt()
    reference = AtomicRef[Whole | None](Whole(made.add(1)))
    stores, writers = 1_000, 2
    done = AtomicInt()

    def write() -> None:
        for turn in range(stores):
            new = Whole(made.add(1))
            if turn % 3 == 0:
                reference.store(new)
            elif turn % 3 == 1:
                reference.swap(new)
            else:
                reference.compare_exchange(reference.load(), new)
        done.add(1)

    def read() -> None:
        while done.load() < writers:
            found = reference.load()
            assert found is not None
            assert found.left is found.right
            assert found.left

    def collect() -> None:
        while done.load() < writers:
            gc.collect()

    at_once(threads, write, write, read, read, collect)
    reference.swap(None)
    gc.collect()
    assert made.load() == stores * writers + 1
    assert Whole.ended.load() == made.load()


def test_a_stack_of_references_gives_back_what_was_pushed(threads: Any) -> None:
    """Treiber's stack: what a compare_exchange is for."""
    top = AtomicRef[tuple[int, Any] | None](None)
    popped: list[list[int]] = [[] for _ in range(THREADS)]

    def push(number: int) -> None:
        while not top.compare_exchange(below := top.load(), (number, below)):
            pass

    def pop() -> int | None:
        while (found := top.load()) is not None:
            if top.compare_exchange(found, found[1]):
                return found[0]
        return None

    def work(first: int, into: list[int]) -> None:
        for number in range(first, first + 10_000):
            push(number)
            if number % 2 and (found := pop()) is not None:
                into.append(found)

    at_once(threads, *(lambda at=at: work(10_000 * at, popped[at]) for at in range(THREADS)))
    while (left := pop()) is not None:
        popped[0].append(left)
    assert sorted(chain.from_iterable(popped)) == list(range(10_000 * THREADS))


def test_atomics_work_in_a_child_forked_while_other_threads_change_them(run_program: Any) -> None:
    run_program(
        """
        from penstock import AtomicBool, AtomicInt, AtomicRef

        number, reference, stop = AtomicInt(), AtomicRef(None), AtomicBool()

        def change():
            while not stop:
                number.add(1)
                reference.swap(object())
                reference.load()

        others = [threading.Thread(target=change) for _ in range(3)]
        for other in others:
            other.start()
        wait_until(lambda: number.load() > 100)
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: that is the point
        for _ in range(30):
            child = os.fork()
            if child == 0:
                before = number.load()
                assert number.add(1) == before + 1, "the other threads are not here"
                reference.store("child")
                os._exit(reference.load() != "child")
            assert os.waitpid(child, 0)[1] == 0
        stop.store(True)
        for other in others:
            other.join()
        """
    )
