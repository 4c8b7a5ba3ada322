"""Garbage collection at the right moment: frozen after warm-up, in idle windows, in short pauses.

>>> import penstock
>>> with penstock.manage_gc() as manager:
...     page = {"title": "a program's own work goes here"}
>>> manager.pauses().by_trigger["manual"]
0
"""

from __future__ import annotations

import gc
import math
import operator
import os
import sys
import sysconfig
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from penstock._core import AtomicBool, AtomicRef, GcPacer

__all__ = ["GcManager", "GcPauses", "GcPolicy", "manage_gc"]


@dataclass(frozen=True)
class GcPolicy:
    """When `manage_gc` collects. The defaults suit a server: short pauses, and memory to spare.

    Raises:
        TypeError: a field is not of its type.
        ValueError: a field is out of its range.

    >>> from penstock import GcPolicy
    >>> GcPolicy(growth=0.5)  # in a small container
    GcPolicy(freeze=True, pause_budget=0.005, growth=0.5, growth_min=100000)
    """

    freeze: bool = True
    """Whether what is alive on entering is frozen: no collection looks at it again before the block ends, or
    `GcManager.collect` is called. A program whose warm-up ends later says False, and calls `GcManager.freeze`
    then."""

    pause_budget: float = 0.005
    """The longest pause in seconds that is planned while the program is busy. It is kept by estimate, from
    what collections have cost; finalizers and single large calls may exceed it, and growth collections do."""

    growth: float = 2.0
    """The growth bound: by which share of what was alive the heap may grow before it is looked at as a whole,
    however long that takes (Go's ``GOGC``, which counts in per cent). 0.25 is what CPython itself does."""

    growth_min: int = 100_000
    """Objects by which it may grow anyway, however small it is. (CPython's collector counts objects that can
    refer to others: a list counts, a number does not.)"""

    def __post_init__(self) -> None:
        given: object = self.freeze
        if not isinstance(given, bool):
            raise TypeError(f"freeze must be True or False, not {given!r}")
        object.__setattr__(self, "pause_budget", _number("pause_budget", self.pause_budget, 0.0, "> 0"))
        object.__setattr__(self, "growth", _number("growth", self.growth, 0.25, ">= 0.25"))
        try:
            growth_min = operator.index(self.growth_min)
        except TypeError:
            raise TypeError(f"growth_min must be an int >= 1000, not {self.growth_min!r}") from None
        if not 1000 <= growth_min < 1 << 63:
            raise ValueError(f"growth_min must be an int >= 1000, not {self.growth_min!r}")
        object.__setattr__(self, "growth_min", growth_min)


def _number(name: str, given: object, least: float, allowed: str) -> float:
    if isinstance(given, str | bytes | bytearray):  # `float` would read a number in it
        raise TypeError(f"{name} must be a number, not {given!r}")
    try:
        number = float(given)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    except TypeError:
        raise TypeError(f"{name} must be a number, not {given!r}") from None
    except OverflowError:
        number = math.inf
    if not (least <= number < math.inf and number > 0):
        raise ValueError(f"{name} must be a finite number {allowed}, not {given!r}")
    return number


@dataclass(frozen=True)
class GcPauses:
    """How long the collector has stopped the program, in seconds.

    Percentiles come from a histogram of fixed size: they are at most a 32nd above the true ones. Without a
    pause all figures are 0.

    >>> from penstock import manage_gc
    >>> with manage_gc() as manager:
    ...     unreachable = manager.collect()
    >>> pauses = manager.pauses()
    >>> pauses.count >= 1 and 0 < pauses.p50 <= pauses.p99 <= pauses.max
    True
    """

    count: int
    """Collections, of whatever kind."""
    p50: float
    """The median pause."""
    p99: float
    """The pause that 99 in 100 are not longer than."""
    max: float
    """The longest, exactly."""
    by_trigger: dict[str, int]
    """How many of them were wanted by whom: ``"idle"`` (the scheduler had nothing to do), ``"growth"`` (the
    growth bound), ``"manual"`` (`GcManager.collect`, `GcManager.freeze` or ``gc.collect()``) and
    ``"automatic"`` (the collector itself: a slice within the budget)."""


