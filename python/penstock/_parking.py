"""Whether plain tasks can park as fibers in this interpreter: tried out once, when a runtime starts.

The test parks without a runtime: a scratch greenlet stands for the task, and `_leave_for` does what a park
does, by the same functions (hold what only the stack refers to, leave it, release on return). Both sides
switch through it, so both directions are tried. No part of the caller's stack is moved, because the scratch
greenlet starts above it: so a runtime may also start inside a collection or an import.

Without the GIL, a parked stack has to count its references to functions and classes, or a collection takes
them from under it. That is not tried by a collection: one would walk the whole heap of the program, for
seconds where that is large, and in the program's first call of ``go``. It is not needed either: on these
builds nothing but the collector frees an object of that kind, and the collector spares what has more
references than it finds in other objects. So the test is whether the count goes up while the stack is
parked. A class's count is partly in a table of the thread that no function of Python's shows; the bindings
write and read that table only in the very release whose headers they were compiled with, and count on the
object itself elsewhere.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType
from typing import Any

import greenlet  # type: ignore[import-untyped,unused-ignore] # its stubs are a package of their own

from penstock import _core

PARKS = 3
"""How often the sort parks: once per key."""


@functools.cache  # also for the runtime of a forked child; what is raised is not kept
def obstacle() -> str | None:
    """Why a stack that is left behind does not come back as it was; ``None`` where it does.

    Raises:
        MemoryError, RecursionError: there was no room to find out. The next call tries again.
    """
    for check in (_frames, _gil, _sort, _redefinition):
        try:
            found = check()
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever comes out of a stack that was left, it did not work
            found = f"a park in the self-test raised {error!r}"
        if found is not None:
            return found
    return None


def _frames() -> str | None:
    if not _core._frames_match():
        return "frames are laid out otherwise in this release than in the one that penstock was compiled for"
    return None


def _gil() -> str | None:
    if "t" in sys.abiflags and sys._is_gil_enabled():  # type: ignore[attr-defined,unused-ignore]
        return (
            "the GIL of this free-threaded interpreter is on: an extension module or PYTHON_GIL turned it on"
        )
    return None


def _sort() -> str | None:
    """Parks below C frames: in the key function of a sort."""
    back = greenlet.getcurrent()
    came_out: list[int] = []

    def key(value: int) -> int:
        _core._leave_for(back)
        return -value

    def body() -> None:
        came_out.extend(sorted(range(PARKS), key=key))

    task = greenlet.greenlet(body)
    for _ in range(1 + PARKS):
        _core._leave_for(task)
    if came_out != list(reversed(range(PARKS))):
        return f"a park in the key function of a sort made the order {came_out}"
    return None


def _redefinition() -> str | None:
    """Defines anew what a parked stack is about to call."""
    # A copy, because its references are counted. A nested function would not do: only those of a module have
    # the kind of count that a stack does without.
    function = FunctionType(_target.__code__, {})
    for target in (function, type("target", (), {"__new__": _target})):
        kind = type(target).__name__
        came_out: list[object] = []
        names: dict[str, Any] = {
            "target": target,
            "leave": _core._leave_for,
            "back": greenlet.getcurrent(),
            "came_out": came_out,
        }
        task = greenlet.greenlet(FunctionType(_body.__code__, names))
        unparked = _core._references_to(target)
        _core._leave_for(task)
        names["target"] = None
        # One less in `names`, one more for the stack.
        parked = _core._references_to(target)
        _core._leave_for(task)
        if came_out != [(None,)]:
            return f"a {kind} that was defined anew meanwhile did not get the call, but {came_out} came out"
        if parked < unparked:
            return f"a parked stack does not keep the {kind} that it is about to call"
        if _core._references_to(target) >= parked:
            return f"a stack keeps the {kind} that it called while it was parked"
    return None


def _target(*args: object) -> tuple[object, ...]:
    return args[-1:]


# Run with other globals, which the names below stand for.
target: Any = None
leave: Any = None
back: Any = None
came_out: Any = None


def _body() -> None:
    came_out.append(target(leave(back)))
