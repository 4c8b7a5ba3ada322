"""CPython's own tests of the locks of `threading`, as they come, on penstock's.

    python tests/cpython/locks.py [FOLDER_WITH_MORE_TESTS]

Where a timeout expires ours raise and theirs answer False; small classes translate that, and their -1 for no timeout, and
no more. Not collected by pytest: `tests/test_lock.py` runs it.
"""

from __future__ import annotations

import importlib
import sys
import unittest
from collections.abc import Callable, Iterator
from typing import Any

import penstock
import test  # type: ignore[import-not-found] # CPython's, which no checker knows

NO_OWNER = "theirs may be released by any thread, ours by its owner only"
PRIVATE = "it looks at what is private to CPython's class"
NOT_THERE = "it uses an RLock, which penstock has none of, as the lock of the condition"

REPR = "it wants the words of CPython's repr"

DOES_NOT_APPLY = {
    "LockTests.test_reacquire": NO_OWNER,
    "LockTests.test_different_thread": NO_OWNER,
    "LockTests.test_timeout": "it wants 1e100 s refused, which to ours is longer than anyone will wait",
    "LockTests.test_at_fork_reinit": PRIVATE,
    "LockTests.test_repr": REPR,
    "LockTests.test_locked_repr": REPR,
    "EventTests.test_at_fork_reinit": PRIVATE,
    "EventTests.test_repr": REPR,
    "ConditionTests.test_acquire": NOT_THERE,
    "SemaphoreTests.test_repr": REPR,
    "BarrierTests.test_repr": REPR,
}


def or_false(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except TimeoutError:
        return False


class Acquires:
    """What Lock and Semaphore have in common."""

    _make: Callable[..., Any]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._ours = self._make(*arguments, **keywords)

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if timeout == -1:
            timeout = None
        acquired: bool = or_false(self._ours.acquire, blocking, timeout)
        return acquired

    def __enter__(self) -> Any:
        return self._ours.__enter__()

    def __exit__(self, *error: object) -> None:
        self._ours.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)


class Lock(Acquires):
    _make = penstock.Lock


class Semaphore(Acquires):
    _make = penstock.Semaphore


class Event:
    def __init__(self) -> None:
        self._ours = penstock.Event()

    def wait(self, timeout: float | None = None) -> bool:
        waited: bool = or_false(self._ours.wait, timeout)
        return waited

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)


class Condition(penstock.Condition):
    def wait(self, timeout: float | None = None) -> Any:
        return or_false(super().wait, timeout)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        try:
            return super().wait_for(predicate, timeout)
        except TimeoutError:
            return predicate()


TYPES = {
    "LockTests": ("locktype", Lock),
    "EventTests": ("eventtype", Event),
    "ConditionTests": ("condtype", Condition),
    "SemaphoreTests": ("semtype", Semaphore),
    "BarrierTests": ("barriertype", penstock.Barrier),
}


def cases() -> Iterator[unittest.TestCase]:
    theirs = importlib.import_module("test.lock_tests")
    for name, (attribute, ours) in TYPES.items():
        make = staticmethod(ours)
        case = type(name, (getattr(theirs, name), unittest.TestCase), {attribute: make})
        for test_name in unittest.TestLoader().getTestCaseNames(case):
            if f"{name}.{test_name}" not in DOES_NOT_APPLY:
                yield case(test_name)


def main() -> None:
    test.__path__ += sys.argv[1:]
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(cases()))
    print(f"\n{result.testsRun - len(result.skipped)} ran, {len(result.skipped)} skipped")
    raise SystemExit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
