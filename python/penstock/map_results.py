"""`map`: a function called on many items, a bounded number of them at once."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar, overload

from penstock import _core
from penstock._core import Task
from penstock.completion import Endings
from penstock.group import checked_limit

__all__ = ["map"]

T = TypeVar("T")
R = TypeVar("R")

LIMIT = 64  # tasks are cheap, so what this has to bound is how far ahead the iterable is read


@overload
def map(
    fn: Callable[[T], Coroutine[Any, Any, R]],
    iterable: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | None = None,
    ordered: bool = True,
) -> MapResults[R]: ...


@overload
def map(
    fn: Callable[[T], R],
    iterable: Iterable[T] | AsyncIterable[T],
    *,
    limit: int | None = None,
    ordered: bool = True,
) -> MapResults[R]: ...


def map(
    fn: Callable[[Any], Any],
    iterable: Iterable[Any] | AsyncIterable[Any],
    *,
    limit: int | None = None,
    ordered: bool = True,
) -> MapResults[Any]:
    """Call ``fn(item)`` for each item of ``iterable``, each in a task, and iterate over the results.

    At most ``limit`` calls run at once, 64 where it is ``None``. Nothing happens before the first result is
    asked for; then the iterable is read where the results are, by ``next()``, and never more than
    ``2 * limit`` items ahead of them. So it may be endless. With ``ordered=False`` results come as they are
    ready. ``fn`` is a plain callable or an ``async def`` function. ``async for`` works too, in an ``async
    def`` task and in asyncio, and there the iterable may be an asynchronous one. The results are for one
    consumer.

    What ``fn`` raises is raised in the place of its result. Then it is over: the calls that still run are
    cancelled, and have ended before the exception leaves. What the iterable raises comes after the results of
    the items before it. A wait for a result that is cut short, by a deadline say, loses nothing: iterate on,
    and the rest comes.

    Left early, what runs is cancelled, at the latest when the iterator is dropped; ``results.close()``
    (``await results.aclose()``) waits for its end too. The exceptions of calls whose results nobody can get
    any more are reported nowhere.

    Raises:
        ValueError, TypeError: ``limit`` is less than 1, or something is of another type.

    >>> import penstock
    >>> list(penstock.map(str.upper, ["a", "b", "c"], limit=2))
    ['A', 'B', 'C']
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, not {fn!r}")
    items = iterable if isinstance(iterable, AsyncIterable) else _iter(iterable)
    return MapResults(fn, items, checked_limit(limit) or LIMIT, ordered)


def _iter(iterable: Iterable[T] | AsyncIterable[T]) -> Iterator[T]:
    try:
        return iter(iterable)  # type: ignore[arg-type]
    except TypeError:
        if isinstance(iterable, AsyncIterable):
            raise TypeError(
                f"{iterable!r} is an asynchronous iterable: its results take 'async for'"
            ) from None
        raise TypeError(f"iterable must be an iterable, not {iterable!r}") from None


def _retrieve(task: Task[Any]) -> None:
    """What a call raised reaches its user through `map` alone, so it is never reported as not retrieved."""
    if not task.cancelled():
        task.exception(timeout=0)


