"""The command line: ``penstock bench``, ``memviz``, ``run``, ``topology`` and ``--version``.

``run`` gives a program the shape of a Go program: the file is executed as a module, then its ``main()`` runs
as the first task. The main thread only waits for it, so that Ctrl-C is always seen.

Every way to end has one status: 0 for success, what ``SystemExit`` says, 1 for an exception, 2 for a command
line or a file that cannot be run, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import io
import os
import platform
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import penstock
from penstock import _core, topology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

__all__ = ["main"]

MODULE = "__penstock__"
"""The ``__name__`` that a program run by ``penstock run`` has."""

FAILED = 1
USAGE = 2
INTERRUPTED = 128 + 2  # as shells report a process that SIGINT ended


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in ``argv`` (by default the process's own) and returns its exit status."""
    args = sys.argv[1:] if argv is None else list(argv)
    try:
        if args[:1] == ["bench"]:
            # Its options are its own, and read late: no other command waits for the import.
            from penstock.bench import command

            return command.main(args[1:])
        return _dispatch(args)
    except KeyboardInterrupt:
        return INTERRUPTED


def _dispatch(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="penstock", description="A concurrency runtime for Python.")
    parser.add_argument("--version", action="store_true", help="print the version and how this build runs")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("bench", help="measure penstock beside its peers, in one run")
    run = commands.add_parser(
        "run",
        help="run the main() of a program as the first task",
        description="Executes FILE, then runs its main() as a task and waits for it.",
    )
    run.add_argument("file", metavar="FILE", help="a Python file with a function main()")
    run.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER, help="its sys.argv[1:]")
    commands.add_parser("topology", help="show nodes, CPUs, distances, and where workers are placed")
    memviz = commands.add_parser(
        "memviz",
        help="draw a map of a demo program's buffers",
        description="Runs a small program with buffers of many sizes, then writes a map of its pool.",
    )
    memviz.add_argument(
        "-o",
        "--output",
        metavar="FILE.svg",
        required=True,
        help="where the map goes; its figures go beside it, as FILE.json",
    )
    options = parser.parse_args(args)

    if options.version:
        print(_version())
        return 0
    if options.command is None:
        parser.error("expected a command: bench, memviz, run or topology")
    if options.command == "topology":
        print(topology.describe())
        return 0
    if options.command == "memviz":
        return _memviz(memviz, options.output)
    return _run(run, options.file, options.args)


def _version() -> str:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    workers = penstock.default_runtime().stats().workers
    nodes = len(penstock.Topology.detect().nodes)
    facts = [
        f"{platform.python_implementation()} {platform.python_version()}",
        f"GIL {'on' if gil else 'off'}",
        f"{_core.build_profile()} build",
        f"{workers} {_plural('worker', workers)}",
        f"{nodes} {_plural('node', nodes)}",
    ]
    return f"penstock {_core.__version__} ({', '.join(facts)})"


def _run(parser: argparse.ArgumentParser, file: str, args: list[str]) -> int:
    path = os.path.abspath(file)  # noqa: PTH100 - as Python makes `__file__`: absolute, with links left in place
    try:
        with io.open_code(path) as opened:
            source = opened.read()
    except OSError as error:
        parser.error(f"cannot read {file!r}: {error.strerror}")

    module = ModuleType(MODULE)
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader(MODULE, path)
    # Whoever looks a class up by its module's name has to find it: pickle, dataclasses, inspect, typing.
    sys.modules[MODULE] = module
    sys.argv = [file, *args]
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        # The name of this module's own future import must not reach the program: dont_inherit.
        code = compile(source, path, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - running the program is what the command is for
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - also SystemExit, which sets the status
        return _report(error)

    function = getattr(module, "main", None)
    if not callable(function):
        what = "defines no main()" if function is None else f"has a main that is not callable: {function!r}"
        parser.error(f"{file!r} {what}; define `def main():` or `async def main():`, without arguments")

    started = time.perf_counter()
    failure, interrupted = _wait_for_main(function)
    status = 0 if failure is None else _report(failure)
    _summarise(time.perf_counter() - started)
    return INTERRUPTED if interrupted else status


def _memviz(parser: argparse.ArgumentParser, path: str) -> int:
    from penstock._memviz import demo

    try:
        with demo.running(penstock.buffers) as kept:
            penstock.memviz(path)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write {path!r}: {error.strerror}")
    beside = os.path.splitext(path)[0] + ".json"  # noqa: PTH122 - as `memviz` names it
    print(f"{path}: the {kept:,} buffers that a demo program holds; the figures are in {beside}")
    return 0


def _wait_for_main(function: Callable[[], object]) -> tuple[BaseException | None, bool]:
    """Runs ``function`` as a task; returns what it failed with, and whether Ctrl-C cancelled it."""
    # A Ctrl-C that comes before the wait is held back until there is a task that it can cancel.
    held: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    task = penstock.go(function)
    waiting = interrupted = False
    while True:
        try:
            if not waiting:
                waiting = True
                signal.signal(signal.SIGINT, signal.default_int_handler if usual is None else usual)
                for number in held:
                    signal.raise_signal(number)
            return task.exception(), interrupted
        except penstock.Cancelled as cancelled:
            return (None if interrupted else cancelled), interrupted
        except KeyboardInterrupt:
            # Raised by the wait: what the task itself raised is returned above. The second one leaves at
            # once, because the interpreter waits for no task when it exits.
            if interrupted:
                raise
            interrupted = True
            task.cancel()


def _report(error: BaseException) -> int:
    """Prints how the program failed, as Python would, and returns the exit status."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return FAILED
    _hide_our_frames(error)
    sys.excepthook(type(error), error, error.__traceback__)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def _hide_our_frames(error: BaseException) -> None:
    """Takes this package's frames out of the traceback of ``error`` and of all it refers to.

    They stand first (what executes the program) and last (a call into the package that failed), and say
    nothing about the program in either place.
    """
    ours = tuple(os.path.join(folder, "") for folder in penstock.__path__)  # noqa: PTH118 - a prefix, not a path
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        pending += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions  # pyright: ignore[reportUnknownMemberType] - a group of anything
        kept: TracebackType | None = None
        for entry in reversed(list(_entries(current.__traceback__))):
            if not entry.tb_frame.f_code.co_filename.startswith(ours):
                entry.tb_next = kept
                kept = entry
        current.__traceback__ = kept


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _summarise(seconds: float) -> None:
    """Prints the one line that ``run`` ends with, where it is not in the way of the program's output."""
    stats = penstock.default_runtime().stats()
    print(
        f"penstock: {stats.tasks_started:,} tasks, {stats.parks:,} parks, {stats.steals:,} steals "
        f"on {stats.workers:,} {_plural('worker', stats.workers)} in {seconds:.3f} s",
        file=sys.stderr,
    )


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
