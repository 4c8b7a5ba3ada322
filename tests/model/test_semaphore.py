"""A semaphore against a number and a queue: whatever is done to both, they agree."""

from __future__ import annotations

import re
import threading
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from penstock import Cancelled, Semaphore, Task, go

LIMIT = 30.0  # seconds; only a hang reaches it


class SemaphoreMachine(RuleBasedStateMachine):
    """A permit goes to whoever has waited longest; none is lost, and none made."""

    @initialize(value=st.integers(0, 3))
    def make(self, value: int) -> None:
        self.semaphore = Semaphore(value)
        self.permits = value
        self.waiting = deque[Task[bool]]()  # each rule does the same to the semaphore and to these

    def shown(self) -> tuple[int, int]:
        found = re.search(r"value (\d+)(?:, (\d+) waiting)?>", repr(self.semaphore))
        assert found is not None
        return int(found[1]), int(found[2] or 0)

    def wait_until_shown(self) -> None:
        pause = threading.Event()
        for _ in range(int(LIMIT / 0.001)):
            if self.shown() == (self.permits, len(self.waiting)):
                return
            pause.wait(0.001)
        raise AssertionError(f"{self.shown()} is not ({self.permits}, {len(self.waiting)})")

    @rule(in_a_task=st.booleans())
    def try_to_acquire(self, in_a_task: bool) -> None:
        def call() -> bool:
            return self.semaphore.acquire(blocking=False)

        acquired = go(call).result(timeout=LIMIT) if in_a_task else call()
        assert acquired is (self.permits > 0)
        self.permits -= acquired

    @rule(coroutine=st.booleans())
    def acquire_without_time(self, coroutine: bool) -> None:
        async def aacquire() -> bool:
            return await self.semaphore.aacquire(timeout=0)

        def call() -> bool:
            return go(aacquire).result(timeout=LIMIT) if coroutine else self.semaphore.acquire(timeout=0)

        if self.permits:
            assert call() is True
            self.permits -= 1
        else:
            with pytest.raises(TimeoutError):
                call()

    @rule(coroutine=st.booleans())
    def acquire(self, coroutine: bool) -> None:
        async def aacquire() -> bool:
            return await self.semaphore.aacquire()

        task = go(aacquire) if coroutine else go(self.semaphore.acquire)
        if self.permits:
            assert task.result(timeout=LIMIT) is True
            self.permits -= 1
        else:
            self.waiting.append(task)
            self.wait_until_shown()

    @rule(n=st.integers(1, 3))
    def release(self, n: int) -> None:
        self.semaphore.release(n)
        for _ in range(n):
            if self.waiting:
                assert self.waiting.popleft().result(timeout=LIMIT) is True
            else:
                self.permits += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel_one_that_waits(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.waiting) - 1))
        task = self.waiting[index]
        del self.waiting[index]
        task.cancel()
        with pytest.raises(Cancelled):
            task.result(timeout=LIMIT)

    @invariant()
    def it_shows_the_same(self) -> None:
        if hasattr(self, "semaphore"):
            assert self.shown() == (self.permits, len(self.waiting))
            assert not any(task.done() for task in self.waiting)
            assert not (self.permits and self.waiting)

    def teardown(self) -> None:
        while self.waiting:
            self.release(1)


class TestSemaphoreModel(SemaphoreMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
