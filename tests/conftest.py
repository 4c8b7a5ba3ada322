"""What the whole suite shares: waiting for a state, ordinary threads, and programs in a process of their own.

No test sleeps in order to wait for another thread. It waits for the state it needs with ``wait_until``, under a
limit so generous that only a hang reaches it. Anything that ends an interpreter, forks one or sends it signals runs
through ``run_program``, so that a crash is a failed test and not the end of the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

PRELUDE = textwrap.dedent(
    '''
    import faulthandler, os, sys, threading, time
    faulthandler.enable()

    def wait_until(condition, limit=30.0):
        """Returns once `condition()` is true; for ordinary threads, because it blocks the thread it polls from."""
        deadline = time.monotonic() + limit
        pause = threading.Event()
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("not reached within %s s: line %s" % (limit, sys._getframe(1).f_lineno))
            pause.wait(0.001)

    def interrupt_next_thread_start(order):
        """Has the next `Thread.start()` raise `KeyboardInterrupt`, "before" it starts the thread or "after"."""
        start = threading.Thread.start
        def interrupted(thread):
            threading.Thread.start = start
            if order == "after":
                start(thread)
            raise KeyboardInterrupt
        threading.Thread.start = interrupted
    '''
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "thread_unsafe(reason): cannot run on several threads at once (read by pytest-run-parallel)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    if "run_program" in getattr(item, "fixturenames", ()):
        reason = "runs a program in a process of its own: several at once would test nothing more"
        item.add_marker(pytest.mark.thread_unsafe(reason=reason))


WaitUntil = Callable[..., None]


def _wait_until(condition: Callable[[], object], *, limit: float = 30.0) -> None:
    done = threading.Event()
    for _ in range(int(limit / 0.001)):
        if condition():
            return
        done.wait(0.001)
    raise AssertionError(f"the state was not reached within {limit} s")


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """``wait_until(condition, limit=30.0)`` returns once ``condition()`` is true. Not for use inside a task."""
    return _wait_until


class Threads:
    """Ordinary threads of one test: started at once, joined at its end, their first error raised there.

    Where several threads run the test at once, each joins those that it started.
    """

    def __init__(self) -> None:
        self._threads: defaultdict[int, list[threading.Thread]] = defaultdict(list)
        self._errors: list[BaseException] = []

    def start(self, function: Callable[..., object], *args: object) -> threading.Thread:
        def run() -> None:
            try:
                function(*args)
            except BaseException as error:  # the test that owns the thread raises it
                self._errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads[threading.get_ident()].append(thread)
        thread.start()
        return thread

    def join(self, limit: float = 60.0) -> None:
        self._join(threading.get_ident(), limit)

    def join_all(self) -> None:
        for owner in list(self._threads):
            self._join(owner, 60.0)

    def _join(self, owner: int, limit: float) -> None:
        threads = self._threads.pop(owner, [])
        for thread in threads:
            thread.join(limit)
        stuck = [thread for thread in threads if thread.is_alive()]
        if self._errors:
            raise self._errors[0]
        assert not stuck, f"{len(stuck)} threads still run after {limit} s"


@pytest.fixture
def threads() -> Iterator[Threads]:
    group = Threads()
    yield group
    group.join_all()


@dataclass(frozen=True)
class Finished:
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str


RunProgram = Callable[..., Finished]


def _run_program(
    source: str,
    *,
    env: dict[str, str] | None = None,
    returncode: int = 0,
    stdout: str | None = None,
    stderr: str | None = "",
    limit: float = 60.0,
    options: tuple[str, ...] = (),
) -> Finished:
    """Runs ``source`` with this interpreter and checks how it ends; ``None`` leaves an output to the caller.

    The program has ``wait_until``, ``interrupt_next_thread_start``, ``os``, ``sys``, ``threading`` and
    ``time`` already. A warning shows as a warning of CPython's would, on standard error, and so fails a
    program that must keep it empty.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PENSTOCK_", "COV_", "COVERAGE_"))
    }
    environment.update(env or {})
    environment.setdefault("PYTHONUNBUFFERED", "1")
    # A busy machine may make a program slow enough for the log; tests/test_debug.py looks at that.
    environment.setdefault("PENSTOCK_STALL", "60")
    try:
        ended = subprocess.run(
            [sys.executable, *options, "-c", PRELUDE + textwrap.dedent(source)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"the program hung for {limit} s; stdout: {hung.stdout!r}; stderr: {hung.stderr!r}")
    shown = f"status {ended.returncode}\n--- stdout\n{ended.stdout}\n--- stderr\n{ended.stderr}"
    assert ended.returncode == returncode, shown
    if stdout is not None:
        assert ended.stdout == stdout, shown
    if stderr is not None:
        assert ended.stderr == stderr, shown
    return Finished(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="session")
def run_program() -> RunProgram:
    """``run_program(source, env=, returncode=0, stdout=, stderr="", limit=60.0)``; see ``_run_program``."""
    return _run_program


def _wait_for_waiters(waited_on: object, count: int) -> None:
    wanted = f"{count} waiting>" if count else ""

    def reached() -> bool:
        shown = repr(waited_on)
        return shown.endswith(wanted) if wanted else "waiting" not in shown

    _wait_until(reached)


@pytest.fixture(scope="session")
def wait_for_waiters() -> Callable[[object, int], None]:
    """``wait_for_waiters(lock, 2)`` returns once two wait on it, by its repr. Not for use inside a task."""
    return _wait_for_waiters
