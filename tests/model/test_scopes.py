"""Random nests of deadlines, groups and clean-ups do what a plain model of them does.

No clock is in it: a deadline has passed when it is entered (0 seconds), or never will. What waits is a turn given up,
which always counts as a call that has to wait, and a receive with a tiny timeout of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import penstock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock import Cancelled, Channel, Group, go

LIMIT = 30.0

# What a program does, and what is in it.
Program = list[Any]

STEPS = st.sampled_from([("wait",), ("wait",), ("short",), ("cancel",)])


def _nest(programs: st.SearchStrategy[Program]) -> st.SearchStrategy[Any]:
    scopes = st.sampled_from(["timeout", "move_on_after", "move_on_after", "group"])
    return st.one_of(
        st.tuples(scopes, st.booleans(), programs),
        st.tuples(scopes, st.booleans(), programs),
        st.tuples(st.just("finally"), programs, programs),
        st.tuples(st.just("catch"), programs),
    )


def _programs(depth: int) -> st.SearchStrategy[Program]:
    if not depth:
        return st.lists(STEPS, min_size=1, max_size=3)
    nest = _nest(_programs(depth - 1))
    return st.lists(st.one_of(nest, nest, STEPS), min_size=1, max_size=3)


PROGRAMS = _programs(3)


class Model:
    """What should happen, by the words of the documentation."""

    def __init__(self) -> None:
        self._number = 0
        self._deadlines: list[dict[str, Any]] = []  # those that are open, the outermost first
        self._asked: set[int] = set()  # groups whose child has failed
        self._cancelled = False

    def _enter(self) -> int:
        self._number += 1
        return self._number

    def _spend_from(self, number: int) -> None:
        for deadline in self._deadlines:
            deadline["spent"] |= deadline["number"] >= number

    async def wait(self) -> None:
        if self._cancelled:
            self._cancelled = False
            self._spend_from(0)
            raise ModelCancelled(0)
        if self._asked:
            group = min(self._asked)
            self._asked.remove(group)
            self._spend_from(group)
            raise ModelCancelled(group)
        for deadline in self._deadlines:
            if deadline["passed"] and not deadline["spent"]:
                self._spend_from(deadline["number"])
                raise ModelTimeout(deadline["number"])

    async def short(self) -> None:
        await self.wait()
        raise ModelTimeout(None)

    def cancel(self) -> None:
        self._cancelled = True

    @contextlib.asynccontextmanager
    async def timeout(self, passed: bool) -> AsyncIterator[None]:
        number = self._enter()
        self._deadlines.append({"number": number, "passed": passed, "spent": False})
        try:
            yield
        finally:
            self._deadlines.pop()

    @contextlib.asynccontextmanager
    async def move_on_after(self, passed: bool) -> AsyncIterator[None]:
        number = self._number + 1
        try:
            async with self.timeout(passed):
                yield
        except ModelTimeout as error:
            if error.number != number:
                raise

    @contextlib.asynccontextmanager
    async def group(self, fails: bool) -> AsyncIterator[None]:
        number = self._enter()
        failures: list[BaseException] = [ValueError()] if fails else []
        outside: BaseException | None = None
        if fails:
            self._asked.add(number)
        try:
            yield
        except ModelCancelled as error:
            outside = error if error.number != number else None
        except Exception as error:
            around = [deadline["number"] for deadline in self._deadlines]
            if isinstance(error, ModelTimeout) and error.number in around:
                outside = error
            else:
                failures.append(error)
        self._asked.discard(number)
        if failures:
            raise ExceptionGroup("", [Exception() for _ in failures])
        if outside is not None:
            raise outside


class ModelCancelled(BaseException):
    def __init__(self, number: int) -> None:
        self.number = number


class ModelTimeout(Exception):
    def __init__(self, number: int | None) -> None:
        self.number = number


FAILED = go(int, "x")
assert FAILED.exception(timeout=LIMIT) is not None


class World:
    """The same with penstock, by its calls for plain functions or its awaitable ones."""

    def __init__(self, is_async: bool) -> None:
        self._is_async = is_async
        self._nothing = Channel[None]()
        self.me: penstock.Task[Any] | None = None

    async def wait(self) -> None:
        if self._is_async:
            await penstock.asleep(0)
        else:
            penstock.yield_now()

    async def short(self) -> None:
        if self._is_async:
            await self._nothing.arecv(timeout=1e-6)
        else:
            self._nothing.recv(timeout=1e-6)

    def cancel(self) -> None:
        if self.me is not None:
            self.me.cancel()

    @contextlib.asynccontextmanager
    async def timeout(self, passed: bool) -> AsyncIterator[None]:
        with penstock.timeout(0 if passed else 1000):
            yield

    @contextlib.asynccontextmanager
    async def move_on_after(self, passed: bool) -> AsyncIterator[None]:
        with penstock.move_on_after(0 if passed else 1000):
            yield

    @contextlib.asynccontextmanager
    async def group(self, fails: bool) -> AsyncIterator[None]:
        if self._is_async:
            async with Group() as group:
                self._fail(group, fails)
                yield
        else:
            with Group() as group:
                self._fail(group, fails)
                yield

    @staticmethod
    def _fail(group: Group, fails: bool) -> None:
        """Tells the group of a child that has failed: a real one needs a worker to run on, and this holds one."""
        if fails:
            group._ended(FAILED)


async def run(world: Any, program: Program, log: list[str]) -> None:
    for name, *rest in program:
        try:
            match name:
                case "wait" | "short":
                    await getattr(world, name)()
                case "cancel":
                    world.cancel()
                case "finally":
                    try:
                        await run(world, rest[0], log)
                    finally:
                        await run(world, rest[1], log)
                case "catch":
                    with contextlib.suppress(TimeoutError, ModelTimeout, ExceptionGroup):
                        await run(world, rest[0], log)
                case _:
                    async with getattr(world, name)(rest[0]):
                        await run(world, rest[1], log)
            log.append(f"{name} goes on")
        except BaseException as error:
            log.append(f"{name} raises {_kind(error)}")
            raise


def _kind(error: BaseException) -> str:
    if isinstance(error, ExceptionGroup):
        return f"{len(error.exceptions)} failures"
    return type(error).__name__.removeprefix("Model").removesuffix("Error")


async def outcome(world: Any, program: Program) -> list[str]:
    log: list[str] = []
    with contextlib.suppress(Cancelled, ModelCancelled, TimeoutError, ModelTimeout, ExceptionGroup):
        await run(world, program, log)
    return log


def finished(coroutine: Any) -> Any:
    """What a coroutine returns that never gives up its turn."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


