"""CPython's own tests of ThreadPoolExecutor, as they come, on `penstock.Executor`.

    python tests/cpython/executor.py [FOLDER_WITH_MORE_TESTS]

Our class is put in place of theirs before the tests are imported, in this process and in those they start. Not collected
by pytest: `tests/test_executor.py` runs it.
"""

from __future__ import annotations

import importlib
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from test.support import script_helper  # type: ignore[import-not-found] # CPython's, which no checker knows

IN_PLACE = """
import concurrent.futures, sys, test, penstock
test.__path__ += {folders!r}
# Of the name that the tests write, and look for in the names of threads.
class ThreadPoolExecutor(penstock.Executor): pass
concurrent.futures.ThreadPoolExecutor = ThreadPoolExecutor
"""

DOES_NOT_APPLY = {
    "test.test_concurrent_futures.ThreadPoolShutdownTest.test_cancel_futures_wait_false": (
        "in the one module of 3.11 it wants a call to begin before it is cancelled at once, which later releases know "
        "for a race of the test's own (gh-116682)"
    ),
}


def modules() -> list[str]:
    """Where the tests of a thread pool are: in a package, or up to 3.11 in one module."""
    name = "test.test_concurrent_futures"
    if not hasattr(importlib.import_module(name), "__path__"):
        return [name]
    # The others test futures by themselves, processes and interpreters.
    return [f"{name}.test_{part}" for part in ("as_completed", "init", "shutdown", "thread_pool", "wait")]


def of_thread_pools(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            yield from of_thread_pools(one)
        elif type(one).__name__.startswith("ThreadPool") and one.id() not in DOES_NOT_APPLY:
            yield one


def main() -> None:
    in_place = IN_PLACE.format(folders=sys.argv[1:])
    exec(in_place, {})
    assert_python_ok = script_helper.assert_python_ok

    def with_ours(*arguments: str, **variables: str) -> Any:
        option, source = arguments
        assert option == "-c"
        return assert_python_ok(option, in_place + source, **variables)

    script_helper.assert_python_ok = with_ours
    loader = unittest.TestLoader()
    loaded = [loader.loadTestsFromName(name) for name in modules()]
    tests = unittest.TestSuite(case for suite in loaded for case in of_thread_pools(suite))
    result = unittest.TextTestRunner(verbosity=2).run(tests)
    print(f"\n{result.testsRun - len(result.skipped)} ran, {len(result.skipped)} skipped")
    raise SystemExit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
