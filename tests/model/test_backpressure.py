"""A channel with a policy, batches and a callback against a deque: whatever is done to both, they agree."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from penstock import Channel, ChannelClosed, Empty, Full, go

LIMIT = 30.0  # seconds; only a hang reaches it
T = TypeVar("T")


def in_the_thread(call: Callable[[], T]) -> T:
    return call()


def in_a_task(call: Callable[[], T]) -> T:
    return go(call).result(timeout=LIMIT)


places = st.sampled_from([in_the_thread, in_a_task])
items = st.lists(st.integers(), max_size=9)


class BackpressureMachine(RuleBasedStateMachine):
    """A send puts its value last, throws one away or fails, as the policy says; a callback hears of each crossing."""

    @initialize(
        capacity=st.integers(1, 5),
        overflow=st.sampled_from(["block", "drop_newest", "drop_oldest", "error"]),
        marks=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
        watched=st.booleans(),
    )
    def open_channel(
        self,
        capacity: int,
        overflow: Literal["block", "drop_newest", "drop_oldest", "error"],
        marks: tuple[float, float],
        watched: bool,
    ) -> None:
        self.channel = Channel[int](capacity, overflow=overflow)
        self.model = deque[int]()  # each rule does the same to the channel and to the model
        self.capacity, self.overflow = capacity, overflow
        self.closed = False
        self.sent = self.received = self.dropped = 0
        self.told: list[str] = []
        self.expected: list[str] = []
        self.watched = watched
        if watched:
            low, high = sorted(marks)
            self.channel.on_pressure(lambda _, word: self.told.append(word), high, low)
            self.high = next(n for n in range(1, capacity + 1) if n >= high * capacity - 1e-9)
            self.low = max(n for n in range(self.high) if n <= low * capacity + 1e-9)

    def look(self) -> None:
        """What a callback that looks after each change hears."""
        if not self.watched:
            return
        is_high = len(self.expected) % 2 == 1
        if not is_high and len(self.model) >= self.high:
            self.expected.append("high")
        elif is_high and len(self.model) <= self.low:
            self.expected.append("low")

    def expect_send(self, value: int) -> type[Exception] | None:
        """Sends in the model; the error that a send has to raise."""
        if self.closed:
            return ChannelClosed
        if len(self.model) < self.capacity:
            self.sent += 1
            self.model.append(value)
        elif self.overflow == "drop_newest":
            self.dropped += 1
        elif self.overflow == "drop_oldest":
            self.sent += 1
            self.dropped += 1
            self.model.popleft()
            self.model.append(value)
        else:
            return Full
        self.look()
        return None

    @rule(value=st.integers(), place=places, way=st.sampled_from(["nowait", "timeout", "await"]))
    def send(self, value: int, place: Callable[[Callable[[], None]], None], way: str) -> None:
        async def send_awaited() -> None:
            await self.channel.asend(value, timeout=0)

        calls: dict[str, Callable[[], Any]] = {
            "nowait": lambda: self.channel.send_nowait(value),
            "timeout": lambda: self.channel.send(value, timeout=0),
            "await": lambda: go(send_awaited).result(timeout=LIMIT),
        }
        error = self.expect_send(value)
        if error is None:
            place(calls[way])
            return
        if error is Full and self.overflow == "block" and way != "nowait":
            error = TimeoutError
        with pytest.raises(error):
            place(calls[way])

    @precondition(lambda self: self.closed or self.overflow != "block")
    @rule(values=items, place=places, kind=st.sampled_from([list, tuple, iter]), awaited=st.booleans())
    def send_many(
        self,
        values: list[int],
        place: Callable[[Callable[[], None]], None],
        kind: Callable[[list[int]], Any],
        awaited: bool,
    ) -> None:
        async def send_awaited() -> None:
            await self.channel.asend_many(kind(values))

        def call() -> None:
            if awaited:
                go(send_awaited).result(timeout=LIMIT)
            else:
                self.channel.send_many(kind(values))

        errors = (self.expect_send(value) for value in values)
        error = next((error for error in errors if error is not None), None)
        if error is None:
            place(call)
        else:
            with pytest.raises(error):
                place(call)

    @precondition(lambda self: not self.closed and self.overflow == "block")
    @rule(values=items, kind=st.sampled_from([list, tuple, iter]), size=st.integers(1, 9))
    def send_many_against_batches(
        self, values: list[int], kind: Callable[[list[int]], Any], size: int
    ) -> None:
        """Over capacity a batch waits; a receiver that takes batches gets all of it, in order."""
        task = go(self.channel.send_many, kind(values))
        expected = [*self.model, *values]
        got: list[int] = []
        while len(got) < len(expected):
            got += self.channel.recv_many(size)
        task.result(timeout=LIMIT)
        assert got == expected
        self.model.clear()
        self.sent += len(values)
        self.received += len(got)
        # How often the length crossed a mark depends on who was faster; that words alternate does not.
        self.expected = self.told.copy()
        assert self.told == ["high", "low"] * (len(self.told) // 2)

    @rule(place=places, size=st.integers(1, 9), awaited=st.booleans())
    def receive_many(
        self, place: Callable[[Callable[[], list[int]]], list[int]], size: int, awaited: bool
    ) -> None:
        async def receive_awaited() -> list[int]:
            return await self.channel.arecv_many(size)

        def call() -> list[int]:
            if awaited:
                return go(receive_awaited).result(timeout=LIMIT)
            return self.channel.recv_many(size)

        if self.model:
            expected = [self.model.popleft() for _ in range(min(size, len(self.model)))]
            self.received += len(expected)
            self.look()
            assert place(call) == expected
        elif self.closed:
            with pytest.raises(ChannelClosed):
                place(call)

    @rule(place=places)
    def receive(self, place: Callable[[Callable[[], int]], int]) -> None:
        if self.model:
            expected = self.model.popleft()
            self.received += 1
            self.look()
            assert place(self.channel.recv_nowait) == expected
        else:
            with pytest.raises(ChannelClosed if self.closed else Empty):
                place(self.channel.recv_nowait)

    @rule()
    def close(self) -> None:
        self.channel.close()
        self.closed = True

    @invariant()
    def length_and_counters_agree(self) -> None:
        assert len(self.channel) == len(self.model)
        stats = self.channel.stats()
        assert (stats.sent, stats.received, stats.dropped) == (self.sent, self.received, self.dropped)

    @invariant()
    def each_crossing_was_told(self) -> None:
        assert self.told == self.expected


class TestBackpressureModel(BackpressureMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