class GcManager:
    """What `manage_gc` gives its block. It is entered once."""

    def __init__(self, policy: GcPolicy) -> None:
        self.policy: GcPolicy = policy
        self._collector: str = _collector(sys.version_info[:3], _is_free_threaded())
        self._pacer = GcPacer(self._collector, policy.pause_budget, policy.growth, policy.growth_min)
        self._state: str = "new"
        self._thresholds = gc.get_threshold()
        self._found_frozen = 0
        self._froze = False
        """Whether this manager has frozen the heap, which it may undo."""
        self._live = 0
        self._collects = AtomicBool(False)
        """Somebody is inside `collect` or `freeze`, which undo what the other does."""

    def __enter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a GcManager is entered once: call penstock.manage_gc() again")
        try:
            self._claim()
            self._found_frozen = gc.get_freeze_count()
            self._thresholds = gc.get_threshold()
            self._state = "active"
            if is_on := gc.isenabled() and self._thresholds[0] > 0:
                if self.policy.freeze:
                    self._freeze()
                else:
                    self._live = len(gc.get_objects()) + self._found_frozen
                    self._pacer.frozen(self._live, self._found_frozen, None)
            # Closest to the collection on both sides, so that nothing else is measured.
            gc.callbacks.append(self._pacer.started)
            gc.callbacks.insert(0, self._pacer.stopped)
            if is_on:
                self._pacer.begin()
        except BaseException:
            if _active.load() is self:
                self._restore()
            raise
        return self

    def _claim(self) -> None:
        if not _active.compare_exchange(None, self):
            raise RuntimeError("penstock.manage_gc() is in use already: there is one collector to manage")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        """Undo what is done so far: also in the middle of entering."""
        self._state = "left"
        try:
            if self._pacer.end():
                gc.set_threshold(*self._thresholds)
            for callback in (self._pacer.started, self._pacer.stopped):
                if callback in gc.callbacks:
                    gc.callbacks.remove(callback)
            self._unfreeze()
        finally:
            _active.store(None)

    def collect(self) -> int:
        """Collect everything now, what is frozen included, and freeze what is left of that again.

        It stops the program for as long as that takes, and does not wait for anything else. Returns the
        number of unreachable objects found, as ``gc.collect()`` does; 0 while another thread collects, or
        inside a collection.

        Raises:
            RuntimeError: the manager's block is not entered, or is left.

        >>> from penstock import manage_gc
        >>> with manage_gc() as manager:
        ...     cycle = []
        ...     cycle.append(cycle)
        ...     del cycle
        ...     manager.collect() >= 1
        True
        """
        with self._alone("collect") as is_alone:
            if not is_alone or not self._froze:
                return gc.collect()
            self._unfreeze()
            return self._freeze()

    def freeze(self) -> None:
        """Collect now, then freeze what is alive: the warm-up is over.

        For a program that enters its block before, with ``GcPolicy(freeze=False)``. Called again, it looks at
        everything and freezes what is alive by then. While another thread collects, or inside a collection,
        it does nothing.

        Raises:
            RuntimeError: the manager's block is not entered, or is left.

        >>> from penstock import GcPolicy, manage_gc
        >>> with manage_gc(GcPolicy(freeze=False)) as manager:
        ...     routes = {f"/{number}": [number] for number in range(1000)}
        ...     manager.freeze()
        """
        with self._alone("freeze") as is_alone:
            if is_alone:
                self._unfreeze()
                self._freeze()

    def pauses(self) -> GcPauses:
        """Return the pauses since the block was entered, also after it was left. Does not wait.

        Each collection counts, whoever wanted it; the one on entering comes before the block. A forked child
        begins with none.

        >>> from penstock import manage_gc
        >>> with manage_gc() as manager:
        ...     unreachable = manager.collect()
        >>> manager.pauses().by_trigger["manual"]
        1
        """
        return GcPauses(*self._pacer.pauses())

    @contextmanager
    def _alone(self, name: str) -> Generator[bool, None, None]:
        """Marks collections of this thread as asked for. Gives whether this is the only thread here."""
        if self._state != "active":
            raise RuntimeError(
                f"GcManager.{name}() is for inside its block, and this manager is {self._state}"
            )
        is_alone = self._collects.compare_exchange(False, True)
        self._pacer.told(True)
        try:
            yield is_alone
        finally:
            self._pacer.told(False)
            if is_alone:
                self._collects.store(False)
                if _active.load() is not self:  # left meanwhile, by another thread
                    self._unfreeze()

    def _freeze(self) -> int:
        """Collect, freeze what is left, and count that."""
        began = time.perf_counter()
        unreachable = gc.collect()
        took = time.perf_counter() - began
        self._froze = True  # first: to unfreeze what is not frozen does no harm
        gc.freeze()
        self._live = gc.get_freeze_count()
        self._pacer.frozen(self._live, self._live, took)
        return unreachable

    def _unfreeze(self) -> None:
        """Undo `_freeze`, unless somebody had frozen objects before: there is no telling those apart."""
        if self._froze and not self._found_frozen:
            gc.unfreeze()
            self._pacer.frozen(self._live, 0, None)

    def __repr__(self) -> str:
        count = self._pacer.pauses()[0]
        state = f"{self._state}, {self._collector} collector, {count} pauses"
        return f"<penstock.GcManager at {id(self):#x}: {state}>"

    def __reduce__(self) -> str:
        raise TypeError("a GcManager cannot be pickled or copied: it manages the collector of this process")


