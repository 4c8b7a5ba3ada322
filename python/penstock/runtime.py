"""Runtimes: the default one and others, their settings and figures, and their part in forks and at exit."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar, overload

from penstock import _core
from penstock._core import Task, Topology

__all__ = ["Runtime", "RuntimeStats", "configure", "default_runtime"]

T = TypeVar("T")

_numbers = itertools.count(1)


@dataclass(frozen=True)
class RuntimeStats:
    """What a runtime has done since it was started: sums over its threads, exact once they rest."""

    workers: int
    """How many run at once."""
    tasks_started: int
    tasks_finished: int
    """Tasks that have ended, those included that were cancelled before they started."""
    tasks_live: int
    """Tasks that have not ended, whether they have started or not."""
    parks: int
    """Waits of tasks that gave up their worker."""
    wakes: int
    """Parked tasks that were made ready again."""
    steals: int
    """Tasks taken from another worker's queue."""
    remote_steals: int
    """Those of them taken from a worker on another NUMA node."""
    handoffs: int
    """Workers that went on on another thread, because a task had or blocked theirs."""
    threads: int
    """Threads started so far to run tasks."""


class Runtime(_core._Runtime):
    """Workers that run tasks, beside those of other runtimes.

    `go` and `spawn` start tasks here; what those start with `penstock.go` or a `Group` runs here too.
    Tasks of several runtimes talk over channels and wait for each other like those of one. The runtime
    starts when it is first used. ``workers`` is how many of its tasks run at once: by default the
    ``PENSTOCK_WORKERS`` variable, else the CPUs that this process may use, also when those change: it
    follows within seconds while something runs. With the GIL one runs Python while nothing blocks, in
    each runtime. ``numa``, ``pin``, ``parking`` and ``prewarm_tasks`` are as for `configure`. ``name`` is
    for people, in the names of its threads too.

    Leaving the block shuts the runtime down: it takes no more tasks from outside, waits until those that are
    there and all that they start have ended, and lets its threads go. It cancels none and reports no failure
    of one: use a `Group` for that. An exception in the block is raised after the wait. ``KeyboardInterrupt``,
    in the block or during the wait, does not wait: its tasks go on until they end or the program exits. A
    runtime that nobody refers to any more shuts down by itself, without a wait.

    >>> import penstock
    >>> with penstock.Runtime(workers=2, name="sums") as runtime:
    ...     tasks = [runtime.go(sum, range(n)) for n in (10, 100)]
    >>> [task.result() for task in tasks]
    [45, 4950]
    """

    __slots__ = ()

    def __new__(
        cls,
        workers: int | None = None,
        numa: Literal["auto", "off"] | Topology = "auto",
        pin: Literal["node", "core"] | None = None,
        parking: Literal["auto", "fiber", "thread"] = "auto",
        prewarm_tasks: int = 0,
        name: str | None = None,
    ) -> Self:
        """Set up a runtime, which starts when it is first used.

        Raises:
            ValueError, TypeError: an argument is out of range, or of another type.
        """
        if name is None:
            name = f"runtime-{next(_numbers)}"
        return super().__new__(cls, (workers, numa, pin, parking, prewarm_tasks), name)

    @property
    def name(self) -> str:
        """What it was called, or ``runtime-7``; that of the default runtime is ``default``."""
        return self._name

    @property
    def workers(self) -> int:
        """How many of its tasks run at once. To set it changes that at once, while tasks run, and for good.

        More workers take part as there is work for them. Of fewer, those that are too many go as their tasks
        end or wait; tasks that are parked on their threads take turns with the others from then on. Nothing
        is lost.

        >>> import penstock
        >>> with penstock.Runtime(workers=4) as runtime:
        ...     runtime.workers = 2
        ...     runtime.workers
        2
        """
        return self._workers

    @workers.setter
    def workers(self, workers: int) -> None:
        self._set_workers(workers)

    @overload
    def spawn(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        node: int | None = None,
        own_thread: bool = False,
    ) -> Task[T]: ...

    @overload
    def spawn(
        self,
        fn: Callable[..., T],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        node: int | None = None,
        own_thread: bool = False,
    ) -> Task[T]: ...

    def spawn(
        self,
        fn: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        node: int | None = None,
        own_thread: bool = False,
    ) -> Task[Any]:
        """Run ``fn(*args, **kwargs)`` as a task of this runtime, as `go` does, with a say in how.

        ``name`` is the task's `Task.name`, for people. With ``own_thread=True`` the task has an OS thread of
        its own from its beginning to its end, for what is tied to a thread (a GUI, a C library, an event
        loop): no other task ever runs there, and an ``async def`` task is resumed there only. It takes turns
        with the others all the same: ``workers`` bounds how many run at once.

        ``node`` is the id of a NUMA node (see `Topology`). The task starts on a worker of that node, or of
        the nearest one that has a worker; once it has waited for something it may go on anywhere, as any
        other. With a thread of its own it starts with such a worker only if one is idle.

        Raises:
            TypeError: ``fn`` is not callable or is a coroutine, or another argument is of a wrong type.
            ValueError: there is no such node.
            RuntimeError: the runtime was shut down, the interpreter is about to exit, or there is no thread
                for the task.

        >>> import penstock, threading
        >>> with penstock.Runtime(workers=1) as runtime:
        ...     task = runtime.spawn(threading.get_ident, name="lonely", own_thread=True)
        >>> task.name, task.result() == threading.get_ident()
        ('lonely', False)
        """
        if not isinstance(args, Iterable):
            raise TypeError(f"args must be an iterable of arguments, not {args!r}")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise TypeError(f"kwargs must be None or a mapping of arguments, not {kwargs!r}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be None or a str, not {name!r}")
        if not isinstance(own_thread, bool):
            raise TypeError(f"own_thread must be a bool, not {own_thread!r}")
        return self._spawn(fn, tuple(args), dict(kwargs) if kwargs else None, name, node, own_thread)

    def stats(self) -> RuntimeStats:
        """Its figures now. Never waits.

        >>> import penstock
        >>> penstock.default_runtime().stats().workers > 0
        True
        """
        workers, counts = self._stats()
        return RuntimeStats(workers, *counts)

    def shutdown(self, wait: bool = True, timeout: float | None = None) -> bool:
        """Take no more tasks from outside, and wait until those that are there, and what they start, ended.

        Says whether they have. With ``wait=False`` it does not wait. After ``timeout`` seconds it waits no
        more: the tasks go on, and another call waits again. The threads are let go when the last task has
        ended. Later calls of `go` and `spawn` raise ``RuntimeError``, but for those of the runtime's own
        tasks.

        Parks a task, blocks a thread; `ashutdown` is the awaitable form.

        Raises:
            RuntimeError: a task of this runtime would wait for itself.
            ValueError: ``timeout`` is negative.
            Cancelled: the caller was cancelled while it waited; the runtime takes no more tasks all the same.

        >>> import penstock
        >>> runtime = penstock.Runtime(workers=1)
        >>> task = runtime.go(penstock.sleep, 0.01)
        >>> runtime.shutdown()
        True
        """
        last = self._begin_shutdown(wait, timeout)
        if last is None:
            return True
        if wait:
            try:
                last.exception(timeout)
            except TimeoutError:
                return False
        return last.done()

    async def ashutdown(self, wait: bool = True, timeout: float | None = None) -> bool:
        """The awaitable form of `shutdown`, in asyncio and in an async penstock task."""
        last = self._begin_shutdown(wait, timeout)
        if last is None:
            return True
        if wait:
            try:
                await last.aexception(timeout)
            except TimeoutError:
                return False
        return last.done()

    def _begin_shutdown(self, wait: bool, timeout: float | None) -> Task[None] | None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be None or a number of seconds >= 0, not {timeout!r}")
        if wait and self._runs_here():
            raise RuntimeError(f"a task of the runtime '{self.name}' cannot wait for the runtime to end")
        return self._close()

    def __enter__(self) -> Self:
        if self._state not in ("not started", "running"):
            raise RuntimeError(f"the runtime '{self.name}' is {self._state}")
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown(wait=not isinstance(error, KeyboardInterrupt))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.ashutdown(wait=not isinstance(error, KeyboardInterrupt))

    def __repr__(self) -> str:
        state: str = self._state  # to be shown is no use: it starts nothing
        if state in ("running", "shutting down"):
            stats = self.stats()
            state = f"{state}, {stats.workers} workers, {stats.tasks_live} tasks"
        return f"<penstock.Runtime {self.name!r} at {id(self):#x}: {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a runtime cannot be pickled or copied: its threads run in this process only")


