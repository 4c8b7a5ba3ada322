"""What several questions need of one peer."""

from __future__ import annotations

from functools import cache
from typing import Any

from . import library


@cache
def tonio_runtime() -> Any:
    """The one runtime that TonIO allows in a process."""
    return library("tonio").runtime(threads=2)
