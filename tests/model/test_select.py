"""Select against plain queues: whatever is done to both, they agree, also while a select waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from penstock import Channel, ChannelClosed, Selected, Task, aselect, go, select, select_nowait, wait

LIMIT = 30.0  # seconds; only a hang reaches it

Case = tuple[int, int | None]
"""A channel's number, and what to send or None to receive."""


async def awaits_select(*cases: Any, **options: Any) -> Any:
    return await aselect(*cases, **options)


def in_the_thread(function: Callable[..., Any], *cases: Any, **options: Any) -> Any:
    return function(*cases, **options)


def in_a_task(function: Callable[..., Any], *cases: Any, **options: Any) -> Any:
    return go(function, *cases, **options).result(timeout=LIMIT)


class SelectMachine(RuleBasedStateMachine):
    """Channels are queues of limited length; a select does one operation that one of them allows.

    Which one is chance, so what a rule may do is decided inside it: as a precondition it would differ from run to run.
    """

    @initialize(capacities=st.lists(st.integers(0, 2), min_size=2, max_size=4))
    def open_channels(self, capacities: list[int]) -> None:
        self.channels = [Channel[int](capacity) for capacity in capacities]
        self.models = [deque[int]() for _ in capacities]  # each rule does the same to both
        self.closed = [False for _ in capacities]
        self.parked: tuple[Task[Selected[Any]], list[Case]] | None = None

    # What the model says

    def is_ready(self, case: Case) -> bool:
        at, value = case
        if self.closed[at]:
            return True
        if value is None:
            return bool(self.models[at]) or self.waits_to(at, sending=True)
        return len(self.models[at]) < (self.channels[at].capacity or 0) or self.waits_to(at, sending=False)

    def waits_to(self, at: int, *, sending: bool) -> bool:
        return self.parked is not None and any(
            other == at and (value is not None) == sending for other, value in self.parked[1]
        )

    def passed(self, cases: list[Case]) -> list[Any]:
        return [
            self.channels[at] if value is None else (self.channels[at], value)
            for at, value in (self.numbered(case) for case in cases)
        ]

    def numbered(self, case: Case) -> Case:
        return case[0] % len(self.channels), case[1]

    def check(self, selected: Selected[Any], cases: list[Case], *, priority: bool) -> None:
        """One of the ready cases took effect, and does so on the model."""
        ready = [number for number, case in enumerate(cases) if self.is_ready(case)]
        assert selected.index in (ready[:1] if priority else ready)
        at, value = cases[selected.index]
        assert selected.channel is self.channels[at]
        if value is not None:
            assert (selected.value, selected.closed) == (None, False)
            if not self.serve_parked(at, value):
                self.models[at].append(value)
        elif self.models[at]:
            assert (selected.value, selected.closed) == (self.models[at].popleft(), False)
            self.refill(at)
        elif (got := self.take_from_parked(at)) is not None:
            assert (selected.value, selected.closed) == (got, False)
        else:
            assert self.closed[at]
            assert (selected.value, selected.closed) == (None, True)

    # What happens to a select that waits

    def end_of_parked(self, numbers: set[int]) -> tuple[Selected[Any], Case]:
        assert self.parked is not None
        task, cases = self.parked
        self.parked = None
        selected = task.result(timeout=LIMIT)
        assert selected.index in numbers
        return selected, cases[selected.index]

    def parked_at(self, at: int, *, sending: bool) -> set[int]:
        if self.parked is None:
            return set()
        return {
            number
            for number, (other, value) in enumerate(self.parked[1])
            if other == at and (value is not None) == sending
        }

    def serve_parked(self, at: int, value: int) -> bool:
        """A value goes to the select that waits to receive from `at`, if one does."""
        numbers = self.parked_at(at, sending=False)
        if numbers:
            selected, _ = self.end_of_parked(numbers)
            assert selected == (selected.index, value, self.channels[at], False)
        return bool(numbers)

    def take_from_parked(self, at: int) -> int | None:
        """The value of the select that waits to send on `at`, if one does."""
        numbers = self.parked_at(at, sending=True)
        if not numbers:
            return None
        selected, (_, value) = self.end_of_parked(numbers)
        assert selected == (selected.index, None, self.channels[at], False)
        return value

    def refill(self, at: int) -> None:
        value = self.take_from_parked(at)
        if value is not None:
            self.models[at].append(value)

    # What is done

    cases = st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers()), min_size=1, max_size=10)

    @rule(
        cases=cases,
        priority=st.booleans(),
        place=st.sampled_from([in_the_thread, in_a_task]),
        function=st.sampled_from([select, awaits_select, select_nowait]),
    )
    def select_without_waiting(
        self, cases: list[Case], priority: bool, place: Callable[..., Any], function: Callable[..., Any]
    ) -> None:
        cases = [self.numbered(case) for case in cases]
        options: dict[str, Any] = {"timeout": 0, "priority": priority}
        if function is select_nowait:
            options, priority = {}, False
        if function is awaits_select:
            place = in_a_task
        ready = [case for case in cases if self.is_ready(case)]
        fails = [case for case in ready if case[1] is not None and self.closed[case[0]]]
        try:
            selected = place(function, *self.passed(cases), **options)
        except TimeoutError:
            assert not ready
            assert function is not select_nowait
        except ChannelClosed:
            assert fails
            assert not priority or ready[0] in fails
        else:
            if selected is None:
                assert function is select_nowait
                assert not ready
            else:
                self.check(selected, cases, priority=priority)

    @rule(cases=cases, priority=st.booleans(), function=st.sampled_from([select, awaits_select]))
    def select_and_wait(self, cases: list[Case], priority: bool, function: Callable[..., Any]) -> None:
        cases = [self.numbered(case) for case in cases]
        if self.parked is not None or any(self.is_ready(case) for case in cases):
            return
        before = self.waits()
        task = go(function, *self.passed(cases), priority=priority)
        while self.waits() < before + len(cases):
            with pytest.raises(TimeoutError):
                task.result(timeout=0.0005)
        self.parked = task, cases

    def waits(self) -> int:
        stats = [channel.stats() for channel in self.channels]
        return sum(one.send_waits + one.recv_waits for one in stats)

    @rule()
    def cancel(self) -> None:
        if self.parked is None:
            return
        task, _ = self.parked
        self.parked = None
        assert task.cancel()
        wait([task], timeout=LIMIT)
        assert task.cancelled()

    @rule(at=st.integers(0, 3))
    def close(self, at: int) -> None:
        at %= len(self.channels)
        self.channels[at].close()
        self.closed[at] = True
        numbers = self.parked_at(at, sending=True) | self.parked_at(at, sending=False)
        if not numbers:
            return
        assert self.parked is not None
        task, cases = self.parked
        self.parked = None
        try:
            selected = task.result(timeout=LIMIT)
        except ChannelClosed:
            assert any(cases[number][1] is not None for number in numbers)
        else:
            number: int = selected.index
            assert selected[1:] == (None, self.channels[at], True)
            assert number in numbers
            assert cases[number][1] is None

    @invariant()
    def lengths_agree(self) -> None:
        assert [len(channel) for channel in self.channels] == [len(model) for model in self.models]

    @invariant()
    def a_select_waits_on(self) -> None:
        assert self.parked is None or not self.parked[0].done()

    def teardown(self) -> None:
        if hasattr(self, "parked"):
            self.cancel()


class TestSelectModel(SelectMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(deadline=None, max_examples=50, stateful_step_count=30)