_DEFAULT = _core._Runtime.__new__(Runtime, (None, "auto", None, "auto", 0), None)


def default_runtime() -> Runtime:
    """The runtime that `go` uses outside of tasks, whether it has started or not.

    At exit nobody waits for its tasks. Once it was shut down `go` raises ``RuntimeError`` outside of tasks.

    >>> import penstock
    >>> penstock.default_runtime() is penstock.default_runtime()
    True
    """
    return _DEFAULT


def configure(
    workers: int | None = None,
    numa: Literal["auto", "off"] | Topology = "auto",
    pin: Literal["node", "core"] | None = None,
    parking: Literal["auto", "fiber", "thread"] = "auto",
    prewarm_tasks: int = 0,
) -> None:
    """Set up the default runtime, before its first use.

    ``workers`` is how many tasks run at once: by default the ``PENSTOCK_WORKERS`` variable, else the CPUs
    that this process may use (affinity mask and cgroup quota), followed within seconds when they change.
    With the GIL one runs Python while nothing blocks, on the first node. ``numa`` says on which nodes
    they are placed: those of this machine ("auto", which ``PENSTOCK_NUMA=off`` turns off), as on one node
    ("off"), or those of a `Topology`, which may be made up. Tasks and what they left in queues stay on
    their node where they can. ``pin`` binds the threads to the CPUs of their worker's node, or to its
    core; ``None`` leaves it to ``PENSTOCK_PIN`` (``none``, ``node`` or ``core``), which is none.
    ``parking`` says how a plain task waits: as a fiber of its worker's thread, or on an OS thread of its
    own; "auto" takes fibers where they are proven to work. ``prewarm_tasks`` is for how many tasks the
    memory is allocated at the start, and kept: by the thread that starts the runtime, for tasks that are
    started there, and by the runtime's first thread.

    Raises:
        RuntimeError: the default runtime is in use already, or was shut down.
        ValueError, TypeError: an argument is out of range, or of another type.
    """
    if not _DEFAULT._configure((workers, numa, pin, parking, prewarm_tasks)):
        raise RuntimeError("configure() has to come before the first use of the default runtime")


os.register_at_fork(after_in_child=_core._after_fork_in_child)
# Before `threading` joins its threads: `atexit` would come after, with our workers still running.
threading._register_atexit(_core._at_exit)  # type: ignore[attr-defined]
