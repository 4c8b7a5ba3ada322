"""A pool of objects against a plain model: two lists of what is idle, and who is out."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from penstock import ObjectPool


class Thing:
    """What is pooled; its ``reset`` fails if it is broken."""

    broken = False


def reset(thing: Thing) -> None:
    if thing.broken:
        raise OSError("broken")


class Objects(RuleBasedStateMachine):
    """An object is out, or idle, or a victim of the last collection, or not of the pool."""

    max_idle = 4

    def __init__(self) -> None:
        super().__init__()
        self.pool = ObjectPool(Thing, reset, self.max_idle)
        self.out: list[Thing] = []
        self.idle: list[Thing] = []
        self.victims: list[Thing] = []
        self.dropped: list[int] = []  # by address, which a new object may have
        self.created = 0
        gc.freeze()  # so that a collection here takes no time
        gc.disable()

    def teardown(self) -> None:
        gc.unfreeze()
        gc.enable()

    def made(self, thing: Thing) -> None:
        self.created += 1
        if id(thing) in self.dropped:
            self.dropped.remove(id(thing))

    @rule()
    def acquire(self) -> None:
        thing = self.pool.acquire()
        if kept := self.idle or self.victims:
            assert thing is kept.pop()
        else:
            self.made(thing)
        assert all(thing is not other for other in self.out)
        self.out.append(thing)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), broken=st.booleans())
    def release(self, data: st.DataObject, broken: bool) -> None:
        thing = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if broken:
            thing.broken = True
            with pytest.raises(OSError, match="broken"):
                self.pool.release(thing)
            return
        self.pool.release(thing)
        if len(self.idle) + len(self.victims) < self.max_idle:
            self.idle.append(thing)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        with pytest.raises(ValueError, match="obj must be"):
            self.pool.release(data.draw(st.sampled_from(self.idle)))

    @rule()
    def release_another(self) -> None:
        thing = Thing()
        if id(thing) not in self.dropped:
            with pytest.raises(ValueError, match="obj must be"):
                self.pool.release(thing)

    @precondition(lambda self: self.out)
    @rule()
    def drop(self) -> None:
        self.dropped.append(id(self.out.pop()))

    @rule(number=st.integers(0, max_idle))
    def warm(self, number: int) -> None:
        missing = max(0, number - len(self.idle) - len(self.victims))
        self.pool.warm(number)
        fresh = [self.pool.acquire() for _ in range(missing)]
        for thing in fresh:
            self.made(thing)
        for thing in reversed(fresh):
            self.pool.release(thing)
        self.idle += reversed(fresh)

    @rule()
    def collect(self) -> None:
        self.victims, self.idle = self.idle, []
        gc.collect()

    @invariant()
    def numbers_agree(self) -> None:
        stats = self.pool.stats()
        out = len(self.out) + len(self.dropped)
        idle = len(self.idle) + len(self.victims)
        assert (stats.in_use, stats.idle, stats.created) == (out, idle, self.created)


Objects.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestObjects = Objects.TestCase
