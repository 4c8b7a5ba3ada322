"""A ``concurrent.futures`` executor on threads, with less work per call than the standard one.

A call that is waited for costs two wake-ups whoever runs it. What can be saved is the rest:
ThreadPoolExecutor takes two locks and a semaphore written in Python to submit one, and an exception
whenever a thread finds nothing to do.

Threads and executor share a `_Work`, so that nothing keeps an executor that is no longer used. Whatever
ends the threads (`shutdown`, the end of the executor or of the interpreter) first becomes true and then
puts ``None`` on the queue, which each thread passes on; a thread ends when it finds ``None`` and no call.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeAlias, TypeVar

from penstock import _forked

# Its exit hook has to be there before ours: they run in reverse order, and calls may use the runtime to the
# end.
from penstock import runtime as _runtime  # noqa: F401 # pyright: ignore[reportUnusedImport]

__all__ = ["Executor"]

P = ParamSpec("P")
T = TypeVar("T")
Call: TypeAlias = "tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]"

_numbers = itertools.count()
_logger = logging.getLogger("concurrent.futures")  # where the standard executors report


class _Exit:
    """What the end of the interpreter has to know. A forked child starts with a new one."""

    def __init__(self) -> None:
        self.begun = False
        self.lock = threading.Lock()
        self.works = weakref.WeakSet[_Work]()  # those with threads; guarded by the lock

    def finish_all(self) -> None:
        with self.lock:
            self.begun = True
            works = list(self.works)
        for work in works:
            work.calls.put(None)
        for work in works:
            for thread in list(work.threads):
                thread.join()

    def resting_threads(self) -> int | None:
        """How many threads of ours have no call; None if that cannot be told now."""
        if not self.lock.acquire(blocking=False):
            return None
        try:
            works = list(self.works)
        finally:
            self.lock.release()
        return sum(work.resting_threads() for work in works)


class _Work:
    """What an executor shares with its threads."""

    def __init__(self, executor: Executor, initializer: Callable[..., object] | None, initargs: Any) -> None:
        # Those that were submitted and have not ended. A thread that is not at one of them waits for one.
        self.unfinished: set[Future[Any]] = set()
        self.initializer = initializer
        self.initargs = initargs
        self.closed = False
        self.broken = ""  # says why
        self.begin(executor)

    def begin(self, executor: Executor | None) -> None:
        """Start with no threads, and no call for them."""
        calls: SimpleQueue[Call | None] = SimpleQueue()
        self.calls = calls
        # Re-entrant: a signal handler or a finalizer may submit while its thread does. At worst that counts
        # wrong by one, for which a thread is started too early.
        self.lock = threading.RLock()
        self.idle = 0  # threads that wait for a call, less the calls that are queued for them
        self.threads = set[threading.Thread]()
        if executor is not None:
            # Runs anywhere, also where the lock is held: a queue can be put on all the same.
            self.executor = weakref.ref(executor, lambda _: calls.put(None))

    def leave_behind(self) -> None:
        """In a forked child: no thread is there, so what they had to do does not happen."""
        self.begin(self.executor())
        unfinished = self.unfinished
        self.unfinished = set()
        message = "the call is not made in this process: it was submitted in the process that forked this one"
        for future in unfinished:
            # One of the parent's threads may hold the lock, and who wants to be called is of the parent too.
            future._condition = threading.Condition()
            future._done_callbacks = []  # type: ignore[attr-defined]
            if not future.done():
                future.set_exception(RuntimeError(message))

    def resting_threads(self) -> int:
        alive = sum(thread.is_alive() for thread in list(self.threads))
        return max(0, alive - len(self.unfinished))

    def refuse(self) -> None:
        """Raise if no more calls are taken. With the lock held."""
        if self.broken:
            raise BrokenThreadPool(self.broken)
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _exit.begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def start(self, thread: threading.Thread, call: Call) -> None:
        """Start one of `threads`, for a call that is queued."""
        try:
            with _exit.lock:
                _exit.works.add(self)
            thread.start()
        except BaseException as error:
            self.threads.discard(thread)  # started all the same, it comes back by itself
            if self.threads and isinstance(error, Exception):
                return  # another thread comes to the call
            with self.lock:
                for queued in self.drain():
                    if queued is not call:
                        self.calls.put(queued)
            self.unfinished.discard(call[0])
            raise

    def serve(self) -> None:
        """Run calls, on a thread that was started for one."""
        self.threads.add(threading.current_thread())
        if self.initializer is not None:
            try:
                self.initializer(*self.initargs)
            except BaseException:
                _logger.critical("Exception in initializer:", exc_info=True)
                self.give_up("A thread initializer failed, the thread pool is not usable anymore")
                return
        while True:
            call = self.calls.get()
            if call is not None:
                future = call[0]
                _make(*call)
                self.unfinished.discard(future)
                del call, future  # while the thread waits, nothing of the call is kept
            elif self.ends():
                return
            if self.calls.empty():
                with self.lock:
                    self.idle += 1

    def ends(self) -> bool:
        """Whether the ``None`` that a thread found is the end, which it then passes on."""
        if not (self.closed or _exit.begun or self.executor() is None):
            return False
        with self.lock:  # a call that was submitted in time is queued by now, and no more are
            left = self.drain()
            for call in left:
                self.calls.put(call)
            self.calls.put(None)
        return not left

    def drain(self) -> list[Call]:
        """Take back all calls that no thread has taken. With the lock held."""
        calls = list[Call]()
        while True:
            try:
                call = self.calls.get_nowait()
            except Empty:
                return calls
            if call is not None:
                calls.append(call)

    def give_up(self, reason: str) -> None:
        with self.lock:
            self.broken = reason
            left = self.drain()
        for future, *_ in left:
            future.set_exception(BrokenThreadPool(reason))
            self.unfinished.discard(future)


def _make(
    future: Future[Any] | None, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert future is not None  # noqa: S101 - for the type checkers: only the line below makes it so
    if not future.set_running_or_notify_cancel():
        return
    forks = _forked.forks
    try:
        result = fn(*args, **kwargs)
        if forks != _forked.forks:
            _forked.end_child(
                None
            )  # the call has forked, and this is the child: the thread is no thread of ours
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
        if forks != _forked.forks:
            _forked.end_child(error)
        future.set_exception(error)
        future = None  # which keeps the error, which keeps this frame
    else:
        future.set_result(result)


# A subclass, so that what asks for a ThreadPoolExecutor takes it: asyncio, for its default executor.
class Executor(ThreadPoolExecutor):
    """Runs calls on threads of its own; a drop-in ``concurrent.futures`` executor.

    Each call has an OS thread while it lasts, at most ``max_workers`` at once, so it may block on anything.
    Work that was submitted is finished before the interpreter exits. `submit` gives a
    ``concurrent.futures.Future``, ``map`` and ``with`` are those of the standard library. An asyncio loop
    takes it in ``run_in_executor``, and as its default executor. A forked child may go on to use it, with
    threads of its own; the futures of calls that its parent had not ended fail there with ``RuntimeError``.

    A future belongs to the standard library: waiting for one in a task blocks the task's thread. There,
    `penstock.go` and `penstock.blocking` park it instead.

    ``max_workers`` is by default the number of CPUs and 4, at most 32. ``thread_name_prefix`` begins the
    names of the threads. Each thread calls ``initializer(*initargs)`` first; where that fails, the executor
    is broken, and its calls fail with ``BrokenThreadPool``.

    Raises:
        ValueError, TypeError: an argument is out of range, or of another type.

    >>> import penstock
    >>> with penstock.Executor(max_workers=4) as executor:
    ...     future = executor.submit(pow, 2, 10)
    ...     squares = list(executor.map(lambda n: n * n, range(4)))
    >>> future.result(), squares
    (1024, [0, 1, 4, 9])
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        # Not the base class's: what it sets up is what this one does without.
        if max_workers is None:
            cpus: int | None = getattr(os, "process_cpu_count", os.cpu_count)()
            max_workers = min(32, (cpus or 1) + 4)
        if not isinstance(max_workers, int):
            raise TypeError(f"max_workers must be None or an int > 0, not {max_workers!r}")
        if max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, not {max_workers!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable or None, not {initializer!r}")
        self._max_workers = max_workers
        self._thread_name_prefix = thread_name_prefix or f"{type(self).__name__}-{next(_numbers)}"
        self._work = _Work(self, initializer, tuple(initargs))

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override] # CPython's own tests look at it
        return self._work.threads

    @property
    def _broken(self) -> str:  # type: ignore[override] # as above
        return self._work.broken

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` called on a thread, and return its future at once.

        Raises:
            RuntimeError: the executor was shut down, the interpreter is about to exit, or no thread can be
                started and there is none; the call will not be made.
            BrokenThreadPool: the initializer failed.
        """
        future: Future[T] = Future()
        call = (future, fn, args, kwargs)
        work = self._work
        with work.lock:
            work.refuse()
            work.unfinished.add(future)
            work.calls.put(call)
            if work.idle > 0:
                work.idle -= 1
                return future
            count = len(work.threads)
            if count >= self._max_workers:
                return future
            thread = threading.Thread(target=work.serve, name=f"{self._thread_name_prefix}_{count}")
            work.threads.add(thread)
        work.start(thread, call)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. With ``wait``, return when those that were submitted have ended.

        ``cancel_futures`` cancels those that no thread has taken yet. May be called again.
        """
        work = self._work
        with work.lock:
            work.closed = True
            left = work.drain() if cancel_futures else []
            work.calls.put(None)
        for future, *_ in left:
            future.cancel()
            work.unfinished.discard(future)
        if wait:
            for thread in list(work.threads):
                thread.join()

    def __repr__(self) -> str:
        work = self._work
        state = "broken" if work.broken else "shut down" if work.closed else "open"
        threads = f"{len(work.threads)} of {self._max_workers} threads"
        name = f"penstock.Executor {self._thread_name_prefix!r} at {id(self):#x}"
        return f"<{name}: {state}, {threads}, {work.calls.qsize()} waiting>"

    def __reduce__(self) -> str:
        raise TypeError("an Executor cannot be pickled or copied: its threads run in this process only")


_exit = _Exit()


def _forget_in_child() -> None:
    global _exit  # noqa: PLW0603 - the parent's may be locked
    works = list(_exit.works)
    _exit = _Exit()
    for work in works:
        work.leave_behind()


def _at_exit() -> None:
    _exit.finish_all()


os.register_at_fork(after_in_child=_forget_in_child)
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
