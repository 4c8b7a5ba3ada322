"""The work that is measured: a file for each question, a function for each side that answers it.

A function takes a count and returns what so many operations took: nanoseconds, its loop included, or bytes.
What it needs is made before its clock starts, on every side alike; a result that is wrong raises. A module's
``SIDES`` says which side answers which row with what.

Nothing here imports penstock, or another library, before it is called: a side's process holds its own library
and no other. ``serve.py`` reads this folder as a package of its own for that, and asv's benchmarks may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

__all__ = ["MODULES", "Sides", "Work", "library"]

MODULES = (
    "atomic",
    "buffer",
    "channel",
    "lateness",
    "lock",
    "loops",
    "many",
    "parked",
    "pingpong",
    "pipeline",
    "selects",
    "sleepers",
    "task",
    "workers",
)
"""Every module of this package that has ``SIDES``."""

Work: TypeAlias = Callable[[int], float | Mapping[str, float]]
"""What so many operations took: nanoseconds or bytes. By part, where one answer has several figures."""

Sides: TypeAlias = Mapping[str, Mapping[str, Work]]
"""By side, then by row."""


def library(name: str) -> Any:
    """A module by its name. Peers ship types or none, and need not be there: here nobody looks at them."""
    return import_module(name)