def in_thread(program: Program) -> list[str]:
    return list(finished(outcome(World(is_async=False), program)))


def in_task(program: Program) -> list[str]:
    def work() -> list[str]:
        world = World(is_async=False)
        world.me = me.recv()
        return list(finished(outcome(world, program)))

    me = Channel[Any](1)
    task = go(work)
    me.send(task)
    return task.result(timeout=LIMIT)


def in_async_task(program: Program) -> list[str]:
    async def work() -> list[str]:
        world = World(is_async=True)
        world.me = await me.arecv()
        return await outcome(world, program)

    me = Channel[Any](1)
    task = go(work)
    me.send(task)
    return task.result(timeout=LIMIT)


def without_cancel(program: Any) -> Any:
    if not isinstance(program, list):
        return program
    steps = [step for step in program if step[0] != "cancel"]
    return [tuple(without_cancel(part) for part in step) for step in steps]


@pytest.mark.parametrize("where", [in_thread, in_task, in_async_task])
@settings(max_examples=120, deadline=None)
@given(program=PROGRAMS)
def test_nests_of_scopes_end_as_the_model_says(
    where: Callable[[Program], list[str]], program: Program
) -> None:
    if where is in_thread:
        program = without_cancel(program)  # a thread is no task
    assert where(program) == finished(outcome(Model(), program))
