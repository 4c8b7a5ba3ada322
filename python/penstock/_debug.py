"""What ``PENSTOCK_DEBUG`` and ``PENSTOCK_DEADLOCK`` ask for, read once when penstock is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from penstock import _core

_ALLOWED = (
    "schedtrace=N (milliseconds, from 1), detail (with schedtrace), locks and buffers=LEVEL (off, simple, "
    "advanced or paranoid), separated by commas"
)
_LEVELS: Final = ("off", "simple", "advanced", "paranoid")


@dataclass
class _Asked:
    """What is in ``PENSTOCK_DEBUG``."""

    interval: int | None = None
    detail: bool = False
    locks: bool = False
    buffers: str | None = None


def _refusal(item: str) -> ValueError:
    return ValueError(f"PENSTOCK_DEBUG must be of {_ALLOWED}; this is in it: {item!r}")


def _asked() -> _Asked:
    asked = _Asked()
    for item in os.environ.get("PENSTOCK_DEBUG", "").split(","):
        name, _, value = item.strip().partition("=")
        if name == "schedtrace" and value.isdecimal() and 1 <= int(value) <= 86_400_000:
            asked.interval = int(value)
        elif name == "detail" and not value:
            asked.detail = True
        elif name == "locks" and not value:
            asked.locks = True
        elif name == "buffers" and value in _LEVELS:
            asked.buffers = value
        elif item:
            raise _refusal(item)
    if asked.detail and asked.interval is None:
        raise _refusal("detail")
    return asked


def watch_buffers() -> None:
    """How closely buffers are watched; before there is a pool."""
    level = _asked().buffers
    if level is not None:
        _core._watch_buffers(level)


def start() -> None:
    """Switch on or off what else the variables name."""
    deadlock = os.environ.get("PENSTOCK_DEADLOCK", "on")
    if deadlock not in ("on", "off"):
        raise ValueError(f'PENSTOCK_DEADLOCK must be "on" or "off", not {deadlock!r}')
    if deadlock == "off":
        _core._ignore_deadlocks()
    asked = _asked()
    if asked.interval is not None:
        _core._trace_schedule(asked.interval, asked.detail)
    if asked.locks:
        from penstock import _locks

        _locks.watch()
