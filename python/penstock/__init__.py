"""A Go-grade concurrency runtime: plain functions as cheap tasks, channels, pooled buffers.

How the package is laid out: `_core` is the compiled module and does the work; the modules beside it give
it types, docstrings and the parts that are shorter in Python. This file re-exports the public names.
"""

from __future__ import annotations

# Before all others: it refuses where they cannot work.
from penstock import _supported  # isort: skip # noqa: F401 # pyright: ignore[reportUnusedImport]
from penstock import _debug
from penstock._core import (
    AtomicBool,
    AtomicInt,
    AtomicRef,
    Channel,
    Receiver,
    Selected,
    Sender,
    Task,
    __version__,
    ablocking,
    after,
    aselect,
    asleep,
    blocking,
    build_profile,
    go,
    select,
    select_nowait,
    sleep,
    tick,
    yield_now,
)
from penstock.channel import ChannelStats, Rate
from penstock.completion import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    as_completed,
    await_,
    wait,
)
from penstock.deadline import move_on_after, timeout
from penstock.exceptions import Cancelled, ChannelClosed, Deadlock, Empty, Full, PenstockError
from penstock.executor import Executor
from penstock.gc_pacing import GcManager, GcPauses, GcPolicy, manage_gc
from penstock.group import Group
from penstock.map_results import map
from penstock.memory import (
    Borrowed,
    Buffer,
    BufferNodeStats,
    BufferPool,
    BufferScope,
    BufferStats,
    ObjectPool,
    ObjectStats,
    buffers,
)
from penstock.memviz import memviz
from penstock.pinned import pinned
from penstock.runtime import Runtime, RuntimeStats, configure, default_runtime
from penstock.sync import Barrier, Condition, Event, Lock, Once, Semaphore, WaitGroup
from penstock.topology import CpuBudget, Node, Topology

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AtomicBool",
    "AtomicInt",
    "AtomicRef",
    "Barrier",
    "Borrowed",
    "Buffer",
    "BufferNodeStats",
    "BufferPool",
    "BufferScope",
    "BufferStats",
    "Cancelled",
    "Channel",
    "ChannelClosed",
    "ChannelStats",
    "Condition",
    "CpuBudget",
    "Deadlock",
    "Empty",
    "Event",
    "Executor",
    "Full",
    "GcManager",
    "GcPauses",
    "GcPolicy",
    "Group",
    "Lock",
    "Node",
    "ObjectPool",
    "ObjectStats",
    "Once",
    "PenstockError",
    "Rate",
    "Receiver",
    "Runtime",
    "RuntimeStats",
    "Selected",
    "Semaphore",
    "Sender",
    "Task",
    "Topology",
    "WaitGroup",
    "__version__",
    "ablocking",
    "after",
    "as_completed",
    "aselect",
    "asleep",
    "await_",
    "blocking",
    "buffers",
    "configure",
    "default_runtime",
    "go",
    "manage_gc",
    "map",
    "memviz",
    "move_on_after",
    "pinned",
    "select",
    "select_nowait",
    "sleep",
    "tick",
    "timeout",
    "wait",
    "yield_now",
]

_debug.start()

if build_profile() == "debug":
    import warnings

    warnings.warn(
        "penstock is a debug build: correct, and many times slower than a release build",
        RuntimeWarning,
        stacklevel=2,
    )