def manage_gc(policy: GcPolicy | None = None) -> GcManager:
    """Manage the interpreter's garbage collector for the length of a ``with`` block.

    On entering, everything that is unreachable is collected and everything else frozen (`GcPolicy.freeze`):
    enter it when the program's warm-up is over. Inside, whenever the runtime has nothing to do and a
    collection fits into the time until it has, by what it has learned of both, it collects. While the program
    is busy the collector looks at what is new in slices that stay within `GcPolicy.pause_budget`. What
    outlives those is looked at again once it has grown past `GcPolicy.growth`. That bound does not depend on
    the runtime: plain threads and asyncio loops, which have no idle windows of ours, are served by it and by
    the slices.

    Leaving restores the collector's thresholds and callbacks, also after an error, and unfreezes; where
    objects were frozen before, everything stays frozen, because the interpreter cannot tell them apart.
    Thresholds that the block has set itself stay, and are left alone from then on. A collector that is turned
    off on entering stays off, and is left alone but for `GcManager.collect` and `GcManager.freeze`.

    What this can do depends on the interpreter. Up to CPython 3.13 and from 3.14.5 on, all of the above.
    3.14.0 to 3.14.4 collect in increments and pace themselves: there it freezes, and uses idle windows. A
    free-threaded build looks at the whole heap in each collection, with all threads stopped: there are no
    slices, idle windows are used where they are long enough for that, and the growth bound makes collections
    fewer but no shorter.

    Raises:
        RuntimeError: on entering: another block is active, in whichever thread. The collector is the
        process's.

    >>> import penstock
    >>> with penstock.manage_gc(penstock.GcPolicy(pause_budget=0.002)) as manager:
    ...     answer = penstock.go(sum, [1, 2, 3]).result()
    >>> manager
    <penstock.GcManager at ...: left, ... collector, ... pauses>
    """
    if policy is None:
        policy = GcPolicy()
    given: object = policy
    if not isinstance(given, GcPolicy):
        raise TypeError(f"policy must be None or a GcPolicy, not {given!r}")
    return GcManager(policy)


_active = AtomicRef[GcManager | None](None)
"""The manager whose block is entered."""


def _entered_child() -> None:
    manager = _active.load()
    if manager is not None:
        manager._collects.store(False)
        manager._pacer.begin_in_child()


os.register_at_fork(after_in_child=_entered_child)


def _is_free_threaded() -> bool:
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def _collector(version: tuple[int, int, int], is_free_threaded: bool) -> str:
    """How the collector of that interpreter works."""
    if is_free_threaded:
        return "whole-heap"
    if (3, 14, 0) <= version < (3, 14, 5):
        return "incremental"
    return "generational"
