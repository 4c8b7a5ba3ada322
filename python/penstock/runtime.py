"""The default runtime: settings, figures, and its part in forks and at exit."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Literal

from penstock import _core

__all__ = ["DefaultRuntime", "RuntimeStats", "configure", "default_runtime"]


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


class DefaultRuntime:
    """The runtime that `go` uses outside of tasks. It starts when it is first needed."""

    def stats(self) -> RuntimeStats:
        """Its figures now. Never waits.

        >>> import penstock
        >>> penstock.default_runtime().stats().workers > 0
        True
        """
        workers, counts = _core._runtime_stats()
        return RuntimeStats(workers, *counts)

    def __repr__(self) -> str:
        state: str = _core._runtime_state()  # to be shown is no use: it starts nothing
        if state == "running":
            stats = self.stats()
            state = f"running, {stats.workers} workers, {stats.tasks_live} tasks"
        return f"<penstock.DefaultRuntime 'default' at {id(self):#x}: {state}>"

    def __reduce__(self) -> str:
        raise TypeError("a runtime cannot be pickled or copied: its threads run in this process only")


_DEFAULT = DefaultRuntime()


def default_runtime() -> DefaultRuntime:
    """The default runtime, whether it has started or not.

    >>> import penstock
    >>> penstock.default_runtime() is penstock.default_runtime()
    True
    """
    return _DEFAULT


def configure(workers: int | None = None, *, parking: Literal["auto", "fiber", "thread"] = "auto") -> None:
    """Set up the default runtime, before its first use.

    ``workers`` is how many tasks run at once: by default the ``PENSTOCK_WORKERS`` variable, else the CPUs
    that this process may use (affinity mask and cgroup quota). With the GIL one runs Python while nothing
    blocks. ``parking`` says how a plain task waits: as a fiber of its worker's thread, or on an OS
    thread of its own; "auto" takes fibers where they are proven to work.

    Raises:
        RuntimeError: the default runtime is in use already.
        ValueError, TypeError: an argument is out of range, or of another type.
    """
    _core._configure(workers, parking)


os.register_at_fork(after_in_child=_core._after_fork_in_child)
# Before `threading` joins its threads: `atexit` would come after, with our workers still running.
threading._register_atexit(_core._at_exit)  # type: ignore[attr-defined]