class MapResults(Generic[R]):
    """The results of one `map`, an iterator and an asynchronous iterator."""

    def __init__(
        self,
        fn: Callable[[Any], Any],
        iterable: Iterable[Any] | AsyncIterable[Any],
        limit: int,
        ordered: bool,
    ) -> None:
        self._fn = fn
        self._iterable = iterable
        self._limit = limit
        self._ordered = ordered
        self._items: Iterator[Any] | None = None
        self._async_items: AsyncIterator[Any] | None = None
        self._exhausted = False
        self._failure: Exception | None = None  # of the iterable
        self._endings = Endings[R]()
        self._unfinished: set[Task[R]] = set()
        self._window: deque[Task[R]] = (
            deque()
        )  # what comes next: in the order of the items, or of the endings

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    # What both kinds of iteration do between their waits.

    def _settle(self) -> None:
        while (task := self._endings.take()) is not None:
            self._unfinished.discard(task)
            if not self._ordered:
                self._window.append(task)

    def _is_ready(self) -> bool:
        return bool(self._window) and self._window[0].done()

    def _wants_item(self, taken: int) -> bool:
        """Whether to take an item now: one for each result, more only while the next result is not there."""
        self._settle()
        return (
            not self._exhausted
            and len(self._unfinished) < self._limit
            and len(self._window) < 2 * self._limit  # in any order it holds `limit` at most
            and not (taken and self._is_ready())
        )

    def _start(self, item: Any) -> None:
        task: Task[R] = _core.go(self._fn, item)
        task.add_done_callback(_retrieve)
        self._unfinished.add(task)
        if self._ordered:
            self._window.append(task)
        self._endings.add(task)

    def _end(self, failure: Exception | None = None) -> None:
        """The iterable has ended, by ``failure`` if that is one."""
        if failure is not None and _core._Scope.here().lies_in(failure):
            raise failure  # that is a deadline around this call, which has nothing to do with the items
        self._exhausted = True
        self._failure = failure
        self._items = self._async_items = None
        self._iterable = ()

    def _is_over(self) -> bool:
        """Whether nothing comes any more; raises what the iterable did behind its last item."""
        if self._window or self._unfinished:
            return False
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._exhausted

    def __next__(self) -> R:
        taken = 0
        while True:
            while self._wants_item(taken):
                self._take_item()
                taken += 1
            if self._is_ready():
                return self._give()
            if self._is_over():
                raise StopIteration
            self._endings.gate()._join("iterating over map()", "async for")

    def _take_item(self) -> None:
        try:
            if self._items is None:
                self._items = _iter(self._iterable)
            item = next(self._items)
        except StopIteration:
            self._end()
        except Exception as failure:  # noqa: BLE001 - raised in its turn
            self._end(failure)
        else:
            self._start(item)

    def _give(self) -> R:
        task = self._window.popleft()
        if task.cancelled() or task._failed():
            self.close()
        return task.result()

    async def __anext__(self) -> R:
        taken = 0
        while True:
            while self._wants_item(taken):
                await self._atake_item()
                taken += 1
            if self._is_ready():
                return await self._agive()
            if self._is_over():
                raise StopAsyncIteration
            await self._endings.gate()._ajoin()

    async def _atake_item(self) -> None:
        if not isinstance(self._iterable, AsyncIterable):
            self._take_item()
            return
        try:
            if self._async_items is None:
                self._async_items = aiter(self._iterable)
            item = await anext(self._async_items)
        except StopAsyncIteration:
            self._end()
        except Exception as failure:  # noqa: BLE001 - raised in its turn
            self._end(failure)
        else:
            self._start(item)

    async def _agive(self) -> R:
        task = self._window.popleft()
        if task.cancelled() or task._failed():
            await self.aclose()
        return task.result()

    def _abandon(self) -> set[Task[R]]:
        self._end()
        self._window.clear()
        self._endings = Endings[R]()  # of the old ones nothing comes any more
        unfinished, self._unfinished = self._unfinished, set()
        for task in unfinished:
            task.cancel()
        return {task for task in unfinished if not task._is_elsewhere()}

    def close(self) -> None:
        """Cancel what runs, and wait until it has ended. No results come after this."""
        for task in self._abandon():
            task._join("closing a map()", "await results.aclose()")

    async def aclose(self) -> None:
        """The awaitable form of `close`."""
        for task in self._abandon():
            await task._ajoin()

    def __del__(self) -> None:
        for task in self._unfinished:  # nothing else: at exit, nothing new can be made
            task.cancel()

    def __repr__(self) -> str:
        return f"<penstock.map at {id(self):#x}: {len(self._unfinished)} running>"

    def __reduce__(self) -> str:
        raise TypeError("a map() cannot be pickled or copied: its tasks run in this process only")
