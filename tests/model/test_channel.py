"""A channel with a buffer against a deque: whatever is done to both, they agree."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from penstock import Channel, ChannelClosed, Empty, Full, Task, go

LIMIT = 30.0  # seconds; only a hang reaches it
T = TypeVar("T")


def through_a_task(call: Callable[[], T]) -> T:
    return go(call).result(timeout=LIMIT)


class ChannelMachine(RuleBasedStateMachine):
    """A channel is a queue: first in, first out, never over its capacity, if it has one."""

    @initialize(capacity=st.none() | st.integers(1, 4))
    def open_channel(self, capacity: int | None) -> None:
        self.channel = Channel[int](capacity)
        self.model = deque[int]()  # each rule does the same to the channel and to the model
        self.capacity = capacity
        self.closed = False
        self.sent = self.received = 0

    @rule(value=st.integers(), in_a_task=st.booleans(), waiting=st.booleans())
    def send(self, value: int, in_a_task: bool, waiting: bool) -> None:
        def call() -> None:
            if waiting:
                self.channel.send(value, timeout=0)
            else:
                self.channel.send_nowait(value)

        error: type[Exception] | None = None
        if self.closed:
            error = ChannelClosed
        elif len(self.model) == self.capacity:
            error = TimeoutError if waiting else Full
        task_or_call = partial(through_a_task, call) if in_a_task else call
        if error is None:
            task_or_call()
            self.model.append(value)
            self.sent += 1
        else:
            with pytest.raises(error):
                task_or_call()

    @rule(in_a_task=st.booleans(), waiting=st.booleans())
    def receive(self, in_a_task: bool, waiting: bool) -> None:
        def call() -> int:
            return self.channel.recv(timeout=0) if waiting else self.channel.recv_nowait()

        task_or_call = partial(through_a_task, call) if in_a_task else call
        if self.model:
            assert task_or_call() == self.model.popleft()
            self.received += 1
        else:
            error: type[Exception] = ChannelClosed if self.closed else TimeoutError if waiting else Empty
            with pytest.raises(error):
                task_or_call()

    @precondition(lambda self: not self.closed)
    @rule(value=st.integers())
    def send_over_capacity_then_receive(self, value: int) -> None:
        """A sender that has to wait stands behind what is there, and gets the slot a receive frees."""
        task: Task[None] = go(self.channel.send, value)
        self.model.append(value)
        self.sent += 1
        assert self.channel.recv(timeout=LIMIT) == self.model.popleft()
        self.received += 1
        task.result(timeout=LIMIT)

    @rule()
    def close(self) -> None:
        self.channel.close()
        self.closed = True

    @precondition(lambda self: self.closed)
    @rule()
    def drain(self) -> None:
        assert list(self.channel) == list(self.model)
        self.received += len(self.model)
        self.model.clear()

    @invariant()
    def length_agrees(self) -> None:
        assert len(self.channel) == len(self.model)
        assert self.channel.capacity == self.capacity
        assert self.capacity is None or len(self.model) <= self.capacity

    @invariant()
    def state_and_counters_agree(self) -> None:
        assert self.channel.closed == self.closed
        stats = self.channel.stats()
        assert (stats.sent, stats.received, stats.dropped) == (self.sent, self.received, 0)


class TestChannelModel(ChannelMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
