"""Atomics against plain values: whatever is done to both, they agree."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from penstock import AtomicBool, AtomicInt, AtomicRef

LEAST, GREATEST = -(2**63), 2**63 - 1

words = st.integers(LEAST, GREATEST) | st.sampled_from([LEAST, LEAST + 1, -1, 0, 1, GREATEST - 1, GREATEST])
outside = st.integers(max_value=LEAST - 1) | st.integers(min_value=GREATEST + 1)


def wrap(number: int) -> int:
    """The integer of 64 bits that has the same low bits."""
    return (number - LEAST) % 2**64 + LEAST


class IntMachine(RuleBasedStateMachine):
    """An atomic integer is an int that wraps around."""

    @initialize(value=words)
    def make(self, value: int) -> None:
        self.number = AtomicInt(value)
        self.model = value

    @rule(value=words)
    def store(self, value: int) -> None:
        self.number.store(value)
        self.model = value

    @rule(by=words)
    def add(self, by: int) -> None:
        self.model = wrap(self.model + by)
        assert self.number.add(by) == self.model

    @rule(by=words)
    def sub(self, by: int) -> None:
        self.model = wrap(self.model - by)
        assert self.number.sub(by) == self.model

    @rule(value=words)
    def swap(self, value: int) -> None:
        assert self.number.swap(value) == self.model
        self.model = value

    @rule(other=words)
    def fetch_max(self, other: int) -> None:
        assert self.number.fetch_max(other) == self.model
        self.model = max(self.model, other)

    @rule(other=words)
    def fetch_min(self, other: int) -> None:
        assert self.number.fetch_min(other) == self.model
        self.model = min(self.model, other)

    @rule(other=words, new=words, known=st.booleans())
    def compare_exchange(self, other: int, new: int, known: bool) -> None:
        expected = self.model if known else other
        assert self.number.compare_exchange(expected, new) is (expected == self.model)
        if expected == self.model:
            self.model = new

    @rule(
        value=outside,
        name=st.sampled_from(["store", "add", "sub", "swap", "fetch_max", "fetch_min"]),
    )
    def is_refused(self, value: int, name: str) -> None:
        try:
            getattr(self.number, name)(value)
        except OverflowError:
            return
        raise AssertionError(f"{name}({value}) was taken")

    @invariant()
    def values_agree(self) -> None:
        assert self.number.load() == int(self.number) == self.model
        assert bool(self.number) is bool(self.model)


class BoolMachine(RuleBasedStateMachine):
    """An atomic flag is a bool."""

    @initialize(value=st.booleans())
    def make(self, value: bool) -> None:
        self.flag = AtomicBool(value)
        self.model = value

    @rule(value=st.booleans())
    def store(self, value: bool) -> None:
        self.flag.store(value)
        self.model = value

    @rule(value=st.booleans())
    def swap(self, value: bool) -> None:
        assert self.flag.swap(value) is self.model
        self.model = value

    @rule(expected=st.booleans(), new=st.booleans())
    def compare_exchange(self, expected: bool, new: bool) -> None:
        assert self.flag.compare_exchange(expected, new) is (expected is self.model)
        if expected is self.model:
            self.model = new

    @invariant()
    def values_agree(self) -> None:
        assert self.flag.load() is bool(self.flag) is self.model


class RefMachine(RuleBasedStateMachine):
    """An atomic reference is a name: what it refers to is one of these, all equal and all different."""

    objects: tuple[list[object], ...] = tuple([] for _ in range(4))
    some = st.sampled_from(range(4))

    @initialize(at=some)
    def make(self, at: int) -> None:
        self.reference = AtomicRef[list[object]](self.objects[at])
        self.model = at

    @rule(at=some)
    def store(self, at: int) -> None:
        self.reference.store(self.objects[at])
        self.model = at

    @rule(at=some)
    def swap(self, at: int) -> None:
        assert self.reference.swap(self.objects[at]) is self.objects[self.model]
        self.model = at

    @rule(expected=some, new=some)
    def compare_exchange(self, expected: int, new: int) -> None:
        exchanged = self.reference.compare_exchange(self.objects[expected], self.objects[new])
        assert exchanged is (expected == self.model)
        if exchanged:
            self.model = new

    @invariant()
    def values_agree(self) -> None:
        assert self.reference.load() is self.objects[self.model]


class TestIntModel(IntMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(deadline=None, max_examples=100, stateful_step_count=30)


class TestBoolModel(BoolMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(deadline=None, max_examples=30, stateful_step_count=20)


class TestRefModel(RefMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(deadline=None, max_examples=60, stateful_step_count=20)
